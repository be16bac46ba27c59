//! How long to wait before the next attempt.

use std::time::Duration;

use crate::arrival::Arrival;
use crate::attempt::Attempt;
use crate::history::millis;
use crate::id;
use crate::manifest::{Backoff, Handler, Mode, RetryPolicy};

/// The longest delay that a handler may ask for, unless the policy's own are longer.
const HINT_MAX: Duration = Duration::from_hours(1);

/// The delay between the failure of `failed` and the next attempt, before jitter. Never above
/// `policy.max`, never below the delay of an earlier attempt.
pub fn backoff(policy: &RetryPolicy, failed: Attempt) -> Duration {
    let factor = match policy.backoff {
        Backoff::Constant => 1.0,
        Backoff::Linear => f64::from(failed.get()),
        Backoff::Exponential => policy.multiplier.powf(f64::from(failed.preceding())),
    };
    scale(policy.initial, factor).min(policy.max)
}

/// The delay with jitter: `fraction` (in `0.0..1.0`) is spread over `±policy.jitter`. Full-jitter schemes
/// (see the AWS architecture blog, "Exponential Backoff And Jitter") would lose the lower bound that
/// users set with `initial`, so the spread is proportional instead.
pub fn delay(policy: &RetryPolicy, failed: Attempt, event_id: &str, handler: &str) -> Duration {
    let base = backoff(policy, failed);
    let fraction = id::fraction(event_id, handler, failed.get());
    scale(base, 1.0 + policy.jitter * (2.0 * fraction - 1.0))
}

/// Whether a retry waits in the process instead of in the retry stream: the first ones do, as long as they have
/// waited no longer than `retry.in_memory` in total, `waited` being what earlier ones of this delivery took. A
/// claim is given up between attempts, so claimed events wait in the stream; broadcast events have no other place, and
/// ordered ones must keep theirs.
pub fn waits_in_memory(handler: &Handler, waited: Duration, delay: Duration) -> bool {
    match handler.mode {
        Mode::Broadcast => true,
        // The events behind it wait until it has ended.
        Mode::Queue if handler.key_order().is_some() => true,
        Mode::Queue => {
            let claims = handler.dedup.as_ref().is_some_and(|dedup| dedup.claim);
            !claims && waited.saturating_add(delay) <= handler.retry.in_memory
        }
    }
}

/// The delay that a handler's hint leads to: what the handler wishes, but no more than an hour or
/// `policy.max`, whichever is longer.
pub fn hinted(policy: &RetryPolicy, hint: Duration) -> Duration {
    hint.min(policy.max.max(HINT_MAX))
}

/// The time from the start of the first attempt to the end of the last, where each takes `timeout` and every
/// delay is as long as jitter may make it. A handler's hints are left out.
pub fn span(policy: &RetryPolicy, timeout: Duration) -> Duration {
    let failures = (1..policy.max_attempts).filter_map(Attempt::new);
    failures.fold(timeout, |elapsed, failed| {
        let longest = scale(backoff(policy, failed), 1.0 + policy.jitter);
        elapsed.saturating_add(longest).saturating_add(timeout)
    })
}

/// The longest that an event may wait for its next attempt.
pub fn longest_delay(policy: &RetryPolicy) -> Duration {
    scale(policy.max, 1.0 + policy.jitter).max(hinted(policy, Duration::MAX))
}

/// How long a retry that was delivered before its time still has to wait; nothing where it is due. Anybody may have
/// written when that is: it never waits longer, counted from when it was stored and from now, than an event of this
/// policy may wait for its next attempt.
pub fn rest(policy: &RetryPolicy, arrival: &Arrival, now_ms: u64) -> Option<Duration> {
    let longest = longest_delay(policy);
    let latest_ms = arrival.position.stored_ms.saturating_add(millis(longest));
    let due_ms = arrival.not_before_ms?.min(latest_ms);
    let rest = Duration::from_millis(due_ms.saturating_sub(now_ms)).min(longest);
    (!rest.is_zero()).then_some(rest)
}

