//! What is remembered of an event between its deliveries: that it is done, that it was given up, that one of its attempts
//! has begun, or which of them have failed and what was decided then.
//!
//! The broker keeps one marker for each event and handler, and replaces it only by compare-and-set. A failed
//! attempt is recorded before anything follows from it, so that whoever sees the event again carries out the
//! same decision and neither runs it once more nor forgets the failure. A success without `dedup` leaves no
//! marker: the derived ids of its outputs are enough.
//!
//! An attempt counts if its end is recorded, or if its beginning is and it has no end. The beginning is recorded where the
//! message was delivered before, where it is a retry or a replay, and with `dedup.claim`: see [`records_begin`]. So an
//! event that was not begun is never charged, and one that kills the process at each attempt is run once more than
//! `max_attempts` says, since its first death leaves no trace.

use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::arrival::{Arrival, Source};
use crate::attempt::Attempt;
use crate::decide::{Failure, Stamp};
use crate::event::Event;
use crate::headers;
use crate::history::{AttemptError, History, Kind, millis};
use crate::id::{self, IdKind, Place, legacy};
use crate::latest::{self, Newest};
use crate::manifest::{DedupKey, Handler};
use crate::retry;

pub use holder::Holder;

mod holder;

/// What is known of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Marker {
    /// It was handled, and its outputs are stored.
    Done {
        /// How often it had been replayed from the dead letters.
        #[serde(default, skip_serializing_if = "is_zero")]
        epoch: u32,
    },
    /// It was given up on, and its dead letter is stored.
    Dead {
        /// How often it had been replayed from the dead letters.
        #[serde(default, skip_serializing_if = "is_zero")]
        epoch: u32,
        /// Where the dead letter is; nothing in markers of the version before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        letter: Option<Stored>,
        /// Where the message that ended so was first stored, see [`Place::id`].
        #[serde(default, skip_serializing_if = "String::is_empty")]
        place: String,
    },
    /// Of a handler and not of an event: this instance is the active one. In markers of the version before, of an event:
    /// this instance is running it.
    Claimed {
        /// The instance's name.
        instance: String,
    },
    /// It has begun, has failed, or was handed back, and goes on.
    Open(Progress),
    /// Nobody has what this is about any more, see [`leader`].
    Released,
    /// Of a key of `order` and not of an event: an event that was given up on holds it up.
    Parked(Holder),
    /// Of a key of `order` and not of an event: its newest event.
    Newest(Newest),
}

impl Marker {
    /// The same, of the run with this number.
    #[must_use]
    pub fn of_run(mut self, run: u32) -> Marker {
        match &mut self {
            Marker::Done { epoch } | Marker::Dead { epoch, .. } | Marker::Open(Progress { epoch, .. }) => *epoch = run,
            Marker::Claimed { .. } | Marker::Released | Marker::Parked(_) | Marker::Newest(_) => {}
        }
        self
    }

    /// Which run of its event it is about: how often that had been replayed.
    pub fn run(&self) -> Option<u32> {
        match self {
            Marker::Done { epoch } | Marker::Dead { epoch, .. } | Marker::Open(Progress { epoch, .. }) => Some(*epoch),
            Marker::Claimed { .. } | Marker::Released | Marker::Parked(_) | Marker::Newest(_) => None,
        }
    }
}

/// Where a message was stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stored {
    /// The stream.
    pub stream: String,
    /// The sequence in it.
    pub sequence: u64,
}

/// How far an event has come without an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The message that was worked on, see [`crate::arrival::Position::name`].
    pub message: String,
    /// How many attempts have been made; the one that has begun is not among them.
    pub attempts: u32,
    /// What failed.
    pub errors: Vec<AttemptError>,
    /// How many errors were dropped from the middle.
    #[serde(default)]
    pub dropped: u32,
    /// How often the event had been replayed from the dead letters.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u32,
    /// Where an attempt has begun, who runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// What is to follow.
    pub next: Next,
}

