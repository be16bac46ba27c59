//! What is remembered of an event between its deliveries: that it is done, that it was given up, that somebody
//! is running it, or which of its attempts have failed and what was decided then.
//!
//! The broker keeps one marker for each event and handler, and replaces it only by compare-and-set. A failed
//! attempt is recorded before anything follows from it, so that whoever sees the event again carries out the
//! same decision and neither runs it once more nor forgets the failure. A success without `dedup` leaves no
//! marker: the derived ids of its outputs are enough.

use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::arrival::{Arrival, Source};
use crate::attempt::Attempt;
use crate::decide::{Failure, Stamp};
use crate::history::{AttemptError, History, Kind, millis};
use crate::id::{self, Identity};
use crate::latest::{self, Newest};
use crate::manifest::Handler;
use crate::retry;

/// What is known of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Marker {
    /// It was handled, and its outputs are stored.
    Done,
    /// It was given up on, and its dead letter is stored.
    Dead,
    /// An instance is running it.
    Claimed {
        /// The instance's name.
        instance: String,
    },
    /// It has failed, or was handed back, and goes on.
    Open(Progress),
    /// Nobody has what this is about any more, see [`leader`].
    Released,
    /// Of a key of `order` and not of an event: an event that was given up on holds it up.
    Parked {
        /// The event's id.
        event: String,
    },
    /// Of a key of `order` and not of an event: its newest event.
    Newest(Newest),
}

/// How far an event has come without an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The message that was worked on, see [`crate::arrival::Position::name`].
    pub message: String,
    /// For how many of that message's deliveries the attempts below account.
    pub deliveries: u32,
    /// How many attempts have been made.
    pub attempts: u32,
    /// What failed.
    pub errors: Vec<AttemptError>,
    /// How many errors were dropped from the middle.
    #[serde(default)]
    pub dropped: u32,
    /// What is to follow.
    pub next: Next,
}

/// What follows a recorded failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// Another attempt on the same message, due at this time (milliseconds since the Unix epoch).
    Attempt(u64),
    /// A retry message, due at this time (milliseconds since the Unix epoch).
    Retry(u64),
    /// A dead letter.
    DeadLetter,
}

/// Where an event stands when one of its messages is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its next attempt is due; the arrival says which.
    Due,
    /// It has ended, or another message carries it on: this one has nothing left to do.
    Superseded,
    /// Another instance is running it.
    Claimed,
    /// Its last attempt failed with this error, which is not in the arrival's history, and this is to follow.
    Failed(AttemptError, Next),
}

/// For how long the broker keeps a record of failures after what follows them is due, and without `dedup` the end
/// of an event. It is needed for as long as the message it is about may be delivered again.
const OPEN_AGE_MIN: Duration = Duration::from_hours(24);
/// The longest that a claim may outlive its holder, as a multiple of `ack_wait`.
const CLAIM_ACK_WAITS: u32 = 2;
/// The most lost attempts that get an entry of their own in the history.
const LOST_SHOWN_MAX: u32 = 16;

/// The name under which an event's marker is kept: it may be part of a subject. With `dedup`, messages of one
/// identity have one marker, else each message has its own. A replay is another run of the same event.
pub fn key(handler: &Handler, identity: Identity<'_>, arrival: &Arrival) -> String {
    let origin = &arrival.origin;
    let stored_ms = if arrival.source == Source::Retry { origin.time_ms } else { arrival.position.stored_ms };
    let place = match handler.dedup {
        Some(_) => String::new(),
        None => format!("{}:{}:{stored_ms}", origin.stream, origin.sequence),
    };
    id::marker(identity, &handler.name, &place, arrival.epoch)
}

/// The name of the marker that says which instance is the active one of a handler: claimed, or released.
pub fn leader(handler: &Handler) -> String {
    id::marker(Identity { source: None, id: "" }, &handler.name, "leader", 0)
}

/// The name of the marker that says which event holds a key up, see [`crate::manifest::OnFailure::Park`].
pub fn parked(handler: &Handler, key: &str) -> String {
    id::marker(Identity { source: None, id: key }, &handler.name, "parked", 0)
}

