//! How many bytes of messages may be in flight in one process: in hand, or asked for.
//!
//! Each consumer has a share of its own, in which any message fits: so one handler that cannot go on never starves
//! another. What the shares leave is the pool, which any consumer may use on top. [`Ledger`] keeps the account.

use crate::manifest::{Handler, Manifest, show_size};
use crate::publication::retries_through_stream;

/// What a NATS server takes as a message unless it is told otherwise, in bytes.
pub const PAYLOAD_MAX_DEFAULT: u64 = 1 << 20;

/// What a message takes beside its payload and headers: its subject, and the subject that settles it.
pub const ENVELOPE_BYTES: u64 = 8 << 10;

/// How the bytes that may be in flight are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Division {
    /// How many consumers there are.
    pub consumers: u64,
    /// What each of them has for itself, in bytes: one message of the largest size.
    pub share: u64,
    /// What all of them may use on top, in bytes.
    pub pool: u64,
}

/// Divides `in_flight` bytes among consumers of a server whose messages have up to `payload_max` bytes.
pub fn divide(in_flight: u64, consumers: u64, payload_max: u64) -> Division {
    let share = payload_max.saturating_add(ENVELOPE_BYTES);
    Division { consumers, share, pool: in_flight.saturating_sub(consumers.saturating_mul(share)) }
}

/// Divides what a manifest lets be in flight, on a server whose messages have up to `payload_max` bytes.
pub fn division(manifest: &Manifest, payload_max: u64) -> Division {
    divide(manifest.runtime.in_flight, manifest.handlers.values().map(consumers).sum(), payload_max)
}

/// What is odd about that: not every consumer could have a message without exceeding what the manifest says.
pub fn oddity(manifest: &Manifest, payload_max: u64) -> Option<String> {
    let division = division(manifest, payload_max);
    (division.bound() > manifest.runtime.in_flight).then(|| {
        format!(
            "runtime.in_flight is {}, but each of the {} consumers must have room for one of the server's largest messages \
             (max_payload = {payload_max}), so up to {} bytes may be in flight; raise it, or lower the server's max_payload",
            show_size(manifest.runtime.in_flight),
            division.consumers,
            division.bound()
        )
    })
}

/// How many consumers a handler has in each process: one of its input or one of each partition, and one of its retries.
pub fn consumers(handler: &Handler) -> u64 {
    u64::from(handler.partitions().unwrap_or(1)) + u64::from(retries_through_stream(handler))
}

/// The most bytes that the outputs of running events have beside those in flight: what each attempt may have, times
/// `concurrency`.
pub fn outputs_bound<'a>(handlers: impl IntoIterator<Item = &'a Handler>) -> u64 {
    let each = |handler: &Handler| handler.limits.budget.output_bytes.saturating_mul(handler.concurrency.into());
    handlers.into_iter().map(each).fold(0, u64::saturating_add)
}

impl Division {
    /// The most bytes in flight: what was asked for, or a message for each consumer where that is more.
    pub fn bound(&self) -> u64 {
        self.consumers.saturating_mul(self.share).saturating_add(self.pool)
    }
}

/// Which consumer has how many bytes in flight.
#[derive(Debug)]
pub struct Ledger {
    division: Division,
    /// By consumer.
    used: Vec<u64>,
    /// What consumers use beyond their shares, in total.
    pooled: u64,
}

impl Ledger {
    /// An account in which nothing is in flight.
    pub fn new(division: Division) -> Ledger {
        let consumers = usize::try_from(division.consumers).unwrap_or(0);
        Ledger { division, used: vec![0; consumers], pooled: 0 }
    }

    /// How the bytes are divided.
    pub fn division(&self) -> Division {
        self.division
    }

    /// Divides anew, among consumers that have numbers below `numbers`. What is in flight stays in flight; where that is
    /// more than there is now, nothing of the pool is granted until enough came back.
    pub fn divide_anew(&mut self, division: Division, numbers: usize) {
        self.division = division;
        self.used.resize(numbers.max(self.used.len()), 0);
        self.pooled = self.used.iter().map(|used| used.saturating_sub(division.share)).sum();
    }

