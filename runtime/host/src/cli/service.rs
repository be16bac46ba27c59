//! What `run` and `dev` have in common: signals, loading, health over HTTP, and the instance itself.

use std::sync::Arc;

use anyhow::Context;
use tidemill::broker::nats::connect::Target;
use tidemill::bucket::{self, Mirror};
use tidemill::http;
use tidemill::instance;
use tidemill::invoker::wasm::Engine;
use tidemill::load::ManifestFile;
use tidemill::reload::{Ask, First, Request, watch};
use tidemill::status::Status;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Done, Failure, Global};

/// How many letters and digits an instance's name has: 36 to the power of 12 names.
const NAME_LENGTH: usize = 12;

/// What the user asks for by signals.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    /// Finish what is running, then end: Ctrl-C or SIGTERM.
    pub(crate) stop: CancellationToken,
    /// End at once: Ctrl-C again.
    pub(crate) abort: CancellationToken,
}

/// Starts to listen for signals.
pub(crate) fn signals() -> Result<Signals, Failure> {
    let signals = Signals { stop: CancellationToken::new(), abort: CancellationToken::new() };
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let told = signals.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => tracing::info!("stopping; press Ctrl-C again to end at once"),
            _ = terminate.recv() => tracing::info!("stopping"),
        }
        told.stop.cancel();
        interrupt.recv().await;
        told.abort.cancel();
    });
    Ok(signals)
}

/// Runs `work` to its end, unless the user wants to end at once.
pub(crate) async fn unless_aborted(signals: &Signals, work: impl Future<Output = Done>) -> Done {
    tokio::select! {
        biased;
        () = signals.abort.cancelled() => Err(Failure::Interrupted),
        done = work => done,
    }
}

/// Copies the bucket that the plugins come from, if they do. A server that does not answer is waited for, unless there is an
/// earlier copy, or the user wants to stop.
pub(crate) async fn copy_plugins(global: &Global, signals: &Signals) -> Result<Option<Arc<Mirror>>, Failure> {
    let Some(mirror) = global.mirror()? else { return Ok(None) };
    tokio::select! {
        opened = mirror.open() => opened?,
        () = signals.stop.cancelled() => {}
    }
    Ok(Some(Arc::new(mirror)))
}

/// Loads all components. Nothing if the user wants to stop before that is done.
pub(crate) async fn load(file: ManifestFile, engine: Engine, signals: &Signals) -> Result<Option<First>, Failure> {
    tokio::select! {
        first = First::load(file, engine) => first.map(Some).map_err(Failure::Faults),
        () = signals.stop.cancelled() => Ok(None),
    }
}

/// Serves health over HTTP and runs an instance until the user stops it, with files from a bucket where there is a `mirror`
/// of one. Where it `provides` streams, those that a handler lacks which is added later are made.
pub(crate) async fn serve(
    first: First,
    target: Target,
    mirror: Option<Arc<Mirror>>,
    provides: bool,
    signals: &Signals,
) -> Done {
    let status = Arc::new(Status::new(instance_name(), &first.generation));
    let generation = first.generation.clone();
    let runtime = generation.manifest.runtime.clone();
    let (orders, ordered) = mpsc::channel(1);
    let (requests, requested) = mpsc::channel(16);
    let reloader = first.reloader(orders, Arc::clone(&status), target.clone(), mirror.clone(), provides);
    if let Some(address) = &runtime.listen {
        let local = http::serve(address, Arc::clone(&status)).await?;
        tracing::info!("health is at http://{local}/livez and /readyz, status at http://{local}/api/v1/status");
    }
    status.reloads.listen(requests.clone());
    if runtime.watch {
        let watching = watch::run(reloader.places(), runtime.watch_poll, requests.clone(), signals.stop.clone());
        tokio::spawn(watching);
        if let Some(mirror) = mirror {
            tokio::spawn(bucket::keep(mirror, runtime.watch_poll, Arc::clone(&status), signals.stop.clone()));
        }
    }
    reload_on_hangup(requests, &signals.stop)?;
    let reloading = reloader.start(requested, signals.stop.clone());
    instance::run(target, generation, ordered, status, signals.stop.clone()).await?;
    // What it is about to write down is not to be cut off.
    let _ = reloading.await;
    tracing::info!("stopped");
    Ok(())
}

/// Reloads whenever the process gets SIGHUP.
fn reload_on_hangup(requests: mpsc::Sender<Request>, stop: &CancellationToken) -> Result<(), Failure> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let stop = stop.clone();
    tokio::spawn(async move {
        while let Some(Some(())) = stop.run_until_cancelled(hangup.recv()).await {
            let request = Request { ask: Ask::Reload, cause: "SIGHUP".to_owned(), answer: None };
            if requests.send(request).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// A name that no other instance has: lower-case letters and digits, since it is part of consumers' names.
fn instance_name() -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rest: u128 = rand::random();
    let mut name = String::new();
    for _ in 0..NAME_LENGTH {
        name.push(char::from(ALPHABET[(rest % 36) as usize]));
        rest /= 36;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::instance_name;

    #[test]
    fn names_can_stand_in_a_consumers_name() {
        let name = instance_name();
        assert_eq!(name.len(), 12);
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{name}");
        assert_ne!(name, instance_name());
    }
}
