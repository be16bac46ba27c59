//! How the events of each handler stand, as the server tells it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_policy::manifest::{Handler, Manifest, Mode};
use tidemill_policy::publication::retries_through_stream;

use super::letters::{places, stream_of};
use super::retries::{self, scheduled_subjects};
use crate::broker::nats::ask::{AskError, ask, found};
use crate::broker::nats::shelf::{Reads, Shelf};
use crate::broker::nats::{Nats, partitions};

/// How one handler's events stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// Its input stream, where there is one.
    pub stream: Option<String>,
    /// What its consumers have before them; nothing where it has none yet.
    pub input: Option<Backlog>,
    /// Its retries; nothing for a broadcast handler, whose retries wait in its instances.
    pub retries: Option<Retries>,
    /// Its dead letters.
    pub letters: Letters,
}

/// What consumers have before them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many consumers there are: one, one for each partition, or in broadcast mode one for each instance.
    pub consumers: u32,
    /// Messages that were not delivered yet.
    pub waiting: u64,
    /// Messages that were delivered and not settled yet.
    pub in_flight: u64,
}

/// Retries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retries {
    /// How many wait for their time.
    pub waiting: u64,
    /// How many are due: they run, or wait for an instance that runs them.
    pub due: u64,
    /// When the first one is due, in milliseconds since the Unix epoch.
    pub earliest_ms: Option<u64>,
    /// When the last one is due, in milliseconds since the Unix epoch.
    pub latest_ms: Option<u64>,
    /// Whether all of them were read, which the times need.
    pub complete: bool,
}

/// Dead letters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Letters {
    /// How many there are on the handler's subject.
    pub count: u64,
    /// When the last one was stored, in milliseconds since the Unix epoch.
    pub newest_ms: Option<u64>,
}

#[derive(Deserialize)]
struct ConsumerInfo {
    #[serde(default)]
    name: String,
    #[serde(default)]
    num_pending: u64,
    #[serde(default)]
    num_ack_pending: u64,
    config: ConsumerConfig,
}

#[derive(Deserialize)]
struct ConsumerConfig {
    durable_name: Option<String>,
}

/// Looks at all handlers, by their names. Counts are the server's; for the times at which retries are due, as
/// many retries are read as `reads` allows.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub async fn overview(
    nats: &Nats,
    manifest: &Manifest,
    reads: &Reads,
    now_ms: u64,
) -> Result<BTreeMap<String, Overview>, AskError> {
    let prefix = &manifest.nats.prefix;
    let retry_shelf = retries::open(nats, prefix).await?;
    let mut all = BTreeMap::new();
    for handler in manifest.handlers.values() {
        let stream = match &handler.stream {
            Some(stream) => Some(stream.clone()),
            None => stream_of(nats, &handler.subjects[0]).await?,
        };
        let input = match &stream {
            Some(_) if handler.partitions().is_some() => partitions_backlog(nats, prefix, handler).await?,
            Some(stream) => backlog(nats, stream, handler).await?,
            None => None,
        };
        let retries = match &retry_shelf {
            _ if !retries_through_stream(handler) => None,
            None => Some(Retries { complete: true, ..Retries::default() }),
            Some(shelf) => Some(count_retries(shelf, prefix, &handler.name, reads, now_ms).await?),
        };
        let letters = count_letters(nats, manifest, handler).await?;
        all.insert(handler.name.clone(), Overview { stream, input, retries, letters });
    }
    Ok(all)
}

/// The backlog of a handler's consumers.
async fn backlog(nats: &Nats, stream: &str, handler: &Handler) -> Result<Option<Backlog>, AskError> {
    let infos = match handler.mode {
        Mode::Queue => {
            let info = ask(nats, &format!("CONSUMER.INFO.{stream}.{}", handler.durable), &Value::Null).await;
            found::<ConsumerInfo>(info)?.into_iter().collect()
        }
        Mode::Broadcast => instances(nats, stream, &handler.durable).await?,
    };
    Ok(sum(&infos))
}

