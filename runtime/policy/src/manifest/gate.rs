//! `circuit_breaker` and `rate_limit`: resolution and checks.

use super::layers::Layers;
use super::problem::{Complaint, Report};
use super::resolved::{Across, CircuitBreaker, Handler, Mode, RateLimit, Trigger};
use super::units::show_duration;
use crate::gate::rate;

/// The breaker of a table, where the manifest says when it opens.
pub(super) fn circuit_breaker(layers: &Layers, table: &str) -> Option<CircuitBreaker> {
    let path = |name: &str| format!("{table}.{name}");
    let (failures, ratio) = (path("failures"), path("ratio"));
    // The first table that says one of them decides.
    let deciding = layers.said.iter().find(|layer| layer.contains_key(&failures) || layer.contains_key(&ratio))?;
    let trigger = if deciding.contains_key(&failures) {
        Trigger::InARow { failures: layers.count(&failures) }
    } else {
        Trigger::Ratio {
            ratio: layers.number(&ratio),
            window: layers.duration(&path("window")),
            events_min: layers.count(&path("min_events")),
        }
    };
    Some(CircuitBreaker {
        trigger,
        open_for: layers.duration(&path("open_for")),
        open_max: layers.duration(&path("open_max")),
        successes: layers.count(&path("successes")),
    })
}

/// The rate limit of a table, where the manifest says one.
pub(super) fn rate_limit(layers: &Layers, table: &str) -> Option<RateLimit> {
    let path = |name: &str| format!("{table}.{name}");
    let (count, per) = RateLimit::parse_rate(&layers.text(&path("rate"))?)?;
    let burst = match layers.find(&path("burst")) {
        Some(_) => layers.count(&path("burst")),
        None => rate::usual_burst(count, per),
    };
    let across = layers.choice(&path("across"), Across::ALL, Across::name);
    Some(RateLimit { count, per, burst, across })
}

/// Checks what the keys mean together.
pub(super) fn check(handler: &Handler, layers: &Layers, report: &mut Report) {
    both(layers, "circuit_breaker", "rate_limit", report);
    breaker(handler.circuit_breaker.as_ref(), layers, "circuit_breaker", report);
    if handler.mode == Mode::Broadcast && handler.circuit_breaker.is_some() {
        let message = "\"circuit_breaker\" is shared by all instances, but \"mode\" is \"broadcast\"";
        let hint = "rely on \"outage_brake\", which is each instance's own, or say mode = \"queue\"";
        let failures = "circuit_breaker.failures";
        let trigger = if layers.find(failures).is_some() { failures } else { "circuit_breaker.ratio" };
        report.error(layers.span(trigger), Complaint::new(message).hint(hint));
    }
    if handler.mode == Mode::Broadcast && handler.rate_limit.is_some_and(|limit| limit.across == Across::Instances) {
        let message = "\"rate_limit.across\" is \"instances\", but \"mode\" is \"broadcast\"";
        let hint = "every instance handles every event: say across = \"instance\"";
        report.error(layers.span("rate_limit.across"), Complaint::new(message).hint(hint));
    }
}

/// Complains of keys of a breaker or of a rate limit that say nothing without others.
pub(super) fn both(layers: &Layers, breaker: &str, rate_limit: &str, report: &mut Report) {
    needs(layers, breaker, &["failures", "ratio"], "failures = 10", report);
    needs(layers, rate_limit, &["rate"], "rate = \"100/s\"", report);
}

/// Complains of keys of a table that mean nothing without one of others.
fn needs(layers: &Layers, table: &str, others: &[&str], example: &str, report: &mut Report) {
    if others.iter().any(|other| layers.find(&format!("{table}.{other}")).is_some()) {
        return;
    }
    let start = format!("{table}.");
    let own = layers.said.first().into_iter().flat_map(|layer| layer.keys());
    for path in own.filter(|path| path.starts_with(&start)) {
        let wanted: Vec<_> = others.iter().map(|other| format!("\"{table}.{other}\"")).collect();
        let message = format!("\"{path}\" is given without {}", wanted.join(" or "));
        report.error(layers.span(path), Complaint::new(message).hint(format!("add {example}")));
    }
}

/// Checks what the keys of a breaker mean together.
pub(super) fn breaker(breaker: Option<&CircuitBreaker>, layers: &Layers, table: &str, report: &mut Report) {
    let Some(breaker) = breaker else { return };
    let path = |name: &str| format!("{table}.{name}");
    let (failures, ratio) = (path("failures"), path("ratio"));
    if let Some(layer) = layers.said.iter().find(|layer| layer.contains_key(&failures) && layer.contains_key(&ratio)) {
        let message = format!("both \"{failures}\" and \"{ratio}\" are given");
        report.error(layer[&ratio].span, Complaint::new(message).hint("keep one of them"));
    }
    let (open_for, open_max) = (path("open_for"), path("open_max"));
    let sound = layers.sound(&[&open_for, &open_max]);
    if sound && breaker.open_for > breaker.open_max && layers.find(&open_max).is_some() {
        let message = format!(
            "\"{open_for}\" ({}) is longer than \"{open_max}\" ({})",
            show_duration(breaker.open_for),
            show_duration(breaker.open_max),
        );
        report.error(layers.span(&open_max), Complaint::new(message).hint("lower the one or raise the other"));
    }
}
