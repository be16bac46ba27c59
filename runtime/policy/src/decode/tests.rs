use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::arrival::fixtures::{
    any_headers, any_payload, arrival, format, handler, handler_of, message, position, retry_position,
};
use crate::arrival::{Carried, Message, Source, first, retried};
use crate::attempt::Attempt;
use crate::manifest::Dedup;

fn event_as(format: Format, headers: &[(&str, &str)], payload: &str) -> Event {
    decode(&arrival(headers, payload), &handler_of(format)).expect("can be decoded")
}

fn event(headers: &[(&str, &str)], payload: &str) -> Event {
    event_as(Format::Auto, headers, payload)
}

fn refusal(format: Format, headers: &[(&str, &str)], payload: &str) -> String {
    decode(&arrival(headers, payload), &handler_of(format)).expect_err("cannot be decoded").to_string()
}

/// The headers of a binary event with one of them set to another value, or left out.
fn binary_with<'a>(name: &'a str, value: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    let whole = [("ce-specversion", "1.0"), ("ce-id", "e1"), ("ce-type", "t"), ("ce-source", "/s")];
    whole.into_iter().filter(|(key, _)| *key != name).chain(value.map(|value| (name, value))).collect()
}

const STRUCTURED: [(&str, &str); 1] = [("content-type", "Application/CloudEvents+JSON; charset=utf-8")];

fn structured_with(members: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"e1","type":"t","source":"/s"{members}}}"#)
}

const QUEUE: &str = r#"{"id":"q1","queue":"mail","dispatch_date":"2026-11-21T05:00:00.5+01:00","payload":{"a": 1}}"#;

#[test]
fn a_raw_message_is_taken_as_it_is() {
    let event = event(&[("CONTENT-TYPE", "text/plain"), ("X-A", "1"), ("X-A", "2")], "data");
    assert_eq!((event.id.as_str(), event.subject.as_str()), ("ORDERS@1700000000123:7", "orders.created"));
    assert_eq!((event.kind, event.source), (None, None));
    assert_eq!(event.content_type.as_deref(), Some("text/plain"));
    assert_eq!(event.time_ms, Some(1_700_000_000_123));
    assert_eq!(event.correlation_id, event.id);
    assert_eq!((event.attempt, event.max_attempts), (Attempt::FIRST, 5));
    assert_eq!(event.headers.len(), 3);
    assert_eq!(event.payload, "data");
}

#[test]
fn raw_means_raw_whatever_the_message_says() {
    for (headers, payload) in
        [(binary_with("", None), "d".to_owned()), (STRUCTURED.to_vec(), structured_with("")), (vec![], QUEUE.into())]
    {
        let event = event_as(Format::Raw, &headers, &payload);
        assert_eq!((event.kind, event.id.as_str()), (None, "ORDERS@1700000000123:7"));
        assert_eq!(event.payload, payload);
    }
}

