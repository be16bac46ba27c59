//! A deployment: one manifest and the processes that run it, which can be killed at a moment when it is known what they
//! have begun.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::time::sleep;

use super::witness::Witness;
use crate::instances::{Instances, executable};
use crate::manifest::{PORT_VARIABLE, START_VARIABLE, guests};
use crate::progress::POLL_INTERVAL;

/// How long to wait until a process that is to be killed has begun as much as it can.
const FILL_TIMEOUT: Duration = Duration::from_millis(700);

/// A handler, as its table in the manifest says.
#[derive(Debug, Clone)]
pub(crate) struct Handler {
    /// Its name.
    pub(crate) name: &'static str,
    /// The stream of its events.
    pub(crate) stream: String,
    /// Their subject.
    pub(crate) subject: String,
    /// After how many failed attempts it gives up.
    pub(crate) attempts_max: u32,
    /// How many events it runs at once.
    pub(crate) concurrency: u32,
    /// Whether it claims events before it runs them.
    pub(crate) claims: bool,
    /// Further lines of its table.
    pub(crate) more: &'static str,
}

/// What is deployed. Its name is the prefix of its streams, and the middle of the subjects of its outputs.
#[derive(Debug, Clone)]
pub(crate) struct Deployment {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it runs.
    pub(crate) handlers: Vec<Handler>,
    /// In how many processes.
    pub(crate) instances: usize,
    /// `ack_wait` and `limits.timeout`, in seconds.
    pub(crate) ack_wait_s: u32,
}

/// What is around a deployment.
#[derive(Debug, Clone)]
pub(crate) struct Around {
    /// The servers.
    pub(crate) urls: Vec<String>,
    /// How many replicas its streams have.
    pub(crate) replicas: usize,
    /// Where its handlers ask what to do.
    pub(crate) driver: String,
}

impl Deployment {
    /// The place of one of its handlers.
    pub(crate) fn place(&self, handler: &str) -> String {
        format!("{}/{handler}", self.name)
    }

    /// Its manifest.
    pub(crate) fn manifest(&self, around: &Around, guests: &Path) -> String {
        let quote = |text: &str| serde_json::Value::from(text).to_string();
        let (name, driver, ack_wait_s) = (self.name, &around.driver, self.ack_wait_s);
        let mut text = format!(
            r#"[nats]
url = {urls:?}
prefix = "{name}"
replicas = {replicas}

[runtime]
plugins = {guests}
listen = "127.0.0.1:${{{PORT_VARIABLE}}}"
drain = "10s"
cache = "../cache"

[defaults]
ack_wait = "{ack_wait_s}s"
limits = {{ timeout = "{ack_wait_s}s", memory = "16MiB" }}
http = {{ request_timeout = "{ack_wait_s}s" }}
outage_brake = false
"#,
            urls = around.urls,
            replicas = around.replicas,
            guests = quote(&guests.to_string_lossy()),
        );
        for Handler { name: handler, stream, subject, attempts_max, concurrency, more, .. } in &self.handlers {
            let place = self.place(handler);
            let output = format!("out.{name}.{handler}");
            let _ = write!(
                text,
                r#"
[handler.{handler}]
component = "witness.wasm"
subject = "{subject}"
stream = "{stream}"
concurrency = {concurrency}
retry.max_attempts = {attempts_max}
allow = {{ publish = ["{output}"], http = ["GET {driver}"] }}
config = {{ driver = "{driver}", place = "{place}", instance = "${{{START_VARIABLE}}}", output = "{output}" }}
{more}
"#
            );
        }
        text
    }
}

/// A deployment at work.
#[derive(Debug)]
pub(crate) struct House {
    /// What is deployed.
    pub(crate) deployment: Deployment,
    instances: Instances,
    manifest: PathBuf,
    /// The processes that were killed.
    pub(crate) killed: Vec<String>,
    /// How many attempts of which place may have begun without being witnessed.
    pub(crate) unseen: BTreeMap<String, u32>,
}

impl House {
    /// Starts its processes, one on each port, with all files in a folder of its own below `folder`.
    pub(crate) fn start(folder: &Path, deployment: Deployment, around: &Around, ports: &[u16]) -> Result<House> {
        let folder = folder.join(deployment.name);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let manifest = folder.join("tidemill.toml");
        std::fs::write(&manifest, deployment.manifest(around, &guests()))
            .with_context(|| format!("cannot write {}", manifest.display()))?;
        let instances = Instances::start(&folder, &manifest, ports)?;
        Ok(House { deployment, instances, manifest, killed: Vec::new(), unseen: BTreeMap::new() })
    }

