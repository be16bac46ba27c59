//! Keys that are held up: with `order.on_failure = "park"`, an event that is given up on leaves a marker for its key,
//! and the events behind it wait where they are until it was replayed with success, or discarded.

use std::time::Duration;

use tidemill_policy::marker::{self, Holder, Marker, Stored};
use tidemill_policy::order;

use super::{HOLD_DELAYS, Pipeline, Source, Step, Work};
use crate::broker::{Broker, MarkerError};
use crate::invoker::Invoker;

/// How long to wait before a key that is held up is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// After how many looks it is asked whether the event that holds a key up can still come back.
const LOOKS_BETWEEN_QUESTIONS: usize = 10;

impl<B: Broker, I: Invoker> Pipeline<B, I> {
    /// Waits while the event's key is held up by another event. Returns what follows, unless the event may go on.
    pub(super) async fn wait_while_parked(&self, work: &mut Work) -> Option<Step> {
        // What comes back is what the others wait for.
        let key = self.parking_key(work).filter(|_| work.arrival.source != Source::Retry)?;
        for looks in 0.. {
            let Some(recalled) = self.look_up(&key).await else { return Some(Step::release()) };
            let holder = match recalled.marker {
                Some(Marker::Parked(holder)) if !holder.is(self.case(work)) => holder,
                // It may have become too old meanwhile.
                _ => return (looks > 0).then_some(Step::Again),
            };
            if looks % LOOKS_BETWEEN_QUESTIONS == 0 && self.release_orphan(&key, &holder, recalled.revision).await {
                continue;
            }
            if !self.wait(work, LOOK_AGAIN).await {
                return Some(Step::release());
            }
        }
        None
    }

    /// Lets a key go on whose event cannot come back: its dead letter was purged or has expired, so that nobody can
    /// replay or discard it. Returns whether it was so.
    async fn release_orphan(&self, key: &str, holder: &Holder, revision: u64) -> bool {
        let Some((token, carriers)) = holder.carriers() else { return false };
        if self.broker.carries(&self.handler.name, &token, &carriers).await.unwrap_or(true) {
            return false;
        }
        let lifetime = marker::lifetime(&self.handler, &Marker::Released, self.clock.now_ms());
        let is_released = self.broker.remember(key, &Marker::Released, lifetime, revision).await.is_ok();
        if is_released {
            let (handler, event) = (&self.handler.name, &holder.event);
            tracing::warn!(%handler, %event, "a key that this event held up goes on: its dead letter is gone");
        }
        is_released
    }

    /// Holds the key up behind an event that is given up on, unless another one does so already. Its dead letter is told
    /// once it is stored. Returns false when the time to drain is over before that is done.
    pub(super) async fn park(&self, work: &mut Work, letter: Option<&Stored>) -> bool {
        let Some(key) = self.parking_key(work) else { return true };
        let case = self.case(work);
        let parked = Marker::Parked(Holder::of(case, letter.cloned()));
        let is_wanted = |present: &Option<Marker>| match present {
            Some(Marker::Parked(holder)) => letter.is_some() && holder.is(case),
            _ => letter.is_none(),
        };
        self.replace_parked(&key, parked, is_wanted).await
    }

    /// Lets the key go on, if this event was what held it up. Returns false when the time to drain is over before that
    /// is done.
    pub(super) async fn unpark(&self, work: &mut Work) -> bool {
        let Some(key) = self.parking_key(work).filter(|_| work.arrival.source == Source::Retry) else { return true };
        let case = self.case(work);
        let is_ours = |present: &Option<Marker>| matches!(present, Some(Marker::Parked(holder)) if holder.is(case));
        self.replace_parked(&key, Marker::Released, is_ours).await
    }

    async fn replace_parked(&self, key: &str, marker: Marker, is_wanted: impl Fn(&Option<Marker>) -> bool) -> bool {
        let lifetime = marker::lifetime(&self.handler, &marker, self.clock.now_ms());
        let mut delay = HOLD_DELAYS.0;
        loop {
            let Some(present) = self.look_up(key).await else { return false };
            if !is_wanted(&present.marker) {
                return true;
            }
            match self.broker.remember(key, &marker, lifetime, present.revision).await {
                Ok(_) => return true,
                Err(error @ (MarkerError::Conflict | MarkerError::Unavailable(_))) => {
                    tracing::debug!(handler = %self.handler.name, %error, "holding on to an event");
                }
            }
            if !self.hold(&mut delay).await {
                return false;
            }
        }
    }

    /// The name of the marker of the event's key; nothing where keys are not held up, or there is no telling which key it
    /// has.
    fn parking_key(&self, work: &Work) -> Option<String> {
        let order = self.handler.key_order().filter(|_| self.handler.parks())?;
        let key = order::key(order, &work.arrival, work.event.as_deref().ok()).ok()?;
        Some(marker::parked(&self.handler, &key))
    }
}
