//! Whether the calls of a handler compute for long, as far as its latest ones tell.

use std::sync::atomic::{AtomicU8, Ordering};

/// How many calls in a row must have seemed to be long for that to be believed: a thread that lost its processor for a
/// while makes one call seem so, and all threads may lose theirs at once.
const SEEMINGLY: u8 = 3;

/// How many of the latest calls in a row were long, at most [`SEEMINGLY`] of them.
#[derive(Debug, Default)]
pub(super) struct Habit(AtomicU8);

impl Habit {
    /// Whether the next call is to be taken for a long one.
    pub(super) fn is_long(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= SEEMINGLY
    }

    /// A call took long by the clock, perhaps because its thread had no processor for a while; or it did not.
    pub(super) fn seems(&self, long: bool) {
        if !long {
            return self.was(false);
        }
        let more = |count| (count < SEEMINGLY).then_some(count + 1);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// A call computed for long, or did not.
    pub(super) fn was(&self, long: bool) {
        let count = if long { SEEMINGLY } else { 0 };
        // It rarely changes, and what is not written stays in the caches of all processors.
        if self.0.load(Ordering::Relaxed) != count {
            self.0.store(count, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_seems_long_is_believed_only_in_a_row() {
        let habit = Habit::default();
        for _ in 0..10 {
            for _ in 1..SEEMINGLY {
                habit.seems(true);
                assert!(!habit.is_long());
            }
            habit.seems(false);
        }
        for _ in 0..300 {
            habit.seems(true);
        }
        assert!(habit.is_long());
    }

    #[test]
    fn one_that_computed_for_long_is_believed_until_one_does_not() {
        let habit = Habit::default();
        habit.was(true);
        assert!(habit.is_long());
        habit.was(false);
        assert!(!habit.is_long());
    }
}
