//! An instance that is used again and again needs no more memory than it came to need at first: the kits of languages
//! without a collector free what they allocate, and that of Go collects, between the calls of the host that forbid it.
//!
//! The guests are those of the conformance cases, built by `cargo xtask guests --all`.

use std::collections::BTreeMap;

use tidemill::invoker::Invoker;
use tidemill::invoker::wasm::WasmHandler;
use tidemill_policy::outcome::Outcome;

use crate::setup::{ENGINE, MIB, entry, event, guest};

/// Events of all sizes, each for a function of the guest that allocates in another way.
fn payloads() -> Vec<(String, usize)> {
    let text = |length: usize| format!(r#"{{"do": "text", "text": "{}"}}"#, "ë".repeat(length));
    let mut payloads = vec![
        (r#"{"do": "many", "count": 20}"#.to_owned(), 20),
        (r#"{"do": "describe"}"#.to_owned(), 1),
        (r#"{"do": "config", "key": "colour"}"#.to_owned(), 1),
        (r#"{"do": "log", "text": "a line"}"#.to_owned(), 0),
        (String::new(), 1),
    ];
    payloads.extend([1, 10, 100, 1000].map(|length| (text(length), 1)));
    payloads
}

/// The peak of so many calls, all of which succeed. One in a thousand has a large payload.
async fn peak_of(handler: &WasmHandler, calls: usize) -> u64 {
    let payloads = payloads();
    let large = format!(r#"{{"do": "echo", "more": "{}"}}"#, "x".repeat(700_000));
    let mut peak = 0;
    for call in 0..calls {
        let (payload, outputs) = if call % 1000 == 999 {
            (&large, &1)
        } else {
            payloads.iter().map(|(p, o)| (p, o)).nth(call % payloads.len()).unwrap()
        };
        let report = handler.invoke(event(payload).into()).await;
        match report.outcome {
            Outcome::Completed(found) => assert_eq!(found.len(), *outputs, "call {call}: {payload:.60}"),
            other => panic!("call {call}: {payload:.60}: {other:?}"),
        }
        peak = peak.max(report.usage.memory_peak_bytes);
    }
    peak
}

/// `slack` is what a collector may need more than before, because it begins at another moment.
async fn check(language: &str, slack: u64) {
    let mut entry = entry();
    entry.limits.reuse = u32::MAX;
    entry.limits.budget.memory_bytes = 128 * MIB;
    let settings = BTreeMap::from([("colour".to_owned(), "green".to_owned())]);
    let handler = WasmHandler::load(&ENGINE, &guest(&format!("cases-{language}")), &entry, settings).unwrap();
    let first = peak_of(&handler, 10_000).await;
    let later = peak_of(&handler, 30_000).await;
    println!("{language}: {first} bytes, then {later}");
    assert!(later <= first + slack, "{language}: {first} bytes in 10,000 calls, {later} in 30,000 more");
    assert!(later < 32 * MIB, "{language}: {later} bytes");
}

#[tokio::test]
async fn of_c() {
    check("c", 0).await;
}

#[tokio::test]
async fn of_cpp() {
    check("cpp", 0).await;
}

#[tokio::test]
async fn of_go() {
    check("go", 4 * MIB).await;
}

#[tokio::test]
async fn of_zig() {
    check("zig", 0).await;
}
