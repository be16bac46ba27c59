//! The tidemill processes: the real binary, several at once, killed with SIGKILL and started again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::manifest::{PORT_VARIABLE, START_VARIABLE};

/// How long one may take to end after SIGTERM; longer than the manifest's `drain`.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an instance may take to say how it is; one that is about to start does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// The processes.
#[derive(Debug)]
pub(crate) struct Instances {
    slots: Vec<Slot>,
    folder: PathBuf,
    manifest: PathBuf,
    /// How often one was killed.
    pub(crate) kills: u32,
    /// How many deliveries each of the killed had in flight.
    pub(crate) in_flight: Vec<u64>,
    /// What those said that ended without being asked to.
    pub(crate) ended: Vec<String>,
}

#[derive(Debug)]
struct Slot {
    child: Child,
    /// Which one it is, and how often it was started, as `<number>.<start>`.
    start: String,
    starts: u32,
    number: usize,
    port: u16,
    log: PathBuf,
    manifest: PathBuf,
}

#[derive(Deserialize)]
struct Status {
    ready: bool,
    handlers: std::collections::BTreeMap<String, Counts>,
}

#[derive(Deserialize)]
struct Counts {
    in_flight: u64,
    gate: Option<Gate>,
}

#[derive(Deserialize)]
struct Gate {
    breaker: String,
}

impl Instances {
    /// Starts one on each port, with its log in `folder`.
    pub(crate) fn start(folder: &Path, manifest: &Path, ports: &[u16]) -> Result<Instances> {
        let (folder, manifest) = (folder.to_owned(), manifest.to_owned());
        let none =
            Instances { slots: Vec::new(), folder, manifest, kills: 0, in_flight: Vec::new(), ended: Vec::new() };
        ports.iter().try_fold(none, |mut all, &port| all.add(port).map(|()| all))
    }

    /// Starts one more.
    pub(crate) fn add(&mut self, port: u16) -> Result<()> {
        let (number, log) = (self.slots.len(), self.folder.join(format!("tidemill-{port}.log")));
        let start = format!("{number}.1");
        let child = spawn(port, &start, &log, &self.manifest)?;
        self.slots.push(Slot { child, start, starts: 1, number, port, log, manifest: self.manifest.clone() });
        Ok(())
    }

    /// Kills one at once, as a crash would, and starts it again.
    pub(crate) async fn kill(&mut self, number: usize) -> Result<()> {
        let in_flight = self.in_flight_of(number).await;
        let slot = &mut self.slots[number];
        slot.child.kill().await.context("cannot kill tidemill")?;
        slot.start_again()?;
        self.kills += 1;
        self.in_flight.push(in_flight);
        Ok(())
    }

    /// Kills one at once and starts it again, without asking it what it has in flight.
    pub(crate) async fn kill_at_once(&mut self, number: usize) -> Result<()> {
        let slot = &mut self.slots[number];
        slot.child.kill().await.context("cannot kill tidemill")?;
        self.kills += 1;
        slot.start_again()
    }

    /// Asks one to end, waits until it has drained, and starts it again.
    pub(crate) async fn restart(&mut self, number: usize) -> Result<()> {
        let slot = &mut self.slots[number];
        slot.end().await?;
        slot.start_again()
    }

    /// Which start of an instance this is, as `<number>.<start>`; its process is told in [`START_VARIABLE`].
    pub(crate) fn start_of(&self, number: usize) -> &str {
        &self.slots[number].start
    }

    /// Whether an instance says that it is ready.
    pub(crate) async fn is_ready(&self, number: usize) -> bool {
        let status = timeout(ANSWER_TIMEOUT, status(self.slots[number].port)).await;
        matches!(status, Ok(Ok(status)) if status.ready)
    }

    /// Whether an instance says that a handler's breaker was opened by hand.
    pub(crate) async fn is_held(&self, number: usize, handler: &str) -> bool {
        let Ok(Ok(status)) = timeout(ANSWER_TIMEOUT, status(self.slots[number].port)).await else { return false };
        let gate = status.handlers.get(handler).and_then(|counts| counts.gate.as_ref());
        gate.is_some_and(|gate| gate.breaker == "held")
    }

    /// How many deliveries an instance has in flight; 0 where it is not ready yet.
    pub(crate) async fn in_flight_of(&self, number: usize) -> u64 {
        let status = timeout(ANSWER_TIMEOUT, status(self.slots[number].port)).await;
        let Ok(Ok(status)) = status else { return 0 };
        if status.ready { status.handlers.values().map(|counts| counts.in_flight).sum() } else { 0 }
    }

    /// Starts again those that have ended by themselves, and takes note of it: none should.
    pub(crate) fn revive(&mut self) -> Result<()> {
        for (number, slot) in self.slots.iter_mut().enumerate() {
            if let Some(status) = slot.child.try_wait()? {
                self.ended.push(format!("instance {number} ended by itself ({status}): {}", slot.last_line()));
                slot.start_again()?;
            }
        }
        Ok(())
    }

    /// Asks all to end, and waits until they have drained.
    pub(crate) async fn end(mut self) -> Result<()> {
        for slot in &mut self.slots {
            slot.end().await?;
        }
        Ok(())
    }
}

impl Slot {
    fn start_again(&mut self) -> Result<()> {
        self.starts += 1;
        self.start = format!("{}.{}", self.number, self.starts);
        self.child = spawn(self.port, &self.start, &self.log, &self.manifest)?;
        Ok(())
    }

    /// Asks it to end, and waits until it has drained.
    async fn end(&mut self) -> Result<()> {
        let pid = self.child.id().context("tidemill has ended already")?;
        // The signal goes to a child that we have not waited for, so the pid is still its own.
        let sent = Command::new("kill").arg(pid.to_string()).status().await;
        if !sent.context("cannot run kill")?.success() {
            bail!("cannot send SIGTERM to tidemill");
        }
        let status = timeout(END_TIMEOUT, self.child.wait()).await;
        let status = status.with_context(|| format!("tidemill did not end {END_TIMEOUT:?} after SIGTERM"))??;
        if !status.success() {
            bail!("tidemill ended with {status} after SIGTERM: {}", self.last_line());
        }
        Ok(())
    }

    fn last_line(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().last().unwrap_or("it has logged nothing").to_owned()
    }
}

fn spawn(port: u16, start: &str, log: &Path, manifest: &Path) -> Result<Child> {
    let executable = executable()?;
    let out = File::options().create(true).append(true).open(log);
    let out = out.with_context(|| format!("cannot open {}", log.display()))?;
    let mut command = Command::new(&executable);
    command.arg("run").arg("--manifest").arg(manifest).env("NO_COLOR", "1");
    command.env(PORT_VARIABLE, port.to_string()).env(START_VARIABLE, start);
    command.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
    // In a group of its own: on Ctrl-C it is we who end it.
    command.process_group(0).kill_on_drop(true);
    command.spawn().with_context(|| format!("cannot start {}", executable.display()))
}

/// The executable that was built together with this one.
pub(crate) fn executable() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this executable is")?;
    let path = own.with_file_name(format!("tidemill{}", std::env::consts::EXE_SUFFIX));
    if !path.is_file() {
        bail!("{} is missing; start the run with: cargo xtask chaos", path.display());
    }
    Ok(path)
}

/// What an instance says about itself, asked over HTTP on a connection of its own.
async fn status(port: u16) -> Result<Status> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    connection.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").context("the answer is not HTTP")?;
    Ok(serde_json::from_slice(&answer[body + 4..])?)
}
