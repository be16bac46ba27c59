//! A delivery on its way through the steps.

use std::sync::Arc;
use std::time::Duration;

use tidemill_policy::arrival::Arrival;
use tidemill_policy::decide::Failure;
use tidemill_policy::event::Event;
use tidemill_policy::manifest::KeyOrder;
use tidemill_policy::order;
use tokio::time::Instant;

use super::memory::Memory;
use super::newest::Standing as Latest;
use crate::broker::Source;
use crate::slots::Slot;

/// One delivery on its way.
pub(super) struct Work {
    pub(super) arrival: Arrival,
    /// The event, or why the message is none.
    pub(super) event: Result<Arc<Event>, Failure>,
    /// What is remembered of the event, as far as we know.
    pub(super) memory: Memory,
    /// Where it stands among the events of its key, if that matters.
    pub(super) latest: Option<Latest>,
    /// When it was last certain that nobody else had the message: when it was delivered, or a marker was written since.
    pub(super) sure_since: Instant,
    /// How long retries of this delivery have waited in memory.
    pub(super) waited: Duration,
    /// How many there were.
    pub(super) retried_in_memory: u32,
    /// The right to run; given up while there is something to wait for.
    pub(super) slot: Option<Slot>,
    /// Whether its outputs were sent without an answer, so that they may be stored already.
    pub(super) is_repeating: bool,
}

impl Work {
    pub(super) fn give_up_slot(&mut self) {
        if let Some(slot) = &mut self.slot {
            slot.give_up();
        }
    }

    pub(super) async fn take_slot(&mut self) {
        if let Some(slot) = &mut self.slot {
            slot.take_again().await;
        }
    }
}

/// A delivery that was looked at, and is not begun.
pub struct Taken<R> {
    /// Boxed, since it is handed on several times and is large.
    pub(super) work: Box<Work>,
    pub(super) receipt: R,
}

impl<R> Taken<R> {
    /// The event's id; nothing where the message is no event.
    pub fn identity(&self) -> &str {
        self.work.event.as_ref().map_or("", |event| &event.id)
    }

    /// Where the event stands among those of its key: the key, whether it comes from the input, and its sequence. What has
    /// a key of which there is no telling which is not run, so it may have any place.
    pub fn place(&self, order: &KeyOrder) -> (String, bool, u64) {
        let Work { arrival, event, .. } = &*self.work;
        let key = order::key(order, arrival, event.as_deref().ok()).unwrap_or_default();
        (key, arrival.source == Source::Input, arrival.position.sequence)
    }
}
