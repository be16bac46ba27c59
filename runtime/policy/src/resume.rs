//! Where a consumer goes on whose stream, or whose subjects, are not what they were; and what can be told of events that
//! are gone.

/// What is known of a consumer whose subjects change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// The highest sequence that it has delivered.
    pub floor: u64,
    /// How many messages are in flight, of all its instances.
    pub in_flight: u64,
    /// The first message above that sequence that only its new subjects select.
    pub first_above: Option<u64>,
    /// The first message of all that only its new subjects select.
    pub first_new: Option<u64>,
}

/// Where a consumer goes on with its new subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Where it is: there is nothing that it could have passed over.
    Stays,
    /// With this sequence: the server has passed over what is above it, and nothing of that was ever delivered.
    From(u64),
    /// Where the server is, which may be anywhere above this sequence: what is in flight would be lost if it were set back.
    Unsure(u64),
}

/// Where a consumer whose subjects change goes on, so that nothing is skipped and nothing comes twice. Messages at or
/// below the floor may have been handled under subjects of an earlier time, so those are for an operator to ask for.
pub fn resume(changed: Changed) -> Resume {
    match changed {
        Changed { first_above: None, .. } => Resume::Stays,
        Changed { floor, in_flight: 0, .. } => Resume::From(floor.saturating_add(1)),
        Changed { floor, .. } => Resume::Unsure(floor.saturating_add(1)),
    }
}

/// The first message of the new subjects that is not handled unless an operator asks for it.
pub fn left_behind(changed: Changed) -> Option<u64> {
    changed.first_new.filter(|first| *first <= changed.floor)
}

/// How far a consumer is, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// How many deliveries it has made.
    pub deliveries: u64,
    /// The highest sequence that it has delivered.
    pub delivered: u64,
    /// How many messages wait to be delivered.
    pub waiting: u64,
}

/// How many messages at least were removed from the stream before they were delivered: new ones only add to what waits,
/// and each delivery takes one from it at most. `first` is the first sequence that the stream still has.
pub fn vanished(before: Progress, now: Progress, first: u64) -> u64 {
    let Some(deliveries) = now.deliveries.checked_sub(before.deliveries) else { return 0 };
    if now.delivered < before.delivered || first <= now.delivered.saturating_add(1) {
        return 0;
    }
    before.waiting.saturating_sub(deliveries).saturating_sub(now.waiting)
}

/// A stream, as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// When it was created, in nanoseconds since the Unix epoch.
    pub created_ns: i128,
    /// The last sequence that it has given.
    pub last: u64,
}

/// What has become of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It has gone on.
    None,
    /// It was made anew, or restored from a backup as some servers do it.
    Anew,
    /// It was set back to an earlier state, and gives sequences a second time.
    Back,
}

/// Compares a stream with what it was.
pub fn turn(before: Seen, now: Seen) -> Turn {
    if before.created_ns != now.created_ns {
        Turn::Anew
    } else if now.last < before.last {
        Turn::Back
    } else {
        Turn::None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A stream of messages with one of three subjects each.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0..3u8, 0..20)
    }

    fn first(stream: &[u8], above: u64, subjects: &BTreeSet<u8>) -> Option<u64> {
        let sequences =
            (1u64..).zip(stream).filter(|(sequence, subject)| *sequence > above && subjects.contains(subject));
        sequences.map(|(sequence, _)| sequence).next()
    }

    proptest! {
        /// Whatever was delivered and wherever the server has moved on to, no message of the new subjects is handled
        /// twice, none above what was delivered is skipped, and what is skipped below is told.
        #[test]
        fn a_change_of_subjects_skips_nothing_in_silence_and_repeats_nothing(
            stream in stream(),
            old in prop::collection::btree_set(0..3u8, 1..3),
            new in prop::collection::btree_set(0..3u8, 1..3),
            had in 0..20usize,
        ) {
            let of_old = (1u64..).zip(&stream).filter(|(_, subject)| old.contains(subject));
            let handled: Vec<_> = of_old.map(|(sequence, _)| sequence).take(had).collect();
            let floor = handled.last().copied().unwrap_or(0);
            let added: BTreeSet<_> = new.difference(&old).copied().collect();
            let changed = Changed {
                floor,
                in_flight: 0,
                first_above: first(&stream, floor, &added),
                first_new: first(&stream, 0, &added),
            };
            let from = match resume(changed) {
                // The server has passed over nothing but what neither selects.
                Resume::Stays => floor + 1,
                Resume::From(from) => from,
                Resume::Unsure(_) => return Err(TestCaseError::fail("nothing is in flight")),
            };
            prop_assert!(handled.iter().all(|sequence| *sequence < from));
            for (sequence, subject) in (1u64..).zip(&stream) {
                if new.contains(subject) && sequence < from && !handled.contains(&sequence) {
                    prop_assert!(left_behind(changed).is_some_and(|told| told <= sequence));
                }
            }
        }

        /// Nothing is said to be gone that is there or was delivered.
        #[test]
        fn only_what_is_gone_is_said_to_be_gone(
            waiting in 0..20u64, came in 0..20u64, delivered in 0..30u64, redelivered in 0..5u64, removed in 0..40u64,
        ) {
            let before = Progress { deliveries: 7, delivered: 100, waiting };
            let taken = delivered.min(waiting + came);
            let rest = waiting + came - taken;
            let gone = removed.min(rest);
            let now = Progress {
                deliveries: 7 + taken + redelivered,
                delivered: 100 + taken,
                waiting: rest - gone,
            };
            prop_assert!(vanished(before, now, now.delivered + 1 + gone) <= gone);
            prop_assert_eq!(vanished(before, now, 1), 0);
        }
    }

    #[test]
    fn what_is_in_flight_is_not_set_back() {
        let changed = Changed { floor: 9, in_flight: 1, first_above: Some(12), first_new: Some(3) };
        assert_eq!(resume(changed), Resume::Unsure(10));
        assert_eq!(left_behind(changed), Some(3));
    }

    #[test]
    fn a_purge_of_what_waits_is_noticed() {
        let before = Progress { deliveries: 5, delivered: 5, waiting: 10 };
        let now = Progress { deliveries: 7, delivered: 7, waiting: 1 };
        assert_eq!(vanished(before, now, 16), 7);
        // The consumer was set back, or is another one.
        assert_eq!(vanished(now, before, 16), 0);
    }

    #[test]
    fn a_stream_that_counts_again_is_noticed() {
        let seen = |created_ns, last| Seen { created_ns, last };
        assert_eq!(turn(seen(1, 10), seen(1, 10)), Turn::None);
        assert_eq!(turn(seen(1, 10), seen(1, 9)), Turn::Back);
        assert_eq!(turn(seen(1, 10), seen(2, 90)), Turn::Anew);
    }
}
