//! What must be there before a handler can start: a connection, streams, consumers. A server that does not answer is
//! asked again until it does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use tidemill_policy::manifest::{Handler, Manifest};
use tidemill_policy::publication::RetryClock;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{START, StartError, specs};
use crate::broker::Source;
use crate::broker::nats::connect::{self, Target};
use crate::broker::nats::consume::Spec;
use crate::broker::nats::streams::{self, InputStream, StreamError};
use crate::broker::nats::{ASKED_AT_ONCE, Nats, durable, partitions, preflight};
use crate::status::Status;
use crate::troubles::Effect;

/// How long to wait before a server that does not answer is asked again.
const NO_ANSWER_DELAY: Duration = Duration::from_secs(1);

/// The consumers of some handlers, by the handlers' names.
pub(super) type Consumers = Vec<(String, Vec<Spec>)>;

/// Connects, looks for contradictions, and makes our own streams.
pub(super) async fn connect(target: &Target, manifest: &Manifest, status: &Status) -> Result<Nats, StartError> {
    let (client, link) =
        connect::connect_patiently(target, &format!("tidemill {}", status.name), &status.troubles).await?;
    status.connected(&link);
    let mut nats = Nats::new(client, link);
    let findings = loop {
        match preflight::check(&nats, manifest).await {
            Ok(findings) => break findings,
            Err(error) => wait_for_answer(status, error).await?,
        }
    };
    for warning in &findings.warnings {
        tracing::warn!("{warning}");
    }
    nats.is_hidden = findings.is_hidden;
    findings.into_result()?;
    status.reaches(&nats);
    while let Err(error) = streams::prepare(&mut nats, manifest).await {
        wait_for_answer(status, error).await?;
    }
    if nats.features.retry_clock == RetryClock::NotBefore {
        tracing::info!("the server has no message schedules (2.12 and later do); retries wait by being handed back");
    }
    Ok(nats)
}

/// Finds every handler's input stream, makes those that are ours to make, and says which consumers are needed.
pub(super) async fn consumers(
    nats: &Nats,
    handlers: &[&Arc<Handler>],
    manifest: &Manifest,
    status: &Status,
) -> Result<Consumers, StartError> {
    // Handlers may share a stream that is yet to be made.
    let makes_streams = handlers.iter().any(|handler| handler.create_stream);
    let at_once = if makes_streams { 1 } else { ASKED_AT_ONCE };
    let of_handler = async |handler: &Handler| {
        let input = input_of(nats, handler, manifest, status).await?;
        let here = (status.name.as_str(), status.progress_of(&handler.name));
        Ok::<_, StartError>((handler.name.clone(), specs::consumers_of(handler, &input, manifest, nats, here)))
    };
    let all: Vec<_> = handlers.iter().map(|handler| of_handler(handler)).collect();
    stream::iter(all).buffered(at_once).try_collect().await
}

async fn input_of(
    nats: &Nats,
    handler: &Handler,
    manifest: &Manifest,
    status: &Status,
) -> Result<InputStream, StartError> {
    let input = loop {
        match streams::input(nats, handler, manifest).await {
            Ok(input) => break input,
            Err(error) => wait_for_answer(status, error).await?,
        }
    };
    while let Err(error) = partitions::provide(nats, handler, &manifest.nats, &input.name).await {
        wait_for_answer(status, error).await?;
    }
    Ok(input)
}

/// Makes consumers, and goes on trying while the server does not answer, until `stop`. Returns what an operator should
/// know of that.
pub(super) async fn ensure_consumers(
    nats: &Nats,
    consumers: &Consumers,
    status: &Status,
    stop: &CancellationToken,
) -> Result<Vec<String>, StartError> {
    let mut made = Vec::new();
    let durables = consumers.iter().flat_map(|(handler, specs)| {
        let durables = specs.iter().filter(|spec| !spec.broadcast && !matches!(spec.source, Source::Partition { .. }));
        durables.map(|spec| ((handler.clone(), spec.stream.clone()), spec.name.clone()))
    });
    let mut known = BTreeMap::clone(&nats.durables.load());
    known.extend(durables);
    nats.durables.store(Arc::new(known));
    for (handler, specs) in consumers {
        made.extend(specs.iter().map(|spec| ensure_consumer(nats, spec, handler, status, stop)));
    }
    let notes: Vec<Vec<String>> = stream::iter(made).buffer_unordered(ASKED_AT_ONCE).try_collect().await?;
    Ok(notes.concat())
}

async fn ensure_consumer(
    nats: &Nats,
    spec: &Spec,
    handler: &str,
    status: &Status,
    stop: &CancellationToken,
) -> Result<Vec<String>, StartError> {
    loop {
        let source = match durable::ensure(nats, spec).await {
            Ok(notes) => return Ok(notes.into_iter().map(|note| format!("handler.{handler}: {note}")).collect()),
            Err(source) => source,
        };
        if !source.is_unanswered {
            return Err(StartError::Consumer { handler: handler.to_owned(), source });
        }
        status.troubles.begin(START, Effect::Intake, &format!("{source}; trying again until it works"));
        tokio::select! {
            () = sleep(NO_ANSWER_DELAY) => {}
            () = stop.cancelled() => return Ok(Vec::new()),
        }
    }
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
