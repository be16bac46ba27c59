//! Failures of NATS itself: nothing is lost, it is said once, and readiness follows.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use tidemill::broker::nats::server::Server;
use tidemill_policy::history::{AttemptError, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::subscriber::{DefaultGuard, NoSubscriber};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::{Running, World, completed, eventually, output, reject, retry, run_at, start_server};

const MANIFEST: &str = r#"
[handler.h]
subject = "in.>"
stream = "IN"
allow = { publish = ["out.>"] }
retry = { max_attempts = 3, initial = "10ms", max = "20ms" }
"#;

/// What is logged in this test, from level INFO up. Every test has a thread of its own.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

/// Ends the logging, and shows all of it if the test has failed.
struct Shown {
    log: Log,
    _guard: DefaultGuard,
}

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log.lines(&[]).join("\n"));
        }
    }
}

impl Log {
    fn start() -> (Log, Shown) {
        // While there is one subscriber only, the thread that says something first decides for all whether it is
        // heard, although it may be another test's.
        let _ = tracing::subscriber::set_global_default(NoSubscriber::default());
        let log = Log::default();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::INFO).with_writer(log.clone());
        let shown = Shown { log: log.clone(), _guard: tracing::subscriber::set_default(subscriber.finish()) };
        (log, shown)
    }

    /// The lines that contain all of `parts`.
    fn lines(&self, parts: &[&str]) -> Vec<String> {
        let bytes = self.0.lock().expect("not poisoned").clone();
        let text = String::from_utf8(bytes).expect("UTF-8");
        text.lines().filter(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned).collect()
    }

    /// Checks that a trouble was said once, and its end once.
    fn said_once(&self, what: &str, why: &str) {
        let trouble = format!("trouble=\"{what}\"");
        let begun = self.lines(&["WARN", &trouble]);
        assert!(begun.len() == 1 && begun[0].contains(why), "{begun:#?}");
        assert_eq!(self.lines(&["INFO", &trouble, "this is over"]).len(), 1, "{:#?}", self.lines(&[]));
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

/// An instance whose outputs tell their events' payloads.
async fn forwarding(world: &World, manifest: &str) -> Running {
    world.run(manifest, |event| completed(&[output("out.a", &text(&event.payload))])).ready().await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn until_trouble(running: &Running, why: &str) {
    let troubles = || running.status.troubles.now();
    eventually(&format!("a trouble: {why}"), || async {
        troubles().iter().any(|trouble| trouble.why.contains(why)).then_some(())
    })
    .await;
}

async fn until_unready(running: &Running, why: &str) {
    eventually(&format!("not ready: {why}"), || async {
        running.status.unready().iter().any(|reason| reason.contains(why)).then_some(())
    })
    .await;
}

async fn until_well(running: &Running) {
    eventually("ready, and nothing wrong", || async {
        (running.status.is_ready() && running.status.troubles.are_none()).then_some(())
    })
    .await;
}

/// What `/readyz` answers.
async fn readiness(running: &Running) -> String {
    let address = tidemill::http::serve("127.0.0.1:0", Arc::clone(&running.status)).await.expect("a free port");
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("a connection");
    socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer");
    answer
}

/// Waits until `count` outputs are stored, and checks that they are those of the events `1` to `count`, each
/// once.
async fn outputs(world: &World, count: u64) {
    let mut stored: Vec<u64> = Vec::new();
    for message in world.wait_for("OUT", count).await {
        stored.push(text(&message.payload).parse().expect("a number"));
    }
    stored.sort_unstable();
    assert_eq!(stored, (1..=count).collect::<Vec<_>>());
}

/// Makes a stream in another second than it was made in before: the ids of events tell by the second.
async fn make_anew(world: &World, name: &str, subject: &str, before_unix: i64) {
    eventually("the next second", || async {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        (i64::try_from(now).expect("fits") > before_unix).then_some(())
    })
    .await;
    world.stream(name, &[subject]).await;
}

async fn created_unix(world: &World, name: &str) -> i64 {
    world.context.get_stream(name).await.expect("the stream").cached_info().created.unix_timestamp()
}

/// Changes limits of a stream.
async fn limit(world: &World, name: &str, max_messages: i64) {
    let stream = world.context.get_stream(name).await.expect("the stream");
    let config = Config { max_messages, discard: DiscardPolicy::New, ..stream.cached_info().config.clone() };
    world.context.update_stream(config).await.expect("updated");
}

#[tokio::test]
async fn a_stream_that_was_deleted_is_a_trouble_until_it_is_made_anew() {
    let (log, _guard) = Log::start();
    let world = World::in_and_out().await;
    let running = forwarding(&world, MANIFEST).await;
    world.publish("in.x", &[], "1").await;
    outputs(&world, 1).await;
    let before = created_unix(&world, "IN").await;
    assert!(readiness(&running).await.starts_with("HTTP/1.1 200"));
    world.context.delete_stream("IN").await.expect("deleted");
    until_unready(&running, "stream \"IN\" does not exist any more; make it anew: nats stream add IN").await;
    let answer = readiness(&running).await;
    let body = "consumer tidemill-h: stream \"IN\" does not exist any more; \
                make it anew: nats stream add IN --subjects \"in.>\"";
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
    make_anew(&world, "IN", "in.>", before).await;
    // It has the same place in the new stream as the first event had in the old one.
    world.publish("in.x", &[], "2").await;
    outputs(&world, 2).await;
    until_well(&running).await;
    log.said_once("consumer tidemill-h", "does not exist any more");
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn what_is_in_flight_of_a_deleted_stream_settles_nothing_of_the_new_one() {
    let world = World::in_and_out().await;
    let running = forwarding(&world, &format!("{MANIFEST}concurrency = 1\n")).await;
    running.close_gate().await;
    world.publish("in.x", &[], "1").await;
    running.wait_for_calls(1).await;
    let before = created_unix(&world, "IN").await;
    world.context.delete_stream("IN").await.expect("deleted");
    make_anew(&world, "IN", "in.>", before).await;
    world.publish("in.x", &[], "2").await;
    eventually("the new event is in flight", || async {
        let stream = world.context.get_stream_no_info("IN").await.ok()?;
        (stream.consumer_info("tidemill-h").await.ok()?.num_ack_pending == 1).then_some(())
    })
    .await;
    running.open_gate();
    outputs(&world, 2).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn streams_that_are_ours_to_make_are_made_again() {
    let (log, _guard) = Log::start();
    let world = World::in_and_out().await;
    let manifest = format!("{MANIFEST}create_stream = true\n");
    let script = |event: &tidemill_policy::event::Event| match event.subject.as_str() {
        "in.bad" => reject("no"),
        _ if event.attempt.get() == 1 => retry("not yet"),
        _ => completed(&[output("out.a", &text(&event.payload))]),
    };
    let running = world.run(&manifest, script).ready().await;
    for (n, stream) in ["IN", "TIDEMILL_RETRY", "TIDEMILL_DEADLETTER"].into_iter().enumerate() {
        let before = created_unix(&world, stream).await;
        world.context.delete_stream(stream).await.expect("deleted");
        if stream != "TIDEMILL_DEADLETTER" {
            eventually("it is back", || async {
                let made = world.context.get_stream(stream).await.ok()?.cached_info().created.unix_timestamp();
                (made >= before).then_some(())
            })
            .await;
        }
        world.publish("in.good", &[("Nats-Msg-Id", stream)], (n + 1).to_string()).await;
        outputs(&world, n as u64 + 1).await;
    }
    world.publish("in.bad", &[], "x").await;
    world.wait_for("TIDEMILL_DEADLETTER", 1).await;
    until_well(&running).await;
    assert!(!log.lines(&["WARN", "made a stream anew", "TIDEMILL_RETRY"]).is_empty(), "{:#?}", log.lines(&[]));
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn a_full_stream_holds_events_and_is_said_once() {
    let (log, _guard) = Log::start();
    let world = World::in_and_out().await;
    limit(&world, "OUT", 1).await;
    let running = forwarding(&world, MANIFEST).await;
    for n in 1..=20 {
        world.publish("in.x", &[], n.to_string()).await;
    }
    until_trouble(&running, "the stream is full").await;
    running.wait_for_calls(16).await;
    assert!(running.status.is_ready(), "not for long yet");
    assert_eq!(world.messages("OUT").await.len(), 1);
    limit(&world, "OUT", -1).await;
    outputs(&world, 20).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    until_well(&running).await;
    log.said_once("stream OUT", "raise its limits, or remove messages");
    assert_eq!(running.seen().len(), 20, "no event is attempted again");
    running.drain().await.expect("drains");
}

#[test]
fn what_was_said_before_in_another_thread_is_heard() {
    let (log, _guard) = Log::start();
    let say = || tracing::info!("this is said");
    std::thread::spawn(say).join().expect("said");
    say();
    assert_eq!(log.lines(&["this is said"]).len(), 1);
}

/// Our retry stream has no such case: a stream with schedules cannot refuse new messages.
#[tokio::test]
async fn events_whose_dead_letters_find_no_room_are_held() {
    let (log, _guard) = Log::start();
    let world = World::in_and_out().await;
    let running = world.run(MANIFEST, |_| retry("not yet")).ready().await;
    limit(&world, "TIDEMILL_DEADLETTER", 1).await;
    for n in 1..=20 {
        world.publish("in.x", &[], n.to_string()).await;
    }
    until_trouble(&running, "the stream is full").await;
    limit(&world, "TIDEMILL_DEADLETTER", -1).await;
    assert_eq!(world.wait_for("TIDEMILL_DEADLETTER", 20).await.len(), 20);
    world.wait_until_settled("TIDEMILL_RETRY", "tidemill-h-retry").await;
    until_well(&running).await;
    log.said_once("stream TIDEMILL_DEADLETTER", "the stream is full");
    assert_eq!(running.seen().len(), 60, "three attempts of each");
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn an_outage_loses_and_repeats_nothing_and_is_said_once() {
    let (log, _guard) = Log::start();
    let world = World::in_and_out().await;
    let running = forwarding(&world, MANIFEST).await;
    running.close_gate().await;
    for n in 1..=40 {
        world.publish("in.x", &[], n.to_string()).await;
    }
    running.wait_for_calls(16).await;
    let World { server, folder, .. } = world;
    let port = server.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    server.kill().await;
    until_unready(&running, "lost the connection to NATS").await;
    // What was in flight is finished meanwhile, and held.
    running.open_gate();
    let server = start_server(folder.path(), Some(port), "").await;
    let client = async_nats::connect(&server.url).await.expect("a connection");
    let context = async_nats::jetstream::new(client.clone());
    let world = World { server, client, context, folder };
    world.publish("in.x", &[], "41").await;
    outputs(&world, 41).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    until_well(&running).await;
    log.said_once("connection", "lost the connection to NATS");
    assert_eq!(log.lines(&["WARN", "trouble="]).len(), 1, "{:#?}", log.lines(&["WARN"]));
    running.drain().await.expect("drains");
}

/// A server with a user whose permissions can be changed while it runs.
struct Guarded {
    world: World,
}

impl Guarded {
    async fn start() -> Guarded {
        let world = World::start_with(&accounts("")).await;
        world.stream("IN", &["in.>"]).await;
        world.stream("OUT", &["out.>"]).await;
        std::fs::write(world.folder.path().join("password"), "y\n").expect("written");
        Guarded { world }
    }

    fn manifest(&self) -> String {
        let password = self.world.folder.path().join("password");
        format!("[nats]\nuser = \"app\"\npassword = \"file:{}\"\n{MANIFEST}", password.display())
    }

    /// Denies the user to publish on these subjects, a list in quotes.
    async fn deny(&self, subjects: &str) {
        let file = self.world.folder.path().join("nats-server.conf");
        let text = std::fs::read_to_string(&file).expect("the configuration");
        let (rest, _) = text.split_once("accounts").expect("accounts");
        std::fs::write(&file, format!("{rest}{}", accounts(subjects))).expect("written");
        let log = self.world.folder.path().join("nats-server.log");
        let reloads =
            || std::fs::read_to_string(&log).unwrap_or_default().matches("Reloaded server configuration").count();
        let before = reloads();
        let pid = self.world.server.pid().expect("it runs").to_string();
        let sent = tokio::process::Command::new("kill").args(["-HUP", &pid]).status().await.expect("kill");
        assert!(sent.success());
        eventually("the server has reloaded", || async { (reloads() > before).then_some(()) }).await;
    }
}

fn accounts(deny: &str) -> String {
    format!(
        "accounts {{ A {{ jetstream: enabled, users: [ {{ user: admin, password: x }}, \
         {{ user: app, password: y, permissions: {{ publish: {{ deny: [{deny}] }} }} }} ] }} }}\nno_auth_user: admin\n"
    )
}

#[tokio::test]
async fn a_pull_that_is_denied_names_the_subject_to_grant() {
    let (log, _guard) = Log::start();
    let guarded = Guarded::start().await;
    let world = &guarded.world;
    let running = forwarding(world, &guarded.manifest()).await;
    world.publish("in.x", &[], "1").await;
    outputs(world, 1).await;
    guarded.deny("\"$JS.API.CONSUMER.MSG.NEXT.IN.>\"").await;
    for n in 2..=60 {
        world.publish("in.x", &[], n.to_string()).await;
    }
    until_unready(&running, "grant publish on \"$JS.API.CONSUMER.MSG.NEXT.IN.tidemill-h\"").await;
    guarded.deny("").await;
    outputs(world, 60).await;
    until_well(&running).await;
    log.said_once("consumer tidemill-h", "the server denies pulling");
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn denied_acknowledgements_stop_the_intake_and_are_said_once() {
    let (log, _guard) = Log::start();
    let guarded = Guarded::start().await;
    let world = &guarded.world;
    let running = forwarding(world, &format!("{}ack_wait = \"2s\"\n", guarded.manifest())).await;
    world.publish("in.x", &[], "1").await;
    outputs(world, 1).await;
    guarded.deny("\"$JS.ACK.>\"").await;
    for n in 2..=60 {
        world.publish("in.x", &[], n.to_string()).await;
    }
    until_unready(&running, "grant publish on \"$JS.ACK.IN.tidemill-h.>\"").await;
    guarded.deny("").await;
    outputs(world, 60).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    until_well(&running).await;
    log.said_once("consumer tidemill-h", "the server denies acknowledging");
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn events_whose_outputs_are_denied_are_kept_as_dead_letters() {
    let (log, _guard) = Log::start();
    let guarded = Guarded::start().await;
    let world = &guarded.world;
    let running = forwarding(world, &guarded.manifest()).await;
    guarded.deny("\"out.>\"").await;
    for n in 1..=20 {
        world.publish("in.x", &[], n.to_string()).await;
    }
    let letters = world.wait_for("TIDEMILL_DEADLETTER", 20).await;
    let errors: Vec<AttemptError> = serde_json::from_str(&letters[0].headers["Tidemill-Errors"]).expect("a history");
    assert_eq!(errors[0].kind, Kind::Denied);
    assert!(running.status.is_ready(), "other handlers go on");
    assert_eq!(log.lines(&["WARN", "trouble="]).len(), 1, "{:#?}", log.lines(&["WARN", "trouble="]));
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn events_whose_dead_letters_are_denied_are_held_until_they_are_not() {
    let (log, _guard) = Log::start();
    let guarded = Guarded::start().await;
    let world = &guarded.world;
    let running = world.run(&guarded.manifest(), |_| reject("no")).ready().await;
    guarded.deny("\"tidemill.deadletter.>\"").await;
    for n in 1..=20 {
        world.publish("in.x", &[], n.to_string()).await;
    }
    until_trouble(&running, "grant publish on \"tidemill.deadletter.h\"").await;
    running.wait_for_calls(16).await;
    guarded.deny("").await;
    assert_eq!(world.wait_for("TIDEMILL_DEADLETTER", 20).await.len(), 20);
    world.wait_until_settled("IN", "tidemill-h").await;
    until_well(&running).await;
    log.said_once("publishing on tidemill.deadletter.h", "events are held");
    assert_eq!(running.seen().len(), 20);
    running.drain().await.expect("drains");
}

/// Three servers that form a cluster.
async fn cluster(folder: &std::path::Path) -> [Server; 3] {
    let taken: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let ports: Vec<_> = taken.iter().map(|socket| socket.local_addr().expect("bound").port()).collect();
    drop(taken);
    let routes = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect::<Vec<_>>().join(", ");
    let start = |n: usize| {
        let extra = format!(
            "server_name: n{n}\ncluster {{ name: c, listen: \"127.0.0.1:{}\", routes: [{routes}] }}\n",
            ports[n]
        );
        let folder = folder.join(format!("n{n}"));
        async move { start_server(&folder, None, &extra).await }
    };
    tokio::join!(start(0), start(1), start(2)).into()
}

async fn step_down(world: &World, what: &str) {
    let subject = format!("$JS.API.{what}");
    world.client.request(subject, "".into()).await.expect("an answer");
}

/// Publishes until it is confirmed: a stream that has no leader does not answer.
async fn publish_patiently(world: &World, n: u64) {
    eventually("it is stored", || async {
        let message =
            jetstream::message::PublishMessage::build().payload(n.to_string().into()).message_id(n.to_string());
        let confirmation = world.context.send_publish("in.x", message).await.ok()?;
        confirmation.await.ok().map(drop)
    })
    .await;
}

/// How long a cluster may take to store on three servers.
const FORMING_MAX: Duration = Duration::from_secs(20);

/// Makes the streams on all three servers; servers of version 2.10 now and then do not find each other.
async fn replicated(context: &jetstream::Context) -> bool {
    for (name, subjects) in [("IN", "in.>"), ("OUT", "out.>")] {
        let config =
            Config { name: name.into(), subjects: vec![subjects.into()], num_replicas: 3, ..Config::default() };
        let made = eventually("a stream", || async { context.create_stream(config.clone()).await.ok() });
        if tokio::time::timeout(FORMING_MAX, made).await.is_err() {
            return false;
        }
    }
    true
}

/// A cluster with the streams: two of its servers besides the one in the world.
async fn replicated_world() -> (Server, World, Server) {
    for _ in 0..3 {
        let folder = tempfile::tempdir().expect("a folder");
        let [first, server, third] = Box::pin(cluster(folder.path())).await;
        let client = async_nats::connect(&server.url).await.expect("a connection");
        let context = jetstream::new(client.clone());
        if replicated(&context).await {
            return (first, World { server, client, context, folder }, third);
        }
    }
    panic!("three servers do not become a cluster");
}

#[tokio::test]
async fn changes_of_leader_and_the_loss_of_a_server_lose_and_repeat_nothing() {
    let (_log, _guard) = Log::start();
    let (first, world, _third) = Box::pin(replicated_world()).await;
    let mut first = Some(first);
    let script = |event: &tidemill_policy::event::Event| match event.attempt.get() {
        1 if event.payload.ends_with(b"7") => retry("not yet"),
        _ => completed(&[output("out.a", &text(&event.payload))]),
    };
    // What the lost server had sent or not passed on is delivered again.
    let manifest = format!("[nats]\nreplicas = 3\n{MANIFEST}ack_wait = \"3s\"\n");
    let url = first.as_ref().map(|first| first.url.clone()).expect("it runs");
    let running = run_at(&url, &manifest, script).ready().await;
    for n in 1..=200 {
        publish_patiently(&world, n).await;
        match n {
            20 => step_down(&world, "STREAM.LEADER.STEPDOWN.IN").await,
            40 => step_down(&world, "CONSUMER.LEADER.STEPDOWN.IN.tidemill-h").await,
            60 => step_down(&world, "STREAM.LEADER.STEPDOWN.OUT").await,
            // The instance is connected to this one, and goes on with another.
            120 => first.take().expect("it runs").kill().await,
            _ => {}
        }
    }
    outputs(&world, 200).await;
    world.wait_until_settled("IN", "tidemill-h").await;
    until_well(&running).await;
    let retried = running.status.report().handlers["h"].counts.retried;
    assert!(retried <= 20, "no attempt is charged for what the servers do: {retried}");
    running.drain().await.expect("drains");
}
