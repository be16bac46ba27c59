//! The servers of a trial: one, or a cluster of three on loopback, each of which is ended and started again on the same
//! ports and the same data.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::jetstream;
use futures::future::try_join_all;
use tidemill::broker::nats::server::{Server, executable};
use tokio::time::sleep;

use crate::progress::POLL_INTERVAL;

/// How long replicas may take to be current after a server has been started again.
const MEND_TIMEOUT: Duration = Duration::from_mins(1);

/// The servers.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    /// How often one was restarted by SIGTERM and by SIGKILL.
    pub(crate) restarts: [u32; 2],
}

/// The place of one server.
#[derive(Debug)]
struct Node {
    folder: PathBuf,
    port: u16,
    extra: String,
    server: Option<Server>,
}

impl Node {
    async fn start(&mut self) -> Result<()> {
        let started = Server::start(&executable(None), &self.folder, Some(self.port), &self.extra).await;
        self.server = Some(started.context("a server could not be started")?);
        Ok(())
    }
}

/// How many ports so many servers need.
pub(crate) fn ports_of(nodes: usize) -> usize {
    if nodes == 1 { 1 } else { 2 * nodes }
}

impl Cluster {
    /// Starts as many servers as there are ports for, see [`ports_of`], with their data below `folder`.
    pub(crate) async fn start(folder: &Path, ports: &[u16]) -> Result<Cluster> {
        let (ports, routes) = ports.split_at(ports.len().div_ceil(2));
        let urls: Vec<_> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let extra = |number: usize| match routes.get(number) {
            Some(route) => format!(
                "server_name: n{number}\ncluster {{ name: chaos, listen: \"127.0.0.1:{route}\", routes: {urls:?} }}\n"
            ),
            None => String::new(),
        };
        let node = |(number, &port)| Node {
            folder: folder.join(format!("nats-{number}")),
            port,
            extra: extra(number),
            server: None,
        };
        let mut nodes: Vec<_> = ports.iter().enumerate().map(node).collect();
        try_join_all(nodes.iter_mut().map(Node::start)).await?;
        Ok(Cluster { nodes, restarts: [0; 2] })
    }

    /// Their URLs.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("nats://127.0.0.1:{}", node.port)).collect()
    }

    /// Ends one, by SIGKILL where this is a crash.
    pub(crate) async fn end(&mut self, number: usize, is_crash: bool) {
        match self.nodes[number].server.take() {
            Some(server) if is_crash => server.kill().await,
            Some(server) => server.stop().await,
            None => return,
        }
        self.restarts[usize::from(is_crash)] += 1;
    }

    /// Starts one again that was ended.
    pub(crate) async fn start_again(&mut self, number: usize) -> Result<()> {
        self.nodes[number].start().await
    }

    /// Ends all.
    pub(crate) async fn end_all(&mut self) {
        for node in &mut self.nodes {
            if let Some(server) = node.server.take() {
                server.stop().await;
            }
        }
    }
}

/// Waits until every stream has its leader and all replicas are current.
pub(crate) async fn mend(context: &jetstream::Context, streams: &[String], nodes: usize) -> Result<()> {
    let start = Instant::now();
    for name in streams {
        while !is_whole(context, name, nodes).await {
            if start.elapsed() > MEND_TIMEOUT {
                bail!("the replicas of {name} are not current {MEND_TIMEOUT:?} after a restart");
            }
            sleep(POLL_INTERVAL).await;
        }
    }
    Ok(())
}

async fn is_whole(context: &jetstream::Context, stream: &str, nodes: usize) -> bool {
    let Ok(stream) = context.get_stream(stream).await else { return false };
    let Some(cluster) = &stream.cached_info().cluster else { return nodes == 1 };
    let current = cluster.replicas.iter().filter(|replica| replica.current && !replica.offline).count();
    cluster.leader.is_some() && current + 1 == nodes
}
