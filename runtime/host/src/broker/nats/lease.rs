//! Deliveries in flight: each is a lease, which is prolonged (`+WPI`) while it is queued or running, so that
//! the server does not take a long-running handler for a dead one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, Subject};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// The leases of one consumer, by stream sequence.
#[derive(Debug, Default)]
pub struct Leases {
    held: Mutex<HashMap<u64, Held>>,
}

#[derive(Debug)]
struct Held {
    reply: Subject,
    since: Instant,
}

/// The right to work on one delivery; ends when it is dropped.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Leases>,
    sequence: u64,
    reply: Subject,
    /// A share of what the consumer may have in flight; given back with the lease.
    _credit: Option<OwnedSemaphorePermit>,
}

impl Leases {
    /// Takes the lease for a delivery; nothing if the same message is already being worked on here, which
    /// happens when the server redelivers it early.
    pub fn take(
        self: &Arc<Self>,
        sequence: u64,
        reply: Subject,
        credit: Option<OwnedSemaphorePermit>,
    ) -> Option<Lease> {
        let mut held = self.lock();
        if held.contains_key(&sequence) {
            return None;
        }
        held.insert(sequence, Held { reply: reply.clone(), since: Instant::now() });
        drop(held);
        Some(Lease { leases: Arc::clone(self), sequence, reply, _credit: credit })
    }

    /// Whether a message is being worked on here.
    pub fn holds(&self, sequence: u64) -> bool {
        self.lock().contains_key(&sequence)
    }

    /// Prolongs leases that are older than a quarter of `ack_wait`, every quarter of it, until `stop`.
    pub async fn keep_alive(self: Arc<Self>, client: Client, ack_wait: Duration, stop: CancellationToken) {
        let period = (ack_wait / 4).max(Duration::from_millis(1));
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            for reply in self.older_than(period) {
                // An error means that the connection is closed for good.
                if client.publish(reply, "+WPI".into()).await.is_err() {
                    return;
                }
            }
        }
    }

    fn older_than(&self, age: Duration) -> Vec<Subject> {
        self.lock().values().filter(|held| held.since.elapsed() >= age).map(|held| held.reply.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Where the settlement goes.
    pub fn reply(&self) -> &Subject {
        &self.reply
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.lock().remove(&self.sequence);
    }
}
