//! What must come out, worked out from what goes in.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_policy::history::Kind;

use crate::events::{End, Event, OUTPUTS};

/// What must come out of the events.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    /// How many events go in.
    pub(crate) events: usize,
    /// How many events each handler must have handled, retried and given up on.
    pub(crate) handlers: BTreeMap<&'static str, Tally>,
    /// The keys of the outputs on each subject.
    pub(crate) outputs: BTreeMap<&'static str, BTreeSet<String>>,
    /// The dead letters, by handler and the id of the event that was published.
    pub(crate) dead_letters: BTreeMap<(String, String), Dead>,
    /// How many events have which oddity.
    pub(crate) oddities: BTreeMap<&'static str, usize>,
}

/// What one handler must have done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Events handled.
    pub(crate) handled: u64,
    /// Attempts that failed and were followed by another.
    pub(crate) retried: u64,
    /// Events given up on.
    pub(crate) dead_lettered: u64,
    /// Events that are handled or given up on at the first attempt.
    pub(crate) at_once: u64,
}

impl Tally {
    /// Events that the handler must be done with.
    pub(crate) fn ends(self) -> u64 {
        self.handled + self.dead_lettered
    }
}

/// What a dead letter must be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dead {
    /// The reasons that are right.
    pub(crate) reasons: &'static [Kind],
    /// How many attempts were made.
    pub(crate) attempts: u32,
    /// The payload as it was published; nothing where the event is an output of another handler.
    pub(crate) payload: Option<String>,
}

/// Works out what must become of `events`.
pub(crate) fn expect(events: &[Event]) -> Expected {
    let mut expected = Expected { events: events.len(), ..Expected::default() };
    for event in events {
        if let Some(oddity) = event.oddity {
            *expected.oddities.entry(oddity).or_default() += 1;
        }
        for (place, step) in event.steps.iter().enumerate() {
            let tally = expected.handlers.entry(step.handler).or_default();
            tally.retried += u64::from(step.retries);
            tally.at_once += u64::from(step.retries == 0);
            match &step.end {
                End::Output(key) => {
                    tally.handled += 1;
                    expected.outputs.entry(subject_of(step.handler)).or_default().insert(key.clone());
                }
                End::DeadLetter(reasons) => {
                    tally.dead_lettered += 1;
                    let payload = (place == 0).then(|| event.payload.clone());
                    let dead = Dead { reasons, attempts: step.retries + 1, payload };
                    expected.dead_letters.insert((step.handler.to_owned(), event.id.clone()), dead);
                }
            }
        }
    }
    expected
}

impl Expected {
    /// How often a handler must be done with an event, over all handlers.
    pub(crate) fn ends(&self) -> u64 {
        self.handlers.values().map(|tally| tally.ends()).sum()
    }

    /// How often it must be so at the first attempt.
    pub(crate) fn at_once(&self) -> u64 {
        self.handlers.values().map(|tally| tally.at_once).sum()
    }

    /// How many events have some oddity.
    pub(crate) fn odd(&self) -> usize {
        self.oddities.values().sum()
    }
}

/// The subject that a handler publishes on.
fn subject_of(handler: &str) -> &'static str {
    let found = OUTPUTS.iter().find(|(_, publisher, _)| *publisher == handler);
    found.expect("every handler has a subject").0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{self, LOYALTY_POINTS, ORDER_PRICING, WELCOME_EMAIL};

    #[test]
    fn the_events_add_up() {
        let expected = expect(&events::all());
        let tally = |handled, retried, dead_lettered, at_once| Tally { handled, retried, dead_lettered, at_once };
        assert_eq!(expected.handlers[ORDER_PRICING], tally(2_994, 4, 6, 2_998));
        assert_eq!(expected.handlers[LOYALTY_POINTS], tally(2_993, 44, 1, 2_973));
        assert_eq!(expected.handlers[WELCOME_EMAIL], tally(997, 20, 3, 990));
        assert_eq!(expected.dead_letters.len(), 10);
        assert_eq!(expected.outputs["order.priced"].len(), 2_994);
        assert_eq!((expected.ends(), expected.odd()), (6_994, 40));
    }
}
