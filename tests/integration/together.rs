//! Outputs that are stored together: all of an event at one moment or none, whatever is cut off half way.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::Config;
use tidemill::broker::nats::Nats;
use tidemill::broker::nats::connect::{self, Target};
use tidemill::broker::nats::preflight::{self, Findings};
use tidemill::broker::nats::streams;
use tidemill::dev;
use tidemill::instance::StartError;
use tidemill_policy::event::Event;
use tidemill_policy::headers;
use tidemill_policy::history::{AttemptError, Kind};
use tidemill_policy::manifest::Auth;
use tidemill_policy::outcome::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};

use crate::cli::{Desk, guests};
use crate::support::{Running, Stored, World, completed, eventually, output, parse, reject, run_at};

const MANIFEST: &str = r#"
[handler.h]
subject = "in.>"
stream = "IN"
outputs = "atomic"
allow = { publish = ["out.>"] }
"#;

/// A server with a stream of outputs that takes batches; nothing where the server knows none.
async fn world() -> Option<World> {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    let outputs = Config { allow_atomic_publish: true, ..World::config("OUT", &["out.>"]) };
    let made = world.context.create_stream(outputs).await.expect("a stream");
    made.cached_info().config.allow_atomic_publish.then_some(world)
}

async fn connection(world: &World) -> Nats {
    let base = std::path::PathBuf::new();
    let target = Target { urls: vec![world.server.url.clone()], auth: Auth::None, tls: None, base };
    let (client, link) = connect::connect(&target, "test", Arc::default()).await.expect("a connection");
    Nats::new(client, link)
}

/// Three outputs for each event.
fn three(_: &Event) -> Outcome {
    completed(&["a", "b", "c"].map(|name| output(&format!("out.{name}"), name)))
}

async fn publish_event(world: &World, id: &str) {
    let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-type", "t"), ("ce-source", "s")];
    world.publish("in.x", &headers, "p").await;
}

fn payloads(stored: &[Stored]) -> Vec<&str> {
    stored.iter().map(|message| std::str::from_utf8(&message.payload).expect("text")).collect()
}

async fn count(world: &World, stream: &str) -> u64 {
    let mut stream = world.context.get_stream(stream).await.expect("the stream");
    stream.info().await.expect("an answer").state.messages
}

async fn letters(world: &World, count: u64) -> Vec<AttemptError> {
    let letters = world.wait_for("TIDEMILL_DEADLETTER", count).await;
    serde_json::from_str(&letters[0].headers[headers::ERRORS]).expect("a history")
}

