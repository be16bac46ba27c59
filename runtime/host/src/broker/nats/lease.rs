//! Deliveries in flight: each is a lease, which is prolonged (`+WPI`) while it is queued or running, so that
//! the server does not take a long-running handler for a dead one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, Subject};
use futures::StreamExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::in_flight::Reserved;

/// How many leases are prolonged at once.
const PROLONGED_AT_ONCE: usize = 64;

/// The leases of one consumer, by stream sequence.
///
/// A stream that is deleted and made anew counts from 1 again, and the server finds a delivery by its sequence
/// alone: a settlement for the old stream would settle another message of the new one. So leases end with
/// their stream, and until it is known whether it is still the same one, nothing is settled.
#[derive(Debug)]
pub struct Leases {
    /// After how long without a sign of life the server takes a delivery back.
    ack_wait: Duration,
    /// Whether the order of events depends on nobody else having them: then the server is to confirm each prolongation.
    is_ordered: bool,
    /// How many deliveries of all consumers are in hand.
    in_hand: Arc<AtomicUsize>,
    held: Mutex<HashMap<u64, Held>>,
    /// How often the stream was made anew.
    generation: AtomicU64,
    suspended: AtomicBool,
    /// Cancelled when the leases that were taken so far end.
    end: Mutex<CancellationToken>,
}

#[derive(Debug)]
struct Held {
    reply: Subject,
    since: Instant,
    prolonged: Option<Prolonged>,
}

/// When we last told the server that we have a delivery, as far as it has confirmed that.
type Prolonged = Arc<Mutex<Instant>>;

/// The right to work on one delivery; ends when it is dropped.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Leases>,
    generation: u64,
    sequence: u64,
    reply: Subject,
    watch: Option<Watch>,
    /// Shares of what the consumer may have in flight; given back with the lease.
    room: Room,
}

/// By what it is known whether a lease still stands, where the order of events depends on that.
#[derive(Debug)]
struct Watch {
    prolonged: Prolonged,
    end: CancellationToken,
}

/// What a delivery takes of what its consumer may have in flight.
#[derive(Debug, Default)]
pub struct Room {
    /// Its place; nothing where it came without being asked for.
    pub place: Option<OwnedSemaphorePermit>,
    /// Its bytes.
    pub bytes: Option<Reserved>,
}

impl Leases {
    /// The leases of a consumer with this `ack_wait`, whether the order of events depends on them, and where those of all
    /// consumers are counted.
    pub fn new(ack_wait: Duration, is_ordered: bool, in_hand: Arc<AtomicUsize>) -> Leases {
        Leases {
            in_hand,
            ack_wait,
            is_ordered,
            held: Mutex::default(),
            generation: AtomicU64::new(0),
            suspended: AtomicBool::new(false),
            end: Mutex::default(),
        }
    }

    /// Takes the lease for a delivery; nothing if the same message is already being worked on here, which
    /// happens when the server redelivers it early.
    pub fn take(self: &Arc<Self>, sequence: u64, reply: Subject, room: Room) -> Option<Lease> {
        let mut held = self.lock();
        let Entry::Vacant(place) = held.entry(sequence) else { return None };
        let since = Instant::now();
        let prolonged = self.is_ordered.then(|| Arc::new(Mutex::new(since)));
        place.insert(Held { reply: reply.clone(), since, prolonged: prolonged.clone() });
        let generation = self.generation();
        drop(held);
        self.in_hand.fetch_add(1, Ordering::Relaxed);
        let watch = prolonged.map(|prolonged| Watch { prolonged, end: locked(&self.end).clone() });
        Some(Lease { leases: Arc::clone(self), generation, sequence, reply, watch, room })
    }

    /// Whether a message is being worked on here.
    pub fn holds(&self, sequence: u64) -> bool {
        self.lock().contains_key(&sequence)
    }

    /// The messages that are in hand.
    pub fn sequences(&self) -> Vec<u64> {
        self.lock().keys().copied().collect()
    }

    /// Settles nothing until [`Leases::resume`] or [`Leases::renew`]: the messages are delivered again.
    pub fn suspend(&self) {
        self.suspended.store(true, Ordering::SeqCst);
    }