#[test]
fn the_payload_is_never_copied() {
    for (headers, payload) in [
        (vec![], "data".to_owned()),
        (binary_with("", None), "data".to_owned()),
        (STRUCTURED.to_vec(), structured_with(r#","data":[1, 2]"#)),
        (STRUCTURED.to_vec(), structured_with(r#","data":"a JSON string""#)),
        (vec![], QUEUE.to_owned()),
    ] {
        let arrival = arrival(&headers, &payload);
        let event = decode(&arrival, &handler()).expect("can be decoded");
        assert!(arrival.payload.as_ptr_range().contains(&event.payload.as_ptr()), "{payload}");
    }
}

#[test]
fn the_attributes_of_a_binary_cloud_event_are_read() {
    let rows = [
        ("CE-ID", "a%20b%25", "a b%"),
        ("ce-id", "100%", "100%"),
        ("ce-id", "%zz%4", "%zz%4"),
        ("ce-id", "%+1", "%+1"),
        ("ce-id", "%C3%BC", "ü"),
        ("ce-id", "%ff", "%ff"),
    ];
    for (name, value, id) in rows {
        let mut headers = binary_with("ce-id", None);
        headers.push((name, value));
        let event = event(&headers, "data");
        assert_eq!(event.id, id, "{value}");
        assert_eq!((event.kind.as_deref(), event.source.as_deref()), (Some("t"), Some("/s")));
        assert_eq!(event.payload, "data");
    }
}

#[test]
fn a_cloud_event_says_its_content_type_in_either_way() {
    let content_type = |headers: &[(&str, &str)]| event(headers, "").content_type;
    let mut headers = binary_with("Content-Type", Some("text/plain"));
    assert_eq!(content_type(&headers).as_deref(), Some("text/plain"));
    headers.push(("ce-datacontenttype", "text/csv"));
    assert_eq!(content_type(&headers).as_deref(), Some("text/csv"));
    assert_eq!(content_type(&binary_with("", None)), None);
}

#[test]
fn times_are_read_with_their_offset() {
    let rows = [
        ("1970-01-01T00:00:01Z", Some(1_000)),
        ("1970-01-01T01:00:00.123456789+01:00", Some(123)),
        ("2026-11-20T23:00:00-05:00", Some(1_795_233_600_000)),
        ("1969-12-31T23:59:59Z", Some(0)),
        ("0000-01-01T00:00:00Z", Some(0)),
        ("9999-12-31T23:59:59.999Z", Some(253_402_300_799_999)),
        ("10000-01-01T00:00:00Z", None),
        ("2026-11-21", None),
        ("1700000000", None),
        ("", None),
    ];
    for (text, expected) in rows {
        let headers = binary_with("ce-time", Some(text));
        let read = decode(&arrival(&headers, ""), &handler());
        match expected {
            Some(_) => assert_eq!(read.expect("has a time").time_ms, expected, "{text}"),
            None => assert_eq!(read, Err(Undecodable::Time(text.into()))),
        }
    }
}

#[test]
fn what_claims_to_be_a_cloud_event_must_be_one() {
    for format in [Format::Auto, Format::CloudEvents] {
        let binary = [
            ("ce-id", None, "without id"),
            ("ce-id", Some(""), "without id"),
            ("ce-type", None, "without type"),
            ("ce-source", None, "without source"),
            ("ce-specversion", Some("0.3"), "specversion \"0.3\""),
            ("ce-specversion", Some("10"), "specversion \"10\""),
            ("ce-specversion", Some(""), "specversion \"\""),
        ];
        for (name, value, says) in binary {
            let said = refusal(format, &binary_with(name, value), "");
            assert!(said.contains(says), "{name} {value:?}: {said}");
        }
        let structured = [
            ("", "not a structured CloudEvent"),
            ("[]", "not a structured CloudEvent"),
            (r#"{"specversion":"1.0","type":"t","source":"/s"}"#, "without id"),
            (r#"{"specversion":"1.0","id":null,"type":"t","source":"/s"}"#, "without id"),
            (r#"{"specversion":"1.0","id":1,"type":"t","source":"/s"}"#, "not a structured CloudEvent"),
            (r#"{"id":"e1","type":"t","source":"/s"}"#, "specversion"),
            (r#"{"specversion":"2.0","id":"e1","type":"t","source":"/s"}"#, "specversion \"2.0\""),
            (&structured_with(r#","data":1,"data_base64":"YQ==""#), "both data and data_base64"),
            (&structured_with(r#","data_base64":"!""#), "data_base64"),
            (&structured_with(r#","id":"e2""#), "duplicate"),
            (&structured_with(r#","data":1,"data":2"#), "duplicate"),
            (&structured_with(r#","subject":7"#), "\"subject\": it is not a string"),
            (&structured_with(r#","tenantid":"\ud83d""#), "\"tenantid\": "),
        ];
        for (payload, says) in structured {
            let said = refusal(format, &STRUCTURED, payload);
            assert!(said.contains(says), "{payload}: {said}");
        }
    }
    assert_eq!(decode(&arrival(&[], QUEUE), &handler_of(Format::CloudEvents)), Err(Undecodable::NotACloudEvent));
}

#[test]
fn the_data_of_a_structured_cloud_event_is_the_payload() {
    let rows = [
        (r#","data":{"a": [1.50, 1e400]}"#, r#"{"a": [1.50, 1e400]}"#, "application/json"),
        (r#","data":"text""#, r#""text""#, "application/json"),
        (r#","data":"a\nb","datacontenttype":"text/plain""#, "a\nb", "text/plain"),
        (
            r#","data":"\"x\"","datacontenttype":"application/json; charset=utf-8""#,
            r#""\"x\"""#,
            "application/json; charset=utf-8",
        ),
        (r#","data":"x","datacontenttype":"application/vnd.a+JSON""#, r#""x""#, "application/vnd.a+JSON"),
        // One JSON value is no JSON lines: the string holds them.
        (r#","data":"1\n2","datacontenttype":"application/x-ndjson""#, "1\n2", "application/x-ndjson"),
        (r#","data":{"a":1},"datacontenttype":"text/xml""#, r#"{"a":1}"#, "text/xml"),
        (r#","data_base64":"YWI=","datacontenttype":"text/plain""#, "ab", "text/plain"),
        ("", "", "application/json"),
        (r#","data":null"#, "null", "application/json"),
        (r#","data": null ,"datacontenttype":"text/plain""#, "null", "text/plain"),
        (r#","data":null,"data_base64":null"#, "null", "application/json"),
        (r#","data_base64":null"#, "", "application/json"),
        (r#","data":null,"data_base64":"YWI=""#, "ab", "application/json"),
        (r#","comment":{"an":"extension"}"#, "", "application/json"),
    ];
    for (members, payload, content_type) in rows {
        let event = event(&STRUCTURED, &structured_with(members));
        assert_eq!(event.payload, payload, "{members}");
        assert_eq!(event.content_type.as_deref(), Some(content_type), "{members}");
        assert_eq!((event.id.as_str(), event.kind.as_deref(), event.source.as_deref()), ("e1", Some("t"), Some("/s")));
    }
}

#[test]
fn a_queue_message_is_recognised_and_its_payload_taken_out() {
    let with = |members: &str| QUEUE.replace(r#","payload""#, &format!(r#",{members}"payload""#));
    let messages = [
        QUEUE.to_owned(),
        format!(" \n{QUEUE}\n"),
        with(r#""error":[{"message":"m"}],"#),
        with(r#""error":null,"error":7,"extra":{"payload":0},"#),
    ];
    for message in messages {
        for format in [Format::Auto, Format::Queue] {
            let event = event_as(format, &[("X-A", "1"), ("Content-Type", "text/plain")], &message);
            assert_eq!(event.id, "q1");
            assert_eq!(event.payload, r#"{"a": 1}"#);
            assert_eq!(event.content_type.as_deref(), Some("application/json"));
            assert_eq!(event.time_ms, Some(1_795_233_600_500));
            assert_eq!(event.headers.len(), 2);
        }
    }
    for scalar in ["0", "null", "\"\"", "-1e400", "[]", "\"\\ud800\""] {
        assert_eq!(event(&[], &QUEUE.replace(r#"{"a": 1}"#, scalar)).payload, scalar);
    }
}

#[test]
fn what_is_no_queue_message_is_raw_unless_it_has_to_be_one() {
    let almost = [
        "",
        "[]",
        "queue dispatch_date",
        &QUEUE.replace("queue", "queues"),
        &QUEUE.replace("payload", "data"),
        &QUEUE.replace("\"q1\"", "1"),
        &QUEUE.replace("{\"a\": 1}", "{\"a\": 1"),
        &QUEUE.replace("}}", "},\"payload\":2}"),
        &format!("{QUEUE}x"),
    ];
    for payload in almost {
        let event = event(&[], payload);
        assert_eq!((event.payload.as_ref(), event.id.as_str()), (payload.as_bytes(), "ORDERS@1700000000123:7"));
        assert!(refusal(Format::Queue, &[], payload).starts_with("not a queue message: "), "{payload}");
    }
}

#[test]
fn a_date_that_cannot_be_read_does_no_harm_to_a_queue_message() {
    let event = event(&[], &QUEUE.replace("2026-11-21T05:00:00.5+01:00", "yesterday"));
    assert_eq!(event.time_ms, Some(1_700_000_000_123));
}

#[test]
fn the_events_own_id_comes_before_the_brokers_and_that_before_the_position() {
    let msg_id = ("nats-msg-id", "m1");
    let mut cloud_event = binary_with("", None);
    cloud_event.push(msg_id);
    let rows = [
        (cloud_event.as_slice(), "", "e1"),
        (&[msg_id], QUEUE, "q1"),
        (&[msg_id], "raw", "m1"),
        (&[], "raw", "ORDERS@1700000000123:7"),
        // Queue messages with an empty id are not one and the same.
        (&[msg_id], &QUEUE.replace("q1", ""), "m1"),
        (&[], &QUEUE.replace("q1", " "), "ORDERS@1700000000123:7"),
    ];
    for (headers, payload, id) in rows {
        assert_eq!(event(headers, payload).id, id, "{headers:?} {payload}");
    }
}

#[test]
fn a_retry_has_the_id_that_it_carries() {
    let mut headers = binary_with("", None);
    headers.extend([
        (headers::EVENT_ID, "carried"),
        (headers::ATTEMPT, "2"),
        (headers::ERRORS, "[]"),
        (headers::ORIGIN_SUBJECT, "from"),
    ]);
    let event = decode(&retried(message(&headers, ""), retry_position()), &handler()).expect("is sound");
    assert_eq!((event.id.as_str(), event.subject.as_str(), event.attempt.get()), ("carried", "from", 2));
}

#[test]
fn damage_is_said_and_nothing_is_decoded() {
    let message = Message { damage: Some("its headers are not UTF-8".into()), ..message(&[], QUEUE) };
    let refused = decode(&first(message, position()), &handler());
    assert_eq!(refused, Err(Undecodable::Damaged("its headers are not UTF-8".into())));
}

proptest! {
    #[test]
    fn nothing_panics_and_ids_can_be_sent(headers in any_headers(), payload in any_payload(), format in format()) {
        let message = Message { subject: "s".into(), headers, payload, damage: None };
        for arrival in [first(message.clone(), position()), retried(message, retry_position())] {
            if let Ok(event) = decode(&arrival, &handler_of(format)) {
                for id in [&event.id, &event.correlation_id] {
                    prop_assert!(!id.is_empty() && headers::is_valid_value(id));
                    prop_assert_eq!(&headers::clean_id(id), id);
                }
                prop_assert!(event.payload.len() <= arrival.payload.len());
            }
        }
    }
}

/// A retry of the version before, whose id is the value of a key, and the same event sent again are one event.
#[test]
fn a_retry_of_the_version_before_is_the_event_of_its_key() {
    for (key, headers, payload) in [
        ("json:/order", vec![], r#"{"order":7}"#),
        ("json:/order", vec![], r#"{"order":"7"}"#),
        ("header:X-Order", vec![("X-Order", "7")], "x"),
    ] {
        let dedup = Dedup { key: DedupKey::parse(key).expect("a key"), window: Duration::from_hours(1), claim: false };
        let handler = Handler { dedup: Some(dedup), ..handler() };
        let fresh = arrival(&headers, payload);
        let carried = Some(Carried { id: "7".into(), kind: None, token: None });
        let retried = Arrival { carried, source: Source::Retry, ..fresh.clone() };
        let [fresh, retried] = [fresh, retried].map(|one| decode(&one, &handler).expect("can be decoded").token);
        assert_eq!(fresh, retried, "{key} {payload}");
    }
}

/// What the next attempt could not see is not run.
#[test]
fn a_header_that_policy_needs_and_no_retry_could_carry_is_undecodable() {
    let dedup = Dedup { key: DedupKey::Header("K".into()), window: Duration::from_hours(1), claim: false };
    let keyed = Handler { dedup: Some(dedup), ..handler() };
    let damaged = arrival(&[("K", "b\0c")], "x");
    let why = decode(&damaged, &keyed).expect_err("damaged").to_string();
    assert!(why.contains("header K"), "{why}");
    assert!(decode(&damaged, &handler()).is_ok(), "nobody needs it");
}
