//! `tidemill inspect`: what a WebAssembly file is, and whether it can be a handler.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use serde::Serialize;
use tidemill::invoker::wasm::{self, Inspection, Kind, WasmHandler};
use tidemill::logging::Purpose;
use tidemill_policy::manifest::{self, Handler, Source};

use super::check::approximate;
use super::{Done, Failure, Global, output};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tidemill inspect plugins/welcome-email.wasm")]
pub(crate) struct Arguments {
    /// The file
    wasm: PathBuf,
}

/// What was found out about a file.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    kind: &'static str,
    size_bytes: u64,
    digest: String,
    handler: Option<String>,
    imports: Vec<Import>,
    exports: Vec<String>,
    can_run: bool,
    why_not: Option<String>,
}

#[derive(Debug, Serialize)]
struct Import {
    name: String,
    offered: bool,
    grant: Option<&'static str>,
}

/// Inspects the file. What cannot run is a failure, also if it could be read.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Done {
    global.start_log(Purpose::Command)?;
    let file = arguments.wasm.display().to_string();
    let bytes = std::fs::read(&arguments.wasm).with_context(|| format!("cannot read {file}"))?;
    let inspection = wasm::inspect(&bytes).map_err(|problem| anyhow!("{file} {problem}"))?;
    let handler = usual_handler()?;
    let why_not = WasmHandler::from_bytes(&Global::engine(None)?, &bytes, &handler, BTreeMap::new()).err();
    let report = report(file, inspection, why_not.map(|problem| problem.to_string()));
    global.out().show(&report, || report.text());
    if report.can_run { Ok(()) } else { Err(Failure::Shown) }
}

/// A handler with the limits that a manifest without any comes to.
pub(crate) fn usual_handler() -> anyhow::Result<Handler> {
    let source = Source { path: "", text: "[handler.inspected]\nsubject = \"inspected\"" };
    let mut handlers = manifest::parse(source, &[], &|_| None)?.manifest.handlers;
    handlers.remove("inspected").context("the smallest manifest has no handler")
}

fn report(file: String, inspection: Inspection, why_not: Option<String>) -> Report {
    let shown = |import: wasm::Import| {
        let grant = import.grant.map(wasm::Grant::key);
        Import { name: import.name, offered: import.offered, grant }
    };
    Report {
        file,
        kind: match inspection.kind {
            Kind::Component => "component",
            Kind::CoreModule => "core module, made a component when it is loaded",
        },
        size_bytes: inspection.size_bytes,
        digest: inspection.digest,
        handler: inspection.handler,
        imports: inspection.imports.into_iter().map(shown).collect(),
        exports: inspection.exports,
        can_run: why_not.is_none(),
        why_not,
    }
}

impl Report {
    fn text(&self) -> String {
        let imports: Vec<_> = self
            .imports
            .iter()
            .map(|import| match (import.offered, import.grant) {
                (true, _) => import.name.clone(),
                (false, Some(grant)) => format!("{}  (with {grant})", import.name),
                (false, None) => format!("{}  (not offered)", import.name),
            })
            .collect();
        let listed = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join("\n") };
        let verdict = self.why_not.as_ref().map_or_else(|| "yes".to_owned(), |why| format!("no: it {why}"));
        output::table([
            ("file", self.file.clone()),
            ("kind", self.kind.to_owned()),
            ("size", format!("{} ({} bytes)", approximate(self.size_bytes), self.size_bytes)),
            ("digest", format!("sha256:{}", self.digest)),
            ("handler", self.handler.clone().unwrap_or_else(|| "none".to_owned())),
            ("imports", listed(&imports)),
            ("exports", listed(&self.exports)),
            ("can run", verdict),
        ])
    }
}
