//! Measurements, by hand: `cargo test --workspace --test sandbox -- --ignored --nocapture --test-threads 1 measure`.
//! They assert nothing; what is asserted without a clock is in `fairness`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidemill::invoker::wasm::WasmHandler;
use tidemill_policy::manifest::Handler;
use tidemill_policy::outcome::Outcome;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::setup::{ENDLESS, ENGINE, entry, guest, run, unruly};

const SPAN: Duration = Duration::from_secs(4);
/// A pause that is no multiple of the tick, so that calls begin anywhere in it.
const PAUSE: Duration = Duration::from_micros(1_310);

fn load(name: &str, change: impl FnOnce(&mut Handler)) -> Arc<WasmHandler> {
    let mut entry = entry();
    name.clone_into(&mut entry.name);
    entry.concurrency = 16;
    entry.limits.budget.timeout = Duration::from_secs(1);
    entry.limits.budget.fuel = ENDLESS;
    change(&mut entry);
    let file = if name == "echo" { "echo" } else { "unruly" };
    Arc::new(WasmHandler::load(&ENGINE, &guest(file), &entry, BTreeMap::new()).expect("it loads"))
}

/// Calls again and again, as many at once as the handler's slots.
fn neighbours(tasks: &mut JoinSet<()>, handler: &Arc<WasmHandler>, payload: &'static str) {
    for _ in 0..16 {
        let handler = Arc::clone(handler);
        tasks.spawn(async move {
            loop {
                run(&handler, payload).await;
            }
        });
    }
}

fn show(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |share: usize| took[(took.len() - 1) * share / 1000].as_secs_f64() * 1e6;
    println!(
        "{what:44} {:>6} calls, p50 {:>7.0} us, p90 {:>7.0} us, p99 {:>7.0} us, p99.9 {:>7.0} us",
        took.len(),
        at(500),
        at(900),
        at(990),
        at(999)
    );
}

/// How long calls take that come at a steady rate from a thread of its own, as events come from the network:
/// from when each was handed over to its end.
async fn latency(handler: &Arc<WasmHandler>) -> Vec<Duration> {
    let (sender, mut events) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let until = Instant::now() + SPAN;
        while Instant::now() < until && sender.send(Instant::now()).is_ok() {
            std::thread::sleep(PAUSE);
        }
    });
    let handler = Arc::clone(handler);
    let consumed = tokio::spawn(async move {
        let mut calls = JoinSet::new();
        while let Some(sent) = events.recv().await {
            let handler = Arc::clone(&handler);
            calls.spawn(async move {
                let report = run(&handler, "echo").await;
                assert!(matches!(report.outcome, Outcome::Completed(_)), "{report:?}");
                sent.elapsed()
            });
        }
        calls.join_all().await
    });
    consumed.await.expect("no call fails")
}

/// How many calls are made, several at once.
async fn throughput(handler: &Arc<WasmHandler>) -> f64 {
    let (mut tasks, until) = (JoinSet::new(), Instant::now() + SPAN);
    for _ in 0..8 {
        let handler = Arc::clone(handler);
        tasks.spawn(async move {
            let mut calls = 0_u32;
            while Instant::now() < until {
                run(&handler, "echo").await;
                calls += 1;
                tokio::task::yield_now().await;
            }
            calls
        });
    }
    let calls: u32 = tasks.join_all().await.iter().sum();
    f64::from(calls) / SPAN.as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_good_handler_beside_one_that_loops_and_one_that_eats_memory() {
    let (good, looping, eater) = (load("echo", |_| ()), load("looping", |_| ()), load("eater", |_| ()));
    for round in 0..2 {
        show(&format!("round {round}: alone"), latency(&good).await);
        let alone = throughput(&good).await;
        let mut tasks = JoinSet::new();
        neighbours(&mut tasks, &looping, "loop");
        show(&format!("round {round}: beside 16 that loop"), latency(&good).await);
        neighbours(&mut tasks, &eater, "alloc");
        show(&format!("round {round}: and 16 that eat memory"), latency(&good).await);
        let beside = throughput(&good).await;
        println!("round {round}: throughput alone {alone:.0}/s, beside both {beside:.0}/s");
        tasks.shutdown().await;
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn what_a_call_costs() {
    let reused = load("echo", |_| ());
    let unruly = unruly(|_| ());
    for (name, handler) in [("echo, reused", &*reused), ("unruly, reused", &unruly)] {
        for _ in 0..3 {
            let mut took = Vec::new();
            for _ in 0..100_000 {
                let started = Instant::now();
                run(handler, "echo").await;
                took.push(started.elapsed());
            }
            let mean = took.iter().sum::<Duration>() / 100_000;
            took.sort_unstable();
            println!("{name}: mean {mean:?}, p50 {:?}, p99 {:?}", took[50_000], took[99_000]);
        }
    }
}
