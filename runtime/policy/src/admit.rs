//! Whether an event is run at all.

use crate::decide::Failure;
use crate::event::Event;
use crate::history::Kind;
use crate::manifest::Handler;

/// Checks an event before the handler sees it.
///
/// # Errors
/// The failure with which the event goes to the dead letters without being run.
pub fn admit(handler: &Handler, event: &Event) -> Result<(), Failure> {
    let max_attempts = handler.retry.max_attempts;
    if event.attempt.get() > max_attempts {
        return Err(Failure::new(
            Kind::Attempts,
            format!(
                "delivered for attempt {} of {max_attempts}: earlier attempts ended without a result, \
                 perhaps because the process died or lost its connection",
                event.attempt
            ),
        ));
    }
    let bytes = event.payload.len() as u64;
    if bytes > handler.limits.payload_bytes {
        return Err(Failure::new(
            Kind::Payload,
            format!("payload of {bytes} bytes, limits.payload is {} bytes", handler.limits.payload_bytes),
        ));
    }
    Ok(())
}
