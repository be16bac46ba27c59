//! What the streams hold after the run: the only witness for what really came out.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures::{StreamExt, TryStreamExt};
use tidemill::broker::nats::streams::{dead_letter_stream, retry_stream};
use tidemill_policy::headers;
use tidemill_policy::history::{AttemptError, History};
use tokio::time::timeout;

use crate::events::{OUTPUTS, output_key};

/// `nats.prefix` in `plugins/tidemill.toml`.
const PREFIX: &str = "tidemill";
/// How long it may take to read one subject.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// What the streams hold.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// How many events are stored on each subject that we published on.
    pub(crate) inputs: BTreeMap<&'static str, usize>,
    /// The keys of all outputs on each subject, in order.
    pub(crate) outputs: BTreeMap<&'static str, Vec<String>>,
    /// All dead letters, in order.
    pub(crate) dead_letters: Vec<DeadLetter>,
    /// Messages in the retry stream.
    pub(crate) retries_waiting: u64,
    /// Messages that some consumer has not been given, or has not settled.
    pub(crate) unsettled: u64,
}

/// An event that was given up on.
#[derive(Debug, Clone)]
pub(crate) struct DeadLetter {
    /// Who gave up.
    pub(crate) handler: String,
    /// The subject of the event.
    pub(crate) subject: String,
    /// The id of the event that was published, which all that follows from it carries.
    pub(crate) event: String,
    /// Why, as the header says.
    pub(crate) reason: String,
    /// After how many attempts, as the header says.
    pub(crate) attempts: u32,
    /// What went wrong each time.
    pub(crate) errors: Vec<AttemptError>,
    /// The payload.
    pub(crate) payload: String,
}

/// Reads it all.
pub(crate) async fn read(context: &jetstream::Context, inputs: &[&'static str]) -> Result<Ledger> {
    let mut ledger = Ledger { unsettled: unsettled(context).await?, ..Ledger::default() };
    for subject in inputs {
        ledger.inputs.insert(subject, messages(context, &stream_of(context, subject).await?, subject).await?.len());
    }
    for (subject, _, members) in OUTPUTS {
        let messages = messages(context, &stream_of(context, subject).await?, subject).await?;
        let keys = messages.iter().map(|message| output_key(&message.payload, members)).collect();
        ledger.outputs.insert(subject, keys);
    }
    for message in messages(context, &dead_letter_stream(PREFIX), ">").await? {
        ledger.dead_letters.push(dead_letter(&message)?);
    }
    let retries = context.get_stream(retry_stream(PREFIX)).await.context("the retry stream")?;
    ledger.retries_waiting = retries.cached_info().state.messages;
    Ok(ledger)
}

async fn stream_of(context: &jetstream::Context, subject: &str) -> Result<String> {
    context.stream_by_subject(subject).await.with_context(|| format!("no stream stores {subject}"))
}

/// All messages of a stream on the subjects that `filter` selects.
pub(crate) async fn messages(
    context: &jetstream::Context,
    stream: &str,
    filter: &str,
) -> Result<Vec<async_nats::Message>> {
    let reading = async {
        let stream = context.get_stream(stream).await?;
        let config = OrderedConfig { filter_subject: filter.to_owned(), ..OrderedConfig::default() };
        let consumer = stream.create_consumer(config).await?;
        let count = usize::try_from(consumer.cached_info().num_pending)?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let messages = consumer.messages().await?.take(count).map_ok(|message| message.message);
        anyhow::Ok(messages.try_collect().await?)
    };
    let what = || format!("cannot read {filter} from stream {stream}");
    timeout(READ_TIMEOUT, reading).await.with_context(what)?.with_context(what)
}

/// What consumers have yet to be given or to settle, over all streams.
pub(crate) async fn unsettled(context: &jetstream::Context) -> Result<u64> {
    let mut sum = 0;
    let names: Vec<String> = context.stream_names().try_collect().await.context("cannot list the streams")?;
    for name in names {
        let stream = context.get_stream(&name).await.with_context(|| format!("stream {name}"))?;
        let consumers: Vec<_> =
            stream.consumers().try_collect().await.with_context(|| format!("consumers of {name}"))?;
        sum += consumers.iter().map(|info| info.num_pending + info.num_ack_pending as u64).sum::<u64>();
    }
    Ok(sum)
}

fn dead_letter(message: &async_nats::Message) -> Result<DeadLetter> {
    let empty = HeaderMap::new();
    let map = message.headers.as_ref().unwrap_or(&empty);
    let header = |name: &str| match map.get(name) {
        Some(value) => Ok(value.as_str().to_owned()),
        None => bail!("a dead letter on {} without the header {name}", message.subject),
    };
    let dropped = header(headers::ERRORS_DROPPED).map_or(Ok(0), |count| count.parse())?;
    Ok(DeadLetter {
        handler: header(headers::HANDLER)?,
        subject: header(headers::ORIGIN_SUBJECT)?,
        event: header(headers::CORRELATION_ID)?,
        reason: header(headers::REASON)?,
        attempts: header(headers::ATTEMPT)?.parse()?,
        errors: History::from_json(&header(headers::ERRORS)?, dropped)?.errors,
        payload: String::from_utf8_lossy(&message.payload).into_owned(),
    })
}
