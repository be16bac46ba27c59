//! What became of a delivery: counted, timed and logged.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tidemill_policy::arrival::Arrival;
use tidemill_policy::history::AttemptError;

/// What became of one delivery.
#[derive(Debug)]
pub struct Fate {
    /// The delivery.
    pub arrival: Arrival,
    /// How it ended.
    pub what: What,
    /// How many attempts failed and were followed by another in memory.
    pub retried_in_memory: u32,
    /// From its delivery to its settlement.
    pub elapsed: Duration,
}

/// How a delivery ended.
#[derive(Debug)]
pub enum What {
    /// The handler succeeded and its outputs are stored.
    Handled {
        /// How many outputs.
        outputs: usize,
    },
    /// The attempt failed; another follows.
    Retried {
        /// The failure.
        error: AttemptError,
        /// After how long.
        delay: Duration,
    },
    /// The event was given up on.
    DeadLettered {
        /// The last failure.
        error: AttemptError,
    },
    /// The event had ended before, or goes on with another message.
    Duplicate,
    /// A newer event of its key was processed before, so this one was discarded.
    Stale {
        /// Which.
        why: String,
    },
    /// Handed back to the broker without a result.
    Released,
    /// A retry that was delivered before its time, and handed back.
    TooEarly,
}

impl Fate {
    /// Whether nothing more is to come of the delivery's message.
    pub fn has_ended(&self) -> bool {
        !matches!(self.what, What::Released | What::TooEarly)
    }
}

/// Counts of what became of a handler's deliveries since the process started.
#[derive(Debug)]
pub struct Counters {
    handled: AtomicU64,
    retried: AtomicU64,
    dead_lettered: AtomicU64,
    duplicates: AtomicU64,
    stale: AtomicU64,
    released: AtomicU64,
    elapsed_us: Mutex<Histogram<u64>>,
}

/// [`Counters`] at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Counts {
    /// Events handled.
    pub handled: u64,
    /// Attempts that failed and are followed by another.
    pub retried: u64,
    /// Events given up on.
    pub dead_lettered: u64,
    /// Deliveries of events that had ended before, or go on with another message.
    pub duplicates: u64,
    /// Events discarded because a newer one of their key had been processed.
    pub stale: u64,
    /// Deliveries handed back to the broker.
    pub released: u64,
    /// The median time from delivery to settlement, in microseconds.
    pub p50_us: u64,
    /// The 99th percentile of it.
    pub p99_us: u64,
}

/// The longest time that is told apart, in microseconds: one hour.
const ELAPSED_US_MAX: u64 = 3_600_000_000;

impl Default for Counters {
    fn default() -> Counters {
        let histogram = Histogram::new_with_max(ELAPSED_US_MAX, 2).expect("constant bounds are valid");
        Counters {
            handled: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            dead_lettered: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            released: AtomicU64::new(0),
            elapsed_us: Mutex::new(histogram),
        }
    }
}

impl Counters {
    /// Counts a fate.
    pub fn record(&self, fate: &Fate) {
        let counter = match fate.what {
            What::Handled { .. } => &self.handled,
            What::Retried { .. } => &self.retried,
            What::DeadLettered { .. } => &self.dead_lettered,
            What::Duplicate => &self.duplicates,
            What::Stale { .. } => &self.stale,
            What::Released => &self.released,
            What::TooEarly => return,
        };
        self.retried.fetch_add(fate.retried_in_memory.into(), Ordering::Relaxed);
        counter.fetch_add(1, Ordering::Relaxed);
        let elapsed_us = u64::try_from(fate.elapsed.as_micros()).unwrap_or(u64::MAX);
        self.histogram().saturating_record(elapsed_us);
    }

    /// The counts now.
    pub fn counts(&self) -> Counts {
        let histogram = self.histogram();
        Counts {
            handled: self.handled.load(Ordering::Relaxed),
            retried: self.retried.load(Ordering::Relaxed),
            dead_lettered: self.dead_lettered.load(Ordering::Relaxed),
            duplicates: self.duplicates.load(Ordering::Relaxed),
            stale: self.stale.load(Ordering::Relaxed),
            released: self.released.load(Ordering::Relaxed),
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
        }
    }

    fn histogram(&self) -> std::sync::MutexGuard<'_, Histogram<u64>> {
        self.elapsed_us.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The target of the log events that tell the fate of each delivery.
pub const LOG_TARGET: &str = "tidemill::event";

/// Logs a failed attempt that is followed by another in memory.
pub fn log_retry_in_memory(handler: &str, arrival: &Arrival, error: &AttemptError, delay: Duration) {
    let subject = arrival.origin.subject.as_str();
    let (sequence, attempt) = (arrival.origin.sequence, error.attempt);
    let (kind, elapsed_us) = (error.kind, error.duration_ms.saturating_mul(1000));
    let (error, delay_ms) = (&error.message, tidemill_policy::history::millis(delay));
    tracing::info!(target: LOG_TARGET, handler, subject, sequence, attempt, elapsed_us, %kind, error, delay_ms, "retry");
}

/// Logs a fate: success at debug, a retry at info, a dead letter at warn.
pub fn log(handler: &str, fate: &Fate) {
    let Fate { arrival, what, elapsed, .. } = fate;
    let subject = arrival.origin.subject.as_str();
    let sequence = arrival.origin.sequence;
    let attempt = arrival.attempt.get();
    let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    match what {
        What::Handled { outputs } => {
            tracing::debug!(target: LOG_TARGET, handler, subject, sequence, attempt, elapsed_us, outputs, "handled");
        }
        What::Retried { error, delay } => {
            let (kind, error, delay_ms) = (error.kind, &error.message, tidemill_policy::history::millis(*delay));
            tracing::info!(target: LOG_TARGET, handler, subject, sequence, attempt, elapsed_us, %kind, error, delay_ms, "retry");
        }
        What::DeadLettered { error } => {
            let (kind, error) = (error.kind, &error.message);
            tracing::warn!(target: LOG_TARGET, handler, subject, sequence, attempt, elapsed_us, %kind, error, "dead-lettered");
        }
        What::Duplicate => {
            tracing::info!(target: LOG_TARGET, handler, subject, sequence, attempt, elapsed_us, "duplicate");
        }
        What::Stale { why } => {
            tracing::info!(target: LOG_TARGET, handler, subject, sequence, attempt, elapsed_us, why, "stale");
        }
        What::Released => {
            tracing::info!(target: LOG_TARGET, handler, subject, sequence, attempt, elapsed_us, "released");
        }
        What::TooEarly => tracing::trace!(target: LOG_TARGET, handler, subject, sequence, "not due yet"),
    }
}
