use proptest::prelude::*;

use super::*;
use crate::arrival::fixtures::{
    NOW_MS, any_headers, any_payload, arrival, delivered, delivered_again, error, format, handler, handler_of, list,
    position,
};
use crate::arrival::{Message, Origin, Position, first};
use crate::decode::decode;
use crate::history::History;
use crate::manifest::Format;

const DELAY: Duration = Duration::from_secs(2);
const QUEUE: &str = r#"{"id":"q1", "queue":"q","dispatch_date":"d","payload":{"a": 1},"x":1.0}"#;

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn header<'a>(publication: &'a Publication, name: &str) -> Option<&'a str> {
    headers::get(&publication.headers, name)
}

fn event_of(arrival: &Arrival) -> Event {
    decode(arrival, &handler()).expect("can be decoded")
}

fn output(headers: &[(&str, &str)]) -> Output {
    Output {
        subject: "sent.now".into(),
        kind: None,
        content_type: None,
        headers: list(headers),
        payload: Bytes::from_static(b"out"),
    }
}

/// The one message that comes of one output for the event of a message with these headers.
fn published(input: &[(&str, &str)], output: Output) -> Publication {
    let event = event_of(&arrival(input, "p"));
    outputs(&handler(), &event, vec![output]).pop().expect("one for one")
}

fn retry_of(arrival: &Arrival, event: &Event, clock: RetryClock) -> Publication {
    let case = Case { handler: &handler(), arrival, event: Some(event) };
    retry(case, "tidemill", clock, &error(arrival.attempt), NOW_MS, DELAY, usize::MAX).expect("no limit")
}

fn letter_in(format: Format, arrival: &Arrival) -> Publication {
    let handler = Handler { format, ..handler() };
    let event = decode(arrival, &handler_of(format)).ok();
    let case = Case { handler: &handler, arrival, event: event.as_ref() };
    dead_letter(case, &error(arrival.attempt), None, false, usize::MAX).expect("no limit")
}

#[test]
fn guests_cannot_set_reserved_headers() {
    let guest =
        [("NATS-Rollup", "all"), ("nats-msg-id", "x"), ("tidemill-Correlation-Id", "x"), ("X-A", "1"), ("X-A", "2")];
    let publication = published(&[(headers::MSG_ID, "m1")], output(&guest));
    let place = position().place();
    let identity = Identity { kind: IdKind::Given, scope: &Scope::Whole, id: "m1", place: Some(&place) };
    let id = Token::of("tidemill", "mail", &identity).output(0);
    let expected = list(&[
        ("X-A", "1"),
        ("X-A", "2"),
        (headers::CORRELATION_ID, "m1"),
        (headers::CAUSATION_ID, "m1"),
        (headers::MSG_ID, &id),
    ]);
    assert_eq!(publication.headers, expected);
    assert_eq!((publication.subject.as_str(), publication.payload.as_ref()), ("sent.now", b"out".as_slice()));
}

#[test]
fn an_output_with_a_kind_is_a_cloud_event_and_is_decoded_as_one() {
    let guest = [("CE-ID", "forged"), ("ce-type", "forged"), ("ce-subject", "s"), ("content-type", "a/b")];
    let output =
        Output { kind: Some("müll \"50%\"".into()), content_type: Some("text/plain".into()), ..output(&guest) };
    let publication = published(&[], output);
    assert_eq!(header(&publication, "ce-type"), Some("m%C3%BCll%20%2250%25%22"));
    let id = header(&publication, headers::MSG_ID).map(str::to_owned);
    let event = event_of(&first(delivered(publication), position()));
    assert_eq!(Some(event.id), id);
    assert_eq!(event.kind.as_deref(), Some("müll \"50%\""));
    assert_eq!(event.source.as_deref(), Some("/tidemill/mail"));
    assert_eq!(event.content_type.as_deref(), Some("text/plain"));
    assert_eq!(headers::get(&event.headers, "ce-subject"), Some("s"));
    assert_eq!(event.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("ce-id")).count(), 1);
}

#[test]
fn a_trace_is_continued_unless_the_guest_has_its_own() {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let traced = |input: &str, guest: &[(&str, &str)]| {
        let publication = published(&[("TraceParent", input)], output(guest));
        header(&publication, "traceparent").map(str::to_owned)
    };
    assert_eq!(traced(trace, &[]).as_deref(), Some(trace));
    assert_eq!(traced(trace, &[("Traceparent", "own")]).as_deref(), Some("own"));
    // These come from a producer, and could not be sent, or not with the rest.
    assert_eq!(traced("a\rb", &[]), None);
    assert_eq!(traced(&"t".repeat(60_000), &[]), None);
}

