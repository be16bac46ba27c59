//! Backpressure: where something is slow, full or away, intake slows down, what is in flight stays bounded, nothing is
//! lost or doubled, and all goes on by itself.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use tidemill::in_flight::BytesReport;
use tidemill_policy::event::Event;
use tidemill_policy::in_flight;
use tidemill_policy::outcome::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::support::{Running, World, completed, eventually, output, parse, run_at};

/// A payload that begins with its event's number.
fn payload(number: u64, bytes: usize) -> Vec<u8> {
    format!("{number:>8}{}", "x".repeat(bytes - 8)).into_bytes()
}

async fn publish(world: &World, subject: &str, numbers: std::ops::RangeInclusive<u64>, bytes: usize) {
    for number in numbers {
        world.publish(subject, &[], payload(number, bytes)).await;
    }
}

/// One output on `subject`, with the event's number and `filler` bytes.
fn forward(event: &Event, subject: &str, filler: usize) -> Outcome {
    let number = String::from_utf8_lossy(&event.payload[..8]).into_owned();
    completed(&[output(subject, &format!("{number}{}", "y".repeat(filler)))])
}

/// Waits until a stream holds the outputs of the events 1 to `count`, and checks that each is there once.
async fn outputs(world: &World, stream: &str, count: u64) {
    let stored = world.wait_for(stream, count).await;
    let number = |payload: &[u8]| String::from_utf8_lossy(&payload[..8]).trim().parse::<u64>().expect("a number");
    let numbers: BTreeSet<_> = stored.iter().map(|message| number(&message.payload)).collect();
    assert_eq!((stored.len() as u64, numbers), (count, (1..=count).collect()));
}

fn bytes(running: &Running) -> BytesReport {
    running.status.report().instance.in_flight_bytes.expect("consumers are set up")
}

/// Checks that no more was in flight than may be, and that nothing is any more.
async fn given_back(running: &Running) {
    let report = eventually("nothing is in hand", || async {
        let report = bytes(running);
        (report.in_hand == 0).then_some(report)
    })
    .await;
    assert!(report.peak <= report.bound, "{report:?}");
}

async fn nothing_was_given_up(world: &World) {
    assert_eq!(world.messages("TIDEMILL_DEADLETTER").await.len(), 0);
}

async fn in_flight(world: &World, stream: &str, consumer: &str) -> usize {
    let stream = world.context.get_stream_no_info(stream).await.expect("the stream");
    stream.consumer_info(consumer).await.expect("the consumer").num_ack_pending
}

fn full(name: &str, subject: &str, max_messages: i64) -> Config {
    Config { max_messages, discard: DiscardPolicy::New, ..World::config(name, &[subject]) }
}

/// 36 MB of messages for two handlers, each of which could take all of them in hand.
const LARGE: usize = 900_000;

