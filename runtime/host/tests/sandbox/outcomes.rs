//! Each outcome, and that it is the right one where two are near.

use std::time::Duration;

use tidemill_policy::outcome::{HandlerError, Outcome};

use crate::setup::{ENDLESS, EVER, MIB, handler, output, run, stack, trapped, unruly};
use crate::wat;

#[tokio::test]
async fn outputs_are_returned_as_they_are() {
    let handler = unruly(|_| ());
    let report = run(&handler, "echo").await;
    let Outcome::Completed(outputs) = &report.outcome else {
        panic!("{report:?}");
    };
    assert_eq!(outputs.len(), 1);
    assert_eq!(outputs[0].subject, "out.echo");
    assert_eq!(outputs[0].payload, "echo");
    assert_eq!(outputs[0].headers, [("Tenant".into(), "acme".into())]);
    assert!(report.usage.fuel > 0);
    assert!(report.usage.memory_peak_bytes >= 64 * 1024);
    assert!(report.usage.duration > Duration::ZERO);
}

#[tokio::test]
async fn the_event_arrives_whole() {
    let report = run(&unruly(|_| ()), "event").await;
    let seen: serde_json::Value = serde_json::from_str(&output(&report)).unwrap();
    let expected = serde_json::json!({
        "id": "event-1",
        "subject": "in.command",
        "kind": "com.example.command",
        "source": "/tests",
        "time_ms": 1_700_000_000_123_u64,
        "content_type": "text/plain",
        "correlation_id": "correlation-1",
        "causation_id": null,
        "attempt": 1,
        "max_attempts": 5,
        "headers": [["Tenant", "acme"]],
        "payload": "event",
    });
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn failures_are_returned_as_they_are() {
    let handler = unruly(|_| ());
    let error =
        |code| HandlerError { code, message: "asked for".into(), detail: code.map(|_| "nothing is wrong".into()) };
    assert_eq!(run(&handler, "retry").await.outcome, Outcome::Retry { error: error(Some(503)), delay: None });
    assert_eq!(
        run(&handler, "retry:1500").await.outcome,
        Outcome::Retry { error: error(None), delay: Some(Duration::from_millis(1500)) }
    );
    assert_eq!(run(&handler, "reject").await.outcome, Outcome::Rejected(error(Some(422))));
}

#[tokio::test]
async fn an_endless_loop_times_out_if_there_is_fuel() {
    let timeout = Duration::from_millis(500);
    let handler = unruly(|entry| entry.limits.budget.timeout = timeout);
    let report = run(&handler, "loop").await;
    let Outcome::TimedOut(interruption) = &report.outcome else {
        panic!("{report:?}");
    };
    assert_eq!(interruption.message, "still running after 500ms (`limits.timeout`)");
    assert!(stack(interruption).contains("unruly::handle"), "{interruption:?}");
    assert!(report.usage.duration >= timeout);
    assert!(report.usage.fuel > 0);
}

#[tokio::test]
async fn an_endless_loop_runs_out_of_fuel_if_there_is_time() {
    let handler = unruly(|entry| entry.limits.budget.fuel = 10_000_000);
    let report = run(&handler, "loop").await;
    let Outcome::OutOfFuel(interruption) = &report.outcome else {
        panic!("{report:?}");
    };
    assert_eq!(interruption.message, "burnt all of its 10000000 units of fuel (`limits.fuel`)");
    assert!(stack(interruption).contains("unruly::handle"), "{interruption:?}");
    assert_eq!(report.usage.fuel, 10_000_000);
}

#[tokio::test]
async fn waiting_in_a_host_call_times_out() {
    let handler = unruly(|entry| entry.limits.budget.timeout = Duration::from_millis(500));
    let report = run(&handler, "sleep:600000").await;
    let Outcome::TimedOut(interruption) = &report.outcome else {
        panic!("{report:?}");
    };
    assert!(interruption.message.starts_with("still waiting in a host call after 500ms"), "{interruption:?}");
}

#[tokio::test]
async fn a_short_wait_is_no_failure() {
    let report = run(&unruly(|_| ()), "sleep:1").await;
    assert_eq!(report.outcome, Outcome::Completed(vec![]));
}

#[tokio::test]
async fn too_much_memory_is_told_from_any_other_abort() {
    let report = run(&unruly(|_| ()), "alloc").await;
    let Outcome::OutOfMemory(interruption) = &report.outcome else {
        panic!("{report:?}");
    };
    assert!(interruption.message.contains("16777216 are allowed (`limits.memory`)"), "{interruption:?}");
    assert!(stack(interruption).contains("without_bound"), "{interruption:?}");
    assert!(report.usage.memory_peak_bytes <= 16 * MIB);
    assert!(report.usage.memory_peak_bytes > 14 * MIB);
}

#[tokio::test]
async fn a_payload_that_does_not_fit_is_too_much_memory() {
    let handler = unruly(|entry| entry.limits.budget.memory_bytes = 2 * MIB);
    let report = run(&handler, &"x".repeat(4 << 20)).await;
    assert!(matches!(report.outcome, Outcome::OutOfMemory(_)), "{report:?}");
}

#[tokio::test]
async fn traps_say_what_and_where() {
    let handler = unruly(|_| ());
    for (command, message, function) in [
        ("recurse", "call stack exhausted", "recurse"),
        ("panic", "asked to panic", "unruly::handle"),
        ("trap", "unreachable", "outer_of_the_trap"),
        // Some builds of the standard library have no function for it.
        ("abort", "unreachable", "unruly::handle"),
    ] {
        let report = run(&handler, command).await;
        let interruption = trapped(&report);
        assert!(interruption.message.contains(message), "{interruption:?}");
        assert!(stack(interruption).contains(function), "{interruption:?}");
        assert!(!stack(interruption).contains("_ZN"), "{interruption:?}");
        assert!(!stack(interruption).contains("_RN"), "{interruption:?}");
    }
}

#[tokio::test]
async fn the_innermost_frame_comes_first() {
    let report = run(&unruly(|_| ()), "trap").await;
    let stack = stack(trapped(&report));
    let line_of = |name: &str| stack.lines().position(|line| line.contains(name));
    let (bottom, outer) = (line_of("bottom_of_the_trap"), line_of("outer_of_the_trap"));
    assert!(bottom.is_some() && bottom < outer, "{stack}");
    assert!(stack.lines().count() <= 32 + 21, "{stack}");
}

#[tokio::test]
async fn a_deep_stack_is_cut() {
    let report = run(&unruly(|_| ()), "recurse").await;
    let stack = stack(trapped(&report));
    assert_eq!(stack.lines().count(), 32, "{stack}");
}

#[tokio::test]
async fn outputs_are_limited_in_number_and_size() {
    let handler = unruly(|_| ());
    let refusal = |message: &str| Outcome::OutputRefused { message: message.into() };
    let Outcome::Completed(outputs) = run(&handler, "outputs:64").await.outcome else {
        panic!("64 are allowed");
    };
    assert_eq!(outputs.len(), 64);
    assert_eq!(
        run(&handler, "outputs:65").await.outcome,
        refusal("returned 65 outputs; 64 are allowed (`limits.outputs`)")
    );
    let header_and_subject = "out.huge".len();
    let fits = (1 << 20) - header_and_subject;
    let report = run(&handler, &format!("huge-output:{fits}")).await;
    assert!(matches!(report.outcome, Outcome::Completed(_)), "{report:?}");
    let report = run(&handler, &format!("huge-output:{}", fits + 1)).await;
    assert_eq!(
        report.outcome,
        refusal("returned 1048577 bytes of outputs; 1048576 are allowed (`limits.output_bytes`)")
    );
}

#[tokio::test]
async fn what_is_refused_does_not_fill_the_hosts_memory() {
    let handler = unruly(|entry| entry.limits.budget.memory_bytes = 64 * MIB);
    for payload in ["huge-output:16777216", "outputs:100000"] {
        let report = run(&handler, payload).await;
        let Outcome::OutputRefused { message } = &report.outcome else {
            panic!("{report:?}");
        };
        assert!(message.contains("far beyond `limits.outputs`"), "{message}");
    }
}

#[tokio::test]
async fn a_budget_too_small_to_start_is_reported_as_such() {
    let handler = unruly(|entry| entry.limits.budget.fuel = 1);
    let report = run(&handler, "echo").await;
    assert!(matches!(report.outcome, Outcome::OutOfFuel(_)), "{report:?}");
    let handler = unruly(|entry| {
        entry.limits.budget.fuel = ENDLESS;
        entry.limits.budget.timeout = EVER;
    });
    assert!(matches!(run(&handler, "echo").await.outcome, Outcome::Completed(_)));
}

#[tokio::test]
async fn exceptions_pile_up_within_the_memory_limit() {
    let handler = handler(&wat::guest(
        "(tag $oops)",
        "(loop $again
            (block $caught (try_table (catch $oops $caught) (throw $oops)))
            (br $again))",
    ));
    let report = run(&handler, "").await;
    assert!(matches!(report.outcome, Outcome::OutOfMemory(_)), "{report:?}");
    assert!(report.usage.memory_peak_bytes <= 16 * MIB);
}
