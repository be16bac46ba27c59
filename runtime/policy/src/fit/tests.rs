use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::arrival::fixtures::{NOW_MS, arrival, delivered, delivered_again, error, handler, list, position};
use crate::arrival::{Message, first};
use crate::attempt::Attempt;
use crate::decode::decode;
use crate::event::Event;
use crate::history::HISTORY_BYTES_MAX;
use crate::manifest::Format;
use crate::publication::{Case, Publication, RetryClock, dead_letter, retry};
use crate::schema::{Schema, Schemas};
use crate::{latest, manifest, order};

const QUEUE: &str = r#"{"id":"q1","queue":"q","dispatch_date":"d","payload":{"a":1}}"#;

/// Which of both messages is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Retry(RetryClock),
    DeadLetter,
}

const ALL: [What; 3] = [What::Retry(RetryClock::Schedules), What::Retry(RetryClock::NotBefore), What::DeadLetter];

fn make(what: What, handler: &Handler, arrival: &Arrival, bytes_max: usize) -> Result<Publication, Oversized> {
    let event = decode(arrival, handler).ok();
    let case = Case { handler, arrival, event: event.as_ref() };
    let error = long_error(arrival.attempt);
    match what {
        What::Retry(clock) => retry(case, "tidemill", clock, &error, NOW_MS, Duration::from_secs(1), bytes_max),
        What::DeadLetter => dead_letter(case, &error, None, true, bytes_max),
    }
}

fn long_error(attempt: Attempt) -> AttemptError {
    let (message, stack_trace) = ("m".repeat(700), Some("t".repeat(2_500)));
    AttemptError { message, stack_trace, ..error(attempt) }
}

/// An arrival whose event has failed so often.
fn failed(mut arrival: Arrival, failures: u32) -> Arrival {
    for _ in 0..failures {
        arrival.history = arrival.history.clone().with(long_error(arrival.attempt));
        arrival.attempt = arrival.attempt.plus(1);
    }
    arrival
}

/// The bytes of a message on the wire, headers and payload.
fn bytes_of(publication: &Publication) -> usize {
    FRAME_BYTES + headers::wire_bytes(&publication.headers) + publication.payload.len()
}

fn history_of(publication: &Publication) -> History {
    let dropped =
        headers::get(&publication.headers, headers::ERRORS_DROPPED).map_or(0, |n| n.parse().expect("a number"));
    let json = headers::get(&publication.headers, headers::ERRORS).expect("a history");
    History::from_json(json, dropped).expect("a history")
}

/// What may be seen of how a message was made to fit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    traces: usize,
    long_messages: usize,
    errors: usize,
    others: usize,
}

fn seen(publication: &Publication) -> Seen {
    let history = history_of(publication);
    let count = |is: fn(&&AttemptError) -> bool| history.errors.iter().filter(is).count();
    Seen {
        traces: count(|error| error.stack_trace.is_some()),
        long_messages: count(|error| error.message.len() > 200),
        errors: history.errors.len(),
        others: publication.headers.iter().filter(|(name, _)| name.starts_with("X-")).count(),
    }
}

