//! Which events go to a new version while only a share of them does.

use crate::id;

/// Whether the event with this id goes to the new version, where that gets such a share of all events, from 0 to 1.
///
/// The id alone decides, by its SHA-256 and in the same way in every release: all attempts of an event meet the same
/// version, on every instance. An event that goes there at one share also goes there at every larger one, so that
/// raising the share takes no event away from the new version.
pub fn takes(id: &str, share: f64) -> bool {
    share >= 1.0 || id::lot(id) < share
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_choice_is_the_same_in_every_release() {
        let taken: Vec<_> =
            ["e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8"].into_iter().filter(|id| takes(id, 0.5)).collect();
        assert_eq!(taken, ["e1", "e3", "e5", "e6", "e8"]);
    }

    proptest! {
        #[test]
        fn about_the_share_is_taken(prefix in "[a-z:@-]{0,12}", share in 0.0..=1.0_f64) {
            const EVENTS: u32 = 4000;
            let taken = (0..EVENTS).filter(|number| takes(&format!("{prefix}{number}"), share)).count();
            let taken = f64::from(u32::try_from(taken).expect("a count up to 4000"));
            // Five standard deviations of what chance would give, at most.
            let deviation = (f64::from(EVENTS) * share * (1.0 - share)).sqrt();
            let expected = f64::from(EVENTS) * share;
            prop_assert!((taken - expected).abs() <= 5.0 * deviation + 2.0, "{taken} of {EVENTS} at {share}");
        }

        #[test]
        fn what_is_taken_stays_taken_when_the_share_grows(id in ".*", one in 0.0..=1.0_f64, other in 0.0..=1.0_f64) {
            let (less, more) = (one.min(other), one.max(other));
            prop_assert!(!takes(&id, less) || takes(&id, more));
        }

        #[test]
        fn all_or_nothing(id in ".*") {
            prop_assert!(takes(&id, 1.0));
            prop_assert!(!takes(&id, 0.0));
        }
    }
}
