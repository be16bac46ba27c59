//! `wasi:keyvalue`: which buckets and keys a guest uses, and how much of them. The buckets are in NATS.
//!
//! What a guest writes stays written, whatever becomes of its attempt.

#[allow(missing_docs, unreachable_pub, unsafe_code, clippy::pedantic, reason = "the code is generated")]
mod bindings;

use std::sync::Arc;

use bytes::Bytes;
use tidemill_policy::manifest::{Handler, KeyValuePolicy, show_size};
use tidemill_policy::reach::KeyGrant;
use tidemill_policy::reach::keyvalue::{Access, Refusal, admit, admit_bucket, is_granted};
use wasmtime::component::{HasSelf, Linker, Resource};

use bindings::wasi::keyvalue::atomics::{self, CasError};
use bindings::wasi::keyvalue::store::{self, Error, KeyResponse};

use super::link::State;
use crate::broker::nats::keyvalue::{Buckets, Entry, KeyError};

/// How often a number is added to before others that do the same are said to be too many.
const INCREMENTS_MAX: usize = 32;

/// How many keys a guest gets at once.
const PAGE_KEYS: usize = 1000;

/// What a handler may use: its grants, its limits, and where the buckets are.
pub(super) struct Keys {
    grants: Vec<KeyGrant>,
    policy: KeyValuePolicy,
    buckets: Arc<Buckets>,
}

/// A bucket that a guest has opened.
#[expect(unreachable_pub, reason = "the generated code names it")]
pub struct Bucket {
    name: Arc<str>,
}

/// A value as a guest has read it.
#[expect(unreachable_pub, reason = "the generated code names it")]
pub struct Cas {
    bucket: Arc<str>,
    key: String,
    entry: Entry,
}

impl Keys {
    /// What a handler's entry in the manifest grants it.
    pub(super) fn new(handler: &Handler, buckets: Arc<Buckets>) -> Keys {
        Keys { grants: handler.allow.keyvalue.clone(), policy: handler.keyvalue, buckets }
    }
}

/// Links the interfaces.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    store::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    atomics::add_to_linker::<State, HasSelf<State>>(linker, |state| state)
}

impl State {
    /// Counts an operation, and checks that it is granted.
    fn admit_key(&mut self, bucket: &str, key: &str, access: Access) -> Result<Arc<Keys>, Error> {
        let keys = self.count()?;
        admit(&keys.grants, bucket, key, access).map_err(|refusal| self.refused(&refusal))?;
        Ok(keys)
    }

    /// Counts an operation.
    fn count(&mut self) -> Result<Arc<Keys>, Error> {
        let keys = Arc::clone(&self.keys);
        if self.is_rehearsal {
            return Err(
                self.failed("buckets are not used: this is a rehearsal, from which nothing reaches outside".into())
            );
        }
        self.operations = self.operations.saturating_add(1);
        let most = keys.policy.operations;
        if self.operations > most {
            return Err(self.failed(format!("more than {most} operations on buckets (`keyvalue.operations`)")));
        }
        Ok(keys)
    }

    fn refused(&self, refusal: &Refusal) -> Error {
        let said = refusal.to_string();
        match refusal {
            Refusal::Unusable { .. } => self.failed(said),
            Refusal::Bucket(_) | Refusal::Key { .. } => {
                self.transcript(|transcript| transcript.remark(&said));
                Error::AccessDenied
            }
        }
    }

    fn failed(&self, said: String) -> Error {
        self.transcript(|transcript| transcript.remark(&said));
        Error::Other(said)
    }

    fn unusable(&self, error: &KeyError) -> Error {
        let other = self.failed(error.to_string());
        if matches!(error, KeyError::NoBucket(_)) { Error::NoSuchStore } else { other }
    }

    fn check_size(&self, keys: &Keys, bucket: &str, key: &str, bytes: usize) -> Result<(), Error> {
        let most = keys.policy.value_bytes;
        if bytes as u64 <= most {
            return Ok(());
        }
        let most = show_size(most);
        Err(self.failed(format!(
            "key {key:?} of bucket {bucket:?}: a value of {bytes} bytes, more than {most} (`keyvalue.value`)"
        )))
    }

    async fn read(&mut self, bucket: &str, key: &str, access: Access) -> Result<Entry, Error> {
        let keys = self.admit_key(bucket, key, access)?;
        let entry = keys.buckets.get(bucket, key).await.map_err(|error| self.unusable(&error))?;
        self.check_size(&keys, bucket, key, entry.value.as_ref().map_or(0, Bytes::len))?;
        Ok(entry)
    }

    async fn list(&mut self, bucket: &str, cursor: Option<String>) -> Result<KeyResponse, Error> {
        let keys = self.count()?;
        admit_bucket(&keys.grants, bucket).map_err(|refusal| self.refused(&refusal))?;
        let all = keys.buckets.keys(bucket).await.map_err(|error| self.unusable(&error))?;
        let is_next = |key: &String| cursor.as_ref().is_none_or(|cursor| key > cursor);
        let granted = all.into_iter().filter(|key| is_next(key) && is_granted(&keys.grants, bucket, key, Access::Read));
        let mut page: Vec<_> = granted.take(PAGE_KEYS + 1).collect();
        let is_last = page.len() <= PAGE_KEYS;
        page.truncate(PAGE_KEYS);
        let cursor = page.last().filter(|_| !is_last).cloned();
        Ok(KeyResponse { keys: page, cursor })
    }

