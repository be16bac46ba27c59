//! Where a durable goes on where that must not be where the server left it. While nothing matches, the server moves a
//! durable on in its memory; after a change of its filter it goes on from there, over what the new one would have
//! matched (tried with 2.10 to 2.15). It also stops to deliver what somebody's `max_deliver` is used up for, and before
//! 2.14 waits for the sequences of a stream that was set back.
//!
//! From 2.14 on, a durable is set back in place: its new subjects come first, or whoever pulls has it moved on again under
//! the old ones. Where it is to be set back to is written beside it in the same request, and it is held until then. Before, it is deleted and made anew; a kill in between would have it
//! begin at the first message, so where it goes on is kept in the bucket of markers until it is there again.

use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, Info};
use async_nats::jetstream::stream::{Info as StreamInfo, RetentionPolicy};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidemill_policy::resume::{Changed, Resume, left_behind, resume};
use tidemill_policy::subject;
use time::OffsetDateTime;

use super::ask::{AskError, ask, found, message};
use super::consume::Spec;
use super::durable::{self, ConsumerError};
use super::{Nats, markers, owner};
use crate::broker::{Broker, Source};

/// The API level from which a consumer can be set back in place (2.14).
pub const RESET_API_LEVEL: u64 = 4;
/// How many messages are looked at to find one that is new; whatever comes then is taken for one.
const LOOKS_MAX: u32 = 64;
/// For how long a durable is held at the most while it is set back.
const HELD: Duration = Duration::from_secs(10);
/// For how long it is kept where a durable goes on that is not there.
const KEPT: Duration = Duration::from_hours(24);

/// What is to be done about where a durable goes on, and what is to be said of it.
pub(super) struct Step {
    /// The sequence to go on with; nothing where it is left as it is.
    from: Option<u64>,
    retention: RetentionPolicy,
    /// Whether its subjects are others than those that it has.
    is_other: bool,
    note: String,
}

/// The command that has a handler go on with a sequence; nothing where it has no durable for that.
pub(super) fn rewind(spec: &Spec, from: u64) -> Option<String> {
    let handler = &spec.owner.handler;
    let has = spec.source == Source::Input && !spec.broadcast && !handler.is_empty();
    has.then(|| format!("tidemill rewind {handler} --to {from} --yes"))
}

/// The highest sequence up to which a durable has delivered everything. Servers before 2.11 tell as delivered what they
/// only have looked at.
pub(super) fn floor(info: &Info, api_level: u64) -> u64 {
    let before_start = match info.config.deliver_policy {
        DeliverPolicy::ByStartSequence { start_sequence } => start_sequence.saturating_sub(1),
        DeliverPolicy::All => 0,
        _ if info.delivered.consumer_sequence == 0 => info.delivered.stream_sequence,
        _ => 0,
    };
    let is_told = api_level > 0 && info.num_ack_pending == 0;
    let delivered = if is_told { info.delivered.stream_sequence } else { 0 };
    info.ack_floor.stream_sequence.max(delivered).max(before_start)
}

/// Looks whether a durable, if it is left alone, passes something over.
pub(super) async fn due(nats: &Nats, spec: &Spec, info: &Info) -> Result<Option<Step>, ConsumerError> {
    let is_other = !filters(info).iter().eq(sorted(&spec.filters).iter());
    let begun = owner::goes_on(&info.config.metadata);
    let is_limited = info.config.max_deliver > 0;
    let may_wait = nats.features.api_level < RESET_API_LEVEL && info.delivered.consumer_sequence > 0;
    if spec.broadcast || !(is_other || is_limited || may_wait || begun.is_some()) {
        return Ok(None);
    }
    let Some(stream) = stream_info(nats, spec).await? else { return Ok(None) };
    let retention = stream.config.retention;
    let last = stream.state.last_sequence;
    let (from, note) = if info.delivered.stream_sequence > last {
        // What a work queue still has is not done.
        let from = if retention == RetentionPolicy::WorkQueue { stream.state.first_sequence.max(1) } else { last + 1 };
        let note = format!(
            "stream {:?} was set back: its last sequence is {last}, and consumer {:?} has delivered up to {}; it goes on with \
             sequence {from}",
            spec.stream, spec.name, info.delivered.stream_sequence,
        );
        (Some(from), note)
    } else if let Some(from) = begun {
        let note =
            format!("consumer {:?} on stream {:?} goes on with sequence {from}, as was begun", spec.name, spec.stream);
        (Some(from), note)
    } else if is_other {
        let Some(step) = of_other_filters(nats, spec, info, retention).await? else { return Ok(None) };
        step
    } else if is_limited {
        let Some(step) = of_given_up(nats, spec, info, &stream) else { return Ok(None) };
        step
    } else {
        return Ok(None);
    };
    Ok(Some(Step { from, retention, is_other, note }))
}

