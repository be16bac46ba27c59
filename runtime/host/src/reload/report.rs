//! How a reload is asked for, and what is told about it.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};
use tidemill_policy::decide::rfc3339;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::instance::Applied;

/// What the reloader is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// To look at all files, and run what they say.
    Reload,
    /// To go back to an earlier version of a handler's component.
    Rollback {
        /// The handler.
        handler: String,
        /// The beginning of the version's digest; the last one that was kept before, if none is named.
        to: Option<String>,
    },
}

/// Something that the reloader is asked for.
#[derive(Debug)]
pub struct Request {
    /// What.
    pub ask: Ask,
    /// Why, or by whom, for people.
    pub cause: String,
    /// Where it is told what came of it, if anybody waits for that.
    pub answer: Option<oneshot::Sender<Report>>,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// When, as RFC 3339.
    pub at: String,
    /// Why it was tried.
    pub cause: String,
    /// Whether it worked. Where it did not, everything goes on as it was.
    pub ok: bool,
    /// What stands against it.
    pub problems: Vec<String>,
    /// What has changed.
    #[serde(flatten)]
    pub applied: Applied,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Where components come from a bucket, how far its copy was when this began: the sequence of the bucket's stream. Nothing
    /// where it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket_sequence: Option<u64>,
}

/// What of a bucket runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// The bucket.
    pub name: String,
    /// How far the copy was when it was loaded: the sequence of the bucket's stream.
    pub sequence: u64,
}

/// What an instance tells about its generations, and where it is asked for another.
#[derive(Debug, Default)]
pub struct Reloads {
    state: Mutex<State>,
    requests: OnceLock<mpsc::Sender<Request>>,
}

#[derive(Debug, Default)]
struct State {
    generation: u64,
    since_ms: u64,
    last: Option<Report>,
    bucket: Option<Loaded>,
}

/// [`Reloads`] at one moment.
#[derive(Debug, Serialize)]
pub struct ReloadsReport {
    /// The number of the generation that runs, from 1 in each process.
    pub generation: u64,
    /// Since when it runs, as RFC 3339.
    pub generation_since: String,
    /// What came of the last reload; nothing before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<Report>,
    /// The bucket that components come from, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<Loaded>,
}

impl Reloads {
    /// Says where reloads are asked for. Only the first call counts.
    pub fn listen(&self, requests: mpsc::Sender<Request>) {
        let _ = self.requests.set(requests);
    }

    /// Notes that another generation runs.
    pub fn has_new_generation(&self) {
        let mut state = self.lock();
        state.generation += 1;
        state.since_ms = Clock::System.now_ms();
    }

    /// Notes what of a bucket runs.
    pub fn come_from(&self, bucket: &str, sequence: u64) {
        self.lock().bucket = Some(Loaded { name: bucket.to_owned(), sequence });
    }

    /// Notes what came of a reload.
    pub fn note(&self, report: Report) {
        self.lock().last = Some(report);
    }

    /// What is told.
    pub fn report(&self) -> ReloadsReport {
        let state = self.lock();
        ReloadsReport {
            generation: state.generation,
            generation_since: rfc3339(state.since_ms),
            last_reload: state.last.clone(),
            bucket: state.bucket.clone(),
        }
    }

    /// Asks for something, and waits for what comes of it.
    ///
    /// # Errors
    /// Where nobody listens: the instance is starting or stopping.
    pub async fn ask(&self, ask: Ask, cause: &str) -> Result<Report, String> {
        let nobody = || "this instance cannot reload now: it is starting or stopping".to_owned();
        let requests = self.requests.get().ok_or_else(nobody)?;
        let (answer, answered) = oneshot::channel();
        let request = Request { ask, cause: cause.to_owned(), answer: Some(answer) };
        requests.send(request).await.map_err(|_| nobody())?;
        answered.await.map_err(|_| nobody())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Report {
    /// Logs what came of it.
    pub(super) fn log(&self) {
        let Report { cause, took_ms, applied, .. } = self;
        for problem in &self.problems {
            tracing::error!(cause, "reload refused, what runs goes on as it is: {problem}");
        }
        if self.ok && !applied.is_nothing() {
            tracing::info!(cause, took_ms, "reloaded: {}", applied.summary());
        }
        for note in &applied.notes {
            tracing::warn!("{note}");
        }
    }
}
