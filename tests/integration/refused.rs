//! Messages that the server or a stream would refuse, on a real server: of an event's outputs nothing is stored then, and
//! retries and dead letters are made small enough.

use async_nats::jetstream::stream::Config;
use tidemill_policy::event::Output;
use tidemill_policy::headers;
use tidemill_policy::history::{AttemptError, Kind};

use crate::support::{Stored, World, completed, eventually, output, reject, retry};

const MANIFEST: &str = r#"
[handler.h]
subject = "in.>"
stream = "IN"
allow = { publish = ["out.>", "small.>", "nowhere.>"] }
retry = { max_attempts = 2, initial = "10ms", max = "20ms", in_memory = "0s" }
limits = { output_bytes = "8MiB", outputs = 64 }
"#;

fn sized(subject: &str, bytes: usize) -> Output {
    output(subject, &"p".repeat(bytes))
}

fn last_error(letter: &Stored) -> AttemptError {
    let errors: Vec<AttemptError> = serde_json::from_str(&letter.headers[headers::ERRORS]).expect("a history");
    errors.into_iter().next_back().expect("an error")
}

async fn count(world: &World, stream: &str) -> u64 {
    let mut stream = world.context.get_stream(stream).await.expect("the stream");
    stream.info().await.expect("its state").state.messages
}

/// Publishes an event whose handler has these outputs, and returns its one dead letter.
async fn dead_letter_of(world: &World, manifest: &str, outputs: Vec<Output>) -> Stored {
    let before = count(world, "OUT").await;
    let running = world.run(manifest, move |_| completed(&outputs)).ready().await;
    world.publish("in.x", &[], "x").await;
    let letter = world.wait_for("TIDEMILL_DEADLETTER", 1).await.pop().expect("a dead letter");
    assert_eq!(count(world, "OUT").await, before, "no output of a failed attempt is stored");
    running.drain().await.expect("drains");
    let letters = world.context.get_stream("TIDEMILL_DEADLETTER").await.expect("the stream");
    assert_eq!(count(world, "TIDEMILL_DEADLETTER").await, 1);
    letters.purge().await.expect("purged");
    letter
}

