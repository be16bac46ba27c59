//! A guest never has the thread, the process or the host's memory to itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tidemill::invoker::Invoker;
use tidemill_policy::outcome::Outcome;

use crate::setup::{event, output, run, unruly};

#[tokio::test(flavor = "current_thread")]
async fn other_tasks_run_while_a_guest_loops() {
    let handler = unruly(|entry| entry.limits.budget.timeout = Duration::from_millis(100));
    let looping = AtomicBool::new(true);
    let looped = async {
        let report = run(&handler, "loop").await;
        looping.store(false, Ordering::Relaxed);
        report
    };
    let others = async {
        let mut turns = 0;
        let mut timers = 0;
        while looping.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
            turns += 1;
            if tokio::time::timeout(Duration::from_millis(1), std::future::pending::<()>()).await.is_err() {
                timers += 1;
            }
        }
        (turns, timers)
    };
    let (report, (turns, timers)) = tokio::join!(looped, others);
    assert!(matches!(report.outcome, Outcome::TimedOut(_)), "{report:?}");
    assert!(turns > 1 && timers > 1, "{turns} turns, {timers} timers");
}

#[tokio::test(flavor = "current_thread")]
async fn a_spawned_task_runs_while_a_guest_loops() {
    let handler = Arc::new(unruly(|_| ()));
    let looping = Arc::clone(&handler);
    let looping = tokio::spawn(async move { run(&looping, "loop").await });
    tokio::task::yield_now().await;
    let report = run(&handler, "echo").await;
    assert_eq!(output(&report), "echo");
    assert!(!looping.is_finished());
    looping.abort();
    assert!(looping.await.is_err_and(|error| error.is_cancelled()));
}

#[tokio::test]
async fn an_invocation_can_be_dropped_while_it_loops_or_waits() {
    let handler = unruly(|_| ());
    assert_eq!(output(&run(&handler, "count").await), "1");
    for command in ["loop", "sleep:600000"] {
        let mut call = Box::pin(handler.invoke(event(command).into()));
        assert!(call.as_mut().now_or_never().is_none(), "{command}");
        drop(call);
        assert_eq!(output(&run(&handler, "count").await), "1", "the instance of a dropped invocation is used again");
    }
}

#[tokio::test]
async fn dropped_invocations_leave_room_for_others() {
    let handler = unruly(|_| ());
    for _ in 0..200 {
        let call = handler.invoke(event("sleep:600000").into());
        assert!(call.now_or_never().is_none());
    }
    assert_eq!(output(&run(&handler, "echo").await), "echo");
}
