//! Which events there are and what must come of each. All of it follows from the seed and the event's number,
//! so nothing has to be remembered in order to check it in the end.

use serde::Serialize;
use tidemill_policy::history::Kind;

use crate::chance::Chance;

/// The most outputs of one event, those of its late copy included.
pub(crate) const OUTPUTS_MAX: u32 = 3;
/// After how many failed attempts `unruly` gives up.
pub(crate) const UNRULY_ATTEMPTS_MAX: u32 = 12;
/// After how many failed attempts the others give up: more than the kills can use up.
pub(crate) const ATTEMPTS_MAX: u32 = 30;
/// The header by which `orders` knows that two messages are the same event.
pub(crate) const ORDER_HEADER: &str = "X-Order";

/// The handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Handler {
    /// Always succeeds.
    Plain,
    /// Fails in its first attempts, then succeeds.
    Flaky,
    /// Fails for good with some of its events.
    Unruly,
    /// Gets some of its events twice and must handle each once.
    Orders,
}

impl Handler {
    /// All of them.
    pub(crate) const ALL: [Handler; 4] = [Handler::Plain, Handler::Flaky, Handler::Unruly, Handler::Orders];

    /// The name in the manifest, the last part of the subjects, and the first part of the events' names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Handler::Plain => "plain",
            Handler::Flaky => "flaky",
            Handler::Unruly => "unruly",
            Handler::Orders => "orders",
        }
    }

    /// Whether its outputs are stored together, where the server can do that.
    pub(crate) fn is_atomic(self) -> bool {
        self == Handler::Unruly
    }

    /// After how many failed attempts it gives up.
    pub(crate) fn attempts_max(self) -> u32 {
        if self == Handler::Unruly { UNRULY_ATTEMPTS_MAX } else { ATTEMPTS_MAX }
    }
}

/// What the handler does with an event after the attempts that fail in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum End {
    /// Succeeds.
    Done,
    /// Rejects it.
    Reject,
    /// Asks for a retry, each time.
    Retry,
    /// Traps, each time.
    Trap,
    /// Loops until it is stopped, each time.
    Loop,
}

impl End {
    /// The kind of failure that it shows as; none where it succeeds.
    pub(crate) fn kind(self) -> Option<Kind> {
        match self {
            End::Done => None,
            End::Reject => Some(Kind::Reject),
            End::Retry => Some(Kind::Retry),
            End::Trap => Some(Kind::Trap),
            End::Loop => Some(Kind::Fuel),
        }
    }
}

/// Which of the messages of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copy {
    /// The first.
    First = 1,
    /// A second one at the same time, of which either may take effect.
    Twin = 2,
    /// One that is sent after the event is done, and asks for one output more than the first: it must
    /// have no effect.
    Late = 3,
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its number, from 0.
    pub(crate) number: u64,
    /// Who handles it.
    pub(crate) handler: Handler,
    /// How many outputs it has in the end.
    pub(crate) outputs: u32,
    /// How many attempts fail in any case.
    pub(crate) failures: u32,
    /// What follows them.
    pub(crate) end: End,
    /// Whether a second message of it is sent at the same time.
    pub(crate) has_twin: bool,
    /// Whether a second message of it is sent after it is done.
    pub(crate) has_late_copy: bool,
}

/// A message to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Where.
    pub(crate) subject: String,
    /// The id by which the server knows that it has it already.
    pub(crate) id: String,
    /// The event's name, by which `orders` knows it.
    pub(crate) order: String,
    /// What it says.
    pub(crate) payload: String,
}

#[derive(Serialize)]
struct Payload<'a> {
    event: &'a str,
    copy: u32,
    outputs: u32,
    failures: u32,
    end: End,
}

impl Event {
    /// The event of this number.
    pub(crate) fn new(seed: u64, number: u64) -> Event {
        let mut chance = Chance::new(seed, 1, number);
        let handler = match chance.below(100) {
            0..55 => Handler::Plain,
            55..67 => Handler::Flaky,
            67..77 => Handler::Unruly,
            _ => Handler::Orders,
        };
        let failures = match handler {
            Handler::Flaky => 1 + chance.below(4),
            Handler::Orders if chance.percent(10) => 1,
            _ => 0,
        };
        let end = if handler == Handler::Unruly && chance.percent(20) {
            [End::Reject, End::Reject, End::Retry, End::Trap, End::Loop][chance.below(5) as usize]
        } else {
            End::Done
        };
        let is_order = handler == Handler::Orders;
        Event {
            number,
            handler,
            outputs: 1 + chance.below(OUTPUTS_MAX - 1),
            failures,
            end,
            has_twin: is_order && chance.percent(20),
            has_late_copy: is_order && chance.percent(10),
        }
    }

    /// The event's name, which its outputs repeat.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.handler.name(), self.number)
    }

    /// One of the event's messages. Every one of them is another message to the server.
    pub(crate) fn message(&self, copy: Copy) -> Message {
        let name = self.name();
        let outputs = self.outputs + u32::from(copy == Copy::Late);
        let payload = Payload { event: &name, copy: copy as u32, outputs, failures: self.failures, end: self.end };
        Message {
            subject: format!("in.{}", self.handler.name()),
            id: format!("{name}/{}", copy as u32),
            payload: serde_json::to_string(&payload).expect("strings and numbers always serialise"),
            order: name,
        }
    }

    /// How many messages come out in the end: the outputs, or a dead letter.
    pub(crate) fn results(&self) -> u64 {
        if self.end == End::Done { u64::from(self.outputs) } else { 1 }
    }
}

/// Reads the number of an event from its name. Whether there is such an event is not checked.
pub(crate) fn number(name: &str) -> Option<u64> {
    name.rsplit_once('-')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn an_event_follows_from_seed_and_number() {
        assert_eq!(Event::new(5, 77), Event::new(5, 77));
        assert!((0..100).any(|number| Event::new(5, number) != Event::new(6, number)));
        assert_eq!(number(&Event::new(5, 77).name()), Some(77));
    }

    #[test]
    fn there_is_enough_of_everything() {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for event in (0..10_000).map(|number| Event::new(1, number)) {
            *counts.entry(format!("{} {:?}", event.handler.name(), event.end)).or_default() += 1;
            *counts.entry("twins".into()).or_default() += u32::from(event.has_twin);
            *counts.entry("late copies".into()).or_default() += u32::from(event.has_late_copy);
            assert!(event.outputs + u32::from(event.has_late_copy) <= OUTPUTS_MAX);
        }
        assert_eq!(counts.len(), 10, "{counts:?}");
        assert!(counts.values().all(|&count| count >= 20), "{counts:?}");
    }

    #[test]
    fn copies_are_the_same_order_and_different_messages() {
        let event = Event::new(1, 2);
        let [first, twin, late] = [Copy::First, Copy::Twin, Copy::Late].map(|copy| event.message(copy));
        assert!(first.order == twin.order && first.order == late.order);
        assert!(first.id != twin.id && first.id != late.id);
        assert!(first.payload != twin.payload && first.payload != late.payload);
    }
}
