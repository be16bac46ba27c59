//! What is remembered of an event: looked up before it is run, replaced when something has become of it. The
//! rules are in [`tidemill_policy::marker`]; here they are carried out, in this process and at the broker.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tidemill_policy::manifest::Handler;
use tidemill_policy::marker::{self, Marker, Standing};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep};

use super::{HOLD_DELAYS, Pipeline, Step, Work};
use crate::broker::{Broker, MarkerError, Recalled};
use crate::invoker::Invoker;

/// How long to wait before a claim of somebody else is looked at again: from the first to the second.
const CLAIM_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long an ended event is known here whose handler is ordered and has no `dedup`.
const ORDERED_KNOWN: Duration = Duration::from_hours(1);
/// How many ended events one handler knows without asking the broker.
const KNOWN_MAX: usize = 16_384;

/// What is remembered of the event of one delivery, as far as we know.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The name of the marker, once it was needed.
    key: Option<Arc<str>>,
    /// The marker's revision; 0 where there is none, or we have not looked.
    revision: u64,
    /// Whether it must be looked at.
    look: Look,
    /// Whether a marker was written or seen.
    exists: bool,
    /// The right to work on this event in this process.
    turn: Option<Turn>,
    /// For how long to wait when somebody else has claimed the event.
    patience: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Look {
    /// If the policy says so: nothing is known yet.
    #[default]
    First,
    /// In any case: somebody else has written it.
    Again,
    /// Not any more.
    Done,
}

/// What came of writing a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remembered {
    /// It is stored, or need not be.
    Stored,
    /// Somebody else has written what must be looked at first.
    Overtaken,
    /// The broker could not be reached before the time to drain was over.
    Unreachable,
}

impl Memory {
    fn is_at(&mut self, revision: u64, exists: bool) {
        self.revision = revision;
        self.exists = exists;
    }

    /// Has what is remembered looked at in any case.
    pub(super) fn look_once_more(&mut self) {
        self.look = Look::Again;
    }

    /// Lets others in this process work on the event, and has what is remembered looked at again when it is taken up.
    pub(super) fn put_down(&mut self) {
        self.turn = None;
        self.look = if self.exists { Look::Again } else { Look::First };
    }

    /// Has what is remembered looked at before the next attempt: another instance may hold the event too by then.
    pub(super) fn look_again(&mut self, handler: &Handler) {
        if handler.dedup.is_some() {
            self.look = Look::Again;
        }
    }
}

impl<B: Broker, I: Invoker> Pipeline<B, I> {
    /// Takes the right to work on the event in this process. Returns false where somebody else has it.
    pub(super) fn take_turn_if_free(&self, work: &mut Work) -> bool {
        if self.handler.dedup.is_none() || work.memory.turn.is_some() {
            return true;
        }
        let key = self.key(work);
        work.memory.turn = Recent::turn(&self.recent, key).now_or_never();
        work.memory.turn.is_some()
    }

    /// Says where the event stands, from what is remembered of it where that must be looked at. Returns nothing if
    /// the process stops before that is known.
    pub(super) async fn recall(&self, work: &mut Work) -> Option<Standing> {
        let now_ms = self.clock.now_ms();
        // A server that was killed delivers what was done once more, after its successors.
        if self.handler.key_order().is_some() && self.recent.knows(&self.key(work)) {
            return Some(Standing::Superseded);
        }
        let is_wanted = match work.memory.look {
            Look::Done => return Some(Standing::Due),
            Look::Again => true,
            Look::First => marker::is_wanted(&self.handler, &work.arrival),
        };
        work.memory.look = Look::Done;
        if !is_wanted {
            return Some(marker::stand(&self.handler, &mut work.arrival, None, now_ms));
        }
        Box::pin(self.look_and_stand(work, now_ms)).await
    }

