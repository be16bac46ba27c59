//! `order`: in what order the events of a handler are handled.

use std::fmt;

use super::layers::Layers;
use super::problem::{Complaint, Report};
use super::resolved::{Handler, Mode};

/// `order`: what is promised about the order in which events are handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Events of one key are handled one at a time, in the order of their stream.
    Key(KeyOrder),
}

/// `order.by = "key"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyOrder {
    /// What events have in common that are handled one after the other.
    pub key: OrderKey,
    /// How that is kept over several instances.
    pub form: OrderForm,
    /// What becomes of a key whose event is given up on.
    pub on_failure: OnFailure,
}

/// `order.key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderKey {
    /// This token of the subject, counted from 1.
    Subject(usize),
    /// The value of this header.
    Header(String),
    /// The value at this JSON pointer (RFC 6901) in the payload.
    Json(String),
}

/// `order.form`, with what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderForm {
    /// Events are spread over this many partitions by their key; each has one event in flight, at any instance.
    Partitions(u32),
    /// One instance at a time handles all events, those of different keys side by side.
    Queues {
        /// How many events that instance has in hand, those that wait behind others of their key included.
        window: u32,
    },
}

/// The values of `order.by`.
pub(super) const BY: &[&str] = &["none", "key"];
/// The values of `order.form`.
pub(super) const FORMS: &[&str] = &["partitions", "queues"];

choice! {
    /// `order.on_failure`: what becomes of a key whose event is given up on.
    OnFailure {
        /// The event goes to the dead letters, and the key's next event is handled.
        DeadLetter = "dead-letter",
        /// The event goes to the dead letters, and the rest of the key's events behind it.
        Park = "park",
    }
}

impl OrderKey {
    /// Reads the key as the manifest says it.
    pub fn parse(text: &str) -> Option<OrderKey> {
        match text.split_once(':')? {
            ("subject", number) => Some(OrderKey::Subject(number.parse().ok().filter(|number| *number > 0)?)),
            ("header", name) => Some(OrderKey::Header(name.to_owned())),
            ("json", pointer) => Some(OrderKey::Json(pointer.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for OrderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OrderKey::Subject(number) => write!(f, "subject:{number}"),
            OrderKey::Header(name) => write!(f, "header:{name}"),
            OrderKey::Json(pointer) => write!(f, "json:{pointer}"),
        }
    }
}

impl Handler {
    /// What is promised about the order of the events of one key; nothing where no such order is asked for.
    pub fn key_order(&self) -> Option<&KeyOrder> {
        self.order.as_ref().map(|Order::Key(order)| order)
    }

    /// The number of partitions; nothing where the handler has none.
    pub fn partitions(&self) -> Option<u32> {
        match self.key_order()?.form {
            OrderForm::Partitions(count) => Some(count),
            OrderForm::Queues { .. } => None,
        }
    }

    /// How many events the one active instance has in hand; nothing where several instances are active.
    pub fn window(&self) -> Option<u32> {
        match self.key_order()?.form {
            OrderForm::Partitions(_) => None,
            OrderForm::Queues { window } => Some(window),
        }
    }
}

fn is_by_key(layers: &Layers) -> bool {
    layers.text("order.by").as_deref() == Some("key")
}

/// Resolves `order` of one handler.
pub(super) fn order(layers: &Layers) -> Option<Order> {
    if !is_by_key(layers) {
        return None;
    }
    let key = OrderKey::parse(&layers.text("order.key")?)?;
    let is_partitioned = match layers.text("order.form") {
        Some(form) => form == "partitions",
        None => matches!(key, OrderKey::Subject(_)),
    };
    let form = if is_partitioned {
        OrderForm::Partitions(layers.count("order.partitions"))
    } else {
        OrderForm::Queues { window: layers.count("order.window") }
    };
    let on_failure = layers.choice("order.on_failure", OnFailure::ALL, OnFailure::name);
    Some(Order::Key(KeyOrder { key, form, on_failure }))
}

/// Checks `order` of one handler.
pub(super) fn check(handler: &Handler, layers: &Layers, report: &mut Report) {
    let by_key = is_by_key(layers);
    if by_key && layers.find("order.key").is_none() {
        let message = "\"order.by\" is \"key\", but there is no \"order.key\"";
        let hint = "add key = \"subject:<n>\", \"header:<name>\" or \"json:<pointer>\"";
        report.error(layers.span("order.by"), Complaint::new(message).hint(hint));
    }
    let has_own_key = layers.said.first().is_some_and(|own| own.contains_key("order.key"));
    if !by_key && layers.sound(&["order.by"]) && has_own_key {
        let message = "\"order.key\" is given without \"order.by\"";
        report.error(layers.span("order.key"), Complaint::new(message).hint("add by = \"key\", or remove it"));
    }
    let Some(order) = handler.key_order() else { return };
    if handler.mode == Mode::Broadcast {
        let message = "\"order\" is kept over all instances, but \"mode\" is \"broadcast\"";
        let hint = "every instance is to handle every event: remove \"order\", or say mode = \"queue\"";
        report.error(layers.span("order.by"), Complaint::new(message).hint(hint));
    }
    if handler.dedup.as_ref().is_some_and(|dedup| dedup.claim) {
        let message = "\"dedup.claim\" is given with \"order.by\", which never runs an event twice at once";
        report.error(layers.span("dedup.claim"), Complaint::new(message).hint("remove \"dedup.claim\""));
    }
    form(handler, order, layers, report);
}

fn form(handler: &Handler, order: &KeyOrder, layers: &Layers, report: &mut Report) {
    let is_subject = matches!(order.key, OrderKey::Subject(_));
    if handler.partitions().is_some() && !is_subject {
        let message = format!("\"order.form\" is \"partitions\", but \"order.key\" is \"{}\"", order.key);
        let hint = "the server spreads events by tokens of their subjects only: say key = \"subject:<n>\", or \
                    form = \"queues\"";
        report.error(layers.span("order.form"), Complaint::new(message).hint(hint));
    }
    if let OrderKey::Subject(number) = order.key {
        for (pattern, span) in layers.list("subject") {
            let tokens = pattern.split('.').count();
            if number > tokens && !pattern.ends_with('>') {
                let message = format!("\"order.key\" is token {number} of a subject, but this one has {tokens}");
                let hint = format!("say key = \"subject:<n>\" with n up to {tokens}");
                report.error(*span, Complaint::new(message).hint(hint));
            }
        }
    }
    let pairs = [
        (handler.partitions().is_some(), "order.window", "partitions"),
        (handler.window().is_some(), "order.partitions", "queues"),
    ];
    for (meaningless, path, form) in pairs {
        if let (true, Some(leaf)) = (meaningless, layers.find(path)) {
            let message = format!("\"{path}\" has no effect, since the order has the form \"{form}\"");
            report.warning(leaf.span, Complaint::new(message).hint("remove it"));
        }
    }
    if let Some(window) = handler.window().filter(|window| *window < handler.concurrency) {
        let message = format!(
            "\"order.window\" ({window}) is smaller than \"concurrency\" ({}), so that never so many events could run",
            handler.concurrency
        );
        let hint = "raise \"order.window\" or lower \"concurrency\"";
        report.error(layers.span("order.window"), Complaint::new(message).hint(hint));
    }
}
