//! `tidemill build`: makes a component of a project with its language's usual tool.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tidemill::invoker::wasm::{Engine, WasmHandler};
use tidemill::load::{self, ManifestFile};
use tidemill::logging::Purpose;
use tidemill::project::build::{self, BuildError, Built};
use tidemill::project::recipe::Project;
use tidemill_policy::manifest::Handler;

use super::check::approximate;
use super::inspect::usual_handler;
use super::{Done, Failure, Global};

const EXAMPLES: &str = "\
The tool is told by a file: Cargo.toml (cargo), package.json (npm), pyproject.toml (componentize-py), go.mod (go),
build.zig (zig), Makefile (make). The component goes to runtime.plugins of the manifest in the project's folder, else of the
one that --manifest names, else to plugins/ in the project's folder. It replaces an earlier one only if it can run.

Examples:
  tidemill build
  tidemill build handlers/order-total
  tidemill build --to order-total.wasm";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The project's folder
    #[arg(default_value = ".", value_name = "DIR")]
    folder: PathBuf,
    /// Put the component here, instead of in the folder of the plugins
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// What was built.
#[derive(Debug, Serialize)]
struct Report {
    name: String,
    language: &'static str,
    component: String,
    size_bytes: u64,
    build_ms: u128,
}

/// Builds the project.
pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Done {
    global.start_log(Purpose::Command)?;
    let folder = &arguments.folder;
    let project = Project::find(folder).ok_or_else(|| BuildError::NoProject { folder: folder.clone() })?;
    let manifest = manifest_for(global, folder)?;
    let usual = place(&project, manifest.as_ref());
    let to = arguments.to.clone().unwrap_or_else(|| usual.clone());
    let named = |file| handler_of(file, &to).or_else(|| handler_of(file, &usual));
    let handler = match manifest.as_ref().and_then(named) {
        Some(handler) => handler.clone(),
        None => usual_handler()?,
    };
    let engine = Global::engine(manifest.as_ref())?;
    let Built { size_bytes, elapsed } = build_to(&project, engine, handler, &to).await?;
    let report = Report {
        name: project.name.to_string(),
        language: project.recipe.language,
        component: to.display().to_string(),
        size_bytes,
        build_ms: elapsed.as_millis(),
    };
    global.out().show(&report, || {
        format!("built {} ({}) in {:.1} s", report.component, approximate(size_bytes), elapsed.as_secs_f64())
    });
    Ok(())
}

/// The manifest in the project's folder, else the one that is named, if it is there.
fn manifest_for(global: &Global, folder: &Path) -> Result<Option<ManifestFile>, Failure> {
    let own = folder.join("tidemill.toml");
    let path = if own.is_file() { &own } else { &global.manifest };
    if !path.is_file() {
        return Ok(None);
    }
    super::read_manifest_at(path).map(Some)
}

/// Where the component of a project belongs: in the folder of the plugins.
pub(crate) fn place(project: &Project, manifest: Option<&ManifestFile>) -> PathBuf {
    let plugins = match manifest {
        Some(file) => file.base.join(&file.manifest.runtime.plugins),
        None => project.folder.join("plugins"),
    };
    load::tidy(&plugins.join(format!("{}.wasm", project.name)))
}

/// Builds a project to where its component belongs, if it can run within the limits of its handler.
pub(crate) async fn build_to(
    project: &Project,
    engine: Engine,
    handler: Handler,
    to: &Path,
) -> Result<Built, BuildError> {
    let check = move |bytes: &[u8]| {
        let loaded = WasmHandler::from_bytes(&engine, bytes, &handler, BTreeMap::new());
        loaded.map(drop).map_err(|problem| problem.to_string())
    };
    build::build(project, to, check).await
}

/// The handler that runs the component in this place.
pub(crate) fn handler_of<'a>(file: &'a ManifestFile, component: &Path) -> Option<&'a Handler> {
    file.manifest.handlers.values().find(|handler| load::component_path(file, handler) == component)
}
