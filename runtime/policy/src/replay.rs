//! What people do with events that wait or were given up on: look at them, bring a retry forward, replay a dead
//! letter.
//!
//! Stored messages are read here as they are, and anybody may have edited them: what they do not say is left
//! open, and what a replay cannot do without is asked for by name.

use std::time::{Duration, UNIX_EPOCH};

use thiserror::Error;

use crate::arrival::{self, Arrival, Message, Position};
use crate::event::Headers;
use crate::headers;
use crate::history::{History, millis};
use crate::id::{self, Action, Token};
use crate::manifest::{self, Handler};
use crate::order;
use crate::publication::{Publication, retry_due_subject};
use crate::subject;

/// A retry that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// When it is due, in milliseconds since the Unix epoch; nothing where it is due already.
    pub due_ms: Option<u64>,
    /// The event, the attempt that is due, and what failed before.
    pub arrival: Arrival,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The handler that gave up, where the message says so.
    pub handler: Option<String>,
    /// Why: a kind of failure.
    pub reason: Option<String>,
    /// When, in RFC 3339.
    pub dead_at: Option<String>,
    /// The digest of the component that handled the event last.
    pub component: Option<String>,
    /// The random seed of the last attempt.
    pub seed: Option<String>,
    /// The time that the handler saw in the last attempt, in milliseconds since the Unix epoch.
    pub clock_ms: Option<u64>,
    /// The event, the last attempt made, and what failed.
    pub arrival: Arrival,
}

/// Why a dead letter cannot be replayed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("its header {header} is missing or damaged")]
pub struct Unreplayable {
    /// The header without which the event would be another one, or lose its history.
    pub header: &'static str,
}

/// The headers of a dead letter that a replay keeps; those that it must have are renewed.
const KEPT: [&str; 6] = [
    headers::ORIGIN_STREAM,
    headers::ORIGIN_SEQ,
    headers::ORIGIN_TIME,
    headers::ERRORS_DROPPED,
    headers::ID_KIND,
    headers::IDENTITY,
];

/// Reads a message of the retry stream.
pub fn waiting(message: Message, position: Position) -> Waiting {
    let scheduled_ms = headers::get(&message.headers, headers::SCHEDULE).and_then(schedule_ms);
    let arrival = arrival::retried(message, position);
    Waiting { due_ms: scheduled_ms.or(arrival.not_before_ms), arrival }
}

/// Reads a dead letter.
pub fn letter(message: Message, position: Position) -> Letter {
    let list = &message.headers;
    Letter {
        handler: text(list, headers::HANDLER).filter(|name| manifest::is_handler_name(name)),
        reason: text(list, headers::REASON),
        dead_at: text(list, headers::DEAD_AT),
        component: text(list, headers::COMPONENT),
        seed: text(list, headers::SEED),
        clock_ms: number(list, headers::CLOCK),
        arrival: arrival::retried(message, position),
    }
}

/// The message that makes a waiting retry due now. Where the server holds the retry back, storing the message
/// cancels that, and the server refuses it if the retry has become due or was replaced in the meantime; else the
/// message read must be deleted once this one is stored. Both have the same id however often this is done.
pub fn hurry(message: &Message, position: &Position, prefix: &str, handler: &str) -> Publication {
    let mut list = sendable(&message.headers);
    list.retain(|(name, _)| !is_of_broker(name) && !name.eq_ignore_ascii_case(headers::NOT_BEFORE));
    push(&mut list, headers::MSG_ID, by_hand(message, position, prefix, handler, Action::Hurry));
    if is_scheduled(message) {
        push(&mut list, headers::SCHEDULER, &message.subject);
        push(&mut list, headers::SCHEDULE_NEXT, "purge");
        push(&mut list, headers::EXPECTED_LAST_SEQ, position.sequence.to_string());
        push(&mut list, headers::EXPECTED_LAST_SEQ_SUBJECT, &message.subject);
    }
    let subject = retry_due_subject(prefix, handler, token(message).as_ref());
    Publication { subject, headers: list, payload: message.payload.clone() }
}

/// Whether the server holds a retry back and delivers it when it is due.
pub fn is_scheduled(message: &Message) -> bool {
    headers::get(&message.headers, headers::SCHEDULE).is_some()
}

