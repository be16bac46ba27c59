//! Trials: what must hold for every single attempt while processes are killed, servers are restarted and events are kept
//! waiting. Handlers tell of each attempt that begins, so that the audit knows what was made and what was only counted.

mod cluster;
mod deployments;
mod house;
mod killer;
mod rolling;
pub(crate) mod script;
mod stage;
mod waits;
pub(crate) mod witness;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::audit::attempts::Tally;

/// Which trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trial {
    /// Three deployments in one account.
    Deployments,
    /// Events that kill their process.
    Killer,
    /// A cluster whose servers are restarted one after the other.
    Rolling,
    /// Events that are kept waiting while processes are killed.
    Waits,
}

/// What a trial follows from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// The seed.
    pub(crate) seed: u64,
    /// About how many events there are; as many as the short form has where nothing is said.
    pub(crate) events: Option<u64>,
}

/// What a trial came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What was witnessed and what the streams hold.
    pub(crate) tally: Tally,
    /// How often a process was killed.
    pub(crate) kills: usize,
    /// How often a server was restarted by SIGTERM and by SIGKILL.
    pub(crate) restarts: [u32; 2],
    /// From the first process to the last.
    pub(crate) duration: Duration,
    /// What went wrong besides.
    pub(crate) faults: Vec<String>,
}

/// Runs a trial with all files in `folder`.
pub(crate) async fn run(trial: Trial, folder: &Path, options: Options) -> Result<Outcome> {
    match trial {
        Trial::Deployments => deployments::run(folder, options).await,
        Trial::Killer => killer::run(folder, options).await,
        Trial::Rolling => rolling::run(folder, options).await,
        Trial::Waits => waits::run(folder, options).await,
    }
}

impl Outcome {
    /// Whether everything is as it must be.
    pub(crate) fn holds(&self) -> bool {
        self.tally.breaches.is_empty() && self.faults.is_empty()
    }

    /// The table, and whatever is wrong.
    pub(crate) fn lines(&self) -> String {
        let Tally { events, attempts, done, dead_letters, cut_out, killers, unseen, breaches } = &self.tally;
        let [terminated, crashed] = self.restarts;
        let mut runs = killers.clone();
        runs.sort_unstable();
        let mut text = String::new();
        for (name, value) in [
            ("events, counted in each handler", events.to_string()),
            ("attempts that began", attempts.to_string()),
            ("  may have begun unseen", unseen.to_string()),
            ("done", done.to_string()),
            ("dead letters", dead_letters.to_string()),
            ("  cut off as often as allowed", cut_out.to_string()),
            ("runs of killers", format!("{runs:?}")),
            ("instances killed (SIGKILL)", self.kills.to_string()),
            ("server restarts (SIGTERM, SIGKILL)", format!("{terminated} + {crashed}")),
            ("duration", format!("{:.1} s", self.duration.as_secs_f64())),
        ] {
            let _ = writeln!(text, "  {name:<34}{value:>10}");
        }
        for (breach, count) in breaches.counts() {
            let _ = writeln!(text, "  {:<34}{count:>10}", breach.to_string());
        }
        text.push_str(&breaches.lines());
        for fault in &self.faults {
            let _ = writeln!(text, "\nVIOLATED: {fault}");
        }
        text
    }
}
