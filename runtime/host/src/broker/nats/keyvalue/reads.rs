//! Reading the users' buckets over [`super::super::wire`]: whoever may write to a bucket may store what the client library
//! stumbles over.

use std::sync::Arc;

use async_nats::Client;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, push};
use async_nats::jetstream::kv::Store;
use bytes::Bytes;
use tokio::time::timeout;

use super::super::markers::Fault;
use super::super::place::Place;
use super::super::wire::{Arrived, Wire};
use super::super::{CONFIRM_TIMEOUT, Nats, lookups, quarantine};
use super::{Entry, KEYS_MAX};

/// Over what is read.
#[derive(Debug)]
pub(super) struct Reads {
    wire: Arc<Wire>,
    client: Client,
}

impl Reads {
    pub(super) fn new(nats: &Nats) -> Reads {
        Reads { wire: Arc::clone(nats.wire()), client: nats.client.clone() }
    }

    /// Reads a key of a bucket that may be read directly.
    pub(super) async fn get(&self, store: &Store, key: &str) -> Result<Entry, String> {
        let subject = format!("$JS.API.DIRECT.GET.{}.{}{key}", store.stream_name, store.prefix);
        let inbox = self.client.new_inbox();
        let answer = self.wire.request(inbox, subject, Bytes::new(), CONFIRM_TIMEOUT).await;
        let answer = answer.ok_or("the server does not answer")?;
        match lookups::stored(&quarantine::answer(answer)) {
            Ok(stored) => Ok(Entry { value: stored.value, revision: stored.revision }),
            Err(Fault::Nobody(why) | Fault::Unavailable(why)) => Err(why),
            Err(Fault::Conflict) => Err("an answer that is none".to_owned()),
        }
    }

    /// All keys that have a value.
    pub(super) async fn keys(&self, store: &Store) -> Result<Vec<String>, String> {
        let inbox = self.client.new_inbox();
        let mut heard = self.wire.subscribe(inbox.clone()).await;
        let config = push::Config {
            deliver_subject: inbox,
            deliver_policy: DeliverPolicy::LastPerSubject,
            filter_subject: format!("{}>", store.prefix),
            ack_policy: AckPolicy::None,
            headers_only: true,
            memory_storage: true,
            num_replicas: 1,
            ..push::Config::default()
        };
        let consumer = store.stream.create_consumer(config).await.map_err(|error| error.to_string())?;
        let mut left = consumer.cached_info().num_pending;
        let mut keys = Vec::new();
        while left > 0 {
            let next = timeout(CONFIRM_TIMEOUT, heard.next()).await.ok().flatten();
            let message = next.ok_or("the server does not say which keys there are")?;
            let reply = std::str::from_utf8(&message.reply).unwrap_or_default();
            // What is no message of the consumer is a word about it.
            let Some(place) = Place::read(reply) else { continue };
            left = place.pending;
            keys.extend(key_of(message, &store.prefix));
            if keys.len() > KEYS_MAX {
                return Err(format!("it has more than {KEYS_MAX} keys, which is too many to list"));
            }
        }
        Ok(keys)
    }
}

/// The key of a message that holds a value.
fn key_of(message: Arrived, prefix: &str) -> Option<String> {
    let key = std::str::from_utf8(&message.subject).ok()?.strip_prefix(prefix)?.to_owned();
    lookups::has_value(&quarantine::answer(message)).then_some(key)
}
