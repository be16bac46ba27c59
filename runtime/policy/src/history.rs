//! The error history of an event: one entry for each failed attempt, carried in the message.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What kind of failure an attempt ended in, and the reason of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The handler asked for a retry.
    Retry,
    /// The handler rejected the event.
    Reject,
    /// The deadline passed.
    Timeout,
    /// The fuel ran out.
    Fuel,
    /// The memory limit was hit.
    Memory,
    /// The code trapped.
    Trap,
    /// An output may not or cannot be published.
    Output,
    /// The message is not in the format that the handler expects.
    Undecodable,
    /// The payload is larger than `limits.payload`.
    Payload,
    /// The payload does not fit the schema.
    Schema,
    /// All attempts were used up without a result, for example because the process died each time.
    Attempts,
    /// The broker denied a publication.
    Denied,
    /// The event was older than `max_age`.
    Expired,
    /// A newer event of its key was processed before.
    Stale,
    /// The attempt ended without a result: the process died in it, or lost its connection for too long.
    Lost,
}

impl Kind {
    /// The kinds that an attempt can end in, which a manifest may map: the others come before or instead of one.
    pub const OF_ATTEMPTS: [Kind; 8] =
        [Kind::Retry, Kind::Reject, Kind::Timeout, Kind::Fuel, Kind::Memory, Kind::Trap, Kind::Output, Kind::Denied];
    /// Their names.
    pub const OF_ATTEMPTS_NAMES: &[&str] =
        &["retry", "reject", "timeout", "fuel", "memory", "trap", "output", "denied"];

    /// The kind's name in the manifest, the history and the logs.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Retry => "retry",
            Kind::Reject => "reject",
            Kind::Timeout => "timeout",
            Kind::Fuel => "fuel",
            Kind::Memory => "memory",
            Kind::Trap => "trap",
            Kind::Output => "output",
            Kind::Undecodable => "undecodable",
            Kind::Payload => "payload",
            Kind::Schema => "schema",
            Kind::Attempts => "attempts",
            Kind::Denied => "denied",
            Kind::Expired => "expired",
            Kind::Stale => "stale",
            Kind::Lost => "lost",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One failed attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptError {
    /// When it failed (RFC 3339).
    pub date: String,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// What kind of failure it was.
    pub kind: Kind,
    /// The handler's own code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<i32>,
    /// What went wrong.
    pub message: String,
    /// Where it went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack_trace: Option<String>,
    /// The handler's name.
    pub handler: String,
    /// The digest of the component that ran.
    pub component: String,
    /// The tidemill instance that ran it.
    pub instance: String,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
    /// The fuel it burnt.
    pub fuel_used: u64,
    /// The most memory it had, in bytes.
    pub memory_peak: u64,
}

/// The errors of an event in order of time; where there were too many, the first and the last ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// The entries that were kept.
    pub errors: Vec<AttemptError>,
    /// How many were dropped between the first and the second of `errors`.
    pub dropped: u32,
}

/// The most bytes that the history may take as a header.
pub const HISTORY_BYTES_MAX: usize = 16 * 1024;
/// The most bytes of one error's message; stack traces may take three times as much.
const MESSAGE_BYTES_MAX: usize = 1024;
/// The most bytes of one error's stack trace.
const STACK_TRACE_BYTES_MAX: usize = 3 * 1024;
/// The most bytes of the names in an error: ours are shorter.
const NAME_BYTES_MAX: usize = 256;
/// The most bytes of one error's message where there is little room.
const SHORT_MESSAGE_BYTES_MAX: usize = 128;

impl AttemptError {
    /// The error with its long texts cut to what a message can carry.
    pub(crate) fn shortened(mut self) -> AttemptError {
        truncate(&mut self.message, MESSAGE_BYTES_MAX);
        if let Some(trace) = &mut self.stack_trace {
            truncate(trace, STACK_TRACE_BYTES_MAX);
        }
        for name in [&mut self.date, &mut self.handler, &mut self.component, &mut self.instance] {
            truncate(name, NAME_BYTES_MAX);
        }
        self
    }