fn sum(infos: &[ConsumerInfo]) -> Option<Backlog> {
    let add = |sum: Backlog, info: &ConsumerInfo| Backlog {
        consumers: sum.consumers + 1,
        waiting: sum.waiting + info.num_pending,
        in_flight: sum.in_flight + info.num_ack_pending,
    };
    (!infos.is_empty()).then(|| infos.iter().fold(Backlog::default(), add))
}

/// The backlog of a handler's partitions, with what the server has not copied into them yet.
async fn partitions_backlog(nats: &Nats, prefix: &str, handler: &Handler) -> Result<Option<Backlog>, AskError> {
    #[derive(Deserialize)]
    struct Info {
        sources: Option<Vec<Source>>,
    }
    #[derive(Deserialize)]
    struct Source {
        #[serde(default)]
        lag: u64,
    }
    let stream = partitions::stream(prefix, &handler.name);
    let Some(info) = found(ask::<Info>(nats, &format!("STREAM.INFO.{stream}"), &Value::Null).await)? else {
        return Ok(None);
    };
    let lag: u64 = info.sources.iter().flatten().map(|source| source.lag).sum();
    let backlog = sum(&consumers(nats, &stream).await?);
    Ok(backlog.map(|backlog| Backlog { waiting: backlog.waiting + lag, ..backlog }))
}

/// The consumers of a broadcast handler: one for each instance, with a name of its own.
async fn instances(nats: &Nats, stream: &str, durable: &str) -> Result<Vec<ConsumerInfo>, AskError> {
    let mut all = consumers(nats, stream).await?;
    let start = format!("{durable}-");
    all.retain(|info| info.config.durable_name.is_none() && info.name.starts_with(&start));
    Ok(all)
}

/// All consumers of a stream.
async fn consumers(nats: &Nats, stream: &str) -> Result<Vec<ConsumerInfo>, AskError> {
    #[derive(Deserialize)]
    struct Page {
        total: usize,
        consumers: Option<Vec<ConsumerInfo>>,
    }
    let mut all = Vec::new();
    let mut offset = 0;
    loop {
        let answer = ask::<Page>(nats, &format!("CONSUMER.LIST.{stream}"), &json!({ "offset": offset })).await;
        let Some(page) = found(answer)? else { break };
        let consumers = page.consumers.unwrap_or_default();
        offset += consumers.len();
        let is_last = consumers.is_empty() || offset >= page.total;
        all.extend(consumers);
        if is_last {
            break;
        }
    }
    Ok(all)
}

async fn count_retries(
    shelf: &Shelf<'_>,
    prefix: &str,
    handler: &str,
    reads: &Reads,
    now_ms: u64,
) -> Result<Retries, AskError> {
    let scheduled = shelf.subjects(&scheduled_subjects(prefix, handler)).await?;
    let unscheduled = retries::unscheduled(shelf, prefix, handler).await?;
    if scheduled + unscheduled == 0 {
        return Ok(Retries { complete: true, ..Retries::default() });
    }
    let found = retries::list(shelf, prefix, Some(handler), reads).await?;
    let later = |retry: &&retries::Retry| retry.waiting.due_ms.is_some_and(|due_ms| due_ms > now_ms);
    let handed_back = found.items.iter().filter(later).filter(|retry| !retry.scheduled).count() as u64;
    let times = || found.items.iter().filter(later).filter_map(|retry| retry.waiting.due_ms);
    Ok(Retries {
        waiting: scheduled + handed_back,
        due: unscheduled.saturating_sub(handed_back),
        earliest_ms: times().min(),
        latest_ms: times().max(),
        complete: found.complete,
    })
}

async fn count_letters(nats: &Nats, manifest: &Manifest, handler: &Handler) -> Result<Letters, AskError> {
    let mut letters = Letters::default();
    for place in places(nats, manifest, Some(handler)).await? {
        letters.count += place.count().await?;
        if letters.count > 0 {
            letters.newest_ms = place.shelf.last(&place.filter).await?.map(|kept| kept.position.stored_ms);
        }
    }
    Ok(letters)
}
