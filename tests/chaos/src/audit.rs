//! Compares what the streams hold with what must come of each event. It reads nothing itself, so that it can be
//! fed what must never happen and be seen to notice.
//!
//! Outputs are told apart by what their payload says (event and index), never by an id that tidemill gave them.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use tidemill_policy::history::Kind;

use crate::plan::{self, Copy, End, Event, OUTPUTS_MAX};

/// How many examples of each breach are kept.
const EXAMPLES_MAX: usize = 5;

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

/// A dead letter.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    /// The payload as it is stored.
    pub(crate) payload: String,
    /// The number of the last attempt, as its header says.
    pub(crate) attempt: u32,
    /// The attempts in its history and how they failed, in order.
    pub(crate) history: Vec<(u32, Kind)>,
    /// How many entries were dropped from its middle to bound its size.
    pub(crate) dropped: u32,
}

/// What must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Breach {
    /// An event has neither all its outputs nor a dead letter.
    Lost,
    /// An output is stored more than once.
    Doubled,
    /// An event is in the dead letters more than once.
    DoubledLetter,
    /// An event has outputs and is in the dead letters.
    DoneAndDead,
    /// An event that can be handled is in the dead letters.
    GivenUp,
    /// An output that no attempt can have had: of another event, or of one that must fail.
    Stray,
    /// A message of an event that was done took effect.
    CopyTookEffect,
    /// The history of a dead letter does not tell of each attempt.
    IncompleteHistory,
    /// The payload of a dead letter is not the event's.
    ChangedPayload,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Breach::Lost => "lost",
            Breach::Doubled => "outputs doubled",
            Breach::DoubledLetter => "dead letters doubled",
            Breach::DoneAndDead => "done and in the dead letters",
            Breach::GivenUp => "good events in the dead letters",
            Breach::Stray => "stray messages",
            Breach::CopyTookEffect => "copies that took effect",
            Breach::IncompleteHistory => "incomplete histories",
            Breach::ChangedPayload => "changed payloads",
        })
    }
}

impl Breach {
    /// All of them.
    pub(crate) const ALL: [Breach; 9] = [
        Breach::Lost,
        Breach::Doubled,
        Breach::DoubledLetter,
        Breach::DoneAndDead,
        Breach::GivenUp,
        Breach::Stray,
        Breach::CopyTookEffect,
        Breach::IncompleteHistory,
        Breach::ChangedPayload,
    ];
}

/// How often something happened, and the first examples of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cases {
    /// How often.
    pub(crate) count: u64,
    /// The first ones.
    pub(crate) examples: Vec<String>,
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
    pub(crate) breaches: BTreeMap<Breach, Cases>,
}

impl Findings {
    /// How often this happened.
    pub(crate) fn count(&self, breach: Breach) -> u64 {
        self.breaches.get(&breach).map_or(0, |cases| cases.count)
    }

    fn note(&mut self, breach: Breach, example: String) {
        let cases = self.breaches.entry(breach).or_default();
        cases.count += 1;
        if cases.examples.len() < EXAMPLES_MAX {
            cases.examples.push(example);
        }
    }
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
            return self.findings.note(Breach::Stray, String::from_utf8_lossy(payload).into_owned());
        };
        let said = format!("{}: output {} of copy {}", output.event, output.index, output.copy);
        if output.copy == Copy::Late as u32 {
            return self.findings.note(Breach::CopyTookEffect, said);
        }
        let is_of_the_event = event.end == End::Done
            && output.index < event.outputs
            && output.attempt > event.failures
            && (output.copy == Copy::First as u32 || event.has_twin);
        if !is_of_the_event {
            return self.findings.note(Breach::Stray, format!("{said}, attempt {}", output.attempt));
        }
        let record = self.record(&event);
        let count = &mut record.outputs[output.index as usize];
        *count = count.saturating_add(1);
        record.attempted_again |= output.attempt > 1;
        if *count > 1 {
            self.findings.note(Breach::Doubled, said);
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
            return self.findings.note(Breach::Stray, format!("dead letter {}", letter.payload));
        };
        let name = event.name();
        let told = format!("{name}: {}", tell(letter));
        if event.end == End::Done {
            self.findings.note(Breach::GivenUp, told.clone());
        }
        if event.message(Copy::First).payload != letter.payload && event.end != End::Done {
            self.findings.note(Breach::ChangedPayload, name);
        }
        if let Err(why) = check_history(letter, &event) {
            self.findings.note(Breach::IncompleteHistory, format!("{why}: {told}"));
        }
        let lost = letter.history.iter().filter(|(_, kind)| *kind == Kind::Lost).count();
        self.findings.lost_attempts += lost as u64;
        let record = self.record(&event);
        record.letters = record.letters.saturating_add(1);
        record.attempted_again |= letter.attempt > 1;
        if record.letters > 1 {
            self.findings.note(Breach::DoubledLetter, told);
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
                self.findings.note(Breach::DoneAndDead, event.name());
            }
            if !is_done && record.letters == 0 {
                self.findings.note(Breach::Lost, format!("{}: outputs {stored:?} of {:?}", event.name(), event.end));
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

/// Checks that a history tells of each attempt from the first to the last: contiguous but for as many as it says
/// were dropped, of the right kinds, and no longer than the policy allows.
fn check_history(letter: &Letter, event: &Event) -> Result<(), String> {
    let attempts: Vec<u32> = letter.history.iter().map(|(attempt, _)| *attempt).collect();
    let (Some(&first), Some(&last)) = (attempts.first(), attempts.last()) else { return Err("empty".into()) };
    if first != 1 {
        return Err(format!("begins with attempt {first}"));
    }
    let mut missing = 0;
    for pair in attempts.windows(2) {
        let Some(between) = pair[1].checked_sub(pair[0] + 1) else {
            return Err(format!("attempt {} follows on {}", pair[1], pair[0]));
        };
        missing += between;
    }
    if missing != letter.dropped {
        return Err(format!("{missing} attempts are missing and {} are said to be", letter.dropped));
    }
    if last != letter.attempt {
        return Err(format!("ends with attempt {last} of {}", letter.attempt));
    }
    let most = event.handler.attempts_max();
    if last > most {
        return Err(format!("attempted {last} times, which is more than {most}"));
    }
    // On a busy machine, an attempt may take longer than it may before it does what it does. The last attempt that
    // is allowed is said to have used them up where it was lost.
    let expected = [event.end.kind().unwrap_or(Kind::Lost), Kind::Lost, Kind::Timeout];
    let is_expected = |&(attempt, kind): &(u32, Kind)| {
        expected.contains(&kind) || (kind == Kind::Attempts && attempt == most && attempt == last)
    };
    if let Some((attempt, kind)) = letter.history.iter().find(|entry| !is_expected(entry)) {
        return Err(format!("attempt {attempt} is said to have failed as {kind}"));
    }
    let is_used_up = last == most || event.end == End::Reject;
    if is_used_up { Ok(()) } else { Err(format!("given up after {last} of {most} attempts")) }
}

fn tell(letter: &Letter) -> String {
    let entries: Vec<_> = letter.history.iter().map(|(attempt, kind)| format!("{attempt} {kind}")).collect();
    format!("attempt {} [{}], {} dropped", letter.attempt, entries.join(", "), letter.dropped)
}

#[cfg(test)]
mod tests;
