//! What a trial is made of: which events go to which handlers, what these do with them, and what must come of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::plan::Message;

/// What an attempt does once the failures are over that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It succeeds.
    Good,
    /// It rejects the event.
    Rejected,
    /// Its process is killed, each time.
    Killer,
    /// It gets no answer the first time, as something that takes long; it succeeds when it is run again.
    Stuck,
    /// It rejects the event the first time, and succeeds when it is replayed.
    Mended,
}

/// What an event is fated to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fate {
    /// What its attempts end in.
    pub(crate) role: Role,
    /// How many attempts ask for a retry first.
    pub(crate) failures: u32,
    /// How long an attempt takes.
    pub(crate) pace: Duration,
}

impl Fate {
    /// An event that succeeds at once.
    pub(crate) const GOOD: Fate = Fate { role: Role::Good, failures: 0, pace: Duration::ZERO };
}

/// What an attempt is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// To succeed.
    Done,
    /// To ask for a retry.
    Retry,
    /// To reject the event.
    Reject,
    /// Nothing.
    Never,
}

impl Fate {
    /// How often it is run where nothing is cut off, unless it kills its process.
    pub(crate) fn runs(&self) -> u32 {
        self.failures + if self.role == Role::Mended { 2 } else { 1 }
    }

    /// Whether it has an output in the end.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.role, Role::Good | Role::Stuck | Role::Mended)
    }

    /// What the attempt of this number is answered, before which so many have begun.
    pub(crate) fn answer(&self, attempt: u32, begun: u32) -> Answer {
        match self.role {
            _ if attempt <= self.failures => Answer::Retry,
            Role::Killer => Answer::Never,
            Role::Stuck if begun == 0 => Answer::Never,
            Role::Mended if begun == 0 => Answer::Reject,
            Role::Rejected => Answer::Reject,
            Role::Good | Role::Stuck | Role::Mended => Answer::Done,
        }
    }
}

/// A handler of a deployment, as far as it says what must come of an event.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    /// After how many failed attempts it gives up.
    pub(crate) attempts_max: u32,
    /// Whether it claims events before it runs them.
    pub(crate) claims: bool,
    /// Its events by name.
    pub(crate) events: BTreeMap<String, Fate>,
}

/// All events of a trial, and the messages that stand for them. Places are named `<deployment>/<handler>`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    /// The handlers.
    pub(crate) places: BTreeMap<String, Place>,
    /// What is to be published, in order.
    pub(crate) messages: Vec<Message>,
}

impl Script {
    /// Adds an event with a message, and says what it must come to in each of the places that it goes to.
    pub(crate) fn add(&mut self, places: &[String], subject: &str, name: &str, key: &str, fate: Fate) {
        for place in places {
            self.places.entry(place.clone()).or_default().events.insert(name.to_owned(), fate);
        }
        self.messages.push(message(subject, name, key, 1));
    }

    /// How many results there must be: each event has one output or one dead letter in each place.
    pub(crate) fn results(&self) -> u64 {
        self.places.values().map(|place| place.events.len() as u64).sum()
    }
}

/// A message of an event; each copy is another message to the server.
pub(crate) fn message(subject: &str, name: &str, key: &str, copy: u32) -> Message {
    Message {
        subject: subject.to_owned(),
        id: format!("{subject}/{name}/{copy}"),
        order: name.to_owned(),
        payload: json!({"event": name, "key": key}).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_answered_as_its_event_is_fated() {
        let fate = |role, failures| Fate { role, failures, ..Fate::GOOD };
        for (fate, attempt, begun, expected) in [
            (Fate::GOOD, 1, 0, Answer::Done),
            (fate(Role::Good, 1), 1, 0, Answer::Retry),
            (fate(Role::Good, 1), 2, 1, Answer::Done),
            (fate(Role::Killer, 1), 1, 0, Answer::Retry),
            (fate(Role::Killer, 1), 2, 1, Answer::Never),
            (fate(Role::Killer, 0), 3, 9, Answer::Never),
            (fate(Role::Rejected, 0), 1, 0, Answer::Reject),
            (fate(Role::Stuck, 0), 1, 0, Answer::Never),
            (fate(Role::Stuck, 0), 1, 1, Answer::Done),
            (fate(Role::Mended, 0), 1, 0, Answer::Reject),
            (fate(Role::Mended, 0), 1, 1, Answer::Done),
        ] {
            assert_eq!(fate.answer(attempt, begun), expected, "{fate:?} {attempt} {begun}");
        }
    }

    #[test]
    fn an_event_of_several_places_is_one_message_and_has_a_result_in_each() {
        let mut script = Script::default();
        script.add(&["a/h".to_owned(), "b/h".to_owned()], "in.h", "e-1", "", Fate::GOOD);
        assert_eq!((script.messages.len(), script.results()), (1, 2));
    }
}
