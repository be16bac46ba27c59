//! What the stream and the bucket of the shop hold.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use async_nats::Message;
use async_nats::jetstream;
use futures::TryStreamExt;
use tidemill::broker::nats::streams::dead_letter_stream;
use tidemill_policy::headers;

use crate::ledger::{messages, unsettled};

/// The stream in `plugins/shop/tidemill.toml`.
const STREAM: &str = "SHOP";
/// The stream that `dev` makes for what `audit` publishes.
const RECORDS: &str = "AUDIT";
/// The bucket that `analytics` writes to.
pub(super) const BUCKET: &str = "shop_analytics";

/// An event in the stream.
#[derive(Debug, Clone)]
pub(super) struct Fact {
    /// Where in its stream it is.
    pub(super) sequence: u64,
    /// Its subject.
    pub(super) subject: String,
    /// Its id.
    pub(super) id: String,
    /// The id of the order that it followed from.
    pub(super) correlation: String,
    /// The id of the event that it followed from; nothing for an order.
    pub(super) cause: Option<String>,
    /// Who published it; nothing for an order.
    pub(super) handler: Option<String>,
}

/// All that is left of a run.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) facts: Vec<Fact>,
    /// What `analytics` has written.
    pub(super) entries: BTreeMap<String, u64>,
    pub(super) dead_letters: usize,
    /// Messages that some consumer has not been given, or has not settled.
    pub(super) unsettled: u64,
}

/// Reads it all.
pub(super) async fn read(context: &jetstream::Context) -> Result<Ledger> {
    let mut stored = messages(context, STREAM, ">").await?;
    stored.extend(messages(context, RECORDS, ">").await?);
    let dead_letters = messages(context, &dead_letter_stream("tidemill"), ">").await?.len();
    let facts = (1..).zip(&stored).map(|(sequence, message)| fact(sequence, message)).collect();
    Ok(Ledger { facts, entries: entries(context).await?, dead_letters, unsettled: unsettled(context).await? })
}

fn fact(sequence: u64, message: &Message) -> Fact {
    let header = |name: &str| message.headers.as_ref()?.get(name).map(|value| value.as_str().to_owned());
    let id = header("ce-id").or_else(|| header(headers::MSG_ID)).unwrap_or_default();
    Fact {
        sequence,
        subject: message.subject.to_string(),
        correlation: header(headers::CORRELATION_ID).unwrap_or_else(|| id.clone()),
        id,
        cause: header(headers::CAUSATION_ID),
        handler: header("ce-source").and_then(|source| source.strip_prefix("/tidemill/").map(str::to_owned)),
    }
}

async fn entries(context: &jetstream::Context) -> Result<BTreeMap<String, u64>> {
    let bucket = context.get_key_value(BUCKET).await.with_context(|| format!("bucket {BUCKET}"))?;
    let keys: Vec<String> = bucket.keys().await?.try_collect().await?;
    let mut entries = BTreeMap::new();
    for key in keys {
        let value = bucket.get(&key).await?.with_context(|| format!("{key} has no value"))?;
        let text = std::str::from_utf8(&value).with_context(|| format!("the value of {key}"))?;
        entries.insert(key.clone(), text.parse().with_context(|| format!("the value of {key}: {text}"))?);
    }
    Ok(entries)
}
