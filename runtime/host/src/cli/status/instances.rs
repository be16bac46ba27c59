//! The instances in `tidemill status`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tidemill::broker::nats::ask::AskError;
use tidemill::operate::instances::Instance;
use tidemill::versions::short;

use super::super::output::{self, harmless};
use super::super::queues::coarse;

const TITLES: [&str; 9] =
    ["INSTANCE", "VERSION", "UP FOR", "READY", "HANDLER", "COMPONENT", "IN FLIGHT", "HANDLED", "FAILED"];

/// The instances that run a handler, each with what it tells of itself and of the handler.
pub(super) fn of_handler(all: &[Instance], handler: &str) -> Vec<Value> {
    let running = all.iter().filter_map(|one| one.handlers.get(handler).map(|told| (one, told)));
    let shown = running.map(|(one, told)| {
        let mut shown = json!({
            "instance": one.name,
            "version": one.version,
            "started": one.started,
            "uptime_ms": one.uptime_ms,
            "ready": one.ready,
            "troubles": one.troubles,
            "failed": failed(told),
        });
        if let Value::Object(shown) = &mut shown {
            shown.extend(told.clone());
        }
        shown
    });
    shown.collect()
}

/// The table of instances, with what is wrong with each.
pub(super) fn text(found: &Result<Vec<Instance>, AskError>) -> String {
    let all = match found {
        Ok(all) if all.is_empty() => return "no instance runs, or none that can be found: tidemill run\n".to_owned(),
        Ok(all) => all,
        Err(error) => return format!("which instances run is not known: {error}\n"),
    };
    let mut text = output::columns(TITLES, &all.iter().flat_map(|one| rows(one, all)).collect::<Vec<_>>());
    for one in all {
        for trouble in &one.troubles {
            let part = |key: &str| harmless(trouble[key].as_str().unwrap_or_default(), true);
            let _ = writeln!(text, "{}: {}: {}", one.name, part("what"), part("why"));
        }
    }
    text
}

/// A row for each handler, of which the first tells what the instance is.
fn rows(one: &Instance, all: &[Instance]) -> Vec<[String; 9]> {
    let up_for = coarse(Duration::from_millis(one.uptime_ms));
    let ready = if one.ready { "yes" } else { "no" };
    let mut own = [&one.name, &one.version, &up_for, ready].map(|text| harmless(text, true));
    let mut rows = Vec::new();
    for (handler, told) in &one.handlers {
        let state = match told.get("active").and_then(Value::as_bool) {
            Some(true) => " (active)",
            Some(false) => " (stands by)",
            None => "",
        };
        let shown = format!("{}{state}", harmless(handler, true));
        let counts = [number(told, "in_flight"), number(told, "handled"), failed(told)].map(|count| count.to_string());
        let ([name, version, up_for, ready], [in_flight, done, failed]) = (std::mem::take(&mut own), counts);
        let component = if is_mixed(handler, all) { component(told) } else { String::new() };
        rows.push([name, version, up_for, ready, shown, component, in_flight, done, failed]);
    }
    rows
}

/// Whether a handler's components are not the same everywhere: instances differ, or one is on trial.
fn is_mixed(handler: &str, all: &[Instance]) -> bool {
    let running = || all.iter().filter_map(|one| one.handlers.get(handler));
    let digests: BTreeSet<_> = running().filter_map(|told| told.get("component")).filter_map(Value::as_str).collect();
    digests.len() > 1 || running().any(|told| told.get("trial").is_some_and(Value::is_object))
}

/// `3fa9c1d2e4b5, 10 % 77aa01b2c3d4`: what runs, and what is on trial with its share of the events.
fn component(told: &Map<String, Value>) -> String {
    let digest = |told: Option<&Value>| harmless(short(told.and_then(Value::as_str).unwrap_or("?")), true);
    let mut text = digest(told.get("component"));
    if let Some(trial) = told.get("trial").filter(|trial| trial.is_object()) {
        let share = trial["share"].as_f64().unwrap_or(1.0) * 100.0;
        let _ = write!(text, ", {share:.0} % {}", digest(trial.get("component")));
    }
    text
}

/// Attempts that failed: those that another one follows, and those that ended in a dead letter.
fn failed(told: &Map<String, Value>) -> u64 {
    number(told, "retried") + number(told, "dead_lettered")
}

fn number(told: &Map<String, Value>, key: &str) -> u64 {
    told.get(key).and_then(Value::as_u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Instance {
        let mut instance: Instance = serde_json::from_value(json!({
            "instance": "abc", "version": "0.1.0", "started": "2026-11-21T08:00:00Z", "uptime_ms": 180_000, "ready": false,
            "troubles": [{ "what": "connection", "why": "it is\u{1b} lost" }],
        }))
        .expect("an instance");
        let of = |value: Value| serde_json::from_value(value).expect("a table");
        let first = json!({ "in_flight": 1, "handled": 20, "retried": 2, "dead_lettered": 1, "active": true });
        instance.handlers.insert("first".into(), of(first));
        instance.handlers.insert("second".into(), of(json!({ "in_flight": 0, "handled": 5 })));
        instance
    }

    #[test]
    fn each_instance_is_shown_with_its_handlers_and_troubles() {
        let expected = "\
INSTANCE  VERSION  UP FOR  READY  HANDLER         IN FLIGHT  HANDLED  FAILED
abc       0.1.0    3m      no     first (active)  1          20       3
                                  second          0          5        0
abc: connection: it is  lost
";
        assert_eq!(text(&Ok(vec![instance()])), expected);
        assert!(text(&Ok(Vec::new())).starts_with("no instance runs"));
    }

    #[test]
    fn components_are_shown_where_they_are_not_the_same_everywhere() {
        let mut all = [instance(), instance()];
        let (one, other) = ("1".repeat(64), "2".repeat(64));
        for (instance, digest) in all.iter_mut().zip([&one, &other]) {
            for handler in instance.handlers.values_mut() {
                handler.insert("component".into(), json!(one));
            }
            instance.handlers.get_mut("first").expect("first").insert("component".into(), json!(digest));
        }
        assert!(is_mixed("first", &all) && !is_mixed("second", &all));
        let second = all[1].handlers.get_mut("second").expect("second");
        second.insert("trial".into(), json!({ "component": other, "share": 0.1 }));
        let expected = "\
INSTANCE  VERSION  UP FOR  READY  HANDLER         COMPONENT                       IN FLIGHT  HANDLED  FAILED
abc       0.1.0    3m      no     first (active)  111111111111                    1          20       3
                                  second          111111111111                    0          5        0
abc       0.1.0    3m      no     first (active)  222222222222                    1          20       3
                                  second          111111111111, 10 % 222222222222  0          5        0
";
        let text = text(&Ok(all.to_vec()));
        let lines =
            |text: &str| text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
        let (shown, expected): (Vec<Vec<String>>, Vec<Vec<String>>) = (lines(&text), lines(expected));
        assert_eq!(shown[..5], expected);
    }

    #[test]
    fn a_handler_is_shown_with_the_instances_that_run_it() {
        let all = [instance()];
        let shown = of_handler(&all, "second");
        assert_eq!(
            (&shown[0]["instance"], &shown[0]["handled"], &shown[0]["ready"]),
            (&json!("abc"), &json!(5), &json!(false))
        );
        assert!(of_handler(&all, "third").is_empty());
    }
}