impl Progress {
    /// The same within what policy allows, whoever wrote it: no retry is due later than the longest delay, and neither the
    /// count nor the history is of any size.
    fn bounded(mut self, handler: &Handler, now_ms: u64) -> Progress {
        let latest_ms = now_ms.saturating_add(millis(retry::longest_delay(&handler.retry)));
        self.next = match self.next {
            Next::Attempt(due_ms) => Next::Attempt(due_ms.min(latest_ms)),
            Next::Retry(due_ms) => Next::Retry(due_ms.min(latest_ms)),
            next @ (Next::End | Next::DeadLetter) => next,
        };
        self.attempts = self.attempts.min(ATTEMPTS_MAX);
        let history = History { errors: self.errors, dropped: self.dropped }.bounded();
        (self.errors, self.dropped) = (history.errors, history.dropped);
        self
    }
}

/// Who runs an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The instance's name.
    pub instance: String,
    /// Which delivery of the message it runs on.
    pub delivery: u32,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// Another attempt on the same message, due at this time (milliseconds since the Unix epoch).
    Attempt(u64),
    /// The end of the attempt that has begun.
    End,
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
    /// It has ended: this message has nothing left to do.
    Superseded,
    /// Another message carries it on, if that is still there: then this one has nothing left to do. If none of these is
    /// there any more, it has ended in nothing.
    Elsewhere(Vec<Carrier>),
    /// It was given up on, and this is a copy. If the dead letter is still there, this message has nothing left to do. If
    /// not, but a retry is, somebody replays it, and it is to be looked at again. Else it has ended in nothing.
    Buried(Stored),
    /// Another instance is running it.
    Claimed,
    /// The message was given to another instance after it was given to us, and that one runs it.
    TakenAway,
    /// Its last attempt failed with this error, which is not in the arrival's history, and this is to follow.
    Failed(AttemptError, Next),
}

/// What may carry an event on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// A message, by its name.
    Message(String),
    /// Its retry, which waits or is due.
    Retry,
    /// Its dead letter.
    Letter(Stored),
}

/// Who asks where an event stands, and what it knows beside the marker.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The instance's name.
    pub instance: &'a str,
    /// Whether the message was delivered only now, so that nobody can have got it later.
    pub is_fresh: bool,
    /// Whether the marker has not changed for so long that whoever wrote it does not live any more: see [`patience`].
    pub is_abandoned: bool,
    /// Now, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// For how long the broker keeps a record of failures after what follows them is due, and without `dedup` the end
/// of an event. It is needed for as long as the message it is about may be delivered again.
const OPEN_AGE_MIN: Duration = Duration::from_hours(24);
/// The most attempts that a record is believed to count, so that there is always a next one.
const ATTEMPTS_MAX: u32 = 1 << 30;
/// The longest that a claim may outlive its holder, as a multiple of `ack_wait`.
const CLAIM_ACK_WAITS: u32 = 2;

/// The name under which the version before kept an event's marker. With `dedup`, messages of one identity had one
/// marker, else each message had its own.
pub fn legacy_key(handler: &Handler, arrival: &Arrival, event: Option<&Event>) -> String {
    let has_own_id = handler.dedup.as_ref().is_none_or(|dedup| dedup.key == DedupKey::Id);
    let source = event.and_then(|event| event.source.as_deref()).filter(|_| has_own_id);
    let Place { stream, sequence, stored_ms } = arrival.place();
    let id = match event {
        Some(event) if event.id_kind == IdKind::Position && arrival.carried.is_none() => {
            headers::clean_id(format!("{stream}@{}:{sequence}", arrival.position.stream_created_unix))
        }
        Some(event) => event.id.clone(),
        None => arrival.id(),
    };
    let place = if handler.dedup.is_some() { String::new() } else { format!("{stream}:{sequence}:{stored_ms}") };
    legacy::marker(source, &id, &handler.name, &place, arrival.epoch)
}

/// The name of the marker that says which instance is the active one of a handler: claimed, or released.
pub fn leader(handler: &Handler) -> String {
    id::of_handler(&handler.name, "leader")
}

