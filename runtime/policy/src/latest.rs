//! "Latest only" (`order.by = "latest"`): an event that is older than the newest processed one of its key is not
//! run, and cannot take effect after it.
//!
//! For each key the broker keeps the newest event that was processed, and the event whose outputs are being
//! published right now: its *entry*. An event enters after it was run and before its outputs are published, and
//! leaves when they are confirmed, all by compare-and-set; only then it is the newest. Others of the key wait
//! meanwhile. So the outputs of two events of a key never mix, those of the older never come last, and an attempt that
//! fails changes nothing. Where the holder of an entry dies, its event is delivered again and takes the entry over;
//! if that takes too long, a newer event of the key does.

use std::cmp::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::arrival::Arrival;
use crate::cloud_event;
use crate::decide::{Failure, rfc3339};
use crate::event::Event;
use crate::history::Kind;
use crate::id;
use crate::json_key::{self, JsonKind, Unreadable};
use crate::manifest::{Handler, Latest, OnMissing, OnStale, Order, OrderKey, OrderTime};

/// Numbers below this are seconds since the Unix epoch, others milliseconds. That is the year 5138 in the one unit
/// and March 1973 in the other. All in billionths.
const SECONDS_BELOW: i128 = 100_000_000_000 * BILLION;
/// Numbers with more digits before the point than this are neither: the year 5138 in milliseconds.
const WHOLE_DIGITS_MAX: i64 = 14;
/// How many digits behind the point count, and what that is a part of.
const FRACTION_DIGITS: i64 = 9;
const BILLION: i128 = 1_000_000_000;
/// The shortest time after which an entry that does not change is taken over from another event: a holder that lives
/// renews its entry whenever it publishes, which takes a few seconds at most.
const PATIENCE_MIN: Duration = Duration::from_secs(30);

/// One event as its key sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// When it happened, in nanoseconds since the Unix epoch.
    pub time_ns: i64,
    /// When its message was first stored, in milliseconds since the Unix epoch.
    pub stored_ms: u64,
    /// The sequence of its message in its stream.
    pub sequence: u64,
    /// Who it is: a hash.
    pub event: String,
}

/// What is remembered of a key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Newest {
    /// The newest event that was processed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processed: Option<Seen>,
    /// The event whose outputs are being published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entered: Option<Seen>,
}

/// An event and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The name under which the key's newest event is kept: it may be part of a subject.
    pub key: String,
    /// The event.
    pub mine: Seen,
    /// What the handler goes by.
    policy: Latest,
}

/// What is to be done about an event that is too old.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stale {
    /// Acknowledge it, and count it.
    Discard {
        /// Why.
        why: String,
    },
    /// Give it up, and keep it.
    DeadLetter(Failure),
}

/// What an event may do that has been run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Publish, once this is remembered.
    Enter(Newest),
    /// Wait for the one that has entered.
    Wait,
    /// Fail, and be attempted again: one that is newer has entered and does not come to an end. It may have published,
    /// so it must not be overtaken.
    Blocked,
    /// Nothing: a newer one was processed meanwhile.
    Stale,
}

impl Seen {
    /// Whether `other` is the same event. One that bears the id of another, and another time, is another event.
    fn is(&self, other: &Seen) -> bool {
        self.event == other.event && self.time_ns == other.time_ns
    }

    /// Which happened first; of events with equal times, which was stored first. Streams that are made anew start
    /// their sequences anew, so the time of storing comes before.
    fn order(&self, other: &Seen) -> Ordering {
        let place = |seen: &Seen| (seen.time_ns, seen.stored_ms, seen.sequence);
        place(self).cmp(&place(other))
    }
}

impl Newest {
    /// Whether an event is older than the newest that was processed. An event is never older than itself, however
    /// often it is delivered or sent.
    pub fn makes_stale(&self, mine: &Seen) -> bool {
        self.processed.as_ref().is_some_and(|newest| mine.order(newest).is_lt() && !mine.is(newest))
    }

