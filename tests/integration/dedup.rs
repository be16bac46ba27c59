//! Events that are handled once, on a real server: duplicates, claims, deaths of the server, and attempts that are
//! not charged.

use tidemill::status::StatusReport;
use tidemill_policy::headers;
use tidemill_policy::history::{AttemptError, Kind};

use crate::support::{World, completed, eventually, output, reject, retry, start_server};

const DEDUP: &str = r#"
[handler.h]
subject = "in.>"
stream = "IN"
allow = { publish = ["out.>"] }
retry = { max_attempts = 3, initial = "10ms", max = "20ms" }
dedup = { key = "json:/order", window = "1h" }
"#;

fn duplicates(report: &StatusReport) -> u64 {
    report.handlers["h"].counts.duplicates
}

#[tokio::test]
async fn an_event_that_is_sent_again_is_handled_once_whatever_else_its_message_says() {
    let world = World::in_and_out().await;
    let running = world.run(DEDUP, |event| completed(&[output("out.a", &event.id)])).ready().await;
    for (id, payload) in [("m1", r#"{"order": 7}"#), ("m2", r#"{"x": 1, "order": 7}"#), ("m3", r#"{"order":7}"#)] {
        world.publish("in.x", &[(headers::MSG_ID, id)], payload).await;
        world.wait_until_settled("IN", "tidemill-h").await;
    }
    assert_eq!(running.seen().len(), 1);
    assert_eq!((running.seen()[0].id.as_str(), duplicates(&running.status.report())), ("7", 2));
    running.drain().await.expect("drains");
    // Another instance has to ask.
    let running = world.run(DEDUP, |event| completed(&[output("out.a", &event.id)])).ready().await;
    world.publish("in.x", &[], r#"{"order": 7}"#).await;
    eventually("it is known", || async { (duplicates(&running.status.report()) == 1).then_some(()) }).await;
    assert!(running.seen().is_empty());
    assert_eq!(world.messages("OUT").await.len(), 1);
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn an_event_without_its_key_is_dead_lettered_and_says_so() {
    let world = World::in_and_out().await;
    let running = world.run(DEDUP, |_| completed(&[])).ready().await;
    for payload in [r#"{"no": 1}"#, "no JSON", r#"{"order": null}"#, r#"{"order": [1]}"#] {
        world.publish("in.x", &[], payload).await;
    }
    for letter in world.wait_for("TIDEMILL_DEADLETTER", 4).await {
        assert_eq!(letter.headers[headers::REASON], "undecodable");
        assert!(letter.headers[headers::ERRORS].contains("dedup.key: "), "{:?}", letter.headers);
    }
    assert!(running.seen().is_empty());
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_failed_attempt_does_not_keep_its_own_retry_from_running_and_its_end_is_remembered() {
    let world = World::in_and_out().await;
    for claim in ["", ", claim = true"] {
        let manifest = DEDUP.replace("\"1h\"", &format!("\"1h\"{claim}"));
        let script = |event: &tidemill_policy::event::Event| match event.attempt.get() {
            1 => retry("not yet"),
            _ => reject("never"),
        };
        if !claim.is_empty() && world.client.server_info().version.as_str() < "2.11" {
            continue;
        }
        let running = world.run(&manifest, script).ready().await;
        let payload = format!(r#"{{"order": "of{claim}"}}"#);
        world.publish("in.x", &[], payload.clone()).await;
        running.wait_for_calls(2).await;
        world.wait_until_settled("TIDEMILL_RETRY", "tidemill-h-retry").await;
        world.publish("in.x", &[], payload).await;
        eventually("it is known", || async { (duplicates(&running.status.report()) == 1).then_some(()) }).await;
        assert_eq!(running.seen().len(), 2);
        running.drain().await.expect("drains");
    }
}

#[tokio::test]
async fn what_is_claimed_by_one_instance_is_left_to_it_by_others() {
    let world = World::in_and_out().await;
    if world.client.server_info().version.as_str() < "2.11" {
        return;
    }
    let manifest = DEDUP.replace("\"1h\"", "\"1h\", claim = true");
    let one = world.run(&manifest, |_| completed(&[output("out.a", "x")])).ready().await;
    one.close_gate().await;
    world.publish("in.x", &[], r#"{"order": 1}"#).await;
    one.wait_for_calls(1).await;
    let other = world.run(&manifest, |_| completed(&[output("out.a", "x")])).ready().await;
    // Whichever gets the copies: none is run while the first one is.
    for _ in 0..4 {
        world.publish("in.x", &[], r#"{"order": 1}"#).await;
    }
    let copies = || duplicates(&one.status.report()) + duplicates(&other.status.report());
    // Those that its own instance gets wait there.
    eventually("the copies are delivered", || async {
        let stream = world.context.get_stream_no_info("IN").await.ok()?;
        (stream.consumer_info("tidemill-h").await.ok()?.num_pending == 0).then_some(())
    })
    .await;
    one.open_gate();
    world.wait_until_settled("IN", "tidemill-h").await;
    assert_eq!((one.seen().len(), other.seen().len()), (1, 0));
    assert_eq!((copies(), world.messages("OUT").await.len()), (4, 1));
    one.drain().await.expect("drains");
    other.drain().await.expect("drains");
}

#[tokio::test]
async fn what_a_killed_server_delivers_again_is_not_run_again() {
    const EVENTS: usize = 300;
    let world = World::in_and_out().await;
    let manifest = format!("{DEDUP}ack = \"confirmed\"\nack_wait = \"2s\"\n");
    let running = world.run(&manifest, |event| completed(&[output("out.a", &event.id)])).ready().await;
    for order in 0..EVENTS {
        world.publish("in.x", &[], format!(r#"{{"order": {order}}}"#)).await;
    }
    world.wait_for("OUT", EVENTS as u64).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    let World { server, folder, .. } = world;
    let port = server.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    server.kill().await;
    let server = start_server(folder.path(), Some(port), "").await;
    let client = async_nats::connect(&server.url).await.expect("a connection");
    let context = async_nats::jetstream::new(client.clone());
    let world = World { server, client, context, folder };
    // The server has forgotten the latest acknowledgements; a new event comes behind whatever it delivers again.
    world.publish("in.x", &[], r#"{"order": "last"}"#).await;
    world.wait_for("OUT", EVENTS as u64 + 1).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    assert_eq!(running.seen().len(), EVENTS + 1);
    assert_eq!(world.messages("OUT").await.len(), EVENTS + 1);
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn what_is_handed_back_at_a_shutdown_costs_no_attempt() {
    let world = World::in_and_out().await;
    let manifest = "handler.h = { subject = 'in.>', stream = 'IN', concurrency = 1, retry.max_attempts = 1 }";
    let running = world.run(manifest, |_| completed(&[])).ready().await;
    running.close_gate().await;
    // One is run and occupies the only slot, one waits behind it.
    world.publish("in.1", &[], "p").await;
    running.wait_for_calls(1).await;
    world.publish("in.2", &[], "p").await;
    let status = running.status.clone();
    let in_flight = || status.report().handlers["h"].in_flight;
    eventually("both are here", || async { (in_flight() == 2).then_some(()) }).await;
    running.stop.cancel();
    eventually("the waiting one is handed back", || async { (in_flight() == 1).then_some(()) }).await;
    running.open_gate();
    running.drain().await.expect("drains");

    let running = world.run(manifest, |_| completed(&[])).ready().await;
    let seen = running.wait_for_calls(1).await;
    assert_eq!((seen[0].subject.as_str(), seen[0].attempt.get()), ("in.2", 1));
    world.wait_until_settled("IN", "tidemill-h").await;
    assert!(world.messages("TIDEMILL_DEADLETTER").await.is_empty());
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn an_event_that_is_too_old_is_dead_lettered_instead_of_being_run_late() {
    let world = World::in_and_out().await;
    let manifest = "handler.h = { subject = 'in.>', stream = 'IN', max_age = '2s', \
                    retry = { initial = '1500ms', max = '1500ms', jitter = 0.0, max_attempts = 100 } }";
    let running = world.run(manifest, |_| retry("not yet")).ready().await;
    world.publish("in.x", &[], "p").await;
    let letters = world.wait_for("TIDEMILL_DEADLETTER", 1).await;
    let errors: Vec<AttemptError> = serde_json::from_str(&letters[0].headers[headers::ERRORS]).expect("a history");
    assert_eq!(errors.last().map(|error| error.kind), Some(Kind::Expired));
    assert_eq!(letters[0].headers[headers::REASON], "expired");
    assert!(running.seen().len() < 4, "{}", running.seen().len());
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_marker_outlives_nothing_but_its_window() {
    let world = World::in_and_out().await;
    if world.client.server_info().version.as_str() < "2.11" {
        return;
    }
    let manifest =
        DEDUP.replace("\"1h\"", "\"1s\"").replace("subject =", "ack_wait = \"1s\"\nlimits.timeout = \"1s\"\nsubject =");
    let running = world.run(&manifest, |_| completed(&[])).ready().await;
    world.publish("in.x", &[], r#"{"order": 1}"#).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    eventually("the marker is forgotten", || async {
        let mut stream = world.context.get_stream("KV_tidemill_done").await.ok()?;
        // What is left says since when markers have their names.
        (stream.info().await.ok()?.state.messages == 1).then_some(())
    })
    .await;
    world.publish("in.x", &[], r#"{"order": 1}"#).await;
    running.wait_for_calls(2).await;
    running.drain().await.expect("drains");
}
