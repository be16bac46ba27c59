use proptest::prelude::*;

use super::lanes::{Lanes, Place};
use super::*;
use crate::arrival::fixtures::{handler, message, position};
use crate::arrival::{Message, first, partitioned};
use crate::manifest::{OnFailure, OrderForm};
use crate::subject;

fn ordered(key: &str) -> KeyOrder {
    KeyOrder {
        key: OrderKey::parse(key).expect("a key"),
        form: OrderForm::Queues { in_flight: 8 },
        on_failure: OnFailure::DeadLetter,
    }
}

/// Computed by a server: `{{partition(16,1)}}` of these tokens.
#[test]
fn keys_have_the_partitions_that_the_server_gives_them() {
    // FNV-1a test vectors (draft-eastlake-fnv): "" and "a" and "foobar".
    for (key, hash) in [("", 0x811c_9dc5_u32), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
        assert_eq!(partition(key, u32::MAX), hash % u32::MAX);
        assert_eq!(partition(key, 16), hash % 16);
    }
    assert_eq!(partition("anything", 1), 0);
}

#[test]
fn the_key_is_read_from_subject_header_or_payload() {
    let original = message(&[("X-User", "u 1")], "{\"a\":{\"b\":7}}");
    let mut arrival = first(Message { subject: "orders.k1.created".into(), ..original }, position());
    let handler = handler();
    let event = crate::decode::decode(&arrival, &handler).expect("an event");
    let rows = [
        ("subject:2", "k1"),
        ("subject:9", ""),
        ("header:x-user", "u 1"),
        ("header:other", ""),
        ("json:/a/b", "7"),
        ("json:/a", ""),
        ("json:/a/c", ""),
        ("ce:tenantid", ""),
    ];
    for (text, expected) in rows {
        assert_eq!(key(&ordered(text), &arrival, Some(&event)).as_deref(), Ok(expected), "{text}");
    }
    // What does not depend on the payload is known of every message.
    for (text, expected) in
        [("subject:2", Some("k1")), ("header:x-user", Some("u 1")), ("json:/a/b", None), ("ce:a", None)]
    {
        assert_eq!(key(&ordered(text), &arrival, None).ok().as_deref(), expected, "{text}");
    }
    arrival.payload = "not json".into();
    let event = crate::decode::decode(&arrival, &handler).expect("an event");
    let fault = key(&ordered("json:/a/b"), &arrival, Some(&event)).expect_err("no telling");
    let said = "order.key: the event's json:/a/b cannot be read: it is not JSON: no value at byte 0";
    assert_eq!(fault.to_string(), said);
}

