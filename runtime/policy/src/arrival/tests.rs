use proptest::prelude::*;

use super::fixtures::{any_headers, any_payload, arrival, list, message, position, retry_position};
use super::*;

/// The headers of a sound retry of attempt 3.
const RETRY: [(&str, &str); 8] = [
    (headers::ORIGIN_STREAM, "ORDERS"),
    (headers::ORIGIN_SEQ, "7"),
    (headers::ORIGIN_SUBJECT, "orders.created"),
    (headers::ORIGIN_TIME, "1700000000123"),
    (headers::EVENT_ID, "e1"),
    (headers::ATTEMPT, "3"),
    (headers::ERRORS, "[]"),
    ("X-Tenant", "acme"),
];

fn retry_with(name: &str, value: Option<&str>) -> Arrival {
    let mut pairs: Vec<_> = RETRY.into_iter().filter(|(key, _)| *key != name).collect();
    pairs.extend(value.map(|value| (name, value)));
    retried(message(&pairs, "p"), retry_position())
}

#[test]
fn an_input_cannot_forge_what_only_retries_say() {
    let mut forged = RETRY.to_vec();
    forged.extend([("TIDEMILL-ERRORS-DROPPED", "9"), (headers::NOT_BEFORE, "9999"), ("nats-rollup", "all")]);
    forged.push((headers::HEADERS_DROPPED, "3"));
    forged.push((headers::REPLAY, "2"));
    let arrival = arrival(&forged, "p");
    assert_eq!(arrival.attempt, Attempt::FIRST);
    assert!(arrival.history.is_empty());
    assert_eq!((&arrival.carried, arrival.not_before_ms, arrival.headers_dropped), (&None, None, 0));
    assert_eq!(arrival.epoch, 0);
    assert_eq!(arrival.own_id(), (IdKind::Position, "ORDERS@1700000000123:7".into()));
    assert_eq!((arrival.origin.sequence, arrival.origin.time_ms), (7, 1_700_000_000_123));
    assert_eq!(arrival.headers, list(&[("X-Tenant", "acme")]));
    assert_eq!(arrival.damage, None);
}

#[test]
fn a_name_of_a_message_is_read_back() {
    for place in [position().place(), Position { stream: "A:1@2".into(), ..position() }.place()] {
        let Place { stream, sequence, stored_ms } = place.clone();
        let name = Position { stream, sequence, stored_ms, ..position() }.name();
        assert_eq!(place_of(&name), Some(place));
    }
    for odd in ["", ":", "@", "IN:1", "IN@1", "IN:1@", ":1@2", "IN:x@2", "IN:1@-2", "IN:99999999999999999999@2"] {
        assert_eq!(place_of(odd), None, "{odd}");
    }
}

#[test]
fn a_sound_retry_is_read_whole() {
    let arrival = retry_with(headers::HEADERS_DROPPED, Some("4"));
    assert_eq!(arrival.damage, None);
    assert_eq!(arrival.carried, Some(Carried { id: "e1".into(), kind: None, token: None }));
    assert_eq!(arrival.headers_dropped, 4);
    let origin =
        Origin { stream: "ORDERS".into(), sequence: 7, subject: "orders.created".into(), time_ms: 1_700_000_000_123 };
    assert_eq!(arrival.origin, origin);
    assert_eq!(arrival.headers, list(&[("X-Tenant", "acme")]));
}

#[test]
fn what_a_retry_must_say_is_damage_where_it_does_not() {
    let long = "s".repeat(5_000);
    let rows: [(&str, &[Option<&str>]); 4] = [
        (headers::ATTEMPT, &[None, Some(""), Some("0"), Some("-1"), Some("4294967296"), Some("1e3"), Some("three")]),
        (headers::ERRORS, &[None, Some(""), Some("{}"), Some("[{}]"), Some("[1"), Some("null")]),
        (headers::ORIGIN_SUBJECT, &[None, Some(""), Some("a b"), Some("a\tb"), Some("a\u{7f}"), Some(&long)]),
        (headers::EVENT_ID, &[None, Some(""), Some("  ")]),
    ];
    for (name, values) in rows {
        for value in values {
            let arrival = retry_with(name, *value);
            assert!(arrival.damage.as_ref().is_some_and(|damage| damage.contains(name)), "{name}: {value:?}");
            assert_eq!(arrival.payload, "p");
        }
    }
}

#[test]
fn what_a_retry_may_leave_out_is_told_from_the_delivery() {
    for (name, value) in
        [(headers::ORIGIN_SEQ, Some("x")), (headers::ORIGIN_TIME, None), (headers::NOT_BEFORE, Some("soon"))]
    {
        assert_eq!(retry_with(name, value).damage, None, "{name}");
    }
    assert_eq!(retry_with(headers::ORIGIN_SEQ, Some("-7")).origin.sequence, 900);
}

#[test]
fn what_a_retry_says_is_bounded() {
    let far = retry_with(headers::ORIGIN_TIME, Some("18446744073709551615")).origin.time_ms;
    assert_eq!(far, retry_position().stored_ms + CLOCKS_APART_MS);
    let attempt = retry_with(headers::ATTEMPT, Some("4294967295")).attempt;
    assert_eq!((attempt.get(), attempt.plus(u32::MAX).get()), (u32::MAX, u32::MAX));
    assert_eq!(retry_with(headers::REPLAY, Some("4294967296")).epoch, 0);
    for name in ["a b", "a.b", ">", "", &"s".repeat(256)] {
        assert_eq!(retry_with(headers::ORIGIN_STREAM, Some(name)).origin.stream, "TIDEMILL_RETRY", "{name}");
    }
    // What no other part of us would take for a subject is one where the server has stored it.
    for subject in ["in.東京\u{3000}本社", "in..a", "in.*"] {
        let arrival = retry_with(headers::ORIGIN_SUBJECT, Some(subject));
        assert_eq!((arrival.damage, arrival.origin.subject.as_str()), (None, subject));
    }
}

/// Were a blank id an id, all events that have it would be one, and all but the first would lose their outputs.
#[test]
fn a_blank_id_is_no_id() {
    for blank in ["", " ", "\t"] {
        let arrival =
            arrival(&[(headers::MSG_ID, blank), (headers::CORRELATION_ID, blank), (headers::CAUSATION_ID, blank)], "p");
        assert_eq!(arrival.id(), "ORDERS@1700000000123:7");
        assert_eq!((arrival.correlation_id, arrival.causation_id), (None, None));
    }
}

/// A retry carries the id, which is cleaned again when it is read.
#[test]
fn the_id_of_a_message_in_a_stream_with_a_long_name_survives_its_retry() {
    let position = Position { stream: "S".repeat(255), ..position() };
    let id = first(message(&[], ""), position).id();
    assert_eq!(headers::clean_id(&id), id);
}

proptest! {
    #[test]
    fn nothing_panics(
        list in any_headers(), payload in any_payload(), delivered in any::<u32>(), subject in any::<String>()
    ) {
        let message = Message { subject, headers: list, payload, damage: None };
        let position = Position { delivered, ..position() };
        for arrival in [first(message.clone(), position.clone()), retried(message.clone(), position)] {
            prop_assert!(arrival.headers.iter().all(|(name, _)| !headers::is_reserved(name)));
            prop_assert_eq!(&arrival.payload, &message.payload);
            prop_assert_eq!(headers::clean_id(arrival.id()), arrival.id());
        }
    }
}
