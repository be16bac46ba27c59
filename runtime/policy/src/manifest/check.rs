//! What values mean together: contradictions, loops, names that clash, and settings without effect.
//!
//! A check stays silent where one of its values has been refused already.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::contract;
use super::gate;
use super::layers::Layers;
use super::order;
use super::problem::{Complaint, Report, Span, quoted};
use super::reach;
use super::read::{Layer, Raw, Value};
use super::reload;
use super::resolved::{Format, Handler, Mode, Outputs};
use super::units::show_duration;
use crate::{subject, together};

/// Checks `[nats]`.
pub(super) fn nats(layers: &Layers, report: &mut Report) {
    let given = |path: &str| layers.find(path).is_some();
    together(layers, "user", "password", report);
    together(layers, "tls.cert", "tls.key", report);
    let mut ways: Vec<&str> = ["credentials", "nkey", "token"].into_iter().filter(|p| given(p)).collect();
    ways.extend(["user", "password"].into_iter().find(|path| given(path)));
    if let [_, .., last] = ways[..] {
        let message = format!("several ways to authenticate are given: {}", quoted(ways.iter().copied()));
        report.error(layers.span(last), Complaint::new(message).hint("keep exactly one of them"));
    }
}

fn together(layers: &Layers, first: &str, second: &str, report: &mut Report) {
    let (present, absent) = match (layers.find(first), layers.find(second)) {
        (Some(_), None) => (first, second),
        (None, Some(_)) => (second, first),
        _ => return,
    };
    let message = format!("\"{present}\" is given without \"{absent}\"");
    report.error(layers.span(present), Complaint::new(message).hint(format!("add \"{absent}\"")));
}

/// Checks one handler; `layers` are the tables it was resolved from.
pub(super) fn handler(handler: &Handler, layers: &Layers, prefix: &str, report: &mut Report) {
    subjects(handler, layers, prefix, report);
    stream(handler, layers, prefix, report);
    retry(handler, layers, report);
    waits(handler, layers, report);
    dedup(handler, layers, report);
    attributes(handler, layers, report);
    contract::check(handler, layers, report);
    order::check(handler, layers, report);
    gate::check(handler, layers, report);
    reach::check(handler, layers, report);
    reload::check(handler, layers, report);
    kinds(layers, report);
    dead_letter(handler, layers, prefix, report);
    publish(layers, prefix, report);
    outputs(handler, layers, report);
    for (name, leaf) in layers.entries("secrets") {
        if handler.config.contains_key(name) {
            let message = format!("\"{name}\" is in both \"config\" and \"secrets\" of handler {:?}", handler.name);
            report.error(leaf.span, Complaint::new(message).hint("the handler sees both as one: rename one of them"));
        }
    }
}

fn subjects(handler: &Handler, layers: &Layers, prefix: &str, report: &mut Report) {
    if layers.find("subject").is_none() {
        let message = format!("handler {:?} has no \"subject\"", handler.name);
        report.error(layers.span, Complaint::new(message).hint("add subject = \"…\", which events it handles"));
    }
    let subjects = layers.list("subject");
    for (index, (text, span)) in subjects.iter().enumerate() {
        let mut earlier = subjects[..index].iter();
        if let Some(other) = earlier.position(|(other, _)| subject::overlaps(text, other)) {
            let message = format!("\"subject\" overlaps with entry {} of the list", other + 1);
            report.error(
                *span,
                Complaint::new(message)
                    .hint("JetStream refuses filters that overlap: keep the wider one, or make two handlers"),
            );
        }
        let names_stream = layers.find("stream").is_some();
        let reaches =
            |own: &&String| if names_stream { subject::covers(own, text) } else { subject::overlaps(own, text) };
        if let Some(own) = own_spaces(prefix).iter().find(reaches) {
            let message = format!("\"subject\" reaches into \"{own}\", which is our own");
            report.error(*span, Complaint::new(message).hint("name narrower subjects, or the \"stream\" to consume"));
        }
    }
}