    /// The error without its stack trace.
    pub(crate) fn without_trace(self) -> AttemptError {
        AttemptError { stack_trace: None, ..self }
    }

    /// The error without its stack trace, and with a message of a line at most.
    pub(crate) fn in_short(self) -> AttemptError {
        let mut short = self.without_trace();
        truncate(&mut short.message, SHORT_MESSAGE_BYTES_MAX);
        short
    }
}

impl History {
    /// The history with one more error. The result takes at most [`HISTORY_BYTES_MAX`] as JSON: long
    /// texts are cut, then the oldest entries after the first are dropped and counted.
    #[must_use]
    pub fn with(mut self, error: AttemptError) -> History {
        self.errors.push(error.shortened());
        self.bounded()
    }

    /// The history with at most [`HISTORY_BYTES_MAX`] as JSON, whoever wrote it.
    #[must_use]
    pub fn bounded(mut self) -> History {
        self.drop_middle(2);
        if self.json_bytes() > HISTORY_BYTES_MAX {
            // Escaping can make a text six times as long; what people need then is the message.
            for error in &mut self.errors {
                error.stack_trace = None;
                truncate(&mut error.message, MESSAGE_BYTES_MAX / 2);
            }
        }
        // Entries of ours fit by now; one that somebody else wrote may be of any size.
        while self.errors.len() > 1 && self.json_bytes() > HISTORY_BYTES_MAX {
            self.errors.remove(0);
            self.dropped = self.dropped.saturating_add(1);
        }
        self
    }

    /// Drops entries after the first, the oldest ones, until the rest fits or `least` are left.
    fn drop_middle(&mut self, least: usize) {
        let mut bytes = self.json_bytes();
        let mut count = 0;
        while self.errors.len() - count > least && bytes > HISTORY_BYTES_MAX {
            count += 1;
            bytes = bytes.saturating_sub(json_bytes(&self.errors[count]) + 1);
        }
        self.drop_after_first(count);
    }

    fn drop_after_first(&mut self, count: usize) {
        if count > 0 {
            self.errors.drain(1..=count);
        }
        self.dropped = self.dropped.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// The history with every entry changed.
    pub(crate) fn map(self, change: fn(AttemptError) -> AttemptError) -> History {
        History { errors: self.errors.into_iter().map(change).collect(), ..self }
    }

    /// The history without the entries between the first and the last, which are counted.
    pub(crate) fn first_and_last(mut self) -> History {
        self.drop_after_first(self.errors.len().saturating_sub(2));
        self
    }

    /// The history with its last `count` entries only; the others are counted.
    pub(crate) fn last(mut self, count: usize) -> History {
        let dropped = self.errors.len().saturating_sub(count);
        self.errors.drain(..dropped);
        self.dropped = self.dropped.saturating_add(u32::try_from(dropped).unwrap_or(u32::MAX));
        self
    }

    /// The bytes of [`History::to_json`].
    fn json_bytes(&self) -> usize {
        2 + self.errors.iter().map(json_bytes).sum::<usize>() + self.errors.len().saturating_sub(1)
    }

    /// The entries as a JSON array on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.errors).expect("strings and numbers always serialise")
    }

    /// Reads the entries back from their headers. Anybody may have written those, so they are cut to what ours have.
    ///
    /// # Errors
    /// What is wrong with the JSON.
    pub fn from_json(json: &str, dropped: u32) -> Result<History, serde_json::Error> {
        let errors: Vec<AttemptError> = serde_json::from_str(json)?;
        let errors = errors.into_iter().map(AttemptError::shortened).collect();
        Ok(History { errors, dropped }.bounded())
    }

    /// How many failures the event has seen, those dropped included.
    pub fn len(&self) -> usize {
        self.errors.len() + self.dropped as usize
    }