#[test]
fn outputs_follow_from_their_event() {
    let input = [(headers::CORRELATION_ID, "c0"), (headers::CAUSATION_ID, "c1"), (headers::MSG_ID, "m1")];
    let publication = published(&input, output(&[]));
    assert_eq!(header(&publication, headers::CORRELATION_ID), Some("c0"));
    assert_eq!(header(&publication, headers::CAUSATION_ID), Some("m1"));
}

#[test]
fn the_ids_of_outputs_depend_on_event_handler_and_index_but_not_on_the_attempt() {
    let arrival =
        arrival(&[("ce-specversion", "1.0"), ("ce-id", "e\u{1}"), ("ce-type", "t"), ("ce-source", "/s")], "p");
    let event = event_of(&arrival);
    let ids = |event: &Event| -> Vec<_> {
        let published = outputs(&handler(), event, vec![output(&[]), output(&[])]);
        published.iter().map(|publication| header(publication, headers::MSG_ID).map(str::to_owned)).collect()
    };
    let again = event_of(&delivered_again(retry_of(&arrival, &event, RetryClock::Schedules)));
    assert_eq!(again.attempt.get(), 2);
    assert_eq!(ids(&event), ids(&again));
    assert_ne!(ids(&event)[0], ids(&event)[1]);
    let elsewhere = Arrival { position: Position { sequence: 8, ..position() }, ..arrival.clone() };
    let elsewhere = Arrival { origin: Origin { sequence: 8, ..arrival.origin }, ..elsewhere };
    assert_ne!(ids(&event), ids(&event_of(&elsewhere)), "each message is an event of its own");
}

#[test]
fn a_retry_waits_at_the_server_where_that_can_be_had() {
    let arrival = arrival(&[("Nats-TTL", "5s"), ("X-A", "1")], "p");
    let event = event_of(&arrival);
    let (publication, token) = (retry_of(&arrival, &event, RetryClock::Schedules), event.token.as_str());
    assert_eq!(publication.subject, format!("tidemill.retry.at.mail.{token}"));
    assert_eq!(header(&publication, headers::SCHEDULE), Some("@at 2027-01-15T08:00:02.000Z"));
    assert_eq!(
        header(&publication, headers::SCHEDULE_TARGET),
        Some(format!("tidemill.retry.due.mail.{token}").as_str())
    );
    assert_eq!(header(&publication, headers::NOT_BEFORE), None);
    assert_eq!((header(&publication, "Nats-TTL"), header(&publication, "X-A")), (None, Some("1")));
}

#[test]
fn a_retry_is_delivered_with_its_time_where_the_server_cannot_wait() {
    let arrival = arrival(&[], "p");
    let event = event_of(&arrival);
    let (publication, token) = (retry_of(&arrival, &event, RetryClock::NotBefore), event.token.as_str());
    assert_eq!(publication.subject, format!("tidemill.retry.due.mail.{token}"));
    assert_eq!(header(&publication, headers::SCHEDULE), None);
    assert_eq!(delivered_again(publication).not_before_ms, Some(NOW_MS + 2_000));
}

#[test]
fn each_event_has_a_schedule_subject_of_its_own_in_all_attempts() {
    let subject = |arrival: &Arrival| retry_of(arrival, &event_of(arrival), RetryClock::Schedules).subject;
    let (one, other) = (arrival(&[(headers::MSG_ID, "a.*.>")], ""), arrival(&[(headers::MSG_ID, "b")], ""));
    let later = delivered_again(retry_of(&one, &event_of(&one), RetryClock::Schedules));
    assert_eq!(subject(&one), subject(&later));
    assert_ne!(subject(&one), subject(&other));
    assert_eq!(crate::subject::check_subject(&subject(&one)), Ok(()));
}

#[test]
fn a_repeated_retry_has_the_same_id_and_the_next_one_another() {
    let arrival = arrival(&[], "p");
    let event = event_of(&arrival);
    let [one, two] = [(); 2].map(|()| retry_of(&arrival, &event, RetryClock::Schedules));
    assert_eq!(one, two);
    let later = delivered_again(two);
    let next = retry_of(&later, &event_of(&later), RetryClock::Schedules);
    assert_ne!(header(&one, headers::MSG_ID), header(&next, headers::MSG_ID));
}

