//! Compares the attempts that were witnessed from outside, and what the streams hold, with what must come of each event
//! where its process was killed, its server was restarted, or it was kept waiting. It reads nothing itself, so that it
//! can be fed what must never happen and be seen to notice.
//!
//! An attempt that was witnessed has begun. The reverse holds but for as many attempts as could have begun in a process
//! that was killed and had no time to tell (see [`Audit::unseen`]); so nobody is accused of what may have been.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use tidemill_policy::history::Kind;

use super::breach::{Breach, Breaches};
use super::letter::{Allowed, Letter};
use crate::trial::script::{Fate, Place, Role};
use crate::trial::witness::Begin;

/// What an output says of itself.
#[derive(Debug, Deserialize)]
struct Output {
    place: String,
    event: String,
    attempt: u32,
}

/// What is known of one event in one place.
#[derive(Debug, Clone, Default)]
struct Record {
    /// The numbers of the attempts that were witnessed, in order.
    begun: Vec<u32>,
    /// How many of them were in a process that was killed later.
    cut: u32,
    /// How many more attempts were counted than had been made, at most.
    excess: u32,
    outputs: u32,
    letters: u32,
    /// The last attempt of the dead letter.
    given_up_at: u32,
}

/// What came of it all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Events, counted in each place.
    pub(crate) events: u64,
    /// Attempts that were witnessed.
    pub(crate) attempts: u64,
    /// Events with their output.
    pub(crate) done: u64,
    /// Dead letters.
    pub(crate) dead_letters: u64,
    /// Good events that were begun and cut off as often as they may be attempted, and given up.
    pub(crate) cut_out: u64,
    /// Events that kill their process, and how often those ran.
    pub(crate) killers: Vec<u32>,
    /// How many attempts may have begun without being witnessed.
    pub(crate) unseen: u64,
    /// What must never happen and did.
    pub(crate) breaches: Breaches,
}

/// The audit of one trial.
#[derive(Debug)]
pub(crate) struct Audit<'a> {
    places: &'a BTreeMap<String, Place>,
    /// By place and event.
    records: BTreeMap<String, BTreeMap<String, Record>>,
    killed: BTreeSet<String>,
    unseen: BTreeMap<String, u32>,
    /// Whether servers were restarted, which forget acknowledgements: then what is done may be run again.
    is_forgetful: bool,
    tally: Tally,
}

