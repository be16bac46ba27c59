//! From an outcome to a decision.

use std::time::Duration;

use crate::attempt::Attempt;
use crate::budget::Usage;
use crate::event::{Event, Output};
use crate::history::{AttemptError, Kind, millis};
use crate::manifest::Handler;
use crate::outcome::{HandlerError, Interruption, Outcome};
use crate::{output, retry};

/// What is to be done about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Publish these, then acknowledge.
    Publish(Vec<Output>),
    /// The attempt has failed.
    Fail(Setback),
}

/// What is to be done about an event whose attempt has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setback {
    /// Attempt the event again after `delay`.
    Retry {
        /// How long to wait.
        delay: Duration,
        /// What went wrong.
        failure: Failure,
    },
    /// Give the event up, and keep it with its history.
    DeadLetter(Failure),
}

/// Why the broker did not take an output, where waiting would not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No stream stores its subject.
    NoStream,
    /// The broker denies publishing on its subject.
    Denied,
    /// It is too large.
    TooLarge,
    /// Another stream stores it than the outputs that it is to be stored together with.
    Apart,
}

/// A failed attempt, before the host adds when and where it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure.
    pub kind: Kind,
    /// The handler's own code.
    pub status_code: Option<i32>,
    /// What went wrong.
    pub message: String,
    /// Where it went wrong.
    pub stack_trace: Option<String>,
}

impl Failure {
    /// A failure that is told by one sentence.
    pub fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, status_code: None, message: message.into(), stack_trace: None }
    }

    fn reported(kind: Kind, error: HandlerError) -> Failure {
        Failure { kind, status_code: error.code, message: error.message, stack_trace: error.detail }
    }

    fn interrupted(kind: Kind, interruption: Interruption) -> Failure {
        Failure { kind, status_code: None, message: interruption.message, stack_trace: interruption.stack_trace }
    }

    /// The entry of the error history for this failure.
    pub fn into_error(self, attempt: Attempt, handler: &str, stamp: &Stamp<'_>) -> AttemptError {
        AttemptError {
            date: rfc3339(stamp.now_ms),
            attempt: attempt.get(),
            kind: self.kind,
            status_code: self.status_code,
            message: self.message,
            stack_trace: self.stack_trace,
            handler: handler.to_owned(),
            component: stamp.component.to_owned(),
            instance: stamp.instance.to_owned(),
            duration_ms: millis(stamp.usage.duration),
            fuel_used: stamp.usage.fuel,
            memory_peak: stamp.usage.memory_peak_bytes,
        }
    }
}

/// When and where an attempt was made.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    /// Now, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// The digest of the component.
    pub component: &'a str,
    /// The name of this tidemill instance.
    pub instance: &'a str,
    /// What the attempt used.
    pub usage: Usage,
}

/// Milliseconds since the Unix epoch as RFC 3339 with milliseconds; the last day of year 9999 for anything
/// later.
pub fn rfc3339(unix_ms: u64) -> String {
    const LAST_MS: u64 = 253_402_300_799_999;
    let time = std::time::UNIX_EPOCH + Duration::from_millis(unix_ms.min(LAST_MS));
    humantime::format_rfc3339_millis(time).to_string()
}

/// Decides what an outcome leads to. Failures that may pass are attempted again until `max_attempts` have
/// been made; those that cannot pass go to the dead letters at once. Which kinds may pass can be changed with
/// `retry.on` and `dead_letter.on`.
pub fn decide(handler: &Handler, event: &Event, outcome: Outcome) -> Decision {
    let (may_pass, hint, failure) = match outcome {
        Outcome::Completed(outputs) => match output::check(&handler.allow, &outputs) {
            Ok(()) => return Decision::Publish(outputs),
            Err(why) => (false, None, Failure::new(Kind::Output, why)),
        },
        Outcome::Retry { error, delay } => (true, delay, Failure::reported(Kind::Retry, error)),
        Outcome::Rejected(error) => (false, None, Failure::reported(Kind::Reject, error)),
        Outcome::TimedOut(at) => (true, None, Failure::interrupted(Kind::Timeout, at)),
        Outcome::OutOfFuel(at) => (true, None, Failure::interrupted(Kind::Fuel, at)),
        Outcome::OutOfMemory(at) => (true, None, Failure::interrupted(Kind::Memory, at)),
        Outcome::Trapped(at) => (true, None, Failure::interrupted(Kind::Trap, at)),
        Outcome::OutputRefused { message } => (false, None, Failure::new(Kind::Output, message)),
    };
    Decision::Fail(set_back(handler, event, may_pass, hint, failure))
}

/// Decides what follows where the broker did not take an event's outputs: an operator may add the stream that is
/// missing, but a permission that the manifest relies on or a size is a mistake to be seen.
pub fn refused(handler: &Handler, event: &Event, refusal: Refusal, message: String) -> Setback {
    let (may_pass, kind) = match refusal {
        Refusal::NoStream => (true, Kind::Output),
        Refusal::TooLarge | Refusal::Apart => (false, Kind::Output),
        Refusal::Denied => (false, Kind::Denied),
    };
    set_back(handler, event, may_pass, None, Failure::new(kind, message))
}

/// Decides what follows where an event was run, but may not take effect before another one of its key has come to an
/// end, see [`crate::latest::Entry::Blocked`].
pub fn blocked(handler: &Handler, event: &Event) -> Setback {
    let why = "a newer one of its key was run and does not come to an end: its instance has died, or its outputs cannot \
               be stored";
    set_back(handler, event, true, None, Failure::new(Kind::Stale, why))
}

/// A retry where the failure may pass and attempts are left, else the dead letters.
fn set_back(handler: &Handler, event: &Event, may_pass: bool, hint: Option<Duration>, failure: Failure) -> Setback {
    let may_pass = match failure.kind {
        kind if handler.retry.on.contains(&kind) => true,
        kind if handler.dead_letter.on.contains(&kind) => false,
        _ => may_pass,
    };
    if !may_pass || event.attempt.get() >= handler.retry.max_attempts {
        return Setback::DeadLetter(failure);
    }
    let delay = match hint {
        Some(hint) => retry::hinted(&handler.retry, hint),
        None => retry::delay(&handler.retry, event.attempt, &event.id, &handler.name),
    };
    Setback::Retry { delay, failure }
}

#[cfg(test)]
mod tests;
