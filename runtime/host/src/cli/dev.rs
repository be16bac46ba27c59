//! `tidemill dev`: the handlers on a developer's desk, with a private NATS server and every event shown. Handlers of which the
//! source is there are built anew when it changes.

mod rebuild;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;
use serde::Serialize;
use tempfile::TempDir;
use tidemill::broker::nats::connect::{self, Target};
use tidemill::broker::nats::server::{self, Server};
use tidemill::bucket::Mirror;
use tidemill::dev::{self, Plan};
use tidemill::load::ManifestFile;
use tidemill::logging::Purpose;
use tidemill::reload::First;
use tidemill_policy::manifest::{Auth, Manifest};
use tidemill_policy::subject;

use super::service::{self, Signals};
use super::{Done, Failure, Global, output};

const EXAMPLES: &str = "\
Starts a private nats-server, unless --nats-url or the manifest names one. Streams that the handlers need
and that do not exist are made; nothing that exists is changed.

A project in the folder of the manifest, or in a folder there, is built whenever its source changes, as by `tidemill build`, if
there is a handler for its component. A build that fails is shown, and the version that runs goes on.

Examples:
  tidemill dev
  tidemill dev --data .tidemill --port 4222      keep the events between runs
  tidemill publish --nats-url nats://127.0.0.1:PORT orders.placed '{\"id\": 1}'";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The nats-server to start; else what `TIDEMILL_NATS_SERVER` names, else the one on the search path
    #[arg(long, value_name = "PATH")]
    nats_server: Option<PathBuf>,
    /// Where the private server keeps its data; else in a temporary folder that is removed at the end
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Build no handler, also where its source is there and has changed
    #[arg(long)]
    no_build: bool,
    /// The port of the private server; else a free one
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
}

impl Arguments {
    /// The first option that only a private server has a use for.
    fn of_a_private_server(&self) -> Option<&'static str> {
        let given = [
            ("--nats-server", self.nats_server.is_some()),
            ("--data", self.data.is_some()),
            ("--port", self.port.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}

/// Runs the handlers on the desk.
pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Done {
    let mirror = global.mirror()?.filter(|_| arguments.of_a_private_server().is_none());
    if let Some(mirror) = &mirror {
        mirror.sync().await?;
    }
    let file = global.read_manifest()?;
    let name_width = file.manifest.handlers.keys().map(String::len).max().unwrap_or(0);
    global.start_log(Purpose::Desk { name_width })?;
    let target = shared_target(global, arguments, &file)?;
    let signals = service::signals()?;
    let work = async {
        let manifest = file.manifest.clone();
        let engine = Global::engine(Some(&file))?;
        let sources = if arguments.no_build || file.manifest.runtime.bucket.is_some() {
            Vec::new()
        } else {
            rebuild::sources(&file, &engine)
        };
        let fresh = rebuild::freshen(&sources);
        let Some(()) = signals.stop.run_until_cancelled(fresh).await.transpose()? else { return Ok(()) };
        let runtime = file.manifest.runtime.clone();
        let Some(first) = service::load(file, engine, &signals).await? else { return Ok(()) };
        if runtime.watch {
            rebuild::watch(sources, runtime.watch_poll, &signals.stop);
        }
        let mut broker = match target {
            Some(target) => Broker { private: None, target },
            None => Broker::start(arguments).await?,
        };
        let target = broker.target.clone();
        let done = tokio::select! {
            done = develop(global, &manifest, first, target, mirror.map(Arc::new), &signals) => done,
            why = broker_ended(&mut broker.private) => Err(Failure::Failed(anyhow!(why))),
        };
        if let Some(private) = broker.private {
            private.server.stop().await;
        }
        done
    };
    // Boxed, since it is large.
    service::unless_aborted(&signals, Box::pin(work)).await
}

/// The server that is named, if the arguments do not ask for a private one.
fn shared_target(global: &Global, arguments: &Arguments, file: &ManifestFile) -> Result<Option<Target>, Failure> {
    let Some(option) = arguments.of_a_private_server() else { return global.target(Some(file)) };
    if global.target(None)?.is_some() {
        return Err(Failure::usage(format!(
            "{option} is for a private server, but --nats-url or TIDEMILL_NATS_URL names one; leave one of them out"
        )));
    }
    Ok(None)
}

async fn develop(
    global: &Global,
    manifest: &Manifest,
    first: First,
    target: Target,
    mirror: Option<Arc<Mirror>>,
    signals: &Signals,
) -> Done {
    let plan = dev::provide(&target, manifest).await?;
    let desk = Desk { url: connect::without_credentials(&target.urls), created: plan };
    global.out().show(&desk, || desk.text(manifest));
    for warning in &desk.created.warnings {
        tracing::warn!("{warning}");
    }
    service::serve(first, target, mirror, true, signals).await
}

/// The NATS server that the handlers run on.
struct Broker {
    private: Option<Private>,
    target: Target,
}

/// A server of our own. Fields are dropped in this order: the server goes before its folder.
struct Private {
    server: Server,
    _lock: Option<File>,
    _folder: Option<TempDir>,
}

impl Broker {
    async fn start(arguments: &Arguments) -> Result<Broker, Failure> {
        let (path, lock, folder) = if let Some(path) = &arguments.data {
            (path.clone(), Some(lock(path)?), None)
        } else {
            let folder = tempfile::Builder::new().prefix("tidemill-dev-").tempdir();
            let folder = folder.context("cannot make a temporary folder; name one with --data")?;
            (folder.path().to_owned(), None, Some(folder))
        };
        let path = path.canonicalize().with_context(|| format!("cannot use {}", path.display()))?;
        let executable = server::executable(arguments.nats_server.as_deref());
        let server = Server::start(&executable, &path, arguments.port, "").await?;
        let target = Target { urls: vec![server.url.clone()], auth: Auth::None, tls: None, base: PathBuf::from(".") };
        Ok(Broker { private: Some(Private { server, _lock: lock, _folder: folder }), target })
    }
}

/// Keeps a second `tidemill dev` from starting a server on the same data.
fn lock(folder: &Path) -> Result<File, Failure> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join("tidemill.lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    file.try_lock().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => {
            anyhow!("another `tidemill dev` uses {}; stop it, or name another folder with --data", folder.display())
        }
        std::fs::TryLockError::Error(error) => anyhow!("cannot lock {}: {error}", path.display()),
    })?;
    Ok(file)
}

async fn broker_ended(private: &mut Option<Private>) -> String {
    match private {
        Some(private) => private.server.ended().await,
        None => std::future::pending().await,
    }
}

/// What a developer needs to know at the start.
#[derive(Debug, Serialize)]
struct Desk {
    url: String,
    created: Plan,
}

impl Desk {
    fn text(&self, manifest: &Manifest) -> String {
        let streams: Vec<_> =
            self.created.streams.iter().map(|(name, subjects)| format!("{name} ({})", subjects.join(", "))).collect();
        let handlers: Vec<_> = manifest
            .handlers
            .values()
            .map(|handler| format!("{} on {}", handler.name, handler.subjects.join(", ")))
            .collect();
        let mut subjects = manifest.handlers.values().flat_map(|handler| &handler.subjects);
        let example = subjects.find(|one| subject::check_subject(one).is_ok());
        let example = example.map_or("SUBJECT", String::as_str);
        let try_it = format!("tidemill publish --nats-url {} {example} '{{\"hello\": \"world\"}}'", self.url);
        output::table([
            ("nats", self.url.clone()),
            ("made", streams.join("\n")),
            ("handlers", handlers.join("\n")),
            ("try", try_it),
        ])
    }
}