async fn of_other_filters(
    nats: &Nats,
    spec: &Spec,
    info: &Info,
    retention: RetentionPolicy,
) -> Result<Option<(Option<u64>, String)>, ConsumerError> {
    let before = filters(info);
    // What a work queue still has was not handled.
    let floor = if retention == RetentionPolicy::WorkQueue { 0 } else { floor(info, nats.features.api_level) };
    // What the old subjects select is never passed over.
    let is_new = |filter: &&String| !before.iter().any(|old| subject::covers(old, filter));
    let new: Vec<_> = spec.filters.iter().filter(is_new).cloned().collect();
    let changed = Changed {
        floor,
        in_flight: info.num_ack_pending as u64,
        first_above: first(nats, spec, floor + 1, &new, &before).await?,
        first_new: first(nats, spec, 1, &new, &before).await?,
    };
    let Spec { stream, name, filters, .. } = spec;
    let told = format!(
        "consumer {name:?} on stream {stream:?} had subject {}, and now has {}",
        before.join(", "),
        sorted(filters).join(", ")
    );
    let behind = left_behind(changed).map(|first| {
        let remedy = rewind(spec, first).unwrap_or_default();
        format!(
            "; events of the new subjects that were stored before, from sequence {first} on, are not handled: {remedy} has \
             them handled, and all that came after them once more"
        )
    });
    let behind = behind.unwrap_or_default();
    Ok(match resume(changed) {
        Resume::Stays if behind.is_empty() => None,
        Resume::Stays => Some((None, format!("{told}: it goes on after sequence {floor}{behind}"))),
        Resume::From(from) => Some((Some(from), format!("{told}: it goes on with sequence {from}{behind}"))),
        Resume::Unsure(_) if spec.source != Source::Input => {
            let why = format!("{told}: it is put right when the {} events in flight have ended", info.num_ack_pending);
            return Err(durable::failed(spec, why, true));
        }
        Resume::Unsure(from) => {
            let remedy = rewind(spec, from).unwrap_or_default();
            let note = format!(
                "{told}, while {} events are in flight: the server may pass over events that were stored before now, from \
                 sequence {from} on; when nothing is in flight, {remedy} has them handled{behind}",
                info.num_ack_pending
            );
            Some((None, note))
        }
    })
}

/// Events on which the server has given up, because somebody has limited how often it delivers.
fn of_given_up(nats: &Nats, spec: &Spec, info: &Info, stream: &StreamInfo) -> Option<(Option<u64>, String)> {
    let Spec { stream: name, name: consumer, .. } = spec;
    let told = format!(
        "consumer {consumer:?} on stream {name:?} was limited to max_deliver = {}, so that the server may have given up on \
         events that were cut off",
        info.config.max_deliver
    );
    let delivered = info.delivered.stream_sequence;
    if stream.config.retention == RetentionPolicy::WorkQueue {
        let from = stream.state.first_sequence.max(1);
        let is_behind = stream.state.messages > 0 && from <= delivered;
        return is_behind.then(|| (Some(from), format!("{told}: it goes on with sequence {from}")));
    }
    let from = info.ack_floor.stream_sequence + 1;
    if nats.features.api_level == 0 {
        let is_told = info.num_redelivered > 0 || info.num_ack_pending > 0;
        let remedy = rewind(spec, from.saturating_sub(info.num_redelivered as u64).max(1)).unwrap_or_default();
        return is_told.then(|| {
            (None, format!("{told}; this server does not tell on which ({}): {remedy} goes back", info.num_redelivered))
        });
    }
    let again = delivered.checked_sub(info.ack_floor.stream_sequence).filter(|count| *count > 0)?;
    let is_few = i64::try_from(again).is_ok_and(|again| again <= info.config.max_ack_pending.max(spec.max_ack_pending));
    if is_few {
        let note = format!("{told}: it goes on with sequence {from}, and up to {again} events may be handled again");
        return Some((Some(from), note));
    }
    let remedy = rewind(spec, from).unwrap_or_default();
    Some((None, format!("{told}, from sequence {from} on: {remedy} has them handled, and up to {again} others again")))
}

