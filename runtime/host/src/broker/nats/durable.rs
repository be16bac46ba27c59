//! Making a consumer, or bringing an existing one up to date, and comparing what the server echoes with what
//! was asked for.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, FromConsumer, Info, IntoConsumerConfig, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::ConsumerErrorKind;
use thiserror::Error;

use super::consume::Spec;
use super::owner::Owner;
use super::streams::UNAVAILABLE;
use super::{Nats, owner, position, progress};
use crate::broker::Source;

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

/// Makes the consumer, or brings an existing one up to date. Returns what an operator should know of that, each of
/// which is logged too.
///
/// # Errors
/// What the server says against it, or makes of it, and what to do about it.
pub async fn ensure(nats: &Nats, spec: &Spec) -> Result<Vec<String>, ConsumerError> {
    let mut present = info(nats, spec).await?;
    if let Some(info) = &present {
        fit(nats, spec, info)?;
    }
    let mut notes = Vec::new();
    let config_before = present.as_ref().map(|info| info.config.clone());
    if let Some(info) = &present
        && let Some(step) = position::due(nats, spec, info).await?
    {
        notes.push(position::take(nats, spec, info, step).await?);
        present = self::info(nats, spec).await?;
    }
    let start = match &present {
        Some(_) => None,
        None if spec.broadcast => {
            let (start, note) = progress::start(nats, spec).await?;
            notes.extend(note);
            Some(start)
        }
        None => position::kept(nats, spec).await?.map(position::start),
    };
    let is_new = present.is_none();
    let present = present.map(|info| info.config);
    notes.extend(config_before.as_ref().and_then(|before| edited(spec, before)));
    notes.extend(config_before.as_ref().and_then(|before| replaced(spec, before)));
    for note in &notes {
        tracing::warn!(consumer = %spec.name, "{note}");
    }
    let mut wanted = config(spec, present.as_ref(), start);
    if let Some(before) = config_before.filter(|_| !is_new) {
        wanted.pause_until = before.pause_until;
    }
    // Most often it is there as it should be, and nothing need be written.
    if present.is_some_and(|present| present == wanted.clone().into_consumer_config()) {
        return Ok(notes);
    }
    create(nats, spec, wanted).await?;
    if is_new && start.is_some() && !spec.broadcast {
        position::forget(nats, spec).await;
    }
    Ok(notes)
}

/// Makes the consumer, or changes it, and looks at what the server makes of it.
pub(super) async fn create(nats: &Nats, spec: &Spec, wanted: pull::Config) -> Result<(), ConsumerError> {
    let fail = |why: String, is_unanswered: bool| failed(spec, why, is_unanswered);
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
    let now = info(nats, spec).await?;
    let differences = now.map_or_else(|| vec!["it was deleted".to_owned()], |now| differences(spec, &now.config));
    if differences.is_empty() {
        return Ok(());
    }
    let remedy =
        format!("correct the consumer, or delete it for us to make it: nats consumer rm {} {}", spec.stream, spec.name);
    Err(fail(format!("{}; {remedy}", differences.join("; ")), false))
}

pub(super) fn failed(spec: &Spec, why: String, is_unanswered: bool) -> ConsumerError {
    ConsumerError { name: spec.name.clone(), stream: spec.stream.clone(), why, is_unanswered }
}

/// Refuses a consumer that no change makes fit.
fn fit(nats: &Nats, spec: &Spec, info: &Info) -> Result<(), ConsumerError> {
    if info.config.deliver_subject.is_some() {
        let why = "it exists as a push consumer; choose another name with durable";
        return Err(failed(spec, why.to_owned(), false));
    }
    match unfit(nats, spec, info) {
        Some(why) => Err(failed(spec, why, false)),
        None => Ok(()),
    }
}

/// What of a consumer is not as it must be and cannot be changed, and what to do about it.
pub fn unfit(nats: &Nats, spec: &Spec, info: &Info) -> Option<String> {
    let unfit = owner::unfit(&info.config);
    if unfit.is_empty() {
        return None;
    }
    let anew = match position::rewind(spec, position::floor(info, nats.features.api_level) + 1) {
        Some(command) => format!("make it anew where it stands: {command}, or from the beginning"),
        None => "delete it for us to make it".to_owned(),
    };
    let Spec { stream, name, .. } = spec;
    Some(format!("it has {}, which no server can change; {anew}: nats consumer rm {stream} {name}", unfit.join("; ")))
}

/// What somebody has changed about a consumer since it was set up. Where nobody has written down how that was, only
/// what no manifest asks for.
fn edited(spec: &Spec, present: &Config) -> Option<String> {
    let got = owner::settings(present);
    let edits = if let Some(recorded) = owner::recorded(&present.metadata) {
        let lines = got.iter().map(|(name, value)| (name, format!("{name} = {value}")));
        lines.filter(|(_, line)| !recorded.contains(line)).map(|(_, line)| line).collect::<Vec<_>>()
    } else {
        let varies = ["ack_wait", "max_ack_pending", "filter", owner::INACTIVE_THRESHOLD];
        let wanted = owner::settings(&config(spec, None, None).into_consumer_config());
        let changed = wanted.iter().zip(&got).filter(|(wanted, got)| wanted != got && !varies.contains(&got.0));
        changed.map(|(_, (name, value))| format!("{name} = {value}")).collect()
    };
    (!edits.is_empty()).then(|| {
        format!(
            "somebody has changed consumer {:?} on stream {:?} ({}); it is put right: set what you want in the manifest",
            spec.name,
            spec.stream,
            edits.join("; ")
        )
    })
}

