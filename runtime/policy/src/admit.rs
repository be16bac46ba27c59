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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrival::fixtures::{arrival, handler};
    use crate::attempt::Attempt;
    use crate::decode::decode;
    use crate::manifest::Format;

    #[test]
    fn an_event_is_run_while_it_has_attempts_left_and_is_not_too_large() {
        let rows = [
            (1, 0, None),
            (5, 1024, None),
            (6, 0, Some(Kind::Attempts)),
            (u32::MAX, 2000, Some(Kind::Attempts)),
            (1, 1025, Some(Kind::Payload)),
        ];
        for (attempt, bytes, refused) in rows {
            let mut event = decode(&arrival(&[], &"x".repeat(bytes)), Format::Auto, 5).expect("can be decoded");
            event.attempt = Attempt::new(attempt).expect("from 1");
            let kind = admit(&handler(), &event).err().map(|failure| failure.kind);
            assert_eq!(kind, refused, "attempt {attempt}, {bytes} bytes");
        }
    }
}
