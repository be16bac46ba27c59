//! Whether there are processors to spare. A thread of the lowest priority that others keep from its processor stays
//! without one for a second and longer, and so would a call in the midst of its turn.

use std::thread::{sleep, yield_now};
use std::time::Duration;

use super::priority::Waits;

/// For how long a thread may have been kept waiting, during a turn and before it, for another turn to follow: about as
/// long as the kernel lets somebody else run who goes on computing.
const PATIENCE: Duration = Duration::from_millis(4);

/// The same after a sleep, when nobody should have to make room: less than what is left, on the average, to somebody who
/// goes on computing.
const PATIENCE_AFTER_SLEEP: Duration = Duration::from_millis(1);

/// How many proofs in a row it takes after that, and before the first turn: to be woken up in time may have been luck.
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
        Spare { waits: Waits::of_this_thread(), judge: Judge::new() }
    }

    /// Whether this thread should take a turn, after another one or a sleep. If not, it has slept for a while.
    pub(super) fn has_processor(&mut self, has_waited: bool) -> bool {
        // Even one of the lowest priority may be let run on by the kernel while one waits that has just had a processor,
        // for as long as it does not give it up.
        yield_now();
        let waited = self.waits.since_last();
        if self.judge.may_go_on(waited, if has_waited { PATIENCE_AFTER_SLEEP } else { PATIENCE }) {
            return true;
        }
        sleep(PAUSE);
        self.judge.proves(waited + self.waits.since_last())
    }
}

/// What is left to prove.
#[derive(Debug)]
struct Judge {
    proofs_left: u32,
}

impl Judge {
    /// Nothing is proved yet.
    fn new() -> Judge {
        Judge { proofs_left: PROOFS }
    }

    /// Whether a thread that was kept waiting for so long may go on.
    fn may_go_on(&mut self, waited: Duration, patience: Duration) -> bool {
        if waited > patience {
            self.proofs_left = PROOFS;
        }
        self.proofs_left == 0
    }

    /// The same after a pause made for a proof.
    fn proves(&mut self, waited: Duration) -> bool {
        self.proofs_left = if waited > PATIENCE_AFTER_SLEEP { PROOFS } else { self.proofs_left.saturating_sub(1) };
        self.proofs_left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_WAIT: Duration = Duration::ZERO;
    const LONG_WAIT: Duration = Duration::from_millis(5);

    /// Whether it may go on after one proof more.
    fn proved(judge: &mut Judge) -> bool {
        judge.may_go_on(NO_WAIT, PATIENCE) || judge.proves(NO_WAIT)
    }

    #[test]
    fn turns_follow_one_another_while_nobody_else_wants_the_processor() {
        let mut judge = Judge { proofs_left: 0 };
        assert!((0..100).all(|_| judge.may_go_on(PATIENCE, PATIENCE)));
    }

    #[test]
    fn a_thread_takes_no_turn_until_it_was_not_kept_waiting_for_a_while() {
        let mut judge = Judge::new();
        for _ in 0..2 {
            for proofs in [0, 1, PROOFS - 1] {
                assert!((0..proofs).all(|_| !proved(&mut judge)));
                assert!(!judge.may_go_on(NO_WAIT, PATIENCE) && !judge.proves(LONG_WAIT), "all begins anew");
            }
            assert!((1..PROOFS).all(|_| !proved(&mut judge)));
            assert!(proved(&mut judge) && judge.may_go_on(NO_WAIT, PATIENCE));
            assert!(!judge.may_go_on(LONG_WAIT, PATIENCE));
        }
    }
}
