//! Runs the integration tests against the NATS servers that are supported, one after the other.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::{guests, paths, process, tools};

/// The last of each line before the version that the project fetches for itself. There was no 2.13.
const VERSIONS: [&str; 4] = ["2.10.26", "2.11.11", "2.12.8", "2.14.6"];

/// What the tests came to with one server.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    /// How many passed.
    passed: u64,
    /// The names of those that failed.
    failed: Vec<String>,
    /// Whether all of them were run to their end.
    complete: bool,
}

impl Tally {
    /// Takes note of one line of what `cargo test` prints.
    fn note(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            let passed = result.split_once(". ").and_then(|(_, counts)| counts.split(' ').next()?.parse().ok());
            self.passed = passed.unwrap_or(0);
            self.complete = passed.is_some();
        } else if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failed.push(name.to_owned());
        }
    }

    fn holds(&self) -> bool {
        self.complete && self.failed.is_empty() && self.passed > 0
    }
}

/// Fetches the servers, runs the tests against each, and prints a table.
///
/// # Errors
///
/// If a server cannot be fetched, the tests cannot be built, or one of them fails.
pub fn run() -> Result<()> {
    let mut servers = Vec::new();
    for version in VERSIONS.into_iter().chain([tools::nats_server_default()]) {
        servers.push((version, tools::nats_server_of(version)?));
    }
    guests::build()?;
    let mut tallies = Vec::new();
    for (version, server) in &servers {
        println!("\n=== nats-server {version}");
        tallies.push((*version, test(server)?));
    }
    println!("\n{:<14}{:>8}{:>8}", "nats-server", "passed", "failed");
    for (version, tally) in &tallies {
        let note = if tally.complete { "" } else { "  did not run to the end" };
        println!("{version:<14}{:>8}{:>8}{note}", tally.passed, tally.failed.len());
        tally.failed.iter().for_each(|name| println!("    {name}"));
    }
    let failed = tallies.iter().filter(|(_, tally)| !tally.holds()).count();
    if failed > 0 {
        bail!("the tests fail with {failed} of {} servers", tallies.len());
    }
    Ok(())
}

/// Runs the integration tests against one server, and shows what they print.
fn test(server: &Path) -> Result<Tally> {
    let mut cargo = process::cargo();
    cargo.current_dir(paths::root()).args(["test", "--workspace", "--jobs", "2", "--test", "integration"]);
    cargo.env("TIDEMILL_NATS_SERVER", server).env("TIDEMILL_GUESTS", paths::guests());
    let mut child = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what cargo prints")?;
        println!("{line}");
        tally.note(&line);
    }
    let status = child.wait().context("cannot wait for cargo")?;
    tally.complete &= status.success() || !tally.failed.is_empty();
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::Tally;

    fn tally(lines: &str) -> Tally {
        let mut tally = Tally::default();
        lines.lines().for_each(|line| tally.note(line));
        tally
    }

    #[test]
    fn passed_and_failed_tests_are_counted() {
        let good = tally("test a::b ... ok\n\ntest result: ok. 41 passed; 0 failed; 0 ignored; finished in 3.00s");
        assert_eq!(good, Tally { passed: 41, failed: Vec::new(), complete: true });
        assert!(good.holds());
        let bad = tally("test a::b ... FAILED\ntest result: FAILED. 40 passed; 1 failed; 0 ignored");
        assert_eq!(bad, Tally { passed: 40, failed: vec!["a::b".into()], complete: true });
        assert!(!bad.holds());
    }

    #[test]
    fn tests_that_did_not_run_do_not_hold() {
        assert!(!tally("error: could not compile").holds());
        assert!(!tally("test result: ok. 0 passed; 0 failed; 0 ignored").holds());
    }
}