/// Carries out a step, and returns what is to be said of it.
pub(super) async fn take(nats: &Nats, spec: &Spec, info: &Info, step: Step) -> Result<String, ConsumerError> {
    let Some(from) = step.from else { return Ok(step.note) };
    if step.is_other && nats.features.api_level >= RESET_API_LEVEL {
        let mut marked = durable::config(spec, Some(&info.config), None);
        owner::write_goes_on(&mut marked.metadata, Some(from));
        marked.pause_until = marked.pause_until.or_else(|| Some(OffsetDateTime::now_utc() + HELD));
        durable::create(nats, spec, marked).await?;
    }
    match set_back(nats, spec, from, step.retention).await {
        Ok(()) => Ok(step.note),
        Err(error @ AskError::NoAnswer { .. }) => Err(durable::failed(spec, error.to_string(), true)),
        Err(error) => {
            let remedy = rewind(spec, from).unwrap_or_default();
            Ok(format!("{}; BUT this could not be done ({error}): with a user who may, {remedy} does it", step.note))
        }
    }
}

/// Has a durable go on with a sequence: in place where the server can, else made anew.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub async fn set_back(nats: &Nats, spec: &Spec, from: u64, retention: RetentionPolicy) -> Result<(), AskError> {
    let Spec { stream, name, .. } = spec;
    let path = format!("CONSUMER.RESET.{stream}.{name}");
    if nats.features.api_level >= RESET_API_LEVEL {
        match ask::<Value>(nats, &path, &json!({ "seq": from })).await {
            Ok(_) => return Ok(()),
            Err(error @ AskError::NoAnswer { .. }) => return Err(error),
            Err(error) if retention == RetentionPolicy::Interest => return Err(error),
            Err(error) => tracing::debug!(%error, "could not set a consumer back in place"),
        }
    }
    make_anew(nats, spec, from, retention).await
}

/// Deletes a durable and makes it anew, to go on with a sequence.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub async fn make_anew(nats: &Nats, spec: &Spec, from: u64, retention: RetentionPolicy) -> Result<(), AskError> {
    let Spec { stream, name, .. } = spec;
    let subject = format!("$JS.API.CONSUMER.DELETE.{stream}.{name}");
    let refused = |why: String| AskError::Refused { subject: subject.clone(), why };
    if retention == RetentionPolicy::Interest {
        let why = "the stream (retention = interest) would remove what only this consumer waits for";
        return Err(refused(why.to_owned()));
    }
    // A work queue is gone through from its beginning; some servers refuse to say so by a sequence.
    let from = if retention == RetentionPolicy::WorkQueue { 1 } else { from.max(1) };
    keep(nats, spec, from).await.map_err(|why| AskError::NoAnswer { subject: subject.clone(), why })?;
    found(ask::<Value>(nats, &format!("CONSUMER.DELETE.{stream}.{name}"), &Value::Null).await)?;
    let made = durable::create(nats, spec, durable::config(spec, None, Some(start(from)))).await;
    made.map_err(|error| {
        if error.is_unanswered {
            AskError::NoAnswer { subject: subject.clone(), why: error.to_string() }
        } else {
            refused(error.to_string())
        }
    })?;
    forget(nats, spec).await;
    Ok(())
}

/// How a durable begins with a sequence.
pub(super) fn start(from: u64) -> DeliverPolicy {
    if from > 1 { DeliverPolicy::ByStartSequence { start_sequence: from } } else { DeliverPolicy::All }
}

/// Where a durable goes on that is not there.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    stream: String,
    from: u64,
}

fn key(spec: &Spec) -> String {
    format!("place.{}", spec.name)
}

async fn keep(nats: &Nats, spec: &Spec, from: u64) -> Result<(), String> {
    let kept = Kept { stream: spec.stream.clone(), from };
    write(nats, spec, &kept, KEPT).await
}

