//! What a message from the broker says before its payload is looked at: where the event first came
//! from, which attempt is due, and what failed before.
//!
//! A message of an input stream speaks for itself. One of our retry stream wraps the original message:
//! same payload, same headers, and headers of ours that say the rest. Only messages of the retry stream
//! are believed to carry the latter; a producer cannot forge an attempt or a history.

use bytes::Bytes;

use crate::attempt::Attempt;
use crate::event::Headers;
use crate::headers;
use crate::history::History;
use crate::id::{IdKind, Place, Token};
use crate::order;
use crate::subject;

/// A message as it came from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The subject it was published on.
    pub subject: String,
    /// All headers, in order.
    pub headers: Headers,
    /// The payload.
    pub payload: Bytes,
    /// What is wrong with the message itself, where it could not be read as the broker sent it.
    pub damage: Option<String>,
}

/// Where the broker keeps a message, and how often it has delivered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The stream's name.
    pub stream: String,
    /// When the stream was created, in seconds since the Unix epoch.
    pub stream_created_unix: i64,
    /// The message's sequence in the stream.
    pub sequence: u64,
    /// When it was stored, in milliseconds since the Unix epoch; see [`partitioned`] for copies.
    pub stored_ms: u64,
    /// How often it has been delivered, this time included.
    pub delivered: u32,
}

impl Position {
    /// The message's name, which is the same in each of its deliveries. The time is part of it, since sequences
    /// start anew when a stream is deleted and made again.
    pub fn name(&self) -> String {
        format!("{}:{}@{}", self.stream, self.sequence, self.stored_ms)
    }

    /// Where the message is.
    pub fn place(&self) -> Place {
        Place { stream: self.stream.clone(), sequence: self.sequence, stored_ms: self.stored_ms }
    }
}

/// Reads what [`Position::name`] writes; nothing where it is something else.
pub fn place_of(name: &str) -> Option<Place> {
    let (rest, stored_ms) = name.rsplit_once('@')?;
    let (stream, sequence) = rest.rsplit_once(':')?;
    let (sequence, stored_ms) = (sequence.parse().ok()?, stored_ms.parse().ok()?);
    (!stream.is_empty()).then(|| Place { stream: stream.to_owned(), sequence, stored_ms })
}

/// Which stream a delivery came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The handler's input stream.
    Input,
    /// Our retry stream, whose headers are ours.
    Retry,
    /// A stream of ours into which the server copies the events of an input stream, see [`crate::order`].
    Partition {
        /// When the input stream was created, in seconds since the Unix epoch.
        created_unix: i64,
    },
}

/// Where an event was first stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The stream's name.
    pub stream: String,
    /// The sequence in it.
    pub sequence: u64,
    /// The subject it was published on.
    pub subject: String,
    /// When it was stored, in milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// A delivery, unwrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Where the event came from.
    pub origin: Origin,
    /// Where the message that was delivered is.
    pub position: Position,
    /// Which stream that is.
    pub source: Source,
    /// The original message's headers, without reserved ones.
    pub headers: Headers,
    /// How many of the original message's headers earlier attempts had to leave out.
    pub headers_dropped: u32,
    /// The original message's payload (of a queue message, with the errors appended so far).
    pub payload: Bytes,
    /// The id that the message has for the broker.
    pub message_id: Option<String>,
    /// Who the event is, where a retry carries it.
    pub carried: Option<Carried>,
    /// Shared by all events that follow from the same first event; where absent, the event is the first.
    pub correlation_id: Option<String>,
    /// The id of the event whose handling published this one.
    pub causation_id: Option<String>,
    /// Which attempt is due: at first what the message says, see [`crate::marker::stand`].
    pub attempt: Attempt,
    /// What failed before.
    pub history: History,
    /// How often the event was replayed from the dead letters.
    pub epoch: u32,
    /// Until when a retry has to wait (milliseconds since the Unix epoch).
    pub not_before_ms: Option<u64>,
    /// What is wrong with the message, where it is damaged.
    pub damage: Option<String>,
}

/// Who an event is, as a retry or a dead letter carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// The event's id.
    pub id: String,
    /// Where that comes from; nothing in messages of the version before.
    pub kind: Option<IdKind>,
    /// What its ids are derived from; nothing in messages of the version before.
    pub token: Option<Token>,
}

impl Arrival {
    /// Where the event was first stored, as far as that tells it from others.
    pub fn place(&self) -> Place {
        let Origin { stream, sequence, time_ms, .. } = &self.origin;
        // A copy does not tell when its original was stored, see [`partitioned`].
        let stored_ms = if self.source == Source::Retry { *time_ms } else { self.position.stored_ms };
        Place { stream: stream.clone(), sequence: *sequence, stored_ms }
    }

    /// The event's id as far as it can be told without decoding the payload.
    pub fn id(&self) -> String {
        match &self.carried {
            Some(carried) => carried.id.clone(),
            None => self.own_id().1,
        }
    }

    /// The id that the message has by itself, and where it comes from.
    pub fn own_id(&self) -> (IdKind, String) {
        match &self.message_id {
            Some(id) => (IdKind::Given, id.clone()),
            None => (IdKind::Position, self.place_id()),
        }
    }

    /// The id of an event that brings none. Cleaned like any other, since a stream may have a long name and the retry
    /// is read back through the same check.
    pub fn place_id(&self) -> String {
        headers::clean_id(self.place().id())
    }

    /// Whether the broker says that it has not delivered the message before.
    pub fn is_first_delivery(&self) -> bool {
        self.position.delivered <= 1
    }
}

