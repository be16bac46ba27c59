//! The outage brake: while nearly every attempt fails in a way that may pass, events wait and a few are tried, instead
//! of all of them using up their attempts.
//!
//! It comes on when [`FAILED_MIN`] of the last [`SAMPLE`] attempts have failed so. Then one attempt is made at a time,
//! after a pause that grows with each that fails. Each that succeeds lets one more be made at once, so that their
//! number doubles from round to round; each that fails halves it.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Start, Verdict};
use crate::attempt::Attempt;
use crate::history::millis;
use crate::manifest::RetryPolicy;
use crate::retry;

/// How many attempts are looked back on.
pub const SAMPLE: usize = 20;
/// How many of these must have failed for the brake to come on.
pub const FAILED_MIN: usize = 18;
/// The shortest and the longest pause between probes; in between, they are those of the retry policy.
pub const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_mins(1));
/// How many attempts at once must have become possible for the brake to come off, at least.
const WIDTH_MIN: u32 = 4;

/// The attempts of one handler in one process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Brake {
    /// Of the latest attempts, whether each failed; only those that tell.
    recent: VecDeque<bool>,
    running: u32,
    hold: Option<Hold>,
}

/// The brake is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// How many attempts may be made at once.
    pub width: u32,
    /// How many probes in a row have failed.
    pub failures: u32,
    /// When the next may begin, in milliseconds since the Unix epoch.
    pub next_ms: u64,
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The brake has come on.
    On,
    /// It is off again, after this time.
    Off(Duration),
}

impl Brake {
    /// The brake, where it is on.
    pub fn hold(&self) -> Option<&Hold> {
        self.hold.as_ref()
    }

    /// When the next attempt may begin.
    pub fn next(&self, now_ms: u64) -> Start {
        match &self.hold {
            Some(hold) if self.running >= hold.width => Start::Later,
            Some(hold) if now_ms < hold.next_ms => Start::At(hold.next_ms),
            Some(_) | None => Start::Now,
        }
    }

    /// An attempt has begun.
    pub fn began(&mut self) {
        self.running = self.running.saturating_add(1);
    }

    /// An attempt has ended, with no verdict where it was cut off.
    pub fn ended(
        &mut self,
        retry: &RetryPolicy,
        concurrency: u32,
        verdict: Option<Verdict>,
        now_ms: u64,
    ) -> Option<Change> {
        self.running = self.running.saturating_sub(1);
        let failed = match verdict? {
            Verdict::Works => false,
            Verdict::Transient => true,
            // The event may be why: that tells nothing about what the handler depends on.
            Verdict::Refused | Verdict::Broken => return None,
        };
        let Some(hold) = &mut self.hold else { return self.look_back(retry, failed, now_ms) };
        if failed {
            hold.width = (hold.width / 2).max(1);
            if now_ms >= hold.next_ms {
                hold.failures = hold.failures.saturating_add(1);
                hold.next_ms = now_ms.saturating_add(pause_ms(retry, hold.failures));
            }
            return None;
        }
        hold.failures = 0;
        hold.next_ms = now_ms;
        hold.width = hold.width.saturating_add(1);
        if hold.width < concurrency.max(WIDTH_MIN) {
            return None;
        }
        let lasted = Duration::from_millis(now_ms.saturating_sub(hold.since_ms));
        (self.hold, self.recent) = (None, VecDeque::new());
        Some(Change::Off(lasted))
    }

    fn look_back(&mut self, retry: &RetryPolicy, failed: bool, now_ms: u64) -> Option<Change> {
        self.recent.push_back(failed);
        if self.recent.len() > SAMPLE {
            self.recent.pop_front();
        }
        if self.recent.iter().filter(|failed| **failed).count() < FAILED_MIN {
            return None;
        }
        let next_ms = now_ms.saturating_add(pause_ms(retry, 1));
        self.hold = Some(Hold { since_ms: now_ms, width: 1, failures: 1, next_ms });
        Some(Change::On)
    }
}

