//! `order` with `by = "latest"`: only the latest event of a key counts.

use std::fmt;
use std::time::Duration;

use super::layers::Layers;
use super::order::OrderKey;
use super::problem::{Complaint, Report};
use super::resolved::Handler;
use super::units::show_duration;

/// `order` with `by = "latest"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    /// What events have in common of which only the latest counts.
    pub key: OrderKey,
    /// When an event happened.
    pub time: OrderTime,
    /// What is done about an event that is too old.
    pub on_stale: OnStale,
    /// What is done about an event without key or time.
    pub on_missing: OnMissing,
    /// For how long the newest event of a key is remembered.
    pub window: Duration,
}

/// `order.time`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderTime {
    /// The event's time: of `CloudEvents` and queue messages their own, else when the message was stored.
    Event,
    /// The value of this header.
    Header(String),
    /// The value of this `CloudEvents` attribute.
    Attribute(String),
    /// The value at this JSON pointer (RFC 6901) in the payload.
    Json(String),
}

choice! {
    /// `order.on_stale`.
    OnStale {
        /// It is acknowledged and counted.
        Discard = "discard",
        /// It goes to the dead letters.
        DeadLetter = "dead-letter",
    }
}

choice! {
    /// `order.on_missing`.
    OnMissing {
        /// The event goes to the dead letters.
        DeadLetter = "dead-letter",
        /// The event is run as if there were no order.
        Run = "run",
    }
}

impl OrderTime {
    /// Reads a time as the manifest says it.
    pub(super) fn parse(text: &str) -> Option<OrderTime> {
        match text.split_once(':') {
            Some(("header", name)) => Some(OrderTime::Header(name.to_owned())),
            Some(("ce", name)) => Some(OrderTime::Attribute(name.to_owned())),
            Some(("json", pointer)) => Some(OrderTime::Json(pointer.to_owned())),
            _ => (text == "event").then_some(OrderTime::Event),
        }
    }
}

impl fmt::Display for OrderTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OrderTime::Event => f.write_str("event"),
            OrderTime::Header(name) => write!(f, "header:{name}"),
            OrderTime::Attribute(name) => write!(f, "ce:{name}"),
            OrderTime::Json(pointer) => write!(f, "json:{pointer}"),
        }
    }
}

/// Resolves it.
pub(super) fn resolve(key: OrderKey, layers: &Layers) -> Latest {
    Latest {
        key,
        time: layers.text("order.time").and_then(|text| OrderTime::parse(&text)).unwrap_or(OrderTime::Event),
        on_stale: layers.choice("order.on_stale", OnStale::ALL, OnStale::name),
        on_missing: layers.choice("order.on_missing", OnMissing::ALL, OnMissing::name),
        window: layers.duration("order.window"),
    }
}

/// Checks it.
pub(super) fn check(handler: &Handler, latest: &Latest, layers: &Layers, report: &mut Report) {
    if latest.window < handler.ack_wait && layers.sound(&["order", "order.window", "ack_wait", "limits.timeout"]) {
        let message = format!(
            "\"order.window\" ({}) is shorter than \"ack_wait\" ({}): when an event is delivered again, a newer one \
             would be forgotten by then",
            show_duration(latest.window),
            show_duration(handler.ack_wait),
        );
        let span = layers.find("order.window").map_or_else(|| layers.span("order"), |leaf| leaf.span);
        report.error(span, Complaint::new(message).hint("raise \"order.window\" or lower \"ack_wait\""));
    }
}
