//! What the tests share: a private server, an instance with a scripted handler, and waiting for conditions.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, HeaderMap};
use futures::StreamExt;
use tempfile::TempDir;
use tidemill::broker::nats::Nats;
use tidemill::broker::nats::connect::{self, Target};
use tidemill::broker::nats::consume::Spec;
use tidemill::broker::nats::durable;
use tidemill::broker::nats::server::{Server, executable};
use tidemill::in_flight::{Budget, Purse};
use tidemill::instance::{self, Generation, StartError};
use tidemill::invoker::{Invoker, Report};
use tidemill::status::Status;
use tidemill::version::Part;
use tidemill_policy::budget::Usage;
use tidemill_policy::event::{Event, Output};
use tidemill_policy::in_flight;
use tidemill_policy::manifest::{self, Auth, Manifest, Source};
use tidemill_policy::outcome::{HandlerError, Outcome};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How long a condition may take to come true, on a machine that is busy with other things.
pub(crate) const DEADLINE: Duration = Duration::from_mins(2);

/// Waits until nothing is left for a consumer to do.
pub(crate) async fn wait_until_settled(context: &Context, stream: &str, consumer: &str) {
    eventually(&format!("consumer {consumer} has settled all"), || async {
        let stream = context.get_stream_no_info(stream).await.ok()?;
        let info = stream.consumer_info(consumer).await.ok()?;
        (info.num_pending == 0 && info.num_ack_pending == 0).then_some(())
    })
    .await;
}

/// Waits until `probe` gives something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < deadline, "this did not happen in {DEADLINE:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A private server and a connection to it. Dropping it kills the server.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) client: Client,
    pub(crate) context: Context,
    pub(crate) folder: TempDir,
}

/// A message as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) subject: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) payload: Vec<u8>,
}

impl World {
    pub(crate) async fn start() -> World {
        World::start_with("").await
    }

    /// Starts a server with a stream `IN` for `in.>` and a stream `OUT` for `out.>`.
    pub(crate) async fn in_and_out() -> World {
        let world = World::start().await;
        world.stream("IN", &["in.>"]).await;
        world.stream("OUT", &["out.>"]).await;
        world
    }

    /// Starts a server with additional configuration.
    pub(crate) async fn start_with(extra: &str) -> World {
        World::in_folder(tempfile::tempdir().expect("a temporary folder"), extra).await
    }

    /// Starts a server on what an earlier one has left.
    pub(crate) async fn in_folder(folder: TempDir, extra: &str) -> World {
        World::in_folder_at(folder, None, extra).await
    }

    /// The same, at the port that it had.
    pub(crate) async fn in_folder_at(folder: TempDir, port: Option<u16>, extra: &str) -> World {
        let server = start_server(folder.path(), port, extra).await;
        let client = async_nats::connect(&server.url).await.expect("a connection");
        let context = jetstream::new(client.clone());
        World { server, client, context, folder }
    }

    /// Stops or kills the server, and starts it again at its port; waits until `running` has noticed both.
    pub(crate) async fn restarted(self, is_killed: bool, running: &Running) -> World {
        let World { server, folder, .. } = self;
        let port = server.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        if is_killed {
            server.kill().await;
        } else {
            server.stop().await;
        }
        eventually("the loss is noticed", || async { (!running.status.is_ready()).then_some(()) }).await;
        let world = World::in_folder_at(folder, Some(port), "").await;
        eventually("the instance is ready again", || async { running.status.is_ready().then_some(()) }).await;
        world
    }

    pub(crate) async fn stream(&self, name: &str, subjects: &[&str]) {
        self.context.create_stream(World::config(name, subjects)).await.expect("a stream");
    }

    pub(crate) fn config(name: &str, subjects: &[&str]) -> jetstream::stream::Config {
        let subjects = subjects.iter().map(|&subject| subject.to_owned()).collect();
        jetstream::stream::Config { name: name.into(), subjects, ..Default::default() }
    }

    pub(crate) async fn publish(&self, subject: &str, headers: &[(&str, &str)], payload: impl Into<bytes::Bytes>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        let confirmation = self.context.publish_with_headers(subject.to_owned(), map, payload.into()).await;
        confirmation.expect("sent").await.expect("confirmed");
    }

