//! A folder with a manifest and plugins, and an instance in this process that reloads from it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use tidemill::broker::nats::connect::Target;
use tidemill::instance::{self, StartError};
use tidemill::invoker::wasm::{Engine, EngineOptions, digest};
use tidemill::load;
use tidemill::reload::{Ask, First, Report, watch};
use tidemill::status::Status;
use tidemill_policy::manifest::Auth;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{World, eventually};

/// The subject of the echo component's outputs: as long as those of its versions.
const ECHO: &str = "out.echo";

/// The echo component.
pub(crate) fn echo() -> Vec<u8> {
    let guests = crate::cli::guests();
    fs::read(guests.join("echo.wasm")).expect("the echo component; run cargo xtask guests")
}

/// A version of it that publishes on another subject of the same length.
pub(crate) fn version(subject: &str) -> Vec<u8> {
    with(echo(), ECHO, subject)
}

/// A component with another text of the same length in place of `old`.
pub(super) fn with(mut component: Vec<u8>, old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let is_there = |(_, text): &(usize, &[u8])| *text == old.as_bytes();
    let places: Vec<usize> =
        component.windows(old.len()).enumerate().filter(is_there).map(|(place, _)| place).collect();
    assert!(!places.is_empty(), "the component has {old}");
    for place in places {
        component[place..place + old.len()].copy_from_slice(new.as_bytes());
    }
    component
}

/// The subject of the version with this number.
pub(crate) fn subject(number: usize) -> String {
    format!("out.{number:04}")
}

/// A manifest and plugins.
pub(super) struct Folder {
    folder: TempDir,
}

impl Folder {
    pub(super) fn new(manifest: &str) -> Folder {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("plugins")).expect("made");
        let new = Folder { folder };
        new.put("tidemill.toml", manifest);
        new
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a file in place at one moment.
    pub(super) fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        let new = path.with_extension("new");
        fs::write(&new, content).expect("written");
        fs::rename(new, path).expect("renamed");
    }

    /// Starts an instance that reloads when it is asked to, and where it `watches` also by itself.
    pub(super) async fn start(&self, world: &World, watches: bool) -> Live {
        let file = load::read(&self.path("tidemill.toml")).expect("a valid manifest");
        let poll = file.manifest.runtime.watch_poll;
        let cache_dir = Some(self.path("cache"));
        let engine =
            Engine::new(&EngineOptions { invocations: 256, cache_dir, ..EngineOptions::default() }).expect("an engine");
        let first = First::load(file, engine).await.unwrap_or_else(|faults| panic!("{faults:?}"));
        let target = Target { urls: vec![world.server.url.clone()], auth: Auth::None, tls: None, base: PathBuf::new() };
        let generation = first.generation.clone();
        let status = Arc::new(Status::new(nuid::next().to_lowercase(), &generation));
        let stop = CancellationToken::new();
        let (orders, ordered) = mpsc::channel(1);
        let (requests, requested) = mpsc::channel(1);
        let reloader = first.reloader(orders, Arc::clone(&status), target.clone(), None, false);
        status.reloads.listen(requests.clone());
        if watches {
            tokio::spawn(watch::run(reloader.places(), poll, requests, stop.clone()));
        }
        let reloading = reloader.start(requested, stop.clone());
        let running = tokio::spawn(instance::run(target, generation, ordered, Arc::clone(&status), stop.clone()));
        let live = Live { status, stop, running, reloading };
        eventually("the instance is ready", || async { live.status.is_ready().then_some(()) }).await;
        live
    }
}

/// An instance that reloads.
pub(super) struct Live {
    pub(super) status: Arc<Status>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), StartError>>,
    reloading: JoinHandle<()>,
}

impl Live {
    pub(super) async fn reload(&self) -> Report {
        self.status.reloads.ask(Ask::Reload, "the test").await.expect("it listens")
    }

    /// Reloads, and expects that to work.
    pub(super) async fn reloaded(&self) -> Report {
        let report = self.reload().await;
        assert!(report.ok, "{report:?}");
        report
    }

    /// Reloads, and expects a refusal that says this.
    pub(super) async fn refused(&self, why: &str) {
        let report = self.reload().await;
        assert!(!report.ok && report.problems.iter().any(|problem| problem.contains(why)), "{report:?}");
    }

    pub(super) async fn roll_back(&self, handler: &str, to: Option<&str>) -> Report {
        let ask = Ask::Rollback { handler: handler.to_owned(), to: to.map(str::to_owned) };
        self.status.reloads.ask(ask, "the test").await.expect("it listens")
    }

    /// Waits until a component runs for good.
    pub(super) async fn runs(&self, handler: &str, component: &[u8]) {
        let wanted = digest(component);
        eventually("the version runs", || async {
            let report = self.status.report();
            let handler = report.handlers.get(handler)?;
            (handler.component == wanted && handler.trial.is_none()).then_some(())
        })
        .await;
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.running.await.expect("no panic").expect("it ran");
        self.reloading.await.expect("no panic");
    }
}
