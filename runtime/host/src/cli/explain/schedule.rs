//! When the attempts of an event that fails again and again are made.

use std::time::Duration;

use serde::Serialize;
use tidemill::logging::show_elapsed;
use tidemill_policy::attempt::Attempt;
use tidemill_policy::history::millis;
use tidemill_policy::manifest::RetryPolicy;
use tidemill_policy::retry::{backoff, span};

/// The attempts, those with the same delay before them taken together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Schedule {
    pub(crate) steps: Vec<Step>,
    /// From the start of the first attempt to the dead letter, where all attempts use up their time and all
    /// delays are as long as they may be, in milliseconds.
    pub(crate) worst_case_ms: u64,
}

/// One or more attempts that follow the same delay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Step {
    /// The first of them.
    pub(crate) from: u32,
    /// The last of them.
    pub(crate) to: u32,
    /// The delay before each, in milliseconds, and what jitter makes of it.
    pub(crate) delay_ms: u64,
    pub(crate) delay_min_ms: u64,
    pub(crate) delay_max_ms: u64,
    /// When the last of them starts at the latest, in milliseconds after the first attempt started.
    pub(crate) latest_ms: u64,
}

/// The schedule of a policy whose attempts may take `timeout` each.
pub(crate) fn schedule(policy: &RetryPolicy, timeout: Duration) -> Schedule {
    let mut steps: Vec<Step> = Vec::new();
    let mut elapsed = timeout;
    for failed in (1..policy.max_attempts).filter_map(Attempt::new) {
        let delay = backoff(policy, failed);
        let longest = delay.saturating_add(share(delay, policy.jitter));
        let latest = elapsed.saturating_add(longest);
        elapsed = latest.saturating_add(timeout);
        let number = failed.plus(1).get();
        let latest_ms = millis(latest);
        match steps.last_mut() {
            Some(step) if step.delay_ms == millis(delay) => {
                step.to = number;
                step.latest_ms = latest_ms;
            }
            _ => steps.push(Step {
                from: number,
                to: number,
                delay_ms: millis(delay),
                delay_min_ms: millis(delay.saturating_sub(share(delay, policy.jitter))),
                delay_max_ms: millis(longest),
                latest_ms,
            }),
        }
    }
    Schedule { steps, worst_case_ms: millis(span(policy, timeout)) }
}

fn share(delay: Duration, jitter: f64) -> Duration {
    Duration::try_from_secs_f64(delay.as_secs_f64() * jitter).unwrap_or(Duration::MAX)
}

/// The most lines of a schedule that are shown.
const LINES_MAX: usize = 30;

impl Schedule {
    pub(crate) fn text(&self) -> String {
        let line = |attempt: &str, delay: &str, range: &str, latest: &str| {
            format!("{attempt:<9} {delay:<12} {range:<22} {latest}")
        };
        let mut lines =
            vec![line("attempt", "after", "with jitter", "starts at the latest"), line("1", "", "", "at once")];
        for step in self.steps.iter().take(LINES_MAX) {
            let numbers =
                if step.from == step.to { step.from.to_string() } else { format!("{}-{}", step.from, step.to) };
            let range = format!("{} to {}", show(step.delay_min_ms), show(step.delay_max_ms));
            lines.push(line(&numbers, &show(step.delay_ms), &range, &show(step.latest_ms)));
        }
        if self.steps.len() > LINES_MAX {
            lines.push("…".to_owned());
        }
        lines.push(format!(
            "\nAn event that never succeeds is a dead letter after at most {}: all attempts use up their time,\n\
             and all delays are the longest. Delays that the handler asks for itself (up to an hour each) come on top.",
            show(self.worst_case_ms)
        ));
        lines.join("\n")
    }
}

fn show(ms: u64) -> String {
    show_elapsed(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_policy::manifest::Backoff;

    const POLICY: RetryPolicy = RetryPolicy {
        max_attempts: 5,
        backoff: Backoff::Exponential,
        initial: Duration::from_millis(500),
        max: Duration::from_secs(1),
        multiplier: 2.0,
        jitter: 0.5,
        in_memory: Duration::ZERO,
        on: Vec::new(),
    };

    #[test]
    fn attempts_with_the_same_delay_are_one_step() {
        let schedule = schedule(&POLICY, Duration::from_secs(2));
        let step = |from, to, delay_ms, delay_min_ms, delay_max_ms, latest_ms| Step {
            from,
            to,
            delay_ms,
            delay_min_ms,
            delay_max_ms,
            latest_ms,
        };
        // Attempt 2 after 2 + 0.75 s, attempt 3 after 2 + 1.5 s more, and so on; each takes 2 s.
        assert_eq!(schedule.steps, [step(2, 2, 500, 250, 750, 2750), step(3, 5, 1000, 500, 1500, 13_250)]);
        assert_eq!(schedule.worst_case_ms, 15_250);
    }

    #[test]
    fn one_attempt_has_no_steps() {
        let schedule = schedule(&RetryPolicy { max_attempts: 1, ..POLICY }, Duration::from_secs(2));
        assert_eq!((schedule.steps, schedule.worst_case_ms), (Vec::new(), 2000));
    }

    #[test]
    fn extremes_saturate() {
        let policy = RetryPolicy { max_attempts: 1000, initial: Duration::MAX, max: Duration::MAX, ..POLICY };
        assert_eq!(schedule(&policy, Duration::MAX).worst_case_ms, u64::MAX);
    }
}
