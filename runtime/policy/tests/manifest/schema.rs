//! Schema, reference and reader know the same keys, with the same defaults.

use serde_json::Value;
use tidemill_policy::manifest::{Problems, Source, json_schema, parse, reference_markdown};

/// One key of the schema: its path from the top, and a value that the schema gives for it.
#[derive(Debug)]
struct Leaf {
    path: Vec<String>,
    sample: Value,
    has_default: bool,
}

/// All keys of the schema that hold values.
fn leaves() -> Vec<Leaf> {
    let schema = json_schema();
    let mut found = Vec::new();
    for (section, property) in schema["properties"].as_object().unwrap() {
        let mut path = vec![section.clone()];
        if property.get("additionalProperties").is_some() {
            path.push("mail".to_owned());
        }
        walk(&schema["$defs"][section], &path, &mut found);
    }
    found
}

fn walk(table: &Value, path: &[String], found: &mut Vec<Leaf>) {
    assert_eq!(table["additionalProperties"], Value::Bool(false), "{path:?} is not closed");
    for (name, property) in table["properties"].as_object().unwrap() {
        let path = [path, std::slice::from_ref(name)].concat();
        let described = property["description"].as_str().is_some_and(|text| !text.is_empty());
        assert!(described, "{path:?} has no description");
        if property.get("properties").is_some() {
            walk(property, &path, found);
            continue;
        }
        let default = property.get("default");
        let sample = default.or_else(|| property["examples"].get(0));
        let sample = sample.unwrap_or_else(|| panic!("{path:?} has neither default nor example"));
        found.push(Leaf { path, sample: sample.clone(), has_default: default.is_some() });
    }
}

/// What the parser says of a manifest with this one key (and a subject, which every handler needs).
fn answer(path: &[String], sample: &Value) -> Problems {
    let mut manifest = serde_json::json!({
        "handler": { "mail": { "subject": "some.subject", "stream": "SOME" } },
    });
    if path[0] == "policy" {
        manifest["handler"]["mail"]["policy"] = Value::from("mail");
    }
    let mut table = &mut manifest;
    for name in path {
        table = table.as_object_mut().unwrap().entry(name).or_insert(serde_json::json!({}));
    }
    *table = sample.clone();
    let text = toml::to_string(&manifest).unwrap();
    match parse(Source { path: "tidemill.toml", text: &text }, &[], &|_| None) {
        Ok(parsed) => parsed.warnings,
        Err(problems) => problems,
    }
}

/// Keys that need another one beside them.
const INCOMPLETE_ALONE: &[&str] = &[
    "nats.user",
    "nats.password",
    "nats.tls.cert",
    "nats.tls.key",
    "handler.mail.schema_by",
    "handler.mail.dedup.window",
    "handler.mail.order.key",
    "handler.mail.order.form",
    "handler.mail.order.partitions",
    "handler.mail.order.in_flight",
    "handler.mail.order.on_failure",
    "handler.mail.order.time",
    "handler.mail.order.on_stale",
    "handler.mail.order.on_missing",
    "handler.mail.order.window",
    "handler.mail.dedup.claim",
    "handler.mail.circuit_breaker.window",
    "handler.mail.circuit_breaker.min_events",
    "handler.mail.circuit_breaker.open_for",
    "handler.mail.circuit_breaker.open_max",
    "handler.mail.circuit_breaker.successes",
    "handler.mail.rate_limit.burst",
    "handler.mail.rate_limit.across",
    "handler.mail.http.circuit_breaker.window",
    "handler.mail.http.circuit_breaker.min_events",
    "handler.mail.http.circuit_breaker.open_for",
    "handler.mail.http.circuit_breaker.open_max",
    "handler.mail.http.circuit_breaker.successes",
    "handler.mail.http.rate_limit.burst",
];

/// Tables that mean nothing without a grant.
const WITHOUT_GRANT: &[&str] = &["handler.mail.http.", "handler.mail.keyvalue."];

#[test]
fn the_reader_accepts_every_key_of_the_schema() {
    let leaves = leaves();
    assert!(leaves.len() > 60, "the schema has only {} keys", leaves.len());
    for Leaf { path, sample, .. } in leaves {
        let (name, problems) = (path.join("."), answer(&path, &sample));
        let expected = usize::from(INCOMPLETE_ALONE.contains(&name.as_str()) || name.ends_with(".policy"));
        let warned = usize::from(WITHOUT_GRANT.iter().any(|table| name.starts_with(table)));
        assert_eq!(problems.problems.len(), expected + warned, "{name}\n{problems}");
    }
}

#[test]
fn the_reader_refuses_what_the_schema_does_not_have() {
    let mut tables: Vec<Vec<String>> = leaves()
        .into_iter()
        .map(|mut leaf| {
            leaf.path.pop();
            leaf.path
        })
        .collect();
    tables.sort();
    tables.dedup();
    for mut path in tables {
        // The entries of these are the user's own.
        path.push("no-such-key".to_owned());
        let problems = answer(&path, &Value::from(1));
        assert!(problems.to_string().contains("unknown key \"no-such-key\""), "{path:?}\n{problems}");
    }
}

#[test]
fn a_default_changes_nothing_when_it_is_written_out() {
    let parsed = |text: &str| {
        let source = Source { path: "tidemill.toml", text };
        parse(source, &[], &|_| None).unwrap().manifest
    };
    let mut written = serde_json::json!({});
    for Leaf { path, sample, has_default } in leaves() {
        let needs_another = INCOMPLETE_ALONE.contains(&path.join(".").as_str());
        if !has_default || path[0] != "handler" || needs_another {
            continue;
        }
        let mut table = &mut written;
        for name in &path {
            table = table.as_object_mut().unwrap().entry(name).or_insert(serde_json::json!({}));
        }
        *table = sample;
    }
    written["handler"]["mail"]["subject"] = Value::from("some.subject");
    let bare = parsed("handler.mail.subject = 'some.subject'");
    assert_eq!(parsed(&toml::to_string(&written).unwrap()), bare);
}

#[test]
fn the_reference_names_every_key_of_a_single_section() {
    let reference = reference_markdown();
    for Leaf { path, .. } in leaves() {
        let keys = match path[0].as_str() {
            "handler" => &path[2..],
            "nats" | "runtime" => &path[1..],
            _ => continue,
        };
        let row = format!("| `{}` |", keys.join("."));
        assert!(reference.contains(&row), "no row {row} in\n{reference}");
    }
}
