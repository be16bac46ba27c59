//! Hot reload: from files that have changed to a generation that runs, and back.
//!
//! [`watch`] notices that files have changed, `gate` builds and checks all of a new generation, the instance swaps it in,
//! and `trial` watches over what is new. One task does all that, one step after the other, so that there is never more
//! than one change under way.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::OptionFuture;
use tidemill_policy::history::millis;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::broker::nats::connect::Target;
use crate::bucket::Mirror;
use crate::clock::Clock;
use crate::dev;
use crate::instance::{Applied, Generation, Order};
use crate::invoker::wasm::{Engine, WasmHandler};
use crate::load::{self, Fault, ManifestFile, ReadError};
use crate::status::Status;
use crate::troubles::Effect;
use crate::versions::Store;

mod gate;
mod report;
mod rollback;
mod trial;
pub mod watch;

use gate::{Candidate, Fresh, Loader};
pub use report::{Ask, Loaded, Reloads, ReloadsReport, Report, Request};
use trial::Watched;

/// After how long a reload is tried again that the server did not answer.
const NO_ANSWER_DELAY: Duration = Duration::from_secs(2);
/// How often what is on trial is looked at.
const TRIAL_TICK: Duration = Duration::from_millis(100);
/// What is in trouble while the files say something else than what runs.
const RELOAD: &str = "reload";

type Wasm = Arc<WasmHandler>;

/// Loads generations, and has them run.
pub struct Reloader {
    path: PathBuf,
    base: PathBuf,
    target: Target,
    /// Whether streams are made that a new handler lacks.
    provides: bool,
    loader: Loader,
    orders: mpsc::Sender<Order<Wasm>>,
    status: Arc<Status>,
    current: Generation<Wasm>,
    trials: BTreeMap<String, Watched>,
    places: tokio::sync::watch::Sender<watch::Places>,
    keep_versions: u32,
    /// The generation that the instance was started with, until it is noted that it runs.
    first: Option<Candidate>,
    /// The bucket that the files come from, if they do.
    mirror: Option<Arc<Mirror>>,
}

/// Why a generation is not run.
enum Failed {
    /// Something is wrong with it.
    Wrong(Vec<String>),
    /// It may work later.
    Later(String),
}

/// A first generation that is loaded, and what loads the following ones.
pub struct First {
    /// The generation.
    pub generation: Generation<Wasm>,
    candidate: Candidate,
    loader: Loader,
    file: ManifestFile,
}

impl First {
    /// Loads the first generation.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub async fn load(file: ManifestFile, engine: Engine) -> Result<First, Vec<Fault>> {
        let folder = file.base.join(&file.manifest.runtime.versions);
        let store = Store::open(folder).map_err(|error| tracing::warn!("{error}")).ok().map(Arc::new);
        let loader = Loader { engine, store, known: Arc::default() };
        let candidate = gate::load(&loader, &file).await?;
        Ok(First { generation: candidate.generation.clone(), candidate, loader, file })
    }

    /// What loads the following generations, for an instance at `target`, of files that are taken from a bucket where there
    /// is a `mirror` of one. Streams that new handlers lack are made if it `provides` them.
    pub fn reloader(
        self,
        orders: mpsc::Sender<Order<Wasm>>,
        status: Arc<Status>,
        target: Target,
        mirror: Option<Arc<Mirror>>,
        provides: bool,
    ) -> Reloader {
        let First { generation: current, candidate, loader, file } = self;
        let places = tokio::sync::watch::Sender::new(candidate.places.clone());
        status.reloads.has_new_generation();
        status.provides(loader.engine.buckets());
        if let Some(mirror) = &mirror {
            status.reloads.come_from(&mirror.bucket, mirror.sequence());
        }
        Reloader {
            path: file.path,
            base: file.base,
            target,
            provides,
            loader,
            orders,
            status,
            keep_versions: current.manifest.runtime.keep_versions,
            current,
            trials: BTreeMap::new(),
            places,
            first: Some(candidate),
            mirror,
        }
    }
}

impl Reloader {
    /// The files to be watched, as they change.
    pub fn places(&self) -> tokio::sync::watch::Receiver<watch::Places> {
        self.places.subscribe()
    }

    /// Does what it is asked for, and watches over what is new, until `stop`. Since it waits for disks, it has a thread of
    /// its own.
    pub fn start(self, requests: mpsc::Receiver<Request>, stop: CancellationToken) -> JoinHandle<()> {
        tokio::task::spawn_blocking(move || Handle::current().block_on(self.run(requests, stop)))
    }

