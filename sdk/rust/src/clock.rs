//! The time of day. On `wasm32-unknown-unknown` `std::time::SystemTime::now` panics; this works everywhere.

use std::time::Duration;

/// The time since the Unix epoch.
///
/// The host's clock stands still during one attempt and is recorded with a dead letter, so that a run
/// can be repeated.
#[cfg(target_arch = "wasm32")]
pub fn unix_time() -> Duration {
    let now = crate::bindings::wasi::clocks::wall_clock::now();
    Duration::new(now.seconds, now.nanoseconds)
}

/// The time since the Unix epoch.
#[cfg(not(target_arch = "wasm32"))]
pub fn unix_time() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}
