//! The circuit breaker (Nygard, "Release It!"): after too many failures no event is taken for a while; then events are
//! tried one at a time, until enough of them succeed or one fails.
//!
//! What it is in is a [`Record`] that all instances share, replaced by compare-and-set only. Failures are counted by
//! each instance for itself ([`Tally`]); whichever sees too many opens it for all.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Start;
use crate::history::millis;
use crate::manifest::{CircuitBreaker, Trigger, show_duration};

/// Into how many parts the window of a ratio is divided.
const WINDOW_PARTS: u64 = 10;

/// What a breaker is in, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What it is in.
    #[serde(flatten)]
    pub state: State,
    /// Since when, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub since_ms: u64,
    /// How often in a row it has opened without being closed in between.
    #[serde(default)]
    pub trips: u32,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What a breaker is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Events are taken.
    #[default]
    Closed,
    /// None is, until this time (milliseconds since the Unix epoch).
    Open {
        /// Until when.
        until_ms: u64,
    },
    /// Events are tried one at a time.
    HalfOpen {
        /// How many have succeeded.
        successes: u32,
        /// The one that is being tried.
        probe: Option<Probe>,
    },
    /// Somebody has opened it by hand.
    Held {
        /// Until when (milliseconds since the Unix epoch); nothing for until it is closed by hand.
        until_ms: Option<u64>,
    },
}

/// The right to try one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Who has it: no two have the same name.
    pub holder: String,
    /// Until when (milliseconds since the Unix epoch): a holder may die.
    pub until_ms: u64,
}

impl State {
    /// The state's name.
    pub fn name(&self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open { .. } => "open",
            State::HalfOpen { .. } => "half-open",
            State::Held { .. } => "held",
        }
    }
}

/// The breaker opens because of too many failures; nothing where it is not closed.
pub fn opened(policy: &CircuitBreaker, record: &Record, reason: &str, now_ms: u64) -> Option<Record> {
    matches!(settled(record, now_ms).state, State::Closed).then(|| tripped(policy, 1, reason, now_ms))
}

fn tripped(policy: &CircuitBreaker, trips: u32, reason: &str, now_ms: u64) -> Record {
    let factor = 2u32.saturating_pow(trips.saturating_sub(1));
    let open_for = policy.open_for.saturating_mul(factor).min(policy.open_max).max(policy.open_for);
    let state = State::Open { until_ms: now_ms.saturating_add(millis(open_for)) };
    Record { state, since_ms: now_ms, trips, reason: reason.to_owned() }
}

/// The breaker as it is now: one that was opened by hand closes when its time is over.
pub fn settled(record: &Record, now_ms: u64) -> Record {
    match record.state {
        State::Held { until_ms: Some(until_ms) } if until_ms <= now_ms => {
            Record { since_ms: until_ms, ..Record::default() }
        }
        _ => record.clone(),
    }
}

/// Whether attempts may begin without being probes, and if not, when that is to be asked again.
pub fn next(record: &Record, now_ms: u64) -> Start {
    match &settled(record, now_ms).state {
        State::Closed => Start::Now,
        State::Open { until_ms } | State::Held { until_ms: Some(until_ms) } if now_ms < *until_ms => {
            Start::At(*until_ms)
        }
        State::Open { .. } | State::HalfOpen { .. } | State::Held { .. } => Start::Later,
    }
}

/// Whether events are tried: the breaker is open, and its time is over.
pub fn is_trying(record: &Record, now_ms: u64) -> bool {
    match record.state {
        State::Open { until_ms } => until_ms <= now_ms,
        State::HalfOpen { .. } => true,
        State::Closed | State::Held { .. } => false,
    }
}

/// Takes the right to try an event, for `lease`; nothing where somebody has it or nothing is to be tried.
pub fn probing(record: &Record, holder: &str, lease: Duration, now_ms: u64) -> Option<Record> {
    if !is_trying(record, now_ms) {
        return None;
    }
    let (successes, since_ms) = match &record.state {
        State::HalfOpen { probe: Some(probe), .. } if now_ms < probe.until_ms => return None,
        State::HalfOpen { successes, .. } => (*successes, record.since_ms),
        _ => (0, now_ms),
    };
    let probe = Some(Probe { holder: holder.to_owned(), until_ms: now_ms.saturating_add(millis(lease)) });
    Some(Record { state: State::HalfOpen { successes, probe }, since_ms, ..record.clone() })
}

