//! The whole test run, step by step, as CI and people run it.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{chaos, demo, guests, paths, process, templates, tools};

/// Runs every step in order and stops at the first that fails; ends with a list of the steps' times.
///
/// `args` go to `cargo test`. With any, such as a filter, somebody wants to see those tests, and the demo and the chaos
/// run are left out.
///
/// # Errors
///
/// If a step fails.
pub fn run(args: &[String]) -> Result<()> {
    type Step<'a> = (&'static str, &'a dyn Fn() -> Result<()>);
    let steps: [Step; 10] = [
        ("set up", &tools::setup_all),
        ("build the guests", &|| guests::build_all().map(drop)),
        ("check the format", &|| cargo(&["fmt", "--all", "--check"])),
        ("check the lints", &|| {
            cargo(&["clippy", "--workspace", "--all-targets", "--jobs", "2", "--", "-D", "warnings"])
        }),
        ("test the JavaScript guests", &guests::test_javascript),
        ("test the kits and templates", &templates::test),
        ("test the handlers of the shop", &guests::test_shop),
        ("run the tests", &|| cargo_test(args)),
        ("run the demo", &demo::test),
        ("kill it under load", &|| chaos::run(&chaos::Options::default())),
    ];
    let steps = if args.is_empty() { &steps[..] } else { &steps[..steps.len() - 2] };
    let mut times = Vec::new();
    for (number, &(name, step)) in (1..).zip(steps) {
        println!("\n=== {number}/{} {name}", steps.len());
        let start = Instant::now();
        let result = step();
        times.push((name, start.elapsed(), result.is_ok()));
        if result.is_err() {
            print_summary(&times);
            return result.context(format!("step {number} ({name}) failed"));
        }
    }
    print_summary(&times);
    Ok(())
}

fn cargo(args: &[&str]) -> Result<()> {
    process::stream(process::cargo().current_dir(paths::root()).args(args))
}

fn cargo_test(args: &[String]) -> Result<()> {
    let mut test: Command = process::cargo();
    test.current_dir(paths::root())
        .args(["test", "--workspace", "--jobs", "2"])
        .args(args)
        .env("TIDEMILL_NATS_SERVER", tools::nats_server()?)
        .env("TIDEMILL_GUESTS", paths::guests());
    process::stream(&mut test)
}

fn print_summary(times: &[(&str, Duration, bool)]) {
    println!("\n=== summary");
    for (name, time, passed) in times {
        let verdict = if *passed { "ok" } else { "FAILED" };
        println!("{:>8.1} s  {verdict:<6}  {name}", time.as_secs_f64());
    }
}
