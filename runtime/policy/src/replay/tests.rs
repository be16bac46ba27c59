use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::arrival::first;
use crate::arrival::fixtures::{
    NOW_MS, any_headers, any_payload, arrival, delivered, delivered_again, error, format, handler, list, message,
    position, retry_position,
};
use crate::attempt::Attempt;
use crate::decode::decode;
use crate::manifest::Handler;
use crate::publication::{Case, ReplayInputs, RetryClock, dead_letter, retry};

const QUEUE: &str = r#"{"id":"q1","queue":"q","dispatch_date":"d","payload":{"a":1}}"#;

/// Where a dead letter is kept.
fn letter_position() -> Position {
    Position { stream: "TIDEMILL_DEADLETTER".into(), sequence: 12, stored_ms: NOW_MS, ..position() }
}

/// The dead letter of an event after so many failed attempts, as the broker keeps it.
fn letter_of(mut arrival: Arrival, handler: &Handler, failures: u32) -> Message {
    for _ in 1..failures {
        arrival.history = arrival.history.clone().with(error(arrival.attempt));
        arrival.attempt = arrival.attempt.plus(1);
    }
    let event = decode(&arrival, handler).ok();
    let case = Case { handler, arrival: &arrival, event: event.as_ref() };
    let replay = ReplayInputs { seed: "5eed".into(), clock_ms: 42 };
    let letter = dead_letter(case, &error(arrival.attempt), Some(&replay), true, usize::MAX);
    delivered(letter.expect("no limit"))
}

fn sound_letter() -> Message {
    letter_of(arrival(&[(headers::MSG_ID, "e1"), ("X-A", "1"), ("X-A", "2")], "p"), &handler(), 3)
}

fn replayed(message: &Message) -> Publication {
    replay(message, &letter_position(), "tidemill", "mail", None, 0).expect("can be replayed")
}

fn retry_of(clock: RetryClock) -> Message {
    let arrival = arrival(&[(headers::MSG_ID, "e1"), ("X-A", "1")], "p");
    let event = decode(&arrival, &handler()).expect("can be decoded");
    let case = Case { handler: &handler(), arrival: &arrival, event: Some(&event) };
    let delay = Duration::from_secs(90);
    delivered(retry(case, "tidemill", clock, &error(Attempt::FIRST), NOW_MS, delay, usize::MAX).expect("no limit"))
}

fn names(publication: &Publication, prefix: &str) -> Vec<String> {
    let names = publication.headers.iter().map(|(name, _)| name.clone());
    names.filter(|name| name.starts_with(prefix)).collect()
}

#[test]
fn a_dead_letter_is_read_whole() {
    let letter = letter(sound_letter(), letter_position());
    assert_eq!((letter.handler.as_deref(), letter.reason.as_deref()), (Some("mail"), Some("retry")));
    assert_eq!(letter.dead_at.as_deref(), Some("2026-11-21T04:00:00.000Z"));
    assert_eq!((letter.component.as_deref(), letter.seed.as_deref()), (Some("c0ffee"), Some("5eed")));
    assert_eq!((letter.clock_ms, letter.arrival.epoch), (Some(42), 0));
    assert_eq!((letter.arrival.attempt.get(), letter.arrival.history.len()), (3, 3));
    assert_eq!(letter.arrival.id(), "e1");
}

#[test]
fn a_replay_is_the_same_event_with_all_attempts_before_it() {
    let stored = sound_letter();
    let publication = replayed(&stored);
    let token = headers::get(&stored.headers, headers::IDENTITY).expect("a token");
    assert_eq!(publication.subject, format!("tidemill.retry.due.mail.{token}"));
    assert_eq!(names(&publication, "Nats-"), [headers::MSG_ID]);
    for gone in [headers::REASON, headers::DEAD_AT, headers::COMPONENT, headers::SEED, headers::CLOCK] {
        assert_eq!(headers::get(&publication.headers, gone), None);
    }
    assert_eq!(headers::get(&publication.headers, headers::REPLAY), Some("1"));
    let (letter, again) = (letter(stored, letter_position()).arrival, delivered_again(publication));
    assert_eq!((again.attempt, again.damage), (Attempt::FIRST, None));
    assert_eq!((again.carried, again.history), (letter.carried, letter.history));
    assert_eq!((again.origin, again.payload), (letter.origin, letter.payload));
    assert_eq!(again.headers, list(&[("X-A", "1"), ("X-A", "2")]));
    assert_eq!(again.not_before_ms, None);
}

#[test]
fn a_queue_message_keeps_the_errors_in_its_body() {
    let stored = letter_of(arrival(&[], QUEUE), &handler(), 2);
    assert!(String::from_utf8_lossy(&stored.payload).contains("\"error\""));
    assert_eq!(replayed(&stored).payload, stored.payload);
}

#[test]
fn each_replay_counts_and_has_an_id_of_its_own() {
    let stored = sound_letter();
    let id = |message: &Message, position: &Position| {
        let publication = replay(message, position, "tidemill", "mail", None, 0).expect("can be replayed");
        headers::get(&publication.headers, headers::MSG_ID).map(str::to_owned)
    };
    let mut second = stored.clone();
    second.headers.push((headers::REPLAY.into(), "1".into()));
    assert_eq!(headers::get(&replayed(&second).headers, headers::REPLAY), Some("2"));
    let here = letter_position();
    assert_eq!(id(&stored, &here), id(&stored, &here));
    assert_ne!(id(&stored, &here), id(&second, &here));
    // Two events of different sources may have one id; were the second taken for the first, it would be lost.
    assert_ne!(id(&stored, &here), id(&stored, &Position { sequence: 13, ..here.clone() }));
}

