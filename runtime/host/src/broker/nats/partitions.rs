//! Partitions: a work queue of ours for each handler whose order is kept that way. The server copies the events of the
//! input stream into it, under subjects that say to which partition the key of an event belongs.
//!
//! Its place in the input stream is kept by the server. After a kill it may copy the latest events once more, never
//! too few (tried with 2.10 to 2.15); a copy has the place and the id of its original, so that repeats are recognised.
//! A message leaves the queue when it is acknowledged, and that survives a kill.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, RetentionPolicy, Source, StorageType, SubjectTransform};
use tidemill_policy::manifest::{Handler, Nats as NatsTable, OrderKey};
use tidemill_policy::order;

use super::Nats;
use super::streams::{self, StreamError};

/// For how long repeats are recognised: as shortly as the server allows. Two events of the input with the same id are
/// two, since its stream has taken them for two.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);

/// The name of the stream with a handler's partitions.
pub fn stream(prefix: &str, handler: &str) -> String {
    format!("{}_ORDER_{}", prefix.to_ascii_uppercase(), handler.to_ascii_uppercase())
}

/// The name of the consumer of one partition.
pub fn consumer(handler: &Handler, number: u32) -> String {
    format!("{}-p{number}", handler.durable)
}

/// The stream that a handler's partitions need; nothing where it has none.
fn config(handler: &Handler, nats: &NatsTable, input: &str) -> Option<Config> {
    let count = handler.partitions()?;
    let OrderKey::Subject(number) = handler.key_order()?.key else { return None };
    let transforms = order::transforms(&nats.prefix, &handler.name, &handler.subjects, number, count);
    let transforms = transforms
        .into_iter()
        .map(|transform| SubjectTransform { source: transform.source, destination: transform.target });
    Some(Config {
        name: stream(&nats.prefix, &handler.name),
        subjects: vec![order::partition_space(&nats.prefix, &handler.name)],
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        num_replicas: nats.replicas as usize,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        sources: Some(vec![Source {
            name: input.to_owned(),
            subject_transforms: transforms.collect(),
            ..Source::default()
        }]),
        ..Config::default()
    })
}

/// Makes the stream with a handler's partitions where it is missing.
///
/// # Errors
/// Where the server refuses or does not answer.
pub async fn provide(nats: &Nats, handler: &Handler, table: &NatsTable, input: &str) -> Result<(), StreamError> {
    let Some(wanted) = config(handler, table, input) else { return Ok(()) };
    let name = wanted.name.clone();
    if streams::configuration(nats, &name).await?.is_some() {
        return Ok(());
    }
    nats.context.create_stream(wanted).await.map_err(|error| streams::refused(&name, &error))?;
    tracing::info!(handler = %handler.name, stream = %name, "made the stream of the handler's partitions");
    Ok(())
}

/// What stands against a handler's partitions: the input's retention, or partitions that were made for something else.
///
/// # Errors
/// Where the server does not answer.
pub async fn conflict(
    nats: &Nats,
    handler: &Handler,
    table: &NatsTable,
    input: &Config,
) -> Result<Option<String>, StreamError> {
    let Some(wanted) = config(handler, table, &input.name) else { return Ok(None) };
    if input.retention != RetentionPolicy::Limits {
        return Ok(Some(format!(
            "handler.{}: order.form = \"partitions\" has the server copy the events of stream {:?}, which removes them when \
             they are read (retention is not limits); say order.form = \"queues\", or use a stream with retention = limits",
            handler.name, input.name
        )));
    }
    let present = streams::configuration(nats, &wanted.name).await?;
    Ok(present.and_then(|present| difference(handler, &wanted, &present)))
}

fn difference(handler: &Handler, wanted: &Config, present: &Config) -> Option<String> {
    let rules = |config: &Config| -> Vec<(String, String, String)> {
        let sources = config.sources.iter().flatten();
        let mut rules: Vec<_> = sources
            .flat_map(|source| {
                let rule =
                    |rule: &SubjectTransform| (source.name.clone(), rule.source.clone(), rule.destination.clone());
                source.subject_transforms.iter().map(rule).collect::<Vec<_>>()
            })
            .collect();
        rules.sort();
        rules
    };
    let (wanted, made) = (rules(wanted), rules(present));
    if wanted == made {
        return None;
    }
    let show = |rules: &[(String, String, String)]| {
        let one = |(stream, source, target): &(String, String, String)| format!("{stream}: {source} -> {target}");
        rules.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let (name, stream) = (&handler.name, &present.name);
    Some(format!(
        "handler.{name}: stream {stream:?} was made for other partitions (it has {}; the manifest wants {}): changed, events \
         of one key would be in two partitions at once. Set order.key, order.partitions, subject and stream back; or, to \
         change them, stop what publishes, wait until that stream is empty (tidemill status), and remove it: nats stream rm \
         {stream}. Then all events that the input stream still keeps are handled again, except those that dedup knows",
        show(&made),
        show(&wanted),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(extra: &str) -> (Handler, NatsTable) {
        let text = format!("[handler.h]\nsubject = 'orders.*'\norder = {{ by = 'key', key = 'subject:2'{extra} }}");
        let source = tidemill_policy::manifest::Source { path: "t.toml", text: &text };
        let parsed = tidemill_policy::manifest::parse(source, &[], &|_| None);
        let mut manifest = parsed.map_err(|problems| problems.to_string()).expect("valid").manifest;
        (manifest.handlers.remove("h").expect("the handler"), manifest.nats)
    }

    #[test]
    fn other_partitions_are_a_conflict_that_says_what_a_change_means() {
        let (sixteen, table) = handler("");
        let (four, _) = handler(", partitions = 4");
        let of = |handler: &Handler| config(handler, &table, "ORDERS").expect("partitions");
        assert_eq!(difference(&sixteen, &of(&sixteen), &of(&sixteen)), None);
        let conflict = difference(&four, &of(&four), &of(&sixteen)).expect("a conflict");
        for part in ["handler.h", "TIDEMILL_ORDER_H", "partition(16,1)", "partition(4,1)", "nats stream rm"] {
            assert!(conflict.contains(part), "{part} is not in: {conflict}");
        }
        let (queues, _) = handler(", form = 'queues'");
        assert!(config(&queues, &table, "ORDERS").is_none());
    }
}