#[test]
fn traces_go_first_then_messages_then_the_middle_then_headers_that_nobody_needs() {
    let pairs: Vec<(String, String)> = (0..8).map(|n| (format!("X-{n}"), "v".repeat(100))).collect();
    let mut arrival = failed(arrival(&[("Content-Type", "text/plain")], &"p".repeat(5_000)), 3);
    arrival.headers.extend(pairs);
    for what in ALL {
        let whole = make(what, &handler(), &arrival, usize::MAX).expect("no limit");
        let (mut last, mut all) = (seen(&whole), vec![seen(&whole)]);
        for bytes_max in (5_000..bytes_of(&whole) + 200).rev().step_by(17) {
            let Ok(publication) = make(what, &handler(), &arrival, bytes_max) else { break };
            assert!(bytes_of(&publication) <= bytes_max, "{what:?} {bytes_max}");
            let now = seen(&publication);
            assert!(now.errors <= last.errors && now.traces <= last.traces, "{now:?}");
            // Where more of the history goes, there may be room for a header again.
            assert!(now.others <= last.others || now.errors < last.errors, "{now:?}");
            assert!(now.traces == 0 || now == all[0], "traces are all there or gone: {now:?}");
            assert!(now.errors == 4 || now.long_messages == 0, "{now:?}");
            assert!(now.others == 8 || now.errors <= 2, "{now:?}");
            if now != last {
                all.push(now.clone());
            }
            last = now;
        }
        let steps = [
            Seen { traces: 4, long_messages: 4, errors: 4, others: 8 },
            Seen { traces: 0, long_messages: 4, errors: 4, others: 8 },
            Seen { traces: 0, long_messages: 0, errors: 4, others: 8 },
            Seen { traces: 0, long_messages: 0, errors: 2, others: 8 },
        ];
        assert_eq!(all[..4], steps, "{what:?}");
        assert_eq!(last, Seen { traces: 0, long_messages: 0, errors: 0, others: 0 }, "{what:?}");
    }
}

#[test]
fn what_cannot_be_made_small_enough_is_told_with_its_least_size() {
    let arrival = failed(arrival(&[("X-A", "1")], &"p".repeat(1_000)), 2);
    for what in ALL {
        let Err(oversized) = make(what, &handler(), &arrival, 1_000) else { panic!("{what:?}: it is larger") };
        assert_eq!(oversized.bytes_max, 1_000);
        let smallest = make(what, &handler(), &arrival, oversized.bytes).expect("the least size");
        assert!(bytes_of(&smallest) <= oversized.bytes);
        assert!(make(what, &handler(), &arrival, oversized.bytes - 1).is_err());
        for name in [headers::EVENT_ID, headers::ORIGIN_STREAM, headers::ORIGIN_SEQ, headers::ATTEMPT] {
            assert!(headers::get(&smallest.headers, name).is_some(), "{name}");
        }
        let has_reason = headers::get(&smallest.headers, headers::REASON).is_some();
        assert_eq!(has_reason, what == What::DeadLetter);
        assert_eq!(history_of(&smallest).len(), 3);
        // A retry that is as small as can be is read like any other.
        assert_eq!(delivered_again(smallest).damage, None);
    }
    assert!(make(What::DeadLetter, &handler(), &arrival, 0).is_err());
}

/// An event that fills all but half a kilobyte of a message can still be retried and given up.
#[test]
fn little_is_enough() {
    for what in ALL {
        let arrival = failed(arrival(&[], &"p".repeat(65_000)), 2);
        let publication = make(what, &handler(), &arrival, 64 * 1024).expect("fits");
        assert!(bytes_of(&publication) <= 64 * 1024);
        let again = delivered_again(publication);
        assert_eq!((again.damage, again.history.len(), again.origin), (None, 3, arrival.origin));
    }
}

#[test]
fn a_queue_message_keeps_its_errors_as_long_as_there_is_room() {
    let handler = Handler { format: Format::Queue, ..handler() };
    let arrival = failed(arrival(&[], QUEUE), 1);
    let whole = make(What::DeadLetter, &handler, &arrival, usize::MAX).expect("no limit");
    assert!(whole.payload.len() > QUEUE.len() + 3_000);
    let shorter = make(What::DeadLetter, &handler, &arrival, bytes_of(&whole) - 100).expect("fits");
    assert!((QUEUE.len() + 1..QUEUE.len() + 1_000).contains(&shorter.payload.len()), "without the trace");
    let without = (0..bytes_of(&shorter)).find_map(|most| make(What::DeadLetter, &handler, &arrival, most).ok());
    assert_eq!(without.expect("fits").payload, QUEUE);
}

