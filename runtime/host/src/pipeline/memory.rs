//! What is remembered of an event: looked up before it is run, replaced when something has become of it. The
//! rules are in [`tidemill_policy::marker`]; here they are carried out, in this process and at the broker.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tidemill_policy::manifest::Handler;
use tidemill_policy::marker::{self, Asker, Carrier, Marker, Standing, Stored};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::claim::Claim;
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
    /// Whether the event was given up on, when it was looked up.
    is_dead: bool,
    /// Whether it is recorded that an attempt has begun, and not how it ended.
    has_begun: bool,
    /// Keeps it known that the event is ours, where it is claimed.
    claim: Option<Claim>,
    /// The right to work on this event in this process.
    turn: Option<Turn>,
    /// For how long to wait before a marker of somebody else is looked at again.
    patience: Option<Duration>,
    /// The marker of somebody else that is waited for, by its revision, and since when it was seen like that.
    seen: Option<(u64, Instant)>,
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

    /// Has what is remembered looked at before the next attempt: another instance may hold the event too by then.
    pub(super) fn look_again(&mut self, handler: &Handler) {
        if handler.dedup.is_some() {
            self.look = Look::Again;
        }
    }

    /// Whether the event was given up on, when it was looked up.
    pub(super) fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// Whether it is recorded that an attempt has begun, and not how it ended.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether a marker at this revision has not changed for `patience`, as we see it.
    fn is_unchanged(&mut self, revision: u64, patience: Duration) -> bool {
        match self.seen {
            Some((seen, since)) if seen == revision => since.elapsed() >= patience,
            _ => {
                self.seen = Some((revision, Instant::now()));
                false
            }
        }
    }
}

impl<B: Broker, I: Invoker> Pipeline<B, I> {
    /// Takes the right to work on the event in this process. Returns false where somebody else has it.
    fn take_turn_if_free(&self, work: &mut Work) -> bool {
        if self.handler.dedup.is_none() || work.memory.turn.is_some() {
            return true;
        }
        work.memory.turn = Recent::turn(&self.recent, self.key(work)).now_or_never();
        work.memory.turn.is_some()
    }

    /// Says where the event stands, from what is remembered of it where that must be looked at. Returns nothing if
    /// the process stops before that is known.
    pub(super) async fn recall(&self, work: &mut Work) -> Option<Standing> {
        // A server that was killed delivers what was done once more, after its successors.
        if self.handler.key_order().is_some() && self.recent.knows(&self.run_key(work)) {
            return Some(Standing::Superseded);
        }
        let is_wanted = match work.memory.look {
            Look::Done => return Some(Standing::Due),
            Look::Again => true,
            Look::First => marker::is_wanted(&self.handler, &work.arrival),
        };
        if !is_wanted {
            work.memory.look = Look::Done;
            return Some(Standing::Due);
        }
        Box::pin(self.look_and_stand(work)).await
    }

    async fn look_and_stand(&self, work: &mut Work) -> Option<Standing> {
        let key = self.key(work);
        if !self.take_turn_if_free(work) && !self.wait_for_turn(work, &key).await {
            return None;
        }
        if self.recent.knows(&self.run_key(work)) {
            return Some(Standing::Superseded);
        }
        let recalled = self.look_up_event(work, &key).await?;
        let is_fresh = work.memory.look == Look::First && work.sure_since.elapsed() < self.sure_for();
        work.memory.look = Look::Done;
        work.memory.is_at(recalled.revision, recalled.marker.is_some());
        work.memory.is_dead = matches!(recalled.marker, Some(Marker::Dead { .. }));
        let is_abandoned = work.memory.is_unchanged(recalled.revision, marker::patience(&self.handler));
        let asker = Asker { instance: &self.instance, is_fresh, is_abandoned, now_ms: self.clock.now_ms() };
        let standing = marker::stand(&self.handler, &mut work.arrival, recalled.marker, &asker);
        // What has ended in nothing is due: this is no duplicate.
        Some(match standing {
            Standing::Elsewhere(carriers) if self.is_carried(work, &carriers).await? => Standing::Superseded,
            Standing::Elsewhere(_) if is_abandoned => Standing::Due,
            Standing::Elsewhere(_) => Standing::Claimed,
            Standing::Buried(letter) => self.stand_buried(work, letter).await?,
            standing => standing,
        })
    }

