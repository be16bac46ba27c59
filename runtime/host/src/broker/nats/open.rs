//! What a consumer has asked for and has not got yet: places and bytes, and the pull requests that the server has.
//!
//! The server says when a request ends, and what of it is left: after the last message that was asked for, when the next
//! one does not fit into `max_bytes`, and when its time is over. Only where the bytes come out even, it says nothing.

use std::collections::BTreeMap;

use tidemill_policy::in_flight::Reach;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::lease::Room;
use crate::in_flight::Reserved;

/// What was asked for and has not arrived; given back when this is dropped.
#[derive(Debug)]
pub(super) struct Open {
    places: OwnedSemaphorePermit,
    bytes: Reserved,
    /// The requests that the server has, by number.
    requests: BTreeMap<u64, Sent>,
    sent: u64,
    /// How many bytes the next message may need.
    pub(super) reach: Reach,
}

/// A pull request.
#[derive(Debug)]
pub(super) struct Request {
    /// How many messages it is for.
    pub(super) places: OwnedSemaphorePermit,
    /// The bytes that are reserved for them.
    pub(super) bytes: Reserved,
    /// How many bytes the server is told; more than are reserved only for a message that must come whatever its size.
    pub(super) bytes_max: u64,
    /// By when the server must have said that it has ended.
    pub(super) until: Instant,
}

#[derive(Debug)]
struct Sent {
    reserved: u64,
    bytes_max: u64,
    until: Instant,
}

impl Open {
    /// Nothing is asked for yet.
    pub(super) fn new(places: OwnedSemaphorePermit, bytes: Reserved) -> Open {
        Open { places, bytes, requests: BTreeMap::new(), sent: 0, reach: Reach::default() }
    }

    /// How many messages are to come.
    pub(super) fn places(&self) -> usize {
        self.places.num_permits()
    }

    /// The number of the next request.
    pub(super) fn next(&self) -> u64 {
        self.sent + 1
    }

    /// Notes a request that was sent.
    pub(super) fn add(&mut self, request: Request) {
        let Request { places, bytes, bytes_max, until } = request;
        self.sent += 1;
        self.requests.insert(self.sent, Sent { reserved: bytes.count(), bytes_max, until });
        self.places.merge(places);
        self.bytes.merge(bytes);
    }

    /// Takes what a message needs that has arrived.
    pub(super) fn arrived(&mut self, bytes: u64) -> Room {
        self.reach.arrived(bytes);
        let room = Room { place: self.places.split(1), bytes: Some(self.bytes.arrived(bytes)) };
        // The server has ended them all, and says so of none of them.
        if self.bytes.count() == 0 && self.requests.values().all(|sent| sent.bytes_max == sent.reserved) {
            self.requests.clear();
            drop(self.places.split(self.places()));
        }
        room
    }

    /// Gives back what is left of a request that has ended.
    pub(super) fn ended(&mut self, number: u64, places_left: usize, bytes_left: u64) {
        let Some(sent) = self.requests.remove(&number) else { return };
        drop(self.places.split(places_left.min(self.places())));
        self.bytes.give_back(sent.reserved.saturating_sub(sent.bytes_max.saturating_sub(bytes_left)));
    }

    /// When the server should have said of the first request that it has ended.
    pub(super) fn overdue(&self) -> Option<Instant> {
        self.requests.values().map(|sent| sent.until).min()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemill_policy::in_flight::Division;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::in_flight::{Budget, Purse};

    fn request(credit: &Arc<Semaphore>, purse: &Purse, places: u32, bytes: u64, bytes_max: u64) -> Request {
        Request {
            places: Arc::clone(credit).try_acquire_many_owned(places).expect("free"),
            bytes: purse.claim(bytes, bytes).now().expect("free"),
            bytes_max,
            until: Instant::now(),
        }
    }

    #[tokio::test]
    async fn all_that_was_asked_for_is_given_back_once() {
        let credit = Arc::new(Semaphore::new(100));
        let budget = Budget::new(Division { consumers: 1, share: 0, pool: 1000 });
        let purse = budget.purse(0);
        let nothing = Arc::clone(&credit).try_acquire_many_owned(0).expect("open");
        let mut open = Open::new(nothing, purse.nothing());
        open.add(request(&credit, &purse, 8, 300, 300));
        open.add(request(&credit, &purse, 4, 500, 500));
        let room = open.arrived(100);
        open.ended(1, 7, 200);
        assert_eq!((credit.available_permits(), budget.report().asked_for), (95, 500));
        open.ended(1, 7, 200);
        assert_eq!((credit.available_permits(), open.places()), (95, 4), "it ends once");
        let last = open.arrived(500);
        assert_eq!((credit.available_permits(), open.overdue()), (98, None), "what comes out even is told by nobody");
        open.add(request(&credit, &purse, 1, 10, 5000));
        let large = open.arrived(600);
        open.ended(3, 0, 4400);
        assert_eq!(budget.report().in_hand, 1200);
        drop((room, last, large, open));
        assert_eq!((credit.available_permits(), budget.report().in_hand, budget.report().asked_for), (100, 0, 0));
    }
}
