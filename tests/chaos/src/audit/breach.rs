//! What must never happen, and how often it did.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// How many examples of each breach are kept.
const EXAMPLES_MAX: usize = 5;

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
    /// An output or dead letter of one deployment where those of another are.
    Foreign,
    /// A message of an event that was done took effect.
    CopyTookEffect,
    /// The history of a dead letter does not tell of each attempt.
    IncompleteHistory,
    /// The payload of a dead letter is not the event's.
    ChangedPayload,
    /// An attempt was counted that was not made.
    Charged,
    /// An event was run again although nothing had cut it off or failed.
    RanAgain,
    /// An event that kills its process at each attempt had more of them than it may.
    RanTooOften,
    /// Such an event had fewer of them than it must.
    RanTooSeldom,
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
            Breach::Foreign => "messages of another deployment",
            Breach::CopyTookEffect => "copies that took effect",
            Breach::IncompleteHistory => "incomplete histories",
            Breach::ChangedPayload => "changed payloads",
            Breach::Charged => "charged for attempts not made",
            Breach::RanAgain => "run again without a cause",
            Breach::RanTooOften => "killers that ran too often",
            Breach::RanTooSeldom => "killers that ran too seldom",
        })
    }
}

/// How often something happened, and the first examples of it.
#[derive(Debug, Clone, Default)]
struct Cases {
    count: u64,
    examples: Vec<String>,
}

/// What must never happen and did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Breaches(BTreeMap<Breach, Cases>);

impl Breaches {
    /// Whether nothing of the kind happened.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How often this happened.
    pub(crate) fn count(&self, breach: Breach) -> u64 {
        self.0.get(&breach).map_or(0, |cases| cases.count)
    }

    /// What happened, and how often.
    pub(crate) fn counts(&self) -> Vec<(Breach, u64)> {
        self.0.iter().map(|(breach, cases)| (*breach, cases.count)).collect()
    }

    /// Takes note of a case.
    pub(crate) fn note(&mut self, breach: Breach, example: String) {
        let cases = self.0.entry(breach).or_default();
        cases.count += 1;
        if cases.examples.len() < EXAMPLES_MAX {
            cases.examples.push(example);
        }
    }

    /// The text that tells of all.
    pub(crate) fn lines(&self) -> String {
        let mut text = String::new();
        for (breach, cases) in &self.0 {
            let _ = writeln!(text, "\nVIOLATED: {breach} ({})", cases.count);
            for example in &cases.examples {
                let _ = writeln!(text, "  {example}");
            }
        }
        text
    }
}