/// How long the broker keeps a marker.
pub fn lifetime(handler: &Handler, marker: &Marker, now_ms: u64) -> Duration {
    let window = handler.dedup.as_ref().map_or(OPEN_AGE_MIN, |dedup| dedup.window);
    match marker {
        Marker::Done | Marker::Dead => window,
        Marker::Parked { .. } => handler.dead_letter.max_age,
        Marker::Claimed { .. } | Marker::Released => handler.ack_wait * CLAIM_ACK_WAITS,
        Marker::Newest(_) => latest::policy(handler).map_or(OPEN_AGE_MIN, |latest| latest.window),
        Marker::Open(progress) => {
            let wait = match progress.next {
                Next::Attempt(due_ms) | Next::Retry(due_ms) => Duration::from_millis(due_ms.saturating_sub(now_ms)),
                Next::DeadLetter => Duration::ZERO,
            };
            wait.saturating_add(OPEN_AGE_MIN).max(window)
        }
    }
}

/// How long markers are kept by a broker that cannot expire single messages.
pub fn lifetime_max<'a>(handlers: impl Iterator<Item = &'a Handler>) -> Duration {
    let needed = |handler: &Handler| {
        let window = handler.dedup.as_ref().map_or(Duration::ZERO, |dedup| dedup.window);
        let order = latest::policy(handler).map_or(Duration::ZERO, |latest| latest.window);
        let window = if handler.parks() { window.max(handler.dead_letter.max_age) } else { window };
        retry::longest_delay(&handler.retry).saturating_add(OPEN_AGE_MIN).max(window).max(order)
    };
    handlers.map(needed).max().unwrap_or(OPEN_AGE_MIN)
}

/// Whether the marker must be looked up on this delivery. With `dedup` always, because a first delivery proves
/// nothing: servers forget what was acknowledged, and producers send twice. Without, only a message that was
/// delivered before can have one, or one that follows another.
pub fn is_wanted(handler: &Handler, arrival: &Arrival) -> bool {
    keeps(handler) && (handler.dedup.is_some() || arrival.unresolved > 0 || arrival.source == Source::Retry)
}

/// Whether what has become of a delivery may replace a marker that was not expected there. An end replaces whatever
/// is no end itself, and a message what its predecessor left behind; `is_own_claim` says of a claim whether it is
/// ours. Anything else must be looked at first.
pub fn may_replace(arrival: &Arrival, new: &Marker, present: Option<&Marker>, is_own_claim: bool) -> bool {
    let is_end = matches!(new, Marker::Done | Marker::Dead);
    match present {
        None | Some(Marker::Released | Marker::Parked { .. }) => true,
        Some(Marker::Claimed { .. }) => is_own_claim,
        Some(Marker::Open(progress)) => is_end || follows(arrival, progress),
        Some(Marker::Done | Marker::Dead | Marker::Newest(_)) => false,
    }
}

/// Whether a message is a retry that follows the one that `progress` is about.
fn follows(arrival: &Arrival, progress: &Progress) -> bool {
    let is_another = progress.message != arrival.position.name();
    is_another && arrival.source == Source::Retry && arrival.attempt.preceding() >= progress.attempts
}

/// Whether failures of a handler are recorded. In broadcast mode every instance has its own copy of an event,
/// which ends with the instance.
pub fn keeps(handler: &Handler) -> bool {
    handler.mode == crate::manifest::Mode::Queue
}

/// Says where an event stands, and brings the arrival up to what is known: its history, and the number of the
/// attempt that is due. Deliveries that ended without a result count as attempts, because the process may have
/// died in the handler.
pub fn stand(handler: &Handler, arrival: &mut Arrival, marker: Option<Marker>, now_ms: u64) -> Standing {
    let progress = match marker {
        None | Some(Marker::Released | Marker::Newest(_) | Marker::Parked { .. }) => {
            charge_once(handler, arrival, now_ms);
            return Standing::Due;
        }
        Some(Marker::Done | Marker::Dead) => return Standing::Superseded,
        Some(Marker::Claimed { .. }) => return Standing::Claimed,
        Some(Marker::Open(progress)) => progress,
    };
    let is_another = progress.message != arrival.position.name();
    if is_another && follows(arrival, &progress) {
        charge_once(handler, arrival, now_ms);
        return Standing::Due;
    }
    // Of the copies of one event, the first in the stream carries it on where the order matters, else the one that
    // was begun.
    if is_another && handler.key_order().is_none() {
        return overtaken(handler, arrival, progress, now_ms);
    }
    let accounted = if is_another { 0 } else { progress.deliveries };
    let unaccounted = arrival.unresolved.saturating_sub(accounted);
    let mut errors = progress.errors;
    let failed = if matches!(progress.next, Next::Attempt(_)) { None } else { errors.pop() };
    arrival.history = History { errors, dropped: progress.dropped };
    if let Some(error) = failed {
        arrival.attempt = Attempt::FIRST.plus(progress.attempts.saturating_sub(1));
        return Standing::Failed(error, progress.next);
    }
    arrival.attempt = Attempt::FIRST.plus(progress.attempts);
    charge(handler, arrival, unaccounted, now_ms);
    Standing::Due
}

