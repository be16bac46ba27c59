//! Whether there are processors to spare. A thread of the lowest priority that others keep from its processor stays
//! without one for a second and longer, and so would a call in the midst of its turn.

use std::thread::{sleep, yield_now};
use std::time::Duration;

use super::priority::Waits;

/// For how long a thread may have been kept waiting, during a turn and before it, for another turn to follow: about as
/// long as the kernel lets somebody else run who goes on computing.
const PATIENCE: Duration = Duration::from_millis(4);

/// The same of a proof: less than what is left, on the average, to somebody who goes on computing.
const PATIENCE_OF_PROOF: Duration = Duration::from_millis(1);

/// How many proofs in a row it takes after that.
const PROOFS: u32 = 8;

/// For how long the thread sleeps for a proof.
const PAUSE: Duration = Duration::from_millis(1);

/// Judges for a thread whether it has a processor to itself.
pub(super) struct Spare {
    waits: Waits,
    judge: Judge,
}

impl Spare {
    /// For the calling thread.
    pub(super) fn new() -> Spare {
        Spare { waits: Waits::of_this_thread(), judge: Judge::default() }
    }

    /// Whether this thread should take another turn. If not, it has slept for a while.
    pub(super) fn has_processor(&mut self) -> bool {
        // Even one of the lowest priority may be let run on by the kernel while one waits that has just had a processor,
        // for as long as it does not give it up.
        yield_now();
        let waited = self.waits.since_last();
        if self.judge.after_turn(waited) {
            return true;
        }
        sleep(PAUSE);
        self.judge.after_pause(waited + self.waits.since_last())
    }
}

/// What is left to prove.
#[derive(Debug, Default)]
struct Judge {
    proofs_left: u32,
}

impl Judge {
    /// Whether another turn may follow one with which the thread was kept waiting for so long.
    fn after_turn(&mut self, waited: Duration) -> bool {
        if waited > PATIENCE {
            self.proofs_left = PROOFS;
        }
        self.proofs_left == 0
    }

    /// The same of a pause.
    fn after_pause(&mut self, waited: Duration) -> bool {
        self.proofs_left = if waited > PATIENCE_OF_PROOF { PROOFS } else { self.proofs_left.saturating_sub(1) };
        self.proofs_left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_WAIT: Duration = Duration::ZERO;
    const LONG_WAIT: Duration = Duration::from_millis(5);

    #[test]
    fn turns_follow_one_another_while_nobody_else_wants_the_processor() {
        let mut judge = Judge::default();
        assert!((0..100).all(|_| judge.after_turn(PATIENCE)));
    }

    #[test]
    fn a_thread_that_was_kept_waiting_takes_no_turn_until_it_has_not_been_for_a_while() {
        let mut judge = Judge::default();
        assert!(!judge.after_turn(LONG_WAIT));
        for disturbed_after in [0, PROOFS - 1] {
            assert!((0..disturbed_after).all(|_| !judge.after_turn(NO_WAIT) && !judge.after_pause(NO_WAIT)));
            assert!(!judge.after_turn(NO_WAIT) && !judge.after_pause(LONG_WAIT));
        }
        assert!((1..PROOFS).all(|_| !judge.after_turn(NO_WAIT) && !judge.after_pause(NO_WAIT)));
        assert!(judge.after_pause(NO_WAIT) && judge.after_turn(NO_WAIT));
    }
}
