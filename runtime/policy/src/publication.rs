//! The messages that decisions lead to: outputs, retries and dead letters, ready to be sent.

use std::time::Duration;

use bytes::Bytes;

use crate::arrival::Arrival;
use crate::attempt::Attempt;
use crate::decide::rfc3339;
use crate::event::{Event, Headers, Output};
use crate::fit::{self, Parts};
use crate::headers;
use crate::history::{AttemptError, millis};
use crate::id::{IdKind, Identity, Scope, Token};
use crate::manifest::{Handler, Mode, Outputs};
use crate::queue_message;
use crate::retry;

/// A message to be stored by `JetStream`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Where to publish.
    pub subject: String,
    /// All headers, the broker's id for duplicate detection among them.
    pub headers: Headers,
    /// The payload.
    pub payload: Bytes,
}

/// Servers refuse messages with more than 64 KiB of headers; some room is left for what the client adds.
pub const HEADER_BYTES_MAX: usize = 60 * 1024;

/// The longest `traceparent` that is continued. Version 00 has 55 bytes; later ones may append to it.
const TRACEPARENT_BYTES_MAX: usize = 256;

pub use crate::fit::Oversized;

/// How retries wait for their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryClock {
    /// The server holds the message back and delivers it when it is due (API level 2 and up).
    Schedules,
    /// The message is delivered at once and handed back with the rest of the delay.
    NotBefore,
}

/// The messages for a handler's outputs, in order. Those that are stored together say how many they are.
pub fn outputs(handler: &Handler, event: &Event, outputs: Vec<Output>) -> Vec<Publication> {
    let count = outputs.len();
    let messages = (0..).zip(outputs).map(|(index, output)| {
        let mut message = publish_output(handler, event, index, output);
        if handler.outputs == Outputs::Atomic {
            push(&mut message.headers, headers::OUTPUTS, count.to_string());
        }
        message
    });
    messages.collect()
}

fn publish_output(handler: &Handler, event: &Event, index: u32, output: Output) -> Publication {
    let id = event.token.output(index);
    let mut list = output.headers;
    list.retain(|(name, _)| !headers::is_reserved(name));
    if let Some(kind) = output.kind {
        for name in ["ce-specversion", "ce-id", "ce-type", "ce-source"] {
            remove(&mut list, name);
        }
        push(&mut list, "ce-specversion", "1.0");
        push(&mut list, "ce-id", &id);
        push(&mut list, "ce-type", percent_encode(&kind));
        push(&mut list, "ce-source", format!("/tidemill/{}", handler.name));
    }
    if let Some(content_type) = output.content_type {
        remove(&mut list, headers::CONTENT_TYPE);
        push(&mut list, headers::CONTENT_TYPE, content_type);
    }
    if headers::get(&list, headers::TRACEPARENT).is_none()
        && let Some(trace) = headers::get(&event.headers, headers::TRACEPARENT)
        && trace.len() <= TRACEPARENT_BYTES_MAX
        && headers::is_valid_value(trace)
    {
        push(&mut list, headers::TRACEPARENT, trace);
    }
    push(&mut list, headers::CORRELATION_ID, &event.correlation_id);
    push(&mut list, headers::CAUSATION_ID, &event.id);
    push(&mut list, headers::MSG_ID, id);
    Publication { subject: output.subject, headers: list, payload: output.payload }
}

/// What a retry or a dead letter is about.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The handler that failed.
    pub handler: &'a Handler,
    /// The delivery it failed on.
    pub arrival: &'a Arrival,
    /// The event, where the message could be decoded.
    pub event: Option<&'a Event>,
}

impl Case<'_> {
    /// What the event's ids on the wire are derived from. A message that is no event is told by its place alone: nothing
    /// else of it is sure.
    pub fn token(&self) -> Token {
        let carried = || self.arrival.carried.as_ref().and_then(|carried| carried.token.clone());
        if let Some(token) = self.event.map(|event| event.token.clone()).or_else(carried) {
            return token;
        }
        let (id, place) = (self.arrival.place_id(), self.arrival.place());
        let identity = Identity { kind: IdKind::Position, scope: &Scope::Whole, id: &id, place: Some(&place) };
        Token::of(&self.handler.prefix, &self.handler.name, &identity)
    }

    /// The event's id, and where it comes from.
    pub fn id(&self) -> (Option<IdKind>, String) {
        match (self.event, &self.arrival.carried) {
            (Some(event), _) => (Some(event.id_kind), event.id.clone()),
            (None, Some(carried)) => (carried.kind, carried.id.clone()),
            (None, None) => {
                let (kind, id) = self.arrival.own_id();
                (Some(kind), id)
            }
        }
    }
}

