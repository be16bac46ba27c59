//! The versions of one handler: the one that runs, and one that may be on trial beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemill_policy::history::Kind;
use tidemill_policy::manifest::Handler;
use tidemill_policy::reload::guard;
use tidemill_policy::schema::Schemas;

use crate::fate::{Fate, What};

/// A handler with what runs it.
#[derive(Debug, Clone)]
pub struct Part<I> {
    /// The policy.
    pub handler: Arc<Handler>,
    /// Runs the handler.
    pub invoker: I,
    /// What payloads must fit.
    pub schemas: Arc<Schemas>,
    /// The digest of its component.
    pub component: String,
    /// What came of its attempts.
    pub tally: Arc<Tally>,
}

/// What takes the events of one handler.
#[derive(Debug, Clone)]
pub struct Versions<I> {
    /// The version that has proved itself, or needs no proof.
    pub steady: Part<I>,
    /// A new version that is watched.
    pub trial: Option<Trial<I>>,
}

/// A version on trial.
#[derive(Debug, Clone)]
pub struct Trial<I> {
    /// The version.
    pub part: Part<I>,
    /// The share of events that it gets, up to 1.
    pub share: f64,
}

/// What came of the attempts of one version in this process.
#[derive(Debug, Default)]
pub struct Tally {
    attempts: AtomicU64,
    failures: AtomicU64,
}

impl<I> Versions<I> {
    /// A version without another one on trial.
    pub fn only(part: Part<I>) -> Versions<I> {
        Versions { steady: part, trial: None }
    }

    /// Whether these are the very same: each that was loaded has a policy of its own.
    pub fn is_same(&self, other: &Versions<I>) -> bool {
        let trial = |versions: &Versions<I>| versions.trial.as_ref().map(|trial| Arc::as_ptr(&trial.part.handler));
        Arc::ptr_eq(&self.steady.handler, &other.steady.handler) && trial(self) == trial(other)
    }

    /// The version that the manifest and the folder ask for: the one on trial, where there is one.
    pub fn newest(&self) -> &Part<I> {
        self.trial.as_ref().map_or(&self.steady, |trial| &trial.part)
    }
}

impl Tally {
    /// Counts the attempts behind a fate. All that did not complete is a failure, an event that the handler rejects included:
    /// a version that rejects what the one before handled is broken, and where events are to blame, both reject them. What
    /// came to an end without an attempt tells nothing about a version.
    pub fn count(&self, fate: &Fate) {
        let (attempts, failures) = match &fate.what {
            What::Handled { .. } => (1, 0),
            What::Retried { error, .. } | What::DeadLettered { error } if Kind::OF_ATTEMPTS.contains(&error.kind) => {
                (1, 1)
            }
            _ => (0, 0),
        };
        let before = u64::from(fate.retried_in_memory);
        if attempts + before > 0 {
            self.attempts.fetch_add(attempts + before, Ordering::Relaxed);
        }
        if failures + before > 0 {
            self.failures.fetch_add(failures + before, Ordering::Relaxed);
        }
    }

    /// The counts now.
    pub fn now(&self) -> guard::Tally {
        // In this order, so that there are never more failures than attempts.
        let failures = self.failures.load(Ordering::Acquire);
        guard::Tally { attempts: self.attempts.load(Ordering::Acquire), failures }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidemill_policy::arrival::{self, Message, Position};
    use tidemill_policy::attempt::Attempt;
    use tidemill_policy::budget::Usage;
    use tidemill_policy::decide::{Failure, Stamp};

    use super::*;

    fn fate(what: What, retried_in_memory: u32) -> Fate {
        let message = Message { subject: "in.x".into(), headers: Vec::new(), payload: "a".into(), damage: None };
        let position =
            Position { stream: "IN".into(), stream_created_unix: 1, sequence: 7, stored_ms: 5, delivered: 1 };
        Fate { arrival: arrival::first(message, position), what, retried_in_memory, elapsed: Duration::ZERO }
    }

    #[test]
    fn all_that_did_not_complete_is_a_failure_and_what_was_not_attempted_counts_for_nothing() {
        let tally = Tally::default();
        let dead = |kind| {
            let stamp = Stamp { now_ms: 1, component: "c", instance: "i", usage: Usage::default() };
            What::DeadLettered { error: Failure::new(kind, String::new()).into_error(Attempt::FIRST, "h", &stamp) }
        };
        tally.count(&fate(What::Handled { outputs: 0 }, 0));
        assert_eq!(tally.now(), guard::Tally { attempts: 1, failures: 0 });
        for kind in Kind::OF_ATTEMPTS {
            tally.count(&fate(dead(kind), 0));
        }
        assert_eq!(tally.now(), guard::Tally { attempts: 9, failures: 8 });
        for what in [dead(Kind::Schema), dead(Kind::Expired), What::Duplicate, What::Released, What::TooEarly] {
            tally.count(&fate(what, 0));
        }
        assert_eq!(tally.now(), guard::Tally { attempts: 9, failures: 8 });
        tally.count(&fate(What::Handled { outputs: 1 }, 2));
        assert_eq!(tally.now(), guard::Tally { attempts: 12, failures: 10 });
    }
}