    /// All that is in flight.
    pub fn total(&self) -> u64 {
        self.used.iter().sum()
    }

    /// Grants a consumer at least `least` bytes out of what is left of its own share, all of which it gets.
    pub fn grant_own(&mut self, consumer: usize, least: u64) -> Option<u64> {
        let left = self.division.share.saturating_sub(self.used[consumer]);
        (left >= least).then(|| {
            self.charge(consumer, left);
            left
        })
    }

    /// Grants a consumer at least `least` bytes and up to `most`, or what is left of its share where that is more. One
    /// grant takes no more than half of the pool's rest unless `least` needs it.
    pub fn grant(&mut self, consumer: usize, least: u64, most: u64) -> Option<u64> {
        let left = self.division.share.saturating_sub(self.used[consumer]);
        let rest = self.division.pool.saturating_sub(self.pooled);
        if left.saturating_add(rest) < least {
            return None;
        }
        let granted = most.min(left.saturating_add(rest / 2)).max(least).max(left);
        self.charge(consumer, granted);
        Some(granted)
    }

    /// Adds to what a consumer has in flight, whatever may be.
    pub fn charge(&mut self, consumer: usize, bytes: u64) {
        self.change(consumer, |used| used.saturating_add(bytes));
    }

    /// Takes from what a consumer has in flight.
    pub fn give_back(&mut self, consumer: usize, bytes: u64) {
        self.change(consumer, |used| used.saturating_sub(bytes));
    }

    fn change(&mut self, consumer: usize, change: impl Fn(u64) -> u64) {
        let Some(used) = self.used.get_mut(consumer) else { return };
        let before = *used;
        *used = change(before);
        let beyond = |used: u64| used.saturating_sub(self.division.share);
        self.pooled = self.pooled.saturating_sub(beyond(before)).saturating_add(beyond(*used));
    }
}

/// What a consumer learns from the messages that it gets about how many bytes to ask for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reach {
    /// About the size of the next message.
    expected: u64,
    /// Whether the next message did not fit into what was asked for.
    refused: bool,
    /// Whether it is larger than the server's largest messages.
    outsized: bool,
}

/// What a request asks for at least where messages are small.
const LEAST_BYTES: u64 = 64 << 10;

impl Reach {
    /// Notes the size of a message: one that is larger counts at once, smaller ones little by little.
    pub fn arrived(&mut self, bytes: u64) {
        (self.refused, self.outsized) = (false, false);
        self.expected = bytes.max(self.expected - self.expected / 16);
    }

    /// Notes that the next message does not fit into the `left` bytes that a request had left.
    pub fn refused(&mut self, left: u64, share: u64) {
        self.refused = true;
        self.outsized |= left >= share;
    }

    /// Whether the next message does not even fit into a share: the server's limit was lowered. Then it must be asked for
    /// alone, whatever its size.
    pub fn is_outsized(&self) -> bool {
        self.outsized
    }

    /// Notes that nothing came for a while.
    pub fn idle(&mut self) {
        self.expected = 0;
    }

