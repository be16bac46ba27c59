//! Which consumers a handler needs.

use std::sync::Arc;

use async_nats::jetstream::stream::Info;
use tidemill_policy::manifest::{Handler, Manifest, Mode};
use tidemill_policy::order;
use tidemill_policy::publication::{RetryClock, repeats_within, retries_through_stream, retry_due_filters};

use crate::broker::Source;
use crate::broker::nats::consume::Spec;
use crate::broker::nats::owner::Owner;
use crate::broker::nats::progress::Progress;
use crate::broker::nats::streams::{self, InputStream};
use crate::broker::nats::{Nats, partitions};

/// The most messages in flight over all instances, as a multiple of one instance's share.
const INSTANCES_MAX: i64 = 64;
/// The most retries that wait by being handed back, on servers without schedules.
const HANDED_BACK_MAX: i64 = 100_000;

/// The consumer of a handler's input, which it has where it is neither ordered by partitions nor for each instance alone.
pub fn input_spec(nats: &Nats, handler: &Handler, manifest: &Manifest, stream: &Info) -> Spec {
    let input = InputStream::new(nats, stream);
    consumers_of(handler, &input, manifest, nats, ("", Arc::default())).swap_remove(0)
}

fn owner(handler: &Handler, input: &InputStream, prefix: &str) -> Owner {
    let mut subjects = handler.subjects.clone();
    subjects.sort();
    Owner {
        prefix: prefix.to_owned(),
        handler: handler.name.clone(),
        stream: input.name.clone(),
        subjects,
        created_unix: input.created_unix,
    }
}

/// The consumers that a handler needs: one of its input or one of each partition, and one of its retries.
pub(super) fn consumers_of(
    handler: &Handler,
    input: &InputStream,
    manifest: &Manifest,
    nats: &Nats,
    (instance, progress): (&str, Arc<Progress>),
) -> Vec<Spec> {
    let broadcast = handler.mode == Mode::Broadcast;
    let prefix = &manifest.nats.prefix;
    let credit = streams::credit(handler);
    let share = i64::from(credit) * INSTANCES_MAX;
    let limited = |wanted: i64, limit: Option<i64>| limit.map_or(wanted, |limit| wanted.min(limit));
    let first = Spec {
        stream: input.name.clone(),
        stream_created_unix: input.created_unix,
        create_with: handler.create_stream.then(|| streams::created_with(manifest, &input.name)),
        repeats_within: repeats_within(handler),
        name: if broadcast { format!("{}-{instance}", handler.durable) } else { handler.durable.clone() },
        filters: handler.subjects.clone(),
        ack_wait: handler.ack_wait,
        max_ack_pending: match handler.window() {
            Some(window) => i64::from(window),
            None => limited(share, input.ack_pending_max),
        },
        credit,
        broadcast,
        // Else it would go with its server, and what arrives meanwhile would be missed.
        replicas: if broadcast { input.replicas } else { 0 },
        source: Source::Input,
        is_ordered: handler.key_order().is_some(),
        turns: handler.window().map(|_| Arc::default()),
        owner: Arc::new(owner(handler, input, prefix)),
        progress,
    };
    if !retries_through_stream(handler) {
        return vec![first];
    }
    let mut retries = Spec {
        stream: streams::retry_stream(prefix),
        stream_created_unix: 0,
        create_with: None,
        name: streams::retry_consumer(prefix, &handler.name),
        filters: retry_due_filters(prefix, &handler.name).into(),
        max_ack_pending: match nats.features.retry_clock {
            RetryClock::Schedules => limited(share, nats.own.load().ack_pending_max),
            RetryClock::NotBefore => limited(HANDED_BACK_MAX, nats.own.load().ack_pending_max),
        },
        source: Source::Retry,
        turns: None,
        ..first.clone()
    };
    if handler.key_order().is_some() {
        // What comes back is handled one at a time, since nobody else keeps it in order.
        retries = Spec { max_ack_pending: 1, credit: 1, ..retries };
    }
    let partition = |number: u32| Spec {
        stream: partitions::stream(prefix, &handler.name),
        stream_created_unix: 0,
        create_with: None,
        name: partitions::consumer(handler, number),
        filters: vec![order::partition_filter(prefix, &handler.name, number)],
        max_ack_pending: 1,
        credit: 1,
        source: Source::Partition { created_unix: input.created_unix },
        ..first.clone()
    };
    let mut specs: Vec<_> = match handler.partitions() {
        Some(count) => (0..count).map(partition).collect(),
        None => vec![first],
    };
    specs.push(retries);
    specs
}
