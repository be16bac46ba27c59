//! Who an event is, on a real server: what producers and guests choose never makes one event another one, and what has
//! ended in nothing is no duplicate.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::Config;
use tidemill_policy::event::Event;
use tidemill_policy::headers;

use crate::cli::Desk;
use crate::support::{World, completed, eventually, output, reject, retry};

const PLAIN: &str = r#"
[handler.h]
subject = "in.>"
stream = "IN"
allow = { publish = ["out.>"] }
retry = { max_attempts = 2, initial = "300ms", jitter = 0.0, in_memory = "0s" }
"#;

/// A stream that takes one id again after the shortest time that the server allows, and one for the outputs.
async fn forgetful() -> World {
    let world = World::start().await;
    let config = Config { duplicate_window: Duration::from_millis(100), ..World::config("IN", &["in.>"]) };
    world.context.create_stream(config).await.expect("a stream");
    let config = Config { duplicate_window: Duration::from_hours(24), ..World::config("OUT", &["out.>"]) };
    world.context.create_stream(config).await.expect("a stream");
    world
}

/// Stores a message although one with this id was stored before.
async fn publish_again(world: &World, subject: &str, id: &str, payload: &str) {
    eventually("the stream has forgotten the id", || async {
        let mut headers = HeaderMap::new();
        headers.insert(headers::MSG_ID, id);
        let sent = world.context.publish_with_headers(subject.to_owned(), headers, payload.to_owned().into()).await;
        (!sent.ok()?.await.ok()?.duplicate).then_some(())
    })
    .await;
}

fn payloads(stored: &[crate::support::Stored]) -> BTreeSet<String> {
    stored.iter().map(|one| String::from_utf8(one.payload.clone()).expect("text")).collect()
}

fn texts<const N: usize>(texts: [&str; N]) -> BTreeSet<String> {
    texts.map(str::to_owned).into()
}

fn echo(event: &Event) -> tidemill_policy::outcome::Outcome {
    completed(&[output("out.a", &String::from_utf8_lossy(&event.payload))])
}