/// The subject on which the due retry of an event is delivered: one for each event, so that it can be told whether there
/// is one. Where the event's token is not known, as in messages of the version before, they share one.
pub fn retry_due_subject(prefix: &str, handler: &str, token: Option<&Token>) -> String {
    match token {
        Some(token) => format!("{prefix}.retry.due.{handler}.{}", token.as_str()),
        None => format!("{prefix}.retry.due.{handler}"),
    }
}

/// The subjects on which a handler's due retries are delivered.
pub fn retry_due_filters(prefix: &str, handler: &str) -> [String; 2] {
    [format!("{prefix}.retry.due.{handler}"), format!("{prefix}.retry.due.{handler}.*")]
}

/// The subject on which the server holds the retry of an event back until it is due: a schedule can be replaced or
/// cancelled, never doubled.
pub fn retry_schedule_subject(prefix: &str, handler: &str, token: &Token) -> String {
    format!("{prefix}.retry.at.{handler}.{}", token.as_str())
}

/// The message that brings an event back after `delay`, with `error` added to its history. It has at most `bytes_max`
/// bytes, headers and payload together: `fit.rs` says what gives way.
///
/// # Errors
/// Where it would be larger though all is left out that the next attempt can do without.
pub fn retry(
    case: Case<'_>,
    prefix: &str,
    clock: RetryClock,
    error: &AttemptError,
    now_ms: u64,
    delay: Duration,
    bytes_max: usize,
) -> Result<Publication, Oversized> {
    let handler = &case.handler.name;
    let failed = case.arrival.attempt;
    let due_ms = now_ms.saturating_add(millis(delay));
    let token = case.token();
    let due_subject = retry_due_subject(prefix, handler, Some(&token));
    let msg_id = token.retry(&case.arrival.position.name());
    let mut own = case_headers(case, failed.plus(1));
    push(&mut own, headers::MSG_ID, msg_id);
    let (subject, added) = match clock {
        RetryClock::Schedules => {
            let subject = retry_schedule_subject(prefix, handler, &token);
            // When it is due, the server stores it once more, and says of which schedule it is instead of these.
            let replaced = [
                (headers::SCHEDULE.to_owned(), format!("@at {}", rfc3339(due_ms))),
                (headers::SCHEDULE_TARGET.to_owned(), due_subject),
            ];
            let added = [(headers::SCHEDULER, subject.as_str()), (headers::SCHEDULE_NEXT, "purge")];
            let added = headers::wire_bytes(&added.map(|(name, value)| (name.to_owned(), value.to_owned())));
            let added = added.saturating_sub(headers::wire_bytes(&replaced));
            own.extend(replaced);
            (subject, added)
        }
        RetryClock::NotBefore => {
            push(&mut own, headers::NOT_BEFORE, due_ms.to_string());
            (due_subject, 0)
        }
    };
    let (headers, payload) = fit::fit(&parts(case, own, error, false, added), bytes_max)?;
    Ok(Publication { subject, headers, payload })
}

/// What a replay of the last attempt needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayInputs {
    /// The random seed, as text.
    pub seed: String,
    /// The time that the handler saw, in milliseconds since the Unix epoch.
    pub clock_ms: u64,
}

/// The dead letter of an event: its payload unchanged, its whole history, and why and when it was given up
/// on. It has at most `bytes_max` bytes, headers and payload together: `fit.rs` says what gives way.
///
/// # Errors
/// Where it would be larger though all is left out but the event's id, its origin, its attempt and the reason.
pub fn dead_letter(
    case: Case<'_>,
    error: &AttemptError,
    replay: Option<&ReplayInputs>,
    ttl: bool,
    bytes_max: usize,
) -> Result<Publication, Oversized> {
    let policy = &case.handler.dead_letter;
    let msg_id = case.token().dead_letter(&case.arrival.position.name(), case.arrival.epoch);
    // Where all attempts are used up, one more is due, but not made.
    let last_made = Attempt::new(error.attempt).unwrap_or(case.arrival.attempt);
    let mut own = case_headers(case, last_made);
    push(&mut own, headers::MSG_ID, msg_id);
    push(&mut own, headers::REASON, error.kind.to_string());
    push(&mut own, headers::DEAD_AT, &error.date);
    push(&mut own, headers::COMPONENT, &error.component);
    if let Some(replay) = replay {
        push(&mut own, headers::SEED, &replay.seed);
        push(&mut own, headers::CLOCK, replay.clock_ms.to_string());
    }
    if ttl {
        push(&mut own, headers::TTL, format!("{}s", policy.max_age.as_secs().max(1)));
    }
    let (headers, payload) = fit::fit(&parts(case, own, error, true, 0), bytes_max)?;
    Ok(Publication { subject: policy.subject.clone(), headers, payload })
}

