//! No handler takes what is another one's: processor, places, memory. Nothing here is measured in time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use tidemill::invoker::Invoker;
use tidemill::invoker::wasm::{Engine, EngineOptions, Problem, WasmHandler};
use tidemill_policy::manifest::Handler;
use tidemill_policy::outcome::Outcome;
use tokio::task::JoinSet;

use crate::setup::{MIB, entry, event, guest, handler, output, run, stack, unruly};
use crate::wat;

/// More than there are threads to run guests.
const MANY: u32 = 16;

fn engine(invocations: u32, memory_bytes: u64) -> Engine {
    let options = EngineOptions { invocations, memory_bytes: Some(memory_bytes), cache_dir: None };
    Engine::new(&options).expect("the machine has room for the engine")
}

fn load(engine: &Engine, name: &str, change: impl FnOnce(&mut Handler)) -> Arc<WasmHandler> {
    let mut entry = entry();
    name.clone_into(&mut entry.name);
    change(&mut entry);
    Arc::new(WasmHandler::load(engine, &guest("unruly"), &entry, BTreeMap::new()).expect("the guest can be loaded"))
}

/// Starts so many calls at once.
fn start(handler: &Arc<WasmHandler>, payload: &'static str, calls: u32) -> JoinSet<Outcome> {
    let mut tasks = JoinSet::new();
    for _ in 0..calls {
        let handler = Arc::clone(handler);
        tasks.spawn(async move { run(&handler, payload).await.outcome });
    }
    tasks
}

#[tokio::test(flavor = "current_thread")]
async fn calls_end_beside_a_handler_that_loops_in_all_its_slots() {
    let looping = Arc::new(unruly(|entry| entry.concurrency = MANY));
    let mut loops = start(&looping, "loop", MANY);
    let short = unruly(|_| ());
    let long = handler(&wat::guest(
        "(global $left (mut i32) (i32.const 30000000))",
        "(loop $again
            (global.set $left (i32.sub (global.get $left) (i32.const 1)))
            (br_if $again (global.get $left)))",
    ));
    for _ in 0..100 {
        assert_eq!(output(&run(&short, "echo").await), "echo");
    }
    let outcome = run(&long, "").await.outcome;
    assert!(matches!(outcome, Outcome::Completed(_)), "one that computes for long gets its turns: {outcome:?}");
    assert!(loops.try_join_next().is_none(), "none of the loops has ended");
    loops.shutdown().await;
    assert_eq!(output(&run(&looping, "echo").await), "echo", "what was dropped has given its places back");
}

#[tokio::test(flavor = "current_thread")]
async fn a_short_call_ends_where_it_was_begun() {
    let looping = Arc::new(unruly(|entry| entry.concurrency = MANY));
    let _loops = start(&looping, "loop", MANY);
    tokio::task::yield_now().await;
    // Unless the machine takes the processor away from it for a whole turn, it ends when it is first polled. A handler of
    // which that is said too often counts as one that computes for long, so each try has one of its own.
    let ends_at_once = |_| unruly(|_| ()).invoke(event("echo").into()).now_or_never().is_some();
    assert!((0..100).any(ends_at_once));
}

#[tokio::test(flavor = "current_thread")]
async fn a_handler_whose_calls_compute_for_milliseconds_holds_nobody_up_with_the_next_one() {
    for _ in 0..8 {
        let handler = unruly(|entry| entry.limits.budget.timeout = Duration::from_millis(3));
        for _ in 0..3 {
            let outcome = run(&handler, "loop").await.outcome;
            assert!(matches!(outcome, Outcome::TimedOut(_)), "{outcome:?}");
        }
        assert!(handler.invoke(event("loop").into()).now_or_never().is_none(), "it is begun somewhere else");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn what_waits_for_its_turn_at_its_deadline_was_computing() {
    let handler = unruly(|entry| {
        entry.concurrency = MANY;
        entry.limits.budget.timeout = Duration::from_secs(1);
    });
    let mut seen = 0;
    for report in join_all((0..MANY).map(|_| run(&handler, "loop"))).await {
        let Outcome::TimedOut(interruption) = &report.outcome else { panic!("{report:?}") };
        assert!(interruption.message.ends_with("still running after 1s (`limits.timeout`)"), "{interruption:?}");
        seen += usize::from(stack(interruption).contains("unruly::handle"));
    }
    assert!(seen > 2, "only those that are on a thread at their deadline could be seen");
}

#[tokio::test]
async fn no_handler_takes_the_places_of_another() {
    let engine = engine(6, 100 * MIB);
    let greedy = load(&engine, "greedy", |entry| entry.concurrency = 4);
    let other = load(&engine, "other", |entry| entry.concurrency = 2);
    let mut waiting = start(&greedy, "sleep:600000", 20);
    for _ in 0..3 {
        let calls = join_all((0..20).map(|_| run(&other, "sleep:1"))).await;
        assert!(calls.iter().all(|report| report.outcome == Outcome::Completed(vec![])), "{calls:?}");
    }
    assert!(waiting.try_join_next().is_none());

    let no_room = WasmHandler::load(&engine, &guest("unruly"), &entry(), BTreeMap::new()).err().unwrap();
    assert!(matches!(no_room.problem, Problem::Room { concurrency: 4, left: 0 }), "{no_room}");
    waiting.shutdown().await;
    drop(greedy);
    load(&engine, "later", |entry| entry.concurrency = 4);
}

#[tokio::test]
async fn what_a_handler_is_sure_of_is_there_while_others_eat_memory() {
    let engine = engine(64, 64 * MIB);
    let eater = load(&engine, "eater", |entry| entry.concurrency = MANY);
    let good = load(&engine, "good", |entry| entry.concurrency = 4);
    // They need 320 MiB at most, so half of what there is is kept for them: 16 MiB for each.
    let mut eaters = start(&eater, "alloc", MANY);
    let mut shortages = 0;
    while let Some(outcome) = eaters.join_next().await {
        assert!(engine.memory_used_bytes() <= 64 * MIB);
        let Ok(Outcome::OutOfMemory(interruption)) = outcome else { panic!("{outcome:?}") };
        shortages += u32::from(interruption.message.contains("(`runtime.memory`): this one has"));
        let reports = join_all((0..4).map(|_| run(&good, "grow:2000000"))).await;
        assert!(reports.iter().all(|report| report.outcome == Outcome::Completed(vec![])), "{reports:?}");
        good.trim();
    }
    assert!(shortages > 0, "all of them together never asked for more than there is");
    eater.trim();
    assert_eq!(engine.memory_used_bytes(), 0, "all is given back");
}

#[tokio::test]
async fn idle_instances_make_room_for_those_that_run() {
    let engine = engine(128, 48 * MIB);
    let idle: Vec<_> =
        (0..4).map(|number| load(&engine, &format!("idle-{number}"), |entry| entry.concurrency = MANY)).collect();
    let asking = load(&engine, "asking", |entry| {
        entry.concurrency = MANY;
        entry.limits.budget.memory_bytes = 40 * MIB;
    });
    for handler in &idle {
        assert_eq!(run(handler, "grow:5000000").await.outcome, Outcome::Completed(vec![]));
    }
    let before = engine.memory_used_bytes();
    assert!(before > 20 * MIB);
    // More than is left, and less than is left without all of them.
    assert_eq!(run(&asking, "grow:26000000").await.outcome, Outcome::Completed(vec![]));
    assert!(engine.memory_used_bytes() <= 48 * MIB);
    asking.trim();
    let left = engine.memory_used_bytes();
    assert!(left < before && left > 0, "{left} of {before}: no more is dropped than is needed");
}
