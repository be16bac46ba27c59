//! The time of day, driven by tokio's clock, so that paused tests control everything.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Tells the time of day.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// The system's clock.
    System,
    /// A clock that started at some time of day and moves on with tokio's.
    Tokio {
        /// The time at the start, in milliseconds since the Unix epoch.
        start_ms: u64,
        /// The start.
        start: Instant,
    },
}

impl Clock {
    /// Now, in milliseconds since the Unix epoch.
    pub fn now_ms(self) -> u64 {
        match self {
            Clock::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                tidemill_policy::history::millis(since)
            }
            Clock::Tokio { start_ms, start } => start_ms + tidemill_policy::history::millis(start.elapsed()),
        }
    }
}