    /// Where a copy stands of what was given up on.
    async fn stand_buried(&self, work: &Work, letter: Stored) -> Option<Standing> {
        Some(if self.is_carried(work, &[Carrier::Letter(letter)]).await? {
            Standing::Superseded
        } else if self.is_carried(work, &[Carrier::Retry]).await? {
            // A replay, which will say how it ends; or a retry that a server has restored, which will go.
            Standing::Claimed
        } else {
            Standing::Due
        })
    }

    /// Waits until nobody else in this process works on the event, and until it may run. Returns false when the process is
    /// asked to stop.
    async fn wait_for_turn(&self, work: &mut Work, key: &Arc<str>) -> bool {
        // Whoever has the turn may be waiting for a slot.
        work.give_up_slot();
        let turn = async {
            let turn = Recent::turn(&self.recent, Arc::clone(key)).await;
            work.memory.turn = Some(turn);
            work.take_slot().await;
        };
        tokio::select! {
            biased;
            () = turn => true,
            () = self.stop.requested.cancelled() => false,
        }
    }

    /// Whether something still has the event. Nothing when the time to drain is over.
    async fn is_carried(&self, work: &Work, carriers: &[Carrier]) -> Option<bool> {
        let token = self.case(work).token();
        let mut delay = HOLD_DELAYS.0;
        loop {
            match self.broker.carries(&self.handler.name, &token, carriers).await {
                Ok(answer) => return Some(answer),
                Err(error) => tracing::debug!(handler = %self.handler.name, %error, "holding on to an event"),
            }
            if !self.hold(&mut delay).await {
                return None;
            }
        }
    }

    /// Records that the attempt begins, where that is to be known if it does not end.
    pub(super) async fn begin(&self, work: &mut Work) -> Remembered {
        if !marker::records_begin(&self.handler, &work.arrival) {
            return Remembered::Stored;
        }
        Box::pin(self.record_begin(work)).await
    }

    async fn record_begin(&self, work: &mut Work) -> Remembered {
        let begun = marker::begun(&work.arrival, &self.instance);
        let written = self.write(work, begun.clone()).await;
        if written == Remembered::Stored {
            work.memory.has_begun = true;
            if marker::claims(&self.handler) {
                let lifetime = marker::lifetime(&self.handler, &begun, self.clock.now_ms());
                let (broker, key, every) = (Arc::clone(&self.broker), self.key(work), self.sure_for() / 2);
                work.memory.claim = Some(Claim::keep(broker, key, begun, lifetime, work.memory.revision, every));
            }
        }
        written
    }

    /// Makes sure that nobody else has got the event meanwhile, where that could be: the delivery is old, and may have been
    /// taken from us.
    pub(super) async fn make_sure(&self, work: &mut Work) -> Remembered {
        let is_sure = match &work.memory.claim {
            Some(claim) => claim.is_recent(self.handler.ack_wait),
            None => work.sure_since.elapsed() < self.sure_for(),
        };
        if is_sure || !marker::keeps(&self.handler) {
            return Remembered::Stored;
        }
        Box::pin(self.look_before_publishing(work)).await
    }

    async fn look_before_publishing(&self, work: &mut Work) -> Remembered {
        if work.memory.has_begun {
            return self.record_begin(work).await;
        }
        let key = self.key(work);
        let Some(recalled) = self.look_up_event(work, &key).await else { return Remembered::Unreachable };
        if recalled.revision == work.memory.revision {
            work.sure_since = Instant::now();
            return Remembered::Stored;
        }
        work.memory.look = Look::Again;
        Remembered::Overtaken
    }

    /// For how long after a delivery or a write nobody else can have got the message.
    fn sure_for(&self) -> Duration {
        self.handler.ack_wait / 2
    }