/// The message that has the event of a dead letter attempted again, from attempt 1, with its id, its origin and
/// its history; `policy` is its handler's, where that is still in the manifest. `runs` is the latest run of the event that is
/// known, which this one follows. The same dead letter and run always give the same message, with the same id.
///
/// # Errors
/// Where the dead letter lacks what the event cannot do without.
pub fn replay(
    message: &Message,
    position: &Position,
    prefix: &str,
    handler: &str,
    policy: Option<&Handler>,
    runs: u32,
) -> Result<Publication, Unreplayable> {
    let damaged = |header| Unreplayable { header };
    let all = &message.headers;
    let event_id = headers::get_id(all, headers::EVENT_ID).ok_or(damaged(headers::EVENT_ID))?;
    let subject = text(all, headers::ORIGIN_SUBJECT).filter(|subject| subject::can_be_sent_on(subject));
    let subject = subject.ok_or(damaged(headers::ORIGIN_SUBJECT))?;
    let errors = text(all, headers::ERRORS).ok_or(damaged(headers::ERRORS))?;
    History::from_json(&errors, 0).map_err(|_| damaged(headers::ERRORS))?;
    let replays: u32 = match headers::get(all, headers::REPLAY) {
        None => 0,
        Some(count) => count.parse().map_err(|_| damaged(headers::REPLAY))?,
    };
    let epoch = replays.max(runs).checked_add(1).ok_or(damaged(headers::REPLAY))?;

    let mut list = Headers::new();
    for name in KEPT {
        if let Some(value) = text(all, name) {
            push(&mut list, name, value);
        }
    }
    let target = order::return_subject(prefix, handler, policy, &subject, token(message).as_ref());
    push(&mut list, headers::ORIGIN_SUBJECT, subject);
    push(&mut list, headers::EVENT_ID, event_id);
    push(&mut list, headers::HANDLER, handler);
    push(&mut list, headers::ATTEMPT, "1");
    push(&mut list, headers::ERRORS, errors);
    push(&mut list, headers::REPLAY, epoch.to_string());
    push(&mut list, headers::MSG_ID, by_hand(message, position, prefix, handler, Action::Replay(epoch)));
    for name in [headers::CORRELATION_ID, headers::CAUSATION_ID] {
        if let Some(id) = headers::get_id(all, name) {
            push(&mut list, name, id);
        }
    }
    let own = sendable(all).into_iter().filter(|(name, _)| !headers::is_reserved(name)).collect::<Headers>();
    let unsent = all.iter().filter(|(name, _)| !headers::is_reserved(name)).count() - own.len();
    let dropped = number::<u32>(all, headers::HEADERS_DROPPED).unwrap_or(0);
    let dropped = dropped.saturating_add(u32::try_from(unsent).unwrap_or(u32::MAX));
    if dropped > 0 {
        push(&mut list, headers::HEADERS_DROPPED, dropped.to_string());
    }
    list.extend(own);
    Ok(Publication { subject: target, headers: list, payload: message.payload.clone() })
}

/// The id of a message that is made from a stored one.
fn by_hand(message: &Message, position: &Position, prefix: &str, handler: &str, action: Action) -> String {
    let event_id = headers::get(&message.headers, headers::EVENT_ID).unwrap_or_default();
    id::by_hand(prefix, handler, &position.place(), event_id, action)
}

/// What the ids of the message's event are derived from, where it says so.
fn token(message: &Message) -> Option<Token> {
    headers::get(&message.headers, headers::IDENTITY).and_then(Token::read)
}

/// When a schedule of ours is due: `@at` and a time.
fn schedule_ms(schedule: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339(schedule.strip_prefix("@at ")?.trim()).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since: Duration| millis(since))
}

/// The headers that can be sent at all.
fn sendable(list: &Headers) -> Headers {
    let can_be_sent =
        |(name, value): &&(String, String)| headers::is_valid_name(name) && headers::is_valid_value(value);
    list.iter().filter(can_be_sent).cloned().collect()
}

fn is_of_broker(name: &str) -> bool {
    name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"))
}

/// A header's value, where it can be sent on.
fn text(list: &Headers, name: &str) -> Option<String> {
    headers::get(list, name).filter(|value| headers::is_valid_value(value)).map(str::to_owned)
}

fn number<T: std::str::FromStr>(list: &Headers, name: &str) -> Option<T> {
    headers::get(list, name)?.parse().ok()
}

fn push(list: &mut Headers, name: &str, value: impl Into<String>) {
    list.push((name.to_owned(), value.into()));
}

#[cfg(test)]
mod tests;
