//! What becomes of a consumer while it is pulled from: somebody may edit it, hold it back, or remove what it has yet to
//! deliver, and the server tells nobody. So it is looked at about once a minute.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{Info, IntoConsumerConfig};
use async_nats::jetstream::stream::Info as StreamInfo;
use serde_json::Value;
use tidemill_policy::gate::breaker::{Record, State, settled};
use tidemill_policy::resume::{Progress, Seen, Turn, turn, vanished};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::consume::Spec;
use super::owner::Owner;
use super::{Nats, ask, durable, owner};
use crate::broker::{Broker, Source};
use crate::clock::Clock;
use crate::gate::keeper::breaker_key;
use crate::troubles::{Effect, Troubles};

/// How often a consumer is looked at, at the least and at the most: instances must not all look at once.
const PERIOD_MS: (u64, u64) = (45_000, 60_000);

/// For how long something is shown that is over at once.
const SHOWN: Duration = Duration::from_secs(15);

/// A time between two looks.
pub(crate) fn period() -> Duration {
    let drawn = RandomState::new().build_hasher().finish();
    Duration::from_millis(PERIOD_MS.0 + drawn % (PERIOD_MS.1 - PERIOD_MS.0))
}

/// Looks at a consumer until `stop`, puts right what can be, and has the rest shown as a trouble.
pub(super) async fn watch(nats: &Nats, spec: Spec, stop: CancellationToken) {
    let mut watch = Watch { nats, spec, before: None };
    while stop.run_until_cancelled(sleep(period())).await.is_some() {
        if nats.link.is_up() && stop.run_until_cancelled(watch.look()).await.is_none() {
            return;
        }
    }
}

/// Says that a stream counts anew, and has it shown for a while. Who pulls from it for another handler says the same.
pub(super) fn say_of_stream(troubles: &Arc<Troubles>, stream: &str, why: &str) {
    let trouble = format!("sequences of stream {stream}");
    troubles.begin(&trouble, Effect::None, why);
    let troubles = Arc::clone(troubles);
    tokio::spawn(async move {
        sleep(SHOWN).await;
        troubles.end(&trouble);
    });
}

/// What is to be said of a stream that is not the one that was seen before.
pub(super) fn counts_anew(spec: &Spec, before: Seen, now: Seen) -> Option<String> {
    let stream = &spec.stream;
    let what = match turn(before, now) {
        Turn::None => return None,
        Turn::Anew => format!("stream {stream:?} was made anew, or restored"),
        Turn::Back => format!("stream {stream:?} was set back from sequence {} to {}", before.last, now.last),
    };
    Some(format!(
        "{what}: what was in flight is void, and what is stored from now on is handled. Events that were lost with it are \
         not: publish them again"
    ))
}

struct Watch<'a> {
    nats: &'a Nats,
    spec: Spec,
    before: Option<Progress>,
}

impl Watch<'_> {
    async fn look(&mut self) {
        // One that is gone is missed by who pulls.
        let Ok(Some(info)) = durable::info(self.nats, &self.spec).await else { return };
        self.look_at_settings(&info).await;
        self.look_at_pause(&info).await;
        // What waits elsewhere is ours, and is brought forward and dropped by operators.
        if self.spec.source == Source::Input {
            self.look_at_progress(&info).await;
        }
    }

    async fn look_at_settings(&self, info: &Info) {
        let (nats, spec) = (self.nats, &self.spec);
        let trouble = format!("settings of consumer {}", spec.name);
        let what = Owner::read(&info.config.metadata);
        if let Some(other) = what.filter(|other| !spec.owner.is_unknown() && !other.is_same(&spec.owner)) {
            let why = format!(
                "consumer {:?} on stream {:?} now belongs to {}, and events of one are handled by the other; stop one of them, \
                 or give it another [nats] prefix or handler name",
                spec.name,
                spec.stream,
                other.describe()
            );
            nats.link.troubles.begin(&trouble, Effect::None, &why);
            return;
        }
        if let Some(why) = durable::unfit(nats, spec, info) {
            let why = format!("consumer {:?} on stream {:?}: {why}", spec.name, spec.stream);
            nats.link.troubles.begin(&trouble, Effect::None, &why);
            return;
        }
        let wanted = owner::settings(&durable::config(spec, None, None).into_consumer_config());
        // Another version of the manifest may have set it up since: then that is how it is to be.
        let recorded = owner::recorded(&info.config.metadata);
        let is_ours = recorded.is_none_or(|recorded| recorded == owner::lines(&wanted));
        let changed = owner::changed(&wanted, &owner::settings(&info.config));
        if !is_ours || changed.is_empty() {
            nats.link.troubles.end(&trouble);
            return;
        }
        match durable::ensure(nats, spec).await {
            Ok(notes) if notes.is_empty() => nats.link.troubles.end(&trouble),
            // They are said already.
            Ok(notes) => {
                let _ = nats.link.troubles.note(&trouble, Effect::None, &notes.join("; "));
            }
            Err(error) => nats.link.troubles.begin(&trouble, Effect::None, &error.to_string()),
        }
    }

    /// A consumer that is held back, though no breaker of ours says so.
    async fn look_at_pause(&self, info: &Info) {
        let trouble = format!("pause of consumer {}", self.spec.name);
        if !info.paused || self.is_held().await {
            self.nats.link.troubles.end(&trouble);
            return;
        }
        let Spec { stream, name, .. } = &self.spec;
        let why = format!(
            "somebody has paused consumer {name:?} on stream {stream:?} for {:?} more, so that nothing arrives; resume it: nats \
             consumer resume {stream} {name}",
            info.pause_remaining.unwrap_or_default()
        );
        self.nats.link.troubles.begin(&trouble, Effect::Intake, &why);
    }

    /// Whether a breaker holds the handler back; also if that cannot be told.
    async fn is_held(&self) -> bool {
        let Ok(stored) = self.nats.read_record(&breaker_key(&self.spec.owner.handler)).await else { return true };
        let record: Option<Record> = stored.value.and_then(|value| serde_json::from_slice(&value).ok());
        record.is_some_and(|record| settled(&record, Clock::System.now_ms()).state != State::Closed)
    }

    /// Whether messages were removed that had yet to be delivered.
    async fn look_at_progress(&mut self, info: &Info) {
        let now = Progress {
            deliveries: info.delivered.consumer_sequence,
            delivered: info.delivered.stream_sequence,
            waiting: info.num_pending,
        };
        let before = self.before.replace(now);
        let trouble = format!("events for consumer {}", self.spec.name);
        let Spec { stream, name, .. } = &self.spec;
        // Only then the stream need be asked.
        let suspect = before.filter(|before| vanished(*before, now, u64::MAX) > 0);
        let Some(before) = suspect else {
            self.nats.link.troubles.end(&trouble);
            return;
        };
        let path = format!("STREAM.INFO.{stream}");
        let Ok(state) = ask::ask::<StreamInfo>(self.nats, &path, &Value::Null).await else { return };
        let gone = vanished(before, now, state.state.first_sequence);
        if gone > 0 {
            let why = format!(
                "at least {gone} messages were removed from stream {stream:?} before consumer {name:?} had them (a purge, or \
                 a limit of the stream); it now begins at sequence {}",
                state.state.first_sequence
            );
            self.nats.link.troubles.begin(&trouble, Effect::None, &why);
        }
    }
}
