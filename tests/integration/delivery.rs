//! Delivery on a real server, with scripted handlers: what is stored, what is settled, and what survives.

use std::time::Duration;

use futures::StreamExt;
use tidemill::broker::nats::consume;
use tidemill::instance::StartError;
use tidemill_policy::headers;
use tidemill_policy::history::{AttemptError, Kind};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use crate::support::{Stored, World, completed, eventually, output, purse, reject, retry, run_at, start_server};

const MANIFEST: &str = r#"
[handler.h]
subject = "in.>"
stream = "IN"
allow = { publish = ["out.>"] }
retry = { max_attempts = 3, initial = "10ms", max = "20ms" }
"#;

fn history(letter: &Stored) -> Vec<AttemptError> {
    serde_json::from_str(&letter.headers[headers::ERRORS]).expect("a valid history")
}

#[tokio::test]
async fn outputs_are_stored_once_even_if_the_event_is_delivered_again() {
    let world = World::in_and_out().await;
    let running =
        world.run(MANIFEST, |event| completed(&[output("out.a", &event.id), output("out.b", "2")])).ready().await;
    world.publish("in.x", &[(headers::MSG_ID, "e1"), ("X-Own", "1"), ("traceparent", "00-a-b-01")], "payload").await;
    let stored = world.wait_for("OUT", 2).await;
    assert_eq!((stored[0].subject.as_str(), stored[0].payload.as_slice()), ("out.a", b"e1".as_slice()));
    assert_eq!(stored[0].headers[headers::CAUSATION_ID], "e1");
    assert_eq!(stored[0].headers["traceparent"], "00-a-b-01");
    assert_ne!(stored[0].headers[headers::MSG_ID], stored[1].headers[headers::MSG_ID]);
    world.wait_until_settled("IN", "tidemill-h").await;
    let event = &running.seen()[0];
    assert_eq!((event.subject.as_str(), event.attempt.get(), event.max_attempts), ("in.x", 1, 3));
    assert!(event.headers.iter().all(|(name, _)| !headers::is_reserved(name)), "{:?}", event.headers);
    running.drain().await.expect("drains");

    // Everything is delivered again to a new consumer; the outputs' ids are the same.
    world.context.delete_consumer_from_stream("tidemill-h", "IN").await.expect("deleted");
    let running =
        world.run(MANIFEST, |event| completed(&[output("out.a", &event.id), output("out.b", "2")])).ready().await;
    running.wait_for_calls(1).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    assert_eq!(world.messages("OUT").await.len(), 2);
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_failing_event_is_retried_with_its_history_and_then_handled() {
    let world = World::in_and_out().await;
    let running = world
        .run(MANIFEST, |event| match event.attempt.get() {
            1 | 2 => retry("not yet"),
            _ => completed(&[output("out.done", "x")]),
        })
        .ready()
        .await;
    world.publish("in.x", &[("X-Own", "kept")], "payload").await;
    let events = running.wait_for_calls(3).await;
    world.wait_for("OUT", 1).await;
    for (event, attempt) in events.iter().zip(1..) {
        assert_eq!(event.attempt.get(), attempt);
        assert_eq!(
            (&event.id, &event.subject, &event.payload),
            (&events[0].id, &events[0].subject, &events[0].payload)
        );
        assert!(event.headers.contains(&("X-Own".into(), "kept".into())));
    }
    world.wait_until_settled("TIDEMILL_RETRY", "tidemill-h-retry").await;
    assert!(world.messages("TIDEMILL_RETRY").await.is_empty(), "nothing waits any more");
    assert!(world.messages("TIDEMILL_DEADLETTER").await.is_empty());
    let counts = running.status.report().handlers["h"].counts.clone();
    assert_eq!((counts.handled, counts.retried, counts.dead_lettered), (1, 2, 0));
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn an_event_that_goes_on_failing_is_kept_with_its_whole_history_and_its_payload() {
    let world = World::in_and_out().await;
    let running = world.run(MANIFEST, |event| retry(&format!("failure {}", event.attempt))).ready().await;
    world.publish("in.x", &[("X-Own", "kept")], b"\x00\xffraw".as_slice()).await;
    let letters = world.wait_for("TIDEMILL_DEADLETTER", 1).await;
    let letter = &letters[0];
    assert_eq!(letter.subject, "tidemill.deadletter.h");
    assert_eq!(letter.payload, b"\x00\xffraw");
    let kept: Vec<_> = history(letter).into_iter().map(|error| (error.attempt, error.kind, error.message)).collect();
    let expected = [
        (1, Kind::Retry, "failure 1".into()),
        (2, Kind::Retry, "failure 2".into()),
        (3, Kind::Retry, "failure 3".into()),
    ];
    assert_eq!(kept, expected);
    let header = |name: &str| letter.headers[name].as_str();
    assert_eq!(header(headers::ORIGIN_STREAM), "IN");
    assert_eq!(header(headers::ORIGIN_SEQ), "1");
    assert_eq!(header(headers::ORIGIN_SUBJECT), "in.x");
    assert_eq!((header(headers::ATTEMPT), header(headers::REASON)), ("3", "retry"));
    assert_eq!((header("X-Own"), header(headers::HANDLER)), ("kept", "h"));
    assert_eq!(header(headers::SEED).len(), 64);
    assert_eq!(running.seen().len(), 3);
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_rejected_event_goes_to_the_handlers_own_dead_letter_subject_at_once() {
    let world = World::in_and_out().await;
    let manifest = format!("{MANIFEST}dead_letter = {{ subject = \"failed.h\", max_age = \"1h\" }}\n");
    let running = world.run(&manifest, |_| reject("no")).ready().await;
    world.publish("in.x", &[], "p").await;
    let letters = world.wait_for("TIDEMILL_DEADLETTER", 1).await;
    assert_eq!(letters[0].subject, "failed.h");
    // Servers before 2.11 cannot expire single messages, and would not understand the header.
    let expires = world.client.server_info().version.as_str() >= "2.11";
    assert_eq!(letters[0].headers.get(headers::TTL).map(String::as_str), expires.then_some("3600s"));
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn an_output_that_no_stream_stores_ends_in_the_dead_letters_and_stores_no_other_output() {
    let world = World::in_and_out().await;
    let manifest = MANIFEST.replace("\"out.>\"", "\"out.>\", \"nowhere\"");
    let running = world.run(&manifest, |_| completed(&[output("out.a", "1"), output("nowhere", "2")])).ready().await;
    world.publish("in.x", &[], "p").await;
    let letters = world.wait_for("TIDEMILL_DEADLETTER", 1).await;
    let errors = history(&letters[0]);
    assert_eq!(errors.len(), 3, "an operator may add the stream, so it is tried again");
    assert!(
        errors.iter().all(|error| error.kind == Kind::Output && error.message.contains("\"nowhere\"")),
        "{errors:?}"
    );
    assert!(world.messages("OUT").await.is_empty());
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_publication_that_the_server_denies_is_dead_lettered_at_once_and_says_so() {
    let world = World::start_with(
        r#"accounts { A { jetstream: enabled, users: [
            { user: admin, password: x },
            { user: app, password: y, permissions: { publish: { deny: ["out.secret"] } } } ] } }
           no_auth_user: admin"#,
    )
    .await;
    world.stream("IN", &["in.>"]).await;
    world.stream("OUT", &["out.>"]).await;
    let password = world.folder.path().join("password");
    std::fs::write(&password, "y\n").expect("written");
    let nats = format!("[nats]\nuser = \"app\"\npassword = \"file:{}\"\n", password.display());
    let running = world.run(&format!("{nats}{MANIFEST}"), |_| completed(&[output("out.secret", "1")])).ready().await;
    world.publish("in.x", &[], "p").await;
    let letters = world.wait_for("TIDEMILL_DEADLETTER", 1).await;
    let errors = history(&letters[0]);
    assert_eq!((errors.len(), errors[0].kind), (1, Kind::Denied), "{errors:?}");
    assert!(errors[0].message.to_lowercase().contains("permissions violation"), "{errors:?}");
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_deleted_consumer_is_made_anew_and_nothing_is_lost() {
    let world = World::in_and_out().await;
    let running = world.run(MANIFEST, |event| completed(&[output("out.a", &event.subject)])).ready().await;
    world.publish("in.1", &[], "p").await;
    world.wait_for("OUT", 1).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    world.context.delete_consumer_from_stream("tidemill-h", "IN").await.expect("deleted");
    world.publish("in.2", &[], "p").await;
    // The first event is delivered again, but its output is a duplicate.
    let stored = world.wait_for("OUT", 2).await;
    let payloads: Vec<_> = stored.iter().map(|message| message.payload.as_slice()).collect();
    assert_eq!(payloads, [b"in.1", b"in.2"]);
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn events_survive_a_restart_of_the_server_and_are_handled_after_it() {
    let world = World::in_and_out().await;
    let running = world.run(MANIFEST, |event| completed(&[output("out.a", &event.subject)])).ready().await;
    let World { server, folder, .. } = world;
    let port = server.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    server.stop().await;
    eventually("the loss of the connection is noticed", || async { (!running.status.is_ready()).then_some(()) }).await;
    let server = start_server(folder.path(), Some(port), "").await;
    let client = async_nats::connect(&server.url).await.expect("a connection");
    let context = async_nats::jetstream::new(client.clone());
    let world = World { server, client, context, folder };
    world.publish("in.1", &[], "p").await;
    world.wait_for("OUT", 1).await;
    eventually("the instance is ready again", || async { running.status.is_ready().then_some(()) }).await;
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn an_instance_that_starts_before_the_server_waits_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start_server(folder.path(), None, "").await;
    let port = server.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let url = server.url.clone();
    server.stop().await;
    let manifest = format!("{MANIFEST}create_stream = true\n");
    let running = run_at(&url, &manifest, |_| completed(&[]));
    assert!(!running.status.is_ready());
    let _server = start_server(folder.path(), Some(port), "").await;
    let running = running.ready().await;
    running.drain().await.expect("drains");
}

/// Publishes a message with a header block that no client library would send.
pub(crate) async fn publish_raw(world: &World, header: &[u8]) {
    let address = world.server.url.trim_start_matches("nats://");
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let mut message = b"CONNECT {\"headers\":true,\"verbose\":false}\r\n".to_vec();
    message.extend(format!("HPUB in.bad {} {}\r\n", header.len(), header.len() + 4).bytes());
    message.extend([header, b"data\r\nPING\r\n"].concat());
    socket.write_all(&message).await.expect("sent");
}

#[tokio::test]
async fn a_message_that_makes_the_client_panic_is_dead_lettered_and_others_go_on() {
    let world = World::in_and_out().await;
    let running = world.run(MANIFEST, |event| completed(&[output("out.a", &event.subject)])).ready().await;
    publish_raw(&world, b"NATS/1.0\r\nX-Bad: a\rb\r\n\r\n").await;
    let letters = world.wait_for("TIDEMILL_DEADLETTER", 1).await;
    let errors = history(&letters[0]);
    assert_eq!(errors[0].kind, Kind::Undecodable);
    assert!(errors[0].message.contains("carriage return"), "{errors:?}");
    world.publish("in.good", &[], "p").await;
    let stored = world.wait_for("OUT", 1).await;
    assert_eq!(stored[0].payload, b"in.good");
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_message_that_the_client_cannot_parse_is_dead_lettered_and_others_go_on() {
    let world = World::in_and_out().await;
    let running = world.run(MANIFEST, |event| completed(&[output("out.a", &event.subject)])).ready().await;
    publish_raw(&world, b"NATS/1.0\r\nX-Bad: \xff\xfe\r\n\r\n").await;
    let letters = world.wait_for("TIDEMILL_DEADLETTER", 1).await;
    let errors = history(&letters[0]);
    assert_eq!(errors[0].kind, Kind::Undecodable);
    assert!(errors[0].message.contains("UTF-8"), "{errors:?}");
    assert_eq!(
        (letters[0].payload.as_slice(), letters[0].headers[headers::ORIGIN_SUBJECT].as_str()),
        (b"data".as_slice(), "in.bad")
    );
    world.publish("in.good", &[], "p").await;
    let stored = world.wait_for("OUT", 1).await;
    assert_eq!(stored[0].payload, b"in.good");
    world.wait_until_settled("IN", "tidemill-h").await;
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_flood_of_headers_is_bounded_in_the_dead_letter_and_said() {
    let world = World::in_and_out().await;
    let running = world.run(MANIFEST, |_| reject("no")).ready().await;
    let big = "v".repeat(1000);
    let names: Vec<_> = (0..62).map(|n| format!("X-Flood-{n}")).collect();
    let flood: Vec<_> = names.iter().map(|name| (name.as_str(), big.as_str())).collect();
    world.publish("in.x", &flood, "p").await;
    let letters = world.wait_for("TIDEMILL_DEADLETTER", 1).await;
    let kept = letters[0].headers.keys().filter(|name| name.starts_with("X-Flood")).count();
    let dropped: usize = letters[0].headers[headers::HEADERS_DROPPED].parse().expect("a number");
    assert_eq!(kept + dropped, 62);
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn reserved_headers_of_the_input_do_not_reach_retries_and_dead_letters() {
    let world = World::in_and_out().await;
    let running = world.run(MANIFEST, |_| reject("no")).ready().await;
    let forged = [("Nats-Expected-Last-Sequence", "0"), ("Tidemill-Attempt", "99"), ("Tidemill-Errors", "[]")];
    world.publish("in.x", &forged, "p").await;
    let letters = world.wait_for("TIDEMILL_DEADLETTER", 1).await;
    assert!(!letters[0].headers.contains_key("Nats-Expected-Last-Sequence"));
    assert_eq!(letters[0].headers[headers::ATTEMPT], "1");
    assert_eq!(history(&letters[0]).len(), 1);
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn in_queue_mode_one_instance_gets_an_event_and_in_broadcast_mode_all_do() {
    let world = World::in_and_out().await;
    world.stream("ALL", &["all.>"]).await;
    let broadcast = "[handler.b]\nsubject = \"all.>\"\nstream = \"ALL\"\nmode = \"broadcast\"\n";
    let manifest = format!("{MANIFEST}{broadcast}");
    let first = world.run(&manifest, |_| completed(&[])).ready().await;
    let second = world.run(&manifest, |_| completed(&[])).ready().await;
    for n in 0..50 {
        world.publish(&format!("in.{n}"), &[], "p").await;
    }
    world.publish("all.x", &[], "p").await;
    world.wait_until_settled("IN", "tidemill-h").await;
    let count = |running: &crate::support::Running, prefix: &str| {
        running.seen().iter().filter(|event| event.subject.starts_with(prefix)).count()
    };
    for running in [&first, &second] {
        eventually("both see the broadcast", || async { (count(running, "all.") == 1).then_some(()) }).await;
    }
    assert_eq!(count(&first, "in.") + count(&second, "in."), 50);
    first.drain().await.expect("drains");
    second.drain().await.expect("drains");
    let stream = world.context.get_stream("ALL").await.expect("the stream");
    assert_eq!(stream.cached_info().state.consumer_count, 0, "a drained instance leaves no consumer behind");
}

#[tokio::test]
async fn draining_finishes_what_runs_and_hands_back_what_does_not_end_in_time() {
    let world = World::in_and_out().await;
    let manifest = format!("[runtime]\ndrain = \"100ms\"\n{MANIFEST}concurrency = 1\n");
    let running = world.run(&manifest, |_| completed(&[])).ready().await;
    running.close_gate().await;
    for n in 0..3 {
        world.publish(&format!("in.{n}"), &[], "p").await;
    }
    running.wait_for_calls(1).await;
    running.drain().await.expect("drains");
    let second = world.run(MANIFEST, |event| completed(&[output("out.a", &event.subject)])).ready().await;
    let stored = world.wait_for("OUT", 3).await;
    assert_eq!(stored.len(), 3);
    second.drain().await.expect("drains");
}

#[tokio::test]
async fn no_more_than_concurrency_events_run_at_once() {
    let world = World::in_and_out().await;
    let running = world.run(&format!("{MANIFEST}concurrency = 2\n"), |_| completed(&[])).ready().await;
    running.close_gate().await;
    for n in 0..10 {
        world.publish(&format!("in.{n}"), &[], "p").await;
    }
    running.wait_for_calls(2).await;
    let consumer =
        world.context.get_stream("IN").await.expect("stream").consumer_info("tidemill-h").await.expect("info");
    assert!(consumer.num_ack_pending <= 4, "no more is pulled than is reserved: {}", consumer.num_ack_pending);
    assert_eq!(running.seen().len(), 2);
    running.open_gate();
    running.wait_for_calls(10).await;
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_handler_without_its_stream_does_not_start_and_says_how_to_make_it() {
    let world = World::start().await;
    let check = async |manifest: &str, expected: &str| {
        let error = world.run(manifest, |_| completed(&[])).end().await.expect_err("refused");
        assert!(matches!(error, StartError::Conflicts(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(MANIFEST, "stream \"IN\" does not exist; set create_stream = true").await;
    check("[handler.h]\nsubject = \"in.>\"\n", "no stream stores subject \"in.>\"").await;
    world.stream("IN", &["other.>"]).await;
    check(MANIFEST, "stream \"IN\" stores \"other.>\", but not subject \"in.>\"").await;
    world.stream("A", &["in.a"]).await;
    world.stream("B", &["in.b"]).await;
    check("[handler.h]\nsubject = \"in.>\"\n", "several streams (A, B)").await;
}

#[tokio::test]
async fn a_delivery_is_kept_alive_for_as_long_as_it_is_worked_on() {
    let world = World::in_and_out().await;
    let (nats, spec) = world.consumer(Duration::from_secs(1)).await;
    let mut prolongations = world.client.subscribe("$JS.ACK.IN.>").await.expect("subscribed");
    let (stop, settled) = (CancellationToken::new(), CancellationToken::new());
    let (hand_over, mut deliveries) = tokio::sync::mpsc::unbounded_channel();
    let run = consume::run(
        nats,
        spec,
        purse(),
        tokio::sync::watch::channel(u32::MAX).1,
        stop.clone(),
        settled.clone(),
        move |delivery| {
            hand_over.send(delivery).expect("the test listens");
        },
    );
    let consumer = tokio::spawn(run);
    world.publish("in.x", &[], "p").await;
    let delivery = deliveries.recv().await.expect("a delivery");
    // Five prolongations take longer than the server would wait.
    for _ in 0..5 {
        let message = prolongations.next().await.expect("a message");
        assert_eq!(message.payload, "+WPI");
    }
    let stream = world.context.get_stream("IN").await.expect("stream");
    let info = stream.consumer_info("c").await.expect("info");
    assert_eq!((info.num_ack_pending, info.num_redelivered), (1, 0));
    drop(delivery);
    stop.cancel();
    consumer.await.expect("ends");
    settled.cancel();
}

#[tokio::test]
async fn the_consumer_lets_the_host_and_not_the_server_limit_attempts() {
    let world = World::in_and_out().await;
    let running = world.run(MANIFEST, |_| completed(&[])).ready().await;
    let stream = world.context.get_stream("IN").await.expect("stream");
    let info = stream.consumer_info("tidemill-h").await.expect("info");
    assert_eq!((info.config.ack_wait, info.config.max_deliver), (Duration::from_secs(30), -1));
    running.drain().await.expect("drains");
}
