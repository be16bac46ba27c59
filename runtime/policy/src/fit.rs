//! Making room: retries and dead letters are no larger than the server and their stream accept.
//!
//! What is ours gives way first: stack traces, long messages, the middle of the history, and what was written into a
//! queue message. Then the headers of the original message that nothing needs, the largest first, and then the rest of
//! the history and what is told elsewhere too. The payload is never changed otherwise. What was left out is counted in the
//! message.

use std::cmp::Reverse;

use bytes::Bytes;
use thiserror::Error;

use crate::arrival::Arrival;
use crate::event::Headers;
use crate::headers;
use crate::history::{AttemptError, History};
use crate::manifest::Handler;
use crate::publication::HEADER_BYTES_MAX;
use crate::reads;

/// A message that cannot be made small enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("with {bytes} bytes at least, headers included, it is larger than the {bytes_max} that are accepted")]
pub struct Oversized {
    /// The bytes of the smallest message, headers and payload.
    pub bytes: usize,
    /// The most that it may have.
    pub bytes_max: usize,
}

/// What a retry or a dead letter is made of.
pub(crate) struct Parts<'a> {
    /// Headers of ours that it must have.
    pub(crate) own: Headers,
    /// What failed before.
    pub(crate) history: &'a History,
    /// What failed last.
    pub(crate) error: &'a AttemptError,
    /// The original message.
    pub(crate) arrival: &'a Arrival,
    /// Whose policy says which of the original message's headers are needed.
    pub(crate) handler: &'a Handler,
    /// The payload with the error written into it, where it is a queue message.
    pub(crate) queue_payload: fn(&[u8], &AttemptError) -> Option<Bytes>,
    /// Whether headers that the next attempt needs may be left out, where there is no other way.
    pub(crate) is_last: bool,
    /// Bytes that the server adds.
    pub(crate) added: usize,
}

/// How much of what failed is told, from all to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    All,
    WithoutTraces,
    InShort,
    FirstAndLast,
    /// The same, and the payload without the last error.
    InHeaderOnly,
    Last,
    Nothing,
}

/// The ways of telling less while all of the original headers are kept.
const WITH_ALL_HEADERS: [Told; 5] =
    [Told::All, Told::WithoutTraces, Told::InShort, Told::FirstAndLast, Told::InHeaderOnly];
/// The ways of telling less that are left when headers are left out.
const WITH_NEEDED_HEADERS: [Told; 3] = [Told::InHeaderOnly, Told::Last, Told::Nothing];
/// Headers of ours that help people only, and what the event has in its history too.
const FOR_PEOPLE: [&str; 3] = [headers::COMPONENT, headers::SEED, headers::CLOCK];
/// The bytes around the headers on the wire: their first line and the empty one at their end.
const FRAME_BYTES: usize = "NATS/1.0\r\n\r\n".len();

/// The headers and the payload of a message of at most `bytes_max` bytes, both together.
///
/// # Errors
/// Where even the smallest is larger.
pub(crate) fn fit(parts: &Parts<'_>, bytes_max: usize) -> Result<(Headers, Bytes), Oversized> {
    let originals = Originals::of(parts);
    for told in WITH_ALL_HEADERS {
        let draft = parts.draft(told);
        if originals.all_bytes() <= draft.room(bytes_max) {
            return Ok(draft.with(&originals, originals.kept.len()));
        }
    }
    for told in WITH_NEEDED_HEADERS {
        let draft = parts.draft(told);
        let room = draft.room(bytes_max);
        if originals.needed_bytes() <= room {
            return Ok(draft.with(&originals, originals.count_within(room)));
        }
    }
    let draft = parts.draft(Told::Nothing);
    let room = draft.room(bytes_max);
    if parts.is_last && room >= 0 {
        return Ok(draft.with(&originals, originals.count_within(room)));
    }
    let bytes = draft.bytes + if parts.is_last { 0 } else { originals.needed_bytes().unsigned_abs() };
    Err(Oversized { bytes, bytes_max })
}

/// A message without the headers of the original one.
struct Draft {
    own: Headers,
    payload: Bytes,
    /// The bytes of both, and of a note of how many headers were left out.
    bytes: usize,
}

