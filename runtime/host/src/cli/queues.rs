//! What the commands on waiting and dead events have in common: the connection, what errors mean, and times.

use std::time::Duration;

use anyhow::anyhow;
use tidemill::broker::nats::Nats;
use tidemill::broker::nats::ask::AskError;
use tidemill::clock::Clock;
use tidemill::load::ManifestFile;
use tidemill::logging::Purpose;
use tidemill::operate::OperateError;
use tidemill_policy::decide::rfc3339;
use tidemill_policy::history::AttemptError;
use tidemill_policy::manifest::Handler;
use tidemill_policy::publication::retries_through_stream;

use super::output::harmless;
use super::{Done, Failure, Global, connect, publish};

/// The most messages that are read to show something.
pub(super) const READS_MAX: usize = 10_000;

/// A manifest, and a connection to its server.
pub(super) struct Session {
    pub(super) file: ManifestFile,
    pub(super) nats: Nats,
    /// Now, in milliseconds since the Unix epoch.
    pub(super) now_ms: u64,
}

impl Session {
    /// Connects to the server that the manifest or the user names.
    pub(super) async fn open(global: &Global, file: ManifestFile, command: &str) -> Result<Session, Failure> {
        let target = global.target(Some(&file))?.ok_or_else(|| {
            Failure::usage(format!(
                "{} names no NATS server; add url = \"nats://HOST:4222\" to its table [nats], or give --nats-url or \
                 TIDEMILL_NATS_URL (`tidemill dev` prints the URL of its server)",
                file.path.display()
            ))
        })?;
        let nats = connect(&target, &format!("tidemill {command}")).await?;
        Ok(Session { file, nats, now_ms: Clock::System.now_ms() })
    }

    pub(super) fn prefix(&self) -> &str {
        &self.file.manifest.nats.prefix
    }
}

/// Starts the log and reads the manifest.
pub(super) fn start(global: &Global) -> Result<ManifestFile, Failure> {
    global.start_log(Purpose::Command)?;
    global.read_manifest()
}

/// Refuses a handler whose retries are not in the retry stream.
pub(super) fn check_has_retries(handler: &Handler) -> Done {
    if retries_through_stream(handler) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "handler {} has mode = \"broadcast\": its retries wait in the memory of each instance, and no single one \
         can be reached through NATS",
        handler.name
    )))
}

/// An error, with what was done before it and what to do about it.
pub(super) fn failure(error: &OperateError, done: usize, what: &str) -> Failure {
    let text = match error {
        OperateError::Publish(fault) => publish::remedy(fault),
        error => error.to_string(),
    };
    let before = if done == 0 { String::new() } else { format!(" ({done} others {what})") };
    Failure::Failed(anyhow!("{text}{before}"))
}

/// As [`failure`], where nothing was done before.
pub(super) fn unanswered(error: AskError) -> Failure {
    Failure::Failed(error.into())
}

/// The last error of an event on one line.
pub(super) fn last_error(errors: &[AttemptError]) -> String {
    errors.last().map_or_else(String::new, |error| format!("{}: {}", error.kind, harmless(&error.message, true)))
}

/// A time for people: how long it is until then, or since.
pub(super) fn when(time_ms: u64, now_ms: u64) -> String {
    let rest = Duration::from_millis(time_ms.abs_diff(now_ms));
    match coarse(rest) {
        _ if rest < Duration::from_secs(1) => "now".to_owned(),
        span if time_ms > now_ms => format!("in {span}"),
        span => format!("{span} ago"),
    }
}

/// A span of time in the largest unit that it has two of.
pub(super) fn coarse(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [("d", 86_400), ("h", 3600), ("m", 60)];
    let unit = units.into_iter().find(|(_, length)| seconds >= 2 * length);
    unit.map_or_else(|| format!("{seconds}s"), |(unit, length)| format!("{}{unit}", seconds / length))
}

/// A time for programs.
pub(super) fn timestamp(time_ms: Option<u64>) -> Option<String> {
    time_ms.map(rfc3339)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_from_now() {
        let now_ms: u64 = 1_700_000_000_000;
        let rows: [(i64, &str); 8] = [
            (0, "now"),
            (999, "now"),
            (1_000, "in 1s"),
            (119_000, "in 119s"),
            (180_000, "in 3m"),
            (-7_199_000, "119m ago"),
            (-7_200_000, "2h ago"),
            (-864_000_000, "10d ago"),
        ];
        for (offset, expected) in rows {
            assert_eq!(when(now_ms.saturating_add_signed(offset), now_ms), expected);
        }
    }
}