    async fn look_and_stand(&self, work: &mut Work, now_ms: u64) -> Option<Standing> {
        let key = self.key(work);
        let mut may_run = true;
        if !self.take_turn_if_free(work) {
            // Whoever has the turn may be waiting for a slot.
            work.give_up_slot();
            work.memory.turn = tokio::select! {
                biased;
                turn = Recent::turn(&self.recent, Arc::clone(&key)) => Some(turn),
                () = self.stop.requested.cancelled() => return None,
            };
            may_run = tokio::select! {
                biased;
                () = work.take_slot() => true,
                () = self.stop.requested.cancelled() => false,
            };
        }
        if self.recent.knows(&key) {
            return Some(Standing::Superseded);
        }
        let recalled = self.look_up(&key).await?;
        work.memory.is_at(recalled.revision, recalled.marker.is_some());
        let marker = recalled.marker.filter(|marker| !self.is_own_claim(marker));
        let standing = marker::stand(&self.handler, &mut work.arrival, marker, now_ms);
        if may_run {
            return Some(standing);
        }
        // The process stops before there was room to run it, which must not count as an attempt.
        if matches!(standing, Standing::Due) {
            self.note_handed_back(work).await;
        }
        None
    }

    /// Claims the event where the policy says so.
    pub(super) async fn claim(&self, work: &mut Work) -> Remembered {
        if !self.handler.dedup.as_ref().is_some_and(|dedup| dedup.claim) {
            return Remembered::Stored;
        }
        Box::pin(self.write(work, Marker::Claimed { instance: self.instance.to_string() })).await
    }

    /// Waits a while for an event that another instance has claimed.
    pub(super) async fn wait_for_claim(&self, work: &mut Work) -> Step {
        work.memory.look = Look::Again;
        let patience = work.memory.patience.unwrap_or(CLAIM_DELAYS.0);
        work.memory.patience = Some((patience * 2).min(CLAIM_DELAYS.1));
        tokio::select! {
            biased;
            () = sleep(patience) => Step::Again,
            () = self.stop.requested.cancelled() => Step::release(),
        }
    }

    /// Records a failure, before anything follows from it.
    pub(super) async fn record(&self, work: &mut Work, marker: Marker) -> Remembered {
        if !marker::keeps(&self.handler) {
            return Remembered::Stored;
        }
        self.write(work, marker).await
    }

    /// Marks the event as done or dead, with `dedup` or where something is remembered of it already.
    pub(super) async fn conclude(&self, work: &mut Work, marker: Marker) -> Remembered {
        let is_kept = self.handler.dedup.is_some() || work.memory.exists;
        let written = if is_kept { Box::pin(self.write(work, marker)).await } else { Remembered::Stored };
        let known_for = match &self.handler.dedup {
            Some(dedup) => Some(dedup.window),
            None => self.handler.key_order().map(|_| ORDERED_KNOWN),
        };
        if let (Remembered::Stored, Some(time)) = (written, known_for) {
            self.recent.learn(self.key(work), time);
        }
        written
    }

    /// Notes that the attempt that is due was not begun. Only once: where it does not work, one attempt is counted
    /// too many.
    pub(super) async fn note_handed_back(&self, work: &mut Work) {
        if !marker::keeps(&self.handler) {
            return;
        }
        let (key, marker) = (self.key(work), marker::handed_back(&work.arrival));
        let lifetime = marker::lifetime(&self.handler, &marker, self.clock.now_ms());
        if let Err(error) = self.broker.remember(&key, &marker, lifetime, work.memory.revision).await {
            tracing::debug!(handler = %self.handler.name, %error, "could not note that an event was handed back");
        }
    }