    /// All messages of a stream.
    pub(crate) async fn messages(&self, stream: &str) -> Vec<Stored> {
        let stream = self.context.get_stream(stream).await.expect("the stream");
        let count = stream.cached_info().state.messages;
        if count == 0 {
            return Vec::new();
        }
        // A cluster that has just lost a server may not answer at once.
        let consumer =
            eventually("a consumer", || async { stream.create_consumer(OrderedConfig::default()).await.ok() }).await;
        let messages = consumer.messages().await.expect("messages").take(usize::try_from(count).expect("fits"));
        messages.map(|message| stored(message.expect("a message").message)).collect().await
    }

    /// Waits until a stream holds `count` messages, and returns them.
    pub(crate) async fn wait_for(&self, stream: &str, count: u64) -> Vec<Stored> {
        eventually(&format!("{count} messages in {stream}"), || async {
            let mut stream = self.context.get_stream(stream).await.ok()?;
            (stream.info().await.ok()?.state.messages >= count).then_some(())
        })
        .await;
        self.messages(stream).await
    }

    /// Waits until nothing is left for a consumer to do.
    pub(crate) async fn wait_until_settled(&self, stream: &str, consumer: &str) {
        wait_until_settled(&self.context, stream, consumer).await;
    }

    /// Makes a consumer `c` on stream `IN`.
    pub(crate) async fn consumer(&self, ack_wait: Duration) -> (Arc<Nats>, Spec) {
        let target = Target {
            urls: vec![self.server.url.clone()],
            auth: Auth::None,
            tls: None,
            base: std::path::PathBuf::new(),
        };
        let (client, link) = connect::connect(&target, "test", Arc::default()).await.expect("a connection");
        let nats = Arc::new(Nats::new(client, link));
        let spec = Spec {
            stream: "IN".into(),
            stream_created_unix: 0,
            create_with: None,
            repeats_within: Duration::ZERO,
            name: "c".into(),
            filters: vec!["in.>".into()],
            ack_wait,
            max_ack_pending: 100,
            credit: 2,
            broadcast: false,
            replicas: 0,
            source: tidemill::broker::Source::Input,
            is_ordered: false,
            turns: None,
            owner: Arc::default(),
            progress: Arc::default(),
        };
        durable::ensure(&nats, &spec).await.expect("a consumer");
        (nats, spec)
    }

    /// Starts an instance in which every handler follows `script`.
    pub(crate) fn run(&self, manifest: &str, script: impl Fn(&Event) -> Outcome + Send + Sync + 'static) -> Running {
        run_at(&self.server.url, manifest, script)
    }
}

/// The bytes of one consumer that is alone.
pub(crate) fn purse() -> Purse {
    Budget::new(in_flight::divide(16 << 20, 1, 1 << 20)).purse(0)
}

pub(crate) async fn start_server(folder: &Path, port: Option<u16>, extra: &str) -> Server {
    Server::start(&executable(None), folder, port, extra).await.expect("a nats-server; run cargo xtask setup")
}

fn stored(message: async_nats::Message) -> Stored {
    let headers = message.headers.unwrap_or_default();
    let headers =
        headers.iter().flat_map(|(name, values)| values.iter().map(|value| (name.to_string(), value.to_string())));
    Stored { subject: message.subject.to_string(), headers: headers.collect(), payload: message.payload.to_vec() }
}

type Script = Arc<dyn Fn(&Event) -> Outcome + Send + Sync>;

/// A handler that does what a closure says.
#[derive(Clone)]
pub(crate) struct Scripted {
    script: Script,
    seen: Arc<Mutex<Vec<Event>>>,
    gate: Arc<tokio::sync::Semaphore>,
}

impl Invoker for Scripted {
    async fn invoke(&self, event: Arc<Event>) -> Report {
        self.seen.lock().expect("not poisoned").push(Event::clone(&event));
        let _pass = self.gate.acquire().await.expect("never closed");
        let outcome = (self.script)(&event);
        Report { outcome, usage: Usage::default(), seed: [1; 32], clock_ms: 2 }
    }
}

