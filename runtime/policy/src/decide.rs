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
/// been made; those that cannot pass go to the dead letters at once.
pub fn decide(handler: &Handler, event: &Event, outcome: Outcome) -> Decision {
    match outcome {
        Outcome::Completed(outputs) => match output::check(&handler.allow, &outputs) {
            Ok(()) => Decision::Publish(outputs),
            Err(why) => Decision::DeadLetter(Failure::new(Kind::Output, why)),
        },
        Outcome::Retry { error, delay } => again(handler, event, delay, Failure::reported(Kind::Retry, error)),
        Outcome::Rejected(error) => Decision::DeadLetter(Failure::reported(Kind::Reject, error)),
        Outcome::TimedOut(at) => again(handler, event, None, Failure::interrupted(Kind::Timeout, at)),
        Outcome::OutOfFuel(at) => again(handler, event, None, Failure::interrupted(Kind::Fuel, at)),
        Outcome::OutOfMemory(at) => again(handler, event, None, Failure::interrupted(Kind::Memory, at)),
        Outcome::Trapped(at) => again(handler, event, None, Failure::interrupted(Kind::Trap, at)),
        Outcome::OutputRefused { message, transient: true } => {
            again(handler, event, None, Failure::new(Kind::Output, message))
        }
        Outcome::OutputRefused { message, transient: false } => {
            Decision::DeadLetter(Failure::new(Kind::Output, message))
        }
        Outcome::Denied { message } => Decision::DeadLetter(Failure::new(Kind::Denied, message)),
    }
}

/// A retry where attempts are left, else the dead letters.
fn again(handler: &Handler, event: &Event, hint: Option<Duration>, failure: Failure) -> Decision {
    if event.attempt.get() >= handler.retry.max_attempts {
        return Decision::DeadLetter(failure);
    }
    let delay = match hint {
        Some(hint) => retry::hinted(&handler.retry, hint),
        None => retry::delay(&handler.retry, event.attempt, &event.id, &handler.name),
    };
    Decision::Retry { delay, failure }
}

#[cfg(test)]
mod tests;