/// Within the stream's window for duplicates, the server would confirm and drop what has an id that it knows.
#[test]
fn what_a_replay_from_the_dead_letters_leads_to_is_no_duplicate_of_what_came_before() {
    let first_time = arrival(&[], "p");
    let event = event_of(&first_time);
    let earlier = [
        retry_of(&first_time, &event, RetryClock::Schedules),
        letter_in(Format::Auto, &delivered_again(retry_of(&first_time, &event, RetryClock::Schedules))),
    ];
    let mut replayed = delivered_again(earlier[1].clone());
    replayed.attempt = Attempt::FIRST;
    replayed.epoch = 1;
    let event = event_of(&replayed);
    let ids = [retry_of(&replayed, &event, RetryClock::Schedules), letter_in(Format::Auto, &replayed)];
    for (before, now) in earlier.iter().zip(&ids) {
        assert_ne!(header(before, headers::MSG_ID), header(now, headers::MSG_ID));
    }
}

#[test]
fn a_dead_letter_explains_itself() {
    let arrival = arrival(&[("X-A", "1")], "p");
    let event = event_of(&arrival);
    let case = Case { handler: &handler(), arrival: &arrival, event: Some(&event) };
    let replay = ReplayInputs { seed: "5eed".into(), clock_ms: 42 };
    let letter = dead_letter(case, &error(arrival.attempt), Some(&replay), true, usize::MAX).expect("no limit");
    assert_eq!(letter.subject, "dead.mail");
    let rows = [
        (headers::ORIGIN_STREAM, "ORDERS"),
        (headers::ORIGIN_SEQ, "7"),
        (headers::ORIGIN_SUBJECT, "orders.created"),
        (headers::ORIGIN_TIME, "1700000000123"),
        (headers::EVENT_ID, "ORDERS@1700000000123:7"),
        (headers::HANDLER, "mail"),
        (headers::ATTEMPT, "1"),
        (headers::REASON, "retry"),
        (headers::DEAD_AT, "2026-11-21T04:00:00.000Z"),
        (headers::COMPONENT, "c0ffee"),
        (headers::SEED, "5eed"),
        (headers::CLOCK, "42"),
        (headers::TTL, "3600s"),
        (headers::CORRELATION_ID, "ORDERS@1700000000123:7"),
        ("X-A", "1"),
    ];
    for (name, value) in rows {
        assert_eq!(header(&letter, name), Some(value), "{name}");
    }
    let history = header(&letter, headers::ERRORS).and_then(|json| History::from_json(json, 0).ok());
    assert_eq!(history.expect("can be read").errors, [error(arrival.attempt)]);
    let plain = dead_letter(case, &error(arrival.attempt), None, false, usize::MAX).expect("no limit");
    for name in [headers::SEED, headers::CLOCK, headers::TTL, headers::ERRORS_DROPPED, headers::HEADERS_DROPPED] {
        assert_eq!(header(&plain, name), None, "{name}");
    }
}

/// An event of which the last attempt was lost is due once more, but is not run.
#[test]
fn a_dead_letter_has_the_number_of_the_last_attempt_that_was_made() {
    let arrival = Arrival { attempt: Attempt::FIRST.plus(5), ..arrival(&[], "") };
    let last = error(Attempt::FIRST.plus(4));
    let case = Case { handler: &handler(), arrival: &arrival, event: None };
    let letter = dead_letter(case, &last, None, true, usize::MAX).expect("no limit");
    assert_eq!(header(&letter, headers::ATTEMPT), Some("5"));
}

#[test]
fn a_dead_letter_that_is_kept_for_less_than_a_second_is_kept_for_one() {
    let mut handler = handler();
    handler.dead_letter.max_age = Duration::from_millis(1);
    let arrival = arrival(&[], "");
    let case = Case { handler: &handler, arrival: &arrival, event: None };
    let letter = dead_letter(case, &error(arrival.attempt), None, true, usize::MAX).expect("no limit");
    assert_eq!(header(&letter, headers::TTL), Some("1s"));
}