    async fn add(&mut self, bucket: &str, key: &str, delta: i64) -> Result<i64, Error> {
        for _ in 0..INCREMENTS_MAX {
            let Entry { value, revision } = self.read(bucket, key, Access::Write).await?;
            let text = value.as_deref().map_or(Ok("0"), std::str::from_utf8).unwrap_or_default();
            let Ok(number) = text.trim().parse::<i64>() else {
                return Err(self.failed(format!("key {key:?} of bucket {bucket:?} holds no whole number")));
            };
            let Some(sum) = number.checked_add(delta) else {
                return Err(self.failed(format!("key {key:?} of bucket {bucket:?} would leave 64 bits")));
            };
            let keys = Arc::clone(&self.keys);
            match keys.buckets.replace(bucket, key, sum.to_string().into(), revision).await {
                Ok(()) => return Ok(sum),
                Err(KeyError::Conflict) => {}
                Err(error) => return Err(self.unusable(&error)),
            }
        }
        Err(self.failed(format!("key {key:?} of bucket {bucket:?} is changed by too many others at once")))
    }

    fn name(&mut self, bucket: &Resource<Bucket>) -> wasmtime::Result<Arc<str>> {
        Ok(Arc::clone(&self.resources.get(bucket)?.name))
    }
}

impl store::Host for State {
    async fn open(&mut self, identifier: String) -> wasmtime::Result<Result<Resource<Bucket>, Error>> {
        let opened = async {
            let keys = self.count()?;
            admit_bucket(&keys.grants, &identifier).map_err(|refusal| self.refused(&refusal))?;
            keys.buckets.open(&identifier).await.map_err(|error| self.unusable(&error))
        };
        match opened.await {
            Ok(_) => Ok(Ok(self.resources.push(Bucket { name: identifier.into() })?)),
            Err(error) => Ok(Err(error)),
        }
    }
}

impl store::HostBucket for State {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        let name = self.name(&bucket)?;
        let entry = self.read(&name, &key, Access::Read).await;
        Ok(entry.map(|entry| entry.value.map(Vec::from)))
    }

    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), Error>> {
        let name = self.name(&bucket)?;
        let set = async {
            let keys = self.admit_key(&name, &key, Access::Write)?;
            self.check_size(&keys, &name, &key, value.len())?;
            keys.buckets.set(&name, &key, value.into()).await.map_err(|error| self.unusable(&error))
        };
        Ok(set.await)
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> wasmtime::Result<Result<(), Error>> {
        let name = self.name(&bucket)?;
        let deleted = async {
            let keys = self.admit_key(&name, &key, Access::Write)?;
            keys.buckets.delete(&name, &key).await.map_err(|error| self.unusable(&error))
        };
        Ok(deleted.await)
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> wasmtime::Result<Result<bool, Error>> {
        let name = self.name(&bucket)?;
        let entry = self.read(&name, &key, Access::Read).await;
        Ok(entry.map(|entry| entry.value.is_some()))
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<String>,
    ) -> wasmtime::Result<Result<KeyResponse, Error>> {
        let name = self.name(&bucket)?;
        Ok(self.list(&name, cursor).await)
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.resources.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for State {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> wasmtime::Result<Result<i64, Error>> {
        let name = self.name(&bucket)?;
        Ok(self.add(&name, &key, delta).await)
    }

    async fn swap(&mut self, cas: Resource<Cas>, value: Vec<u8>) -> wasmtime::Result<Result<(), CasError>> {
        let Cas { bucket, key, entry } = self.resources.delete(cas)?;
        let swapped = async {
            let keys = self.admit_key(&bucket, &key, Access::Write)?;
            self.check_size(&keys, &bucket, &key, value.len())?;
            match keys.buckets.replace(&bucket, &key, value.into(), entry.revision).await {
                Err(KeyError::Conflict) => self.read(&bucket, &key, Access::Write).await.map(Some),
                replaced => replaced.map(|()| None).map_err(|error| self.unusable(&error)),
            }
        };
        match swapped.await {
            Ok(None) => Ok(Ok(())),
            Ok(Some(entry)) => Ok(Err(CasError::CasFailed(self.resources.push(Cas { bucket, key, entry })?))),
            Err(error) => Ok(Err(CasError::StoreError(error))),
        }
    }
}

impl atomics::HostCas for State {
    async fn new(&mut self, bucket: Resource<Bucket>, key: String) -> wasmtime::Result<Result<Resource<Cas>, Error>> {
        let bucket = self.name(&bucket)?;
        match self.read(&bucket, &key, Access::Read).await {
            Ok(entry) => Ok(Ok(self.resources.push(Cas { bucket, key, entry })?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn current(&mut self, cas: Resource<Cas>) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        Ok(Ok(self.resources.get(&cas)?.entry.value.as_ref().map(|value| value.to_vec())))
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.resources.delete(cas)?;
        Ok(())
    }
}