    /// Whether nothing has failed yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The bytes of one entry as JSON.
fn json_bytes(error: &AttemptError) -> usize {
    serde_json::to_string(error).map_or(0, |json| json.len())
}

/// Whole milliseconds of a duration, saturating.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Cuts `text` to at most `bytes_max`, on a character boundary, and says so at its end.
fn truncate(text: &mut String, bytes_max: usize) {
    const MARK: &str = " […]";
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max.saturating_sub(MARK.len())));
        text.push_str(MARK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(attempt: u32, message: &str, stack_trace: Option<&str>) -> AttemptError {
        AttemptError {
            date: "2026-11-21T04:00:00.000Z".into(),
            attempt,
            kind: Kind::Trap,
            status_code: Some(-1),
            message: message.into(),
            stack_trace: stack_trace.map(Into::into),
            handler: "h".repeat(64),
            component: "c".repeat(64),
            instance: "i".repeat(32),
            duration_ms: u64::MAX,
            fuel_used: u64::MAX,
            memory_peak: u64::MAX,
        }
    }

    #[test]
    fn the_names_of_kinds_are_those_on_the_wire() {
        let names = Kind::OF_ATTEMPTS.map(Kind::name);
        assert_eq!(names, Kind::OF_ATTEMPTS_NAMES);
        for kind in Kind::OF_ATTEMPTS.into_iter().chain([Kind::Expired, Kind::Lost, Kind::Payload]) {
            assert_eq!(serde_json::to_string(&kind).ok(), Some(format!("\"{kind}\"")));
        }
    }

    #[test]
    fn short_histories_are_kept_whole() {
        let history = (1..=5).fold(History::default(), |history, n| history.with(error(n, "boom", Some("f\ng"))));
        assert_eq!(history.dropped, 0);
        assert_eq!(history.errors.iter().map(|e| e.attempt).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(history.errors[4], error(5, "boom", Some("f\ng")));
    }

    #[test]
    fn the_size_is_bounded_whatever_an_earlier_entry_holds() {
        let mut foreign = error(1, "boom", None);
        foreign.component = "c".repeat(HISTORY_BYTES_MAX);
        let history = History { errors: vec![foreign], dropped: u32::MAX }.with(error(2, "boom", None));
        assert!(history.to_json().len() <= HISTORY_BYTES_MAX);
        assert_eq!((history.errors.len(), history.errors[0].attempt, history.dropped), (1, 2, u32::MAX));
    }

    #[test]
    fn what_somebody_else_wrote_is_read_within_bounds() {
        let long = |length: usize| "\u{1}".repeat(length);
        let mut foreign = error(1, &long(100_000), Some(&long(100_000)));
        for name in [&mut foreign.date, &mut foreign.handler, &mut foreign.component, &mut foreign.instance] {
            *name = long(100_000);
        }
        for count in [1, 2, 3, 500] {
            let written = History { errors: vec![foreign.clone(); count], dropped: u32::MAX - 1 };
            let read = History::from_json(&written.to_json(), u32::MAX - 1).expect("a history");
            assert!(read.to_json().len() <= HISTORY_BYTES_MAX, "{count}: {}", read.to_json().len());
            assert!(!read.errors.is_empty(), "{count}");
        }
    }

    proptest! {
        #[test]
        fn the_size_is_bounded_and_first_and_last_survive(
            texts in prop::collection::vec(("[\u{0}-\u{ff}\u{1F600}]{0,2000}", 0usize..4), 1..30)
        ) {
            let mut history = History::default();
            for (n, (text, repeat)) in (1u32..).zip(&texts) {
                history = history.with(error(n, text, Some(&text.repeat(*repeat))));
                prop_assert!(history.to_json().len() <= HISTORY_BYTES_MAX, "{}", history.to_json().len());
                prop_assert_eq!(history.len(), n as usize);
                prop_assert_eq!(history.errors[0].attempt, 1);
                prop_assert_eq!(history.errors.last().map(|e| e.attempt), Some(n));
                prop_assert!(history.errors.is_sorted_by_key(|e| e.attempt));
            }
        }

        #[test]
        fn what_was_written_is_read_back(text in ".{0,200}", dropped in any::<u32>()) {
            let mut history = History::default().with(error(1, &text, None));
            history.dropped = dropped;
            let json = history.to_json();
            prop_assert!(!json.contains(['\n', '\r']));
            prop_assert_eq!(History::from_json(&json, dropped).ok(), Some(history));
        }
    }
}
