//! Who passes a gate when, and how much may be pulled meanwhile.

use futures::FutureExt;
use tidemill_policy::manifest::{self, Source};

use super::*;

fn gate(policy: &str) -> Arc<Gate> {
    let text = format!("[handler.h]\nsubject = 'in.>'\n{policy}\n");
    let source = Source { path: "tidemill.toml", text: &text };
    let mut parsed = manifest::parse(source, &[], &|_| None).expect("a valid manifest").manifest;
    let handler = Arc::new(parsed.handlers.remove("h").expect("handler h"));
    Gate::new(handler, Clock::Tokio { start_ms: 1_800_000_000_000, start: Instant::now() })
}

fn line_up(gate: &Arc<Gate>, attempt: u32) -> Ticket {
    gate.line_up(Attempt::new(attempt).expect("from 1"))
}

fn passes(ticket: &Ticket) -> Option<Pass> {
    ticket.pass().now_or_never()
}

async fn fail(gate: &Arc<Gate>, count: usize) {
    for _ in 0..count {
        line_up(gate, 1).pass().await.report(Verdict::Transient);
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_brake_is_on_events_are_tried_that_have_most_attempts_left() {
    let gate = gate("");
    let intake = gate.intake();
    assert_eq!(*intake.borrow(), u32::MAX);
    fail(&gate, 18).await;
    assert_eq!(*intake.borrow(), 1);
    let (third, first, second) = (line_up(&gate, 3), line_up(&gate, 1), line_up(&gate, 2));
    assert!(passes(&first).is_none(), "there is a pause");
    tokio::time::advance(Duration::from_mins(1)).await;
    assert!(passes(&third).is_none() && passes(&second).is_none());
    let pass = passes(&first).expect("its turn");
    assert!(passes(&second).is_none(), "one at a time");
    // Cut off: another may be tried at once.
    drop(pass);
    passes(&second).expect("its turn").report(Verdict::Works);
    assert_eq!(*intake.borrow(), 2);
    assert!(passes(&third).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_brake_pauses_as_the_policy_says_that_holds_now() {
    let gate = gate("retry = { initial = '1m', max = '1h', jitter = 0.0 }");
    gate.follow(&RetryPolicy {
        initial: Duration::from_secs(1),
        max: Duration::from_secs(1),
        ..gate.handler.retry.clone()
    });
    fail(&gate, 18).await;
    let waiting = line_up(&gate, 1);
    assert!(passes(&waiting).is_none(), "there is a pause");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(passes(&waiting).is_some());
}

#[tokio::test(start_paused = true)]
async fn what_no_longer_waits_holds_nobody_up() {
    let gate = gate("rate_limit = { rate = '1/min', burst = 1 }");
    assert_eq!(*gate.intake().borrow(), 1);
    let (first, second, third) = (line_up(&gate, 1), line_up(&gate, 1), line_up(&gate, 1));
    assert!(passes(&second).is_none(), "it is not its turn");
    assert!(passes(&first).is_some());
    drop(second);
    let since = Instant::now();
    drop(third.pass().await);
    assert_eq!(since.elapsed().as_secs(), 60);
    assert_eq!(gate.report().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_lets_nobody_pass_and_has_nothing_pulled_until_one_is_to_be_tried() {
    let gate = gate("circuit_breaker = { failures = 2, open_for = '30s' }");
    fail(&gate, 2).await;
    assert_eq!((gate.report().breaker, *gate.intake().borrow()), ("open", 0));
    let waiting = line_up(&gate, 1);
    assert!(passes(&waiting).is_none());
    drop(waiting);
    tokio::time::advance(Duration::from_secs(30)).await;
    // Nobody may try before the keeper has claimed that for this instance.
    let waiting = line_up(&gate, 1);
    assert!(passes(&waiting).is_none());
    assert_eq!(*gate.intake().borrow(), 0, "one is in hand already");
    drop(waiting);
    assert_eq!(*gate.intake().borrow(), 1);
}
