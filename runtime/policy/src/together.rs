//! Outputs that are stored together: all at one moment, or none.
//!
//! A server refuses a batch of which it knows a message by its id, and does not say which. Usually the same batch
//! was stored before, and nothing is left to do. But a part of it may have been stored singly, when the handler's
//! outputs were not yet atomic: then the rest must follow, or it would be lost. And a handler that is not
//! deterministic may have more outputs now than when they were stored: then none may follow, or outputs of two
//! runs would be mixed. What was stored together says so in a header, which tells the two apart.

use crate::event::Headers;
use crate::headers;

/// The most messages that a server stores at one moment.
pub const BATCH_MAX: u32 = 1000;

/// Whether a stored output says that it was stored with all the others of its event.
pub fn is_of_a_whole(stored: &Headers) -> bool {
    headers::get(stored, headers::OUTPUTS).is_some()
}

/// Whether it must be looked at what is stored, because a part of the batch is known and another is not.
pub fn is_in_doubt(known: &[bool]) -> bool {
    known.contains(&true) && known.contains(&false)
}

/// Which messages of a batch are still to be stored, by their indices: `known` says which of them the server knows,
/// and `whole` whether those were stored as a whole.
pub fn rest(known: &[bool], whole: bool) -> Vec<usize> {
    if whole && known.contains(&true) {
        return Vec::new();
    }
    (0..known.len()).filter(|&index| !known[index]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_stored_twice(known: Vec<bool>, whole: bool) {
            let rest = rest(&known, whole);
            prop_assert!(rest.iter().all(|&index| !known[index]), "what is known is not stored again");
            prop_assert!(rest.is_sorted());
            let missing = known.iter().filter(|known| !**known).count();
            let runs_would_be_mixed = whole && known.contains(&true);
            prop_assert_eq!(rest.len(), if runs_would_be_mixed { 0 } else { missing });
            // Where it is not in doubt, what is stored need not be looked at.
            prop_assert!(is_in_doubt(&known) || self::rest(&known, !whole) == rest);
        }
    }

    #[test]
    fn what_was_stored_together_says_so() {
        let outputs = vec![("tidemill-outputs".to_owned(), "3".to_owned())];
        assert!(is_of_a_whole(&outputs) && !is_of_a_whole(&Vec::new()));
    }
}
