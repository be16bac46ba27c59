//! Circuit breakers as people see and set them. Instances see what is set when they look at it next
//! ([`crate::gate::keeper::LOOKS`]); the server holds the consumers back at once, where it can.

use tidemill_policy::gate::breaker::{Record, State, settled};
use tidemill_policy::manifest::{Handler, Manifest};
use tidemill_policy::publication::retries_through_stream;

use super::OperateError;
use super::letters::stream_of;
use crate::broker::nats::streams::{retry_consumer, retry_stream};
use crate::broker::nats::{Nats, markers, partitions};
use crate::broker::{Broker, MarkerError};
use crate::gate::keeper::{breaker_key, held_until, lifetime};

/// How often something is tried again because an instance was faster.
const CONFLICTS_MAX: usize = 16;

/// What a handler's breaker is in. Nothing is made: where no instance has run yet, it is closed.
///
/// # Errors
/// Where the server denies or does not answer.
pub async fn look(nats: &Nats, handler: &Handler, now_ms: u64) -> Result<Record, OperateError> {
    let stored = nats.read_record(&breaker_key(&handler.name)).await.map_err(unreachable)?;
    let record = stored.value.and_then(|value| serde_json::from_slice(&value).ok()).unwrap_or_default();
    Ok(settled(&record, now_ms))
}

/// Whether there is a bucket that breakers can be kept in.
///
/// # Errors
/// Where the server denies or does not answer.
pub async fn can_be_kept(nats: &Nats, prefix: &str) -> Result<bool, OperateError> {
    let path = format!("STREAM.INFO.{}", markers::stream(prefix));
    let info = crate::broker::nats::ask::ask::<serde_json::Value>(nats, &path, &serde_json::Value::Null).await;
    Ok(crate::broker::nats::ask::found(info)?.is_some())
}

/// Puts a handler's breaker into `state`, for all instances, and has the server hold its consumers back accordingly.
///
/// # Errors
/// Where the server denies or does not answer.
pub async fn set(
    nats: &Nats,
    manifest: &Manifest,
    handler: &Handler,
    state: State,
    reason: &str,
    now_ms: u64,
) -> Result<Record, OperateError> {
    let key = breaker_key(&handler.name);
    let record = Record { state, since_ms: now_ms, trips: 0, reason: reason.to_owned() };
    let value = serde_json::to_vec(&record).map_err(|error| OperateError::Breaker(error.to_string()))?;
    let mut written = Err(MarkerError::Conflict);
    for _ in 0..CONFLICTS_MAX {
        let revision = nats.read_record(&key).await.map_err(unreachable)?.revision;
        written = nats.replace_record(&key, value.clone().into(), lifetime(&record, now_ms), revision).await;
        if written != Err(MarkerError::Conflict) {
            break;
        }
    }
    written.map_err(unreachable)?;
    let consumers = consumers(nats, manifest, handler).await?;
    nats.pause(&consumers, held_until(&record)).await.map_err(|why| {
        OperateError::Breaker(format!(
            "it is set for all instances, but the server does not hold the consumers back: {why}"
        ))
    })?;
    Ok(record)
}

async fn consumers(nats: &Nats, manifest: &Manifest, handler: &Handler) -> Result<Vec<(String, String)>, OperateError> {
    let prefix = &manifest.nats.prefix;
    let stream = match &handler.stream {
        Some(stream) => Some(stream.clone()),
        None => stream_of(nats, &handler.subjects[0]).await?,
    };
    let mut consumers: Vec<_> = match handler.partitions() {
        Some(count) => {
            let of = partitions::stream(prefix, &handler.name);
            (0..count).map(|number| (of.clone(), partitions::consumer(handler, number))).collect()
        }
        None => stream.into_iter().map(|stream| (stream, handler.durable.clone())).collect(),
    };
    if retries_through_stream(handler) {
        consumers.push((retry_stream(prefix), retry_consumer(prefix, &handler.name)));
    }
    Ok(consumers)
}

fn unreachable(error: MarkerError) -> OperateError {
    match error {
        MarkerError::Unavailable(why) => OperateError::Breaker(why),
        conflict @ MarkerError::Conflict => OperateError::Breaker(conflict.to_string()),
    }
}
