//! What costs an attempt, on a real server: an event that was not begun is never charged and never given up on.

use tidemill_policy::event::Event;
use tidemill_policy::headers;
use tidemill_policy::history::{AttemptError, Kind};
use tokio::runtime::Runtime;

use crate::support::{World, completed, output, retry};

/// One attempt, one place to run in, and many that wait.
const ONE_ATTEMPT: &str = r#"
[handler.h]
subject = "in.>"
stream = "IN"
allow = { publish = ["out.>"] }
retry = { max_attempts = 1 }
ack_wait = "2s"
limits = { timeout = "1s" }
concurrency = 1
"#;
const WAYS: [&str; 3] =
    ["", "order = { by = 'key', key = 'subject:2' }\n", "order = { by = 'key', key = 'json:/user' }\n"];
const EVENTS: usize = 11;

fn named(event: &Event) -> tidemill_policy::outcome::Outcome {
    completed(&[output("out.a", &event.id)])
}

async fn send(world: &World) {
    for number in 0..EVENTS {
        world.publish("in.x", &[(headers::MSG_ID, &format!("e{number}"))], r#"{"user": "u"}"#).await;
    }
}

/// Checks that all are handled, once each, and none is given up on.
async fn all_are_handled(world: &World, what: &str) {
    let stored = world.wait_for("OUT", EVENTS as u64).await;
    assert_eq!(stored.len(), EVENTS, "{what}");
    let letters = match world.context.get_stream("TIDEMILL_DEADLETTER").await {
        Ok(stream) => stream.cached_info().state.messages,
        Err(_) => 0,
    };
    assert_eq!(letters, 0, "{what}");
}

#[tokio::test]
async fn what_waits_while_the_server_is_restarted_costs_no_attempt() {
    for way in WAYS {
        let mut world = World::in_and_out().await;
        let running = world.run(&format!("{ONE_ATTEMPT}{way}"), named).ready().await;
        running.close_gate().await;
        send(&world).await;
        running.wait_for_calls(1).await;
        for is_killed in [false, true] {
            world = world.restarted(is_killed, &running).await;
        }
        running.open_gate();
        all_are_handled(&world, way).await;
        running.drain().await.expect("drains");
    }
}

/// Instances die without a word, one after the other, while one event is run and the rest waits.
#[tokio::test]
async fn what_waits_while_instances_die_costs_no_attempt() {
    for way in WAYS {
        let world = World::in_and_out().await;
        let text = format!("{ONE_ATTEMPT}{way}").replace("max_attempts = 1", "max_attempts = 3");
        send(&world).await;
        let mut begun = Vec::new();
        for _ in 0..3 {
            let runtime = Runtime::new().expect("a runtime");
            let dying = {
                let _inside = runtime.enter();
                world.run(&text, named)
            };
            dying.close_gate().await;
            begun.push(dying.wait_for_calls(1).await.remove(0));
            runtime.shutdown_background();
        }
        let last = world.run(&text, named).ready().await;
        all_are_handled(&world, way).await;
        for event in last.seen() {
            // The first delivery is free.
            let deaths = begun[1..].iter().filter(|one| one.id == event.id).count();
            assert!(event.attempt.get() as usize <= 1 + deaths, "{way}: {event:?} after {deaths} deaths");
        }
        last.drain().await.expect("drains");
    }
}

/// Somebody lowers the limit while an event waits for its retry.
#[tokio::test]
async fn attempts_above_a_lowered_limit_are_not_called_lost() {
    let world = World::in_and_out().await;
    let text =
        ONE_ATTEMPT.replace("max_attempts = 1", "max_attempts = 5, initial = '1s', jitter = 0.0, in_memory = '0s'");
    let running = world.run(&text, |_| retry("not yet")).ready().await;
    world.publish("in.x", &[], "x").await;
    running.wait_for_calls(2).await;
    running.drain().await.expect("drains");
    let running = world.run(&ONE_ATTEMPT.replace("max_attempts = 1", "max_attempts = 2"), named).ready().await;
    let letter = world.wait_for("TIDEMILL_DEADLETTER", 1).await.remove(0);
    let errors: Vec<AttemptError> = serde_json::from_str(&letter.headers[headers::ERRORS]).expect("a history");
    assert_eq!(errors.iter().map(|error| error.kind).collect::<Vec<_>>(), [Kind::Retry, Kind::Retry, Kind::Attempts]);
    assert_eq!(errors[2].message, "2 attempts were made, and retry.max_attempts is 2 now");
    assert!(running.seen().is_empty());
    running.drain().await.expect("drains");
}