/// A header that the event needs would make it another event if it were left out, but a dead letter without it is
/// better than none.
#[test]
fn headers_that_are_needed_stay_on_retries_and_go_last_from_dead_letters() {
    let kind = "t".repeat(3_000);
    let pairs = [("ce-specversion", "1.0"), ("ce-id", "e"), ("ce-type", kind.as_str()), ("ce-source", "/s")];
    let arrival = arrival(&[&pairs[..], &[("X-A", "1")]].concat(), "p");
    let bytes_max = 2_500;
    assert!(make(ALL[0], &handler(), &arrival, bytes_max).is_err());
    let letter = make(What::DeadLetter, &handler(), &arrival, bytes_max).expect("fits");
    assert_eq!(headers::get(&letter.headers, "ce-type"), None);
    assert_eq!(headers::get(&letter.headers, "ce-source"), Some("/s"));
    assert_eq!(headers::get(&letter.headers, headers::HEADERS_DROPPED), Some("2"));
}

/// Ways in which a manifest names parts of an event, and whether the event has a part of that name.
fn any_policy() -> impl Strategy<Value = String> {
    let dedup = prop_oneof![Just("id"), Just("header:X-Key"), Just("ce:tenantid"), Just("header:ce-tenantid")];
    let key = prop_oneof![Just("header:X-Key"), Just("ce:tenantid"), Just("header:Ce-TenantId"), Just("subject:1")];
    let time = prop_oneof![Just("event"), Just("header:X-Time"), Just("ce:seen"), Just("ce:time")];
    let by = prop_oneof![Just("dataschema"), Just("header:X-Version"), Just("ce:version")];
    let order = (key, time, any::<bool>()).prop_map(|(key, time, is_latest)| {
        let form = if key.starts_with("subject") { "partitions" } else { "queues" };
        if is_latest {
            format!("{{ by = 'latest', key = '{key}', time = '{time}' }}")
        } else {
            format!("{{ by = 'key', key = '{key}', form = '{form}' }}")
        }
    });
    (dedup, order, by).prop_map(|(dedup, order, by)| {
        format!(
            "[handler.mail]\nsubject = 'orders.*'\ndedup = {{ key = '{dedup}' }}\norder = {order}\nschema_by = '{by}'\n\
             schema = 'other'\nschema_versions = {{ 'v1' = 'v1', 'v2' = 'v2' }}\n"
        )
    })
}

