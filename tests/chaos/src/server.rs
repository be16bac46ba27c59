//! The NATS server: restarted on the same port and the same data, by SIGTERM and SIGKILL in turn.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tidemill::broker::nats::server::{Server, executable};

/// The ports to choose from lie below those that the system gives to outgoing connections. One of the latter
/// could be taken by a client that tries to connect while the server is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A server that can be restarted.
#[derive(Debug)]
pub(crate) struct Broker {
    server: Option<Server>,
    folder: PathBuf,
    port: u16,
    /// The URL to connect to, the same after each restart.
    pub(crate) url: String,
    /// How often it was restarted by SIGTERM and by SIGKILL.
    pub(crate) restarts: [u32; 2],
}

impl Broker {
    /// Starts it on a port, with its data below `folder`.
    pub(crate) async fn start(folder: &Path, port: u16) -> Result<Broker> {
        let server = Server::start(&executable(None), folder, Some(port), "").await?;
        let url = server.url.clone();
        Ok(Broker { server: Some(server), folder: folder.to_owned(), port, url, restarts: [0; 2] })
    }

    /// Ends it, by SIGKILL where this is a crash, and starts it again.
    pub(crate) async fn restart(&mut self, crash: bool) -> Result<()> {
        self.end(crash).await;
        self.restarts[usize::from(crash)] += 1;
        let started = Server::start(&executable(None), &self.folder, Some(self.port), "").await;
        self.server = Some(started.context("the server could not be started again")?);
        Ok(())
    }

    /// Ends it.
    pub(crate) async fn end(&mut self, crash: bool) {
        match self.server.take() {
            Some(server) if crash => server.kill().await,
            Some(server) => server.stop().await,
            None => {}
        }
    }
}

/// Ports that nobody listens on, each another one. Where to begin to look hangs on this process, so that several
/// of them do not try the same ports at once.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let all = u32::from(PORTS.end - PORTS.start);
    let offset = std::process::id().wrapping_mul(7) % all;
    let candidates = (0..all).map(|step| PORTS.start + u16::try_from((offset + step) % all).unwrap_or(0));
    let free = candidates.filter(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    let ports: Vec<_> = free.take(count).collect();
    if ports.len() < count {
        bail!("there are no {count} free ports from {} to {}", PORTS.start, PORTS.end - 1);
    }
    Ok(ports)
}