/// What a retry or a dead letter is made of; what failed is added where there is room.
fn parts<'a>(case: Case<'a>, own: Headers, error: &'a AttemptError, is_last: bool, added: usize) -> Parts<'a> {
    let queue_payload =
        if is_queue_format(case) { queue_message::with_error } else { |_: &[u8], _: &AttemptError| None };
    let (arrival, handler) = (case.arrival, case.handler);
    Parts { own, history: &arrival.history, error, arrival, handler, queue_payload, is_last, added }
}

/// Whether retries of a handler go through the retry stream. In broadcast mode each instance retries its own
/// copy in place, since the stream is shared by all of them.
pub fn retries_through_stream(handler: &Handler) -> bool {
    handler.mode == Mode::Queue
}

/// How late the outputs of a handler's event can be published once more: after a redelivery that is followed
/// by all retries.
pub fn repeats_within(handler: &Handler) -> Duration {
    handler.ack_wait.saturating_add(retry::span(&handler.retry, handler.limits.budget.timeout))
}

/// For how long a stream that we make for users recognises duplicates, where they are to be expected within
/// `repeats_within`: as far as that is sensible, since the server keeps the ids in its memory.
pub fn provided_window(repeats_within: Duration) -> Duration {
    repeats_within.clamp(Duration::from_mins(2), Duration::from_hours(1))
}

/// The headers that retries and dead letters have in common.
fn case_headers(case: Case<'_>, attempt: Attempt) -> Headers {
    let origin = &case.arrival.origin;
    let mut own = Headers::new();
    push(&mut own, headers::ORIGIN_STREAM, &origin.stream);
    push(&mut own, headers::ORIGIN_SEQ, origin.sequence.to_string());
    push(&mut own, headers::ORIGIN_SUBJECT, &origin.subject);
    push(&mut own, headers::ORIGIN_TIME, origin.time_ms.to_string());
    let (kind, id) = case.id();
    push(&mut own, headers::EVENT_ID, id);
    if let Some(kind) = kind {
        push(&mut own, headers::ID_KIND, kind.as_str());
    }
    push(&mut own, headers::IDENTITY, case.token().as_str());
    push(&mut own, headers::HANDLER, &case.handler.name);
    push(&mut own, headers::ATTEMPT, attempt.to_string());
    if case.arrival.epoch > 0 {
        push(&mut own, headers::REPLAY, case.arrival.epoch.to_string());
    }
    let correlation_id = case.event.map(|event| &event.correlation_id).or(case.arrival.correlation_id.as_ref());
    if let Some(id) = correlation_id {
        push(&mut own, headers::CORRELATION_ID, id);
    }
    if let Some(id) = &case.arrival.causation_id {
        push(&mut own, headers::CAUSATION_ID, id);
    }
    own
}

/// Whether decoding took the payload for a queue message.
fn is_queue_format(case: Case<'_>) -> bool {
    use crate::manifest::Format;
    match case.handler.format {
        Format::Queue => case.event.is_some(),
        Format::Auto => {
            // Of a raw message, the event has the whole payload; a CloudEvent has a kind.
            let is_part = |event: &Event| event.payload.len() < case.arrival.payload.len();
            case.event.is_some_and(|event| event.kind.is_none() && is_part(event))
        }
        Format::Raw | Format::CloudEvents => false,
    }
}

fn push(headers: &mut Headers, name: &str, value: impl Into<String>) {
    headers.push((name.to_owned(), value.into()));
}

fn remove(headers: &mut Headers, name: &str) {
    headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
}

/// Percent-encodes a `CloudEvents` attribute for a header (HTTP binding, section 3.1.3.2): anything that is
/// not visible ASCII, and the double quote and the percent sign.
fn percent_encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'"' && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests;