/// The name of the marker that says which event holds a key up, see [`crate::manifest::OnFailure::Park`].
pub fn parked(handler: &Handler, key: &str) -> String {
    id::of_key(&handler.name, key, "parked")
}

/// How long the broker keeps a marker.
pub fn lifetime(handler: &Handler, marker: &Marker, now_ms: u64) -> Duration {
    let window = handler.dedup.as_ref().map_or(OPEN_AGE_MIN, |dedup| dedup.window);
    match marker {
        Marker::Done { .. } | Marker::Dead { .. } => window,
        Marker::Parked(_) => handler.dead_letter.max_age,
        Marker::Claimed { .. } | Marker::Released => handler.ack_wait * CLAIM_ACK_WAITS,
        Marker::Newest(_) => latest::policy(handler).map_or(OPEN_AGE_MIN, |latest| latest.window),
        Marker::Open(progress) => {
            let wait = match progress.next {
                Next::Attempt(due_ms) | Next::Retry(due_ms) => Duration::from_millis(due_ms.saturating_sub(now_ms)),
                Next::End | Next::DeadLetter => Duration::ZERO,
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

/// For how long a marker stays as it is before whoever wrote it counts as gone: the holder of a claim renews it several
/// times meanwhile.
pub fn patience(handler: &Handler) -> Duration {
    handler.ack_wait * CLAIM_ACK_WAITS
}

/// Whether the marker must be looked up on this delivery. With `dedup` always, because a first delivery proves
/// nothing: servers forget what was acknowledged, and producers send twice. Without, only a message that was
/// delivered before can have one, or one that follows another.
pub fn is_wanted(handler: &Handler, arrival: &Arrival) -> bool {
    keeps(handler) && (handler.dedup.is_some() || is_later(arrival))
}

/// Whether it is recorded that an attempt begins, before it does. On the first delivery of an input message it is not,
/// since that would cost each event a write: if its attempt never ends, nothing is known of it, and it is made again for
/// free. With `dedup.claim` it always is, because others must know.
pub fn records_begin(handler: &Handler, arrival: &Arrival) -> bool {
    keeps(handler) && (claims(handler) || is_later(arrival))
}

/// Whether it is recorded that the event has ended, although nothing was remembered of it.
pub fn records_end(handler: &Handler, arrival: &Arrival) -> bool {
    keeps(handler) && (handler.dedup.is_some() || arrival.epoch > 0)
}

/// Whether a message is not the first of its event, or was delivered before.
fn is_later(arrival: &Arrival) -> bool {
    !arrival.is_first_delivery() || arrival.source == Source::Retry || arrival.epoch > 0
}

/// Whether instances claim events before they run them.
pub fn claims(handler: &Handler) -> bool {
    handler.dedup.as_ref().is_some_and(|dedup| dedup.claim)
}

/// Whether failures of a handler are recorded. In broadcast mode every instance has its own copy of an event,
/// which ends with the instance.
pub fn keeps(handler: &Handler) -> bool {
    handler.mode == crate::manifest::Mode::Queue
}

/// Whether what has become of a delivery may replace a marker that was not expected there. An end replaces whatever
/// is no end itself, a message what its predecessor left behind, and a replay whatever was before it. Anything else must
/// be looked at first.
pub fn may_replace(arrival: &Arrival, instance: &str, new: &Marker, present: Option<&Marker>) -> bool {
    let is_end = matches!(new, Marker::Done { .. } | Marker::Dead { .. });
    match present {
        None | Some(Marker::Released | Marker::Parked(_) | Marker::Claimed { .. }) => true,
        Some(Marker::Open(progress)) => {
            let is_ours = progress.message == arrival.position.name()
                && progress.run.as_ref().is_some_and(|run| run.instance == instance);
            let is_of_run = progress.epoch == arrival.epoch;
            // Where two attempts begin at once, the later one looks first.
            let are_begun = progress.next == Next::End && matches!(new, Marker::Open(new) if new.next == Next::End);
            let is_successor = follows(arrival, progress) && !are_begun;
            progress.epoch < arrival.epoch || is_of_run && (is_end || is_ours || is_successor)
        }
        Some(Marker::Done { epoch } | Marker::Dead { epoch, .. }) => *epoch < arrival.epoch,
        Some(Marker::Newest(_)) => false,
    }
}

/// Whether a message is a retry that follows the one that `progress` is about. Where an attempt of the same number has
/// begun, it is another message of that attempt.
fn follows(arrival: &Arrival, progress: &Progress) -> bool {
    let made = arrival.attempt.preceding();
    let is_next = match progress.next {
        Next::Retry(_) | Next::DeadLetter => made >= progress.attempts,
        Next::Attempt(_) | Next::End => made > progress.attempts,
    };
    progress.message != arrival.position.name() && arrival.source == Source::Retry && is_next
}

/// Says where an event stands, and brings the arrival up to what is known: its history, and the number of the
/// attempt that is due.
pub fn stand(handler: &Handler, arrival: &mut Arrival, marker: Option<Marker>, asker: &Asker<'_>) -> Standing {
    match marker {
        None | Some(Marker::Released | Marker::Newest(_) | Marker::Parked(_)) => Standing::Due,
        // Of the version before: whoever had it is gone, or will be soon.
        Some(Marker::Claimed { .. }) if asker.is_abandoned => Standing::Due,
        Some(Marker::Claimed { .. }) => Standing::Claimed,
        Some(Marker::Done { epoch } | Marker::Dead { epoch, .. }) if epoch < arrival.epoch => Standing::Due,
        Some(Marker::Open(progress)) if progress.epoch < arrival.epoch => Standing::Due,
        // A copy may have been sent again on purpose, after the letter was discarded. The message that ended itself comes
        // back only where a server has forgotten that it was settled.
        Some(Marker::Dead { letter: Some(letter), place, .. })
            if arrival.source != Source::Retry && place != arrival.place().id() =>
        {
            Standing::Buried(letter)
        }
        Some(Marker::Done { .. } | Marker::Dead { .. }) => Standing::Superseded,
        Some(Marker::Open(progress)) => stand_open(handler, arrival, progress, asker),
    }
}

fn stand_open(handler: &Handler, arrival: &mut Arrival, progress: Progress, asker: &Asker<'_>) -> Standing {
    let progress = progress.bounded(handler, asker.now_ms);
    let is_run_by_other =
        progress.next == Next::End && progress.run.as_ref().is_some_and(|run| run.instance != asker.instance);
    if follows(arrival, &progress) {
        // With claims, whoever runs an earlier attempt of another message took the event for abandoned.
        let is_claimed = claims(handler) && is_run_by_other && !asker.is_abandoned;
        return if is_claimed { Standing::Claimed } else { Standing::Due };
    }
    // Of the copies of one event, the first in the stream carries it on where the order matters, else the one that
    // was begun.
    let is_another = progress.message != arrival.position.name();
    if progress.epoch > arrival.epoch || is_another && handler.key_order().is_none() {
        return overtaken(handler, arrival, progress, asker.now_ms);
    }
    let mut errors = progress.errors;
    let failed = if matches!(progress.next, Next::Attempt(_) | Next::End) { None } else { errors.pop() };
    let history = History { errors, dropped: progress.dropped };
    if let Some(error) = failed {
        arrival.history = history;
        arrival.attempt = Attempt::FIRST.plus(progress.attempts.saturating_sub(1));
        return Standing::Failed(error, progress.next);
    }
    let other = progress.run.filter(|run| progress.next == Next::End && run.instance != asker.instance);
    if let Some(run) = &other {
        if claims(handler) && !asker.is_abandoned {
            return Standing::Claimed;
        }
        if !asker.is_fresh && !is_another && run.delivery >= arrival.position.delivered {
            return Standing::TakenAway;
        }
    }
    arrival.history = history;
    arrival.attempt = Attempt::FIRST.plus(progress.attempts);
    // What this very process has begun and not ended, it has cut off itself.
    if other.is_some() {
        charge(handler, arrival, asker.now_ms);
    }
    Standing::Due
}

/// What is to be done about a message that another one of its event has overtaken. A retry that is delivered although
/// it was done before comes from a server that was killed: it restores schedules that have fired, and when it fires
/// them again it removes the schedule that has followed on the same subject. So that one is published once more, to be
/// due when the other, if it is still there, has been dealt with.
fn overtaken(handler: &Handler, arrival: &mut Arrival, progress: Progress, now_ms: u64) -> Standing {
    let Progress { message, next, mut errors, attempts, dropped, epoch, .. } = progress;
    let is_retry = arrival.source == Source::Retry;
    match next {
        Next::Retry(due_ms) if is_retry && epoch == arrival.epoch => {
            let Some(error) = errors.pop() else { return Standing::Superseded };
            arrival.history = History { errors, dropped };
            arrival.attempt = Attempt::FIRST.plus(attempts.saturating_sub(1));
            let margin_ms = millis(handler.ack_wait * CLAIM_ACK_WAITS);
            Standing::Failed(error, Next::Retry(due_ms.max(now_ms).saturating_add(margin_ms)))
        }
        Next::Retry(_) if is_retry => Standing::Superseded,
        Next::Retry(_) => Standing::Elsewhere(vec![Carrier::Retry]),
        // This message is a retry itself, and must not be taken for what carries its event on.
        Next::Attempt(_) | Next::End | Next::DeadLetter if is_retry => {
            Standing::Elsewhere(vec![Carrier::Message(message)])
        }
        Next::Attempt(_) | Next::End | Next::DeadLetter => {
            Standing::Elsewhere(vec![Carrier::Message(message), Carrier::Retry])
        }
    }
}

/// The marker for an attempt that failed with `error`, after which `next` follows.
pub fn failed(arrival: &Arrival, error: &AttemptError, next: Next) -> Marker {
    let history = arrival.history.clone().with(error.clone());
    open(arrival, arrival.attempt.get(), history, None, next)
}

/// The marker for an event whose next attempt begins, in `instance`.
pub fn begun(arrival: &Arrival, instance: &str) -> Marker {
    let run = Run { instance: instance.to_owned(), delivery: arrival.position.delivered };
    open(arrival, arrival.attempt.preceding(), arrival.history.clone(), Some(run), Next::End)
}

/// The marker for an event that is handed back although it was recorded that its next attempt begins: it did not, or
/// was cut off by ourselves, and does not count.
pub fn handed_back(arrival: &Arrival) -> Marker {
    open(arrival, arrival.attempt.preceding(), arrival.history.clone(), None, Next::Attempt(0))
}

/// The marker for an event that was handled.
pub fn done(arrival: &Arrival) -> Marker {
    Marker::Done { epoch: arrival.epoch }
}

/// The marker for an event that was given up on, whose dead letter is `letter`.
pub fn dead(arrival: &Arrival, letter: Option<Stored>) -> Marker {
    Marker::Dead { epoch: arrival.epoch, letter, place: arrival.place().id() }
}

fn open(arrival: &Arrival, attempts: u32, history: History, run: Option<Run>, next: Next) -> Marker {
    let History { errors, dropped } = history;
    let (message, epoch) = (arrival.position.name(), arrival.epoch);
    Marker::Open(Progress { message, attempts, errors, dropped, epoch, run, next })
}

/// Counts the attempt that has begun and has no end, and says so in the history. Where that uses up all attempts, it is
/// left for the failure that the event is given up with.
fn charge(handler: &Handler, arrival: &mut Arrival, now_ms: u64) {
    let lost = arrival.attempt;
    arrival.attempt = lost.plus(1);
    if lost.get() >= handler.retry.max_attempts {
        return;
    }
    let failure = Failure::new(
        Kind::Lost,
        "the attempt ended without a result: the process died in it, or lost its connection for too long",
    );
    let stamp = Stamp { now_ms, component: "", instance: "", usage: crate::budget::Usage::default() };
    let error = failure.into_error(lost, &handler.name, &stamp);
    arrival.history = std::mem::take(&mut arrival.history).with(error);
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests;