/// The pause after this many probes have failed in a row.
fn pause_ms(retry: &RetryPolicy, failures: u32) -> u64 {
    let pause = Attempt::new(failures).map_or(Duration::ZERO, |failed| retry::backoff(retry, failed));
    millis(pause.clamp(PAUSES.0, PAUSES.1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arrival::fixtures::handler;

    fn policy() -> RetryPolicy {
        handler().retry
    }

    fn attempt(brake: &mut Brake, verdict: Verdict, now_ms: u64) -> Option<Change> {
        brake.began();
        brake.ended(&policy(), 16, Some(verdict), now_ms)
    }

    fn engaged(now_ms: u64) -> Brake {
        let mut brake = Brake::default();
        while brake.hold().is_none() {
            attempt(&mut brake, Verdict::Transient, now_ms);
        }
        brake
    }

    #[test]
    fn it_comes_on_when_nearly_all_fail_in_a_way_that_may_pass() {
        let rows: [(&[Verdict], bool); 5] = [
            (&[Verdict::Transient], true),
            (&[Verdict::Transient, Verdict::Transient, Verdict::Transient, Verdict::Works], false),
            (&[Verdict::Broken], false),
            (&[Verdict::Refused], false),
            (&[Verdict::Transient, Verdict::Refused], true),
        ];
        for (verdicts, expected) in rows {
            let mut brake = Brake::default();
            for verdict in verdicts.iter().cycle().take(SAMPLE * 2) {
                attempt(&mut brake, *verdict, 0);
            }
            assert_eq!(brake.hold().is_some(), expected, "{verdicts:?}");
        }
        let mut brake = Brake::default();
        for _ in 1..FAILED_MIN {
            assert_eq!(attempt(&mut brake, Verdict::Transient, 0), None);
        }
        assert_eq!(attempt(&mut brake, Verdict::Transient, 0), Some(Change::On));
    }

    #[test]
    fn probes_are_made_one_at_a_time_and_their_pauses_grow_to_a_limit() {
        let mut brake = engaged(1_000);
        let (mut now_ms, mut pauses) = (1_000, Vec::new());
        for _ in 0..12 {
            let Start::At(next_ms) = brake.next(now_ms) else { panic!("{brake:?}") };
            pauses.push(next_ms - now_ms);
            now_ms = next_ms;
            assert_eq!(brake.next(now_ms), Start::Now);
            brake.began();
            assert_eq!(brake.next(now_ms), Start::Later);
            brake.ended(&policy(), 16, Some(Verdict::Transient), now_ms);
        }
        assert!(pauses.is_sorted() && pauses[0] >= 100 && pauses[11] <= 60_000, "{pauses:?}");
    }

    #[test]
    fn it_comes_off_step_by_step() {
        let mut brake = engaged(0);
        let (now_ms, mut rounds) = (1_000_000, Vec::new());
        while brake.hold().is_some() {
            let mut begun = 0;
            while brake.next(now_ms) == Start::Now {
                brake.began();
                begun += 1;
            }
            rounds.push(begun);
            for _ in 0..begun {
                brake.ended(&policy(), 16, Some(Verdict::Works), now_ms);
            }
        }
        assert_eq!(rounds, [1, 2, 4, 8]);
        assert_eq!(brake.next(now_ms), Start::Now);
    }

    proptest! {
        #[test]
        fn it_is_never_stuck_and_never_wider_than_it_says(
            steps in proptest::collection::vec((0u8..6, 0u64..5_000), 1..400),
            concurrency in 1u32..64,
        ) {
            let (mut brake, mut now_ms, mut running) = (Brake::default(), 0u64, 0u32);
            for (step, pause) in steps {
                now_ms += pause;
                let may = brake.next(now_ms);
                if may == Start::Now && running < concurrency && step < 3 {
                    prop_assert!(brake.hold().is_none_or(|hold| running < hold.width));
                    brake.began();
                    running += 1;
                } else if running > 0 {
                    let verdicts = [Some(Verdict::Works), Some(Verdict::Transient), Some(Verdict::Transient), None];
                    brake.ended(&policy(), concurrency, verdicts[usize::from(step % 4)], now_ms);
                    running -= 1;
                }
            }
            while running > 0 {
                brake.ended(&policy(), concurrency, None, now_ms);
                running -= 1;
            }
            // Whatever happened: with nothing running, an attempt may begin after the longest pause at the latest.
            prop_assert_eq!(brake.next(now_ms + millis(PAUSES.1)), Start::Now);
            // And when all succeed from then on, it is off after no more than twice as many as may run at once.
            let mut successes = 0;
            while brake.hold().is_some() {
                attempt(&mut brake, Verdict::Works, now_ms + millis(PAUSES.1));
                successes += 1;
                prop_assert!(successes <= 64);
            }
        }
    }
}
