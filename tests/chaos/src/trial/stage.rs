//! Where a trial takes place: servers, streams, deployments and the witness; waiting for things to come about; reading
//! what came of it into the audit.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::jetstream;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::{Config, StorageType};
use tidemill::broker::nats::streams::dead_letter_stream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Outcome;
use super::cluster::{self, Cluster};
use super::house::{Around, Deployment, House};
use super::script::Script;
use super::witness::Witness;
use crate::audit::attempts::Audit;
use crate::plan::Message;
use crate::progress::{self, POLL_INTERVAL};
use crate::server::free_ports;
use crate::{feed, ledger};

/// How long the server may take to answer or confirm; shorter than usual, since it may be away.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long anything may take to come about.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// For how long nothing at all may happen while events are left: longer than any claim, lease or wait.
const STALL_MAX: Duration = Duration::from_secs(30);
/// After how long without any change messages in the retry stream are taken for left over: a server that was killed brings
/// some back that their consumer has settled.
const LEFT_OVER_AFTER: Duration = Duration::from_secs(10);
/// How long it may take until all is settled.
const SETTLE_MAX: Duration = Duration::from_mins(5);
/// For how long the streams recognise duplicates: longer than a trial.
const DUPLICATE_WINDOW: Duration = Duration::from_hours(1);

/// What a trial has around it.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The connection of the driver.
    pub(crate) context: jetstream::Context,
    /// The servers.
    pub(crate) cluster: Cluster,
    /// What the handlers ask.
    pub(crate) witness: Witness,
    /// What is deployed.
    pub(crate) houses: Vec<House>,
    /// What happens.
    pub(crate) script: Script,
    /// Ports that nobody uses yet.
    pub(crate) ports: Vec<u16>,
    /// The streams of events and outputs.
    pub(crate) streams: Vec<String>,
    /// What went wrong.
    pub(crate) faults: Vec<String>,
    start: Instant,
}

impl Stage {
    /// Starts servers and deployments, and waits until all of these are ready. Each stream is given with its subjects;
    /// those of outputs are called `OUT…`.
    pub(crate) async fn build(
        folder: &Path,
        nodes: usize,
        streams: &[(&str, &[&str])],
        deployments: Vec<Deployment>,
        mut script: Script,
    ) -> Result<Stage> {
        let start = Instant::now();
        let instances: usize = deployments.iter().map(|deployment| deployment.instances).sum();
        // As many again for those that are started later.
        let mut ports = free_ports(cluster::ports_of(nodes) + 2 * instances)?;
        let cluster = Cluster::start(folder, &ports.split_off(ports.len() - cluster::ports_of(nodes))).await?;
        let context = connect(&cluster).await?;
        for (name, subjects) in streams {
            create(&context, name, subjects, nodes).await?;
        }
        let witness = Witness::start().await?;
        let around = Around { urls: cluster.urls(), replicas: nodes, driver: witness.url.clone() };
        for deployment in &deployments {
            for handler in &deployment.handlers {
                let place = script.places.entry(deployment.place(handler.name)).or_default();
                (place.attempts_max, place.claims) = (handler.attempts_max, handler.claims);
            }
        }
        witness.learn(&script.places);
        let mut houses = Vec::new();
        for deployment in deployments {
            let own = ports.split_off(ports.len() - deployment.instances);
            houses.push(House::start(folder, deployment, &around, &own)?);
        }
        let streams = streams.iter().map(|(name, _)| (*name).to_owned()).collect();
        let stage = Stage { context, cluster, witness, houses, script, ports, streams, faults: Vec::new(), start };
        stage.wait_until_ready().await?;
        Ok(stage)
    }

