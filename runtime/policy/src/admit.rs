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
    if event.attempt.get() > handler.retry.max_attempts {
        return Err(Failure::new(Kind::Attempts, used_up(handler.retry.max_attempts, arrival, event)));
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

/// Why there is no attempt left. An attempt that failed is in the history; the limit was higher then.
fn used_up(max_attempts: u32, arrival: &Arrival, event: &Event) -> String {
    let made = event.attempt.preceding();
    if arrival.history.errors.last().is_some_and(|error| error.attempt == made) {
        return format!("{made} attempts were made, and retry.max_attempts is {max_attempts} now");
    }
    format!(
        "all {max_attempts} attempts are used up, and the last ended without a result: the process died in it, or lost its \
         connection for too long"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrival::fixtures::{NOW_MS, arrival, handler};
    use crate::attempt::Attempt;
    use crate::budget::Usage;
    use crate::decide::Stamp;
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
    fn attempts_that_were_made_under_a_higher_limit_are_not_called_lost() {
        let mut arrival = arrival(&[], "x");
        let mut event = decode(&arrival, &handler()).expect("can be decoded");
        event.attempt = Attempt::FIRST.plus(5);
        let why = |arrival: &Arrival| admit(&handler(), arrival, &event, NOW_MS).expect_err("used up").message;
        assert!(why(&arrival).contains("the process died in it"), "{}", why(&arrival));
        let stamp = Stamp { now_ms: NOW_MS, component: "", instance: "", usage: Usage::default() };
        for (attempt, is_lost) in [(4, true), (5, false)] {
            let failure = Failure::new(Kind::Retry, "not now");
            let error = failure.into_error(Attempt::FIRST.plus(attempt - 1), "h", &stamp);
            arrival.history = std::mem::take(&mut arrival.history).with(error);
            assert_eq!(why(&arrival).contains("the process died in it"), is_lost, "{}", why(&arrival));
        }
        assert_eq!(why(&arrival), "5 attempts were made, and retry.max_attempts is 5 now");
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
