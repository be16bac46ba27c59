//! `order.by = "latest"`, on a real server and on the command line.

use tidemill_policy::headers;
use tidemill_policy::history::{AttemptError, Kind};

use crate::cli::Desk;
use crate::support::{Running, Stored, World, completed, eventually, output, retry};

const LATEST: &str = r#"
[handler.h]
subject = "in.>"
stream = "IN"
allow = { publish = ["out.>"] }
retry = { max_attempts = 3, initial = "10ms", max = "20ms", in_memory = "0s" }
order = { by = "latest", key = "json:/user", time = "json:/at" }
"#;

async fn publish(world: &World, id: &str, user: u32, at: &str) {
    world.publish("in.x", &[(headers::MSG_ID, id)], format!(r#"{{"user": {user}, "at": {at}}}"#)).await;
}

fn stale(running: &Running) -> u64 {
    running.status.report().handlers["h"].counts.stale
}

fn texts(messages: &[Stored]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect()
}

#[tokio::test]
async fn only_the_latest_of_each_key_takes_effect_over_restarts() {
    let world = World::in_and_out().await;
    let run = || world.run(LATEST, |event| completed(&[output("out.a", &event.id)]));
    let running = run().ready().await;
    for (id, user, at) in [
        ("new", 1, "\"2026-01-01T00:00:02Z\""),
        ("old", 1, "\"2026-01-01T01:00:01+01:00\""),
        ("other", 2, "1767225600"),
        ("newer", 1, "1767225603"),
    ] {
        publish(&world, id, user, at).await;
        world.wait_until_settled("IN", "tidemill-h").await;
    }
    assert_eq!(texts(&world.messages("OUT").await), ["new", "other", "newer"]);
    assert_eq!((stale(&running), running.seen().len()), (1, 3));
    running.drain().await.expect("drains");

    let running = run().ready().await;
    publish(&world, "late", 1, "1767225602").await;
    publish(&world, "none", 1, "null").await;
    let letter = &world.wait_for("TIDEMILL_DEADLETTER", 1).await[0];
    let history: Vec<AttemptError> = serde_json::from_str(&letter.headers[headers::ERRORS]).expect("a history");
    assert_eq!((history[0].kind, letter.headers[headers::EVENT_ID].as_str()), (Kind::Undecodable, "none"));
    eventually("it is discarded", || async { (stale(&running) == 1).then_some(()) }).await;
    assert!(running.seen().is_empty());
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_retry_that_was_overtaken_is_dropped_and_one_that_fails_overtakes_nobody() {
    let world = World::in_and_out().await;
    let script = |event: &tidemill_policy::event::Event| match (event.id.as_str(), event.attempt.get()) {
        ("first", 1) | ("never", _) => retry("not yet"),
        _ => completed(&[output("out.a", &event.id)]),
    };
    let manifest = LATEST.replace("initial = \"10ms\", max = \"20ms\"", "initial = \"1s\", max = \"1s\"");
    let running = world.run(&manifest, script).ready().await;
    publish(&world, "first", 1, "1").await;
    running.wait_for_calls(1).await;
    publish(&world, "second", 1, "2").await;
    publish(&world, "never", 2, "9").await;
    eventually("the retry is discarded", || async { (stale(&running) == 1).then_some(()) }).await;
    world.wait_for("TIDEMILL_DEADLETTER", 1).await;
    publish(&world, "third", 2, "1").await;
    let outputs = world.wait_for("OUT", 2).await;
    assert_eq!(texts(&outputs), ["second", "third"]);
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn of_two_instances_the_one_with_the_older_event_does_not_win() {
    let world = World::in_and_out().await;
    let run = || world.run(LATEST, |event| completed(&[output("out.a", &event.id)]));
    let (slow, quick) = (run().ready().await, run().ready().await);
    // Whoever gets the old one is held up in it, and the other handles the new one.
    slow.close_gate().await;
    quick.close_gate().await;
    publish(&world, "old", 1, "1").await;
    let got_old = eventually("somebody runs it", || async {
        [&slow, &quick].into_iter().position(|running| running.seen().len() == 1)
    })
    .await;
    let (holder, other) = if got_old == 0 { (&slow, &quick) } else { (&quick, &slow) };
    other.open_gate();
    let mut sent = 0;
    let new = eventually("the other instance handles a newer one", || {
        sent += 1;
        let id = format!("new-{sent}");
        let (world, other) = (&world, &other);
        async move {
            publish(world, &id, 1, &(1 + sent).to_string()).await;
            other.seen().last().map(|event| event.id.clone())
        }
    })
    .await;
    eventually("it is stored", || async { texts(&world.messages("OUT").await).contains(&new).then_some(()) }).await;
    holder.open_gate();
    eventually("the old one is discarded", || async { (stale(holder) > 0).then_some(()) }).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    let stored = texts(&world.messages("OUT").await);
    assert!(!stored.contains(&"old".to_owned()), "{stored:?}");
    let numbers: Vec<u32> = stored.iter().filter_map(|id| id.strip_prefix("new-")?.parse().ok()).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    slow.drain().await.expect("drains");
    quick.drain().await.expect("drains");
}

#[tokio::test]
async fn a_stale_event_can_be_kept_and_stays_stale_when_it_is_replayed() {
    let world = World::in_and_out().await;
    let manifest = LATEST.replace("time = ", "on_stale = \"dead-letter\", time = ");
    let running = world.run(&manifest, |event| completed(&[output("out.a", &event.id)])).ready().await;
    publish(&world, "new", 1, "2").await;
    world.wait_for("OUT", 1).await;
    publish(&world, "old", 1, "1").await;
    let letter = &world.wait_for("TIDEMILL_DEADLETTER", 1).await[0];
    assert_eq!(letter.headers[headers::REASON], "stale");
    let replay = ["dlq", "replay", "--nats-url", &world.server.url, "--handler", "h", "--all"];
    Desk::with(&manifest).run(&replay).succeeds();
    let letter = &world.wait_for("TIDEMILL_DEADLETTER", 1).await[0];
    let history: Vec<AttemptError> = serde_json::from_str(&letter.headers[headers::ERRORS]).expect("a history");
    assert_eq!(history.iter().map(|error| error.kind).collect::<Vec<_>>(), [Kind::Stale, Kind::Stale]);
    assert_eq!(running.seen().len(), 1);
    running.drain().await.expect("drains");
}

#[test]
fn explain_and_invoke_know_the_order() {
    let handler = "[handler.echo]\nsubject = 'test.echo'\nallow.publish = ['out.>']\n\
                   order = { by = 'latest', key = 'json:/id', time = 'json:/at', on_stale = 'dead-letter', window = '2h' }\n";
    let desk = Desk::with_guests(handler);
    let shown = desk.run(&["explain", "echo"]).succeeds().stdout.clone();
    let rows = "\norder         the latest for each json:/id by its time (json:/at), remembered for 2h; what is older is \
                dead-lettered\n              an event without them goes to the dead letters\n";
    assert!(shown.contains(rows) && shown.contains("warning       without \"dedup\", an event whose"), "{shown}");
    let json = desk.run(&["explain", "echo", "--output", "json"]).succeeds().json();
    let order = serde_json::json!({ "by": "latest", "key": "json:/id", "time": "json:/at", "on_stale": "dead-letter",
                                    "on_missing": "dead-letter", "window_ms": 7_200_000 });
    assert_eq!(json["order"], order);
    let invoke = |payload: &str| {
        desk.run_with_input(&["invoke", "echo", "--event", "-", "--output", "json"], payload.as_bytes()).json()
    };
    assert_eq!(invoke(r#"{"id": 1, "at": 5}"#)["outcome"], "completed");
    let refused = invoke(r#"{"id": 1}"#);
    assert_eq!((&refused["outcome"], &refused["failure"]["kind"]), (&"not run".into(), &"undecodable".into()));
}