impl Parts<'_> {
    fn draft(&self, told: Told) -> Draft {
        let change: fn(AttemptError) -> AttemptError = match told {
            Told::All => |error| error,
            Told::WithoutTraces => AttemptError::without_trace,
            _ => AttemptError::in_short,
        };
        let error = change(self.error.clone());
        let history = self.history.clone().map(change).with(error.clone());
        let history = match told {
            Told::All | Told::WithoutTraces | Told::InShort => history,
            Told::FirstAndLast | Told::InHeaderOnly => history.first_and_last(),
            Told::Last => history.last(1),
            Told::Nothing => history.last(0),
        };
        let is_in_payload = !matches!(told, Told::InHeaderOnly | Told::Last | Told::Nothing);
        let original = &self.arrival.payload;
        let payload = is_in_payload.then(|| (self.queue_payload)(original, &error)).flatten();
        let payload = payload.unwrap_or_else(|| original.clone());
        let mut own = self.own.clone();
        if matches!(told, Told::Last | Told::Nothing) {
            // An event without a correlation id has its own.
            let id = headers::get(&self.own, headers::EVENT_ID);
            own.retain(|(name, value)| {
                let is_implied = name == headers::CORRELATION_ID && Some(value.as_str()) == id;
                !is_implied && !FOR_PEOPLE.contains(&name.as_str())
            });
        }
        push(&mut own, headers::ERRORS, history.to_json());
        if history.dropped > 0 {
            push(&mut own, headers::ERRORS_DROPPED, history.dropped.to_string());
        }
        let may_drop = !self.arrival.headers.is_empty() || self.arrival.headers_dropped > 0;
        let note = if may_drop { headers::HEADERS_DROPPED.len() + 4 + u32::MAX.to_string().len() } else { 0 };
        let bytes = FRAME_BYTES + headers::wire_bytes(&own) + note + self.added + payload.len();
        Draft { own, payload, bytes }
    }
}

impl Draft {
    /// The bytes that are left for headers of the original message; below 0 where the message is too large already.
    fn room(&self, bytes_max: usize) -> isize {
        let left = |most: usize, used: usize| {
            let (most, used) = (isize::try_from(most), isize::try_from(used));
            most.unwrap_or(isize::MAX).saturating_sub(used.unwrap_or(isize::MAX))
        };
        left(bytes_max, self.bytes).min(left(HEADER_BYTES_MAX, self.bytes - self.payload.len()))
    }

    /// The message with the first `count` of the original headers that are to be kept.
    fn with(mut self, originals: &Originals<'_>, count: usize) -> (Headers, Bytes) {
        let list = originals.list;
        let dropped = u32::try_from(list.len() - count).unwrap_or(u32::MAX);
        let dropped = dropped.saturating_add(originals.dropped_before);
        if dropped > 0 {
            push(&mut self.own, headers::HEADERS_DROPPED, dropped.to_string());
        }
        let mut kept: Vec<_> = originals.kept.iter().take(count).map(|header| header.index).collect();
        kept.sort_unstable();
        self.own.extend(kept.into_iter().map(|index| list[index].clone()));
        (self.own, self.payload)
    }
}

/// The headers of the original message.
struct Originals<'a> {
    list: &'a Headers,
    /// How many earlier attempts had to leave out.
    dropped_before: u32,
    /// Those that can be sent: first what is needed, then the smallest.
    kept: Vec<Original>,
}

struct Original {
    index: usize,
    is_needed: bool,
    bytes: isize,
}

impl Originals<'_> {
    fn of<'a>(parts: &Parts<'a>) -> Originals<'a> {
        let list = &parts.arrival.headers;
        let mut seen = std::collections::BTreeSet::new();
        let mut kept: Vec<_> = (0..list.len())
            .filter(|&index| headers::is_valid_name(&list[index].0) && headers::is_valid_value(&list[index].1))
            .map(|index| {
                let (name, value) = &list[index];
                // Of several headers of one name, the first is read.
                let is_needed = reads::needs(parts.handler, name, value) && seen.insert(name.to_ascii_lowercase());
                let bytes = headers::wire_bytes(std::slice::from_ref(&list[index]));
                Original { index, is_needed, bytes: isize::try_from(bytes).unwrap_or(isize::MAX) }
            })
            .collect();
        kept.sort_by_key(|header| (Reverse(header.is_needed), header.bytes));
        Originals { list, dropped_before: parts.arrival.headers_dropped, kept }
    }

    fn all_bytes(&self) -> isize {
        self.kept.iter().map(|header| header.bytes).sum()
    }

    fn needed_bytes(&self) -> isize {
        self.kept.iter().filter(|header| header.is_needed).map(|header| header.bytes).sum()
    }

    /// How many of the first ones fit.
    fn count_within(&self, mut room: isize) -> usize {
        let fits = |header: &&Original| {
            room = room.saturating_sub(header.bytes);
            room >= 0
        };
        self.kept.iter().take_while(fits).count()
    }
}

fn push(list: &mut Headers, name: &str, value: impl Into<String>) {
    list.push((name.to_owned(), value.into()));
}

#[cfg(test)]
mod tests;
