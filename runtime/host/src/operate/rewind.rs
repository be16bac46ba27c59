//! Having a handler go on with an earlier or a later event of its stream.

use serde::Serialize;
use serde_json::json;
use thiserror::Error;
use tidemill_policy::manifest::{Handler, Manifest, Mode};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::instances;
use crate::broker::nats::Nats;
use crate::broker::nats::ask::{self, AskError};
use crate::broker::nats::durable::{self, ConsumerError};
use crate::broker::nats::position::{self, RESET_API_LEVEL};
use crate::broker::nats::streams::{self, StreamError};
use crate::instance::input_spec;

/// Where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// With the first event that the stream has.
    First,
    /// With this sequence.
    Sequence(u64),
    /// With what was stored from this time on.
    Time(OffsetDateTime),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rewound {
    /// The handler's stream.
    pub stream: String,
    /// Its consumer.
    pub consumer: String,
    /// The sequence that it goes on with.
    pub from: u64,
    /// The last sequence that it had been given before; nothing where there was no consumer.
    pub was_at: Option<u64>,
}

/// Why a handler was not moved.
#[derive(Debug, Error)]
pub enum RewindError {
    /// It has no place in its stream that could be changed.
    #[error("{0}")]
    Unfit(String),
    /// Instances are at work, and would not go along.
    #[error("instances of handler {handler} run ({who}), and {why}: stop them, and start them again afterwards")]
    AtWork {
        /// The handler.
        handler: String,
        /// Which.
        who: String,
        /// Why they are in the way.
        why: &'static str,
    },
    /// The stream is not as the manifest says.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The consumer cannot be looked at.
    #[error(transparent)]
    Consumer(#[from] ConsumerError),
    /// The server denies, refuses or does not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
}

/// Has a handler go on elsewhere in its stream. In place where the server can; else its consumer is made anew, for which no
/// instance may run.
///
/// # Errors
/// Where that cannot be; nothing is changed then.
pub async fn rewind(nats: &Nats, manifest: &Manifest, handler: &Handler, to: To) -> Result<Rewound, RewindError> {
    let name = &handler.name;
    if handler.mode == Mode::Broadcast {
        let why =
            format!("handler {name} has mode = \"broadcast\": each instance begins with what arrives when it starts");
        return Err(RewindError::Unfit(why));
    }
    if handler.partitions().is_some() {
        let why = format!(
            "handler {name} keeps order by partitions: its events are copied into a stream of their own, and leave it when \
             they are done; README, \"Order\", says how they are handled again"
        );
        return Err(RewindError::Unfit(why));
    }
    let Some(info) = streams::look_up(nats, handler).await? else {
        return Err(RewindError::Unfit(format!("the stream of handler {name} does not exist yet")));
    };
    let spec = input_spec(nats, handler, manifest, &info);
    let present = durable::info(nats, &spec).await?;
    let must_be_made = present.as_ref().is_none_or(|present| durable::unfit(nats, &spec, present).is_some());
    let why = if must_be_made || nats.features.api_level < RESET_API_LEVEL {
        Some("the consumer must be made anew for that (from nats-server 2.14 on, it is set back in place)")
    } else if handler.key_order().is_some() {
        Some("they know which events of a key they have handled")
    } else {
        None
    };
    if let Some(why) = why {
        let is_pulled = present.as_ref().is_some_and(|present| present.num_waiting > 0);
        refuse_beside(nats, manifest, name, is_pulled, why).await?;
    }
    let (first, last) = (info.state.first_sequence.max(1), info.state.last_sequence);
    let from = match to {
        To::First => first,
        To::Sequence(sequence) => sequence.clamp(1, last + 1),
        To::Time(time) => first_since(nats, &spec.stream, (first, last), time).await?,
    };
    let retention = info.config.retention;
    if must_be_made {
        position::make_anew(nats, &spec, from, retention).await?;
    } else {
        position::set_back(nats, &spec, from, retention).await?;
    }
    let was_at = present.map(|present| present.delivered.stream_sequence);
    Ok(Rewound { stream: spec.stream, consumer: spec.name, from, was_at })
}

async fn refuse_beside(
    nats: &Nats,
    manifest: &Manifest,
    handler: &str,
    is_pulled: bool,
    why: &'static str,
) -> Result<(), RewindError> {
    let running = instances::find(nats, &manifest.nats.prefix).await.unwrap_or_default();
    let names = running.iter().filter(|instance| instance.handlers.contains_key(handler));
    let mut who = names.map(|instance| instance.name.as_str()).collect::<Vec<_>>().join(", ");
    if who.is_empty() && is_pulled {
        who.push_str("somebody pulls from its consumer");
    }
    if who.is_empty() { Ok(()) } else { Err(RewindError::AtWork { handler: handler.to_owned(), who, why }) }
}

/// The sequence of the first message that was stored at `time` or later, or the next one to come.
async fn first_since(
    nats: &Nats,
    stream: &str,
    (first, last): (u64, u64),
    time: OffsetDateTime,
) -> Result<u64, AskError> {
    let (mut low, mut high) = (first, last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let question = json!({ "seq": middle, "next_by_subj": ">" });
        match ask::found(ask::message(nats, stream, &question).await)? {
            Some(kept) if OffsetDateTime::parse(&kept.time, &Rfc3339).is_ok_and(|stored| stored < time) => {
                low = kept.seq + 1;
            }
            // What lies between is not there any more, or is too late as well.
            _ => high = middle,
        }
    }
    Ok(low)
}