/// What becomes of the breaker when a probe has ended, with no result where it was cut off; nothing where somebody
/// else tries by now.
pub fn probed(
    policy: &CircuitBreaker,
    record: &Record,
    holder: &str,
    succeeded: Option<bool>,
    now_ms: u64,
) -> Option<Record> {
    let State::HalfOpen { successes, probe: Some(probe) } = &record.state else { return None };
    if probe.holder != holder {
        return None;
    }
    let successes = successes.saturating_add(u32::from(succeeded == Some(true)));
    Some(match succeeded {
        Some(false) => {
            let trips = record.trips.saturating_add(1);
            tripped(policy, trips, &record.reason, now_ms)
        }
        Some(true) if successes >= policy.successes => Record { since_ms: now_ms, ..Record::default() },
        _ => Record { state: State::HalfOpen { successes, probe: None }, ..record.clone() },
    })
}

/// What an instance has seen of its own attempts while the breaker was closed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    in_a_row: u32,
    /// Parts of the window: which one, how many attempts, how many of them failed.
    parts: VecDeque<(u64, u32, u32)>,
}

impl Tally {
    /// Counts an attempt. Returns why the breaker is to open, where it is.
    pub fn observe(&mut self, trigger: &Trigger, failed: bool, now_ms: u64) -> Option<String> {
        let reason = match *trigger {
            Trigger::InARow { failures } => {
                self.in_a_row = if failed { self.in_a_row.saturating_add(1) } else { 0 };
                (self.in_a_row >= failures).then(|| format!("{failures} attempts in a row have failed"))
            }
            Trigger::Ratio { ratio, window, events_min } => {
                let (events, failures) = self.count(window, failed, now_ms);
                let is_over = events >= events_min && f64::from(failures) >= ratio * f64::from(events);
                is_over.then(|| format!("{failures} of {events} attempts have failed within {}", show_duration(window)))
            }
        };
        if reason.is_some() {
            *self = Tally::default();
        }
        reason
    }