/// What is to be done about a message that another one of its event has overtaken. A retry that is delivered although
/// it was done before comes from a server that was killed: it restores schedules that have fired, and when it fires
/// them again it removes the schedule that has followed on the same subject. So that one is published once more, to be
/// due when the other, if it is still there, has been dealt with.
fn overtaken(handler: &Handler, arrival: &mut Arrival, progress: Progress, now_ms: u64) -> Standing {
    let Progress { next: Next::Retry(due_ms), mut errors, attempts, dropped, .. } = progress else {
        return Standing::Superseded;
    };
    let Some(error) = errors.pop().filter(|_| arrival.source == Source::Retry) else { return Standing::Superseded };
    arrival.history = History { errors, dropped };
    arrival.attempt = Attempt::FIRST.plus(attempts.saturating_sub(1));
    let margin_ms = millis(handler.ack_wait * CLAIM_ACK_WAITS);
    Standing::Failed(error, Next::Retry(due_ms.max(now_ms).saturating_add(margin_ms)))
}

/// The marker for an attempt that failed with `error`, after which `next` follows.
pub fn failed(arrival: &Arrival, error: &AttemptError, next: Next) -> Marker {
    let history = arrival.history.clone().with(error.clone());
    open(arrival, arrival.unresolved, arrival.attempt.get(), history, next)
}

/// The marker for an event that is handed back before its next attempt has begun, which therefore does not
/// count.
pub fn handed_back(arrival: &Arrival) -> Marker {
    let deliveries = arrival.unresolved.saturating_add(1);
    open(arrival, deliveries, arrival.attempt.preceding(), arrival.history.clone(), Next::Attempt(0))
}

/// The marker for an event whose next attempt begins although it was noted that it did not: this delivery counts
/// again if it ends without a result.
pub fn begun(arrival: &Arrival) -> Marker {
    open(arrival, arrival.unresolved, arrival.attempt.preceding(), arrival.history.clone(), Next::Attempt(0))
}

fn open(arrival: &Arrival, deliveries: u32, attempts: u32, history: History, next: Next) -> Marker {
    let History { errors, dropped } = history;
    Marker::Open(Progress { message: arrival.position.name(), deliveries, attempts, errors, dropped, next })
}

/// Counts the earlier deliveries of a message of which nothing more is remembered, once.
fn charge_once(handler: &Handler, arrival: &mut Arrival, now_ms: u64) {
    if !arrival.charged {
        charge(handler, arrival, arrival.unresolved, now_ms);
    }
}

/// Counts deliveries that ended without a result as attempts, and says so in the history. Where that uses up
/// all attempts, the last of them is left for the failure that the event is given up with.
fn charge(handler: &Handler, arrival: &mut Arrival, deliveries: u32, now_ms: u64) {
    let first = arrival.attempt;
    // What is delivered once more after that was only to be given up.
    let deliveries = deliveries.min(handler.retry.max_attempts.saturating_sub(first.preceding()));
    arrival.charged = true;
    arrival.attempt = first.plus(deliveries);
    let exhausted = arrival.attempt.get() > handler.retry.max_attempts;
    let lost = if exhausted { deliveries.saturating_sub(1) } else { deliveries };
    for nth in 0..lost {
        if lost > LOST_SHOWN_MAX && (LOST_SHOWN_MAX - 1..lost - 1).contains(&nth) {
            continue;
        }
        if nth > 0 && nth == lost - 1 {
            arrival.history.dropped = arrival.history.dropped.saturating_add(lost.saturating_sub(LOST_SHOWN_MAX));
        }
        let failure = Failure::new(
            Kind::Lost,
            "the attempt ended without a result: the process died in it, or lost its connection for too long",
        );
        let stamp = Stamp { now_ms, component: "", instance: "", usage: crate::budget::Usage::default() };
        let error = failure.into_error(first.plus(nth), &handler.name, &stamp);
        arrival.history = std::mem::take(&mut arrival.history).with(error);
    }
}

#[cfg(test)]
mod tests;
