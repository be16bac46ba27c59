//! What `run` and `dev` have in common: signals, loading, health over HTTP, and the instance itself.

use std::sync::Arc;

use anyhow::Context;
use tidemill::http;
use tidemill::instance::{self, Part, Settings};
use tidemill::invoker::wasm::WasmHandler;
use tidemill::load::{self, ManifestFile};
use tidemill::status::Status;
use tokio::signal::unix::{SignalKind, signal};
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

/// Loads all components. Nothing if the user wants to stop before that is done.
pub(crate) async fn load_parts(
    file: &ManifestFile,
    signals: &Signals,
) -> Result<Option<Vec<Part<WasmHandler>>>, Failure> {
    let engine = Global::engine(Some(file))?;
    let loaded = tokio::select! {
        loaded = load::handlers(file, &engine) => loaded,
        () = signals.stop.cancelled() => return Ok(None),
    };
    load::parts(loaded).map(Some).map_err(Failure::Faults)
}

/// Serves health over HTTP and runs an instance until the user stops it.
pub(crate) async fn serve(settings: &Settings, parts: Vec<Part<WasmHandler>>, signals: &Signals) -> Done {
    let status = Arc::new(Status::new(instance_name(), &parts));
    if let Some(address) = &settings.manifest.runtime.listen {
        let local = http::serve(address, Arc::clone(&status)).await?;
        tracing::info!("health is at http://{local}/livez and /readyz, status at http://{local}/api/v1/status");
    }
    // Boxed, since it is large.
    Box::pin(instance::run(settings, parts, status, signals.stop.clone())).await?;
    tracing::info!("stopped");
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
