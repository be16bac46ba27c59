//! Putting objects into a bucket, and making one.

use std::collections::VecDeque;

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::object_store;
use bytes::Bytes;
use data_encoding::{BASE64URL, HEXLOWER};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tidemill_policy::decide::rfc3339;
use tokio::time::Instant;

use super::{Meta, chunk_subject, find, meta_subject, stream_of};
use crate::broker::nats::Nats;
use crate::broker::nats::ask::{AskError, ask};
use crate::clock::Clock;

/// The bytes of a chunk: what all clients use.
const CHUNK_BYTES: usize = 128 << 10;
/// How many chunks may be unconfirmed.
const UNCONFIRMED_MAX: usize = 16;

/// Makes a bucket that is not there.
///
/// # Errors
/// Why the server does not make it.
pub async fn create(nats: &Nats, bucket: &str, replicas: u32) -> Result<(), AskError> {
    let description = "components and drop-in manifests of tidemill";
    let config = object_store::Config {
        bucket: bucket.to_owned(),
        description: Some(description.to_owned()),
        num_replicas: usize::try_from(replicas).unwrap_or(1),
        ..object_store::Config::default()
    };
    let (subject, since) = (format!("$JS.API.STREAM.CREATE.{}", stream_of(bucket)), Instant::now());
    tokio::select! {
        made = nats.context.create_object_store(config) => {
            made.map(drop).map_err(|error| AskError::Refused { subject, why: error.to_string() })
        }
        why = nats.link.until_denied(&subject, since) => Err(AskError::Denied { subject: subject.clone(), why }),
    }
}

/// Something to be put.
#[derive(Debug, Clone)]
pub struct Content {
    /// The object's name.
    pub name: String,
    /// What is in it.
    pub bytes: Bytes,
}

/// What became of a [`Content`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// The digest of the content, in hexadecimal.
    pub digest: String,
    /// The sequence of the object's description.
    pub sequence: u64,
    /// Whether it was there already.
    pub is_unchanged: bool,
}

/// Puts objects into a bucket, in the place of those that have their names. The contents are stored before any of the
/// objects is named, and then they are named one right after the other, so that whoever looks meets all of them.
///
/// # Errors
/// Where the server denies, refuses or does not confirm: then the objects from there on are as they were.
pub async fn put(nats: &Nats, bucket: &str, contents: &[Content]) -> Result<Vec<Put>, AskError> {
    let mut ready = Vec::new();
    for content in contents {
        let digest = HEXLOWER.encode(&Sha256::digest(&content.bytes));
        let before = find(nats, bucket, &content.name).await?;
        let is_same = before.as_ref().is_some_and(|before| before.digest == digest);
        let meta = if is_same { None } else { Some(put_chunks(nats, bucket, content).await?) };
        ready.push((content, digest, before, meta));
    }
    let mut done = Vec::new();
    for (content, digest, before, meta) in ready {
        let Some(meta) = meta else {
            let sequence = before.map_or(0, |before| before.sequence);
            done.push(Put { digest, sequence, is_unchanged: true });
            continue;
        };
        let named = name(nats, bucket, &content.name, &meta).await;
        // Nobody reads them any more, so that it costs nothing but space where it fails.
        let unused = if named.is_ok() { before.map(|before| before.nuid) } else { Some(meta.nuid) };
        if let Some(nuid) = unused {
            remove_chunks(nats, bucket, &nuid).await;
        }
        done.push(Put { digest, sequence: named?, is_unchanged: false });
    }
    Ok(done)
}

async fn put_chunks(nats: &Nats, bucket: &str, content: &Content) -> Result<Meta, AskError> {
    let nuid = format!("{:032x}", rand::random::<u128>());
    let (subject, since) = (chunk_subject(bucket, &nuid), Instant::now());
    let mut unconfirmed = VecDeque::new();
    let chunks = content.bytes.chunks(CHUNK_BYTES);
    let count = chunks.len() as u64;
    for chunk in chunks {
        if unconfirmed.len() >= UNCONFIRMED_MAX
            && let Some(oldest) = unconfirmed.pop_front()
        {
            confirmed(nats, &subject, since, oldest).await?;
        }
        let sent = nats.context.publish(subject.clone(), content.bytes.slice_ref(chunk)).await;
        unconfirmed.push_back(sent.map_err(|error| unanswered(nats, &subject, since, &error))?);
    }
    for rest in unconfirmed {
        confirmed(nats, &subject, since, rest).await?;
    }
    let digest = format!("SHA-256={}", BASE64URL.encode(&Sha256::digest(&content.bytes)));
    Ok(Meta {
        name: content.name.clone(),
        options: None,
        bucket: bucket.to_owned(),
        nuid,
        size: content.bytes.len() as u64,
        chunks: count,
        mtime: rfc3339(Clock::System.now_ms()),
        digest,
        deleted: false,
    })
}

/// Says what an object is from now on.
async fn name(nats: &Nats, bucket: &str, name: &str, meta: &Meta) -> Result<u64, AskError> {
    let (subject, since) = (meta_subject(bucket, name), Instant::now());
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Rollup", "sub");
    let text = serde_json::to_vec(meta).unwrap_or_default();
    let sent = nats.context.publish_with_headers(subject.clone(), headers, text.into()).await;
    let sent = sent.map_err(|error| unanswered(nats, &subject, since, &error))?;
    confirmed(nats, &subject, since, sent).await
}

async fn confirmed(nats: &Nats, subject: &str, since: Instant, sent: PublishAckFuture) -> Result<u64, AskError> {
    tokio::select! {
        confirmed = sent => confirmed.map(|one| one.sequence).map_err(|error| unanswered(nats, subject, since, &error)),
        why = nats.link.until_denied(subject, since) => Err(AskError::Denied { subject: subject.to_owned(), why }),
    }
}

fn unanswered(nats: &Nats, subject: &str, since: Instant, error: &impl std::fmt::Display) -> AskError {
    let subject = subject.to_owned();
    match nats.link.denied_after(&subject, since) {
        Some(why) => AskError::Denied { subject, why },
        None => AskError::Refused { subject, why: error.to_string() },
    }
}

async fn remove_chunks(nats: &Nats, bucket: &str, nuid: &str) {
    let question = json!({ "filter": chunk_subject(bucket, nuid) });
    let removed = ask::<Value>(nats, &format!("STREAM.PURGE.{}", stream_of(bucket)), &question).await;
    if let Err(error) = removed {
        tracing::warn!(bucket, %error, "what an object held before could not be removed and takes space");
    }
}