fn stream(handler: &Handler, layers: &Layers, prefix: &str, report: &mut Report) {
    let own = own_stream(prefix, "RETRY");
    if handler.stream.as_deref() == Some(own.as_str()) {
        let message = format!("\"stream\" must not be \"{own}\", which is our own");
        report.error(layers.span("stream"), Complaint::new(message).hint("name a stream of yours"));
    }
    if handler.create_stream && layers.find("stream").is_none() {
        let message = format!("\"create_stream\" is set, but handler {:?} has no \"stream\"", handler.name);
        report.error(layers.span("create_stream"), Complaint::new(message).hint("add stream = \"NAME\""));
    }
}

fn retry(handler: &Handler, layers: &Layers, report: &mut Report) {
    let (initial, max) = (handler.retry.initial, handler.retry.max);
    if initial <= max || !layers.sound(&["retry", "retry.initial", "retry.max"]) {
        return;
    }
    let message = format!(
        "\"retry.initial\" ({}) is longer than \"retry.max\" ({})",
        show_duration(initial),
        show_duration(max),
    );
    let blamed = match layers.find("retry.initial") {
        Some(_) => "retry.initial",
        None => "retry.max",
    };
    report.error(layers.span(blamed), Complaint::new(message).hint("lower the one or raise the other"));
}

/// Checks how long an event may wait for what against each other.
fn waits(handler: &Handler, layers: &Layers, report: &mut Report) {
    let timeout = handler.limits.budget.timeout;
    if handler.ack_wait < timeout && layers.sound(&["ack_wait", "limits", "limits.timeout"]) {
        let message = format!(
            "\"ack_wait\" ({}) is shorter than \"limits.timeout\" ({}): an event could be taken away while it is run",
            show_duration(handler.ack_wait),
            show_duration(timeout),
        );
        let hint = "raise \"ack_wait\" or lower \"limits.timeout\"";
        report.error(layers.span("ack_wait"), Complaint::new(message).hint(hint));
    }
    let Some(max_age) = handler.max_age else { return };
    let first = handler.retry.initial;
    if handler.retry.max_attempts > 1 && first >= max_age && layers.sound(&["max_age", "retry", "retry.initial"]) {
        let message = format!(
            "\"max_age\" ({}) is over before the first retry, which \"retry.initial\" ({}) puts off: \
             no event would be attempted twice",
            show_duration(max_age),
            show_duration(first),
        );
        let hint = "raise \"max_age\", lower \"retry.initial\", or say retry.max_attempts = 1";
        report.error(layers.span("max_age"), Complaint::new(message).hint(hint));
    }
}

fn dedup(handler: &Handler, layers: &Layers, report: &mut Report) {
    let has_key = layers.find("dedup.key").is_some();
    let own = layers.said.first().filter(|_| !has_key);
    for path in
        ["dedup.window", "dedup.claim"].into_iter().filter(|path| own.is_some_and(|own| own.contains_key(*path)))
    {
        let message = format!("\"{path}\" is given without \"dedup.key\"");
        let hint = "add key = \"id\", or another key of the event";
        report.error(layers.span(path), Complaint::new(message).hint(hint));
    }
    let Some(dedup) = &handler.dedup else { return };
    if handler.mode == Mode::Broadcast {
        let message = "\"dedup\" remembers an event for all instances, but \"mode\" is \"broadcast\"";
        let hint = "every instance is to handle the event: remove \"dedup\", or say mode = \"queue\"";
        report.error(layers.span("dedup"), Complaint::new(message).hint(hint));
    }
    if dedup.window < handler.ack_wait && layers.sound(&["dedup", "dedup.window", "ack_wait", "limits.timeout"]) {
        let message = format!(
            "\"dedup.window\" ({}) is shorter than \"ack_wait\" ({}): an event that is delivered again would be \
             forgotten by then",
            show_duration(dedup.window),
            show_duration(handler.ack_wait),
        );
        let span = layers.find("dedup.window").map_or_else(|| layers.span("dedup"), |leaf| leaf.span);
        report.error(span, Complaint::new(message).hint("raise \"dedup.window\" or lower \"ack_wait\""));
    }
    let (kept, window) = (handler.dead_letter.max_age, dedup.window);
    if kept < window && layers.sound(&["dedup", "dedup.window", "dead_letter", "dead_letter.max_age"]) {
        let message = format!(
            "\"dead_letter.max_age\" ({}) is shorter than \"dedup.window\" ({}): when the dead letter of an event is gone, a copy \
             of the event is handled as a new one",
            show_duration(kept),
            show_duration(window),
        );
        let given = ["dead_letter.max_age", "dedup.window"].into_iter().find_map(|path| layers.find(path));
        let span = given.map_or_else(|| layers.span("dedup"), |leaf| leaf.span);
        let hint = "raise \"dead_letter.max_age\" or lower \"dedup.window\"";
        report.warning(span, Complaint::new(message).hint(hint));
    }
}