    async fn run(mut self, mut requests: mpsc::Receiver<Request>, stop: CancellationToken) {
        // Here, since it waits for disks, and an instance that starts does not.
        if let Some(first) = self.first.take() {
            self.take_over(first);
        }
        let mut tick = interval(TRIAL_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut again: Option<Instant> = None;
        loop {
            let wait = OptionFuture::from(again.map(tokio::time::sleep_until));
            let Request { ask, cause, answer } = tokio::select! {
                () = stop.cancelled() => return,
                Some(request) = requests.recv() => request,
                Some(()) = wait => {
                    let cause = "trying again what the server did not answer".to_owned();
                    Request { ask: Ask::Reload, cause, answer: None }
                }
                _ = tick.tick(), if !self.trials.is_empty() => {
                    stop.run_until_cancelled(Box::pin(self.judge())).await;
                    continue;
                }
            };
            let answered = stop.run_until_cancelled(Box::pin(self.answer(ask, cause))).await;
            let Some((report, is_later)) = answered else { return };
            again = is_later.then(|| Instant::now() + NO_ANSWER_DELAY);
            if let Some(answer) = answer {
                // Nobody need wait for it.
                let _ = answer.send(report);
            }
        }
    }

    /// Does what is asked for, and tells everybody what came of it.
    async fn answer(&mut self, ask: Ask, cause: String) -> (Report, bool) {
        let (started, is_asked) = (Instant::now(), cause != watch::CAUSE);
        if let Some(mirror) = &self.mirror {
            mirror.sync_and_tell(&self.status).await;
        }
        let bucket_sequence = self.mirror.as_ref().map(|mirror| mirror.sequence());
        // That somebody asks for a version that is not there says nothing about the files.
        let is_about_files = ask == Ask::Reload;
        let done = match ask {
            Ask::Reload => self.reload().await,
            Ask::Rollback { handler, to } => match self.pin(&handler, to.as_deref()) {
                Ok(before) => self.reload().await.inspect_err(|_| self.unpin(&handler, &before)),
                Err(why) => Err(Failed::Wrong(vec![why])),
            },
        };
        let is_later = matches!(done, Err(Failed::Later(_)));
        let (ok, problems, applied) = match done {
            Ok(applied) => (true, Vec::new(), applied),
            Err(Failed::Wrong(problems)) => (false, problems, Applied::default()),
            Err(Failed::Later(why)) => (false, vec![why], Applied::default()),
        };
        let at = tidemill_policy::decide::rfc3339(Clock::System.now_ms());
        // A reload that is tried again says nothing about what is in the bucket.
        let bucket_sequence = bucket_sequence.filter(|_| !is_later);
        let report = Report { at, cause, ok, problems, applied, took_ms: millis(started.elapsed()), bucket_sequence };
        let why = || format!("what is in the files does not run: {}", report.problems.join("; "));
        if ok {
            if let (Some(mirror), Some(sequence)) = (&self.mirror, bucket_sequence) {
                self.status.reloads.come_from(&mirror.bucket, sequence);
            }
            self.status.troubles.end(RELOAD);
            report.log();
        } else if is_later {
            // Said once, however often it is tried.
            self.status.troubles.begin(RELOAD, Effect::None, &why());
        } else {
            if is_about_files {
                self.status.troubles.note(RELOAD, Effect::None, &why());
            }
            report.log();
        }
        if is_asked || !ok || !report.applied.is_nothing() {
            self.status.reloads.note(report.clone());
        }
        (report, is_later)
    }

    /// Runs what the files say, as a whole or not at all.
    async fn reload(&mut self) -> Result<Applied, Failed> {
        let file = self.read()?;
        // What is wrong may be put right in any of its files.
        self.watch_also(gate::places(&file));
        let candidate = gate::load(&self.loader, &file).await.map_err(|faults| {
            Failed::Wrong(faults.into_iter().map(|fault| format!("{}: {}", fault.key, fault.message)).collect())
        })?;
        if self.provides {
            let provided = dev::provide(&self.target, &file.manifest).await;
            provided.map_err(|error| Failed::Wrong(vec![error.to_string()]))?;
        }
        if candidate.generation.is_same(&self.current) {
            self.take_over(candidate);
            return Ok(Applied::default());
        }
        let applied = self.order(candidate.generation.clone()).await?;
        if !applied.is_nothing() {
            self.status.reloads.has_new_generation();
        }
        self.take_over(candidate);
        Ok(applied)
    }

    /// Reads the manifest and its drop-ins.
    fn read(&self) -> Result<ManifestFile, Failed> {
        let wrong = |error: ReadError| Failed::Wrong(vec![error.to_string()]);
        let file = load::read(&self.path).map_err(wrong)?;
        if file.manifest.handlers.is_empty() {
            return Err(Failed::Wrong(vec![format!("{} has no handlers any more", file.path.display())]));
        }
        for warning in &file.warnings.problems {
            tracing::warn!("{warning}");
        }
        Ok(file)
    }

    /// Has the instance run a generation.
    async fn order(&self, generation: Generation<Wasm>) -> Result<Applied, Failed> {
        let (answer, answered) = oneshot::channel();
        let stopping = || Failed::Later("the instance lost its connection, or is stopping".to_owned());
        self.orders.send(Order { generation, answer }).await.map_err(|_| stopping())?;
        match answered.await {
            Ok(Ok(applied)) => Ok(applied),
            Ok(Err(refused)) if refused.may_pass() => Err(Failed::Later(refused.to_string())),
            Ok(Err(refused)) => Err(Failed::Wrong(vec![refused.to_string()])),
            Err(_) => Err(stopping()),
        }
    }

    /// Notes that a generation runs.
    fn take_over(&mut self, candidate: Candidate) {
        let Candidate { generation, choices, known, fresh, places } = candidate;
        for fresh in &fresh {
            self.store(fresh);
        }
        self.keep_versions = generation.manifest.runtime.keep_versions;
        self.current = generation;
        self.loader.known = Arc::new(known);
        self.note_choices(&choices);
        self.places.send_if_modified(|current| std::mem::replace(current, places) != *current);
    }

    /// Keeps a component, to be gone back to.
    fn store(&self, Fresh { handler, digest, bytes }: &Fresh) {
        if let Some(store) = &self.loader.store
            && let Err(error) = store.keep(handler, digest, bytes)
        {
            tracing::warn!(handler, %error, "this version cannot be gone back to");
        }
    }

    fn watch_also(&self, more: watch::Places) {
        self.places.send_if_modified(|current| {
            let before = current.files.len() + current.folders.len();
            current.files.extend(more.files);
            current.folders.extend(more.folders);
            current.files.len() + current.folders.len() > before
        });
    }
}