    /// At least and at most how many bytes to ask for with `count` messages.
    pub fn bytes(&self, count: u64, share: u64) -> (u64, u64) {
        let one = if self.refused { share } else { self.expected.max(LEAST_BYTES).min(share) };
        (one, count.saturating_mul(self.expected).max(one))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_consumer_has_room_for_a_message() {
        let rows = [
            // in flight, consumers, largest payload: pool, bound
            (100 << 20, 2, 1 << 20, (100 << 20) - 2 * ((1 << 20) + ENVELOPE_BYTES), 100 << 20),
            (1 << 20, 2, 1 << 20, 0, 2 * ((1 << 20) + ENVELOPE_BYTES)),
            (1 << 20, 0, 1 << 20, 1 << 20, 1 << 20),
        ];
        for (in_flight, consumers, payload_max, pool, bound) in rows {
            let division = divide(in_flight, consumers, payload_max);
            assert_eq!((division.pool, division.bound()), (pool, bound), "{division:?}");
        }
    }

    #[test]
    fn a_consumer_that_holds_all_starves_nobody() {
        let mut ledger = Ledger::new(Division { consumers: 2, share: 10, pool: 100 });
        while ledger.grant(0, 1, 1000).is_some() {}
        assert_eq!(ledger.total(), 110);
        assert_eq!(ledger.grant_own(1, 10), Some(10));
        assert_eq!(ledger.grant_own(1, 1), None);
        ledger.give_back(0, 60);
        assert_eq!(ledger.grant(1, 50, 50), Some(50), "what is given back is the pool's first");
    }

    #[test]
    fn who_comes_later_has_a_share_though_the_pool_is_used_up() {
        let mut ledger = Ledger::new(Division { consumers: 1, share: 10, pool: 90 });
        while ledger.grant(0, 1, 1000).is_some() {}
        ledger.divide_anew(Division { consumers: 2, share: 10, pool: 80 }, 2);
        assert_eq!(ledger.grant(1, 11, 11), None);
        assert_eq!(ledger.grant_own(1, 10), Some(10));
        ledger.give_back(0, 30);
        assert_eq!(ledger.grant(1, 15, 15), Some(15));
        assert_eq!(ledger.total(), 95);
    }

    #[test]
    fn a_request_reaches_for_what_messages_need() {
        let mut reach = Reach::default();
        assert_eq!(reach.bytes(8, 1 << 20), (LEAST_BYTES, LEAST_BYTES));
        reach.refused(1 << 10, 1 << 20);
        assert_eq!((reach.bytes(8, 1 << 20), reach.is_outsized()), ((1 << 20, 1 << 20), false));
        reach.refused(1 << 20, 1 << 20);
        assert!(reach.is_outsized());
        reach.arrived(1 << 19);
        assert!(!reach.is_outsized());
        assert_eq!(reach.bytes(8, 1 << 20), (1 << 19, 8 << 19));
        for _ in 0..200 {
            reach.arrived(100);
        }
        assert_eq!(reach.bytes(8, 1 << 20), (LEAST_BYTES, LEAST_BYTES));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Grant { consumer: usize, least: u64, most: u64 },
        GrantOwn { consumer: usize, least: u64 },
        GiveBack { consumer: usize, share: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4_usize, 1..300_u64, 0..900_u64).prop_map(|(consumer, least, most)| Step::Grant {
                consumer,
                least,
                most
            }),
            (0..4_usize, 1..100_u64).prop_map(|(consumer, least)| Step::GrantOwn { consumer, least }),
            (0..4_usize, 0..=4_u64).prop_map(|(consumer, share)| Step::GiveBack { consumer, share }),
        ]
    }

    proptest! {
        #[test]
        fn no_more_is_in_flight_than_the_bound(
            in_flight in 0..2_000_u64,
            payload_max in 0..100_u64,
            steps in prop::collection::vec(step(), 0..100),
        ) {
            let division = Division { share: payload_max, ..divide(in_flight + 4 * ENVELOPE_BYTES, 4, payload_max) };
            let mut ledger = Ledger::new(division);
            let mut used = [0_u64; 4];
            for step in steps {
                match step {
                    Step::Grant { consumer, least, most } => {
                        if let Some(granted) = ledger.grant(consumer, least, most) {
                            prop_assert!(granted >= least);
                            used[consumer] += granted;
                        }
                    }
                    Step::GrantOwn { consumer, least } => {
                        let granted = ledger.grant_own(consumer, least);
                        prop_assert_eq!(granted.is_some(), used[consumer] + least <= division.share);
                        used[consumer] += granted.unwrap_or(0);
                    }
                    Step::GiveBack { consumer, share } => {
                        let bytes = used[consumer] * share / 4;
                        ledger.give_back(consumer, bytes);
                        used[consumer] -= bytes;
                    }
                }
                prop_assert_eq!(ledger.total(), used.iter().sum::<u64>());
                prop_assert!(ledger.total() <= division.bound());
            }
            for (consumer, bytes) in used.into_iter().enumerate() {
                ledger.give_back(consumer, bytes);
            }
            prop_assert_eq!((ledger.total(), ledger.pooled), (0, 0));
        }
    }
}
