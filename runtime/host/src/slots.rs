//! How many events of a handler run at once: each that runs has a slot, and gives it up while it has to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The slots of one handler. They are taken in the order in which they were asked for.
#[derive(Debug)]
pub struct Slots {
    free: Arc<Semaphore>,
    /// How many wait for one, without those that wait on behalf of a queue.
    waiting: AtomicUsize,
}

/// The right to run one of as many events at once as `concurrency` allows.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Slots {
    /// So many slots.
    pub fn new(count: usize) -> Arc<Slots> {
        Arc::new(Slots { free: Arc::new(Semaphore::new(count)), waiting: AtomicUsize::new(0) })
    }

    /// Waits for one.
    pub async fn take(self: &Arc<Self>) -> Slot {
        let _waiting = Waiting::new(&self.waiting);
        self.take_for_queue().await
    }

    /// Waits for one that is for whoever is first in a queue. Meanwhile slots may be passed on within it.
    pub async fn take_for_queue(self: &Arc<Self>) -> Slot {
        // Slots are never closed.
        let permit = Arc::clone(&self.free).acquire_owned().await.ok();
        Slot { slots: Arc::clone(self), permit }
    }

    /// Takes one if it can be had at once.
    pub fn take_if_free(self: &Arc<Self>) -> Option<Slot> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(Slot { slots: Arc::clone(self), permit: Some(permit) })
    }
}

impl Slot {
    /// Whether it may go to whoever is first in a queue: it was not given up, and nobody else waits.
    pub fn can_be_passed_on(&self) -> bool {
        self.permit.is_some() && self.slots.waiting.load(Ordering::Relaxed) == 0
    }

    /// Gives it up, until it is taken again.
    pub fn give_up(&mut self) {
        self.permit = None;
    }

    /// Waits for another one in its place.
    pub async fn take_again(&mut self) {
        self.give_up();
        let slots = Arc::clone(&self.slots);
        *self = slots.take().await;
    }
}

/// Counts somebody who waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn new(count: &AtomicUsize) -> Waiting<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_not_passed_over() {
        let slots = Slots::new(2);
        let (mut first, second) = (slots.take().await, slots.take().await);
        assert!(slots.take_if_free().is_none() && second.can_be_passed_on());
        first.give_up();
        assert!(!first.can_be_passed_on());
        let third = slots.take().await;
        let mut again = Box::pin(first.take_again());
        assert!(again.as_mut().now_or_never().is_none() && !second.can_be_passed_on());
        drop(second);
        assert!(again.as_mut().now_or_never().is_some() && third.can_be_passed_on());
        drop(again);
        assert!(first.can_be_passed_on());
        let mut queue = Box::pin(slots.take_for_queue());
        assert!(queue.as_mut().now_or_never().is_none() && first.can_be_passed_on());
        let mut other = Box::pin(slots.take());
        assert!(other.as_mut().now_or_never().is_none() && !first.can_be_passed_on());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_holds_nobody_up() {
        let slots = Slots::new(1);
        let mut first = slots.take().await;
        first.give_up();
        let second = slots.take().await;
        assert!(first.take_again().now_or_never().is_none());
        assert!(second.can_be_passed_on());
    }
}
