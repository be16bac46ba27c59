//! The users' key-value buckets, for handlers that are granted them.
//!
//! Reads may be answered by a replica that is behind. Whoever must not be wrong writes by compare-and-set.

mod reads;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwapOption;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::KeyValueErrorKind;
use async_nats::jetstream::kv::{Config, Operation, Store, UpdateErrorKind};
use bytes::Bytes;
use futures::StreamExt;
use thiserror::Error;

use super::Nats;
use reads::Reads;

/// The most keys of a bucket that are looked through for a list of them.
const KEYS_MAX: usize = 100_000;

/// Why a bucket cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// There is no connection, for example in a rehearsal.
    #[error("there is no connection to NATS here, so buckets cannot be used")]
    Unconnected,
    /// There is no such bucket.
    #[error("there is no bucket {0:?}; create it: nats kv add {0}")]
    NoBucket(String),
    /// The value was changed meanwhile.
    #[error("the value was changed meanwhile")]
    Conflict,
    /// The server refuses or does not answer.
    #[error("bucket {bucket:?}: {why}")]
    Unavailable {
        /// The bucket.
        bucket: String,
        /// What happened.
        why: String,
    },
}

/// What is kept under a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// The value, if there is one.
    pub value: Option<Bytes>,
    /// What it is replaced by compare-and-set with; 0 where there was never a value.
    pub revision: u64,
}

/// The buckets on whichever connection there is.
#[derive(Debug, Default)]
pub struct Buckets {
    context: ArcSwapOption<Context>,
    /// Over what is read; nothing where only the context is known.
    reads: ArcSwapOption<Reads>,
    /// Those that were opened on it.
    open: RwLock<HashMap<String, Store>>,
}

impl Buckets {
    /// Uses this connection from now on.
    pub fn connect(&self, context: &Context) {
        self.context.store(Some(Arc::new(context.clone())));
        self.open.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Uses the connection of an instance from now on.
    pub fn connect_to(&self, nats: &Nats) {
        self.reads.store(Some(Arc::new(Reads::new(nats))));
        self.connect(&nats.context);
    }

    /// Looks for a bucket, unless it was found before.
    ///
    /// # Errors
    /// Where there is none, or it cannot be told.
    pub async fn open(&self, bucket: &str) -> Result<Store, KeyError> {
        if let Some(store) = self.open.read().unwrap_or_else(PoisonError::into_inner).get(bucket) {
            return Ok(store.clone());
        }
        let context = self.context.load_full().ok_or(KeyError::Unconnected)?;
        let store = context.get_key_value(bucket).await.map_err(|error| match error.kind() {
            KeyValueErrorKind::GetBucket if is_not_found(&error) => KeyError::NoBucket(bucket.to_owned()),
            _ => unavailable(bucket, &error),
        })?;
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(bucket.to_owned(), store.clone());
        Ok(store)
    }

    /// Reads a key.
    ///
    /// # Errors
    /// Where the bucket cannot be used.
    pub async fn get(&self, bucket: &str, key: &str) -> Result<Entry, KeyError> {
        let store = self.open(bucket).await?;
        if let Some(reads) = self.reads.load_full().filter(|_| store.stream.cached_info().config.allow_direct) {
            return reads.get(&store, key).await.map_err(|why| unavailable(bucket, &why));
        }
        // The answer is JSON, which nobody can make the client stumble over.
        let entry = store.entry(key).await.map_err(|error| unavailable(bucket, &error))?;
        Ok(entry.map_or_else(Entry::default, |entry| Entry {
            value: (entry.operation == Operation::Put).then_some(entry.value),
            revision: entry.revision,
        }))
    }

    /// Sets a key.
    ///
    /// # Errors
    /// Where the bucket cannot be used.
    pub async fn set(&self, bucket: &str, key: &str, value: Bytes) -> Result<(), KeyError> {
        let put = self.open(bucket).await?.put(key, value).await;
        put.map(drop).map_err(|error| unavailable(bucket, &error))
    }

    /// Sets a key that still has this revision.
    ///
    /// # Errors
    /// Where it has another one, or the bucket cannot be used.
    pub async fn replace(&self, bucket: &str, key: &str, value: Bytes, revision: u64) -> Result<(), KeyError> {
        let updated = self.open(bucket).await?.update(key, value, revision).await;
        updated.map(drop).map_err(|error| match error.kind() {
            UpdateErrorKind::WrongLastRevision => KeyError::Conflict,
            _ => unavailable(bucket, &error),
        })
    }

    /// Removes a key.
    ///
    /// # Errors
    /// Where the bucket cannot be used.
    pub async fn delete(&self, bucket: &str, key: &str) -> Result<(), KeyError> {
        let deleted = self.open(bucket).await?.delete(key).await;
        deleted.map_err(|error| unavailable(bucket, &error))
    }

    /// All keys that have a value, in order.
    ///
    /// # Errors
    /// Where the bucket cannot be used, or has too many keys.
    pub async fn keys(&self, bucket: &str) -> Result<Vec<String>, KeyError> {
        let store = self.open(bucket).await?;
        if let Some(reads) = self.reads.load_full() {
            let mut keys = reads.keys(&store).await.map_err(|why| unavailable(bucket, &why))?;
            keys.sort_unstable();
            keys.dedup();
            return Ok(keys);
        }
        let mut found = store.keys().await.map_err(|error| unavailable(bucket, &error))?;
        let mut keys = Vec::new();
        while let Some(key) = found.next().await {
            keys.push(key.map_err(|error| unavailable(bucket, &error))?);
            if keys.len() > KEYS_MAX {
                return Err(unavailable(
                    bucket,
                    &format!("it has more than {KEYS_MAX} keys, which is too many to list"),
                ));
            }
        }
        keys.sort_unstable();
        Ok(keys)
    }
}

/// Makes a bucket, if there is none, that keeps the latest value of each key.
///
/// # Errors
/// Where the server refuses or does not answer.
pub async fn provide(context: &Context, bucket: &str) -> Result<(), KeyError> {
    if context.get_key_value(bucket).await.is_ok() {
        return Ok(());
    }
    let config = Config { bucket: bucket.to_owned(), history: 1, ..Config::default() };
    context.create_key_value(config).await.map(drop).map_err(|error| unavailable(bucket, &error))
}

fn unavailable(bucket: &str, why: &impl ToString) -> KeyError {
    KeyError::Unavailable { bucket: bucket.to_owned(), why: why.to_string() }
}

/// Whether the server says that there is no such stream.
fn is_not_found(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(error) = source {
        if error.to_string().contains("stream not found") {
            return true;
        }
        source = error.source();
    }
    false
}
