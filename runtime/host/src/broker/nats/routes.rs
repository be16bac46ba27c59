//! Which subjects the server's streams store, and how large their messages may be, remembered: it is asked for each
//! output.

use std::sync::{PoisonError, RwLock};

use async_nats::jetstream::stream::Config;
use futures::TryStreamExt;
use serde::Deserialize;
use tidemill_policy::subject;
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant, sleep};

use super::{CONFIRM_TIMEOUT, Nats};

/// How old the list of streams must be before a subject that is not in it is looked up again.
const AGE_MIN: Duration = Duration::from_secs(1);
/// The same where the server denies the list to us.
const DENIED_AGE_MIN: Duration = Duration::from_mins(1);
/// How old the list may be where several messages are to be stored of which each must fit its stream, and for retries
/// and dead letters: somebody may have changed a limit.
const LIMITS_AGE_MAX: Duration = Duration::from_secs(10);
/// The subject that the list of streams is asked for on.
pub const LIST_SUBJECT: &str = "$JS.API.STREAM.LIST";
/// The subject that the names of streams are asked for on.
pub const NAMES_SUBJECT: &str = "$JS.API.STREAM.NAMES";

/// The subjects that the server's streams store.
#[derive(Debug, Default)]
pub struct Routes {
    known: RwLock<Option<Known>>,
    /// Who asks for the list because it is old; others go by what is known meanwhile.
    renewing: Mutex<()>,
}

#[derive(Debug)]
struct Known {
    /// What streams store; nothing where we may not ask.
    filters: Option<Vec<Route>>,
    since: Instant,
}

/// A pattern of subjects that a stream stores.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Route {
    stream: String,
    filter: String,
    /// The most bytes that a message may have in it, headers and payload together.
    bytes_max: Option<usize>,
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

/// Has the list of streams asked for again where it is so old that limits may have changed since.
pub async fn renew(nats: &Nats) {
    if !nats.link.is_up() || !nats.routes.is_older_than(LIMITS_AGE_MAX) {
        return;
    }
    let Ok(_renewing) = nats.routes.renewing.try_lock() else { return };
    if let Answer::Is(filters) = list(nats).await {
        nats.routes.replace(Some(filters));
    }
}

/// The most bytes that a message on a subject may have, headers and payload together, as far as is known.
pub async fn message_bytes_max(nats: &Nats, subject: &str) -> usize {
    renew(nats).await;
    if nats.link.is_up() {
        // Only to have the list asked for where there is none.
        is_known_to_be_stored(nats, subject).await;
    }
    let of_server = nats.client.max_payload();
    nats.routes.limit_of(subject).map_or(of_server, |(_, of_stream)| of_stream.min(of_server))
}

/// Whether some stream stores a subject, also one that has no leader now; nothing if the server does not say.
pub async fn is_stored(nats: &Nats, subject: &str) -> Option<bool> {
    match list(nats).await {
        Answer::Is(routes) if routes.iter().any(|route| route.stores(subject)) => Some(true),
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
async fn list(nats: &Nats) -> Answer<Vec<Route>> {
    let since = Instant::now();
    let list = nats.context.streams().map_ok(|stream| routes_of(stream.config));
    tokio::select! {
        list = list.try_collect::<Vec<_>>() => match list {
            Ok(streams) => Answer::Is(streams.into_iter().flatten().collect()),
            Err(error) => {
                tracing::debug!(%error, "could not list the streams");
                Answer::Silence
            }
        },
        _ = nats.link.until_denied(LIST_SUBJECT, since) => Answer::Denial,
        () = sleep(CONFIRM_TIMEOUT) => Answer::Silence,
    }
}

fn routes_of(config: Config) -> Vec<Route> {
    // 0 and less stand for no limit.
    let bytes_max = usize::try_from(config.max_message_size).ok().filter(|bytes| *bytes > 0);
    let route = |filter| Route { stream: config.name.clone(), filter, bytes_max };
    config.subjects.into_iter().map(route).collect()
}

impl Route {
    fn stores(&self, subject: &str) -> bool {
        subject::matches(&self.filter, subject)
    }
}

impl Routes {
    fn is_older_than(&self, age: Duration) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().is_some_and(|known| known.filters.is_some() && known.since.elapsed() >= age)
    }

    /// The stream that stores a subject, and the most bytes that a message may have in it, where it has a limit of its
    /// own and that is known.
    pub(super) fn limit_of(&self, subject: &str) -> Option<(String, usize)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let route = known.as_ref()?.filters.as_ref()?.iter().find(|route| route.stores(subject))?;
        let bytes_max = route.bytes_max?;
        Some((route.stream.clone(), bytes_max))
    }

    /// Whether a stream stores a subject, as far as is known, and whether it is too early to ask again.
    fn look_up(&self, subject: &str) -> (Option<bool>, bool) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = known.as_ref() else { return (None, false) };
        let filters = known.filters.as_ref();
        let stored = filters.map(|all| all.iter().any(|route| route.stores(subject)));
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
        filters.iter().find(|route| route.stores(subject)).map(|route| route.stream.clone())
    }

    /// For each of `patterns` a subject that it selects and a stream stores, as far as is known.
    pub fn subjects_of(&self, patterns: &[String]) -> Option<Vec<String>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let filters = known.as_ref()?.filters.as_ref()?;
        let common = |pattern: &String| filters.iter().find_map(|route| subject::common(&route.filter, pattern));
        Some(patterns.iter().filter_map(common).collect())
    }

    fn replace(&self, filters: Option<Vec<Route>>) {
        let known = Known { filters, since: Instant::now() };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    /// Forgets what is known: it has turned out to be wrong.
    pub fn forget(&self) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
