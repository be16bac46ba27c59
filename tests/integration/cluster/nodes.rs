//! A NATS cluster of three servers on loopback, each of which can be killed and started again.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{self, Context};
use futures::StreamExt;
use futures::future::{join_all, try_join_all};
use tempfile::TempDir;
use tidemill::broker::nats::server::{Server, ServerError, executable};
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::support::{eventually, wait_until_settled};

/// How many servers there are.
const NODES: usize = 3;
/// How often a cluster is started whose servers end at once.
const STARTS_MAX: u32 = 3;
/// Ports below those that the system gives to outgoing connections, which could take one while its server is down.
const PORTS: std::ops::Range<u16> = 15_000..30_000;
/// How many events are published side by side, so that their order is not told.
pub(crate) const SIDE_BY_SIDE: usize = 128;

/// The servers. Dropping it kills them.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    pub(crate) context: Context,
    _folder: TempDir,
}

/// The place of one server: its ports stay the same when it is started again.
struct Node {
    name: String,
    folder: std::path::PathBuf,
    port: u16,
    extra: String,
    server: Option<Server>,
}

impl Node {
    async fn start(&mut self) -> Result<(), ServerError> {
        let server = Server::start(&executable(None), &self.folder, Some(self.port), &self.extra).await?;
        self.server = Some(server);
        Ok(())
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Cluster {
    /// Starts a cluster, and waits until it makes streams with three replicas.
    pub(crate) async fn start() -> Cluster {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut nodes = plan(&folder);
        for attempt in 1.. {
            match try_join_all(nodes.iter_mut().map(Node::start)).await {
                Ok(_) => break,
                // Somebody else may have taken a port since we looked.
                Err(ServerError::Ended { .. }) if attempt < STARTS_MAX => nodes = plan(&folder),
                Err(error) => panic!("{error}; run cargo xtask setup"),
            }
        }
        let urls: Vec<_> = nodes.iter().map(Node::url).collect();
        let client = async_nats::connect(urls).await.expect("a connection");
        let context = jetstream::new(client);
        let cluster = Cluster { nodes, context, _folder: folder };
        cluster.stream("IN", &["in.>"]).await;
        cluster.stream("OUT", &["out.>"]).await;
        cluster
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Node::url).collect()
    }

    /// The servers as a manifest names them.
    pub(crate) fn table(&self) -> String {
        format!("[nats]\nurl = {:?}\nreplicas = 3\n", self.urls())
    }

    /// Where one server is.
    pub(crate) fn url(&self, name: &str) -> String {
        self.nodes.iter().find(|node| node.name == name).expect("the server").url()
    }

    /// Sends a signal to a server that runs.
    pub(crate) async fn signal(&self, name: &str, signal: &str) {
        let node = self.nodes.iter().find(|node| node.name == name).expect("the server");
        let pid = node.server.as_ref().and_then(Server::pid).expect("it runs");
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status().await;
        assert!(sent.expect("kill starts").success(), "{signal} to {name}");
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// Makes a stream with three replicas, as soon as the cluster can.
    pub(crate) async fn stream(&self, name: &str, subjects: &[&str]) {
        let config = Config {
            name: name.to_owned(),
            subjects: subjects.iter().map(|&subject| subject.to_owned()).collect(),
            storage: StorageType::File,
            num_replicas: NODES,
            duplicate_window: Duration::from_mins(10),
            ..Config::default()
        };
        eventually("a stream with three replicas", || async {
            self.context.get_or_create_stream(config.clone()).await.ok()
        })
        .await;
    }

    /// The name of the server that leads a stream.
    pub(crate) async fn leader(&self, stream: &str) -> String {
        eventually(&format!("a leader of {stream}"), || async {
            let stream = self.context.get_stream(stream).await.ok()?;
            stream.cached_info().cluster.as_ref()?.leader.clone().filter(|leader| !leader.is_empty())
        })
        .await
    }

    /// Kills a server at once, as a crash would.
    pub(crate) async fn kill(&mut self, name: &str) {
        let node = self.nodes.iter_mut().find(|node| node.name == name).expect("the server");
        node.server.take().expect("it runs").kill().await;
    }

    /// Starts the servers again that were killed, and waits until every replica of the streams has caught up.
    pub(crate) async fn mend(&mut self, streams: &[&str]) {
        for node in self.nodes.iter_mut().filter(|node| node.server.is_none()) {
            node.start().await.expect("the server starts again");
        }
        for stream in streams {
            eventually(&format!("the replicas of {stream} are current"), || async {
                let stream = self.context.get_stream(stream).await.ok()?;
                let cluster = stream.cached_info().cluster.clone()?;
                let current = cluster.replicas.iter().filter(|replica| replica.current && !replica.offline).count();
                (cluster.leader.is_some() && current == NODES - 1).then_some(())
            })
            .await;
        }
    }

    /// Publishes each payload on its subject until it is confirmed, in the background, so many side by side; its id lets
    /// the server recognise what it has.
    pub(crate) fn publish(&self, events: Vec<(String, String)>, side_by_side: usize) -> JoinHandle<()> {
        let context = self.context.clone();
        tokio::spawn(async move { publish(&context, &events, side_by_side).await })
    }

    /// Waits until a stream holds so many messages.
    pub(crate) async fn wait_for(&self, stream: &str, count: usize) {
        let what = format!("{count} messages in {stream}");
        eventually(&what, || async { (self.count(stream).await? >= count as u64).then_some(()) }).await;
    }

    /// How many messages a stream holds; nothing while it has no leader.
    pub(crate) async fn count(&self, stream: &str) -> Option<u64> {
        Some(self.context.get_stream(stream).await.ok()?.cached_info().state.messages)
    }

    /// The sequence of the last message that a stream ever had.
    pub(crate) async fn last_sequence(&self, stream: &str) -> Option<u64> {
        Some(self.context.get_stream(stream).await.ok()?.cached_info().state.last_sequence)
    }

    /// The payloads of a stream.
    pub(crate) async fn payloads(&self, stream: &str) -> Vec<String> {
        eventually("all messages are read", || async {
            let stream = self.context.get_stream(stream).await.ok()?;
            let count = usize::try_from(stream.cached_info().state.messages).ok()?;
            if count == 0 {
                return Some(Vec::new());
            }
            let consumer = stream.create_consumer(jetstream::consumer::pull::OrderedConfig::default()).await.ok()?;
            let messages = consumer.messages().await.ok()?.take(count);
            let text = |message: jetstream::Message| String::from_utf8_lossy(&message.payload).into_owned();
            let all: Vec<_> = messages.collect().await;
            all.into_iter().map(|message| message.ok().map(text)).collect::<Option<Vec<_>>>()
        })
        .await
    }

    /// Waits until nothing is left for a consumer to do.
    pub(crate) async fn wait_until_settled(&self, stream: &str, consumer: &str) {
        wait_until_settled(&self.context, stream, consumer).await;
    }
}

/// Publishes each payload on its subject until it is confirmed.
pub(crate) async fn publish(context: &Context, events: &[(String, String)], side_by_side: usize) {
    for chunk in events.chunks(side_by_side) {
        join_all(chunk.iter().map(|(subject, payload)| confirm(context, subject, payload))).await;
    }
}

async fn confirm(context: &Context, subject: &str, payload: &str) {
    let what = format!("{payload} is stored");
    eventually(&what, || async {
        let id = format!("{subject}/{payload:.100}");
        let message = PublishMessage::build().message_id(id).payload(payload.to_owned().into());
        context.send_publish(subject.to_owned(), message).await.ok()?.await.ok()
    })
    .await;
}

fn plan(folder: &TempDir) -> Vec<Node> {
    let routes: Vec<_> = (0..NODES).map(|_| free_port()).collect();
    let urls: Vec<_> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    let node = |(number, route): (usize, &u16)| Node {
        name: format!("n{number}"),
        folder: folder.path().join(format!("{number}-{route}")),
        port: free_port(),
        extra: format!(
            "server_name: n{number}\ncluster {{ name: test, listen: \"127.0.0.1:{route}\", routes: {urls:?} }}\n"
        ),
        server: None,
    };
    routes.iter().enumerate().map(node).collect()
}

/// A port that nobody listens on, and that no other test of this process gets.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let (start, count) = (PORTS.start, u32::from(PORTS.end - PORTS.start));
    loop {
        let nth = std::process::id().wrapping_mul(64).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).into());
        let port = start + u16::try_from(nth % count).expect("a port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