/// Checks that events have attributes where one is named.
fn attributes(handler: &Handler, layers: &Layers, report: &mut Report) {
    if matches!(handler.format, Format::Auto | Format::CloudEvents) {
        return;
    }
    for path in ["dedup.key", "order.key", "order.time", "schema_by"] {
        let Some(text) = layers.text(path).filter(|text| text.starts_with("ce:")) else { continue };
        let format = handler.format.name();
        let message = format!("\"{path}\" is \"{text}\", but with format = \"{format}\" no event has attributes");
        let hint = "say format = \"cloudevents\" or \"auto\", or name a header or a part of the payload";
        report.error(layers.span(path), Complaint::new(message).hint(hint));
    }
}

/// Checks that no kind of failure is to be attempted again and given up at once.
fn kinds(layers: &Layers, report: &mut Report) {
    let given_up = layers.list("dead_letter.on");
    for (kind, span) in layers.list("retry.on") {
        if given_up.iter().any(|(other, _)| other == kind) {
            let message = format!("\"{kind}\" is in both \"retry.on\" and \"dead_letter.on\"");
            report.error(*span, Complaint::new(message).hint("remove it from one of them"));
        }
    }
}

fn dead_letter(handler: &Handler, layers: &Layers, prefix: &str, report: &mut Report) {
    let path = "dead_letter.subject";
    if !layers.sound(&["dead_letter", path, "stream"]) {
        return;
    }
    let span = layers.find(path).map_or_else(|| layers.span("subject"), |leaf| leaf.span);
    if consumes_own_dead_letters(handler, prefix) {
        let message = format!(
            "handler {:?} would consume its own dead letters, and dead-letter those again without end",
            handler.name,
        );
        let hint = "choose a \"dead_letter.subject\" that its own \"subject\" does not select";
        report.error(span, Complaint::new(message).hint(hint));
    }
    if let Some(own) = own_spaces(prefix).iter().find(|own| subject::matches(own, &handler.dead_letter.subject)) {
        let message = format!("\"{path}\" reaches into \"{own}\", which is our own");
        report.error(span, Complaint::new(message).hint("name a subject of yours"));
    }
}

fn consumes_own_dead_letters(handler: &Handler, prefix: &str) -> bool {
    let target = &handler.dead_letter.subject;
    let own = own_stream(prefix, "DEADLETTER");
    let consumes_other_stream = handler.stream.as_ref().is_some_and(|stream| *stream != own);
    if consumes_other_stream && subject::matches(&dead_letter_space(prefix), target) {
        return false;
    }
    handler.subjects.iter().any(|filter| subject::matches(filter, target))
}

fn publish(layers: &Layers, prefix: &str, report: &mut Report) {
    let granted = layers.list("allow.publish");
    for (index, (text, span)) in granted.iter().enumerate() {
        let dead_letters = dead_letter_space(prefix);
        if let Some(own) = own_spaces(prefix).iter().chain([&dead_letters]).find(|own| subject::overlaps(own, text)) {
            let message = format!("\"allow.publish\" reaches into \"{own}\", which is our own");
            report.error(*span, Complaint::new(message).hint("grant narrower subjects"));
        }
        let others = granted.iter().enumerate().filter(|(other, _)| *other != index);
        let mut wider = others
            .filter(|(other, (pattern, _))| subject::covers(pattern, text) && (*other < index || pattern != text));
        if let Some((other, _)) = wider.next() {
            let message = format!("\"allow.publish\" grants this with entry {} already", other + 1);
            report.warning(*span, Complaint::new(message).hint("remove it"));
        }
    }
}

