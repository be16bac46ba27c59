//! Which subjects the server's streams store, remembered: it is asked for each output.

use std::sync::{PoisonError, RwLock};

use futures::TryStreamExt;
use serde::Deserialize;
use tidemill_policy::subject;
use tokio::time::{Duration, Instant, sleep};

use super::{CONFIRM_TIMEOUT, Nats};

/// How old the list of streams must be before a subject that is not in it is looked up again.
const AGE_MIN: Duration = Duration::from_secs(1);
/// The same where the server denies the list to us.
const DENIED_AGE_MIN: Duration = Duration::from_mins(1);
/// The subject that the list of streams is asked for on.
pub const LIST_SUBJECT: &str = "$JS.API.STREAM.LIST";
/// The subject that the names of streams are asked for on.
pub const NAMES_SUBJECT: &str = "$JS.API.STREAM.NAMES";

/// The subjects that the server's streams store.
#[derive(Debug, Default)]
pub struct Routes {
    known: RwLock<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    /// Streams, each with a subject pattern that it stores; nothing where we may not ask.
    filters: Option<Vec<(String, String)>>,
    since: Instant,
}

/// An answer of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// What it says.
    Is(T),
    /// We may not ask.
    Denial,
    /// It does not answer.
    Silence,
}

/// Whether a stream stores a subject, as far as we know or can find out by the list of streams.
pub async fn is_known_to_be_stored(nats: &Nats, subject: &str) -> Option<bool> {
    let (stored, is_fresh) = nats.routes.look_up(subject);
    if stored == Some(true) || is_fresh {
        return stored;
    }
    match list(nats).await {
        Answer::Is(filters) => nats.routes.replace(Some(filters)),
        Answer::Denial => nats.routes.replace(None),
        Answer::Silence => {}
    }
    nats.routes.look_up(subject).0
}

/// Whether some stream stores a subject, also one that has no leader now; nothing if the server does not say.
pub async fn is_stored(nats: &Nats, subject: &str) -> Option<bool> {
    match list(nats).await {
        Answer::Is(filters) if filters.iter().any(|(_, filter)| subject::matches(filter, subject)) => Some(true),
        Answer::Is(_) => match ask_for_stream(nats, subject).await {
            Answer::Is(stream) => Some(stream.is_some()),
            Answer::Denial => Some(false),
            Answer::Silence => None,
        },
        Answer::Denial | Answer::Silence => None,
    }
}

/// Asks which stream stores a subject. In a cluster, streams that have no leader now are named too, which are
/// not in the list.
pub async fn ask_for_stream(nats: &Nats, subject: &str) -> Answer<Option<String>> {
    #[derive(Deserialize)]
    struct Names {
        streams: Option<Vec<String>>,
    }
    nats.routes.forget();
    let since = Instant::now();
    let query = serde_json::json!({ "subject": subject });
    tokio::select! {
        answer = nats.context.request::<_, _, Names>("STREAM.NAMES", &query) => match answer {
            Ok(names) => Answer::Is(names.streams.unwrap_or_default().into_iter().next()),
            Err(_) => Answer::Silence,
        },
        _ = nats.link.until_denied(NAMES_SUBJECT, since) => Answer::Denial,
    }
}

/// All streams, each with a subject that it stores.
async fn list(nats: &Nats) -> Answer<Vec<(String, String)>> {
    let since = Instant::now();
    let list = nats.context.streams().map_ok(|stream| (stream.config.name, stream.config.subjects));
    tokio::select! {
        list = list.try_collect::<Vec<_>>() => match list {
            Ok(streams) => {
                let each = |(name, subjects): (String, Vec<String>)| subjects.into_iter().map(move |one| (name.clone(), one));
                Answer::Is(streams.into_iter().flat_map(each).collect())
            }
            Err(error) => {
                tracing::debug!(%error, "could not list the streams");
                Answer::Silence
            }
        },
        _ = nats.link.until_denied(LIST_SUBJECT, since) => Answer::Denial,
        () = sleep(CONFIRM_TIMEOUT) => Answer::Silence,
    }
}

impl Routes {
    /// Whether a stream stores a subject, as far as is known, and whether it is too early to ask again.
    fn look_up(&self, subject: &str) -> (Option<bool>, bool) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = known.as_ref() else { return (None, false) };
        let filters = known.filters.as_ref();
        let stored = filters.map(|all| all.iter().any(|(_, filter)| subject::matches(filter, subject)));
        if stored == Some(true) {
            return (stored, true);
        }
        let age_min = if stored.is_none() { DENIED_AGE_MIN } else { AGE_MIN };
        (stored, known.since.elapsed() < age_min)
    }

    /// Whether a stream is known to store a subject.
    pub fn stores(&self, subject: &str) -> bool {
        self.look_up(subject).0 == Some(true)
    }

    /// The stream that stores a subject, as far as is known.
    pub fn stream_of(&self, subject: &str) -> Option<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let filters = known.as_ref()?.filters.as_ref()?;
        filters.iter().find(|(_, filter)| subject::matches(filter, subject)).map(|(stream, _)| stream.clone())
    }

    /// For each of `patterns` a subject that it selects and a stream stores, as far as is known.
    pub fn subjects_of(&self, patterns: &[String]) -> Option<Vec<String>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let filters = known.as_ref()?.filters.as_ref()?;
        let common = |pattern: &String| filters.iter().find_map(|(_, filter)| subject::common(filter, pattern));
        Some(patterns.iter().filter_map(common).collect())
    }

    fn replace(&self, filters: Option<Vec<(String, String)>>) {
        let known = Known { filters, since: Instant::now() };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    /// Forgets what is known: it has turned out to be wrong.
    pub fn forget(&self) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