    /// Decides what an event may do that has been run; `is_abandoned` says that the present entry has not changed for
    /// [`patience`].
    pub fn enter(&self, mine: &Seen, is_abandoned: bool) -> Entry {
        if self.makes_stale(mine) {
            return Entry::Stale;
        }
        match self.entered.as_ref().filter(|other| !other.is(mine)) {
            Some(_) if !is_abandoned => Entry::Wait,
            Some(other) if other.order(mine).is_gt() => Entry::Blocked,
            _ => Entry::Enter(Newest { processed: self.processed.clone(), entered: Some(mine.clone()) }),
        }
    }

    /// What is to be remembered once an event's outputs are confirmed.
    #[must_use]
    pub fn leave(&self, mine: &Seen) -> Newest {
        let newer = self.processed.as_ref().filter(|newest| newest.order(mine).is_gt());
        Newest { processed: Some(newer.unwrap_or(mine).clone()), ..self.withdraw(mine) }
    }

    /// What is to be remembered where an event has entered and is then given up, or was not published: as if it had
    /// not entered.
    #[must_use]
    pub fn withdraw(&self, mine: &Seen) -> Newest {
        let entered = self.entered.clone().filter(|entered| !entered.is(mine));
        Newest { processed: self.processed.clone(), entered }
    }
}

/// For how long an entry may stay as it is before it counts as abandoned.
pub fn patience(handler: &Handler) -> Duration {
    (handler.ack_wait * 2).max(PATIENCE_MIN)
}

/// What `order.by = "latest"` says of a handler; nothing where it says something else.
pub fn policy(handler: &Handler) -> Option<&Latest> {
    match &handler.order {
        Some(Order::Latest(latest)) => Some(latest),
        Some(Order::Key(_)) | None => None,
    }
}

/// Finds an event's key and time; nothing where the handler does not go by them, or the event has none and is to be
/// run all the same. What has a key of which there is no telling which it is never is.
///
/// # Errors
/// The failure with which an event without them goes to the dead letters.
pub fn place(handler: &Handler, arrival: &Arrival, event: &Event) -> Result<Option<Place>, Failure> {
    let Some(latest) = policy(handler) else { return Ok(None) };
    match find(latest, event) {
        Ok((key, time_ns)) => Ok(Some(Place {
            key: id::newest(&handler.name, &key),
            mine: Seen {
                time_ns,
                stored_ms: arrival.origin.time_ms,
                sequence: arrival.origin.sequence,
                event: event.token.as_str().to_owned(),
            },
            policy: latest.clone(),
        })),
        Err(Unplaced::Missing(_)) if latest.on_missing == OnMissing::Run => Ok(None),
        Err(Unplaced::Missing(why) | Unplaced::Unreadable(why)) => Err(Failure::new(Kind::Undecodable, why)),
    }
}

impl Place {
    /// What is to be done about the event where it is too old for its key.
    pub fn stale(&self, newest: &Newest) -> Stale {
        let (key, mine_ns) = (&self.policy.key, self.mine.time_ns);
        let newest_ns = newest.processed.as_ref().map_or(mine_ns, |newest| newest.time_ns);
        let mine = show(mine_ns);
        let why = if newest_ns == mine_ns {
            format!("it is of {mine}, and so is a later one of its {key}, which was processed")
        } else {
            format!("it is of {mine}, and one of its {key} of {} was processed", show(newest_ns))
        };
        match self.policy.on_stale {
            OnStale::Discard => Stale::Discard { why },
            OnStale::DeadLetter => Stale::DeadLetter(Failure::new(Kind::Stale, why)),
        }
    }
}

/// A time for people: to the millisecond, or to the nanosecond where that tells more.
fn show(time_ns: i64) -> String {
    if time_ns % 1_000_000 == 0 {
        return rfc3339(u64::try_from(time_ns / 1_000_000).unwrap_or(0));
    }
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(time_ns));
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

/// Why an event has no place among others.
enum Unplaced {
    /// It has no key or no time.
    Missing(String),
    /// It has a key, and there is no telling which.
    Unreadable(String),
}

