//! What the tests of the event's path start from.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Arrival, Message, Position, first, retried};
use crate::attempt::Attempt;
use crate::budget::Budget;
use crate::event::Headers;
use crate::history::{AttemptError, Kind};
use crate::manifest::{
    AckMode, Allow, Backoff, DeadLetterPolicy, Format, Handler, HttpPolicy, Isolation, KeyValuePolicy, Limits, Mode,
    Reload, RetryPolicy, SchemaPolicy,
};
use crate::publication::Publication;

pub(crate) const NOW_MS: u64 = 1_800_000_000_000;

pub(crate) fn list(pairs: &[(&str, &str)]) -> Headers {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub(crate) fn message(headers: &[(&str, &str)], payload: &str) -> Message {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    Message { subject: "orders.created".into(), headers: list(headers), payload, damage: None }
}

pub(crate) fn position() -> Position {
    Position {
        stream: "ORDERS".into(),
        stream_created_unix: 1_700_000_000,
        sequence: 7,
        stored_ms: 1_700_000_000_123,
        delivered: 1,
    }
}

pub(crate) fn retry_position() -> Position {
    Position { stream: "TIDEMILL_RETRY".into(), sequence: 900, stored_ms: NOW_MS, ..position() }
}

pub(crate) fn arrival(headers: &[(&str, &str)], payload: &str) -> Arrival {
    first(message(headers, payload), position())
}

/// The publication as the broker delivers it: values without the blanks around them, headers sorted by name.
pub(crate) fn delivered(publication: Publication) -> Message {
    let mut headers = publication.headers;
    for (_, value) in &mut headers {
        *value = value.trim().to_owned();
    }
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    Message { subject: publication.subject, headers, payload: publication.payload, damage: None }
}

pub(crate) fn delivered_again(publication: Publication) -> Arrival {
    retried(delivered(publication), retry_position())
}

pub(crate) fn handler() -> Handler {
    Handler {
        name: "mail".into(),
        prefix: "tidemill".into(),
        component: "mail.wasm".into(),
        subjects: vec!["orders.>".into()],
        stream: None,
        create_stream: false,
        durable: "tidemill-mail".into(),
        mode: Mode::Queue,
        format: Format::Auto,
        concurrency: 1,
        ack: AckMode::Plain,
        ack_wait: Duration::from_secs(30),
        max_age: None,
        schema: SchemaPolicy::default(),
        dedup: None,
        order: None,
        config: BTreeMap::new(),
        secrets: BTreeMap::new(),
        isolation: Isolation::Handler,
        outputs: crate::manifest::Outputs::Each,
        limits: Limits {
            budget: Budget { timeout: Duration::from_secs(1), fuel: 1, memory_bytes: 1, outputs: 1, output_bytes: 1 },
            payload_bytes: 1024,
            reuse: 1,
        },
        retry: RetryPolicy {
            max_attempts: 5,
            backoff: Backoff::Exponential,
            initial: Duration::from_millis(500),
            max: Duration::from_mins(1),
            multiplier: 2.0,
            jitter: 0.2,
            in_memory: Duration::ZERO,
            on: Vec::new(),
        },
        circuit_breaker: None,
        outage_brake: true,
        rate_limit: None,
        dead_letter: DeadLetterPolicy { subject: "dead.mail".into(), max_age: Duration::from_hours(1), on: Vec::new() },
        allow: Allow { publish: vec!["sent.>".into()], ..Allow::default() },
        http: HttpPolicy {
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
            response_bytes: 1 << 20,
            in_flight: 16,
            rate_limit: None,
            circuit_breaker: None,
        },
        keyvalue: KeyValuePolicy { value_bytes: 1 << 20, operations: 1000 },
        reload: Reload {
            guard: Some(Duration::from_secs(30)),
            max_failure_ratio: 0.5,
            min_events: 20,
            canary: 1.0,
            rerun: false,
        },
    }
}

pub(crate) fn handler_of(format: Format) -> Handler {
    Handler { format, ..handler() }
}

pub(crate) fn error(attempt: Attempt) -> AttemptError {
    AttemptError {
        date: "2026-11-21T04:00:00.000Z".into(),
        attempt: attempt.get(),
        kind: Kind::Retry,
        status_code: Some(503),
        message: "try \"again\"\r\nlater".into(),
        stack_trace: Some("a\nb".into()),
        handler: "mail".into(),
        component: "c0ffee".into(),
        instance: "host-1".into(),
        duration_ms: 3,
        fuel_used: 4,
        memory_peak: 5,
    }
}

pub(crate) fn format() -> impl Strategy<Value = Format> {
    prop_oneof![Just(Format::Auto), Just(Format::Raw), Just(Format::CloudEvents), Just(Format::Queue)]
}

/// Headers as a hostile producer might send them: names that mean something to us, and values that are almost
/// what they should be.
pub(crate) fn any_headers() -> impl Strategy<Value = Headers> {
    const NAMES: &[&str] = &[
        "ce-specversion",
        "CE-ID",
        "ce-type",
        "ce-source",
        "ce-time",
        "content-type",
        "traceparent",
        "Nats-Msg-Id",
        "Tidemill-Origin-Seq",
        "Tidemill-Origin-Time",
        "Tidemill-Origin-Subject",
        "Tidemill-Event-Id",
        "Tidemill-Id-Kind",
        "Tidemill-Identity",
        "Tidemill-Attempt",
        "Tidemill-Errors",
        "Tidemill-Errors-Dropped",
        "Tidemill-Headers-Dropped",
        "Tidemill-Not-Before",
        "Tidemill-Correlation-Id",
        "X-Tenant",
    ];
    let values = prop_oneof![
        3 => any::<String>(),
        1 => Just(String::new()),
        2 => Just("1.0".to_owned()),
        1 => any::<u64>().prop_map(|number| number.to_string()),
        1 => Just("[]".to_owned()),
        1 => Just("application/cloudevents+json; charset=utf-8".to_owned()),
        1 => Just("2026-11-21T04:00:00Z".to_owned()),
        1 => Just("%zz%C3%28%".to_owned()),
        1 => "[a-z\u{e9}\u{0}-\u{20}]{0,400}",
    ];
    let name = prop_oneof![9 => prop::sample::select(NAMES).prop_map(str::to_owned), 1 => any::<String>()];
    prop::collection::vec((name, values), 0..12)
}

/// Payloads that are nothing, anything, or almost something.
pub(crate) fn any_payload() -> impl Strategy<Value = Bytes> {
    let json = "\\{(\"(id|queue|dispatch_date|payload|error|specversion|type|source|data|data_base64|time)\":\
                (\"1.0\"|\"\"|\"x\"|null|1e999|\\[\\]|\\{\\}|\"YQ==\"|\"2026-11-21T04:00:00Z\"),){0,9}\"z\":0\\}";
    let queue = "\\{\"id\":\"[ a-z\\t]{0,3}\",\"queue\":\"q\",\"dispatch_date\":\"d\",\"payload\":[0-9]{1,9}\\}";
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from),
        json.prop_map(Bytes::from),
        queue.prop_map(Bytes::from),
        any::<String>().prop_map(Bytes::from),
    ]
}