    /// Replaces the marker, unless somebody else has written something that must be looked at first.
    async fn write(&self, work: &mut Work, marker: Marker) -> Remembered {
        let key = self.key(work);
        let lifetime = marker::lifetime(&self.handler, &marker, self.clock.now_ms());
        let mut delay = HOLD_DELAYS.0;
        loop {
            match self.broker.remember(&key, &marker, lifetime, work.memory.revision).await {
                Ok(revision) => {
                    work.memory.is_at(revision, true);
                    return Remembered::Stored;
                }
                Err(MarkerError::Unavailable(why)) => {
                    tracing::debug!(handler = %self.handler.name, why, "holding on to an event");
                    if !self.hold(&mut delay).await {
                        return Remembered::Unreachable;
                    }
                }
                Err(MarkerError::Conflict) => {
                    let Some(Recalled { marker: present, revision }) = self.look_up(&key).await else {
                        return Remembered::Unreachable;
                    };
                    // What we wrote may have arrived although that was not confirmed.
                    if present.as_ref() == Some(&marker) {
                        work.memory.is_at(revision, true);
                        return Remembered::Stored;
                    }
                    let is_own_claim = present.as_ref().is_some_and(|marker| self.is_own_claim(marker));
                    if !marker::may_replace(&work.arrival, &marker, present.as_ref(), is_own_claim) {
                        work.memory.look = Look::Again;
                        return Remembered::Overtaken;
                    }
                    if revision == work.memory.revision && !self.hold(&mut delay).await {
                        return Remembered::Unreachable;
                    }
                    work.memory.revision = revision;
                }
            }
        }
    }

    /// Asks the broker until it answers; nothing when the time to drain is over.
    pub(super) async fn look_up(&self, key: &str) -> Option<Recalled> {
        let mut delay = HOLD_DELAYS.0;
        loop {
            match self.broker.recall(key).await {
                Ok(recalled) => return Some(recalled),
                Err(error) => tracing::debug!(handler = %self.handler.name, %error, "holding on to an event"),
            }
            if !self.hold(&mut delay).await {
                return None;
            }
        }
    }

    fn key(&self, work: &mut Work) -> Arc<str> {
        if let Some(key) = &work.memory.key {
            return Arc::clone(key);
        }
        let key = marker::key(&self.handler, self.case(work).identity(), &work.arrival);
        Arc::clone(work.memory.key.insert(key.into()))
    }

    /// Whether a claim is a leftover of our own: nobody in this process works on the event while we have the turn.
    fn is_own_claim(&self, marker: &Marker) -> bool {
        matches!(marker, Marker::Claimed { instance } if **instance == *self.instance)
    }
}

/// What this process knows of the events of one handler: which of them have ended, and which are being worked on.
#[derive(Debug, Default)]
pub struct Recent {
    ended: Mutex<Ended>,
    turns: Mutex<HashMap<Arc<str>, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Debug, Default)]
struct Ended {
    known: HashSet<Arc<str>>,
    /// In order of time, with the time until which each is to be remembered.
    order: VecDeque<(Arc<str>, Instant)>,
}

/// The right to work on an event, or to publish for a key, in this process; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    recent: Arc<Recent>,
    key: Arc<str>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Recent {
    fn knows(&self, key: &str) -> bool {
        let mut ended = lock(&self.ended);
        let now = Instant::now();
        while ended.order.front().is_some_and(|(_, until)| *until <= now) {
            if let Some((key, _)) = ended.order.pop_front() {
                ended.known.remove(&key);
            }
        }
        ended.known.contains(key)
    }

    /// Notes that an event has ended. Where there are too many, the oldest are forgotten: then the broker is asked.
    fn learn(&self, key: Arc<str>, window: Duration) {
        let mut ended = lock(&self.ended);
        if ended.known.insert(Arc::clone(&key)) {
            ended.order.push_back((key, Instant::now() + window));
        }
        while ended.order.len() > KNOWN_MAX {
            if let Some((key, _)) = ended.order.pop_front() {
                ended.known.remove(&key);
            }
        }
    }

    /// Waits until nobody else in this process works on the event, or publishes for the key.
    pub(super) async fn turn(recent: &Arc<Recent>, key: Arc<str>) -> Turn {
        let turn = Arc::clone(lock(&recent.turns).entry(Arc::clone(&key)).or_default());
        let mut turn_of_key = Turn { recent: Arc::clone(recent), key, guard: None };
        turn_of_key.guard = Some(turn.lock_owned().await);
        turn_of_key
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.guard = None;
        let mut turns = lock(&self.recent.turns);
        if turns.get(&self.key).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(&self.key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
