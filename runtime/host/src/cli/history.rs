//! `tidemill history`: the versions of a handler's component, and what became of them.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use tidemill::versions::{Entry, Outcome, Store, short};

use super::output::{columns, harmless};
use super::queues::start;
use super::{Done, Global, find_handler};

const EXAMPLES: &str = "\
What is told is what the instances have written down that keep their versions in the same folder (runtime.versions).
`tidemill rollback HANDLER --to DIGEST` goes back to a version that is kept.

Examples:
  tidemill history welcome-email
  tidemill history welcome-email --output json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The handler's name in the manifest
    handler: String,
    /// The most entries to show, the newest
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    limit: usize,
}

#[derive(Debug, Serialize)]
struct Report {
    handler: String,
    /// The version that was kept last.
    kept: Option<String>,
    /// The version that runs instead of the one in the folder, and why.
    pinned: Option<Pinned>,
    /// The versions that can be gone back to, the newest first.
    versions: Vec<String>,
    /// What happened, the oldest first.
    history: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Pinned {
    version: String,
    instead_of: String,
    why: String,
}

/// Shows what became of a handler's versions.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Done {
    let file = start(global)?;
    let handler = find_handler(&file, &arguments.handler)?.name.clone();
    let store = Store::at(file.base.join(&file.manifest.runtime.versions));
    let state = store.state(&handler)?;
    let mut history = store.history(&handler)?;
    history.drain(..history.len().saturating_sub(arguments.limit));
    let pinned = state.pin.map(|pin| Pinned { version: pin.digest, instead_of: pin.instead_of, why: pin.why });
    let versions = store.list(&handler)?;
    let report = Report { handler, kept: state.kept, pinned, versions, history };
    global.out().show(&report, || text(&report));
    Ok(())
}

fn text(report: &Report) -> String {
    if report.history.is_empty() {
        return format!("nothing is written down of {}; instances do that in runtime.versions\n", report.handler);
    }
    let row = |entry: &Entry| {
        let kept = if report.versions.contains(&entry.digest) { "" } else { "not kept" };
        [
            harmless(&entry.time, true),
            harmless(short(&entry.digest), true),
            outcome(entry.outcome).to_owned(),
            if entry.attempts > 0 { format!("{} of {}", entry.failures, entry.attempts) } else { String::new() },
            kept.to_owned(),
            harmless(entry.why.as_deref().unwrap_or_default(), true),
        ]
    };
    let rows: Vec<_> = report.history.iter().map(row).collect();
    let mut text = columns(["WHEN", "VERSION", "WHAT", "FAILED", "", "WHY"], &rows);
    if let Some(pinned) = &report.pinned {
        let (version, other) = (short(&pinned.version), short(&pinned.instead_of));
        let why = harmless(&pinned.why, true);
        let _ = writeln!(text, "\nversion {version} runs as long as {other} is in the folder: {why}");
    }
    text
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Loaded => "loaded",
        Outcome::Kept => "kept",
        Outcome::WentBack => "went back from",
        Outcome::RolledBack => "went back to",
        Outcome::Refused => "refused",
    }
}
