//! The bytes of messages that are in flight in this process, by consumer. The rules are
//! [`tidemill_policy::in_flight`]; here is their state, and the line in which consumers wait for bytes of the pool.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tidemill_policy::in_flight::{Division, Ledger};
use tokio::sync::oneshot;

/// What may be in flight in one process.
#[derive(Debug)]
pub struct Budget {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    /// Those who wait, first come, first served.
    waiting: VecDeque<Waiting>,
    claims: u64,
    /// What of it has arrived.
    in_hand: u64,
    /// The most that there was, arrived or not.
    peak: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    consumer: usize,
    least: u64,
    most: u64,
    granted: oneshot::Sender<Reserved>,
}

/// The bytes in flight, as the status shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BytesReport {
    /// Of messages that are in hand.
    pub in_hand: u64,
    /// Of messages that the server was asked for.
    pub asked_for: u64,
    /// The most of both together since the connection was made.
    pub peak: u64,
    /// What that cannot exceed.
    pub bound: u64,
}

/// The account of one consumer.
#[derive(Debug, Clone)]
pub struct Purse {
    budget: Arc<Budget>,
    consumer: usize,
}

/// A claim to bytes; given up when it is dropped.
#[derive(Debug)]
pub struct Claim {
    budget: Arc<Budget>,
    number: u64,
    granted: oneshot::Receiver<Reserved>,
}

/// Reserved that a consumer has in flight; given back when this is dropped.
#[derive(Debug)]
pub struct Reserved {
    purse: Purse,
    bytes: u64,
    in_hand: bool,
}

impl Budget {
    /// Nothing is in flight yet.
    pub fn new(division: Division) -> Arc<Budget> {
        let state = State { ledger: Ledger::new(division), waiting: VecDeque::new(), claims: 0, in_hand: 0, peak: 0 };
        Arc::new(Budget { state: Mutex::new(state) })
    }

    /// Divides anew, among consumers that have numbers below `numbers`.
    pub fn divide_anew(self: &Arc<Self>, division: Division, numbers: usize) {
        let mut state = self.lock();
        state.ledger.divide_anew(division, numbers);
        state.serve(self);
    }

    /// The account of a consumer, by its number from 0.
    pub fn purse(self: &Arc<Self>, consumer: usize) -> Purse {
        Purse { budget: Arc::clone(self), consumer }
    }

