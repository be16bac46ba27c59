//! The real pipeline against a simulated server: policies, events, faults and their order follow from a seed.
//! Time is paused, so that hours pass in milliseconds.
//!
//! A seed that fails prints its trace and the command that runs it again. `TIDEMILL_SIM_SEED` runs one seed,
//! `TIDEMILL_SIM_SEEDS` another number of them.

mod bench;
mod check;
#[path = "../conformance/mod.rs"]
mod conformance;
mod plan;
mod rng;
mod run;
mod server;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use check::Summary;
use plan::Plan;
use run::Finished;

/// How many seeds are run.
const SEEDS: u64 = 10_000;

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Says what is wrong with a run, how to repeat it, and how it went.
fn explain(seed: u64, finished: &Finished) -> String {
    format!(
        "seed {seed}: {}\nrun it again with: TIDEMILL_SIM_SEED={seed} cargo test --workspace --test simulation\n{}\n",
        finished.violations.join("; "),
        finished.trace.join("\n")
    )
}

#[test]
fn whatever_goes_wrong_every_event_ends_once() {
    if let Some(seed) = number_from("TIDEMILL_SIM_SEED") {
        let finished = run::run(seed);
        println!("{}", explain(seed, &finished));
        assert!(finished.violations.is_empty(), "{:?}", finished.violations);
        return;
    }
    let seeds = number_from("TIDEMILL_SIM_SEEDS").unwrap_or(SEEDS);
    let (next, failed, total) = (AtomicU64::new(0), Mutex::new(None), Mutex::new(Summary::default()));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, Into::into) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || failed.lock().expect("not poisoned").is_some() {
                        return;
                    }
                    let finished = run::run(seed);
                    total.lock().expect("not poisoned").add(finished.summary);
                    if !finished.violations.is_empty() {
                        let _ = failed.lock().expect("not poisoned").insert(explain(seed, &finished));
                    }
                }
            });
        }
    });
    let total = total.into_inner().expect("not poisoned");
    println!("{seeds} seeds in {:.1} s: {total:?}", started.elapsed().as_secs_f64());
    if let Some(failed) = failed.into_inner().expect("not poisoned") {
        panic!("{failed}");
    }
    assert!(total.has_seen_everything(), "the faults do not happen any more: {total:?}");
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    for seed in 0..50 {
        let [one, two] = [(); 2].map(|()| run::run(seed));
        let differs = one.trace.iter().zip(&two.trace).position(|(one, two)| one != two);
        assert_eq!(differs, None, "seed {seed}:\n{}\n---\n{}", one.trace.join("\n"), two.trace.join("\n"));
        assert_eq!((one.trace.len(), one.summary), (two.trace.len(), two.summary), "seed {seed}");
    }
}

/// Hours of an outage, with a policy that gives an event up after some seconds.
#[test]
fn an_outage_of_hours_costs_few_events_with_the_brake_and_nearly_all_without() {
    const EVENTS: u64 = 2_000;
    let outage = |brake| run::run_plan(Plan::outage(EVENTS, Duration::from_hours(6), brake), 1);
    let braked = outage(true);
    println!("{:?}", braked.summary);
    assert!(braked.violations.is_empty(), "{:?}", braked.violations);
    assert!(braked.summary.dead < 20, "{:?}", braked.summary);
    let unbraked = outage(false);
    assert!(unbraked.violations.is_empty(), "{:?}", unbraked.violations);
    assert!(unbraked.summary.dead > 1_800, "{:?}", unbraked.summary);
}