impl<'a> Audit<'a> {
    /// The audit of a trial with these handlers and their events, of which these processes were killed.
    pub(crate) fn new(places: &'a BTreeMap<String, Place>, killed: &[String], is_forgetful: bool) -> Audit<'a> {
        let none = |place: &Place| place.events.keys().map(|event| (event.clone(), Record::default())).collect();
        let records = places.iter().map(|(name, place)| (name.clone(), none(place))).collect();
        let killed = killed.iter().cloned().collect();
        Audit { places, records, killed, unseen: BTreeMap::new(), is_forgetful, tally: Tally::default() }
    }

    /// Takes note that so many attempts of a place may have begun without being witnessed.
    pub(crate) fn unseen(&mut self, place: &str, count: u32) {
        *self.unseen.entry(place.to_owned()).or_default() += count;
        self.tally.unseen += u64::from(count);
    }

    /// Takes note of an attempt, in the order in which they began.
    pub(crate) fn begun(&mut self, begin: &Begin) {
        self.tally.attempts += 1;
        let is_cut = self.killed.contains(&begin.process);
        let Some(record) = self.record(&begin.place, &begin.event) else {
            return self.note(Breach::Stray, format!("{}: attempt at {}", begin.place, begin.event));
        };
        let counted = begin.attempt.saturating_sub(1);
        record.excess = record.excess.max(counted.saturating_sub(length(&record.begun)));
        record.begun.push(begin.attempt);
        record.cut += u32::from(is_cut);
    }

    /// Takes note of a stored output.
    pub(crate) fn output(&mut self, subject: &str, payload: &[u8]) {
        let said = String::from_utf8_lossy(payload).into_owned();
        let output: Option<Output> = serde_json::from_slice(payload).ok();
        let place = subject.strip_prefix("out.").map(|rest| rest.replacen('.', "/", 1));
        let (Some(output), Some(place)) = (output, place) else { return self.note(Breach::Stray, said) };
        if output.place != place {
            return self.note(Breach::Foreign, format!("{said} on {subject}"));
        }
        let fate = self.fate(&place, &output.event);
        let Some(record) = self.record(&place, &output.event) else {
            return self.note(Breach::Stray, said);
        };
        if !fate.is_some_and(|fate| fate.is_done()) || !record.begun.contains(&output.attempt) {
            return self.note(Breach::Stray, said);
        }
        record.outputs += 1;
        if record.outputs > 1 {
            self.note(Breach::Doubled, said);
        }
    }

    /// Takes note of a stored dead letter of a deployment.
    pub(crate) fn letter(&mut self, deployment: &str, letter: &Letter) {
        #[derive(Deserialize)]
        struct Name {
            event: String,
        }
        self.tally.dead_letters += 1;
        let place = format!("{deployment}/{}", letter.handler);
        let name = serde_json::from_str(&letter.payload).map_or_else(|_| String::new(), |name: Name| name.event);
        let told = format!("{place}: {name}: {}", letter.tell());
        let Some(fate) = self.fate(&place, &name) else {
            let is_of_another = self.places.values().any(|place| place.events.contains_key(&name));
            return self.note(if is_of_another { Breach::Foreign } else { Breach::Stray }, told);
        };
        let attempts_max = self.places[&place].attempts_max;
        if let Err(why) = letter.check_history(&allowed(fate, attempts_max)) {
            self.note(Breach::IncompleteHistory, format!("{why}: {told}"));
        }
        let Some(record) = self.record(&place, &name) else { return };
        let made = length(&record.begun);
        record.letters += 1;
        record.given_up_at = letter.attempt;
        record.excess = record.excess.max(letter.attempt.saturating_sub(made));
        let is_cut_out = made >= attempts_max && fate.role != Role::Mended;
        if record.letters > 1 {
            self.note(Breach::DoubledLetter, told.clone());
        }
        if fate.is_done() {
            if is_cut_out {
                self.tally.cut_out += 1;
            } else {
                self.note(Breach::GivenUp, format!("{told}, of which {made} were made"));
            }
        }
    }

    /// What came of it all.
    pub(crate) fn finish(mut self) -> Tally {
        for (place, records) in std::mem::take(&mut self.records) {
            self.tally.events += records.len() as u64;
            for (event, record) in &records {
                self.judge(&place, event, record);
            }
            self.charge(&place, &records);
        }
        self.tally
    }

    fn judge(&mut self, place: &str, event: &str, record: &Record) {
        let Some(fate) = self.fate(place, event) else { return };
        let said = || format!("{place}: {event}: attempts {:?}", record.begun);
        let made = length(&record.begun);
        self.tally.done += u64::from(record.outputs > 0);
        if record.outputs == 0 && record.letters == 0 {
            self.note(Breach::Lost, said());
        }
        let Place { attempts_max, claims, .. } = self.places[place];
        // Who is cut off after the output is stored, each time, can end in both; at least one of these runs was free.
        if record.outputs > 0 && record.letters > 0 && made <= attempts_max {
            self.note(Breach::DoneAndDead, said());
        }
        if fate.role == Role::Killer {
            self.tally.killers.push(made);
            let unseen = self.unseen.get(place).copied().unwrap_or_default();
            if made > attempts_max + u32::from(!claims) {
                self.note(Breach::RanTooOften, format!("{}, of {attempts_max}", said()));
            } else if claims && made + unseen < attempts_max {
                self.note(Breach::RanTooSeldom, format!("{}, of {attempts_max}", said()));
            }
        } else if !self.is_forgetful && made > fate.runs() + record.cut {
            self.note(Breach::RanAgain, format!("{}, {} of them cut off", said(), record.cut));
        }
    }

    /// Accuses a place in which more attempts were counted than can have been made.
    fn charge(&mut self, place: &str, records: &BTreeMap<String, Record>) {
        let charged: Vec<_> = records.iter().filter(|(_, record)| record.excess > 0).collect();
        let sum: u32 = charged.iter().map(|(_, record)| record.excess).sum();
        let unseen = self.unseen.get(place).copied().unwrap_or_default();
        if sum <= unseen {
            return;
        }
        for (event, record) in charged {
            let last = if record.letters > 0 { format!(", dead at {}", record.given_up_at) } else { String::new() };
            let said = format!("{place}: {event}: {} too many: attempts {:?}{last}", record.excess, record.begun);
            self.note(Breach::Charged, format!("{said} ({unseen} may be unseen)"));
        }
    }

    fn record(&mut self, place: &str, event: &str) -> Option<&mut Record> {
        self.records.get_mut(place)?.get_mut(event)
    }

    fn fate(&self, place: &str, event: &str) -> Option<Fate> {
        self.places.get(place)?.events.get(event).copied()
    }

    fn note(&mut self, breach: Breach, example: String) {
        self.tally.breaches.note(breach, example);
    }
}

/// What an event may have gone through before it is given up.
fn allowed(fate: Fate, attempts_max: u32) -> Allowed {
    let mut kinds = Vec::new();
    if fate.failures > 0 {
        kinds.push(Kind::Retry);
    }
    if fate.role == Role::Rejected {
        kinds.push(Kind::Reject);
    }
    Allowed { attempts_max, kinds, is_rejected: fate.role == Role::Rejected }
}

fn length(attempts: &[u32]) -> u32 {
    u32::try_from(attempts.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
