//! Whether a new version is kept or gone back from, by how many attempts fail.

use std::time::Duration;

use crate::manifest::{Reload, show_duration};

/// How many times the failure ratio of the version before the new one's must be, for the new version to be to blame.
///
/// What both depend on may fail: then the version before fails as well, and going back would help nobody. So the two are
/// compared, as in canary analysis, instead of the new one's ratio being looked at alone. The factor is above 1, so that
/// chance among a few dozen attempts is not taken for a difference. A version that fails in more than two of three
/// attempts can have no successor that is markedly worse.
const MARKEDLY: f64 = 1.5;

/// What came of the attempts of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many attempts have ended.
    pub attempts: u64,
    /// How many of them have failed; at most `attempts`.
    pub failures: u64,
}

impl Tally {
    /// The share of attempts that failed, from 0 to 1; 0 where there was none.
    #[allow(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
    pub fn failure_ratio(self) -> f64 {
        if self.attempts == 0 { 0.0 } else { self.failures.min(self.attempts) as f64 / self.attempts as f64 }
    }
}

/// What becomes of a new version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is watched on.
    Wait,
    /// It is kept.
    Keep,
    /// The version before takes its place again.
    GoBack {
        /// Why, for people.
        why: String,
    },
}

/// Judges a new version, `elapsed` after it got its first event, by its attempts and by those of the version before.
///
/// It goes back only where its failure ratio is markedly above that of the version before: with `min_events` attempts at
/// once when the ratio has reached `max_failure_ratio`, with fewer when the guard time is over and all of them failed.
/// Else it is kept when the guard time is over.
pub fn verdict(policy: &Reload, old: Tally, new: Tally, elapsed: Duration) -> Verdict {
    let Some(guard) = policy.guard else { return Verdict::Keep };
    let is_over = elapsed >= guard;
    let ratio = new.failure_ratio();
    let is_worse = ratio >= MARKEDLY * old.failure_ratio();
    let is_enough = new.attempts >= u64::from(policy.min_events);
    if is_worse && is_enough && ratio >= policy.max_failure_ratio {
        let why = format!(
            "{} failed ({}), {}; from {} on it goes back",
            of(new),
            percent(ratio),
            before(old),
            percent(policy.max_failure_ratio),
        );
        return Verdict::GoBack { why };
    }
    if is_over && is_worse && new.attempts > 0 && new.failures >= new.attempts {
        let why = format!("{} failed within {}, {}", of(new), show_duration(guard), before(old));
        return Verdict::GoBack { why };
    }
    if is_over { Verdict::Keep } else { Verdict::Wait }
}

fn of(Tally { attempts, failures }: Tally) -> String {
    let noun = if attempts == 1 { "attempt" } else { "attempts" };
    format!("{failures} of {attempts} {noun}")
}

fn before(old: Tally) -> String {
    match old.attempts {
        0 => "the version before had none to compare with".to_owned(),
        _ => format!("of the version before {} ({})", of(old), percent(old.failure_ratio())),
    }
}

fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    if percent.fract().abs() < 0.05 { format!("{percent:.0} %") } else { format!("{percent:.1} %") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arrival::fixtures::handler;

    const GUARD: Duration = Duration::from_secs(30);

    /// 20 attempts at least, half of them failed at most, within 30 s.
    fn policy() -> Reload {
        handler().reload
    }

    fn tally((failures, attempts): (u64, u64)) -> Tally {
        Tally { attempts, failures }
    }

    fn goes_back(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::GoBack { .. })
    }

    #[test]
    fn what_fails_more_often_than_before_goes_back() {
        // (failures, attempts) of the old version and of the new one; after how many seconds; what follows.
        let rows = [
            ((0, 0), (0, 0), 0, "wait"),
            ((0, 0), (0, 0), 30, "keep"),
            ((0, 100), (10, 20), 1, "back"),
            ((0, 100), (9, 20), 1, "wait"),
            ((0, 100), (9, 20), 30, "keep"),
            ((0, 100), (19, 19), 29, "wait"),
            ((0, 100), (19, 19), 30, "back"),
            ((0, 100), (18, 19), 30, "keep"),
            ((0, 0), (1, 1), 30, "back"),
            ((5, 5), (1, 1), 30, "keep"),
            ((4, 5), (1, 1), 30, "keep"),
            ((3, 5), (1, 1), 30, "back"),
            ((50, 100), (60, 100), 1, "wait"),
            ((50, 100), (75, 100), 1, "back"),
            ((70, 100), (100, 100), 30, "keep"),
            ((0, 0), (20, 20), 0, "back"),
            ((0, 0), (500, 1000), 31, "back"),
        ];
        for (old, new, seconds, expected) in rows {
            let verdict = verdict(&policy(), tally(old), tally(new), Duration::from_secs(seconds));
            let named = match verdict {
                Verdict::Wait => "wait",
                Verdict::Keep => "keep",
                Verdict::GoBack { .. } => "back",
            };
            assert_eq!(named, expected, "{old:?} {new:?} after {seconds} s");
        }
    }

    #[test]
    fn the_reason_tells_the_numbers() {
        let why = |old, new| match verdict(&policy(), tally(old), tally(new), GUARD) {
            Verdict::GoBack { why } => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            why((1, 300), (17, 20)),
            "17 of 20 attempts failed (85 %), of the version before 1 of 300 attempts (0.3 %); from 50 % on it goes back"
        );
        assert_eq!(
            why((0, 0), (1, 1)),
            "1 of 1 attempt failed within 30s, the version before had none to compare with"
        );
    }

    #[test]
    fn without_a_guard_all_is_kept() {
        let policy = Reload { guard: None, ..policy() };
        assert_eq!(verdict(&policy, Tally::default(), tally((100, 100)), Duration::ZERO), Verdict::Keep);
    }

    fn tallies() -> impl Strategy<Value = Tally> {
        (0..200_u64).prop_flat_map(|attempts| (0..=attempts, Just(attempts)).prop_map(tally))
    }

    fn policies() -> impl Strategy<Value = Reload> {
        (0.01..=1.0, 1..100_u32).prop_map(|(max_failure_ratio, min_events)| Reload {
            max_failure_ratio,
            min_events,
            ..policy()
        })
    }

    proptest! {
        #[test]
        fn a_version_without_failures_never_goes_back(
            policy in policies(), old in tallies(), attempts in 0..1000_u64, seconds in 0..60_u64,
        ) {
            let new = Tally { attempts, failures: 0 };
            let verdict = verdict(&policy, old, new, Duration::from_secs(seconds));
            prop_assert_eq!(verdict, if seconds >= 30 { Verdict::Keep } else { Verdict::Wait });
        }

        #[test]
        fn a_version_that_is_no_worse_never_goes_back(policy in policies(), both in tallies(), seconds in 0..60_u64) {
            prop_assert!(!goes_back(&verdict(&policy, both, both, Duration::from_secs(seconds))));
        }

        #[test]
        fn nothing_waits_when_the_time_is_over(policy in policies(), old in tallies(), new in tallies()) {
            prop_assert_ne!(verdict(&policy, old, new, GUARD), Verdict::Wait);
        }

        #[test]
        fn before_the_time_is_over_nothing_is_kept_and_few_attempts_decide_nothing(
            policy in policies(), old in tallies(), new in tallies(), seconds in 0..30_u64,
        ) {
            let verdict = verdict(&policy, old, new, Duration::from_secs(seconds));
            prop_assert_ne!(&verdict, &Verdict::Keep);
            prop_assert!(new.attempts >= u64::from(policy.min_events) || verdict == Verdict::Wait);
        }

        #[test]
        fn another_failure_never_saves_a_version(policy in policies(), old in tallies(), new in tallies(), is_over: bool) {
            let elapsed = if is_over { GUARD } else { Duration::ZERO };
            let worse = Tally { attempts: new.attempts + 1, failures: new.failures + 1 };
            if goes_back(&verdict(&policy, old, new, elapsed)) {
                prop_assert!(goes_back(&verdict(&policy, old, worse, elapsed)));
            }
        }

        #[test]
        fn a_version_before_that_failed_less_is_never_a_reason_to_stay(
            policy in policies(), old in tallies(), new in tallies(), is_over: bool,
        ) {
            let elapsed = if is_over { GUARD } else { Duration::ZERO };
            let better = Tally { failures: old.failures / 2, ..old };
            if goes_back(&verdict(&policy, old, new, elapsed)) {
                prop_assert!(goes_back(&verdict(&policy, better, new, elapsed)));
            }
        }
    }
}
