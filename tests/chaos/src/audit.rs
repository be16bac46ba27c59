//! Compares what the streams hold with what must come of each event. It reads nothing itself, so that it can be
//! fed what must never happen and be seen to notice.
//!
//! Outputs are told apart by what their payload says (event and index), never by an id that tidemill gave them.

pub(crate) mod attempts;
pub(crate) mod breach;
pub(crate) mod letter;

use serde::Deserialize;

use self::breach::{Breach, Breaches};
use self::letter::{Allowed, Letter};
use crate::plan::{self, Copy, End, Event, OUTPUTS_MAX};

/// What an output says of itself.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Output {
    /// The event's name.
    pub(crate) event: String,
    /// Which of the event's messages it is of.
    pub(crate) copy: u32,
    /// Its place among the event's outputs.
    pub(crate) index: u32,
    /// The attempt that succeeded.
    pub(crate) attempt: u32,
}

/// What came of it all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    /// Events published.
    pub(crate) events: u64,
    /// Events with all their outputs.
    pub(crate) handled: u64,
    /// Events that took more than one attempt.
    pub(crate) retried: u64,
    /// Dead letters.
    pub(crate) dead_letters: u64,
    /// Attempts that ended because the process died, as the histories of dead letters tell.
    pub(crate) lost_attempts: u64,
    /// What must never happen and did.
    pub(crate) breaches: Breaches,
}

/// What was found of one event. Small, since there may be millions.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    outputs: [u8; OUTPUTS_MAX as usize],
    letters: u8,
    attempted_again: bool,
}

/// The audit of one run.
#[derive(Debug)]
pub(crate) struct Audit {
    seed: u64,
    records: Vec<Record>,
    findings: Findings,
}

impl Audit {
    /// The audit of a run in which the first `events` events of this seed were published.
    pub(crate) fn new(seed: u64, events: u64) -> Audit {
        let records = vec![Record::default(); usize::try_from(events).expect("they fit into memory")];
        Audit { seed, records, findings: Findings { events, ..Findings::default() } }
    }

    /// Takes note of a stored output.
    pub(crate) fn output(&mut self, payload: &[u8]) {
        let Some((output, event)) = self.read(payload) else {
            return self.findings.breaches.note(Breach::Stray, String::from_utf8_lossy(payload).into_owned());
        };
        let said = format!("{}: output {} of copy {}", output.event, output.index, output.copy);
        if output.copy == Copy::Late as u32 {
            return self.findings.breaches.note(Breach::CopyTookEffect, said);
        }
        let is_of_the_event = event.end == End::Done
            && output.index < event.outputs
            && output.attempt > event.failures
            && (output.copy == Copy::First as u32 || event.has_twin);
        if !is_of_the_event {
            return self.findings.breaches.note(Breach::Stray, format!("{said}, attempt {}", output.attempt));
        }
        let record = self.record(&event);
        let count = &mut record.outputs[output.index as usize];
        *count = count.saturating_add(1);
        record.attempted_again |= output.attempt > 1;
        if *count > 1 {
            self.findings.breaches.note(Breach::Doubled, said);
        }
    }

    /// Takes note of a stored dead letter.
    pub(crate) fn letter(&mut self, letter: &Letter) {
        #[derive(Deserialize)]
        struct Name {
            event: String,
        }
        self.findings.dead_letters += 1;
        let name: Option<Name> = serde_json::from_str(&letter.payload).ok();
        let Some(event) = name.and_then(|name| self.event(&name.event)) else {
            return self.findings.breaches.note(Breach::Stray, format!("dead letter {}", letter.payload));
        };
        let name = event.name();
        let told = format!("{name}: {}", letter.tell());
        if event.end == End::Done {
            self.findings.breaches.note(Breach::GivenUp, told.clone());
        }
        if event.message(Copy::First).payload != letter.payload && event.end != End::Done {
            self.findings.breaches.note(Breach::ChangedPayload, name);
        }
        if let Err(why) = letter.check_history(&allowed(&event)) {
            self.findings.breaches.note(Breach::IncompleteHistory, format!("{why}: {told}"));
        }
        self.findings.lost_attempts += letter.lost();
        let record = self.record(&event);
        record.letters = record.letters.saturating_add(1);
        record.attempted_again |= letter.attempt > 1;
        if record.letters > 1 {
            self.findings.breaches.note(Breach::DoubledLetter, told);
        }
    }

    /// What came of it all.
    pub(crate) fn finish(mut self) -> Findings {
        for (number, record) in (0..).zip(&self.records) {
            let event = Event::new(self.seed, number);
            let stored = &record.outputs[..event.outputs as usize];
            let is_done = event.end == End::Done && stored.iter().all(|&count| count > 0);
            let is_begun = stored.iter().any(|&count| count > 0);
            self.findings.handled += u64::from(is_done);
            self.findings.retried += u64::from(record.attempted_again);
            if is_begun && record.letters > 0 {
                self.findings.breaches.note(Breach::DoneAndDead, event.name());
            }
            if !is_done && record.letters == 0 {
                self.findings
                    .breaches
                    .note(Breach::Lost, format!("{}: outputs {stored:?} of {:?}", event.name(), event.end));
            }
        }
        self.findings
    }

    /// An output and the event that it is of.
    fn read(&self, payload: &[u8]) -> Option<(Output, Event)> {
        let output: Output = serde_json::from_slice(payload).ok()?;
        let event = self.event(&output.event)?;
        Some((output, event))
    }

    /// The published event of this name.
    fn event(&self, name: &str) -> Option<Event> {
        let number = plan::number(name).filter(|&number| number < self.findings.events)?;
        Some(Event::new(self.seed, number)).filter(|event| event.name() == name)
    }

    fn record(&mut self, event: &Event) -> &mut Record {
        let index = usize::try_from(event.number).expect("it was published, so it fits");
        &mut self.records[index]
    }
}

/// What an event may have gone through before it is given up. One that must succeed should never be; whatever it failed
/// as was lost.
fn allowed(event: &Event) -> Allowed {
    Allowed {
        attempts_max: event.handler.attempts_max(),
        kinds: event.end.kind().into_iter().collect(),
        is_rejected: event.end == End::Reject,
    }
}

#[cfg(test)]
mod tests;