/// The headers of an event that has whatever a policy names.
fn event_headers(is_cloud_event: bool, key: &str, version: &str) -> Headers {
    let mut headers = list(&[
        ("Content-Type", "application/json"),
        ("X-Key", key),
        ("X-Time", "2026-01-31T12:00:00.000000001Z"),
        ("X-Version", version),
        ("tracestate", "a=1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ]);
    if is_cloud_event {
        headers.extend(list(&[
            ("CE-SpecVersion", "1.0"),
            ("ce-id", "e%201"),
            ("ce-type", "t"),
            ("ce-source", "/s"),
            ("ce-time", "2026-01-31T12:00:00.000000002Z"),
            ("ce-dataschema", version),
            ("ce-tenantid", key),
            ("ce-seen", "1769860800.000000003"),
            ("ce-version", version),
        ]));
    }
    headers
}

/// What policy makes of an event: the event, its keys, its place, and the schema that it must fit.
fn made_of(handler: &Handler, schemas: &Schemas, arrival: &Arrival) -> (Event, String) {
    let mut event = decode(arrival, handler).expect("an event");
    event.attempt = Attempt::FIRST;
    let key = handler.key_order().map(|order| order::key(order, arrival, Some(&event)));
    let place = latest::place(handler, arrival, &event);
    let admitted = schemas.admit(&event);
    let said = format!("{key:?} {place:?} {admitted:?}");
    // Headers that nothing needs may have gone.
    event.headers.clear();
    event.attributes.retain(|name, _| !name.starts_with("junk"));
    (event, said)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_message_fits_or_is_as_small_as_can_be(
        payload in 0usize..3_000, junk in prop::collection::vec(("[Xx]-[a-z]{1,8}", 0usize..2_000), 0..20), failures in 0u32..8,
        bytes_max in 0usize..40_000, what in prop::sample::select(&ALL[..]), is_queue in any::<bool>(),
    ) {
        let payload = if is_queue { QUEUE.to_owned() } else { "p".repeat(payload) };
        let needed = [("Content-Type", "text/plain"), ("ce-time", "x"), ("x-broken", "a\rb")];
        let mut arrival = failed(arrival(&needed, &payload), failures);
        arrival.headers.extend(junk.into_iter().map(|(name, length)| (name, "v".repeat(length))));
        arrival.headers_dropped = 5;
        let total = arrival.headers.len();
        match make(what, &handler(), &arrival, bytes_max) {
            Ok(publication) => {
                prop_assert!(bytes_of(&publication) <= bytes_max);
                prop_assert!(headers::wire_bytes(&publication.headers) <= HEADER_BYTES_MAX);
                let history = history_of(&publication);
                prop_assert_eq!(history.len(), failures as usize + 1);
                prop_assert!(history.to_json().len() <= HISTORY_BYTES_MAX);
                let kept = publication.headers.iter().filter(|(name, _)| !headers::is_reserved(name)).count();
                let dropped = headers::get(&publication.headers, headers::HEADERS_DROPPED);
                let dropped: usize = dropped.map_or(0, |number| number.parse().expect("a number"));
                prop_assert_eq!(kept + dropped, total + 5);
                if matches!(what, What::Retry(_)) {
                    prop_assert!(headers::get(&publication.headers, "content-type").is_some());
                    prop_assert!(headers::get(&publication.headers, "ce-time").is_some());
                }
                let is_changed = publication.payload != arrival.payload;
                prop_assert!(!is_changed || is_queue);
            }
            Err(oversized) => {
                prop_assert!(oversized.bytes > bytes_max);
                prop_assert!(make(what, &handler(), &arrival, oversized.bytes).is_ok());
            }
        }
    }

    #[test]
    fn the_next_attempt_sees_the_same_event_whatever_else_its_message_has(
        policy in any_policy(), is_cloud_event in any::<bool>(), key in "[a-z%]{0,6}", version in "v[123]",
        count in 1usize..800, before in any::<bool>(),
    ) {
        let source = manifest::Source { path: "tidemill.toml", text: &policy };
        let parsed = manifest::parse(source, &[], &|_| None).expect("a manifest").manifest;
        let handler = parsed.handlers["mail"].clone();
        let compiled = |path: &Path| {
            let text = format!("{{ \"const\": {:?} }}", path.to_str().expect("text"));
            Schema::compile("s", Path::new("/s"), &[("/s".into(), text)].into()).map_err(|error| format!("{error:?}"))
        };
        let schemas = Schemas::load(&handler.schema, compiled).expect("schemas");
        let junk = (0..count).map(|n| (format!("ce-junk{n}"), "j".repeat(60 * 1024 / count - 20)));
        let mut headers = event_headers(is_cloud_event, &key, &version);
        if before {
            headers = junk.chain(headers).collect();
        } else {
            headers.extend(junk);
        }
        let message = Message { subject: "orders.created".into(), headers, payload: "{}".into(), damage: None };
        let mut arrival = first(delivered(Publication {
            subject: message.subject, headers: message.headers, payload: message.payload,
        }), position());
        let Ok(event) = decode(&arrival, &handler) else { return Ok(()) };
        let expected = made_of(&handler, &schemas, &arrival);
        for what in [ALL[0], ALL[1], ALL[0]] {
            let publication = make(what, &handler, &arrival, 1 << 20).expect("fits");
            for name in ["traceparent", "tracestate"] {
                prop_assert!(headers::get(&publication.headers, name).is_some());
            }
            arrival = delivered_again(publication);
            prop_assert_eq!(made_of(&handler, &schemas, &arrival), expected.clone());
        }
        prop_assert_eq!(decode(&arrival, &handler).map(|event| event.id), Ok(event.id));
    }
}
