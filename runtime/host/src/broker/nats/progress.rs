//! How far this process has come in a stream that each instance reads for itself. Its consumer goes when nobody pulls
//! from it for a while; then it is made anew behind the last message that was had, for as long as the process lives.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::Info;
use serde_json::Value;
use time::OffsetDateTime;

use super::Nats;
use super::ask::{AskError, ask};
use super::consume::Spec;
use super::durable::{ConsumerError, failed};

/// How far one handler has come here.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Option<Reached>>);

/// The last message that was had, or the last one before any was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reached {
    /// When the stream was created.
    created: OffsetDateTime,
    sequence: u64,
    /// When it was stored, by the server's clock.
    stored: OffsetDateTime,
}

impl Progress {
    /// Notes a message that has arrived.
    pub(super) fn note(&self, sequence: u64, stored_ns: u64) {
        let Ok(stored) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(stored_ns)) else { return };
        if let Some(reached) = self.lock().as_mut().filter(|reached| sequence > reached.sequence) {
            (reached.sequence, reached.stored) = (sequence, stored);
        }
    }

    /// Forgets how far it has come: the handler has ended.
    pub fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Reached>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to begin in a stream as it is now, and what must be said of that. The first time, with what comes from now on.
    fn begin(&self, stream: &str, info: &Info) -> (DeliverPolicy, Option<String>) {
        let state = &info.state;
        let mut reached = self.lock();
        let Some(before) = *reached else {
            let stored = state.last_timestamp.max(info.created);
            *reached = Some(Reached { created: info.created, sequence: state.last_sequence, stored });
            return (DeliverPolicy::ByStartSequence { start_sequence: state.last_sequence + 1 }, None);
        };
        if before.created != info.created || state.last_sequence < before.sequence {
            // It counts anew: only the time tells what was had.
            *reached = Some(Reached { created: info.created, sequence: 0, stored: before.stored });
            let note = format!(
                "stream {stream:?} was made anew or restored while this instance was cut off: it goes on with what was stored \
                 since {}",
                before.stored
            );
            let start_time = before.stored + time::Duration::NANOSECOND;
            return (DeliverPolicy::ByStartTime { start_time }, Some(note));
        }
        let from = before.sequence + 1;
        let note = (state.first_sequence > from).then(|| {
            format!(
                "stream {stream:?} has removed messages before this instance had them: those from sequence {from} to {} are \
                 missed, as far as they are for it",
                state.first_sequence - 1
            )
        });
        (DeliverPolicy::ByStartSequence { start_sequence: from }, note)
    }
}

/// Where the consumer of this instance begins, which is not there, and what must be said of that.
pub(super) async fn start(nats: &Nats, spec: &Spec) -> Result<(DeliverPolicy, Option<String>), ConsumerError> {
    let info = ask::<Info>(nats, &format!("STREAM.INFO.{}", spec.stream), &Value::Null).await.map_err(|error| {
        let is_unanswered = matches!(error, AskError::NoAnswer { .. });
        failed(spec, error.to_string(), is_unanswered)
    })?;
    Ok(spec.progress.begin(&spec.stream, &info))
}
