use proptest::prelude::*;
use proptest::sample;

use super::*;
use crate::manifest::{Source, parse};

/// A handler that says much, to be changed key by key.
const BASE: &str = r#"
[handler.mail]
subject = "orders.>"
stream = "ORDERS"
create_stream = true
allow.publish = ["mail.sent"]
"#;

fn parsed(text: &str) -> Manifest {
    let parsed = parse(Source { path: "tidemill.toml", text }, &[], &|_| None);
    parsed.unwrap_or_else(|problems| panic!("{problems}\n{text}")).manifest
}

/// The change of the handler "mail" between two bodies of its table.
fn between(old: &str, new: &str) -> Change {
    let manifest = |body: &str| parsed(&format!("[handler.mail]\nsubject = 'orders.>'\n{body}"));
    let diff = diff(&manifest(old), &manifest(new));
    assert_eq!(diff.refused, []);
    diff.handlers["mail"].clone()
}

/// What is done where a body of the handler's table is replaced by another, and the other way round.
#[track_caller]
fn check(old: &str, new: &str, restarted: &[&'static str]) {
    let expected = match restarted {
        [] => Change::Swap,
        keys => Change::Restart { keys: keys.to_vec() },
    };
    assert_eq!(between(old, new), expected, "{old:?} to {new:?}");
    assert_eq!(between(new, old), expected, "{new:?} to {old:?}");
}

#[test]
fn what_is_looked_at_for_each_event_is_swapped() {
    let bodies = [
        "component = 'other.wasm'",
        "config.from = 'me'",
        "secrets.key = 'env:KEY'",
        "schema = 'a.json'",
        "schema_versions.v1 = 'a.json'",
        "schema_versions.v1 = 'a.json'\nschema_by = 'header:X-Version'",
        "schema_out.'mail.>' = 'a.json'",
        "isolation = 'event'",
        "max_age = '1h'",
        "limits = { fuel = 1, memory = '1MiB', payload = '1KiB', outputs = 1, output_bytes = '1KiB', reuse = 1 }",
        "limits.timeout = '20s'",
        "retry = { max_attempts = 50, backoff = 'linear', initial = '1s', max = '10m', jitter = 0, in_memory = '0s' }",
        "retry.on = ['reject']",
        "dead_letter.max_age = '1d'",
        "dead_letter.on = ['timeout']",
        "outputs = 'each'\nallow.publish = ['mail.>']",
        // Without a grant, it asks nothing of any stream.
        "outputs = 'atomic'",
        "reload = { guard = '1m', canary = 0.1 }",
        "allow = { http = ['https://api.example'], keyvalue = ['read templates'] }",
        "http = { response = '1KiB', circuit_breaker.failures = 3 }",
        "keyvalue.operations = 1",
    ];
    for body in bodies {
        check("", body, &[]);
    }
}

#[test]
fn what_consumers_gate_and_streams_are_made_by_asks_for_a_restart() {
    let keyed = "order = { by = 'key', key = 'header:X', on_failure = 'park' }";
    let provided = "stream = 'S'\ncreate_stream = true";
    let atomic = "outputs = 'atomic'\nallow.publish = ['a']";
    let breaker = "circuit_breaker.failures = 3";
    let rows: [(&str, &str, &[&str]); 24] = [
        ("", "stream = 'ORDERS'", &["stream"]),
        ("stream = 'S'", "stream = 'S'\ncreate_stream = true", &["create_stream"]),
        ("", "durable = 'other'", &["durable"]),
        ("", "mode = 'broadcast'", &["mode"]),
        ("", "format = 'raw'", &["format"]),
        ("", "concurrency = 3", &["concurrency"]),
        ("", "ack = 'confirmed'", &["ack"]),
        ("", "ack_wait = '31s'", &["ack_wait"]),
        ("", "dedup.key = 'id'", &["dedup"]),
        ("", keyed, &["order"]),
        ("", "circuit_breaker.failures = 3", &["circuit_breaker"]),
        ("", "outage_brake = false", &["outage_brake"]),
        ("", "rate_limit.rate = '1/s'", &["rate_limit"]),
        ("", "dead_letter.subject = 'dead'", &["dead_letter"]),
        // What follows from keys that are looked at for each event otherwise.
        ("", "limits.timeout = '1m'", &["ack_wait", "limits"]),
        ("ack_wait = '2m'", "ack_wait = '2m'\nlimits.timeout = '1m'", &[]),
        (breaker, "circuit_breaker.failures = 3\nlimits.timeout = '3s'", &["limits"]),
        (breaker, "circuit_breaker.failures = 3\nlimits.fuel = 3", &[]),
        (provided, "stream = 'S'\ncreate_stream = true\nretry.max_attempts = 50", &["retry"]),
        (provided, "stream = 'S'\ncreate_stream = true\nretry.max_attempts = 2", &[]),
        ("", "retry.max = '10h'", &["retry"]),
        (keyed, &format!("{keyed}\ndead_letter.max_age = '90d'"), &["dead_letter"]),
        (atomic, "outputs = 'atomic'\nallow.publish = ['a', 'b']", &["allow"]),
        (atomic, "allow.publish = ['a']", &["outputs"]),
    ];
    for (old, new, restarted) in rows {
        check(old, new, restarted);
    }
    let other = parsed("[handler.mail]\nsubject = 'orders.new'");
    let change = &diff(&parsed("[handler.mail]\nsubject = 'orders.>'"), &other).handlers["mail"];
    assert_eq!(*change, Change::Restart { keys: vec!["subject"] });
}

#[test]
fn only_the_keys_that_ask_for_it_are_named() {
    check("", "concurrency = 3\nack_wait = '1m'\nconfig.a = 1\nisolation = 'event'", &["concurrency", "ack_wait"]);
}

#[test]
fn handlers_come_and_go() {
    let two = "[handler.a]\nsubject = 'a'\n[handler.b]\nsubject = 'b'";
    let diff = diff(&parsed(two), &parsed("[handler.b]\nsubject = 'b'\n[handler.c]\nsubject = 'c'"));
    let expected = [("a", Change::Removed), ("b", Change::Same), ("c", Change::Added)];
    let expected = expected.map(|(name, change)| (name.to_owned(), change));
    assert_eq!(diff, Diff { refused: Vec::new(), handlers: expected.into() });
}

#[test]
fn what_the_process_was_started_with_is_refused() {
    let rows = [
        ("nats.url = 'nats://h:1'", "nats.url"),
        ("nats.credentials = 'file:a'", "nats.credentials"),
        ("nats.nkey = 'file:a'", "nats.nkey"),
        ("nats.token = 'env:A'", "nats.token"),
        ("nats = { user = 'a', password = 'env:A' }", "nats.user"),
        ("nats.tls.ca = 'a.pem'", "nats.tls"),
        ("nats.prefix = 'a'", "nats.prefix"),
        ("nats.replicas = 3", "nats.replicas"),
        ("runtime.plugins = 'a'", "runtime.plugins"),
        ("runtime.plugins = 'nats:a'", "runtime.plugins"),
        ("runtime.listen = 'off'", "runtime.listen"),
        ("runtime.in_flight = '1GiB'", "runtime.in_flight"),
        ("runtime.memory = '1GiB'", "runtime.memory"),
        ("runtime.cache = 'a'", "runtime.cache"),
        ("runtime.watch = false", "runtime.watch"),
        ("runtime.watch_poll = '1m'", "runtime.watch_poll"),
        ("runtime.versions = 'a'", "runtime.versions"),
    ];
    for (text, key) in rows {
        let (without, with) = (parsed(BASE), parsed(&format!("{text}\n{BASE}")));
        for diff in [diff(&without, &with), diff(&with, &without)] {
            let keys: Vec<_> = diff.refused.iter().map(|refused| refused.key).collect();
            // The prefix is part of names that handlers get from it.
            assert!(
                keys == [key] && (key == "nats.prefix" || diff.handlers["mail"] == Change::Same),
                "{text} {diff:?}"
            );
        }
    }
    let told = Refused { key: "runtime.listen" }.to_string();
    assert_eq!(told, "runtime.listen cannot change while the instance runs; restart the instance to apply it");
    let changed = parsed(&format!("runtime = {{ drain = '1s', keep_versions = 1 }}\n{BASE}"));
    assert_eq!(diff(&parsed(BASE), &changed).refused, []);
}

/// Pieces of a handler's table, of which any may stand together.
const PIECES: &[&str] = &[
    "concurrency = 3",
    "config.a = 1",
    "limits.timeout = '1m'",
    "retry.max = '10h'",
    "dedup.key = 'id'",
    "circuit_breaker.failures = 3",
    "dead_letter.max_age = '1d'",
    "outputs = 'atomic'",
    "allow.publish = ['a']",
    "allow.http = ['https://a.example']",
    "allow.keyvalue = ['a']",
    "http.response = '1KiB'",
    "keyvalue.operations = 1",
    "reload.guard = '0s'",
];

proptest! {
    #[test]
    fn nothing_changes_where_nothing_differs_and_all_that_differs_is_told(
        old in sample::subsequence(PIECES, 0..PIECES.len()), new in sample::subsequence(PIECES, 0..PIECES.len()),
    ) {
        let (before, after) = (between(&old.join("\n"), &old.join("\n")), between(&old.join("\n"), &new.join("\n")));
        prop_assert_eq!(before, Change::Same);
        prop_assert_eq!(after == Change::Same, old == new);
        let back = between(&new.join("\n"), &old.join("\n"));
        prop_assert_eq!(after, back, "what a change asks for does not hang on its direction");
    }
}
