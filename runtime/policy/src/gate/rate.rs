//! The rate limit: how many attempts may begin over time.
//!
//! The generic cell rate algorithm (ITU-T I.371; the "virtual scheduling" form): one number says when the next attempt
//! would be due if all came evenly. Over any span of time `t`, no more than `burst + rate · t` attempts begin. It is
//! written here, and not taken from a crate, because the same number is also kept in a record that instances share,
//! and because time is an argument.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::manifest::RateLimit;

/// How far the limit is used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// When the next attempt would be due if all came evenly, in nanoseconds since the Unix epoch.
    pub due_ns: u64,
}

/// Reserves the beginning of one attempt, and says when it may begin: `now_ns` or later, in nanoseconds since the Unix
/// epoch.
pub fn reserve(limit: &RateLimit, meter: &mut Meter, now_ns: u64) -> u64 {
    let start = earliest(limit, meter, now_ns);
    meter.due_ns = meter.due_ns.max(start).saturating_add(interval_ns(limit));
    start
}

/// When the next attempt may begin: `now_ns` or later.
pub fn earliest(limit: &RateLimit, meter: &Meter, now_ns: u64) -> u64 {
    let ahead = interval_ns(limit).saturating_mul(u64::from(limit.burst.saturating_sub(1)));
    meter.due_ns.saturating_sub(ahead).max(now_ns)
}

/// How many events of a stream one instance needs in hand to make use of the limit: the next, and what may begin within
/// a quarter of a second. A burst is pulled as fast as it begins.
pub fn in_hand(limit: &RateLimit) -> u32 {
    let soon = 250_000_000 / interval_ns(limit);
    u32::try_from(soon).unwrap_or(u32::MAX).saturating_add(1)
}

/// The time from one attempt to the next where all come evenly; at least a nanosecond.
fn interval_ns(limit: &RateLimit) -> u64 {
    let per_ns = u64::try_from(limit.per.as_nanos()).unwrap_or(u64::MAX);
    per_ns.div_ceil(u64::from(limit.count.max(1))).max(1)
}

/// The burst where the manifest names none: what may begin within a tenth of a second, at least one.
pub fn usual_burst(count: u32, per: Duration) -> u32 {
    let in_a_tenth = u128::from(count) * 100_000_000 / per.as_nanos().max(1);
    u32::try_from(in_a_tenth).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::manifest::Across;

    fn limit(count: u32, per: Duration, burst: u32) -> RateLimit {
        RateLimit { count, per, burst, across: Across::Instance }
    }

    #[test]
    fn a_burst_begins_at_once_and_the_rest_evenly() {
        let limit = limit(10, Duration::from_secs(1), 3);
        let mut meter = Meter::default();
        let now = 5_000_000_000;
        let starts: Vec<_> = (0..5).map(|_| reserve(&limit, &mut meter, now) - now).collect();
        assert_eq!(starts, [0, 0, 0, 100_000_000, 200_000_000]);
        // After a rest, no more than a burst has been saved up.
        let later = now + 3_600_000_000_000;
        let starts: Vec<_> = (0..4).map(|_| reserve(&limit, &mut meter, later) - later).collect();
        assert_eq!(starts, [0, 0, 0, 100_000_000]);
    }

    #[test]
    fn what_is_in_hand_and_the_usual_burst_follow_from_the_rate() {
        let rows = [(100, 1, 10, 26), (10, 60, 1, 1), (1000, 3600, 1, 1), (5, 1, 1, 2), (100_000, 1, 10_000, 25_001)];
        for (count, seconds, burst, in_hand_of) in rows {
            let per = Duration::from_secs(seconds);
            assert_eq!(usual_burst(count, per), burst, "{count} in {seconds} s");
            assert_eq!(in_hand(&limit(count, per, burst)), in_hand_of, "{count} in {seconds} s");
        }
    }

    proptest! {
        #[test]
        fn no_span_of_time_has_more_than_a_burst_and_the_rate(
            count in 1u32..10_000,
            per_ms in 1u64..100_000,
            burst in 1u32..50,
            pauses in proptest::collection::vec(0u64..2_000_000_000, 1..200),
        ) {
            let limit = limit(count, Duration::from_millis(per_ms), burst);
            let (mut meter, mut now, mut starts) = (Meter::default(), 1_000_000_000_000u64, Vec::new());
            for pause in pauses {
                now += pause;
                let start = reserve(&limit, &mut meter, now);
                prop_assert!(start >= now);
                starts.push(start);
            }
            for (first, from) in starts.iter().enumerate() {
                prop_assert!(first == 0 || starts[first - 1] <= *from, "in order");
                for (last, to) in starts.iter().enumerate().skip(first) {
                    let allowed = u64::from(burst) + (to - from) / interval_ns(&limit);
                    prop_assert!((last - first) as u64 <= allowed, "{} in {} ns", last - first + 1, to - from);
                }
            }
        }

        #[test]
        fn nothing_overflows(count in any::<u32>(), per in any::<u64>(), burst in any::<u32>(), due in any::<u64>(), now in any::<u64>()) {
            let limit = limit(count, Duration::from_nanos(per), burst);
            let mut meter = Meter { due_ns: due };
            prop_assert!(reserve(&limit, &mut meter, now) >= now);
            let _ = (in_hand(&limit), usual_burst(count, Duration::from_nanos(per)));
        }
    }
}