    /// Settles again: the stream is the one that the leases were taken on.
    pub fn resume(&self) {
        self.suspended.store(false, Ordering::SeqCst);
    }

    /// Ends all leases: the stream is a new one, or the server may have forgotten them.
    pub fn renew(&self) {
        let mut held = self.lock();
        held.clear();
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.suspended.store(false, Ordering::SeqCst);
        std::mem::take(&mut *locked(&self.end)).cancel();
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Prolongs leases that are older than a quarter of `ack_wait`, every quarter of it, until `stop`.
    pub async fn keep_alive(self: Arc<Self>, client: Client, stop: CancellationToken) {
        let period = (self.ack_wait / 4).max(Duration::from_millis(1));
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            if self.suspended.load(Ordering::SeqCst) {
                continue;
            }
            let due = self.older_than(period);
            if self.is_ordered {
                let due = due.into_iter().filter_map(|(reply, prolonged)| Some((reply, prolonged?)));
                let prolong = due.map(|(reply, prolonged)| prolong(&client, reply, prolonged));
                let all = futures::stream::iter(prolong).buffer_unordered(PROLONGED_AT_ONCE).collect::<()>();
                // What is not answered by then is asked again.
                let _ = timeout(period, all).await;
                continue;
            }
            for (reply, _) in due {
                // An error means that the connection is closed for good.
                if client.publish(reply, "+WPI".into()).await.is_err() {
                    return;
                }
            }
        }
    }

    fn older_than(&self, age: Duration) -> Vec<(Subject, Option<Prolonged>)> {
        let held = self.lock();
        let old = held.values().filter(|held| held.since.elapsed() >= age);
        old.map(|held| (held.reply.clone(), held.prolonged.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        locked(&self.held)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the server that we have a delivery, and notes when, once that is confirmed.
async fn prolong(client: &Client, reply: Subject, prolonged: Prolonged) {
    let since = Instant::now();
    if client.request(reply, "+WPI".into()).await.is_ok() {
        *locked(&prolonged) = since;
    }
}

impl Lease {
    /// Waits until the server may take the delivery back soon: it has confirmed nothing for most of `ack_wait`. Of
    /// handlers without an order, leases are not confirmed, and nobody is told.
    pub async fn lapsed(&self) {
        let Some(Watch { prolonged, end }) = &self.watch else { return pending().await };
        let time = self.leases.ack_wait * 7 / 8;
        let unheard = async {
            loop {
                let prolonged = *locked(prolonged);
                if prolonged.elapsed() >= time {
                    return;
                }
                sleep_until(prolonged + time).await;
            }
        };
        tokio::select! {
            biased;
            () = end.cancelled() => {}
            () = unheard => {}
        }
    }

    /// Takes the bytes out of the lease, to be given back when the message is not in memory any more.
    pub fn take_bytes(&mut self) -> Option<Reserved> {
        self.room.bytes.take()
    }

    /// Where the settlement goes; nothing where the lease has ended with its stream.
    pub fn reply(&self) -> Option<&Subject> {
        let stands = self.generation == self.leases.generation() && !self.leases.suspended.load(Ordering::SeqCst);
        stands.then_some(&self.reply)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.in_hand.fetch_sub(1, Ordering::Relaxed);
        let mut held = self.leases.lock();
        if self.generation == self.leases.generation() {
            held.remove(&self.sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_end_with_their_stream() {
        let leases = Arc::new(Leases::new(Duration::from_secs(1), false, Arc::default()));
        let take = || leases.take(1, "reply".into(), Room::default());
        let old = take().expect("free");
        assert!(take().is_none() && old.reply().is_some());
        leases.suspend();
        assert!(old.reply().is_none());
        leases.resume();
        assert!(old.reply().is_some());
        leases.renew();
        let new = take().expect("another message");
        assert!(old.reply().is_none() && new.reply().is_some());
        drop(old);
        assert!(leases.holds(1), "the old lease does not give up the new one");
        drop(new);
        assert!(!leases.holds(1));
    }
}
