//! When an instance is used again, and when not. `count` says how many calls an instance has had.

use std::pin::Pin;

use futures::FutureExt;
use tidemill::invoker::Invoker;
use tidemill::invoker::wasm::WasmHandler;
use tidemill_policy::attempt::Attempt;
use tidemill_policy::manifest::Isolation;

use crate::setup::{MIB, event, output, run, unruly};

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

#[tokio::test]
async fn later_attempts_run_in_an_instance_of_their_own() {
    let handler = unruly(|_| ());
    assert_eq!(count(&handler).await, 1);
    for number in 2..5 {
        let mut event = event("count");
        event.attempt = Attempt::new(number).unwrap();
        assert_eq!(output(&handler.invoke(event).await), "1");
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
async fn no_more_instances_are_kept_than_run_at_once() {
    let handler = unruly(|entry| entry.concurrency = 2);
    let calls = (0..4).map(|_| run(&handler, "sleep:20"));
    futures::future::join_all(calls).await;

    let mut running = Vec::new();
    for idle in [2, 1, 0] {
        let count = count(&handler).await;
        assert_eq!(count > 1, idle > 0, "{idle} instances should be idle");
        handler_is_busy(&mut running, handler.invoke(event("sleep:600000")));
    }
}

/// Starts a call that does not end, and so takes an instance.
fn handler_is_busy<'a, F: Future + 'a>(running: &mut Vec<Pin<Box<F>>>, call: F) {
    let mut call = Box::pin(call);
    assert!(call.as_mut().now_or_never().is_none());
    running.push(call);
}