#[test]
fn a_dead_letter_without_what_the_event_needs_is_not_replayed() {
    let rows: [(&'static str, &[Option<&str>]); 4] = [
        (headers::EVENT_ID, &[None, Some(" ")]),
        (headers::ORIGIN_SUBJECT, &[None, Some("a\rb")]),
        (headers::ERRORS, &[None, Some("{}"), Some("[1]")]),
        (headers::REPLAY, &[Some("x"), Some("-1"), Some("4294967295")]),
    ];
    for (header, values) in rows {
        for value in values {
            let mut stored = sound_letter();
            stored.headers.retain(|(name, _)| name != header);
            stored.headers.extend(value.map(|value| (header.to_owned(), value.to_owned())));
            let refused = replay(&stored, &letter_position(), "tidemill", "mail", None, 0);
            assert_eq!(refused, Err(Unreplayable { header }), "{value:?}");
        }
    }
}

#[test]
fn headers_that_cannot_be_sent_are_left_out_and_counted() {
    let mut stored = sound_letter();
    stored.headers.push(("X-B".into(), "a\rNats-Rollup: all".into()));
    stored.headers.push((headers::HEADERS_DROPPED.into(), "2".into()));
    let again = delivered_again(replayed(&stored));
    assert_eq!((again.headers_dropped, headers::get(&again.headers, "X-B")), (3, None));
}

#[test]
fn a_retry_that_the_server_holds_back_is_cancelled_by_the_one_that_is_due_now() {
    let stored = retry_of(RetryClock::Schedules);
    let waits = waiting(stored.clone(), retry_position());
    assert_eq!(waits.due_ms, Some(NOW_MS + 90_000));
    let publication = hurry(&stored, &retry_position(), "tidemill", "mail");
    let header = |name: &str| headers::get(&publication.headers, name);
    assert_eq!(header(headers::SCHEDULER), Some(stored.subject.as_str()));
    assert_eq!((header(headers::SCHEDULE_NEXT), header(headers::SCHEDULE)), (Some("purge"), None));
    assert_eq!(header(headers::EXPECTED_LAST_SEQ), Some("900"));
    assert_eq!(header(headers::EXPECTED_LAST_SEQ_SUBJECT), Some(stored.subject.as_str()));
    assert_eq!(header(headers::SCHEDULE_TARGET), None);
    let again = delivered_again(publication);
    assert_eq!((again.attempt, again.damage.clone(), again.not_before_ms), (waits.arrival.attempt, None, None));
    assert_eq!(again, waits.arrival);
}

#[test]
fn a_retry_that_is_handed_back_until_it_is_due_is_copied_without_its_time() {
    let stored = retry_of(RetryClock::NotBefore);
    let waits = waiting(stored.clone(), retry_position());
    assert_eq!(waits.due_ms, Some(NOW_MS + 90_000));
    let publication = hurry(&stored, &retry_position(), "tidemill", "mail");
    assert_eq!(names(&publication, "Nats-"), [headers::MSG_ID]);
    assert_eq!(publication, hurry(&stored, &retry_position(), "tidemill", "mail"));
    let other = hurry(&stored, &Position { sequence: 901, ..retry_position() }, "tidemill", "mail");
    assert_ne!(publication, other);
    let again = delivered_again(publication);
    assert_eq!(again, Arrival { not_before_ms: None, ..waits.arrival });
}

#[test]
fn only_our_own_schedules_say_when() {
    assert_eq!(schedule_ms("@at 2027-01-15T08:01:30.000Z"), Some(NOW_MS + 90_000));
    for other in ["", "@at", "@at soon", "@every 1s", "@at 1960-01-01T00:00:00Z", "2027-01-15T08:01:30Z"] {
        assert_eq!(schedule_ms(other), None, "{other}");
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_no_header_of_the_broker_gets_through(
        edits in any_headers(), payload in any_payload(), of in 0usize..3
    ) {
        let base = match of {
            0 => sound_letter(),
            1 => retry_of(RetryClock::Schedules),
            _ => message(&[], ""),
        };
        let mut headers = edits;
        headers.extend(base.headers);
        let stored = Message { headers, payload, ..base };
        let _ = (letter(stored.clone(), letter_position()), waiting(stored.clone(), letter_position()));
        let hurried = hurry(&stored, &retry_position(), "tidemill", "mail");
        let replayed = replay(&stored, &letter_position(), "tidemill", "mail", None, 0).ok();
        for publication in replayed.iter().chain([&hurried]) {
            prop_assert_eq!(&publication.payload, &stored.payload);
            let valid = |(name, value): &(String, String)| headers::is_valid_name(name) && headers::is_valid_value(value);
            prop_assert!(publication.headers.iter().all(valid), "{:?}", publication.headers);
        }
        if let Some(publication) = replayed {
            prop_assert_eq!(names(&publication, "Nats-"), [headers::MSG_ID]);
            prop_assert_eq!(delivered_again(publication).damage, None);
        }
    }

    #[test]
    fn what_was_given_up_on_comes_back_as_it_was(
        headers in any_headers(), payload in any_payload(), format in format(), failures in 1u32..5
    ) {
        let handler = Handler { format, ..handler() };
        let first = first(Message { headers, payload, ..message(&[], "") }, position());
        let stored = letter_of(first, &handler, failures);
        let letter = letter(stored.clone(), letter_position()).arrival;
        let again = delivered_again(replay(&stored, &letter_position(), "tidemill", "mail", None, 0).expect("ours"));
        let expected = Arrival { attempt: Attempt::FIRST, epoch: 1, position: again.position.clone(), ..letter };
        prop_assert_eq!(again, expected);
    }
}