/// Run beside others, it could overtake them: it goes to the dead letters.
#[test]
fn an_event_of_which_the_key_cannot_be_told_is_undecodable() {
    let of = |order: &str| Handler { order: Some(crate::manifest::Order::Key(ordered(order))), ..handler() };
    let decoded = |order: &str, payload: &[u8]| {
        let arrival = first(Message { payload: payload.to_vec().into(), ..message(&[], "") }, position());
        crate::decode::decode(&arrival, &of(order)).map_err(|error| error.to_string())
    };
    let unreadable: [&[u8]; 5] =
        [br#"{"user_id":"\ud83d"}"#, b"{\"user_id\":\"\xff\"}", br#"{"user_id":NaN}"#, br#"{"user_id":7"#, b""];
    for payload in unreadable {
        let said = decoded("json:/user_id", payload).expect_err("no telling");
        assert!(said.starts_with("order.key: the event's json:/user_id cannot be read: "), "{said}");
        assert!(decoded("header:X-User", payload).is_ok() && decoded("subject:1", payload).is_ok());
    }
    for payload in [r#"{"user_id":null}"#, "{}", "[]", "7", r#"{"user_id":""}"#] {
        assert!(decoded("json:/user_id", payload.as_bytes()).is_ok(), "{payload}");
    }
}

#[test]
fn a_subject_is_moved_by_its_token_and_comes_back() {
    let subjects = ["orders.*.created".to_owned(), "items.>".to_owned(), "fixed.key.x".to_owned()];
    let empty = partition("", 16);
    let fixed = partition("key", 16);
    let expected = [
        ("orders.*.created", "t.order.h.{{partition(16,1)}}.orders.{{wildcard(1)}}.created".to_owned()),
        ("items.*", "t.order.h.{{partition(16,1)}}.items.{{wildcard(1)}}".to_owned()),
        ("items.*.>", "t.order.h.{{partition(16,1)}}.items.{{wildcard(1)}}.>".to_owned()),
        ("fixed.key.x", format!("t.order.h.{fixed}.fixed.key.x")),
    ];
    let expected = expected.map(|(source, target)| Transform { source: source.to_owned(), target });
    assert_eq!(transforms("t", "h", &subjects, 2, 16), expected);
    let deep = transforms("t", "h", &["items.>".to_owned()], 3, 16);
    let sources: Vec<_> = deep.iter().map(|transform| transform.source.as_str()).collect();
    assert_eq!(sources, ["items.*", "items.*.*", "items.*.*.>"]);
    assert_eq!(deep[0].target, format!("t.order.h.{empty}.items.{{{{wildcard(1)}}}}"));
    assert_eq!(deep[1].target, "t.order.h.{{partition(16,2)}}.items.{{wildcard(1)}}.{{wildcard(2)}}");
    assert_eq!(original_subject(&partitioned_subject("t", "h", 3, "orders.k1.created")), "orders.k1.created");
}

#[test]
fn all_is_in_hand_when_the_server_counts_nothing_else() {
    assert!(is_all_in_hand(0, 0, &[], &[]));
    assert!(is_all_in_hand(2, 9, &[3, 9], &[3, 9]));
    assert!(!is_all_in_hand(3, 9, &[3, 9], &[3, 9]), "one is still to come");
    // What was delivered after the server has counted does not stand for what is missing.
    assert!(!is_all_in_hand(2, 8, &[3], &[3, 9]));
    assert!(!is_all_in_hand(2, 9, &[3, 9], &[9]), "it was settled meanwhile");
}

fn pattern() -> impl Strategy<Value = String> {
    let token = prop_oneof![Just("*"), Just("a"), Just("b")];
    (prop::collection::vec(token, 1..4), any::<bool>()).prop_map(|(mut tokens, rest)| {
        if rest {
            tokens.push(">");
        }
        tokens.join(".")
    })
}

/// A copy is the original: the same id and the same marker, however often the server copies it.
#[test]
fn all_copies_of_an_event_are_one() {
    let handler = handler();
    let copy = |sequence: u64, stored_ms: u64, extra: &[(&str, &str)]| {
        let headers = [&[("Nats-Stream-Source", "ORDERS 7 orders.* t.order.mail orders.k1")], extra].concat();
        let subject = "t.order.mail.3.orders.k1".into();
        let at = crate::arrival::Position { stream: "SIDE".into(), sequence, stored_ms, ..position() };
        partitioned(Message { subject, ..message(&headers, "x") }, at, position().stream_created_unix)
    };
    let (one, other) = (copy(1, 10, &[]), copy(9, 99, &[]));
    assert_eq!((one.origin.subject.as_str(), one.origin.sequence), ("orders.k1", 7));
    assert_eq!(one.id(), other.id());
    assert_eq!(one.position.name(), other.position.name());
    let token = |arrival| crate::decode::decode(arrival, &handler).expect("can be decoded").token;
    assert_eq!(token(&one), token(&other));
    // What a producer writes is not believed.
    let forged = copy(1, 10, &[("Tidemill-Attempt", "9")]);
    assert_eq!(forged.attempt, crate::attempt::Attempt::FIRST);
    let damaged = message(&[("Nats-Stream-Source", "ORDERS x")], "x");
    assert!(partitioned(damaged, position(), 0).damage.is_some());
}

proptest! {
    /// What is taken apart selects the same subjects, and each once.
    #[test]
    fn a_pattern_that_is_taken_apart_selects_the_same(
        pattern in pattern(),
        number in 1_usize..6,
        tokens in prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..7),
    ) {
        let subject = tokens.join(".");
        let parts = expand(&pattern, number);
        let selecting = parts.iter().filter(|part| subject::matches(part, &subject)).count();
        prop_assert_eq!(selecting, usize::from(subject::matches(&pattern, &subject)), "{:?}", parts);
    }

    /// Whatever enters and leaves: of one key one runs at a time, the first of those in hand, and all run in the end.
    #[test]
    fn lanes_run_each_key_in_order(
        steps in prop::collection::vec((0_u8..4, 0_u8..3, 0_u64..40), 1..200),
    ) {
        let mut lanes = Lanes::default();
        let mut waiting: Vec<(String, Place)> = Vec::new();
        let mut running: Vec<(String, Place)> = Vec::new();
        let mut number = 0;
        for (what, key, sequence) in steps {
            let key = key.to_string();
            match what {
                0 | 1 => {
                    number += 1;
                    let place = Place { is_input: sequence % 5 > 0, sequence, number };
                    lanes.enter(&key, place);
                    waiting.push((key.clone(), place));
                    begin(&mut waiting, &mut running, key.clone(), lanes.next(&key))?;
                }
                2 => {
                    if let Some(index) = running.iter().position(|(of, _)| *of == key) {
                        let (key, place) = running.swap_remove(index);
                        lanes.leave(&key, place);
                        begin(&mut waiting, &mut running, key.clone(), lanes.next(&key))?;
                    }
                }
                _ if lanes.is_held() => {
                    for (key, place) in lanes.release() {
                        begin(&mut waiting, &mut running, key, Some(place))?;
                    }
                }
                _ => lanes.hold(),
            }
        }
        for (key, place) in lanes.release() {
            begin(&mut waiting, &mut running, key, Some(place))?;
        }
        while let Some((key, place)) = running.pop() {
            lanes.leave(&key, place);
            begin(&mut waiting, &mut running, key.clone(), lanes.next(&key))?;
        }
        prop_assert!(waiting.is_empty(), "{:?} never run", waiting);
    }
}

fn begin(
    waiting: &mut Vec<(String, Place)>,
    running: &mut Vec<(String, Place)>,
    key: String,
    place: Option<Place>,
) -> Result<(), TestCaseError> {
    let Some(place) = place else { return Ok(()) };
    prop_assert!(running.iter().all(|(of, _)| *of != key), "two events of key {} run at once", key);
    let first = waiting.iter().filter(|(of, _)| *of == key).map(|(_, place)| *place).min();
    prop_assert_eq!(first, Some(place));
    waiting.retain(|(of, other)| (of, other) != (&key, &place));
    running.push((key, place));
    Ok(())
}
