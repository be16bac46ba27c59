//! The audit is fed what must never happen, one thing at a time, and must notice exactly that.

use tidemill_policy::history::Kind;

use super::*;

const SEED: u64 = 11;
const EVENTS: u64 = 400;

fn find(is_wanted: impl Fn(&Event) -> bool) -> Event {
    (0..EVENTS).map(|number| Event::new(SEED, number)).find(is_wanted).expect("there is one")
}

fn output(event: &Event, copy: Copy, index: u32) -> String {
    let (name, attempt) = (event.name(), event.failures + 1);
    format!(r#"{{"event": "{name}", "copy": {}, "index": {index}, "attempt": {attempt}}}"#, copy as u32)
}

/// The dead letter that an event must end in.
fn letter(event: &Event) -> Letter {
    let last = if event.end == End::Reject { 1 } else { event.handler.attempts_max() };
    let kind = event.end.kind().unwrap_or(Kind::Reject);
    Letter {
        payload: event.message(Copy::First).payload,
        handler: event.handler.name().to_owned(),
        attempt: last,
        history: (1..=last).map(|attempt| (attempt, kind)).collect(),
        dropped: 0,
    }
}

/// The audit of a run in which all went well but for `except`, of which nothing is stored.
fn audit_without(except: Option<&Event>) -> Audit {
    let mut audit = Audit::new(SEED, EVENTS);
    let all = (0..EVENTS).map(|number| Event::new(SEED, number));
    for event in all.filter(|event| Some(event) != except) {
        if event.end == End::Done {
            (0..event.outputs).for_each(|index| audit.output(output(&event, Copy::First, index).as_bytes()));
        } else {
            audit.letter(&letter(&event));
        }
    }
    audit
}

fn breaches(findings: &Findings) -> Vec<(Breach, u64)> {
    findings.breaches.counts()
}

/// The breaches where a bad event's dead letter is changed by `spoil`.
fn spoilt(end: End, spoil: impl Fn(&mut Letter)) -> Vec<(Breach, u64)> {
    let event = find(|event| event.end == end);
    let mut audit = audit_without(Some(&event));
    let mut letter = letter(&event);
    spoil(&mut letter);
    audit.letter(&letter);
    breaches(&audit.finish())
}

#[test]
fn a_run_in_which_all_went_well_has_no_breaches() {
    let findings = audit_without(None).finish();
    assert_eq!(breaches(&findings), []);
    assert_eq!(findings.events, EVENTS);
    assert_eq!(findings.handled + findings.dead_letters, EVENTS);
    assert!(findings.retried > 0);
}

#[test]
fn an_event_without_outputs_or_with_some_of_them_is_lost() {
    let event = find(|event| event.outputs == 2 && event.end == End::Done);
    let mut audit = audit_without(Some(&event));
    assert_eq!(breaches(&audit_without(Some(&event)).finish()), [(Breach::Lost, 1)]);
    audit.output(output(&event, Copy::First, 1).as_bytes());
    assert_eq!(breaches(&audit.finish()), [(Breach::Lost, 1)]);
}

#[test]
fn a_bad_event_without_a_dead_letter_is_lost() {
    let event = find(|event| event.end == End::Trap);
    assert_eq!(breaches(&audit_without(Some(&event)).finish()), [(Breach::Lost, 1)]);
}

#[test]
fn an_output_stored_twice_is_doubled_also_where_a_copy_had_it() {
    let event = find(|event| event.has_twin);
    for copy in [Copy::First, Copy::Twin] {
        let mut audit = audit_without(None);
        audit.output(output(&event, copy, 0).as_bytes());
        assert_eq!(breaches(&audit.finish()), [(Breach::Doubled, 1)]);
    }
}

#[test]
fn the_copy_of_an_event_that_was_done_must_have_no_effect() {
    let event = find(|event| event.has_late_copy);
    let mut audit = audit_without(None);
    audit.output(output(&event, Copy::Late, event.outputs).as_bytes());
    assert_eq!(breaches(&audit.finish()), [(Breach::CopyTookEffect, 1)]);
}

#[test]
fn outputs_that_no_attempt_can_have_had_are_stray() {
    let good = find(|event| event.end == End::Done && event.outputs == 1 && !event.has_twin);
    let bad = find(|event| event.end == End::Trap);
    let beyond = Event { number: EVENTS, ..good };
    for (event, copy, index) in
        [(good, Copy::First, 1), (good, Copy::Twin, 0), (bad, Copy::First, 0), (beyond, Copy::First, 0)]
    {
        let mut audit = audit_without(None);
        audit.output(output(&event, copy, index).as_bytes());
        assert_eq!(breaches(&audit.finish()), [(Breach::Stray, 1)], "{event:?} {copy:?} {index}");
    }
    let mut audit = audit_without(None);
    audit.output(b"not JSON");
    assert_eq!(breaches(&audit.finish()), [(Breach::Stray, 1)]);
}

#[test]
fn an_output_of_an_attempt_that_must_fail_is_stray() {
    let event = find(|event| event.failures > 1);
    let mut audit = audit_without(None);
    audit.output(output(&Event { failures: 0, ..event }, Copy::First, 0).as_bytes());
    assert_eq!(breaches(&audit.finish()), [(Breach::Stray, 1)]);
}

#[test]
fn good_events_must_not_be_given_up() {
    let event = find(|event| event.end == End::Done);
    let mut audit = audit_without(Some(&event));
    audit.letter(&Letter { history: vec![(1, Kind::Lost)], attempt: 1, ..letter(&event) });
    let found = audit.finish();
    assert_eq!(found.breaches.count(Breach::GivenUp), 1);
    let mut audit = audit_without(None);
    audit.letter(&letter(&event));
    assert_eq!(audit.finish().breaches.count(Breach::DoneAndDead), 1);
}

#[test]
fn a_dead_letter_must_be_there_once_and_unchanged() {
    let event = find(|event| event.end == End::Reject);
    let mut audit = audit_without(None);
    audit.letter(&letter(&event));
    assert_eq!(breaches(&audit.finish()), [(Breach::DoubledLetter, 1)]);
    let changed = spoilt(End::Reject, |letter| letter.payload = letter.payload.replace("\"copy\":1", "\"copy\": 1"));
    assert_eq!(changed, [(Breach::ChangedPayload, 1)]);
}

#[test]
fn gaps_in_a_history_are_noticed() {
    let incomplete = [(Breach::IncompleteHistory, 1)];
    assert_eq!(
        spoilt(End::Trap, |letter| {
            letter.history.remove(0);
        }),
        incomplete
    );
    assert_eq!(
        spoilt(End::Trap, |letter| {
            letter.history.remove(4);
        }),
        incomplete
    );
    assert_eq!(
        spoilt(End::Trap, |letter| {
            letter.history.pop();
        }),
        incomplete
    );
    assert_eq!(spoilt(End::Trap, |letter| letter.history.clear()), incomplete);
    assert_eq!(spoilt(End::Trap, |letter| letter.history[4].0 = 4), incomplete);
    assert_eq!(spoilt(End::Trap, |letter| letter.dropped = 1), incomplete);
    assert_eq!(spoilt(End::Trap, |letter| letter.history[4].1 = Kind::Reject), incomplete);
}

#[test]
fn a_gap_that_is_declared_and_attempts_that_were_lost_are_no_breach() {
    let declared = |letter: &mut Letter| {
        letter.history.drain(1..4);
        letter.dropped = 3;
    };
    assert_eq!(spoilt(End::Trap, declared), []);
    assert_eq!(spoilt(End::Loop, |letter| letter.history[4].1 = Kind::Lost), []);
    let used_up = |place: usize| move |letter: &mut Letter| letter.history[place].1 = Kind::Attempts;
    assert_eq!(spoilt(End::Loop, used_up(11)), []);
    assert_eq!(spoilt(End::Loop, used_up(10)), [(Breach::IncompleteHistory, 1)]);
    let rejected_later = |letter: &mut Letter| {
        letter.attempt = 2;
        letter.history = vec![(1, Kind::Lost), (2, Kind::Reject)];
    };
    assert_eq!(spoilt(End::Reject, rejected_later), []);
}

#[test]
fn more_or_fewer_attempts_than_the_policy_allows_are_noticed() {
    let attempts = |last: u32| {
        move |letter: &mut Letter| {
            letter.attempt = last;
            letter.history = (1..=last).map(|attempt| (attempt, Kind::Trap)).collect();
        }
    };
    let most = plan::UNRULY_ATTEMPTS_MAX;
    assert_eq!(spoilt(End::Trap, attempts(most)), []);
    assert_eq!(spoilt(End::Trap, attempts(most + 1)), [(Breach::IncompleteHistory, 1)]);
    assert_eq!(spoilt(End::Trap, attempts(most - 1)), [(Breach::IncompleteHistory, 1)]);
}