/// `duration * factor`, saturating: the product of two finite positive numbers may exceed what a
/// `Duration` holds.
fn scale(duration: Duration, factor: f64) -> Duration {
    if duration.is_zero() {
        return duration; // The factor may be infinite.
    }
    Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrival::fixtures::{any_headers, handler, message, retry_position};
    use crate::arrival::{Message, Position, retried};
    use crate::headers;
    use proptest::prelude::*;

    fn policy() -> impl Strategy<Value = RetryPolicy> {
        let backoff = prop_oneof![Just(Backoff::Constant), Just(Backoff::Linear), Just(Backoff::Exponential)];
        (backoff, 0u64..10_000_000, 0u64..u64::from(u32::MAX), 1.0f64..1e6, 0.0f64..=1.0).prop_map(
            |(backoff, initial, more, multiplier, jitter)| RetryPolicy {
                max_attempts: 5,
                backoff,
                initial: Duration::from_millis(initial),
                max: Duration::from_millis(initial + more),
                multiplier,
                jitter,
                in_memory: Duration::ZERO,
                on: Vec::new(),
            },
        )
    }

    fn attempt() -> impl Strategy<Value = Attempt> {
        (1u32..).prop_map(|number| Attempt::new(number).expect("from 1"))
    }

    #[test]
    fn the_default_schedule_doubles_up_to_the_maximum() {
        let policy = RetryPolicy {
            max_attempts: 20,
            backoff: Backoff::Exponential,
            initial: Duration::from_millis(500),
            max: Duration::from_mins(1),
            multiplier: 2.0,
            jitter: 0.0,
            in_memory: Duration::ZERO,
            on: Vec::new(),
        };
        let schedule: Vec<_> =
            (1..=9).map(|n| backoff(&policy, Attempt::new(n).expect("from 1")).as_millis()).collect();
        assert_eq!(schedule, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
    }

    #[test]
    fn the_span_adds_up_attempts_and_longest_delays() {
        let policy = RetryPolicy {
            max_attempts: 3,
            backoff: Backoff::Exponential,
            initial: Duration::from_secs(1),
            max: Duration::from_mins(1),
            multiplier: 2.0,
            jitter: 0.5,
            in_memory: Duration::ZERO,
            on: Vec::new(),
        };
        // Three attempts of 10 s, after 1.5 s and 3 s.
        assert_eq!(span(&policy, Duration::from_secs(10)), Duration::from_millis(34_500));
        let once = RetryPolicy { max_attempts: 1, ..policy.clone() };
        assert_eq!(span(&once, Duration::from_secs(10)), Duration::from_secs(10));
        let extreme = RetryPolicy { max: Duration::MAX, initial: Duration::MAX, ..policy.clone() };
        assert_eq!(span(&extreme, Duration::MAX), Duration::MAX);
        assert_eq!(longest_delay(&policy), Duration::from_hours(1));
        let patient = RetryPolicy { max: Duration::from_hours(2), ..policy };
        assert_eq!(longest_delay(&patient), Duration::from_hours(3));
    }

    #[test]
    fn no_delay_stays_no_delay_after_any_number_of_failures() {
        let policy = RetryPolicy {
            max_attempts: 1000,
            backoff: Backoff::Exponential,
            initial: Duration::ZERO,
            max: Duration::from_mins(1),
            multiplier: 10.0,
            jitter: 0.0,
            in_memory: Duration::ZERO,
            on: Vec::new(),
        };
        assert_eq!(backoff(&policy, Attempt::new(999).expect("from 1")), Duration::ZERO);
    }

    #[test]
    fn a_retry_waits_until_it_is_due_and_no_longer_than_its_policy_says() {
        let handler = handler();
        let longest_ms = millis(longest_delay(&handler.retry));
        let stored_ms = retry_position().stored_ms;
        let retry_at = |not_before_ms: u64| Arrival {
            not_before_ms: Some(not_before_ms),
            ..retried(message(&[], ""), retry_position())
        };
        let rows = [
            (stored_ms + 500, stored_ms, Some(500)),
            (stored_ms + 500, stored_ms + 500, None),
            (stored_ms + 500, u64::MAX, None),
            (0, stored_ms, None),
            (u64::MAX, stored_ms, Some(longest_ms)),
            (u64::MAX, stored_ms + longest_ms - 1, Some(1)),
            (u64::MAX, stored_ms + longest_ms, None),
            // A clock that is far behind.
            (u64::MAX, 0, Some(longest_ms)),
        ];
        for (not_before_ms, now_ms, expected) in rows {
            let rest = rest(&handler.retry, &retry_at(not_before_ms), now_ms);
            assert_eq!(rest, expected.map(Duration::from_millis), "{not_before_ms} at {now_ms}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_message_says_makes_it_wait_longer_than_its_policy(
            policy in policy(), headers in any_headers(), not_before in any::<u64>(), stored_ms in any::<u64>(),
            now_ms in any::<u64>(),
        ) {
            let mut headers = headers;
            headers.push((headers::NOT_BEFORE.to_owned(), not_before.to_string()));
            let message = Message { headers, ..message(&[], "") };
            let arrival = retried(message, Position { stored_ms, ..retry_position() });
            let longest = longest_delay(&policy);
            let rest = rest(&policy, &arrival, now_ms).unwrap_or_default();
            prop_assert!(rest <= longest);
            // However often it is handed back, it is due in the end.
            let end_ms = stored_ms.saturating_add(millis(longest));
            prop_assert_eq!(super::rest(&policy, &arrival, end_ms.max(now_ms)), None);
        }

        #[test]
        fn backoff_never_panics_and_stays_between_initial_and_max(policy in policy(), failed in attempt()) {
            let delay = backoff(&policy, failed);
            prop_assert!(delay <= policy.max);
            prop_assert!(delay + Duration::from_nanos(1) >= policy.initial);
        }

        #[test]
        fn backoff_never_shrinks(policy in policy(), failed in attempt()) {
            prop_assert!(backoff(&policy, failed.plus(1)) >= backoff(&policy, failed));
        }

        #[test]
        fn jitter_stays_within_its_share_and_repeats(policy in policy(), failed in attempt(), id in ".*") {
            let base = backoff(&policy, failed).as_secs_f64();
            let jittered = delay(&policy, failed, &id, "h");
            prop_assert!(jittered.as_secs_f64() <= base * (1.0 + policy.jitter) + 1e-6);
            prop_assert!(jittered.as_secs_f64() >= base * (1.0 - policy.jitter) - 1e-6);
            prop_assert_eq!(jittered, delay(&policy, failed, &id, "h"));
        }

        #[test]
        fn a_hint_is_honoured_within_bounds(policy in policy(), hint in any::<u32>()) {
            let hint = Duration::from_millis(u64::from(hint));
            let delay = hinted(&policy, hint);
            prop_assert!(delay <= hint && (delay == hint || delay >= policy.max));
        }
    }
}