    /// Waits a while for an event that another instance has.
    pub(super) async fn wait_for_other(&self, work: &mut Work) -> Step {
        work.memory.look = Look::Again;
        let patience = work.memory.patience.unwrap_or(CLAIM_DELAYS.0);
        work.memory.patience = Some((patience * 2).min(CLAIM_DELAYS.1));
        if self.wait(work, patience).await { Step::Again } else { Step::release() }
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
        let is_kept = marker::records_end(&self.handler, &work.arrival) || work.memory.exists;
        let known_for = match &self.handler.dedup {
            // Somebody may discard its dead letter, and send it again.
            Some(_) if matches!(marker, Marker::Dead { .. }) => None,
            Some(dedup) => Some(dedup.window),
            // It holds its key up until it has come back with success.
            None if self.handler.parks() && matches!(marker, Marker::Dead { .. }) => None,
            None => self.handler.key_order().map(|_| ORDERED_KNOWN),
        };
        let written = if is_kept { Box::pin(self.write(work, marker)).await } else { Remembered::Stored };
        if let (Remembered::Stored, Some(time)) = (written, known_for) {
            self.recent.learn(self.run_key(work), time);
        }
        written
    }

    /// Takes back that an attempt has begun which did not, or which we have cut off ourselves. Only once: where it does not
    /// work, one attempt is counted too many.
    pub(super) async fn take_back_begin(&self, work: &mut Work) {
        if !std::mem::take(&mut work.memory.has_begun) {
            return;
        }
        self.end_claim(work).await;
        let (key, marker) = (self.key(work), marker::handed_back(&work.arrival));
        let lifetime = marker::lifetime(&self.handler, &marker, self.clock.now_ms());
        match self.broker.remember(&key, &marker, lifetime, work.memory.revision).await {
            Ok(revision) => work.memory.revision = revision,
            Err(error) => {
                tracing::debug!(handler = %self.handler.name, %error, "could not note that an event was handed back");
                work.memory.look = Look::Again;
            }
        }
    }

    async fn end_claim(&self, work: &mut Work) {
        if let Some(claim) = work.memory.claim.take() {
            work.memory.revision = claim.end().await;
        }
    }

    /// Replaces the marker, unless somebody else has written something that must be looked at first.
    async fn write(&self, work: &mut Work, marker: Marker) -> Remembered {
        self.end_claim(work).await;
        let key = self.key(work);
        let lifetime = marker::lifetime(&self.handler, &marker, self.clock.now_ms());
        let mut delay = HOLD_DELAYS.0;
        loop {
            let since = Instant::now();
            match self.broker.remember(&key, &marker, lifetime, work.memory.revision).await {
                Ok(revision) => return Self::written(work, revision, since),
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
                        return Self::written(work, revision, since);
                    }
                    if !marker::may_replace(&work.arrival, &self.instance, &marker, present.as_ref()) {
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

    fn written(work: &mut Work, revision: u64, since: Instant) -> Remembered {
        work.memory.is_at(revision, true);
        work.memory.has_begun = false;
        work.sure_since = since;
        Remembered::Stored
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

    /// What is remembered of an event, also by the version before as long as that matters. What that has written is
    /// replaced under the new name only.
    async fn look_up_event(&self, work: &Work, key: &str) -> Option<Recalled> {
        let recalled = self.look_up(key).await?;
        if recalled.revision != 0 || !self.broker.has_legacy_markers(&self.handler) {
            return Some(recalled);
        }
        let legacy = marker::legacy_key(&self.handler, &work.arrival, work.event.as_deref().ok());
        let before = self.look_up(&legacy).await?;
        // There, each run of an event had a marker of its own.
        let marker = before.marker.map(|marker| marker.of_run(work.arrival.epoch));
        Some(Recalled { marker, revision: 0 })
    }

    /// What tells one run of an event from others: it may have been replayed.
    fn run_key(&self, work: &mut Work) -> Arc<str> {
        let key = self.key(work);
        match work.arrival.epoch {
            0 => key,
            epoch => format!("{key}.{epoch}").into(),
        }
    }

    fn key(&self, work: &mut Work) -> Arc<str> {
        if let Some(key) = &work.memory.key {
            return Arc::clone(key);
        }
        let key = self.case(work).token().as_str().into();
        Arc::clone(work.memory.key.insert(key))
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
