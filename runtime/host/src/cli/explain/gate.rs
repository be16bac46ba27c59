//! What keeps attempts back: breaker, brake and rate limit.

use serde::Serialize;
use tidemill_policy::gate::brake;
use tidemill_policy::history::millis;
use tidemill_policy::manifest::{Across, Handler, Trigger, show_duration};

/// The effective policy.
#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    circuit_breaker: Option<Breaker>,
    outage_brake: bool,
    rate_limit: Option<Limit>,
}

#[derive(Debug, Serialize)]
struct Breaker {
    #[serde(skip_serializing_if = "Option::is_none")]
    failures: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_events: Option<u32>,
    open_for_ms: u64,
    open_max_ms: u64,
    successes: u32,
}

#[derive(Debug, Serialize)]
struct Limit {
    rate: String,
    burst: u32,
    across: &'static str,
}

pub(super) fn explain(handler: &Handler) -> Explanation {
    let breaker = handler.circuit_breaker.map(|breaker| {
        let (failures, ratio) = match breaker.trigger {
            Trigger::InARow { failures } => (Some(failures), None),
            Trigger::Ratio { ratio, window, events_min } => (None, Some((ratio, window, events_min))),
        };
        Breaker {
            failures,
            ratio: ratio.map(|ratio| ratio.0),
            window_ms: ratio.map(|ratio| millis(ratio.1)),
            min_events: ratio.map(|ratio| ratio.2),
            open_for_ms: millis(breaker.open_for),
            open_max_ms: millis(breaker.open_max.max(breaker.open_for)),
            successes: breaker.successes,
        }
    });
    let rate_limit = handler.rate_limit.map(|limit| Limit {
        rate: limit.to_string(),
        burst: limit.burst,
        across: limit.across.name(),
    });
    Explanation { circuit_breaker: breaker, outage_brake: handler.outage_brake, rate_limit }
}

pub(super) fn breaker_text(handler: &Handler) -> String {
    let Some(breaker) = &handler.circuit_breaker else { return "none; it can be opened by hand".to_owned() };
    let trigger = match breaker.trigger {
        Trigger::InARow { failures } => format!("{failures} failures in a row"),
        Trigger::Ratio { ratio, window, events_min } => {
            let share = ratio * 100.0;
            format!("{share} % failures within {}, of at least {events_min} attempts", show_duration(window))
        }
    };
    format!(
        "after {trigger} in one instance, all take no events for {}, then try one at a time\n\
         closes when {} succeeded; opens for longer each time one fails, up to {}",
        show_duration(breaker.open_for),
        if breaker.successes == 1 { "one has".to_owned() } else { format!("{} have", breaker.successes) },
        show_duration(breaker.open_max.max(breaker.open_for)),
    )
}

pub(super) fn brake_text(handler: &Handler) -> String {
    if !handler.outage_brake {
        return "off".to_owned();
    }
    format!(
        "after {} of {} attempts that end in retry or timeout, events wait and one is tried at a time",
        brake::FAILED_MIN,
        brake::SAMPLE
    )
}

pub(super) fn rate_text(handler: &Handler) -> String {
    let Some(limit) = &handler.rate_limit else { return "none".to_owned() };
    let whom = match limit.across {
        Across::Instance => "in each instance",
        Across::Instances => "over all instances",
    };
    format!("{limit} attempts, {} at once, {whom}", limit.burst)
}
