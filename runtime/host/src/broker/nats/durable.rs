//! Making a consumer, or bringing an existing one up to date, and comparing what the server echoes with what
//! was asked for.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, FromConsumer, IntoConsumerConfig, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::ConsumerErrorKind;
use thiserror::Error;

use super::Nats;
use super::consume::Spec;
use super::streams::UNAVAILABLE;

/// Why a consumer cannot be had.
#[derive(Debug, Error)]
#[error("consumer {name:?} on stream {stream:?}: {why}")]
pub struct ConsumerError {
    /// The consumer.
    pub name: String,
    /// Its stream.
    pub stream: String,
    /// What the server says, and what to do about it.
    pub why: String,
    /// Whether the server did not answer, so that it may work later.
    pub is_unanswered: bool,
}

/// Makes the consumer, or brings an existing one up to date.
///
/// # Errors
/// What the server says against it, or makes of it, and what to do about it.
pub async fn ensure(nats: &Nats, spec: &Spec) -> Result<(), ConsumerError> {
    let fail = |why: String, is_unanswered: bool| failed(spec, why, is_unanswered);
    let present = present(nats, spec).await?;
    if present.as_ref().is_some_and(|config| config.deliver_subject.is_some()) {
        return Err(fail("it exists as a push consumer; choose another name with durable".into(), false));
    }
    let wanted = config(spec, present.as_ref());
    // Most often it is there as it should be, and nothing need be written.
    if present.is_some_and(|present| present == wanted.clone().into_consumer_config()) {
        return Ok(());
    }
    let made = nats.context.create_consumer_on_stream(wanted, &spec.stream).await.map_err(|error| {
        let hint = match error.kind() {
            ConsumerErrorKind::JetStream(ref error) if error.error_code().0 == 10100 => {
                "; on a work-queue stream, the subjects of consumers must not overlap: is another handler or \
                 application consuming them?"
            }
            _ => "",
        };
        let is_unanswered = match error.kind() {
            ConsumerErrorKind::TimedOut | ConsumerErrorKind::Request => true,
            ConsumerErrorKind::JetStream(error) => error.code() == UNAVAILABLE,
            _ => false,
        };
        fail(format!("{error}{hint}"), is_unanswered)
    })?;
    if differences(spec, &made.cached_info().config).is_empty() {
        return Ok(());
    }
    // A server that was started anew answers the first change of a consumer with what that was before.
    let now = self::present(nats, spec).await?;
    let differences = now.map_or_else(|| vec!["it was deleted".to_owned()], |now| differences(spec, &now));
    if differences.is_empty() {
        return Ok(());
    }
    let remedy =
        format!("correct the consumer, or delete it for us to make it: nats consumer rm {} {}", spec.stream, spec.name);
    Err(fail(format!("{}; {remedy}", differences.join("; ")), false))
}

fn failed(spec: &Spec, why: String, is_unanswered: bool) -> ConsumerError {
    ConsumerError { name: spec.name.clone(), stream: spec.stream.clone(), why, is_unanswered }
}

/// The consumer's configuration; nothing where there is no such consumer.
///
/// # Errors
/// Where the server does not answer, or there is no such stream.
pub async fn present(nats: &Nats, spec: &Spec) -> Result<Option<Config>, ConsumerError> {
    use ConsumerInfoErrorKind::{JetStream, NoResponders, NotFound, Offline, Request, TimedOut};
    let fail = |why: String, is_unanswered: bool| failed(spec, why, is_unanswered);
    let stream = nats.context.get_stream_no_info(&spec.stream).await.map_err(|error| fail(error.to_string(), false))?;
    match stream.consumer_info(&spec.name).await {
        Ok(info) => Ok(Some(info.config)),
        Err(error) => match error.kind() {
            NotFound => Ok(None),
            TimedOut | Request | NoResponders | Offline => Err(fail(error.to_string(), true)),
            JetStream(ref refusal) => Err(fail(error.to_string(), refusal.code() == UNAVAILABLE)),
            _ => Err(fail(error.to_string(), false)),
        },
    }
}

/// The consumer's configuration. Where to start cannot be changed, so an existing consumer keeps that.
fn config(spec: &Spec, present: Option<&Config>) -> pull::Config {
    let start = if spec.broadcast { DeliverPolicy::New } else { DeliverPolicy::All };
    pull::Config {
        durable_name: (!spec.broadcast).then(|| spec.name.clone()),
        name: Some(spec.name.clone()),
        deliver_policy: present.map_or(start, |config| config.deliver_policy),
        filter_subject: if let [only] = spec.filters.as_slice() { only.clone() } else { String::new() },
        filter_subjects: if spec.filters.len() > 1 { spec.filters.clone() } else { Vec::new() },
        ack_policy: AckPolicy::Explicit,
        ack_wait: spec.ack_wait,
        // The limit on attempts is ours: a message that the server stops delivering would be lost from sight.
        max_deliver: -1,
        max_ack_pending: spec.max_ack_pending,
        num_replicas: spec.replicas,
        inactive_threshold: if spec.broadcast { Duration::from_mins(1) } else { Duration::ZERO },
        ..present.and_then(|config| pull::Config::try_from_consumer_config(config.clone()).ok()).unwrap_or_default()
    }
}

/// In what the server's consumer is not the one that was asked for, so that deliveries would not be what
/// policy expects.
fn differences(spec: &Spec, echoed: &Config) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, wanted: String, got: String| {
        if wanted != got {
            differences.push(format!("the server keeps {what} = {got}, where {wanted} was asked for"));
        }
    };
    compare("ack_policy", format!("{:?}", AckPolicy::Explicit), format!("{:?}", echoed.ack_policy));
    compare("ack_wait", format!("{:?}", spec.ack_wait), format!("{:?}", echoed.ack_wait));
    compare("max_ack_pending", spec.max_ack_pending.to_string(), echoed.max_ack_pending.to_string());
    compare("max_deliver", "-1".to_owned(), echoed.max_deliver.to_string());
    compare("backoff", "[]".to_owned(), format!("{:?}", echoed.backoff));
    let one = (!echoed.filter_subject.is_empty()).then(|| echoed.filter_subject.clone());
    let mut filters: Vec<_> = one.into_iter().chain(echoed.filter_subjects.iter().cloned()).collect();
    let mut wanted = spec.filters.clone();
    filters.sort();
    wanted.sort();
    compare("filter", wanted.join(" "), filters.join(" "));
    differences
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::broker::Source;

    #[test]
    fn what_the_server_makes_of_a_consumer_is_compared() {
        let spec = Spec {
            stream: "S".into(),
            stream_created_unix: 0,
            create_with: None,
            repeats_within: Duration::ZERO,
            name: "c".into(),
            filters: vec!["b".into(), "a".into()],
            ack_wait: Duration::from_secs(30),
            max_ack_pending: 10,
            credit: 2,
            broadcast: false,
            replicas: 0,
            source: Source::Input,
            is_ordered: false,
            turns: None,
        };
        let same = config(&spec, None).into_consumer_config();
        assert!(differences(&spec, &same).is_empty());
        let other = Config {
            ack_wait: Duration::from_secs(1),
            max_deliver: 3,
            filter_subjects: vec!["a".into()],
            ..same.clone()
        };
        let expected = [
            "the server keeps ack_wait = 1s, where 30s was asked for",
            "the server keeps max_deliver = 3, where -1 was asked for",
            "the server keeps filter = a, where a b was asked for",
        ];
        assert_eq!(differences(&spec, &other), expected);
    }
}
