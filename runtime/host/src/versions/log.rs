//! What happened to a handler's versions: one JSON object per line, the oldest first.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::disk;

/// How many lines the log may have, and to how many it is cut then.
const LINES_MAX: usize = 2000;
const LINES_KEPT: usize = 1000;
/// The longest reason, in bytes, so that the log is bounded.
const WHY_BYTES_MAX: usize = 4096;

/// One thing that happened to a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, as RFC 3339.
    pub time: String,
    /// The version, by the digest of its component.
    pub digest: String,
    /// What happened.
    pub outcome: Outcome,
    /// Why, for people, where that is not plain; cut where it is very long.
    pub why: Option<String>,
    /// How many of its attempts had ended by then.
    pub attempts: u64,
    /// How many of them had failed.
    pub failures: u64,
    /// The instance that tells it.
    pub instance: String,
}

/// What happened to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was loaded, and gets events.
    Loaded,
    /// It was watched long enough, and stays.
    Kept,
    /// Too many of its attempts failed: the version before took its place.
    WentBack,
    /// Somebody asked for the version before.
    RolledBack,
    /// It was never run: it could not be loaded, or did not pass its cases.
    Refused,
}

/// Adds a line to the log, and cuts it where it has grown too long. Only one process does at a time.
pub(super) fn append(file: &Path, entry: &Entry) -> io::Result<()> {
    let present = disk::read(file)?.unwrap_or_default();
    let mut line = Vec::new();
    // A process that was killed may have left half a line, which must not swallow this one.
    if present.last().is_some_and(|last| *last != b'\n') {
        line.push(b'\n');
    }
    serde_json::to_writer(&mut line, &shortened(entry))?;
    line.push(b'\n');
    let mut log = File::options().create(true).append(true).open(file)?;
    log.write_all(&line)?;
    if lines(&present).count() < LINES_MAX {
        return Ok(());
    }
    let whole = [present, line].concat();
    let skipped = lines(&whole).count().saturating_sub(LINES_KEPT);
    let kept: Vec<u8> = lines(&whole).skip(skipped).flat_map(|line| [line, b"\n"].concat()).collect();
    disk::replace(file, &kept)
}

/// The entries of a log; lines that are none are left out.
pub(super) fn parse(text: &[u8]) -> Vec<Entry> {
    lines(text).filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn shortened(entry: &Entry) -> Entry {
    let cut = |why: &String| why[..why.floor_char_boundary(WHY_BYTES_MAX)].to_owned();
    Entry { why: entry.why.as_ref().map(cut), ..entry.clone() }
}