#[tokio::test]
async fn outputs_of_an_event_are_stored_side_by_side_and_once() {
    let Some(world) = world().await else { return };
    let running = world.run(MANIFEST, three).ready().await;
    for n in 0..20 {
        // Without dedup, messages with one id are events of their own.
        publish_event(&world, &(n % 10).to_string()).await;
    }
    world.wait_until_settled("IN", "tidemill-h").await;
    let stored = world.messages("OUT").await;
    assert_eq!(stored.len(), 60);
    for event in stored.chunks(3) {
        assert_eq!(payloads(event), ["a", "b", "c"]);
        let of = |message: &Stored| message.headers[headers::CAUSATION_ID].clone();
        assert!(event.iter().all(|message| of(message) == of(&event[0]) && message.headers[headers::OUTPUTS] == "3"));
    }
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn one_output_needs_no_batch() {
    let Some(world) = world().await else { return };
    let running = world.run(MANIFEST, |_| completed(&[output("out.a", "a")])).ready().await;
    world.publish("in.x", &[], "p").await;
    let stored = world.wait_for("OUT", 1).await;
    assert!(!stored[0].headers.contains_key("Nats-Batch-Id"), "{stored:?}");
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn outputs_that_cannot_be_stored_together_end_in_the_dead_letters_alone() {
    let Some(world) = world().await else { return };
    let running = world.run(MANIFEST, |_| completed(&[output("out.a", "a"), output("out.b", "b")])).ready().await;
    // An operator moves a subject to another stream after the start.
    let update = |name: &str, subjects: &[&str]| {
        let config = Config { allow_atomic_publish: true, ..World::config(name, subjects) };
        world.context.create_or_update_stream(config)
    };
    update("OUT", &["out.a"]).await.expect("updated");
    update("OTHER", &["out.b"]).await.expect("made");
    world.publish("in.x", &[], "p").await;
    let errors = letters(&world, 1).await;
    assert_eq!((errors.len(), errors[0].kind), (1, Kind::Output), "{errors:?}");
    let expected = "stream \"OTHER\" stores \"out.b\", but stream \"OUT\" stores other outputs of the event";
    assert!(errors[0].message.contains(expected), "{errors:?}");
    assert_eq!((count(&world, "OUT").await, count(&world, "OTHER").await), (0, 0));
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_message_that_is_too_large_takes_the_others_with_it() {
    let Some(world) = world().await else { return };
    let small = Config { allow_atomic_publish: true, max_message_size: 2000, ..World::config("OUT", &["out.>"]) };
    world.context.update_stream(small).await.expect("updated");
    let large = "x".repeat(3000);
    let script = move |_: &Event| completed(&[output("out.a", "a"), output("out.b", &large), output("out.c", "c")]);
    let running = world.run(MANIFEST, script).ready().await;
    world.publish("in.x", &[], "p").await;
    let errors = letters(&world, 1).await;
    assert_eq!((errors.len(), errors[0].kind), (1, Kind::Output), "{errors:?}");
    assert_eq!(count(&world, "OUT").await, 0);
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn batches_wait_while_others_have_too_many_open_or_the_stream_takes_none() {
    let Some(world) = world().await else { return };
    let running = world.run(MANIFEST, three).ready().await;
    let part = |n: usize, commit: bool| {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Batch-Id", format!("b{n}"));
        headers.insert("Nats-Batch-Sequence", if commit { "2" } else { "1" });
        if commit {
            headers.insert("Nats-Batch-Commit", "1");
        }
        world.client.request_with_headers("out.other", headers, "".into())
    };
    for n in 0..50 {
        part(n, false).await.expect("an answer");
    }
    world.publish("in.x", &[], "p").await;
    let troubles = || running.status.troubles.now();
    eventually("it waits", || async { (!troubles().is_empty()).then_some(()) }).await;
    assert_eq!(count(&world, "OUT").await, 0);
    for n in 0..50 {
        part(n, true).await.expect("an answer");
    }
    world.wait_until_settled("IN", "tidemill-h").await;
    let of_event = |message: &&Stored| message.headers.contains_key(headers::OUTPUTS);
    assert_eq!(world.messages("OUT").await.iter().filter(of_event).count(), 3);

    let config = World::config("OUT", &["out.>"]);
    world.context.update_stream(&config).await.expect("updated");
    world.publish("in.x", &[], "p").await;
    let why = "stream \"OUT\" does not take atomic batches; nats stream edit OUT --allow-batch";
    eventually("that is said", || async { troubles().iter().any(|one| one.why.contains(why)).then_some(()) }).await;
    world.context.update_stream(Config { allow_atomic_publish: true, ..config }).await.expect("updated");
    world.wait_until_settled("IN", "tidemill-h").await;
    assert_eq!(world.messages("OUT").await.iter().filter(of_event).count(), 6);
    assert_eq!(world.messages("TIDEMILL_DEADLETTER").await.len(), 0);
    eventually("all is well", || async { troubles().is_empty().then_some(()) }).await;
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn an_event_whose_outputs_are_stored_is_not_given_up() {
    let Some(world) = world().await else { return };
    let manifest = format!("{MANIFEST}\ndedup = {{ key = 'id', window = '1h' }}");
    let running = world.run(&manifest, three).ready().await;
    publish_event(&world, "e1").await;
    world.wait_for("OUT", 3).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    running.drain().await.expect("drains");
    // As if it had died before it remembered that.
    let markers = world.context.get_stream("KV_tidemill_done").await.expect("the bucket");
    markers.purge().await.expect("purged");
    // The same event once more, and another: both fail for good now.
    let running = world.run(&manifest, |_| reject("no")).ready().await;
    for id in ["e1", "e2"] {
        publish_event(&world, id).await;
    }
    world.wait_until_settled("IN", "tidemill-h").await;
    let letters = world.messages("TIDEMILL_DEADLETTER").await;
    let ids: Vec<_> = letters.iter().map(|letter| letter.headers[headers::EVENT_ID].as_str()).collect();
    assert_eq!(ids, ["e2"]);
    running.drain().await.expect("drains");
}

/// Where the connection between an instance and its server is cut.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// Before the message with this number reaches the server.
    Before(u32),
    /// After the server has stored the batch, before its answer reaches the instance.
    Answer,
}

/// A relay to a server that cuts the connection once, and lets nobody in again before it may.
struct Relay {
    url: String,
    cuts: Arc<Semaphore>,
    may_return: Arc<Semaphore>,
}

impl Relay {
    async fn start(server: &str, cut: Cut) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("nats://{}", listener.local_addr().expect("bound"));
        let server = server.trim_start_matches("nats://").to_owned();
        let (cuts, may_return) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (told, gate) = (Arc::clone(&cuts), Arc::clone(&may_return));
        tokio::spawn(async move {
            let armed = Arc::new(Mutex::new(Some(cut)));
            while let Ok((client, _)) = listener.accept().await {
                if armed.lock().await.is_none() {
                    gate.acquire().await.expect("never closed").forget();
                }
                let server = TcpStream::connect(&server).await.expect("the server");
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                let up = pass(from_client, to_server, Arc::clone(&armed), "Nats-Batch-Sequence: ");
                let down = pass(from_server, to_client, Arc::clone(&armed), "\"batch\":");
                let told = Arc::clone(&told);
                tokio::spawn(async move {
                    // When one side is cut, both are.
                    let was_cut = tokio::select! { was_cut = up => was_cut, was_cut = down => was_cut };
                    told.add_permits(usize::from(was_cut));
                });
            }
        });
        Relay { url, cuts, may_return }
    }
}

/// Passes bytes on until they are to be cut, where `mark` tells the place; returns whether they were.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, armed: Arc<Mutex<Option<Cut>>>, mark: &str) -> bool {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let mut armed = armed.lock().await;
        let mark = match *armed {
            Some(Cut::Before(number)) if mark.ends_with(' ') => format!("{mark}{number}\r\n"),
            Some(Cut::Answer) if !mark.ends_with(' ') => mark.to_owned(),
            _ => "\r\n\r\n\r\n never".to_owned(),
        };
        let found = buffer[..count].windows(mark.len()).position(|bytes| bytes == mark.as_bytes());
        if let Some(place) = found {
            let message = buffer[..place].windows(4).rposition(|bytes| bytes == b"HPUB").unwrap_or(0);
            let _ = to.write_all(&buffer[..message]).await;
            *armed = None;
            return true;
        }
        drop(armed);
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    false
}

#[tokio::test]
async fn what_is_cut_off_half_way_is_stored_as_a_whole_or_not_at_all() {
    let Some(world) = world().await else { return };
    for (round, cut) in (1..).zip([Cut::Before(2), Cut::Before(3), Cut::Answer]) {
        let relay = Relay::start(&world.server.url, cut).await;
        let running: Running = run_at(&relay.url, MANIFEST, three).ready().await;
        world.publish("in.x", &[], "p").await;
        relay.cuts.acquire().await.expect("never closed").forget();
        let stored_before = if matches!(cut, Cut::Answer) { round } else { round - 1 };
        assert_eq!(count(&world, "OUT").await, stored_before * 3, "{cut:?}");
        relay.may_return.add_permits(1_000);
        world.wait_for("OUT", round * 3).await;
        world.wait_until_settled("IN", "tidemill-h").await;
        let stored = world.messages("OUT").await;
        assert_eq!(payloads(&stored), ["a", "b", "c"].repeat(usize::try_from(round).expect("fits")), "{cut:?}");
        running.drain().await.expect("drains");
    }
}

#[tokio::test]
async fn what_cannot_store_outputs_together_is_refused_before_anything_is_consumed() {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    world.stream("OUT", &["out.>"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    let version = world.client.server_info().version;
    let is_known = version.split('.').map_while(|part| part.parse::<u64>().ok()).collect::<Vec<_>>() >= vec![2, 12, 1];
    let too_old = format!(
        "handler.h: outputs = \"atomic\" needs atomic batches, which nats-server has from 2.12.1 on, and this one is \
         {version}; upgrade it, or set outputs = \"each\""
    );
    let not_allowed = "handler.h: outputs = \"atomic\" needs a stream that takes atomic batches (allow_atomic), but \"OUT\", \
                       which stores its outputs, does not; allow them: nats stream edit OUT --allow-batch, or set outputs = \
                       \"each\"";
    let several = "handler.h: outputs = \"atomic\" stores all outputs of an event in one stream, but several store what \
                   allow.publish grants (MAIL, OUT); grant subjects of one of them only, or set outputs = \"each\"";
    let two = MANIFEST.replace("[\"out.>\"]", "[\"out.>\", \"mail.sent\"]");
    for (manifest, expected) in [(MANIFEST, not_allowed), (&two, several)] {
        let expected = if is_known { expected } else { &too_old };
        let error = world.run(manifest, three).end().await.expect_err("refused");
        let StartError::Conflicts(conflicts) = error else { panic!("{error}") };
        assert!(conflicts.0.iter().any(|one| one == expected), "{conflicts:#?}");
    }
    let input = world.context.get_stream("IN").await.expect("the stream");
    assert_eq!(input.cached_info().state.consumer_count, 0);
}

#[tokio::test]
async fn streams_that_we_make_take_batches_where_a_handler_needs_it() {
    if world().await.is_none() {
        return;
    }
    let world = World::start().await;
    let next = "[handler.next]\nsubject = \"out.>\"\nallow = { publish = [\"mail.>\"] }\n";
    let manifest = parse(&format!("{}{next}", MANIFEST.replace("[\"out.>\"]", "[\"out.a\"]")));
    let nats = connection(&world).await;
    let plan = dev::plan_streams(&manifest, &streams::list(&nats).await.expect("an answer"));
    dev::create(&nats, &manifest, &plan).await.expect("made");
    let world = &world;
    let takes_batches = |name: &'static str| async move {
        let stream = world.context.get_stream(name).await.expect("the stream");
        stream.cached_info().config.allow_atomic_publish
    };
    assert!(takes_batches("OUT").await && !takes_batches("MAIL").await && !takes_batches("IN").await);
    assert_eq!(preflight::check(&nats, &manifest).await.expect("an answer"), Findings::default());

    world.context.delete_stream("OUT").await.expect("deleted");
    let made = "[handler.next]\nsubject = \"out.>\"\nstream = \"OUT\"\ncreate_stream = true\n";
    let running = world.run(&format!("{MANIFEST}{made}"), |_| completed(&[])).ready().await;
    assert!(takes_batches("OUT").await);
    running.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_tells_of_outputs_that_are_stored_together() {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    world.stream("OUT", &["out.>"]).await;
    let (url, plugins) = (&world.server.url, guests().display().to_string());
    let manifest = format!(
        "[nats]\nurl = {url:?}\n[runtime]\nlisten = \"off\"\nplugins = {plugins:?}\n{MANIFEST}component = \"echo.wasm\"\n"
    );
    let desk = Desk::with(&manifest);
    let shown = desk.run(&["explain", "h"]).succeeds().stdout.clone();
    assert!(shown.contains("all outputs of an event at one moment or none"), "{shown}");
    desk.run(&["check"]).succeeds();
    desk.run(&["check", "--server"]).fails(1, &["handler.h: outputs = \"atomic\" needs"]);
    let many = Desk::with(&format!("{manifest}limits.outputs = 1001\n"));
    many.run(&["check"]).fails(2, &["\"limits.outputs\" (1001) is more than the 1000 messages"]);
}
