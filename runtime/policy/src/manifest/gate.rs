//! `circuit_breaker` and `rate_limit`: resolution and checks.

use super::layers::Layers;
use super::problem::{Complaint, Report};
use super::resolved::{Across, CircuitBreaker, Handler, Mode, RateLimit, Trigger};
use super::units::show_duration;
use crate::gate::rate;

const FAILURES: &str = "circuit_breaker.failures";
const RATIO: &str = "circuit_breaker.ratio";

/// The breaker, where the manifest says when it opens.
pub(super) fn circuit_breaker(layers: &Layers) -> Option<CircuitBreaker> {
    let path = |name: &str| format!("circuit_breaker.{name}");
    // The first table that says one of them decides.
    let deciding = layers.said.iter().find(|layer| layer.contains_key(FAILURES) || layer.contains_key(RATIO))?;
    let trigger = if deciding.contains_key(FAILURES) {
        Trigger::InARow { failures: layers.count(FAILURES) }
    } else {
        Trigger::Ratio {
            ratio: layers.number(RATIO),
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

/// The rate limit, where the manifest says one.
pub(super) fn rate_limit(layers: &Layers) -> Option<RateLimit> {
    let (count, per) = RateLimit::parse_rate(&layers.text("rate_limit.rate")?)?;
    let burst = match layers.find("rate_limit.burst") {
        Some(_) => layers.count("rate_limit.burst"),
        None => rate::usual_burst(count, per),
    };
    let across = layers.choice("rate_limit.across", Across::ALL, Across::name);
    Some(RateLimit { count, per, burst, across })
}

/// Checks what the keys mean together.
pub(super) fn check(handler: &Handler, layers: &Layers, report: &mut Report) {
    needs(layers, "circuit_breaker", &["failures", "ratio"], "failures = 10", report);
    needs(layers, "rate_limit", &["rate"], "rate = \"100/s\"", report);
    breaker(handler, layers, report);
    if handler.mode == Mode::Broadcast && handler.rate_limit.is_some_and(|limit| limit.across == Across::Instances) {
        let message = "\"rate_limit.across\" is \"instances\", but \"mode\" is \"broadcast\"";
        let hint = "every instance handles every event: say across = \"instance\"";
        report.error(layers.span("rate_limit.across"), Complaint::new(message).hint(hint));
    }
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

fn breaker(handler: &Handler, layers: &Layers, report: &mut Report) {
    let Some(breaker) = &handler.circuit_breaker else { return };
    let span = |name: &str| layers.span(&format!("circuit_breaker.{name}"));
    if let Some(layer) = layers.said.iter().find(|layer| layer.contains_key(FAILURES) && layer.contains_key(RATIO)) {
        let message = format!("both \"{FAILURES}\" and \"{RATIO}\" are given");
        report.error(layer[RATIO].span, Complaint::new(message).hint("keep one of them"));
    }
    if handler.mode == Mode::Broadcast {
        let message = "\"circuit_breaker\" is shared by all instances, but \"mode\" is \"broadcast\"";
        let hint = "rely on \"outage_brake\", which is each instance's own, or say mode = \"queue\"";
        let trigger = if layers.find(FAILURES).is_some() { "failures" } else { "ratio" };
        report.error(span(trigger), Complaint::new(message).hint(hint));
    }
    let sound = layers.sound(&["circuit_breaker.open_for", "circuit_breaker.open_max"]);
    if sound && breaker.open_for > breaker.open_max && layers.find("circuit_breaker.open_max").is_some() {
        let message = format!(
            "\"circuit_breaker.open_for\" ({}) is longer than \"circuit_breaker.open_max\" ({})",
            show_duration(breaker.open_for),
            show_duration(breaker.open_max),
        );
        report.error(span("open_max"), Complaint::new(message).hint("lower the one or raise the other"));
    }
}
