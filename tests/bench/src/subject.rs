//! What is measured: the hand-written consumer, or tidemill with some handlers; each in a process of its own.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::sleep;

use crate::process::{self, Background};
use crate::work::Work;

/// How many events are handled at once, where a row says nothing else.
pub(crate) const IN_FLIGHT: usize = 256;
/// How long tidemill may take to get ready.
const READY_MAX: Duration = Duration::from_mins(2);

/// What is to be measured.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    /// The hand-written consumer.
    Baseline {
        /// What it does with an event.
        work: Work,
        /// How many consumers it has; each has its own subject where there are several.
        consumers: u64,
        /// How many events of each it works on at once.
        in_flight: usize,
        /// Whether it remembers which events are done.
        dedup: bool,
    },
    /// tidemill.
    Tidemill(Tidemill),
}

/// tidemill with some handlers that share the events.
#[derive(Debug, Clone)]
pub(crate) struct Tidemill {
    /// The component of all handlers, from `cargo xtask guests`.
    pub(crate) guest: &'static str,
    /// How many handlers there are; each has its own subject.
    pub(crate) handlers: u64,
    /// Whether the only handler has all subjects.
    pub(crate) all_subjects: bool,
    /// How many events each handles at once.
    pub(crate) in_flight: usize,
    /// More keys of every handler's table.
    pub(crate) keys: String,
    /// More tables of the manifest.
    pub(crate) tables: String,
    /// Whether each handler has a component of its own, which differs from the others' in a byte that does nothing.
    pub(crate) distinct: bool,
}

impl Tidemill {
    /// One handler.
    pub(crate) fn of(guest: &'static str, keys: &str) -> Tidemill {
        let (keys, tables) = (keys.to_owned(), String::new());
        Tidemill { guest, handlers: 1, all_subjects: false, in_flight: IN_FLIGHT, keys, tables, distinct: false }
    }

    fn manifest(&self, url: &str, folder: &Path, port: u16) -> Result<String> {
        let cache = serde_json::Value::from(cache(folder).to_string_lossy()).to_string();
        let mut text = format!(
            "[nats]\nurl = \"{url}\"\n[runtime]\nplugins = \"plugins\"\nlisten = \"127.0.0.1:{port}\"\ncache = {cache}\n{}\n",
            self.tables
        );
        std::fs::create_dir_all(folder.join("plugins"))?;
        let bytes = guest(self.guest)?;
        for number in 0..self.handlers {
            let component = if self.distinct { format!("{}-{number}", self.guest) } else { self.guest.to_owned() };
            let path = folder.join("plugins").join(&component).with_extension("wasm");
            let content = if self.distinct { marked(&bytes, number) } else { bytes.clone() };
            std::fs::write(path, content)?;
            let subject = if self.all_subjects { "*".to_owned() } else { number.to_string() };
            write!(
                text,
                "[handler.h{number}]\ncomponent = \"{component}.wasm\"\nsubject = \"in.{subject}\"\nstream = \"IN\"\n\
                 concurrency = {}\nallow = {{ publish = [\"out.>\"] }}\n{}\n",
                self.in_flight, self.keys
            )?;
        }
        Ok(text)
    }

    /// Starts it, with its files in `folder`. It may not be ready yet.
    pub(crate) fn start(&self, url: &str, folder: &Path) -> Result<Running> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let manifest = folder.join("tidemill.toml");
        std::fs::write(&manifest, self.manifest(url, folder, port)?)?;
        let mut command = Command::new(process::tidemill()?);
        command.arg("run").arg("--manifest").arg(manifest).env("NO_COLOR", "1");
        let process = Background::start(command, &folder.join("tidemill.log"))?;
        Ok(Running { process, port: Some(port), since: Instant::now() })
    }
}

/// The folder of compiled components, which all measurements share.
fn cache(folder: &Path) -> PathBuf {
    folder.parent().unwrap_or(folder).join("cache")
}

/// A component that was built with `cargo xtask guests`.
pub(crate) fn guest(name: &str) -> Result<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("tests/bench lies two folders deep")?;
    let path = root.join("target/guests").join(name).with_extension("wasm");
    std::fs::read(&path).with_context(|| format!("cannot read {}; build it with: cargo xtask guests", path.display()))
}

/// The component with one more custom section, which nobody reads.
pub(crate) fn marked(component: &[u8], number: u64) -> Vec<u8> {
    let mut marked = component.to_vec();
    let name = b"bench";
    let content = number.to_le_bytes();
    let length = u8::try_from(1 + name.len() + content.len()).expect("a short section");
    marked.extend_from_slice(&[0, length, u8::try_from(name.len()).expect("a short name")]);
    marked.extend_from_slice(name);
    marked.extend_from_slice(&content);
    marked
}

/// A process that is measured.
pub(crate) struct Running {
    pub(crate) process: Background,
    port: Option<u16>,
    since: Instant,
}

impl Running {
    /// Waits until tidemill is ready, and returns how long that took since it was started.
    pub(crate) async fn ready(&mut self) -> Result<Duration> {
        let Some(port) = self.port else { return Ok(Duration::ZERO) };
        while !is_ready(port).await {
            self.process.check()?;
            if self.since.elapsed() > READY_MAX {
                bail!("tidemill was not ready after {READY_MAX:?}");
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(self.since.elapsed())
    }

    /// Asks tidemill for something, and returns its whole answer.
    pub(crate) async fn post(&self, path: &str) -> Result<String> {
        let port = self.port.context("only tidemill can be asked")?;
        Ok(ask(port, &format!("POST {path}")).await?)
    }
}

async fn is_ready(port: u16) -> bool {
    ask(port, "GET /readyz").await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

async fn ask(port: u16, what: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("{what} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

impl Subject {
    /// The hand-written consumer as it mostly is.
    pub(crate) fn hand_written(work: Work) -> Subject {
        Subject::Baseline { work, consumers: 1, in_flight: IN_FLIGHT, dedup: false }
    }

    /// Starts it, with its files in `folder`.
    pub(crate) fn start(&self, url: &str, folder: &Path) -> Result<Running> {
        let (work, consumers, in_flight, dedup) = match self {
            Subject::Tidemill(tidemill) => return tidemill.start(url, folder),
            Subject::Baseline { work, consumers, in_flight, dedup } => (work, consumers, in_flight, *dedup),
        };
        let mut command = process::own()?;
        command.args(["baseline", "--url", url, "--work", work.name()]);
        command.args(["--consumers", &consumers.to_string(), "--in-flight", &in_flight.to_string()]);
        command.args(dedup.then_some("--dedup"));
        let process = Background::start(command, &folder.join("baseline.log"))?;
        Ok(Running { process, port: None, since: Instant::now() })
    }
}