    fn count(&mut self, window: Duration, failed: bool, now_ms: u64) -> (u32, u32) {
        let part = now_ms / (millis(window) / WINDOW_PARTS).max(1);
        self.parts.retain(|(of, ..)| of.saturating_add(WINDOW_PARTS) > part);
        match self.parts.back_mut().filter(|(of, ..)| *of >= part) {
            Some((_, events, failures)) => {
                *events = events.saturating_add(1);
                *failures = failures.saturating_add(failed.into());
            }
            None => self.parts.push_back((part, 1, failed.into())),
        }
        let sum = |pick: fn(&(u64, u32, u32)) -> u32| self.parts.iter().map(pick).fold(0, u32::saturating_add);
        (sum(|part| part.1), sum(|part| part.2))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEASE: Duration = Duration::from_secs(40);

    fn policy(successes: u32) -> CircuitBreaker {
        CircuitBreaker {
            trigger: Trigger::InARow { failures: 3 },
            open_for: Duration::from_secs(30),
            open_max: Duration::from_mins(2),
            successes,
        }
    }

    fn open_until(record: &Record) -> u64 {
        match record.state {
            State::Open { until_ms } => until_ms,
            _ => panic!("{record:?}"),
        }
    }

    #[test]
    fn it_opens_after_failures_in_a_row() {
        let (mut tally, trigger) = (Tally::default(), Trigger::InARow { failures: 3 });
        let mut observe = |failed| tally.observe(&trigger, failed, 0);
        assert_eq!([true, true, false, true, true].map(&mut observe), [const { None }; 5]);
        assert_eq!(observe(true).as_deref(), Some("3 attempts in a row have failed"));
        assert_eq!(observe(true), None, "it counts anew");
    }

    #[test]
    fn it_opens_at_a_ratio_of_failures_within_a_window() {
        let trigger = Trigger::Ratio { ratio: 0.5, window: Duration::from_secs(30), events_min: 4 };
        let mut tally = Tally::default();
        assert_eq!([true, true, true].map(|failed| tally.observe(&trigger, failed, 0)), [None, None, None]);
        // What lies further back than the window does not count.
        assert_eq!(tally.observe(&trigger, true, 30_000), None);
        assert_eq!([false, false].map(|failed| tally.observe(&trigger, failed, 40_000)), [None, None]);
        let reason = tally.observe(&trigger, true, 50_000);
        assert_eq!(reason.as_deref(), Some("2 of 4 attempts have failed within 30s"));
    }

    #[test]
    fn it_stays_open_longer_each_time_up_to_a_limit() {
        let policy = policy(1);
        let mut record = opened(&policy, &Record::default(), "why", 0).expect("opens");
        let mut spans = Vec::new();
        for _ in 0..4 {
            let until_ms = open_until(&record);
            spans.push(until_ms - record.since_ms);
            assert_eq!(next(&record, until_ms - 1), Start::At(until_ms));
            assert_eq!(probing(&record, "a", LEASE, until_ms - 1), None);
            let tried = probing(&record, "a", LEASE, until_ms).expect("is tried");
            record = probed(&policy, &tried, "a", Some(false), until_ms + 5).expect("opens again");
        }
        assert_eq!(spans, [30_000, 60_000, 120_000, 120_000]);
        assert_eq!(opened(&policy, &record, "again", 0), None);
    }

    #[test]
    fn it_closes_after_enough_probes_have_succeeded() {
        let policy = policy(2);
        let open = opened(&policy, &Record::default(), "why", 0).expect("opens");
        let first = probing(&open, "a", LEASE, 30_000).expect("is tried");
        let half = probed(&policy, &first, "a", Some(true), 30_010).expect("goes on");
        assert_eq!(half.state, State::HalfOpen { successes: 1, probe: None });
        let second = probing(&half, "b", LEASE, 30_020).expect("is tried");
        let closed = probed(&policy, &second, "b", Some(true), 30_030).expect("closes");
        assert_eq!(closed, Record { since_ms: 30_030, ..Record::default() });
    }

    #[test]
    fn a_probe_that_ends_without_a_result_or_whose_holder_dies_makes_room_for_another() {
        let policy = policy(1);
        let open = opened(&policy, &Record::default(), "why", 0).expect("opens");
        let tried = probing(&open, "a", LEASE, 30_000).expect("is tried");
        assert_eq!(probing(&tried, "b", LEASE, 69_999), None);
        assert!(probing(&tried, "b", LEASE, 70_000).is_some());
        let free = probed(&policy, &tried, "a", None, 30_001).expect("is free");
        let other = probing(&free, "b", LEASE, 30_002).expect("is tried");
        assert_eq!(probed(&policy, &other, "a", Some(true), 30_003), None, "what comes too late counts nothing");
    }

    #[test]
    fn what_is_opened_by_hand_stays_open_until_its_time_or_until_it_is_closed() {
        let held = |until_ms| Record { state: State::Held { until_ms }, ..Record::default() };
        assert_eq!(next(&held(None), u64::MAX), Start::Later);
        assert_eq!(next(&held(Some(5)), 4), Start::At(5));
        assert_eq!(next(&held(Some(5)), 5), Start::Now);
        for record in [held(None), held(Some(5))] {
            assert_eq!((opened(&policy(1), &record, "why", 0), probing(&record, "a", LEASE, 0)), (None, None));
        }
    }

    #[test]
    fn records_are_read_as_they_are_written() {
        let states = [
            State::Closed,
            State::Open { until_ms: 7 },
            State::HalfOpen { successes: 1, probe: Some(Probe { holder: "a".into(), until_ms: 9 }) },
            State::Held { until_ms: None },
        ];
        for state in states {
            let record = Record { state, since_ms: 1, trips: 2, reason: "why".into() };
            let json = serde_json::to_string(&record).expect("JSON");
            assert_eq!(serde_json::from_str::<Record>(&json).expect("a record"), record, "{json}");
        }
        assert!(serde_json::from_str::<Record>("{}").is_err());
    }

    proptest! {
        /// Holders take, finish and abandon probes at any times: two never try at once, and it is never open for ever.
        #[test]
        fn one_tries_at_a_time_and_it_is_never_stuck(
            steps in proptest::collection::vec((0usize..3, 0u8..6, 0u64..60_000), 1..200),
            successes in 1u32..4,
        ) {
            let policy = policy(successes);
            let (mut record, mut now_ms) = (Record::default(), 0u64);
            // The holders that try, and until when they may.
            let mut trying: Vec<(usize, u64)> = Vec::new();
            for (who, step, pause) in steps {
                now_ms += pause;
                trying.retain(|(_, until_ms)| now_ms < *until_ms);
                let name = who.to_string();
                match step {
                    0 => record = opened(&policy, &record, "why", now_ms).unwrap_or(record),
                    1 | 2 => if let Some(next) = probing(&record, &name, LEASE, now_ms) {
                        prop_assert!(trying.is_empty(), "{who} tries beside {trying:?}");
                        trying.push((who, now_ms + millis(LEASE)));
                        record = next;
                    }
                    _ => if trying.iter().any(|(holder, _)| *holder == who) {
                        trying.clear();
                        let result = [Some(true), Some(false), None][usize::from(step - 3)];
                        record = probed(&policy, &record, &name, result, now_ms).expect("the holder may say so");
                    }
                }
            }
            // Everybody dies; from then on all succeeds.
            now_ms += millis(policy.open_max.max(LEASE));
            for _ in 0..successes {
                if next(&record, now_ms) == Start::Now {
                    break;
                }
                let tried = probing(&record, "last", LEASE, now_ms).expect("may try");
                record = probed(&policy, &tried, "last", Some(true), now_ms).expect("may say so");
            }
            prop_assert_eq!(next(&record, now_ms), Start::Now);
        }
    }
}