    /// What is in flight now.
    pub fn report(&self) -> BytesReport {
        let state = self.lock();
        BytesReport {
            in_hand: state.in_hand,
            asked_for: state.ledger.total().saturating_sub(state.in_hand),
            peak: state.peak,
            bound: state.ledger.division().bound(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note_peak(&mut self) {
        self.peak = self.peak.max(self.ledger.total());
    }

    /// Grants what can be granted now: the first in line by what is left of the pool, the others by their own shares.
    fn serve(&mut self, budget: &Arc<Budget>) {
        while let Some(first) = self.waiting.front() {
            let Some(bytes) = self.ledger.grant(first.consumer, first.least, first.most) else { break };
            self.hand_out(budget, 0, bytes);
        }
        let mut place = 0;
        while let Some(waiting) = self.waiting.get(place) {
            match self.ledger.grant_own(waiting.consumer, waiting.least) {
                Some(bytes) => self.hand_out(budget, place, bytes),
                None => place += 1,
            }
        }
        self.note_peak();
    }

    fn hand_out(&mut self, budget: &Arc<Budget>, place: usize, bytes: u64) {
        let Some(waiting) = self.waiting.remove(place) else { return };
        // Whoever gives up leaves the line first, under our lock, so this arrives.
        let _ = waiting.granted.send(Reserved { purse: budget.purse(waiting.consumer), bytes, in_hand: false });
    }
}

impl Purse {
    /// Gets in line for at least `least` bytes, and up to `most` if there are as many.
    pub fn claim(&self, least: u64, most: u64) -> Claim {
        let (sender, granted) = oneshot::channel();
        let mut state = self.budget.lock();
        state.claims += 1;
        let number = state.claims;
        state.waiting.push_back(Waiting { number, consumer: self.consumer, least, most, granted: sender });
        state.serve(&self.budget);
        drop(state);
        Claim { budget: Arc::clone(&self.budget), number, granted }
    }

    /// What a consumer has for itself, in bytes.
    pub fn share(&self) -> u64 {
        self.budget.lock().ledger.division().share
    }

    /// No bytes, to begin with.
    pub fn nothing(&self) -> Reserved {
        Reserved { purse: self.clone(), bytes: 0, in_hand: false }
    }
}

impl Claim {
    /// Waits for the bytes. Where this is dropped, the place in line is kept.
    pub async fn granted(&mut self) -> Option<Reserved> {
        (&mut self.granted).await.ok()
    }

    /// The bytes, if they were granted at once.
    pub fn now(&mut self) -> Option<Reserved> {
        self.granted.try_recv().ok()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        let place = state.waiting.iter().position(|waiting| waiting.number == self.number);
        if let Some(place) = place {
            state.waiting.remove(place);
            // Those behind it may have waited for nobody else.
            state.serve(&self.budget);
        }
    }
}

impl Reserved {
    /// How many.
    pub fn count(&self) -> u64 {
        self.bytes
    }

    /// Adds more.
    pub fn merge(&mut self, mut more: Reserved) {
        self.bytes += std::mem::take(&mut more.bytes);
    }

    /// Gives back up to `bytes`.
    pub fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        drop(Reserved { purse: self.purse.clone(), bytes, in_hand: self.in_hand });
    }

    /// Takes the bytes of a message that has arrived. What is missing is charged to the consumer, whatever may be.
    #[must_use]
    pub fn arrived(&mut self, bytes: u64) -> Reserved {
        let reserved = bytes.min(self.bytes);
        self.bytes -= reserved;
        let mut state = self.purse.budget.lock();
        state.in_hand += bytes;
        if reserved < bytes {
            state.ledger.charge(self.purse.consumer, bytes - reserved);
            state.note_peak();
        }
        drop(state);
        Reserved { purse: self.purse.clone(), bytes, in_hand: true }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut state = self.purse.budget.lock();
        state.ledger.give_back(self.purse.consumer, self.bytes);
        if self.in_hand {
            state.in_hand = state.in_hand.saturating_sub(self.bytes);
        }
        if !state.waiting.is_empty() {
            state.serve(&self.purse.budget);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn budget(consumers: u64, share: u64, pool: u64) -> Arc<Budget> {
        Budget::new(Division { consumers, share, pool })
    }

    #[test]
    fn whoever_waits_is_served_in_line_and_keeps_its_own_share() {
        let budget = budget(3, 10, 20);
        let all = budget.purse(0).claim(30, 30).now().expect("free");
        let mut second = budget.purse(1).claim(20, 20);
        let mut third = budget.purse(2).claim(12, 12);
        assert!(second.now().is_none() && third.now().is_none());
        let mut own = budget.purse(2).claim(10, 10);
        assert_eq!(own.now().expect("its own share").count(), 10);
        drop(all);
        assert_eq!(second.granted().now_or_never().flatten().expect("its turn").count(), 20);
        drop(third);
        drop(own);
        drop(second);
        assert_eq!(budget.report(), BytesReport { in_hand: 0, asked_for: 0, peak: 40, bound: 50 });
    }

    #[test]
    fn who_gives_up_holds_nobody_back_and_loses_no_bytes() {
        let budget = budget(2, 0, 10);
        let taken = budget.purse(0).claim(6, 6).now().expect("free");
        let large = budget.purse(0).claim(10, 10);
        let mut small = budget.purse(1).claim(4, 4);
        assert!(small.now().is_none(), "it is not its turn");
        drop(large);
        let granted = small.now().expect("its turn");
        let unheard = budget.purse(1).claim(6, 6);
        drop(taken);
        drop(unheard);
        drop(granted);
        assert_eq!(budget.report().asked_for, 0);
    }

    #[test]
    fn a_message_takes_its_size_out_of_what_was_asked_for() {
        let budget = budget(1, 100, 0);
        let mut open = budget.purse(0).claim(1, 1).now().expect("free");
        let message = open.arrived(30);
        open.give_back(50);
        let larger = open.arrived(90);
        assert_eq!(budget.report(), BytesReport { in_hand: 120, asked_for: 0, peak: 120, bound: 100 });
        drop((message, larger, open));
        assert_eq!(budget.report(), BytesReport { in_hand: 0, asked_for: 0, peak: 120, bound: 100 });
    }
}