/// An instance that runs in this process.
pub(crate) struct Running {
    pub(crate) status: Arc<Status>,
    pub(crate) stop: CancellationToken,
    seen: Arc<Mutex<Vec<Event>>>,
    gate: Arc<tokio::sync::Semaphore>,
    task: JoinHandle<Result<(), StartError>>,
}

pub(crate) fn parse(manifest: &str) -> Manifest {
    let source = Source { path: "tidemill.toml", text: manifest };
    match manifest::parse(source, &[], &|_| None) {
        Ok(parsed) => parsed.manifest,
        Err(problems) => panic!("{problems}"),
    }
}

/// Starts an instance at a server, or at several with commas between them.
pub(crate) fn run_at(url: &str, manifest: &str, script: impl Fn(&Event) -> Outcome + Send + Sync + 'static) -> Running {
    let manifest = parse(manifest);
    let (seen, gate) = (Arc::default(), Arc::new(tokio::sync::Semaphore::new(1_000)));
    let invoker = Scripted { script: Arc::new(script), seen: Arc::clone(&seen), gate: Arc::clone(&gate) };
    let parts: Vec<_> = manifest
        .handlers
        .values()
        .map(|handler| Part {
            handler: Arc::new(handler.clone()),
            invoker: invoker.clone(),
            schemas: Arc::new(tidemill::schemas::read(handler, Path::new("/")).expect("schemas")),
            component: "digest".into(),
            tally: Arc::default(),
        })
        .collect();
    let target = Target {
        urls: url.split(',').map(str::to_owned).collect(),
        auth: manifest.nats.auth.clone(),
        tls: None,
        base: std::path::PathBuf::new(),
    };
    let name = nuid::next().to_lowercase();
    let generation = Generation::new(manifest, parts);
    let status = Arc::new(Status::new(name, &generation));
    let orders = mpsc::channel(1).1;
    let stop = CancellationToken::new();
    let (shared, token) = (Arc::clone(&status), stop.clone());
    let task = tokio::spawn(async move { instance::run(target, generation, orders, shared, token).await });
    Running { status, stop, seen, gate, task }
}

impl Running {
    pub(crate) async fn ready(self) -> Running {
        let status = Arc::clone(&self.status);
        eventually("the instance is ready", || async { status.is_ready().then_some(()) }).await;
        self
    }

    /// The events that the handler was called with, in order.
    pub(crate) fn seen(&self) -> Vec<Event> {
        self.seen.lock().expect("not poisoned").clone()
    }

    pub(crate) async fn wait_for_calls(&self, count: usize) -> Vec<Event> {
        eventually(&format!("{count} calls"), || async { (self.seen().len() >= count).then(|| self.seen()) }).await
    }

    /// Holds up every handler until [`Running::open_gate`].
    pub(crate) async fn close_gate(&self) {
        self.gate.acquire_many(1_000).await.expect("never closed").forget();
    }

    pub(crate) fn open_gate(&self) {
        self.gate.add_permits(1_000);
    }

    /// Asks it to stop, and waits until it has drained.
    pub(crate) async fn drain(self) -> Result<(), StartError> {
        self.stop.cancel();
        self.task.await.expect("no panic")
    }

    /// Waits until it ends by itself.
    pub(crate) async fn end(self) -> Result<(), StartError> {
        tokio::time::timeout(DEADLINE, self.task).await.expect("ends by itself").expect("no panic")
    }
}

pub(crate) fn output(subject: &str, payload: &str) -> Output {
    let (kind, content_type) = (None, None);
    Output {
        subject: subject.into(),
        kind,
        content_type,
        headers: Vec::new(),
        payload: bytes::Bytes::copy_from_slice(payload.as_bytes()),
    }
}

pub(crate) fn completed(outputs: &[Output]) -> Outcome {
    Outcome::Completed(outputs.to_vec())
}

pub(crate) fn retry(message: &str) -> Outcome {
    Outcome::Retry { error: HandlerError { message: message.into(), ..HandlerError::default() }, delay: None }
}

pub(crate) fn reject(message: &str) -> Outcome {
    Outcome::Rejected(HandlerError { message: message.into(), ..HandlerError::default() })
}
