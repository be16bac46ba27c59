//! `order`: what is to hold among events that belong together.

use std::fmt;
use std::time::Duration;

use super::layers::Layers;
use super::problem::{Complaint, Report};
use super::resolved::{Handler, Mode, choice};
use super::units::show_duration;

/// `order.by`, where it is not `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// `latest`: an event that is older than the newest processed one of its key is not run.
    Latest(Latest),
}

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

/// `order.key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderKey {
    /// The value of this header.
    Header(String),
    /// The value at this JSON pointer (RFC 6901) in the payload.
    Json(String),
    /// This token of the subject, counted from 1.
    Subject(usize),
}

/// `order.time`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderTime {
    /// The event's time: of `CloudEvents` and queue messages their own, else when the message was stored.
    Event,
    /// The value of this header.
    Header(String),
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

/// The values of `order.by`.
pub(super) const BY: &[&str] = &["none", "latest"];

impl OrderKey {
    /// Reads a key as the manifest says it.
    pub(super) fn parse(text: &str) -> Option<OrderKey> {
        let (what, rest) = text.split_once(':')?;
        match what {
            "header" => Some(OrderKey::Header(rest.to_owned())),
            "json" => Some(OrderKey::Json(rest.to_owned())),
            "subject" => {
                let is_plain = rest.chars().all(|c| c.is_ascii_digit()) && !rest.starts_with('0') && rest.len() < 4;
                rest.parse().ok().filter(|_| is_plain).map(OrderKey::Subject)
            }
            _ => None,
        }
    }
}

impl fmt::Display for OrderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OrderKey::Header(name) => write!(f, "header:{name}"),
            OrderKey::Json(pointer) => write!(f, "json:{pointer}"),
            OrderKey::Subject(token) => write!(f, "subject:{token}"),
        }
    }
}

impl OrderTime {
    /// Reads a time as the manifest says it.
    pub(super) fn parse(text: &str) -> Option<OrderTime> {
        match text.split_once(':') {
            Some(("header", name)) => Some(OrderTime::Header(name.to_owned())),
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
            OrderTime::Json(pointer) => write!(f, "json:{pointer}"),
        }
    }
}

pub(super) fn resolve(layers: &Layers) -> Option<Order> {
    layers.text("order.by").filter(|by| by == "latest")?;
    Some(Order::Latest(Latest {
        // Where there is none, that is an error.
        key: layers.text("order.key").and_then(|text| OrderKey::parse(&text)).unwrap_or(OrderKey::Subject(1)),
        time: layers.text("order.time").and_then(|text| OrderTime::parse(&text)).unwrap_or(OrderTime::Event),
        on_stale: layers.choice("order.on_stale", OnStale::ALL, OnStale::name),
        on_missing: layers.choice("order.on_missing", OnMissing::ALL, OnMissing::name),
        window: layers.duration("order.window"),
    }))
}

pub(super) fn check(handler: &Handler, layers: &Layers, report: &mut Report) {
    if layers.find("order.by").is_none() {
        let own = layers.said.first();
        for path in ["order.key", "order.time", "order.on_stale", "order.on_missing", "order.window"]
            .into_iter()
            .filter(|path| own.is_some_and(|own| own.contains_key(*path)))
        {
            let message = format!("\"{path}\" is given without \"order.by\"");
            report.error(layers.span(path), Complaint::new(message).hint("add by = \"latest\""));
        }
    }
    let Some(Order::Latest(latest)) = &handler.order else { return };
    if layers.find("order.key").is_none() {
        let message = "\"order.by\" is \"latest\", but there is no \"order.key\"";
        let hint = "add key = \"json:/…\", \"header:…\" or \"subject:…\": of what only the latest counts";
        report.error(layers.span("order"), Complaint::new(message).hint(hint));
    }
    if handler.mode == Mode::Broadcast {
        let message = "\"order\" remembers events for all instances, but \"mode\" is \"broadcast\"";
        let hint = "every instance is to handle the event: remove \"order\", or say mode = \"queue\"";
        report.error(layers.span("order"), Complaint::new(message).hint(hint));
    }
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
    if let OrderKey::Subject(token) = latest.key
        && layers.sound(&["order.key", "subject"])
        && let Some(short) = handler.subjects.iter().find(|subject| !has_token(subject, token))
    {
        let message = format!("\"order.key\" names token {token}, but {short:?} has fewer");
        let hint = "tokens are what stands between the dots of a subject, counted from 1";
        report.error(layers.span("order.key"), Complaint::new(message).hint(hint));
    }
}

/// Whether all subjects that a pattern selects have so many tokens.
fn has_token(pattern: &str, token: usize) -> bool {
    pattern.split('.').count() >= token
}