#[tokio::test]
async fn without_dedup_messages_with_equal_ids_have_retries_of_their_own() {
    let world = forgetful().await;
    let script = |event: &Event| if event.attempt.is_first() { retry("not yet") } else { echo(event) };
    let running = world.run(PLAIN, script).ready().await;
    for payload in ["one", "two", "three"] {
        publish_again(&world, "in.x", "same", payload).await;
    }
    assert_eq!(payloads(&world.wait_for("OUT", 3).await), texts(["one", "two", "three"]));
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn without_dedup_messages_with_equal_ids_have_dead_letters_of_their_own() {
    let world = forgetful().await;
    let running = world.run(PLAIN, |_| reject("never")).ready().await;
    for payload in ["one", "two", "three"] {
        publish_again(&world, "in.x", "same", payload).await;
    }
    assert_eq!(payloads(&world.wait_for("TIDEMILL_DEADLETTER", 3).await), texts(["one", "two", "three"]));
    running.drain().await.expect("drains");
}

/// Whoever publishes knows the stream, its clock and the next sequence.
#[tokio::test]
async fn an_id_that_a_producer_chooses_takes_nobody_elses_place() {
    let world = World::in_and_out().await;
    let running = world.run(PLAIN, echo).ready().await;
    world.publish("in.x", &[], "probe").await;
    let probe = running.wait_for_calls(1).await.remove(0);
    let place = probe.id.rsplit_once(':').expect("a place").0.to_owned();
    // What the following events are called by their places, as near as can be guessed: those of the same millisecond.
    for next in 2..30 {
        world.publish("in.x", &[(headers::MSG_ID, &format!("{place}:{next}"))], format!("forged {next}")).await;
    }
    for number in 0..20 {
        world.publish("in.x", &[], format!("honest {number}")).await;
    }
    let stored = payloads(&world.wait_for("OUT", 49).await);
    assert_eq!((stored.len(), running.seen().len()), (49, 49));
    // The same text, given and by place, is two events.
    let honest = running.seen().pop().expect("seen");
    publish_again(&world, "in.x", &honest.id, "copy of a name").await;
    world.wait_for("OUT", 50).await;
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn deployments_with_prefixes_of_their_own_have_no_id_and_no_retry_in_common() {
    let world = World::in_and_out().await;
    let of = |prefix: &str| format!("{PLAIN}durable = \"{prefix}-h\"\n[nats]\nprefix = \"{prefix}\"\n");
    let by = |name: &'static str| {
        move |event: &Event| {
            if event.attempt.is_first() { retry("not yet") } else { completed(&[output("out.a", name)]) }
        }
    };
    let one = world.run(&of("one"), by("one")).ready().await;
    let two = world.run(&of("two"), by("two")).ready().await;
    for id in ["a", "b", "c"] {
        world.publish("in.x", &[(headers::MSG_ID, id)], "x").await;
    }
    let stored = world.wait_for("OUT", 6).await;
    let of = |name: &str| stored.iter().filter(|one| one.payload == name.as_bytes()).count();
    assert_eq!((stored.len(), of("one"), of("two")), (6, 3, 3));
    assert_eq!((one.seen().len(), two.seen().len()), (6, 6));
    one.drain().await.expect("drains");
    two.drain().await.expect("drains");
}

const DEDUP: &str = r#"
[handler.h]
subject = "in.>"
stream = "IN"
allow = { publish = ["out.>"] }
retry = { max_attempts = 2, initial = "1h", max = "1h", jitter = 0.0 }
dedup = { key = "id", window = "1h" }
ack_wait = "2s"
limits = { timeout = "1s" }
"#;

fn desk(world: &World) -> Desk {
    Desk::with(&format!("{DEDUP}[nats]\nurl = '{}'\n", world.server.url))
}

/// A producer that was mended sends again what was given up on; until then, a copy is a duplicate.
#[tokio::test]
async fn what_is_sent_again_after_its_dead_letter_is_gone_is_handled() {
    for way in ["discarded", "purged"] {
        let world = forgetful().await;
        let broken = |event: &Event| if event.payload.as_ref() == b"broken" { reject("broken") } else { echo(event) };
        let running = world.run(DEDUP, broken).ready().await;
        world.publish("in.x", &[(headers::MSG_ID, "e")], "broken").await;
        world.wait_for("TIDEMILL_DEADLETTER", 1).await;
        world.wait_until_settled("IN", "tidemill-h").await;
        publish_again(&world, "in.x", "e", "copy").await;
        let duplicates = || running.status.report().handlers["h"].counts.duplicates;
        eventually("it is a duplicate while its dead letter is there", || async { (duplicates() == 1).then_some(()) })
            .await;
        if way == "discarded" {
            desk(&world).run(&["dlq", "discard", "--all", "--handler", "h", "--yes"]).succeeds();
        } else {
            let letters = world.context.get_stream("TIDEMILL_DEADLETTER").await.expect("the stream");
            letters.purge().await.expect("purged");
        }
        publish_again(&world, "in.x", "e", "mended").await;
        assert_eq!(payloads(&world.wait_for("OUT", 1).await), texts(["mended"]), "{way}");
        running.drain().await.expect("drains");
    }
}

#[tokio::test]
async fn what_is_sent_again_after_its_retry_was_dropped_is_handled() {
    let world = forgetful().await;
    if world.client.server_info().version.as_str() < "2.12" {
        return;
    }
    let broken = |event: &Event| if event.payload.as_ref() == b"broken" { retry("later") } else { echo(event) };
    let running = world.run(DEDUP, broken).ready().await;
    world.publish("in.x", &[(headers::MSG_ID, "e")], "broken").await;
    eventually("its retry waits", || async {
        let stream = world.context.get_stream("TIDEMILL_RETRY").await.ok()?;
        (stream.cached_info().state.messages == 1).then_some(())
    })
    .await;
    world.wait_until_settled("IN", "tidemill-h").await;
    desk(&world).run(&["retry", "drop", "h", "--all", "--yes"]).succeeds();
    publish_again(&world, "in.x", "e", "mended").await;
    assert_eq!(payloads(&world.wait_for("OUT", 1).await), texts(["mended"]));
    running.drain().await.expect("drains");
}

/// The message that carried the event on is still stored, and the handler was told to go on behind it.
#[tokio::test]
async fn what_is_sent_again_after_its_handler_went_on_elsewhere_is_handled() {
    let world = forgetful().await;
    let text = format!("{DEDUP}[runtime]\ndrain = \"100ms\"\n");
    world.publish("in.x", &[(headers::MSG_ID, "e")], "cut off").await;
    // From its second delivery on, it is recorded that it has begun.
    for _ in 0..2 {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let dying = {
            let _inside = runtime.enter();
            world.run(&text, echo)
        };
        dying.close_gate().await;
        dying.wait_for_calls(1).await;
        runtime.shutdown_background();
    }
    desk(&world).run(&["rewind", "h", "--to", "2", "--yes"]).succeeds();
    let running = world.run(&text, echo).ready().await;
    publish_again(&world, "in.x", "e", "again").await;
    assert_eq!(payloads(&world.wait_for("OUT", 1).await), texts(["again"]));
    running.drain().await.expect("drains");
}

/// It had begun when its instance was stopped, and its stream was emptied or made anew before another one came.
#[tokio::test]
async fn what_is_sent_again_after_its_stream_was_emptied_is_handled() {
    for is_purged in [true, false] {
        let world = forgetful().await;
        let text = format!("{DEDUP}[runtime]\ndrain = \"100ms\"\n");
        let running = world.run(&text, echo).ready().await;
        running.close_gate().await;
        world.publish("in.x", &[(headers::MSG_ID, "e")], "lost").await;
        running.wait_for_calls(1).await;
        running.drain().await.expect("drains");
        if is_purged {
            world.context.get_stream("IN").await.expect("the stream").purge().await.expect("purged");
        } else {
            world.context.delete_stream("IN").await.expect("deleted");
            world.stream("IN", &["in.>"]).await;
        }
        let running = world.run(&text, echo).ready().await;
        publish_again(&world, "in.x", "e", "again").await;
        assert_eq!(payloads(&world.wait_for("OUT", 1).await), texts(["again"]), "purged: {is_purged}");
        running.drain().await.expect("drains");
    }
}
