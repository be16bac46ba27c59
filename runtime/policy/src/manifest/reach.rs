//! `allow`, `http` and `keyvalue`: resolution and checks.

use super::gate;
use super::layers::Layers;
use super::problem::{Complaint, Report};
use super::resolved::{Allow, Handler, HttpPolicy, KeyValuePolicy};
use super::units::show_duration;
use crate::reach::{HttpGrant, KeyGrant};

const CONNECT: &str = "http.connect_timeout";
const REQUEST: &str = "http.request_timeout";

/// What a handler may reach.
pub(super) fn allow(layers: &Layers) -> Allow {
    let texts = |path| layers.list(path).iter().map(|(text, _)| text.as_str());
    Allow {
        publish: texts("allow.publish").map(str::to_owned).collect(),
        http: texts("allow.http").filter_map(|text| HttpGrant::parse(text).ok()).collect(),
        keyvalue: texts("allow.keyvalue").filter_map(|text| KeyGrant::parse(text).ok()).collect(),
    }
}

/// What holds for the requests that it may send.
pub(super) fn http(layers: &Layers) -> HttpPolicy {
    HttpPolicy {
        connect_timeout: layers.duration(CONNECT),
        request_timeout: layers.duration(REQUEST),
        response_bytes: layers.integer("http.response"),
        in_flight: layers.count("http.in_flight"),
        rate_limit: gate::rate_limit(layers, "http.rate_limit"),
        circuit_breaker: gate::circuit_breaker(layers, "http.circuit_breaker"),
    }
}

/// What holds for the buckets that it may use.
pub(super) fn keyvalue(layers: &Layers) -> KeyValuePolicy {
    KeyValuePolicy { value_bytes: layers.integer("keyvalue.value"), operations: layers.count("keyvalue.operations") }
}

/// Checks what the keys mean together.
pub(super) fn check(handler: &Handler, layers: &Layers, report: &mut Report) {
    gate::both(layers, "http.circuit_breaker", "http.rate_limit", report);
    gate::breaker(handler.http.circuit_breaker.as_ref(), layers, "http.circuit_breaker", report);
    timeouts(&handler.http, layers, report);
    without_grant(layers, "http", handler.allow.http.is_empty(), "\"https://api.example\"", report);
    without_grant(layers, "keyvalue", handler.allow.keyvalue.is_empty(), "\"templates\"", report);
}

fn timeouts(http: &HttpPolicy, layers: &Layers, report: &mut Report) {
    let (connect, request) = (http.connect_timeout, http.request_timeout);
    if connect <= request || !layers.sound(&["http", CONNECT, REQUEST]) {
        return;
    }
    let message = format!(
        "\"{CONNECT}\" ({}) is longer than \"{REQUEST}\" ({})",
        show_duration(connect),
        show_duration(request),
    );
    let blamed = if layers.find(CONNECT).is_some() { CONNECT } else { REQUEST };
    report.error(layers.span(blamed), Complaint::new(message).hint("lower the one or raise the other"));
}

/// Warns of a handler's own limits of what it is not granted.
fn without_grant(layers: &Layers, table: &str, nothing_granted: bool, example: &str, report: &mut Report) {
    let grant = format!("allow.{table}");
    let is_said = layers.said.first().is_some_and(|own| own.contains_key(table));
    if is_said && nothing_granted && layers.sound(&["allow", &grant]) {
        let message = format!("\"{table}\" has no effect, since \"{grant}\" grants nothing");
        report.warning(
            layers.span(table),
            Complaint::new(message).hint(format!("add {grant} = [{example}], or remove it")),
        );
    }
}