    /// The name by which an instance's present process tells of its attempts.
    pub(crate) fn process(&self, number: usize) -> String {
        format!("{}/{}", self.deployment.name, self.instances.start_of(number))
    }

    /// The number of the instance whose present process this is; nothing where that has ended.
    pub(crate) fn number(&self, process: &str) -> Option<usize> {
        (0..self.deployment.instances).find(|&number| self.process(number) == process)
    }

    /// Whether all instances are ready.
    pub(crate) async fn is_ready(&self) -> bool {
        for number in 0..self.deployment.instances {
            if !self.instances.is_ready(number).await {
                return false;
            }
        }
        true
    }

    /// How many deliveries an instance has in hand.
    pub(crate) async fn in_flight_of(&self, number: usize) -> u64 {
        self.instances.in_flight_of(number).await
    }

    /// Whether all instances say that a handler's breaker was opened by hand, and none of them runs an event of it.
    pub(crate) async fn is_held(&self, witness: &Witness, handler: &str) -> bool {
        for number in 0..self.deployment.instances {
            let running = witness.open(&self.deployment.place(handler), &self.process(number));
            if running > 0 || !self.instances.is_held(number, handler).await {
                return false;
            }
        }
        true
    }

    /// Kills an instance at once and starts it again. Before that it gets no more answers, until it has begun as much as
    /// it runs at once: so it is known what had begun. Where `idle` names handlers, nothing of these can begin. What may
    /// have begun unseen in others is noted.
    pub(crate) async fn kill(&mut self, witness: &Witness, number: usize, idle: &[&str]) -> Result<()> {
        let process = self.process(number);
        witness.hold(&process);
        let start = Instant::now();
        let free = |handler: &Handler| {
            let open = witness.open(&self.deployment.place(handler.name), &process);
            if idle.contains(&handler.name) { 0 } else { handler.concurrency.saturating_sub(open) }
        };
        let all_free = || self.deployment.handlers.iter().map(free).sum::<u32>();
        while all_free() > 0 && start.elapsed() < FILL_TIMEOUT {
            sleep(POLL_INTERVAL).await;
        }
        let unseen: Vec<_> = self.deployment.handlers.iter().map(|handler| (handler.name, free(handler))).collect();
        self.instances.kill_at_once(number).await?;
        for (name, count) in unseen {
            *self.unseen.entry(self.deployment.place(name)).or_default() += count;
        }
        self.killed.push(process);
        Ok(())
    }

    /// Asks an instance to end, waits for it, and starts it again.
    pub(crate) async fn restart(&mut self, number: usize) -> Result<()> {
        self.instances.restart(number).await
    }

    /// Starts one more instance.
    pub(crate) fn add(&mut self, port: u16) -> Result<()> {
        self.deployment.instances += 1;
        self.instances.add(port)
    }

    /// Starts those again that have ended by themselves, and takes note of it.
    pub(crate) fn revive(&mut self) -> Result<()> {
        self.instances.revive()
    }

    /// Runs `tidemill` with these arguments on the manifest.
    pub(crate) async fn command(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(executable()?);
        command.args(arguments).arg("--manifest").arg(&self.manifest);
        command.env(PORT_VARIABLE, "0").env(START_VARIABLE, "none").env("NO_COLOR", "1").kill_on_drop(true);
        let output = command.output().await.context("cannot start tidemill")?;
        if !output.status.success() {
            bail!("tidemill {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Ends all instances; says what went wrong with them.
    pub(crate) async fn end(mut self) -> Vec<String> {
        let mut faults = std::mem::take(&mut self.instances.ended);
        if let Err(error) = self.instances.end().await {
            faults.push(format!("{}: {error:#}", self.deployment.name));
        }
        faults
    }
}

/// The manifest of a deployment as tidemill reads it.
#[cfg(test)]
pub(crate) fn parsed(deployment: &Deployment) -> tidemill_policy::manifest::Manifest {
    use tidemill_policy::manifest;

    let urls = vec!["nats://127.0.0.1:4222".to_owned()];
    let around = Around { urls, replicas: 1, driver: "http://127.0.0.1:1".to_owned() };
    let text = deployment.manifest(&around, Path::new("/guests"));
    let source = manifest::Source { path: "tidemill.toml", text: &text };
    let parsed = manifest::parse(source, &[], &|_| Some("7070".to_owned()));
    parsed.unwrap_or_else(|problems| panic!("{problems}\n{text}")).manifest
}
