//! Reads what the streams hold after the run, the only witness for what really came out, into the audit.

use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::{HeaderMap, Message};
use futures::StreamExt;
use tidemill::broker::nats::streams::dead_letter_stream;
use tidemill_policy::headers;
use tidemill_policy::history::History;
use tokio::time::timeout;

use crate::audit::Audit;
use crate::audit::letter::Letter;
use crate::manifest::{OUTPUT, PREFIX};

/// How long the next message may take.
const NEXT_TIMEOUT: Duration = Duration::from_secs(20);

/// Hands everything that came out to the audit.
pub(crate) async fn read(context: &jetstream::Context, audit: &mut Audit) -> Result<()> {
    each(context, OUTPUT, |message| {
        audit.output(&message.payload);
        Ok(())
    })
    .await?;
    each(context, &dead_letter_stream(PREFIX), |message| {
        audit.letter(&letter(message)?);
        Ok(())
    })
    .await
}

/// Reads each message that is in a stream now.
pub(crate) async fn each(
    context: &jetstream::Context,
    name: &str,
    mut read: impl FnMut(&Message) -> Result<()>,
) -> Result<()> {
    let stream = context.get_stream(name).await.with_context(|| format!("stream {name}"))?;
    let consumer = stream.create_consumer(OrderedConfig::default()).await.with_context(|| format!("stream {name}"))?;
    let count = consumer.cached_info().num_pending;
    let mut messages = consumer.messages().await.with_context(|| format!("stream {name}"))?;
    for _ in 0..count {
        let next = timeout(NEXT_TIMEOUT, messages.next()).await;
        let message = next.with_context(|| format!("stream {name} could not be read to its end"))?;
        read(&message.context("the stream of messages ended")??.message)?;
    }
    Ok(())
}

/// A stored message as a dead letter.
pub(crate) fn letter(message: &Message) -> Result<Letter> {
    let empty = HeaderMap::new();
    let map = message.headers.as_ref().unwrap_or(&empty);
    let header = |name: &str| map.get(name).map(async_nats::HeaderValue::as_str);
    let needed = |name: &str| header(name).with_context(|| format!("a dead letter without the header {name}"));
    let dropped = header(headers::ERRORS_DROPPED).map_or(Ok(0), str::parse)?;
    let history = History::from_json(needed(headers::ERRORS)?, dropped)?;
    Ok(Letter {
        payload: String::from_utf8_lossy(&message.payload).into_owned(),
        handler: needed(headers::HANDLER)?.to_owned(),
        attempt: needed(headers::ATTEMPT)?.parse()?,
        history: history.errors.iter().map(|error| (error.attempt, error.kind)).collect(),
        dropped,
    })
}
