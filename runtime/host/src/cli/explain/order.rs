//! In what order a handler gets its events.

use serde::Serialize;
use tidemill::broker::nats::partitions;
use tidemill::leader;
use tidemill_policy::history::millis;
use tidemill_policy::manifest::{Handler, OnFailure, OrderForm, show_duration};

use super::latest::LatestShown;

/// `order`, where it is not `none`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Order {
    Key(KeyShown),
    Latest(LatestShown),
}

/// What is promised, and what it costs.
#[derive(Debug, Serialize)]
pub(super) struct KeyShown {
    by: &'static str,
    key: String,
    form: &'static str,
    partitions: Option<u32>,
    window: Option<u32>,
    on_failure: &'static str,
    /// How many events run at once, over all instances.
    parallelism: Option<u32>,
    /// How long the events of an instance that dies wait at most.
    fail_over_ms: u64,
}

pub(super) fn order(handler: &Handler) -> Option<Order> {
    by_key(handler).map(Order::Key).or_else(|| LatestShown::of(handler).map(Order::Latest))
}

fn by_key(handler: &Handler) -> Option<KeyShown> {
    let order = handler.key_order()?;
    let (form, parallelism) = match order.form {
        // An instance has as many slots for all of them together.
        OrderForm::Partitions(_) => ("partitions", handler.partitions()),
        OrderForm::Queues { .. } => ("queues", Some(handler.concurrency)),
    };
    Some(KeyShown {
        by: "key",
        key: order.key.to_string(),
        form,
        partitions: handler.partitions(),
        window: handler.window(),
        on_failure: order.on_failure.name(),
        parallelism,
        fail_over_ms: millis(leader::fail_over(handler)),
    })
}

pub(super) fn text(shown: Option<&Order>, handler: &Handler, prefix: &str) -> String {
    if let Some(Order::Latest(latest)) = shown {
        return latest.text();
    }
    let Some(order) = handler.key_order() else { return String::new() };
    let fail_over = show_duration(leader::fail_over(handler));
    let form = match order.form {
        OrderForm::Partitions(count) => format!(
            "in {count} partitions (stream {}), one event at a time in each: {count} at once over all instances, {} in each\n\
             when an instance dies, its partitions wait for up to {fail_over}, the others go on",
            partitions::stream(prefix, &handler.name),
            handler.concurrency.min(count),
        ),
        OrderForm::Queues { in_flight } => format!(
            "at one active instance, different keys side by side: {} at once, {in_flight} in hand\n\
             when it dies, another one takes over within {fail_over}; when it stops, at once",
            handler.concurrency
        ),
    };
    let failure = match order.on_failure {
        OnFailure::DeadLetter => "an event that is given up on lets its key go on",
        OnFailure::Park => "an event that is given up on holds up its key, until it is replayed or discarded",
    };
    format!("events of one {} one at a time, in the order of the stream\n{form}\n{failure}", order.key)
}
