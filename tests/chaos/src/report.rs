//! What the run shows in the end.

use std::fmt::Write as _;
use std::time::Duration;

use crate::audit::Findings;
use crate::audit::breach::Breach;

/// What the table shows though it should be 0.
const ALL: [Breach; 9] = [
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

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What the streams hold.
    pub(crate) findings: Findings,
    /// How many messages were published twice for one event.
    pub(crate) copies: u64,
    /// How many publications had to be repeated.
    pub(crate) repeats: u64,
    /// How often an instance was killed.
    pub(crate) kills: u32,
    /// How many deliveries each of the killed instances had in flight.
    pub(crate) in_flight: Vec<u64>,
    /// How often the server was restarted by SIGTERM and by SIGKILL.
    pub(crate) restarts: [u32; 2],
    /// How many messages are left over in the retry stream: the server brings some back from the dead when it is
    /// killed, below what their consumer has settled.
    pub(crate) left_over: u64,
    /// From the first event to the last settlement.
    pub(crate) duration: Duration,
    /// What went wrong besides what the streams tell.
    pub(crate) faults: Vec<String>,
}

impl Outcome {
    /// Whether everything is as it must be.
    pub(crate) fn holds(&self) -> bool {
        self.findings.breaches.is_empty() && self.faults.is_empty()
    }

    /// The table, and whatever is wrong.
    pub(crate) fn lines(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.rows() {
            let _ = writeln!(text, "  {name:<34}{value:>10}");
        }
        for breach in ALL {
            let _ = writeln!(text, "  {:<34}{:>10}", breach.to_string(), self.findings.breaches.count(breach));
        }
        text.push_str(&self.findings.breaches.lines());
        for fault in &self.faults {
            let _ = writeln!(text, "\nVIOLATED: {fault}");
        }
        text
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let findings = &self.findings;
        let seconds = self.duration.as_secs_f64();
        let rate = format!("{:.0}/s", count(findings.events) / seconds.max(0.001));
        let busy = self.in_flight.iter().filter(|&&count| count > 0).count();
        let mut in_flight = self.in_flight.clone();
        in_flight.sort_unstable();
        let median = in_flight.get(in_flight.len() / 2).copied().unwrap_or_default();
        let [terminated, crashed] = self.restarts;
        vec![
            ("events", findings.events.to_string()),
            ("  second messages of an event", self.copies.to_string()),
            ("  publications repeated", self.repeats.to_string()),
            ("handled", findings.handled.to_string()),
            ("took more than one attempt", findings.retried.to_string()),
            ("dead letters", findings.dead_letters.to_string()),
            ("  attempts they tell as lost", findings.lost_attempts.to_string()),
            ("instances killed (SIGKILL)", self.kills.to_string()),
            ("  with work in flight", busy.to_string()),
            ("  deliveries in flight, median", median.to_string()),
            ("server restarts (SIGTERM, SIGKILL)", format!("{terminated} + {crashed}")),
            ("  left over in the retry stream", self.left_over.to_string()),
            ("duration", format!("{seconds:.1} s")),
            ("rate", rate),
        ]
    }
}

/// A count as a number to divide by.
fn count(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
