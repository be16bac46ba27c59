//! One measurement: a server of its own, the load, and what is measured, for as long as it takes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{self, Context as JetStream};
use serde::Serialize;
use tempfile::TempDir;
use tidemill::broker::nats::server::{Server, executable};
use tokio::process::Command;
use tokio::time::sleep;

use crate::load::Latency;
use crate::process::{self, Background, cpu};
use crate::subject::Subject;
use crate::work::Work;

/// How often it is looked how many outputs there are.
const LOOK: Duration = Duration::from_millis(10);
/// How long no output may come before the measurement is given up.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// The events of a measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) work: Work,
    pub(crate) events: u64,
    pub(crate) size: usize,
    pub(crate) fails_each: u64,
    pub(crate) subjects: u64,
}

impl Load {
    /// Small events on one subject, none of which fails.
    pub(crate) fn of(work: Work, events: u64) -> Load {
        Load { work, events, size: 256, fails_each: 0, subjects: 1 }
    }

    fn command(&self, url: &str) -> Result<Command> {
        let mut command = process::own()?;
        let pairs = [("--events", self.events), ("--size", self.size as u64), ("--fails-each", self.fails_each)];
        command.args(["load", "--url", url, "--work", self.work.name(), "--subjects", &self.subjects.to_string()]);
        for (flag, value) in pairs {
            command.args([flag, &value.to_string()]);
        }
        Ok(command)
    }
}

/// A server with the streams IN and OUT, in a folder of its own.
pub(crate) struct World {
    server: Server,
    pub(crate) context: JetStream,
    pub(crate) folder: TempDir,
}

impl World {
    /// Starts a server, with its files below `base`.
    pub(crate) async fn new(base: &Path) -> Result<World> {
        let folder = TempDir::new_in(base)?;
        let server = Server::start(&executable(None), &folder.path().join("nats"), None, "").await?;
        let context = jetstream::new(async_nats::connect(&server.url).await?);
        for (name, subjects) in [("IN", "in.>"), ("OUT", "out.>")] {
            let subjects = vec![subjects.to_owned()];
            let config = Config { name: name.to_owned(), subjects, storage: StorageType::File, ..Config::default() };
            context.create_stream(config).await?;
        }
        Ok(World { server, context, folder })
    }

    pub(crate) fn url(&self) -> &str {
        &self.server.url
    }

    /// Ends the server at once: nobody needs its data.
    pub(crate) async fn end(self) {
        self.server.kill().await;
    }

    /// Publishes the events, and waits until they are stored.
    pub(crate) async fn fill(&self, load: &Load) -> Result<()> {
        process::output(load.command(self.url())?).await.map(drop)
    }

    /// How many outputs there are, and the CPU time that was used for them.
    fn sample(&self, outputs: u64, subject: &Background) -> Result<Sample> {
        let server = self.server.pid().context("the server has ended")?;
        Ok(Sample { at: Instant::now(), outputs, server: cpu(server)?, client: cpu(subject.pid()?)? })
    }

    async fn outputs(&self) -> Result<u64> {
        Ok(self.context.get_stream("OUT").await?.cached_info().state.messages)
    }

    /// Waits until there are `wanted` outputs.
    pub(crate) async fn until(&self, wanted: u64, subject: &mut Background) -> Result<u64> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let outputs = self.outputs().await?;
            if outputs >= wanted {
                return Ok(outputs);
            }
            if outputs > last {
                (last, since) = (outputs, Instant::now());
            }
            subject.check()?;
            if since.elapsed() > SILENCE_MAX {
                bail!("no outputs come any more: {outputs} of {wanted}");
            }
            sleep(LOOK).await;
        }
    }
}

struct Sample {
    at: Instant,
    outputs: u64,
    server: Duration,
    client: Duration,
}

/// How fast a stream that is full of events was worked off.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Drained {
    /// Events a second.
    pub(crate) rate: f64,
    /// CPU time of the server for an event, in microseconds.
    pub(crate) server_us: f64,
    /// CPU time of what is measured for an event, in microseconds.
    pub(crate) client_us: f64,
}

/// Fills a stream, then measures how fast it is worked off, from the first tenth of the outputs to the last.
pub(crate) async fn drain(base: &Path, subject: &Subject, load: &Load) -> Result<Drained> {
    let world = World::new(base).await?;
    world.fill(load).await?;
    let mut running = subject.start(world.url(), world.folder.path())?;
    let outputs = world.until(load.events / 10, &mut running.process).await?;
    let first = world.sample(outputs, &running.process)?;
    let outputs = world.until(load.events / 10 * 9, &mut running.process).await?;
    let last = world.sample(outputs, &running.process)?;
    world.until(load.events, &mut running.process).await?;
    running.process.kill().await;
    world.end().await;
    #[allow(clippy::cast_precision_loss, reason = "far fewer events than a float can count")]
    let count = (last.outputs - first.outputs) as f64;
    let us = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() * 1e6 / count;
    Ok(Drained {
        rate: count / (last.at - first.at).as_secs_f64(),
        server_us: us(first.server, last.server),
        client_us: us(first.client, last.client),
    })
}

/// What keeps events on their way.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// So many at once.
    InFlight(u64),
    /// One every so many microseconds.
    EveryMicros(u64),
}

/// Keeps events on their way, and measures how long they take.
pub(crate) async fn latency(base: &Path, subject: &Subject, load: &Load, pace: Pace) -> Result<Latency> {
    let world = World::new(base).await?;
    let mut running = subject.start(world.url(), world.folder.path())?;
    running.ready().await?;
    let latency = generate(&world, load, pace).await;
    running.process.check()?;
    running.process.kill().await;
    world.end().await;
    latency
}

/// Runs the load generator against a server, and returns what it has measured.
pub(crate) async fn generate(world: &World, load: &Load, pace: Pace) -> Result<Latency> {
    let mut command = load.command(world.url())?;
    match pace {
        Pace::InFlight(count) => command.args(["--in-flight", &count.to_string()]),
        Pace::EveryMicros(every) => command.args(["--in-flight", "1", "--every-us", &every.to_string()]),
    };
    Ok(serde_json::from_str(&process::output(command).await?)?)
}