#[tokio::test]
async fn a_full_stream_holds_its_own_events_only_and_no_more_bytes_than_the_bound() {
    let world = World::start().await;
    world.stream("IN", &["in.*"]).await;
    world.context.create_stream(full("OUT", "out", 1)).await.expect("a stream");
    world.context.publish("out", "full".into()).await.expect("sent").await.expect("stored");
    world.stream("OTHER", &["other"]).await;
    publish(&world, "in.h", 1..=30, LARGE).await;
    let manifest = r#"
[runtime]
in_flight = "10MiB"

[handler.h]
subject = "in.h"
concurrency = 32
allow = { publish = ["out"] }

[handler.g]
subject = "in.g"
concurrency = 32
allow = { publish = ["other"] }
"#;
    let script = |event: &Event| forward(event, if event.subject == "in.h" { "out" } else { "other" }, 0);
    let running = world.run(manifest, script).ready().await;
    eventually("the trouble names the stream and the remedy", || async {
        let troubles = running.status.report().instance.troubles;
        let tells = |why: &str| why.contains("the stream is full") && why.contains("raise its limits");
        troubles.iter().any(|trouble| trouble.what == "stream OUT" && tells(&trouble.why)).then_some(())
    })
    .await;
    // All that the bound lets a handler have but for the shares of the other three consumers.
    let held = eventually("the pool is used up", || async {
        let held = bytes(&running).in_hand;
        (held > 5 << 20).then_some(held)
    })
    .await;
    assert!(held < 8 << 20, "{held}");
    publish(&world, "in.g", 1..=10, LARGE).await;
    outputs(&world, "OTHER", 10).await;
    assert!(in_flight(&world, "IN", "tidemill-h").await * LARGE < 10 << 20);
    assert_eq!(world.messages("OUT").await.len(), 1);
    world.context.update_stream(full("OUT", "out", -1)).await.expect("updated");
    world.wait_for("OUT", 31).await;
    world.context.get_stream("OUT").await.expect("the stream").delete_message(1).await.expect("deleted");
    outputs(&world, "OUT", 30).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    given_back(&running).await;
    assert_eq!(running.seen().len(), 40, "nothing is attempted again");
    nothing_was_given_up(&world).await;
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn many_handlers_with_large_messages_stay_within_the_bound() {
    let world = World::in_and_out().await;
    let handlers = ["a", "b", "c", "d", "e"];
    for (number, handler) in (1..).zip(handlers.iter().cycle()).take(60) {
        publish(&world, &format!("in.{handler}"), number..=number, LARGE).await;
    }
    // Small ones come between large ones.
    for number in 61..=100 {
        publish(&world, "in.a", number..=number, 100).await;
    }
    let entry = |handler: &&str| {
        format!(
            "[handler.{handler}]\nsubject = \"in.{handler}\"\nconcurrency = 64\nallow = {{ publish = [\"out.>\"] }}\n"
        )
    };
    let manifest =
        format!("[runtime]\nin_flight = \"16MiB\"\n{}", handlers.iter().map(entry).collect::<Vec<_>>().concat());
    let running = world.run(&manifest, |event| forward(event, "out.x", 0));
    outputs(&world, "OUT", 100).await;
    for handler in handlers {
        world.wait_until_settled("IN", &format!("tidemill-{handler}")).await;
    }
    given_back(&running).await;
    assert_eq!(bytes(&running).bound, 16 << 20);
    assert_eq!(running.seen().len(), 100, "nothing is attempted again");
    running.drain().await.expect("drains");
}

/// With less than a message for each consumer, there is still one for each.
#[tokio::test]
async fn a_bound_below_one_message_for_each_consumer_is_raised_and_stops_nobody() {
    let world = World::in_and_out().await;
    publish(&world, "in.x", 1..=20, 1_000_000).await;
    let manifest = r#"
[runtime]
in_flight = "1MiB"

[handler.h]
subject = "in.x"
allow = { publish = ["out.>"] }

[handler.p]
subject = "in.p.*"
order = { by = "key", key = "subject:3", partitions = 4 }
"#;
    let running = world.run(manifest, |event| forward(event, "out.x", 0));
    outputs(&world, "OUT", 20).await;
    given_back(&running).await;
    let handlers = parse(manifest).handlers;
    let consumers: u64 = handlers.values().map(in_flight::consumers).sum();
    let bound = consumers * ((1 << 20) + in_flight::ENVELOPE_BYTES);
    assert_eq!((consumers, bytes(&running).bound), (2 + 5, bound));
    running.drain().await.expect("drains");
}

/// A message that was stored when the server still took larger ones.
#[tokio::test]
async fn a_message_larger_than_the_server_takes_by_now_comes_alone() {
    let world = World::in_and_out().await;
    publish(&world, "in.x", 1..=3, LARGE).await;
    publish(&world, "in.x", 4..=10, 100).await;
    let World { server, folder, .. } = world;
    server.stop().await;
    let world = World::in_folder(folder, "max_payload: 4000").await;
    let running = world.run(
        "[runtime]\nin_flight = \"1MiB\"\n[handler.h]\nsubject = \"in.>\"\nallow = { publish = [\"out.>\"] }\n",
        |event| forward(event, "out.x", 0),
    );
    outputs(&world, "OUT", 10).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    eventually("nothing is in hand", || async { (bytes(&running).in_hand == 0).then_some(()) }).await;
    running.drain().await.expect("drains");
}

/// A way to the server on which what is sent there goes as slowly as one likes.
struct SlowWay {
    url: String,
    bytes_per_ms: Arc<AtomicU64>,
}

impl SlowWay {
    async fn to(url: &str, bytes_per_ms: u64) -> SlowWay {
        let server = url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("nats://{}", listener.local_addr().expect("an address"));
        let pace = Arc::new(AtomicU64::new(bytes_per_ms));
        let bytes_per_ms = Arc::clone(&pace);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.expect("a connection");
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
                let pace = Arc::clone(&pace);
                tokio::spawn(async move {
                    let mut chunk = [0; 4096];
                    while let Ok(read @ 1..) = from_client.read(&mut chunk).await {
                        sleep(Duration::from_micros(read as u64 * 1000 / pace.load(Ordering::Relaxed))).await;
                        if to_server.write_all(&chunk[..read]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        SlowWay { url, bytes_per_ms }
    }
}

#[tokio::test]
async fn slow_outputs_slow_the_intake() {
    let world = World::in_and_out().await;
    publish(&world, "in.x", 1..=200, 10_000).await;
    let way = SlowWay::to(&world.server.url, 1_000).await;
    let manifest = r#"
[runtime]
in_flight = "4MiB"

[handler.h]
subject = "in.>"
concurrency = 8
allow = { publish = ["out.>"] }
"#;
    // Outputs are five times as large as events.
    let running = run_at(&way.url, manifest, |event| forward(event, "out.x", 50_000));
    world.wait_for("OUT", 20).await;
    // The events wait where they are: what is in hand is what `concurrency` lets be.
    let (in_hand, pending) = (bytes(&running).in_hand, in_flight(&world, "IN", "tidemill-h").await);
    assert!(in_hand <= 16 * 10_200 && pending <= 16, "{in_hand} bytes, {pending} messages");
    assert!(running.seen().len() < 100, "intake is as slow as the outputs");
    way.bytes_per_ms.store(u64::MAX / 2, Ordering::Relaxed);
    outputs(&world, "OUT", 200).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    given_back(&running).await;
    assert_eq!(running.seen().len(), 200, "nothing is attempted again");
    nothing_was_given_up(&world).await;
    running.drain().await.expect("drains");
}

fn signal(world: &World, signal: &str) {
    let pid = world.server.pid().expect("it runs").to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
}

/// A server of which each write waits for the disk, and which stands still most of the time.
#[tokio::test]
async fn a_server_that_stalls_again_and_again_costs_time_only() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = folder.path().join("data");
    let world = World::in_folder(folder, &format!("jetstream {{ store_dir: {store:?}, sync_interval: always }}")).await;
    world.stream("IN", &["in.>"]).await;
    world.stream("OUT", &["out.>"]).await;
    publish(&world, "in.x", 1..=40, LARGE).await;
    let manifest = r#"
[runtime]
in_flight = "6MiB"

[handler.h]
subject = "in.>"
concurrency = 32
ack_wait = "2s"
allow = { publish = ["out.>"] }
"#;
    let running = world.run(manifest, |event| forward(event, "out.x", 1_000));
    let stalls = async {
        loop {
            signal(&world, "-STOP");
            sleep(Duration::from_millis(180)).await;
            signal(&world, "-CONT");
            sleep(Duration::from_millis(20)).await;
        }
    };
    let done = eventually("all events are handled", || async {
        (running.status.report().handlers["h"].counts.handled >= 40).then_some(())
    });
    tokio::select! {
        () = done => {}
        () = stalls => {}
    }
    signal(&world, "-CONT");
    outputs(&world, "OUT", 40).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    given_back(&running).await;
    nothing_was_given_up(&world).await;
    running.drain().await.expect("drains");
}

/// A server that answers nothing for several times `ack_wait` and the time for a confirmation, with all that it may
/// have in hand in flight.
#[tokio::test]
async fn a_server_that_does_not_answer_for_long_costs_time_only() {
    let world = World::in_and_out().await;
    publish(&world, "in.x", 1..=50, LARGE).await;
    let manifest = r#"
[runtime]
in_flight = "8MiB"

[handler.h]
subject = "in.>"
concurrency = 32
ack_wait = "1s"
limits = { timeout = "1s" }
allow = { publish = ["out.>"] }
"#;
    let running = world.run(manifest, |event| forward(event, "out.x", 0)).ready().await;
    running.close_gate().await;
    running.wait_for_calls(4).await;
    signal(&world, "-STOP");
    running.open_gate();
    // What is noticed first is told, and may be the only thing: without a connection, nothing is missed that it would bring.
    eventually("neither outputs nor pull requests are answered", || async {
        let report = running.status.report().instance;
        let told = !report.connected || report.troubles.iter().any(|trouble| trouble.what.contains("out.x"));
        (told && !running.status.is_ready()).then_some(())
    })
    .await;
    let during = bytes(&running);
    assert!(during.in_hand > 0 && during.peak <= during.bound, "{during:?}");
    signal(&world, "-CONT");
    outputs(&world, "OUT", 50).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    eventually("nothing is wrong", || async { running.status.is_ready().then_some(()) }).await;
    given_back(&running).await;
    nothing_was_given_up(&world).await;
    running.drain().await.expect("drains");
}
