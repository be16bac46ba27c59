//! What keeps attempts back: the circuit breaker, the outage brake and the rate limit. Each is a state and functions
//! of (state, what happened, now); whoever waits costs its event no attempt.

use crate::outcome::Outcome;

pub mod brake;
pub mod breaker;
pub mod rate;

/// What an attempt says about its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It succeeded.
    Works,
    /// It failed because of the event, or of what was made of it: the handler itself works.
    Refused,
    /// It failed in a way that may pass: the handler asked for a retry, or took too long.
    Transient,
    /// It trapped, or ran out of fuel or memory: the handler is broken, and waiting may not help.
    Broken,
}

/// What an outcome says about its handler.
pub fn verdict(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Completed(_) => Verdict::Works,
        Outcome::Rejected(_) | Outcome::OutputRefused { .. } => Verdict::Refused,
        Outcome::Retry { .. } | Outcome::TimedOut(_) => Verdict::Transient,
        Outcome::OutOfFuel(_) | Outcome::OutOfMemory(_) | Outcome::Trapped(_) => Verdict::Broken,
    }
}

impl Verdict {
    /// Whether the circuit breaker counts it as a failure.
    pub fn is_failure(self) -> bool {
        matches!(self, Verdict::Transient | Verdict::Broken)
    }
}

/// When an attempt may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Now.
    Now,
    /// Not before this time, in milliseconds since the Unix epoch.
    At(u64),
    /// Not before something else happens: an attempt ends, or somebody closes the breaker.
    Later,
}
