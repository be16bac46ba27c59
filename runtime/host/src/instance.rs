//! One running tidemill: its handlers' components loaded, their consumers pulling, and their events in
//! flight, from the start to the drained end.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use thiserror::Error;
use tidemill_policy::in_flight;
use tidemill_policy::manifest::{Handler, Manifest};
use tidemill_policy::publication::RetryClock;
use tidemill_policy::schema::Schemas;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::nats::connect::{self, ConnectError, Target};
use crate::broker::nats::consume::{self, Spec};
use crate::broker::nats::durable::{self, ConsumerError};
use crate::broker::nats::partitions;
use crate::broker::nats::preflight::{self, Conflicts};
use crate::broker::nats::streams::{self, InputStream, StreamError};
use crate::broker::nats::{ASKED_AT_ONCE, Nats};
use crate::clock::Clock;
use crate::gate::Gate;
use crate::gate::keeper::{self, Keeper};
use crate::in_flight::{Budget, Purse};
use crate::invoker::Invoker;
use crate::pipeline::{Pipeline, Stop};
use crate::service;
use crate::status::Status;
use crate::troubles::Effect;
use crate::worker::Worker;

mod active;
mod specs;

use active::Candidate;

/// How long to wait before a server that does not answer is asked again.
const NO_ANSWER_DELAY: Duration = Duration::from_secs(1);
/// How long to wait before a start that failed is tried again.
const START_DELAY: Duration = Duration::from_secs(5);
/// How long the other instances are told of probes that were cut off.
const LAST_NEWS_MAX: Duration = Duration::from_secs(2);
/// What is in trouble while an instance cannot start.
const START: &str = "start";

/// What an instance is started with.
#[derive(Debug)]
pub struct Settings {
    /// The manifest.
    pub manifest: Manifest,
    /// Where NATS is.
    pub target: Target,
}

/// Why an instance cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// No connection can be tried.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The manifest and the server contradict each other.
    #[error(transparent)]
    Conflicts(#[from] Conflicts),
    /// The streams are not as the manifest needs them.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A consumer cannot be had.
    #[error("handler.{handler}: {source}")]
    Consumer {
        /// The handler.
        handler: String,
        /// Why.
        source: ConsumerError,
    },
}

/// A handler with what runs it.
#[derive(Debug)]
pub struct Part<I> {
    /// The policy.
    pub handler: Arc<Handler>,
    /// Runs the handler.
    pub invoker: I,
    /// What payloads must fit.
    pub schemas: Arc<Schemas>,
    /// The digest of its component.
    pub component: String,
}