/// Whether the input stream is another one than when the consumer of the retries was set up: that one outlives it.
fn replaced(spec: &Spec, present: &Config) -> Option<String> {
    let before = Owner::read(&present.metadata).filter(|_| spec.source == Source::Retry)?;
    let now = &spec.owner;
    let is_other = before.is_same(now) && before.created_unix != 0 && before.created_unix != now.created_unix;
    is_other.then(|| {
        format!(
            "stream {:?} was made anew or restored since it was last read: what is stored in it is handled, and events that were \
             lost with it are not",
            now.stream
        )
    })
}

/// The consumer as it is; nothing where there is no such consumer.
///
/// # Errors
/// Where the server does not answer, or there is no such stream.
pub async fn info(nats: &Nats, spec: &Spec) -> Result<Option<Info>, ConsumerError> {
    use ConsumerInfoErrorKind::{JetStream, NoResponders, NotFound, Offline, Request, TimedOut};
    let fail = |why: String, is_unanswered: bool| failed(spec, why, is_unanswered);
    let stream = nats.context.get_stream_no_info(&spec.stream).await.map_err(|error| fail(error.to_string(), false))?;
    match stream.consumer_info(&spec.name).await {
        Ok(info) => Ok(Some(info)),
        Err(error) => match error.kind() {
            NotFound => Ok(None),
            TimedOut | Request | NoResponders | Offline => Err(fail(error.to_string(), true)),
            JetStream(ref refusal) => Err(fail(error.to_string(), refusal.code() == UNAVAILABLE)),
            _ => Err(fail(error.to_string(), false)),
        },
    }
}

/// The consumer's configuration. Where to start cannot be changed, so an existing consumer keeps that.
pub(super) fn config(spec: &Spec, present: Option<&Config>, start: Option<DeliverPolicy>) -> pull::Config {
    let of_present = present.and_then(|config| pull::Config::try_from_consumer_config(config.clone()).ok());
    let mut wanted = pull::Config {
        durable_name: (!spec.broadcast).then(|| spec.name.clone()),
        name: Some(spec.name.clone()),
        deliver_policy: present.map(|config| config.deliver_policy).or(start).unwrap_or(DeliverPolicy::All),
        filter_subject: if let [only] = spec.filters.as_slice() { only.clone() } else { String::new() },
        filter_subjects: if spec.filters.len() > 1 { spec.filters.clone() } else { Vec::new() },
        ack_policy: AckPolicy::Explicit,
        ack_wait: spec.ack_wait,
        // The limit on attempts is ours: a message that the server stops delivering would be lost from sight.
        max_deliver: -1,
        max_ack_pending: spec.max_ack_pending,
        num_replicas: spec.replicas,
        inactive_threshold: if spec.broadcast { Duration::from_mins(1) } else { Duration::ZERO },
        backoff: Vec::new(),
        headers_only: false,
        max_batch: 0,
        max_bytes: 0,
        max_expires: Duration::ZERO,
        priority_policy: async_nats::jetstream::consumer::PriorityPolicy::None,
        priority_groups: Vec::new(),
        priority_timeout: Duration::ZERO,
        ..of_present.unwrap_or_default()
    };
    let settings = owner::settings(&wanted.clone().into_consumer_config());
    owner::write(&mut wanted.metadata, &spec.owner, &settings);
    owner::write_goes_on(&mut wanted.metadata, None);
    wanted
}

/// In what the server's consumer is not the one that was asked for, so that deliveries would not be what
/// policy expects.
pub(super) fn differences(spec: &Spec, echoed: &Config) -> Vec<String> {
    let wanted = owner::settings(&config(spec, None, None).into_consumer_config());
    let mut differences: Vec<_> =
        owner::unfit(echoed).into_iter().map(|unfit| format!("the server keeps {unfit}")).collect();
    let of_ours = |pair: &(&'static str, String)| pair.0 != owner::INACTIVE_THRESHOLD;
    let pick = |list: Vec<(&'static str, String)>| list.into_iter().filter(of_ours).collect::<Vec<_>>();
    let changed = owner::changed(&pick(wanted), &pick(owner::settings(echoed)));
    differences.extend(changed.into_iter().map(|one| format!("the server keeps {one}")));
    differences
}

#[cfg(test)]
mod tests {

    use super::*;

    fn spec() -> Spec {
        Spec {
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
            owner: owner::Owner { prefix: "tidemill".into(), handler: "h".into(), ..owner::Owner::default() }.into(),
            progress: std::sync::Arc::default(),
        }
    }

    #[test]
    fn what_the_server_makes_of_a_consumer_is_compared() {
        let spec = spec();
        let same = config(&spec, None, None).into_consumer_config();
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

    #[test]
    fn what_somebody_has_edited_is_told_from_what_another_manifest_asks_for() {
        let spec = spec();
        let ours = config(&spec, None, None).into_consumer_config();
        assert_eq!(edited(&spec, &ours), None);
        let slower = Spec { ack_wait: Duration::from_mins(1), ..self::spec() };
        assert_eq!(edited(&slower, &ours), None, "as the manifest before wanted it");
        let by_hand = Config { max_deliver: 1, headers_only: true, ..ours.clone() };
        let told = edited(&slower, &by_hand).expect("an edit");
        assert!(told.contains("(max_deliver = 1; headers_only = true)"), "{told}");
        // Made before anything was written down, or without.
        let unknown = Config { metadata: std::collections::HashMap::new(), ..by_hand };
        assert_eq!(edited(&slower, &unknown), Some(told));
        // The next one puts all of it right.
        let mended = config(&slower, Some(&unknown), None).into_consumer_config();
        assert_eq!(edited(&slower, &mended), None);
        assert!(differences(&slower, &mended).is_empty());
    }
}
