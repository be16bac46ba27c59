//! Whether an event is run at all.

use std::time::Duration;

use crate::arrival::Arrival;
use crate::decide::Failure;
use crate::event::Event;
use crate::history::Kind;
use crate::manifest::{Handler, show_duration};

/// Checks an event before the handler sees it.
///
/// # Errors
/// The failure with which the event goes to the dead letters without being run.
pub fn admit(handler: &Handler, arrival: &Arrival, event: &Event, now_ms: u64) -> Result<(), Failure> {
    let max_attempts = handler.retry.max_attempts;
    if event.attempt.get() > max_attempts {
        return Err(Failure::new(
            Kind::Attempts,
            format!(
                "all {max_attempts} attempts are used up, and the last ended without a result: the process died in \
                 it, or lost its connection for too long"
            ),
        ));
    }
    // What somebody has replayed is wanted, however old it is.
    if let Some(max_age) = handler.max_age.filter(|_| arrival.epoch == 0) {
        let age = Duration::from_millis(now_ms.saturating_sub(arrival.origin.time_ms));
        if age > max_age {
            let message = format!(
                "stored {} ago, max_age is {}",
                show_duration(Duration::from_secs(age.as_secs())),
                show_duration(max_age)
            );
            return Err(Failure::new(Kind::Expired, message));
        }
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
    use crate::arrival::fixtures::{NOW_MS, arrival, handler};
    use crate::attempt::Attempt;
    use crate::decode::decode;

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
            let arrival = arrival(&[], &"x".repeat(bytes));
            let mut event = decode(&arrival, &handler()).expect("can be decoded");
            event.attempt = Attempt::new(attempt).expect("from 1");
            let kind = admit(&handler(), &arrival, &event, NOW_MS).err().map(|failure| failure.kind);
            assert_eq!(kind, refused, "attempt {attempt}, {bytes} bytes");
        }
    }

    #[test]
    fn an_event_is_run_until_it_is_too_old() {
        let arrival = arrival(&[], "x");
        let event = decode(&arrival, &handler()).expect("can be decoded");
        let stored_ms = arrival.origin.time_ms;
        let handler = Handler { max_age: Some(Duration::from_mins(1)), ..handler() };
        for (now_ms, refused) in [(0, false), (stored_ms + 60_000, false), (stored_ms + 60_001, true)] {
            let admitted = admit(&handler, &arrival, &event, now_ms);
            assert_eq!(admitted.is_err_and(|failure| failure.kind == Kind::Expired), refused, "{now_ms}");
        }
        let replayed = Arrival { epoch: 1, ..arrival };
        assert_eq!(admit(&handler, &replayed, &event, u64::MAX), Ok(()));
    }
}