/// Runs until `stop` is cancelled, then drains: no more is pulled, what has not started is handed back, and
/// what is running has `runtime.drain` to end.
///
/// # Errors
/// What keeps the instance from starting, and waiting cannot cure.
pub async fn run<I: Invoker>(
    settings: &Settings,
    parts: Vec<Part<I>>,
    status: Arc<Status>,
    stop: CancellationToken,
) -> Result<(), StartError> {
    let share = |Part { handler, invoker, schemas, component }: Part<I>| {
        let invoker = Arc::new(invoker);
        Part { handler, invoker, schemas, component }
    };
    let parts: Vec<_> = parts.into_iter().map(share).collect();
    let mut served = false;
    while !stop.is_cancelled() {
        match serve(settings, &parts, &status, &stop, &mut served).await {
            Ok(()) => {}
            // It worked before, so somebody has changed the server, and may well put it right.
            Err(error) if served => {
                status.troubles.begin(START, Effect::Intake, &error.to_string());
                tokio::select! {
                    () = sleep(START_DELAY) => {}
                    () = stop.cancelled() => {}
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Runs on one connection, until `stop` is cancelled or the client library has given up for good. Events that
/// were in flight then are delivered again.
async fn serve<I: Invoker>(
    settings: &Settings,
    parts: &[Part<Arc<I>>],
    status: &Arc<Status>,
    stop: &CancellationToken,
    served: &mut bool,
) -> Result<(), StartError> {
    let started = async {
        let nats = Arc::new(connect(settings, status).await?);
        let inputs = set_up(&nats, parts, settings, status).await?;
        Ok::<_, StartError>((nats, inputs))
    };
    let (nats, inputs) = tokio::select! {
        started = started => started?,
        () = stop.cancelled() => return Ok(()),
    };
    let stop = Stop { requested: stop.child_token(), overdue: CancellationToken::new() };
    // Ends when the process is asked to stop, or this function returns.
    let _service = service::start(&nats, status, &settings.manifest.nats.prefix, &stop.requested);
    let in_flight = TaskTracker::new();
    let (consumers, keepers) = (TaskTracker::new(), TaskTracker::new());
    let mut specs = Vec::new();
    // Without handlers that pull all the time, this is what is waited for.
    let requested = stop.requested.clone();
    consumers.spawn(async move { requested.cancelled().await });
    let of_handlers: Vec<_> = parts
        .iter()
        .zip(inputs)
        .map(|(part, input)| specs::consumers_of(&part.handler, &input, settings, &nats, &status.name))
        .collect();
    let mut made = Vec::new();
    for (part, specs) in parts.iter().zip(&of_handlers) {
        made.extend(specs.iter().map(|spec| ensure_consumer(&nats, spec, &part.handler.name, status, &stop.requested)));
    }
    stream::iter(made).buffer_unordered(ASKED_AT_ONCE).try_collect::<()>().await?;
    let budget = budget(settings, &nats, of_handlers.iter().map(Vec::len).sum());
    status.account(&budget);
    let mut purses = (0..).map(|consumer| budget.purse(consumer));
    for (part, of_handler) in parts.iter().zip(of_handlers) {
        let handler = &part.handler;
        let gate = Gate::new(Arc::clone(handler), Clock::System);
        status.watch(&handler.name, &gate);
        let pipeline = pipeline(settings, part, &nats, status, &gate, stop.clone());
        if keeper::is_shared(handler) {
            let names = of_handler.iter().map(|spec| (spec.stream.clone(), spec.name.clone())).collect();
            let keeper = Keeper::start(Arc::clone(&gate), Arc::clone(&nats), status.name.clone(), names);
            if let Some(keeper) = stop.requested.run_until_cancelled(keeper).await {
                keepers.spawn(keeper.run(stop.overdue.clone()));
            }
        }
        specs.extend(of_handler.iter().cloned());
        let of_handler: Vec<_> = of_handler.into_iter().zip(&mut purses).collect();
        if handler.window().is_some() {
            let candidate =
                Candidate { nats: Arc::clone(&nats), status: Arc::clone(status), specs: of_handler, pipeline };
            in_flight.spawn(candidate.run());
        } else {
            let worker = Worker::new(pipeline, Arc::clone(status), in_flight.clone(), None);
            for consumer in of_handler {
                consumers.spawn(pull(&nats, consumer, gate.intake(), &stop, &worker));
            }
        }
        status.consuming();
    }
    *served = true;
    status.troubles.end(START);
    tracing::info!(handlers = parts.len(), instance = %status.name, "ready");
    consumers.close();
    tokio::select! {
        () = consumers.wait() => {}
        () = nats.link.lost.cancelled() => {
            tracing::error!("the NATS client has failed; connecting anew, events in flight are delivered again");
            // Nothing that is in flight could be settled any more.
            stop.requested.cancel();
            stop.overdue.cancel();
            consumers.wait().await;
        }
    }
    drain(&nats, &in_flight, &keepers, &stop, settings.manifest.runtime.drain).await;
    for spec in specs.iter().filter(|spec| spec.broadcast && !nats.link.lost.is_cancelled()) {
        // Left behind, it goes by itself after a minute.
        let _ = nats.context.delete_consumer_from_stream(&spec.name, &spec.stream).await;
    }
    Ok(())
}

/// Divides the bytes that may be in flight among the consumers.
fn budget(settings: &Settings, nats: &Nats, consumers: usize) -> Arc<Budget> {
    let payload_max = nats.client.server_info().max_payload as u64;
    Budget::new(in_flight::divide(settings.manifest.runtime.in_flight, consumers as u64, payload_max))
}

/// Pulls from a consumer for a worker, as much as `intake` allows, until `stop`.
fn pull<I: Invoker>(
    nats: &Arc<Nats>,
    (spec, purse): (Spec, Purse),
    intake: watch::Receiver<u32>,
    stop: &Stop,
    worker: &Arc<Worker<Nats, I>>,
) -> impl Future<Output = ()> + use<I> {
    let worker = Arc::clone(worker);
    let hand_over = move |delivery| Worker::start(&worker, delivery);
    consume::run(Arc::clone(nats), spec, purse, intake, stop.requested.clone(), stop.overdue.clone(), hand_over)
}

fn pipeline<I: Invoker + Clone>(
    settings: &Settings,
    part: &Part<I>,
    nats: &Arc<Nats>,
    status: &Status,
    gate: &Arc<Gate>,
    stop: Stop,
) -> Pipeline<Nats, I> {
    Pipeline {
        handler: Arc::clone(&part.handler),
        invoker: part.invoker.clone(),
        schemas: Arc::clone(&part.schemas),
        broker: Arc::clone(nats),
        prefix: settings.manifest.nats.prefix.clone(),
        instance: status.name.clone(),
        component: part.component.clone(),
        clock: Clock::System,
        stop,
        recent: Arc::default(),
        gate: Arc::clone(gate),
    }
}

async fn connect(settings: &Settings, status: &Status) -> Result<Nats, StartError> {
    let (client, link) =
        connect::connect_patiently(&settings.target, &format!("tidemill {}", status.name), &status.troubles).await?;
    status.connected(&link);
    let mut nats = Nats::new(client, link);
    let findings = loop {
        match preflight::check(&nats, &settings.manifest).await {
            Ok(findings) => break findings,
            Err(error) => wait_for_answer(status, error).await?,
        }
    };
    for warning in &findings.warnings {
        tracing::warn!("{warning}");
    }
    nats.is_hidden = findings.is_hidden;
    findings.into_result()?;
    while let Err(error) = streams::prepare(&mut nats, &settings.manifest).await {
        wait_for_answer(status, error).await?;
    }
    if nats.features.retry_clock == RetryClock::NotBefore {
        tracing::info!("the server has no message schedules (2.12 and later do); retries wait by being handed back");
    }
    Ok(nats)
}

/// Finds every handler's input stream, and makes those that are ours to make.
async fn set_up<I>(
    nats: &Nats,
    parts: &[Part<I>],
    settings: &Settings,
    status: &Status,
) -> Result<Vec<InputStream>, StartError> {
    // Handlers may share a stream that is yet to be made.
    let makes_streams = parts.iter().any(|part| part.handler.create_stream);
    let at_once = if makes_streams { 1 } else { ASKED_AT_ONCE };
    let all: Vec<_> = parts.iter().map(|part| input_of(nats, &part.handler, settings, status)).collect();
    stream::iter(all).buffered(at_once).try_collect().await
}

async fn input_of(
    nats: &Nats,
    handler: &Handler,
    settings: &Settings,
    status: &Status,
) -> Result<InputStream, StartError> {
    let input = loop {
        match streams::input(nats, handler).await {
            Ok(input) => break input,
            Err(error) => wait_for_answer(status, error).await?,
        }
    };
    let table = &settings.manifest.nats;
    while let Err(error) = partitions::provide(nats, handler, table, &input.name).await {
        wait_for_answer(status, error).await?;
    }
    Ok(input)
}

/// Makes a consumer, and goes on trying while the server does not answer, until `stop`.
async fn ensure_consumer(
    nats: &Nats,
    spec: &Spec,
    handler: &str,
    status: &Status,
    stop: &CancellationToken,
) -> Result<(), StartError> {
    while let Err(source) = durable::ensure(nats, spec).await {
        if !source.is_unanswered {
            return Err(StartError::Consumer { handler: handler.to_owned(), source });
        }
        status.troubles.begin(START, Effect::Intake, &format!("{source}; trying again until it works"));
        tokio::select! {
            () = sleep(NO_ANSWER_DELAY) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
    Ok(())
}

/// Waits where the server did not answer, which may pass; other errors do not.
async fn wait_for_answer(status: &Status, error: StreamError) -> Result<(), StreamError> {
    if !matches!(error, StreamError::NoAnswer(_)) {
        return Err(error);
    }
    status.troubles.begin(START, Effect::Intake, &format!("{error}; trying again until it does"));
    sleep(NO_ANSWER_DELAY).await;
    Ok(())
}

/// Waits for the events in flight; those that take longer than `limit` are handed back.
async fn drain(nats: &Nats, in_flight: &TaskTracker, keepers: &TaskTracker, stop: &Stop, limit: Duration) {
    in_flight.close();
    if !in_flight.is_empty() {
        tracing::info!(in_flight = in_flight.len(), "draining");
    }
    let ended = tokio::select! {
        ended = timeout(limit, in_flight.wait()) => ended.is_ok(),
        () = stop.overdue.cancelled() => true,
    };
    if !ended {
        tracing::warn!(in_flight = in_flight.len(), "the time to drain is over; handing back what is not finished");
    }
    stop.overdue.cancel();
    in_flight.wait().await;
    keepers.close();
    // They have nothing to tell but which probe was cut off; if they do not, its right ends by itself.
    let _ = timeout(LAST_NEWS_MAX, keepers.wait()).await;
    // Settlements are buffered. Where the connection is gone, the server delivers those events again.
    if !nats.link.lost.is_cancelled() && timeout(Duration::from_secs(5), nats.client.flush()).await.is_err() {
        tracing::warn!("could not send the last settlements; their events are delivered again");
    }
}
