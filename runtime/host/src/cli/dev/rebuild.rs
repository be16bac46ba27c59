//! Building handlers anew when their source changes. The component takes the place of the earlier one, which the reload
//! notices by itself; where the build fails, nothing is replaced.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidemill::invoker::wasm::Engine;
use tidemill::load::ManifestFile;
use tidemill::project::build::BuildError;
use tidemill::project::recipe::Project;
use tidemill::reload::watch::{self, Places, Watch};
use tidemill_policy::manifest::Handler;
use tokio::sync::{Mutex, watch as channel};
use tokio_util::sync::CancellationToken;

use super::super::build;
use super::super::check::approximate;

/// The source of a handler.
pub(crate) struct Source {
    project: Project,
    component: PathBuf,
    handler: Handler,
    engine: Engine,
}

/// The projects in the manifest's folder and in the folders there of which a handler runs the component.
pub(crate) fn sources(file: &ManifestFile, engine: &Engine) -> Vec<Source> {
    let base = if file.base.as_os_str().is_empty() { Path::new(".") } else { &file.base };
    let entries = fs::read_dir(base).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let folders = std::iter::once(base.to_owned()).chain(entries.filter(|path| path.is_dir()));
    let of_handler = |project: Project| {
        let component = build::place(&project, Some(file));
        let handler = build::handler_of(file, &component)?.clone();
        Some(Source { project, component, handler, engine: engine.clone() })
    };
    folders.filter_map(|folder| of_handler(Project::find(&folder)?)).collect()
}

/// Builds what is missing or older than its source.
///
/// # Errors
///
/// If a component is missing and cannot be built. Where there is an earlier one, it is told and that one is run.
pub(crate) async fn freshen(sources: &[Source]) -> Result<(), BuildError> {
    for source in sources.iter().filter(|source| source.is_stale()) {
        if let Err(error) = source.build().await {
            if !source.component.exists() {
                return Err(error);
            }
            source.tell(&error);
        }
    }
    Ok(())
}

/// Builds whatever changes from now on, one after the other, until `stop`.
pub(crate) fn watch(sources: Vec<Source>, poll: Duration, stop: &CancellationToken) {
    let turn = Arc::new(Mutex::new(()));
    for source in sources {
        let (stop, turn) = (stop.clone(), Arc::clone(&turn));
        tokio::spawn(async move { stop.run_until_cancelled(source.watch(poll, &turn)).await });
    }
}

impl Source {
    /// Whether the component is missing, or older than its source.
    fn is_stale(&self) -> bool {
        let built = fs::metadata(&self.component).and_then(|metadata| metadata.modified()).ok();
        built.is_none() || built < watch::last_change(&self.project.folder)
    }

    async fn watch(self, poll: Duration, turn: &Mutex<()>) {
        let sources = [self.project.folder.clone()].into();
        let (_places, told) = channel::channel(Places { sources, ..Places::default() });
        let mut watch = Watch::new(told, poll);
        watch.changed().await;
        let mut is_due = self.is_stale();
        loop {
            if is_due {
                let _turn = turn.lock().await;
                if let Err(error) = self.build().await {
                    self.tell(&error);
                }
            }
            watch.changed().await;
            is_due = true;
        }
    }

    async fn build(&self) -> Result<(), BuildError> {
        tracing::info!("building {} with the tool for {}", self.project.name, self.project.recipe.language);
        let built = build::build_to(&self.project, self.engine.clone(), self.handler.clone(), &self.component).await?;
        let (size, seconds) = (approximate(built.size_bytes), built.elapsed.as_secs_f64());
        tracing::info!("built {} ({size}) in {seconds:.1} s", self.component.display());
        Ok(())
    }

    fn tell(&self, error: &BuildError) {
        tracing::error!("{error}; the version of {} that is there goes on", self.handler.name);
    }
}
