//! When an instance is used again, and when not. `count` says how many calls an instance has had.

use std::collections::BTreeMap;

use futures::future::join_all;
use tidemill::invoker::Invoker;
use tidemill::invoker::wasm::WasmHandler;
use tidemill_policy::attempt::Attempt;
use tidemill_policy::manifest::Isolation;
use wasmparser::{Parser, Payload};

use crate::setup::{MIB, engine, entry, event, guest, guest_bytes, output, run, unruly};

async fn count(handler: &WasmHandler) -> u32 {
    output(&run(handler, "count").await).parse().unwrap()
}

#[tokio::test]
async fn instances_are_reused() {
    let handler = unruly(|_| ());
    for expected in 1..=3 {
        assert_eq!(count(&handler).await, expected);
    }
}

#[tokio::test]
async fn an_instance_is_retired_after_so_many_events() {
    let handler = unruly(|entry| entry.limits.reuse = 2);
    for expected in [1, 2, 1, 2, 1] {
        assert_eq!(count(&handler).await, expected);
    }
}

#[tokio::test]
async fn with_isolation_by_event_every_instance_is_fresh() {
    let handler = unruly(|entry| entry.isolation = Isolation::Event);
    for _ in 0..3 {
        assert_eq!(count(&handler).await, 1);
    }
}

#[tokio::test]
async fn an_instance_is_retired_after_any_failure() {
    let handler = unruly(|entry| entry.limits.budget.fuel = 50_000_000);
    for failure in
        ["retry", "reject", "panic", "trap", "abort", "recurse", "alloc", "loop", "outputs:65", "huge-output:1048577"]
    {
        assert_eq!(count(&handler).await, 1, "before {failure}");
        assert_eq!(count(&handler).await, 2, "before {failure}");
        run(&handler, failure).await;
    }
    assert_eq!(count(&handler).await, 1);
}

#[tokio::test]
async fn an_instance_is_retired_when_its_memory_has_grown() {
    let handler = unruly(|_| ());
    assert_eq!(count(&handler).await, 1);
    run(&handler, &format!("grow:{}", 4 * MIB)).await;
    assert_eq!(count(&handler).await, 3, "a third of its memory is in use");
    let report = run(&handler, &format!("grow:{}", 8 * MIB)).await;
    assert!(report.usage.memory_peak_bytes > 12 * MIB);
    assert_eq!(count(&handler).await, 1);
}

/// Growing memory, and taking away what has grown, costs more than a small event.
#[tokio::test]
async fn a_small_event_needs_no_more_memory_than_an_instance_begins_with() {
    let module = guest_bytes("unruly");
    let memory = Parser::new(0).parse_all(&module).find_map(|part| match part {
        Ok(Payload::MemorySection(memories)) => memories.into_iter().next(),
        _ => None,
    });
    let pages = memory.expect("it has a memory").expect("the module is valid").initial;
    let handler = unruly(|entry| entry.isolation = Isolation::Event);
    for (kilobytes, needs_more) in [(1, false), (10, false), (100, true)] {
        let report = run(&handler, &format!("echo:{}", "x".repeat(kilobytes * 1024))).await;
        assert_eq!(output(&report).len(), kilobytes * 1024 + "echo:".len());
        assert_eq!(report.usage.memory_peak_bytes > pages * 65_536, needs_more, "{kilobytes} KiB");
    }
}

#[tokio::test]
async fn later_attempts_run_in_an_instance_of_their_own() {
    let handler = unruly(|_| ());
    assert_eq!(count(&handler).await, 1);
    for number in 2..5 {
        let mut event = event("count");
        event.attempt = Attempt::new(number).unwrap();
        assert_eq!(output(&handler.invoke(event.into()).await), "1");
    }
    assert_eq!(count(&handler).await, 2, "first attempts still share one");
}

#[tokio::test]
async fn idle_instances_can_be_dropped() {
    let handler = unruly(|_| ());
    assert_eq!(count(&handler).await, 1);
    handler.trim();
    assert_eq!(count(&handler).await, 1);
}

#[tokio::test]
async fn there_are_no_more_instances_than_calls_at_once() {
    let engine = engine(2, None);
    let mut entry = entry();
    entry.concurrency = 2;
    let handler = WasmHandler::load(&engine, &guest("unruly"), &entry, BTreeMap::new()).unwrap();
    run(&handler, "sleep:1").await;
    let one = engine.memory_used_bytes();
    assert!(one > 0);
    for _ in 0..3 {
        join_all((0..20).map(|_| run(&handler, "sleep:1"))).await;
        assert_eq!(engine.memory_used_bytes(), 2 * one);
    }
    handler.trim();
    assert_eq!(engine.memory_used_bytes(), 0);
}