/// The value of an event's key, and its time.
fn find(latest: &Latest, event: &Event) -> Result<(String, i64), Unplaced> {
    let key = find_key(&latest.key, event)?.filter(|key| !key.trim().is_empty()).ok_or_else(|| {
        let name = &latest.key;
        Unplaced::Missing(format!("order.key: the event has no {name}, or it is blank, null, a list or an object"))
    })?;
    let time_ns = find_time(&latest.time, event)?.ok_or_else(|| {
        let name = &latest.time;
        Unplaced::Missing(format!(
            "order.time: the event has no {name} that is RFC 3339, or seconds or milliseconds since 1970, from 1678 to 2262"
        ))
    })?;
    Ok((key, time_ns))
}

fn find_key(key: &OrderKey, event: &Event) -> Result<Option<String>, Unplaced> {
    Ok(match key {
        OrderKey::Header(name) => cloud_event::header(&event.headers, &event.attributes, name).map(str::to_owned),
        OrderKey::Attribute(name) => event.attributes.get(name).cloned(),
        OrderKey::Subject(token) => event.subject.split('.').nth(token.saturating_sub(1)).map(str::to_owned),
        OrderKey::Json(pointer) => match json_key::find(&event.payload, pointer) {
            Ok(found) => found.filter(|key| !key.is_blank()).map(|key| key.canonical().into_owned()),
            Err(error @ Unreadable::NoJson { .. }) => return Err(no_json(&error)),
            Err(error) => {
                return Err(Unplaced::Unreadable(format!("order.key: the event's {key} cannot be read: {error}")));
            }
        },
    })
}

fn find_time(time: &OrderTime, event: &Event) -> Result<Option<i64>, Unplaced> {
    Ok(match time {
        OrderTime::Event => event.time_ns.and_then(in_range),
        OrderTime::Header(name) => cloud_event::header(&event.headers, &event.attributes, name).and_then(read_time),
        OrderTime::Attribute(name) => event.attributes.get(name).and_then(|text| read_time(text)),
        OrderTime::Json(pointer) => match json_key::find(&event.payload, pointer) {
            Ok(found) => found.filter(|found| found.kind != JsonKind::Boolean).and_then(|found| read_time(&found.text)),
            Err(error @ Unreadable::NoJson { .. }) => return Err(no_json(&error)),
            Err(_) => None,
        },
    })
}

fn no_json(error: &Unreadable) -> Unplaced {
    Unplaced::Missing(format!("order: its key or time needs a JSON payload: {error}"))
}

/// Reads a time as nanoseconds since the Unix epoch: RFC 3339, or a number of seconds or milliseconds.
fn read_time(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return in_range(time.unix_timestamp_nanos());
    }
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let billionths = read_billionths(digits)?;
    let time_ns = if billionths < SECONDS_BELOW { billionths } else { billionths / 1000 };
    in_range(if is_negative { -time_ns } else { time_ns })
}

/// Reads a number that is not negative in billionths, all of whose digits count: floats have too few for the
/// nanoseconds of today. Smaller parts are left out.
fn read_billionths(text: &str) -> Option<i128> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_number = !whole.is_empty() && [whole, fraction].iter().all(|part| part.bytes().all(|b| b.is_ascii_digit()));
    let digits = || whole.bytes().chain(fraction.bytes());
    let zeros = digits().take_while(|digit| *digit == b'0').count();
    let significant = digits().count().checked_sub(zeros).filter(|_| is_number)?;
    if significant == 0 {
        return Some(0);
    }
    // How many digits stand before the point once the exponent is undone, leading zeros left out.
    let before = i64::try_from(whole.len()).ok()?.checked_sub(i64::try_from(zeros).ok()?)?.checked_add(exponent)?;
    if before > WHOLE_DIGITS_MAX {
        return None;
    }
    let Ok(wanted) = usize::try_from(before + FRACTION_DIGITS) else { return Some(0) };
    let padded = digits().skip(zeros).chain(std::iter::repeat(b'0')).take(wanted);
    Some(padded.fold(0, |number, digit| number * 10 + i128::from(digit - b'0')))
}

fn in_range(time_ns: i128) -> Option<i64> {
    i64::try_from(time_ns).ok()
}

#[cfg(test)]
mod tests;
