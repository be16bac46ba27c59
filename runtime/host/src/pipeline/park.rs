//! Keys that are held up: with `order.on_failure = "park"`, an event that is given up on leaves a marker for its key,
//! and the events behind it wait where they are until it was replayed with success, or discarded.

use std::time::Duration;

use tidemill_policy::marker::{self, Marker};
use tidemill_policy::order;

use super::{HOLD_DELAYS, Pipeline, Source, Step, Work};
use crate::broker::{Broker, MarkerError};
use crate::invoker::Invoker;

/// How long to wait before a key that is held up is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl<B: Broker, I: Invoker> Pipeline<B, I> {
    /// Waits while the event's key is held up by another event. Returns what follows, unless the event may go on.
    pub(super) async fn wait_while_parked(&self, work: &mut Work) -> Option<Step> {
        // What comes back is what the others wait for.
        let key = self.parking_key(work).filter(|_| work.arrival.source != Source::Retry)?;
        let mut has_waited = false;
        loop {
            let Some(recalled) = self.look_up(&key).await else { return Some(Step::release()) };
            match recalled.marker {
                Some(Marker::Parked { event }) if event != self.event_id(work) => {}
                // It may have become too old meanwhile.
                _ => return has_waited.then_some(Step::Again),
            }
            if !self.wait(work, LOOK_AGAIN).await {
                return Some(Step::release());
            }
            has_waited = true;
        }
    }

    /// Holds the key up behind an event that is given up on, unless another one does so already. Returns false when
    /// the time to drain is over before that is done.
    pub(super) async fn park(&self, work: &mut Work) -> bool {
        let Some(key) = self.parking_key(work) else { return true };
        let parked = Marker::Parked { event: self.event_id(work) };
        self.replace_parked(&key, parked, |present| !matches!(present, Some(Marker::Parked { .. }))).await
    }

    /// Lets the key go on, if this event was what held it up. Returns false when the time to drain is over before that
    /// is done.
    pub(super) async fn unpark(&self, work: &mut Work) -> bool {
        let Some(key) = self.parking_key(work).filter(|_| work.arrival.source == Source::Retry) else { return true };
        let id = self.event_id(work);
        let is_ours = |present: &Option<Marker>| matches!(present, Some(Marker::Parked { event }) if *event == id);
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

    fn event_id(&self, work: &Work) -> String {
        self.case(work).id().1
    }
}