#[tokio::test]
async fn nothing_is_stored_of_outputs_of_which_one_is_too_large() {
    let world = World::in_and_out().await;
    let small = Config { max_message_size: 1_000, ..World::config("SMALL", &["small.>"]) };
    world.context.create_stream(small).await.expect("a stream");
    let header = Output { headers: vec![("X-A".into(), "v".repeat(15_000)); 1], ..output("out.b", "x") };
    let cases = [
        // With its headers, it has a few bytes more than the server takes.
        (vec![sized("out.a", 5), sized("out.b", 1_048_450)], "output 1 has", "the server takes 1048576 (max_payload)"),
        (vec![sized("out.a", 5), sized("out.b", 2_000_000)], "output 1 has", "the server takes 1048576 (max_payload)"),
        (vec![sized("out.a", 5), sized("small.b", 999)], "output 1 has", "stream SMALL takes 1000 (max_msg_size)"),
        (
            vec![sized("out.a", 5), header, sized("small.b", 5_000), sized("out.c", 1)],
            "output 2 has 5",
            "stream SMALL takes 1000 (max_msg_size)",
        ),
    ];
    for (outputs, which, limit) in cases {
        let error = last_error(&dead_letter_of(&world, MANIFEST, outputs).await);
        assert_eq!((error.kind, error.attempt), (Kind::Output, 1));
        for part in [which, limit, "too large"] {
            assert!(error.message.contains(part), "{part}: {}", error.message);
        }
    }
    assert_eq!(count(&world, "SMALL").await, 0);
    // What is just small enough is stored.
    let fitting = vec![sized("out.a", 5), sized("small.b", 600), sized("out.b", 1_048_000)];
    let running = world.run(MANIFEST, move |_| completed(&fitting)).ready().await;
    world.publish("in.x", &[], "x").await;
    assert_eq!(world.wait_for("OUT", 2).await.len(), 2);
    world.wait_for("SMALL", 1).await;
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn nothing_is_stored_of_outputs_of_which_one_has_no_stream() {
    let world = World::in_and_out().await;
    let letter = dead_letter_of(&world, MANIFEST, vec![sized("out.a", 5), sized("nowhere.b", 5)]).await;
    let error = last_error(&letter);
    assert_eq!((error.kind, error.attempt), (Kind::Output, 2), "a stream may be made meanwhile");
    assert!(error.message.contains("\"nowhere.b\""), "{}", error.message);
}

/// The server says that a message is denied when the one before it is stored already.
#[tokio::test]
async fn nothing_is_stored_of_outputs_of_which_one_is_denied() {
    let accounts = r#"
        accounts { APP { jetstream: enabled, users: [
            { user: admin, password: x },
            { user: app, password: y, permissions: { publish: { deny: ["out.secret"] } } } ] } }
        no_auth_user: admin
    "#;
    let world = World::start_with(accounts).await;
    world.stream("IN", &["in.>"]).await;
    world.stream("OUT", &["out.>"]).await;
    let denied = MANIFEST.to_owned();
    let url = world.server.url.replace("nats://", "nats://app:y@");
    let outputs = vec![sized("out.a", 5), sized("out.secret", 5), sized("out.b", 5)];
    let running = crate::support::run_at(&url, &denied, move |_| completed(&outputs)).ready().await;
    for _ in 0..3 {
        world.publish("in.x", &[], "x").await;
    }
    for letter in world.wait_for("TIDEMILL_DEADLETTER", 3).await {
        let error = last_error(&letter);
        assert_eq!((error.kind, error.attempt), (Kind::Denied, 1));
        assert!(error.message.contains("\"out.secret\""), "{}", error.message);
    }
    assert_eq!(count(&world, "OUT").await, 0);
    running.drain().await.expect("drains");
}

/// A payload that just fits leaves little room for what we have to say of its event.
#[tokio::test]
async fn retries_and_dead_letters_of_large_events_are_made_to_fit() {
    let world = World::start_with("max_payload: 65536\n").await;
    world.stream("IN", &["in.>"]).await;
    world.stream("OUT", &["out.>"]).await;
    let long = "m".repeat(800);
    let running = world
        .run(MANIFEST, move |event| if event.attempt.get() == 1 { retry(&long) } else { reject(&long) })
        .ready()
        .await;
    let payload = "p".repeat(64_400);
    world.publish("in.x", &[("X-Long", &"v".repeat(300)), ("Content-Type", "text/plain")], payload.clone()).await;
    let letter = world.wait_for("TIDEMILL_DEADLETTER", 1).await.pop().expect("a dead letter");
    assert_eq!(letter.payload, payload.as_bytes());
    assert_eq!(running.seen().iter().map(|event| event.attempt.get()).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((letter.headers[headers::REASON].as_str(), letter.headers[headers::ATTEMPT].as_str()), ("reject", "2"));
    assert_eq!(letter.headers["Content-Type"], "text/plain");
    let told: Vec<AttemptError> = serde_json::from_str(&letter.headers[headers::ERRORS]).expect("a history");
    let dropped = letter.headers.get(headers::ERRORS_DROPPED).map_or(0, |count| count.parse().expect("a number"));
    assert_eq!(told.len() + dropped, 2);
    // The retry was stored too, and did not wait in the process.
    let retries = &running.status.report().handlers["h"].counts;
    assert_eq!(retries.retried, 1, "{retries:?}");
    running.drain().await.expect("drains");
}

/// Whoever may publish there says when a retry is due, but not that it never is.
#[tokio::test]
async fn a_retry_that_says_that_it_is_never_due_is_not_delivered_again_and_again() {
    let world = World::in_and_out().await;
    let running = world.run(MANIFEST, |_| completed(&[output("out.a", "x")])).ready().await;
    let sound = [
        (headers::EVENT_ID, "e1"),
        (headers::ATTEMPT, "1"),
        (headers::ERRORS, "[]"),
        (headers::ORIGIN_SUBJECT, "in.x"),
    ];
    let never = [&sound[..], &[(headers::NOT_BEFORE, "18446744073709551615")]].concat();
    world.publish("tidemill.retry.due.h", &never, "x").await;
    let delivered = || async {
        let stream = world.context.get_stream_no_info("TIDEMILL_RETRY").await.ok()?;
        let info = stream.consumer_info("tidemill-h-retry").await.ok()?;
        (info.num_pending == 0 && info.num_redelivered <= 1).then_some(info.delivered.consumer_sequence)
    };
    eventually("it is delivered", || async { delivered().await.filter(|count| *count > 0) }).await;
    // Others go on meanwhile, for as long as handing it back in a hurry would take thousands of deliveries.
    for n in 0..20 {
        world.publish("in.x", &[], format!("{n}")).await;
    }
    running.wait_for_calls(20).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    let count = delivered().await.expect("a consumer");
    assert!(count < 5, "{count} deliveries");
    running.drain().await.expect("drains");
}