/// Reads a message of an input stream.
pub fn first(message: Message, position: Position) -> Arrival {
    Arrival {
        message_id: headers::get_id(&message.headers, headers::MSG_ID),
        carried: None,
        correlation_id: headers::get_id(&message.headers, headers::CORRELATION_ID),
        causation_id: headers::get_id(&message.headers, headers::CAUSATION_ID),
        attempt: Attempt::FIRST,
        history: History::default(),
        epoch: 0,
        not_before_ms: None,
        damage: message.damage,
        origin: Origin {
            stream: position.stream.clone(),
            sequence: position.sequence,
            subject: message.subject,
            time_ms: position.stored_ms,
        },
        position,
        source: Source::Input,
        headers: without_reserved(message.headers),
        headers_dropped: 0,
        payload: message.payload,
    }
}

/// Reads a message of a partition: a copy of an event, which is taken for the original, so that all copies are one;
/// or an event that has come back from the dead letters. A copy does not tell when its original was stored, so its
/// own time stands in for that, and `created_unix` of the original's stream for the time in its place.
pub fn partitioned(message: Message, position: Position, created_unix: i64) -> Arrival {
    let Some((stream, sequence)) = headers::get(&message.headers, headers::STREAM_SOURCE).and_then(stream_source)
    else {
        return retried(message, position);
    };
    let original = Position {
        stream,
        sequence,
        stream_created_unix: created_unix,
        stored_ms: u64::try_from(created_unix).unwrap_or(0).saturating_mul(1000),
        delivered: position.delivered,
    };
    let subject = order::original_subject(&message.subject).to_owned();
    let mut arrival = first(Message { subject, ..message }, original);
    arrival.origin.time_ms = position.stored_ms;
    arrival
}

/// Where a copy comes from: the header begins with the stream's name and the sequence.
fn stream_source(value: &str) -> Option<(String, u64)> {
    let mut parts = value.split(' ');
    Some((parts.next()?.to_owned(), parts.next()?.parse().ok()?))
}

/// By how much an event may have been stored after its own retry, by the clocks of servers, in milliseconds.
const CLOCKS_APART_MS: u64 = 24 * 60 * 60 * 1000;
/// The longest name of a stream, in bytes.
const STREAM_BYTES_MAX: usize = 255;

/// Reads a message of the retry stream. Damaged headers are noted in `damage` and replaced by what can
/// still be told, so that the event can be dead-lettered with what is left of it. Anybody may have written them: all
/// that they say is bounded, here or where it is used.
pub fn retried(message: Message, position: Position) -> Arrival {
    let mut damage = message.damage;
    let mut note = |what: &str| {
        damage.get_or_insert_with(|| format!("the header {what} of the retry message is missing or damaged"));
    };
    let text = |name: &str| headers::get(&message.headers, name).map(str::to_owned);
    let number = |name: &str| text(name).and_then(|value| value.parse::<u64>().ok());

    let attempt = number(headers::ATTEMPT).and_then(|n| u32::try_from(n).ok()).and_then(Attempt::new);
    if attempt.is_none() {
        note(headers::ATTEMPT);
    }
    let count = |name: &str| number(name).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let dropped = count(headers::ERRORS_DROPPED);
    let history = text(headers::ERRORS).and_then(|json| History::from_json(&json, dropped).ok());
    if history.is_none() {
        note(headers::ERRORS);
    }
    let subject = text(headers::ORIGIN_SUBJECT).filter(|subject| subject::can_be_sent_on(subject));
    if subject.is_none() {
        note(headers::ORIGIN_SUBJECT);
    }
    let id = headers::get_id(&message.headers, headers::EVENT_ID);
    if id.is_none() {
        note(headers::EVENT_ID);
    }
    let carried = id.map(|id| Carried {
        id,
        kind: text(headers::ID_KIND).and_then(|kind| IdKind::read(&kind)),
        token: text(headers::IDENTITY).and_then(|token| Token::read(&token)),
    });
    let not_before_ms = number(headers::NOT_BEFORE);
    let history = history.unwrap_or_default();
    Arrival {
        origin: Origin {
            stream: text(headers::ORIGIN_STREAM)
                .filter(|name| is_stream_name(name))
                .unwrap_or_else(|| position.stream.clone()),
            sequence: number(headers::ORIGIN_SEQ).unwrap_or(position.sequence),
            subject: subject.unwrap_or_else(|| message.subject.clone()),
            time_ms: number(headers::ORIGIN_TIME)
                .unwrap_or(position.stored_ms)
                .min(position.stored_ms.saturating_add(CLOCKS_APART_MS)),
        },
        source: Source::Retry,
        message_id: None,
        carried,
        correlation_id: headers::get_id(&message.headers, headers::CORRELATION_ID),
        causation_id: headers::get_id(&message.headers, headers::CAUSATION_ID),
        attempt: attempt.unwrap_or(Attempt::FIRST),
        epoch: count(headers::REPLAY),
        history,
        not_before_ms,
        damage,
        headers_dropped: count(headers::HEADERS_DROPPED),
        headers: without_reserved(message.headers),
        payload: message.payload,
        position,
    }
}

fn is_stream_name(text: &str) -> bool {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\');
    (1..=STREAM_BYTES_MAX).contains(&text.len()) && !text.contains(forbidden)
}

fn without_reserved(mut headers: Headers) -> Headers {
    headers.retain(|(name, _)| !headers::is_reserved(name));
    headers
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
