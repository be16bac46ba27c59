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

impl AttemptError {
    /// The error with its long texts cut to what a message can carry.
    pub(crate) fn shortened(mut self) -> AttemptError {
        truncate(&mut self.message, MESSAGE_BYTES_MAX);
        if let Some(trace) = &mut self.stack_trace {
            truncate(trace, STACK_TRACE_BYTES_MAX);
        }
        self
    }
}

impl History {
    /// The history with one more error. The result takes at most [`HISTORY_BYTES_MAX`] as JSON: long
    /// texts are cut, then the oldest entries after the first are dropped and counted.
    #[must_use]
    pub fn with(mut self, error: AttemptError) -> History {
        self.errors.push(error.shortened());
        while self.errors.len() > 2 && self.to_json().len() > HISTORY_BYTES_MAX {
            self.errors.remove(1);
            self.dropped = self.dropped.saturating_add(1);
        }
        if self.to_json().len() > HISTORY_BYTES_MAX {
            // Escaping can make a text six times as long; what people need then is the message.
            for error in &mut self.errors {
                error.stack_trace = None;
                truncate(&mut error.message, MESSAGE_BYTES_MAX / 2);
            }
        }
        // Entries of ours fit by now; one that somebody else wrote may be of any size.
        while self.errors.len() > 1 && self.to_json().len() > HISTORY_BYTES_MAX {
            self.errors.remove(0);
            self.dropped = self.dropped.saturating_add(1);
        }
        self
    }

    /// The entries as a JSON array on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.errors).expect("strings and numbers always serialise")
    }

    /// Reads the entries back from their headers.
    ///
    /// # Errors
    /// What is wrong with the JSON.
    pub fn from_json(json: &str, dropped: u32) -> Result<History, serde_json::Error> {
        Ok(History { errors: serde_json::from_str(json)?, dropped })
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
