//! The manifest that the instances run, and the streams around it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, StorageType};

use crate::plan::{Handler, ORDER_HEADER};

/// The variable from which the manifest takes the port of its status.
pub(crate) const PORT_VARIABLE: &str = "TIDEMILL_CHAOS_PORT";
/// The variable that tells a process which start of which instance it is.
pub(crate) const START_VARIABLE: &str = "TIDEMILL_CHAOS_START";
/// The `nats.prefix` of the manifest.
pub(crate) const PREFIX: &str = "tidemill";
/// The stream of the events.
pub(crate) const INPUT: &str = "IN";
/// The stream of the outputs.
pub(crate) const OUTPUT: &str = "OUT";

/// For how long the streams of events and outputs recognise duplicates: longer than it takes until everything
/// that was cut off is made up for.
const DUPLICATE_WINDOW: Duration = Duration::from_hours(1);

/// Writes the manifest for the server at `url` into `folder`.
pub(crate) fn write(folder: &Path, url: &str, batches: bool) -> Result<PathBuf> {
    let path = folder.join("tidemill.toml");
    fs::write(&path, text(url, &guests(), batches)).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Where `cargo xtask guests` puts the components.
pub(crate) fn guests() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/chaos lies two folders deep");
    root.join("target/guests")
}

fn text(url: &str, guests: &Path, batches: bool) -> String {
    let quote = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = format!(
        r#"[nats]
url = {url}
prefix = "{PREFIX}"

[runtime]
plugins = {guests}
listen = "127.0.0.1:${{{PORT_VARIABLE}}}"
drain = "10s"
cache = "cache"

[defaults]
ack_wait = "2s"
limits = {{ timeout = "2s", fuel = 3_000_000, memory = "16MiB" }}
retry = {{ initial = "50ms", max = "400ms", in_memory = "100ms" }}
"#,
        url = quote(url),
        guests = quote(&guests.to_string_lossy()),
    );
    // Failing attempts are what this is about; the brake would hold them back.
    let _ = writeln!(text, "outage_brake = false");
    for handler in Handler::ALL {
        let name = handler.name();
        let attempts = handler.attempts_max();
        let outputs = if batches && handler.is_atomic() { "atomic" } else { "each" };
        let _ = write!(
            text,
            r#"
[handler.{name}]
component = "chaos.wasm"
subject = "in.{name}"
stream = "{INPUT}"
retry.max_attempts = {attempts}
outputs = "{outputs}"
allow = {{ publish = ["out.{name}"] }}
"#
        );
    }
    // `orders` comes last: this is part of its table.
    let _ = writeln!(text, "dedup = {{ key = \"header:{ORDER_HEADER}\", window = \"1h\" }}");
    text
}

/// Makes the streams of the events and of the outputs. Returns whether the latter takes batches.
pub(crate) async fn create_streams(context: &jetstream::Context) -> Result<bool> {
    let mut batches = false;
    for (name, subjects) in [(INPUT, "in.>"), (OUTPUT, "out.>")] {
        let config = Config {
            name: name.to_owned(),
            subjects: vec![subjects.to_owned()],
            storage: StorageType::File,
            duplicate_window: DUPLICATE_WINDOW,
            allow_atomic_publish: name == OUTPUT,
            ..Config::default()
        };
        let made = context.create_stream(config).await.with_context(|| format!("cannot create stream {name}"))?;
        // What the server does not know, it does not echo.
        batches |= made.cached_info().config.allow_atomic_publish;
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tidemill_policy::manifest;

    use super::{Handler, text};

    #[test]
    fn the_manifest_is_accepted_and_gives_every_handler_its_policy() {
        let text = text("nats://127.0.0.1:4222", Path::new("/guests"), true);
        let source = manifest::Source { path: "tidemill.toml", text: &text };
        let parsed = manifest::parse(source, &[], &|_| Some("7070".to_owned()));
        let manifest = parsed.unwrap_or_else(|problems| panic!("{problems}")).manifest;
        for handler in Handler::ALL {
            let found = &manifest.handlers[handler.name()];
            assert_eq!(found.retry.max_attempts, handler.attempts_max());
            assert_eq!(found.outputs == manifest::Outputs::Atomic, handler.is_atomic());
            assert_eq!(found.dedup.is_some(), handler == Handler::Orders);
        }
    }
}
