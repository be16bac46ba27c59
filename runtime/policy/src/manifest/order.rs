//! `order`: in what order the events of a handler are handled.

use std::fmt;

use super::latest::{self, Latest};
use super::layers::Layers;
use super::problem::{Complaint, Report};
use super::resolved::{Handler, Mode};

/// `order`: what is promised about the order in which events are handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Events of one key are handled one at a time, in the order of their stream.
    Key(KeyOrder),
    /// An event that is older than the newest processed one of its key is not run.
    Latest(Latest),
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
    /// The value of this `CloudEvents` attribute.
    Attribute(String),
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
        in_flight: u32,
    },
}

/// The values of `order.by`.
pub(super) const BY: &[&str] = &["none", "key", "latest"];
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
            ("subject", number) => {
                let is_plain = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
                number.parse().ok().filter(|_| is_plain && number.len() < 4).map(OrderKey::Subject)
            }
            ("header", name) => Some(OrderKey::Header(name.to_owned())),
            ("ce", name) => Some(OrderKey::Attribute(name.to_owned())),
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
            OrderKey::Attribute(name) => write!(f, "ce:{name}"),
            OrderKey::Json(pointer) => write!(f, "json:{pointer}"),
        }
    }
}

impl Handler {
    /// What is promised about the order of the events of one key; nothing where no such order is asked for.
    pub fn key_order(&self) -> Option<&KeyOrder> {
        match &self.order {
            Some(Order::Key(order)) => Some(order),
            _ => None,
        }
    }

    /// Whether an event that is given up on holds up its key.
    pub fn parks(&self) -> bool {
        self.key_order().is_some_and(|order| order.on_failure == OnFailure::Park)
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
            OrderForm::Queues { in_flight } => Some(in_flight),
        }
    }
}

/// Resolves `order` of one handler.
pub(super) fn order(layers: &Layers) -> Option<Order> {
    let key = layers.text("order.key").and_then(|text| OrderKey::parse(&text));
    match layers.text("order.by")?.as_str() {
        "key" => Some(Order::Key(by_key(key?, layers))),
        "latest" => Some(Order::Latest(latest::resolve(key?, layers))),
        _ => None,
    }
}

fn by_key(key: OrderKey, layers: &Layers) -> KeyOrder {
    let is_partitioned = match layers.text("order.form") {
        Some(form) => form == "partitions",
        None => matches!(key, OrderKey::Subject(_)),
    };
    let form = if is_partitioned {
        OrderForm::Partitions(layers.count("order.partitions"))
    } else {
        OrderForm::Queues { in_flight: layers.count("order.in_flight") }
    };
    let on_failure = layers.choice("order.on_failure", OnFailure::ALL, OnFailure::name);
    KeyOrder { key, form, on_failure }
}

/// Checks `order` of one handler.
pub(super) fn check(handler: &Handler, layers: &Layers, report: &mut Report) {
    given_for_nothing(layers, report);
    let by = layers.text("order.by").filter(|by| by != "none");
    if let (Some(by), None) = (&by, layers.find("order.key")) {
        let message = format!("\"order.by\" is \"{by}\", but there is no \"order.key\"");
        let hint = "add key = \"subject:<n>\", \"header:<name>\", \"ce:<attribute>\" or \"json:<pointer>\"";
        report.error(layers.span("order.by"), Complaint::new(message).hint(hint));
    }
    let Some(order) = &handler.order else { return };
    if handler.mode == Mode::Broadcast {
        let message = "\"order\" holds over all instances, but \"mode\" is \"broadcast\"";
        let hint = "every instance is to handle every event: remove \"order\", or say mode = \"queue\"";
        report.error(layers.span("order.by"), Complaint::new(message).hint(hint));
    }
    if matches!(order, Order::Key(_)) && handler.dedup.as_ref().is_some_and(|dedup| dedup.claim) {
        let message = "\"dedup.claim\" is given with \"order.by\", which never runs an event twice at once";
        report.error(layers.span("dedup.claim"), Complaint::new(message).hint("remove \"dedup.claim\""));
    }
    match order {
        Order::Key(order) => {
            deep_enough(&order.key, layers, report);
            form(handler, order, layers, report);
        }
        Order::Latest(latest) => {
            deep_enough(&latest.key, layers, report);
            latest::check(handler, latest, layers, report);
        }
    }
}

/// What the manifest says of an order where it asks for none, or for another one.
fn given_for_nothing(layers: &Layers, report: &mut Report) {
    const OF_BOTH: &[&str] = &["order.key"];
    const OF_KEY: &[&str] = &["order.form", "order.partitions", "order.in_flight", "order.on_failure"];
    const OF_LATEST: &[&str] = &["order.time", "order.on_stale", "order.on_missing", "order.window"];
    let by = layers.text("order.by").unwrap_or_default();
    // What is without effect beside "none" is said elsewhere.
    if !layers.sound(&["order.by"]) || (by == "none" && layers.find("order.by").is_some()) {
        return;
    }
    let foreign: Vec<_> = match by.as_str() {
        "key" => OF_LATEST.to_vec(),
        "latest" => OF_KEY.to_vec(),
        _ => [OF_BOTH, OF_KEY, OF_LATEST].concat(),
    };
    let own = layers.said.first();
    for path in foreign.into_iter().filter(|path| own.is_some_and(|own| own.contains_key(*path))) {
        let wanted = if OF_LATEST.contains(&path) { "latest" } else { "key" };
        let message = format!("\"{path}\" is given, but \"order.by\" is \"{by}\"");
        let hint = format!("say by = \"{wanted}\", or remove it");
        report.error(layers.span(path), Complaint::new(message).hint(hint));
    }
}

/// Checks that the subjects have the token that is the key.
fn deep_enough(key: &OrderKey, layers: &Layers, report: &mut Report) {
    let OrderKey::Subject(number) = *key else { return };
    for (pattern, span) in layers.list("subject") {
        let tokens = pattern.split('.').count();
        if number > tokens && !pattern.ends_with('>') {
            let message = format!("\"order.key\" is token {number} of a subject, but this one has {tokens}");
            let hint = format!("say key = \"subject:<n>\" with n up to {tokens}");
            report.error(*span, Complaint::new(message).hint(hint));
        }
    }
}

fn form(handler: &Handler, order: &KeyOrder, layers: &Layers, report: &mut Report) {
    let is_subject = matches!(order.key, OrderKey::Subject(_));
    if handler.partitions().is_some() && !is_subject {
        let message = format!("\"order.form\" is \"partitions\", but \"order.key\" is \"{}\"", order.key);
        let hint = "the server spreads events by tokens of their subjects only: say key = \"subject:<n>\", or \
                    form = \"queues\"";
        report.error(layers.span("order.form"), Complaint::new(message).hint(hint));
    }
    let pairs = [
        (handler.partitions().is_some(), "order.in_flight", "partitions"),
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
            "\"order.in_flight\" ({window}) is smaller than \"concurrency\" ({}), so that never so many events could run",
            handler.concurrency
        );
        let hint = "raise \"order.in_flight\" or lower \"concurrency\"";
        report.error(layers.span("order.in_flight"), Complaint::new(message).hint(hint));
    }
}