    /// Waits until all instances are ready.
    pub(crate) async fn wait_until_ready(&self) -> Result<()> {
        for house in &self.houses {
            let start = Instant::now();
            while !house.is_ready().await {
                if start.elapsed() > WAIT_MAX {
                    bail!("the instances of {} are not ready after {WAIT_MAX:?}", house.deployment.name);
                }
                sleep(POLL_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// Publishes messages in the background, each until it is confirmed.
    pub(crate) fn publish(&self, messages: Vec<Message>) -> JoinHandle<u64> {
        let handled = watch::channel(100).1;
        tokio::spawn(feed::publish(self.context.clone(), messages, handled))
    }

    /// Waits until this is so; notes it as a fault if it does not come about.
    pub(crate) async fn wait_for(&mut self, what: &str, is_so: impl Fn(&Stage) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            if start.elapsed() > WAIT_MAX {
                return self.faults.push(format!("after {WAIT_MAX:?} it has not come about that {what}"));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until everything has come that must, and nothing is left to be done.
    pub(crate) async fn settle(&mut self) {
        let settled = settle(&self.context, &self.witness, self.script.results()).await;
        self.faults.extend(settled.err().map(|error| format!("{error:#}")));
    }

    /// Ends everything and has the audit look at it. Where servers were restarted, acknowledgements may be forgotten.
    pub(crate) async fn finish(mut self) -> Result<Outcome> {
        let mut faults = std::mem::take(&mut self.faults);
        let killed: Vec<_> = self.houses.iter().flat_map(|house| house.killed.clone()).collect();
        let restarts = self.cluster.restarts;
        let mut audit = Audit::new(&self.script.places, &killed, restarts != [0; 2]);
        let mut names = Vec::new();
        for house in self.houses {
            house.unseen.iter().for_each(|(place, &count)| audit.unseen(place, count));
            names.push(house.deployment.name);
            faults.extend(house.end().await);
        }
        let duration = self.start.elapsed();
        self.witness.begins().iter().for_each(|begin| audit.begun(begin));
        for stream in self.streams.iter().filter(|stream| is_output(stream)) {
            let read = ledger::each(&self.context, stream, |message| {
                audit.output(&message.subject, &message.payload);
                Ok(())
            });
            read.await.context("cannot read what came out")?;
        }
        for name in names {
            let stream = dead_letter_stream(name);
            let read = ledger::each(&self.context, &stream, |message| {
                audit.letter(name, &ledger::letter(message)?);
                Ok(())
            });
            read.await.context("cannot read the dead letters")?;
        }
        let tally = audit.finish();
        self.cluster.end_all().await;
        Ok(Outcome { tally, kills: killed.len(), restarts, duration, faults })
    }
}

/// Whether a stream holds outputs.
fn is_output(stream: &str) -> bool {
    stream.starts_with("OUT")
}

async fn connect(cluster: &Cluster) -> Result<jetstream::Context> {
    let client = async_nats::connect(cluster.urls()).await.context("cannot connect to the private servers")?;
    let context = ContextBuilder::new().timeout(ANSWER_TIMEOUT).ack_timeout(ANSWER_TIMEOUT);
    Ok(context.max_ack_inflight(1024).backpressure_on_inflight(true).build(client))
}

/// Makes a stream as soon as the servers can.
async fn create(context: &jetstream::Context, name: &str, subjects: &[&str], replicas: usize) -> Result<()> {
    let config = Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(|&subject| subject.to_owned()).collect(),
        storage: StorageType::File,
        num_replicas: replicas,
        duplicate_window: DUPLICATE_WINDOW,
        ..Config::default()
    };
    let start = Instant::now();
    loop {
        match context.get_or_create_stream(config.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() > WAIT_MAX => bail!("cannot create stream {name}: {error}"),
            // A new cluster has to elect its leaders first.
            Err(_) => sleep(POLL_INTERVAL).await,
        }
    }
}

/// Waits until so many results are there and no consumer has anything left to do.
///
/// # Errors
/// If nothing happens any more before that is so, or it never ends.
pub(crate) async fn settle(context: &jetstream::Context, witness: &Witness, results: u64) -> Result<()> {
    let start = Instant::now();
    let mut since = start;
    let mut last = None;
    loop {
        let now = progress::overall(context, is_output).await.ok();
        let seen = (now, witness.count());
        if Some(seen) != last {
            (last, since) = (Some(seen), Instant::now());
        }
        if let Some((rest, stored)) = now
            && rest.is_settled()
            && stored >= results
            && (rest.retries == 0 || since.elapsed() > LEFT_OVER_AFTER)
        {
            return Ok(());
        }
        if since.elapsed() > STALL_MAX || start.elapsed() > SETTLE_MAX {
            let (rest, stored) = now.unwrap_or_default();
            let how = if start.elapsed() > SETTLE_MAX { "it never ends" } else { "nothing happens any more" };
            bail!("{how}: {stored} of {results} results are stored, and left are {rest:?}");
        }
        sleep(POLL_INTERVAL).await;
    }
}
