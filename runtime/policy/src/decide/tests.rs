use proptest::prelude::*;

use super::*;
use crate::arrival::fixtures::{arrival, handler};
use crate::decode::decode;

fn event(attempt: u32) -> Event {
    let event = decode(&arrival(&[], "p"), &handler()).expect("can be decoded");
    Event { attempt: Attempt::new(attempt).expect("from 1"), ..event }
}

fn output(subject: &str) -> Output {
    Output {
        subject: subject.into(),
        kind: None,
        content_type: None,
        headers: Vec::new(),
        payload: bytes::Bytes::new(),
    }
}

fn error() -> HandlerError {
    HandlerError { code: Some(7), message: "no".into(), detail: Some("why".into()) }
}

fn at() -> Interruption {
    Interruption { message: "cut".into(), stack_trace: Some("f".into()) }
}

/// Every outcome that is not a success, whether it may pass, and its kind.
fn failures() -> [(Outcome, bool, Kind); 8] {
    [
        (Outcome::Retry { error: error(), delay: None }, true, Kind::Retry),
        (Outcome::Retry { error: error(), delay: Some(Duration::MAX) }, true, Kind::Retry),
        (Outcome::TimedOut(at()), true, Kind::Timeout),
        (Outcome::OutOfFuel(at()), true, Kind::Fuel),
        (Outcome::OutOfMemory(at()), true, Kind::Memory),
        (Outcome::Trapped(at()), true, Kind::Trap),
        (Outcome::OutputRefused { message: "too many".into() }, false, Kind::Output),
        (Outcome::Rejected(error()), false, Kind::Reject),
    ]
}

#[test]
fn what_may_pass_is_attempted_again_while_attempts_are_left() {
    for (outcome, may_pass, kind) in failures() {
        for attempt in [1, 4, 5, 6, u32::MAX] {
            match decide(&handler(), &event(attempt), outcome.clone()) {
                Decision::Fail(Setback::Retry { failure, .. }) => {
                    assert!(may_pass && attempt < 5, "{outcome:?} at {attempt}");
                    assert_eq!(failure.kind, kind);
                }
                Decision::Fail(Setback::DeadLetter(failure)) => {
                    assert!(!may_pass || attempt >= 5, "{outcome:?} at {attempt}");
                    assert_eq!(failure.kind, kind);
                }
                Decision::Publish(_) => panic!("{outcome:?} is no success"),
            }
        }
    }
}

#[test]
fn what_the_broker_did_not_take_is_attempted_again_where_an_operator_may_help() {
    let rows = [
        (Refusal::NoStream, true, Kind::Output),
        (Refusal::TooLarge, false, Kind::Output),
        (Refusal::Apart, false, Kind::Output),
        (Refusal::Denied, false, Kind::Denied),
    ];
    for (refusal, may_pass, expected) in rows {
        let setback = refused(&handler(), &event(1), refusal, "why".into());
        let (is_retry, failure) = match setback {
            Setback::Retry { failure, .. } => (true, failure),
            Setback::DeadLetter(failure) => (false, failure),
        };
        assert_eq!((is_retry, failure.kind, failure.message.as_str()), (may_pass, expected, "why"));
        let last = refused(&handler(), &event(5), refusal, "why".into());
        assert!(matches!(last, Setback::DeadLetter(_)), "{refusal:?}");
    }
}

#[test]
fn the_manifest_says_which_kinds_may_pass() {
    for (outcome, may_pass, kind) in failures() {
        let mut mapped = handler();
        let mapping = if may_pass { &mut mapped.dead_letter.on } else { &mut mapped.retry.on };
        mapping.push(kind);
        let Decision::Fail(setback) = decide(&mapped, &event(1), outcome.clone()) else { panic!("a failure") };
        assert_eq!(matches!(setback, Setback::Retry { .. }), !may_pass, "{outcome:?}");
        let Decision::Fail(last) = decide(&mapped, &event(5), outcome) else { panic!("a failure") };
        assert!(matches!(last, Setback::DeadLetter(_)), "no mapping adds attempts");
    }
}

#[test]
fn one_attempt_means_no_retry() {
    let mut handler = handler();
    handler.retry.max_attempts = 1;
    for (outcome, ..) in failures() {
        assert!(matches!(decide(&handler, &event(1), outcome), Decision::Fail(Setback::DeadLetter(_))));
    }
}

#[test]
fn a_success_is_published_if_all_its_outputs_are_granted() {
    let outputs = vec![output("sent.a"), output("sent.b")];
    assert_eq!(decide(&handler(), &event(9), Outcome::Completed(outputs.clone())), Decision::Publish(outputs));
    assert_eq!(decide(&handler(), &event(1), Outcome::Completed(Vec::new())), Decision::Publish(Vec::new()));
    let mixed = vec![output("sent.a"), output("secret.b")];
    let decision = decide(&handler(), &event(1), Outcome::Completed(mixed));
    let Decision::Fail(Setback::DeadLetter(failure)) = decision else { panic!("{decision:?}") };
    assert_eq!(failure.kind, Kind::Output);
    assert!(failure.message.contains("output 1") && failure.message.contains("secret.b"), "{}", failure.message);
}

#[test]
fn what_the_handler_says_is_kept() {
    let Decision::Fail(Setback::DeadLetter(failure)) = decide(&handler(), &event(1), Outcome::Rejected(error())) else {
        panic!("a rejected event is given up on")
    };
    let usage = Usage { duration: Duration::from_millis(3), fuel: 4, memory_peak_bytes: 5 };
    let stamp = Stamp { now_ms: 1_800_000_000_001, component: "c", instance: "i", usage };
    let error = failure.into_error(Attempt::FIRST.plus(1), "mail", &stamp);
    assert_eq!((error.date.as_str(), error.attempt, error.kind), ("2027-01-15T08:00:00.001Z", 2, Kind::Reject));
    assert_eq!((error.status_code, error.message.as_str(), error.stack_trace.as_deref()), (Some(7), "no", Some("why")));
    assert_eq!((error.duration_ms, error.fuel_used, error.memory_peak), (3, 4, 5));
}

#[test]
fn times_beyond_the_calendar_are_its_last_moment() {
    assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
    assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
}

proptest! {
    #[test]
    fn delays_are_bounded(hint in any::<Option<u32>>(), attempt in 1u32.., max_attempts in 1u32.., jitter in 0.0f64..=1.0) {
        let mut handler = handler();
        handler.retry.max_attempts = max_attempts;
        handler.retry.jitter = jitter;
        let delay = hint.map(|ms| Duration::from_millis(ms.into()));
        match decide(&handler, &event(attempt), Outcome::Retry { error: error(), delay }) {
            Decision::Fail(Setback::Retry { delay, .. }) => {
                prop_assert!(attempt < max_attempts);
                let bound = if hint.is_some() { Duration::from_hours(1) } else { handler.retry.max * 2 };
                prop_assert!(delay <= bound, "{delay:?}");
            }
            Decision::Fail(Setback::DeadLetter(_)) => prop_assert!(attempt >= max_attempts),
            Decision::Publish(_) => prop_assert!(false, "a retry publishes nothing"),
        }
    }
}