fn outputs(handler: &Handler, layers: &Layers, report: &mut Report) {
    let (count, most) = (handler.limits.budget.outputs, together::BATCH_MAX);
    if handler.outputs == Outputs::Each || count <= most || !layers.sound(&["outputs", "limits", "limits.outputs"]) {
        return;
    }
    let message = format!(
        "\"limits.outputs\" ({count}) is more than the {most} messages that can be stored at one moment, which \
         outputs = \"atomic\" asks for"
    );
    let hint = format!("lower \"limits.outputs\" to {most}, or say outputs = \"each\"");
    report.error(layers.span("limits.outputs"), Complaint::new(message).hint(hint));
}

/// The name of a stream of ours.
fn own_stream(prefix: &str, purpose: &str) -> String {
    format!("{}_{purpose}", prefix.to_uppercase())
}

/// The subjects of events that wait: for their next attempt, and for their turn in a partition.
fn own_spaces(prefix: &str) -> [String; 2] {
    [format!("{prefix}.retry.>"), format!("{prefix}.order.>")]
}

/// The subjects of dead letters, for handlers that name none of their own.
fn dead_letter_space(prefix: &str) -> String {
    format!("{prefix}.deadletter.>")
}

/// Checks that no handler in `taken` has the same durable consumer, and adds this one.
pub(super) fn durable(handler: &Handler, layers: &Layers, taken: &mut BTreeMap<String, String>, report: &mut Report) {
    if !layers.sound(&["durable"]) {
        return;
    }
    let Some(other) = taken.insert(handler.durable.clone(), handler.name.clone()) else {
        return;
    };
    let message = format!("handlers {other:?} and {:?} have the same \"durable\"", handler.name);
    report.error(
        layers.span("durable"),
        Complaint::new(message).hint("give each its own: they would take each other's events"),
    );
}

/// Warns of what concerns no single handler, unless errors may be why; `followed` are the policies in use.
pub(super) fn whole(raw: &Raw, followed: &BTreeSet<&str>, report: &mut Report) {
    if report.has_errors() {
        return;
    }
    for (name, policy) in &raw.policies {
        if !followed.contains(name.as_str()) {
            let message = format!("no handler follows policy {name:?}");
            report.warning(policy.span, Complaint::new(message).hint(format!("add policy = \"{name}\" to one")));
        }
    }
    if raw.handlers.is_empty() {
        let hint = "add [handler.<name>], or a file <name>.toml to the plugins folder";
        report.warning(Span::default(), Complaint::new("there is no handler").hint(hint));
    }
    let tables = raw.policies.values().chain(raw.handlers.values()).chain([&raw.defaults]);
    for table in tables {
        without_effect(&table.layer, report);
    }
}

/// Warns of values that another value of the same table makes meaningless.
fn without_effect(layer: &Layer, report: &mut Report) {
    let is =
        |path: &str, name: &str| matches!(layer.get(path), Some(leaf) if leaf.value == Value::Text(name.to_owned()));
    let constant = is("retry.backoff", "constant") || is("retry.backoff", "linear");
    let unguarded = layer.get("reload.guard").is_some_and(|leaf| leaf.value == Value::Duration(Duration::ZERO));
    let pairs = [
        (constant, "retry.multiplier", "\"retry.backoff\" is not \"exponential\""),
        (is("isolation", "event"), "limits.reuse", "\"isolation\" is \"event\""),
        (is("dedup.key", "none"), "dedup.window", "\"dedup.key\" is \"none\""),
        (is("dedup.key", "none"), "dedup.claim", "\"dedup.key\" is \"none\""),
        (is("order.by", "none"), "order.key", "\"order.by\" is \"none\""),
        (unguarded, "reload.max_failure_ratio", "\"reload.guard\" is \"0s\""),
        (unguarded, "reload.min_events", "\"reload.guard\" is \"0s\""),
        (unguarded, "reload.rerun", "\"reload.guard\" is \"0s\""),
    ];
    for (meaningless, path, reason) in pairs {
        if let (true, Some(leaf)) = (meaningless, layer.get(path)) {
            let message = format!("\"{path}\" has no effect, since {reason}");
            report.warning(leaf.span, Complaint::new(message).hint("remove it"));
        }
    }
}
