//! Commands that tell a test what the guest sees.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use tidemill_sdk::{Event, Output, Result, clock, random};

/// Counts the calls of this instance; a fresh instance begins at 1 again.
pub(crate) fn count_call() -> u64 {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    CALLS.fetch_add(1, Ordering::Relaxed) + 1
}

pub(crate) fn echo(event: Event) -> Output {
    Output { headers: event.headers, ..Output::new("out.echo", event.payload) }
}

pub(crate) fn event(event: &Event) -> Result<Output> {
    let seen = json!({
        "id": event.id,
        "subject": event.subject,
        "kind": event.kind,
        "source": event.source,
        "time_ms": event.time_ms,
        "content_type": event.content_type,
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
        "attempt": event.attempt,
        "max_attempts": event.max_attempts,
        "headers": event.headers,
        "payload": event.text()?,
    });
    Output::json("out.event", &seen)
}

pub(crate) fn config(key: &str) -> Result<Output> {
    let value = tidemill_sdk::config::get(key)?;
    Ok(Output::new("out.config", value.unwrap_or_default()))
}

pub(crate) fn clock() -> Result<Output> {
    let bytes = random::bytes(16);
    let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").ok();
        hex
    });
    let now = clock::unix_time();
    let seen = json!({
        "seconds": now.as_secs(),
        "nanoseconds": now.subsec_nanos(),
        "random": bytes,
        "random_hex": hex,
    });
    Output::json("out.clock", &seen)
}