/// Forgets where a durable goes on: it is there.
pub(super) async fn forget(nats: &Nats, spec: &Spec) {
    if let Err(why) = write(nats, spec, &Kept::default(), Duration::from_secs(1)).await {
        tracing::debug!(why, "could not forget where a consumer goes on");
    }
}

/// Whether there is a bucket of markers, also if that cannot be told. Before an instance was ever started there is none.
async fn has_bucket(nats: &Nats) -> bool {
    let path = format!("STREAM.INFO.{}", markers::stream_of(&nats.bucket));
    !nats.bucket.is_empty() && !matches!(found(ask::<StreamInfo>(nats, &path, &Value::Null).await), Ok(None))
}

async fn write(nats: &Nats, spec: &Spec, kept: &Kept, lifetime: Duration) -> Result<(), String> {
    if !has_bucket(nats).await {
        return Ok(());
    }
    let value = serde_json::to_vec(kept).map_err(|error| error.to_string())?;
    let revision = nats.read_record(&key(spec)).await.map_err(|error| error.to_string())?.revision;
    let written = nats.replace_record(&key(spec), value.into(), lifetime, revision).await;
    written.map(|_| ()).map_err(|error| error.to_string())
}

/// Where a durable goes on that somebody was about to make anew; nothing where nobody was.
pub(super) async fn kept(nats: &Nats, spec: &Spec) -> Result<Option<u64>, ConsumerError> {
    if !has_bucket(nats).await {
        return Ok(None);
    }
    let stored = nats.read_record(&key(spec)).await;
    let stored = stored.map_err(|error| durable::failed(spec, error.to_string(), true))?;
    let kept: Option<Kept> = stored.value.and_then(|value| serde_json::from_slice(&value).ok());
    let Some(kept) = kept.filter(|kept| kept.from > 0 && kept.stream == spec.stream) else { return Ok(None) };
    // A record may say anything; behind what is stored it would wait for ever.
    let last = stream_info(nats, spec).await?.map_or(0, |stream| stream.state.last_sequence);
    Ok(Some(kept.from.min(last.saturating_add(1))))
}

/// The first message from a sequence on that one of the filters selects, and none of those before.
async fn first(
    nats: &Nats,
    spec: &Spec,
    from: u64,
    filters: &[String],
    before: &[String],
) -> Result<Option<u64>, ConsumerError> {
    let mut first: Option<u64> = None;
    for filter in filters {
        let mut next = from;
        for looked in 0.. {
            let question = json!({ "seq": next, "next_by_subj": filter });
            match message(nats, &spec.stream, &question).await {
                Ok(kept) if looked < LOOKS_MAX && before.iter().any(|old| subject::matches(old, &kept.subject)) => {
                    next = kept.seq + 1;
                    continue;
                }
                Ok(kept) => first = first.into_iter().chain([kept.seq]).min(),
                Err(AskError::NoMessage(_) | AskError::NotFound(_)) => {}
                // There may be one.
                Err(AskError::Denied { .. } | AskError::Refused { .. }) => return Ok(Some(from)),
                Err(error) => return Err(durable::failed(spec, error.to_string(), true)),
            }
            break;
        }
    }
    Ok(first)
}

async fn stream_info(nats: &Nats, spec: &Spec) -> Result<Option<StreamInfo>, ConsumerError> {
    let asked = ask::<StreamInfo>(nats, &format!("STREAM.INFO.{}", spec.stream), &Value::Null).await;
    found(asked).map_err(|error| {
        let is_unanswered = matches!(error, AskError::NoAnswer { .. });
        durable::failed(spec, error.to_string(), is_unanswered)
    })
}

fn filters(info: &Info) -> Vec<String> {
    let one = (!info.config.filter_subject.is_empty()).then(|| info.config.filter_subject.clone());
    let mut all: Vec<_> = one.into_iter().chain(info.config.filter_subjects.iter().cloned()).collect();
    if all.is_empty() {
        all.push(">".to_owned());
    }
    sorted(&all)
}

fn sorted(filters: &[String]) -> Vec<String> {
    let mut sorted = filters.to_vec();
    sorted.sort();
    sorted
}
