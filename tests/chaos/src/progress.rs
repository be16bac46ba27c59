//! How far the handlers are, and whether anything is left to be done.

use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream;
use futures::TryStreamExt;
use tidemill::broker::nats::streams::{dead_letter_stream, retry_stream};

use crate::manifest::{INPUT, OUTPUT, PREFIX};

/// How often to ask.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How many results are stored: outputs and dead letters.
pub(crate) async fn results(context: &jetstream::Context) -> Result<u64> {
    let mut sum = 0;
    for name in [OUTPUT.to_owned(), dead_letter_stream(PREFIX)] {
        sum += context.get_stream(&name).await?.cached_info().state.messages;
    }
    Ok(sum)
}

/// What is left to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rest {
    /// Messages that some consumer has not been given.
    pub(crate) pending: u64,
    /// Messages that some consumer has not settled.
    pub(crate) unsettled: u64,
    /// Messages in the retry stream.
    pub(crate) retries: u64,
}

impl Rest {
    /// Whether no consumer has anything left to do. Retries may still wait for their time.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending == 0 && self.unsettled == 0
    }
}

/// What is left to be done. The retry stream is looked at last: what moves there has not left the input stream
/// before, so nothing is missed on its way.
pub(crate) async fn rest(context: &jetstream::Context) -> Result<Rest> {
    let mut rest = Rest::default();
    for name in [INPUT.to_owned(), retry_stream(PREFIX)] {
        let stream = context.get_stream(&name).await.with_context(|| format!("stream {name}"))?;
        let consumers: Vec<_> = stream.consumers().try_collect().await.with_context(|| format!("consumers: {name}"))?;
        for info in consumers {
            rest.pending += info.num_pending;
            rest.unsettled += info.num_ack_pending as u64;
        }
    }
    let retries = context.get_stream(retry_stream(PREFIX)).await.context("the retry stream")?;
    rest.retries = retries.cached_info().state.messages;
    Ok(rest)
}

/// What is left to be done on all streams of the account, and how many results are stored: dead letters, and messages of
/// the streams that hold outputs.
pub(crate) async fn overall(context: &jetstream::Context, is_output: fn(&str) -> bool) -> Result<(Rest, u64)> {
    let streams: Vec<_> = context.streams().try_collect().await.context("cannot list the streams")?;
    let (mut rest, mut results) = (Rest::default(), 0);
    for info in streams {
        let name = info.config.name.as_str();
        if is_output(name) || name.ends_with("_DEADLETTER") {
            results += info.state.messages;
        }
        if name.ends_with("_RETRY") {
            rest.retries += info.state.messages;
        }
        if info.state.consumer_count == 0 || name.starts_with("KV_") {
            continue;
        }
        let stream = context.get_stream(name).await.with_context(|| format!("stream {name}"))?;
        let consumers: Vec<_> = stream.consumers().try_collect().await.with_context(|| format!("consumers: {name}"))?;
        for consumer in consumers {
            rest.pending += consumer.num_pending;
            rest.unsettled += consumer.num_ack_pending as u64;
        }
    }
    Ok((rest, results))
}

/// How often a consumer has given out a message, and how many it has not given out yet; nothing where that cannot be told.
pub(crate) async fn deliveries(context: &jetstream::Context, stream: &str, consumer: &str) -> Option<(u64, u64)> {
    let info = context.get_stream(stream).await.ok()?.consumer_info(consumer).await.ok()?;
    Some((info.delivered.consumer_sequence, info.num_pending))
}