#[test]
fn only_what_was_decoded_as_a_queue_message_gets_its_error_written_into_it() {
    // A CloudEvent that has all members of a queue message.
    let both = r#"{"specversion":"1.0","type":"t","source":"/s","id":"e","queue":"q","dispatch_date":"d","payload":1}"#;
    let structured: Pairs<'_> = &[("Content-Type", "application/cloudevents+json")];
    let binary: Pairs<'_> = &[("ce-specversion", "1.0"), ("ce-id", "e"), ("ce-type", "t"), ("ce-source", "/s")];
    let scalar = r#"{"id":"q1","queue":"q","dispatch_date":"d","payload":0}"#;
    let rows: [(Format, Pairs<'_>, &str, bool); 9] = [
        (Format::Auto, &[], QUEUE, true),
        (Format::Queue, &[], QUEUE, true),
        (Format::Auto, &[], scalar, true),
        (Format::Raw, &[], QUEUE, false),
        (Format::Auto, binary, QUEUE, false),
        (Format::Auto, structured, both, false),
        (Format::CloudEvents, structured, both, false),
        (Format::CloudEvents, &[], QUEUE, false),
        (Format::Queue, &[], r#"{"id":"q1","queue":"q","payload":0}"#, false),
    ];
    for (format, headers, payload, expected) in rows {
        let letter = letter_in(format, &arrival(headers, payload));
        let is_extended = letter.payload != payload;
        assert_eq!(is_extended, expected, "{format:?} {payload}");
        if is_extended {
            let text = std::str::from_utf8(&letter.payload).expect("is UTF-8");
            assert_eq!(text.matches("\"status_code\":503").count(), 1);
        }
    }
}

#[test]
fn the_errors_of_a_queue_message_add_up() {
    let mut arrival = arrival(&[], QUEUE);
    for count in 1..=3 {
        let publication = retry_of(&arrival, &event_of(&arrival), RetryClock::Schedules);
        arrival = delivered_again(publication);
        let text = std::str::from_utf8(&arrival.payload).expect("is UTF-8");
        assert_eq!(text.matches("status_code").count(), count);
        assert!(
            text.starts_with(r#"{"id":"q1","queue":"q","dispatch_date":"d","payload":{"a": 1},"x":1.0,"error":[{"#)
        );
        assert_eq!(event_of(&arrival).payload, r#"{"a": 1}"#);
    }
}

fn flood(count: usize, bytes: usize) -> Headers {
    (0..count).map(|n| (format!("X-{n:05}"), "v".repeat(bytes))).collect()
}

fn check_flood(mut arrival: Arrival) -> Publication {
    let total = arrival.headers.len();
    let mut publication = letter_in(Format::Auto, &arrival);
    for _ in 0..3 {
        let bytes = headers::wire_bytes(&publication.headers);
        assert!(bytes <= HEADER_BYTES_MAX, "{bytes}");
        let kept = publication.headers.iter().filter(|(name, _)| !headers::is_reserved(name)).count();
        let dropped = header(&publication, headers::HEADERS_DROPPED).map_or(0, |n| n.parse().expect("a number"));
        assert_eq!(kept + dropped, total);
        arrival = delivered_again(publication);
        publication = letter_in(Format::Auto, &arrival);
    }
    publication
}

#[test]
fn too_many_headers_are_left_out_and_counted_over_all_attempts() {
    for (count, bytes) in [(62, 1_000), (1, 64 * 1024), (2, 40 * 1024), (5_000, 0), (5_000, 4), (3, 1)] {
        let mut arrival = arrival(&[], "p");
        arrival.headers = flood(count, bytes);
        arrival.headers.push(("X-Line".into(), "a\rb".into()));
        arrival.headers.push(("X-Nul".into(), "a\0b".into()));
        check_flood(arrival);
    }
}

#[test]
fn room_is_made_for_our_own_headers_also_where_they_are_large() {
    let mut arrival = arrival(&[(headers::MSG_ID, &"m".repeat(5_000))], "p");
    arrival.origin.subject = "s".repeat(4 * 1024);
    arrival.headers = flood(1_000, 50);
    for attempt in 1..=30 {
        let mut error = error(arrival.attempt.plus(attempt));
        error.message = "\u{1}".repeat(5_000);
        error.stack_trace = Some("\\".repeat(50_000));
        arrival.history = arrival.history.with(error);
    }
    let publication = check_flood(arrival);
    assert!(header(&publication, headers::ORIGIN_SUBJECT).is_some_and(|subject| subject.len() == 4 * 1024));
}

/// Without them, the next attempt would see another event, or none.
#[test]
fn the_headers_that_decoding_needs_are_the_last_to_be_left_out() {
    let source = format!("/{}", "s".repeat(2_000));
    let mut arrival =
        arrival(&[("ce-specversion", "1.0"), ("ce-id", "e"), ("ce-type", "t"), ("CE-Source", &source)], "p");
    arrival.headers.extend(flood(1_000, 60));
    let before = event_of(&arrival);
    let after = event_of(&delivered_again(check_flood(arrival)));
    assert_eq!((before.id, before.source, before.kind), (after.id, after.source, after.kind));
}

/// A header of the kind that the client library lets through: no line breaks, no blanks at the ends.
fn can_arrive(name: &str, value: &str) -> bool {
    headers::is_valid_name(name) && headers::is_valid_value(value) && value.trim() == value
}

/// Headers of every kind of message, and then anything.
fn event_headers() -> impl Strategy<Value = Headers> {
    let odd = "[ -~\u{e9}\u{0}]{1,300}";
    let binary = (odd, odd).prop_map(|(id, source)| {
        list(&[("ce-specversion", "1.0"), ("ce-id", &id), ("ce-type", "t%20"), ("Ce-Source", &source)])
    });
    let structured = Just(list(&[("content-type", "application/cloudevents+json")]));
    let named = odd.prop_map(|id| list(&[(headers::MSG_ID, &id)]));
    let base = prop_oneof![Just(Headers::new()), binary, structured, named];
    (base, any_headers()).prop_map(|(base, more)| base.into_iter().chain(more).collect())
}

fn event_payload() -> impl Strategy<Value = Bytes> {
    let structured = (any::<String>(), any::<String>()).prop_map(|(id, data)| {
        serde_json::json!({"specversion": "1.0", "id": id, "type": "t", "source": id, "data": data}).to_string().into()
    });
    let queue = (any::<String>(), any::<String>()).prop_map(|(id, data)| {
        serde_json::json!({"id": id, "queue": 1, "dispatch_date": data, "payload": data, "error": data})
            .to_string()
            .into()
    });
    prop_oneof![any_payload(), structured, queue]
}

proptest! {
    #[test]
    fn an_event_survives_its_retries(
        headers in event_headers(), payload in event_payload(), format in format(), schedules in any::<bool>(), failures in 1u32..8
    ) {
        let mut headers: Headers = headers.into_iter().filter(|(name, value)| can_arrive(name, value)).collect();
        headers.sort_by(|a, b| a.0.cmp(&b.0));
        let handler = Handler { format, ..handler() };
        let clock = if schedules { RetryClock::Schedules } else { RetryClock::NotBefore };
        let message = Message { subject: "orders.created".into(), headers, payload, damage: None };
        let mut arrival = first(message, position());
        let original = arrival.clone();
        let Ok(mut expected) = decode(&arrival, &handler_of(format)) else { return Ok(()) };
        for count in 1..=failures {
            let case = Case { handler: &handler, arrival: &arrival, event: Some(&expected) };
            let was_queue_message = is_queue_format(case);
            let publication = retry(case, "tidemill", clock, &error(arrival.attempt), NOW_MS, DELAY, usize::MAX);
            let publication = publication.expect("no limit");
            for (name, value) in &publication.headers {
                prop_assert!(headers::is_valid_name(name) && headers::is_valid_value(value), "{name}: {value:?}");
            }
            arrival = delivered_again(publication);
            let event = decode(&arrival, &handler_of(format)).expect("could be decoded before");
            expected.attempt = expected.attempt.plus(1);
            prop_assert_eq!(&event, &expected);
            prop_assert_eq!(arrival.history.len(), count as usize);
            prop_assert_eq!(&arrival.headers, &original.headers);
            prop_assert_eq!(&arrival.origin, &original.origin);
            prop_assert_eq!(&arrival.damage, &None);
            if !was_queue_message {
                prop_assert_eq!(&arrival.payload, &original.payload);
            }
        }
    }

    #[test]
    fn whatever_arrives_can_be_dead_lettered(headers in any_headers(), payload in any_payload(), format in format()) {
        let message = Message { subject: "s".into(), headers, payload, damage: None };
        for arrival in [first(message.clone(), position()), crate::arrival::retried(message, position())] {
            let letter = letter_in(format, &arrival);
            prop_assert!(headers::wire_bytes(&letter.headers) <= HEADER_BYTES_MAX);
            prop_assert_eq!(header(&letter, headers::TTL), None);
        }
    }
}
