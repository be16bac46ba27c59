//! The gate of a new generation: everything that it is made of is read, compiled and checked before anything of it runs.
//! Nothing here touches what runs now.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use tidemill_policy::manifest::Handler;
use tidemill_policy::reload::start::{Choice, choose};
use tidemill_policy::schema::Schemas;
use tokio::runtime::Handle;

use super::watch::Places;
use crate::cases;
use crate::instance::Generation;
use crate::invoker::wasm::{Engine, WasmHandler};
use crate::load::{self, Fault, ManifestFile, Origin, Sources};
use crate::version::{Part, Trial, Versions};
use crate::versions::Store;

/// A loaded version, and what it is made of.
#[derive(Clone)]
pub(super) struct Known {
    origin: Origin,
    part: Part<Arc<WasmHandler>>,
}

/// What is needed to load components.
#[derive(Clone)]
pub(super) struct Loader {
    /// Compiles.
    pub(super) engine: Engine,
    /// The last versions of all handlers; nothing where they cannot be kept.
    pub(super) store: Option<Arc<Store>>,
    /// What is loaded already, by handler.
    pub(super) known: Arc<BTreeMap<String, Vec<Known>>>,
}

/// A generation that may run.
pub(super) struct Candidate {
    pub(super) generation: Generation<Arc<WasmHandler>>,
    /// Which version of each handler was chosen.
    pub(super) choices: BTreeMap<String, Choice>,
    pub(super) known: BTreeMap<String, Vec<Known>>,
    /// The components that were loaded for it, to be kept once it runs.
    pub(super) fresh: Vec<Fresh>,
    /// The files that all this comes from.
    pub(super) places: Places,
}

/// A component that was loaded.
pub(super) struct Fresh {
    pub(super) handler: String,
    pub(super) digest: String,
    pub(super) bytes: Vec<u8>,
}

/// One handler of it.
struct Resolved {
    versions: Versions<Arc<WasmHandler>>,
    choice: Choice,
    known: Vec<Known>,
    fresh: Option<Fresh>,
    files: Vec<PathBuf>,
}

/// Loads all handlers of a manifest, several at a time. What is loaded already and has not changed is taken as it is.
///
/// # Errors
/// All that is wrong with any of them.
pub(super) async fn load(loader: &Loader, file: &ManifestFile) -> Result<Candidate, Vec<Fault>> {
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let loading = file.manifest.handlers.values().map(|handler| {
        let (loader, handler) = (loader.clone(), Arc::new(handler.clone()));
        let (base, path) = (file.base.clone(), load::component_path(file, &handler));
        async move {
            let of_handler = Arc::clone(&handler);
            let resolved = tokio::task::spawn_blocking(move || loader.resolve(&base, path, &of_handler)).await;
            let failed = |error| vec![format!("loading the component failed: {error}")];
            (handler, resolved.unwrap_or_else(|error| Err(failed(error))))
        }
    });
    let loading: Vec<_> = loading.collect();
    let all: Vec<_> = futures::stream::iter(loading).buffered(at_once).collect().await;
    let mut faults = load::nats_faults(file);
    let mut candidate = Candidate {
        generation: Generation::new(file.manifest.clone(), []),
        choices: BTreeMap::new(),
        known: BTreeMap::new(),
        fresh: Vec::new(),
        places: places(file),
    };
    for (handler, resolved) in all {
        match resolved {
            Ok(Resolved { versions, choice, known, fresh, files }) => {
                candidate.fresh.extend(fresh);
                candidate.generation.handlers.insert(handler.name.clone(), versions);
                candidate.choices.insert(handler.name.clone(), choice);
                candidate.known.insert(handler.name.clone(), known);
                candidate.places.files.extend(files);
            }
            Err(messages) => faults.extend(messages.into_iter().map(|message| Fault::of_handler(&handler, message))),
        }
    }
    if faults.is_empty() { Ok(candidate) } else { Err(faults) }
}

/// The files that a manifest comes from and names.
pub(super) fn places(file: &ManifestFile) -> Places {
    let mut files: BTreeSet<_> = [file.path.clone()].into();
    files.extend(file.manifest.handlers.values().flat_map(|handler| load::files(file, handler)));
    let folders = [file.base.join(&file.manifest.runtime.plugins)].into();
    Places { files, folders, ..Places::default() }
}

/// Runs the cases of a component that is to run.
fn rehearse(
    handler: &Handler,
    (invoker, schemas): &(WasmHandler, Arc<Schemas>),
    folder: &Path,
) -> Result<(), Vec<String>> {
    let ran = Handle::current().block_on(cases::run_cases(handler, schemas, invoker, folder));
    let results = ran.map_err(|error| error.0.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let failed = results.into_iter().filter(|result| !result.passed()).map(|result| {
        format!(
            "case {} failed: {}; see tidemill test {}",
            result.file.display(),
            result.differences.join("; "),
            handler.name
        )
    });
    let failed: Vec<_> = failed.collect();
    if failed.is_empty() { Ok(()) } else { Err(failed) }
}

impl Loader {
    /// Forgets the versions of a handler that a generation does not run, so that they are unloaded.
    pub(super) fn forget_others(&mut self, handler: &str, generation: &Generation<Arc<WasmHandler>>) {
        let Some(versions) = generation.handlers.get(handler) else { return };
        let running = [Some(&versions.steady), versions.trial.as_ref().map(|trial| &trial.part)];
        let is_running =
            |known: &Known| running.iter().flatten().any(|part| Arc::ptr_eq(&part.handler, &known.part.handler));
        if let Some(known) = Arc::make_mut(&mut self.known).get_mut(handler) {
            known.retain(is_running);
        }
    }

    fn resolve(&self, base: &Path, path: PathBuf, handler: &Arc<Handler>) -> Result<Resolved, Vec<String>> {
        let newest = load::sources(base, path, handler);
        let files = newest.schema_files();
        let name = &handler.name;
        let kept =
            self.store.as_ref().map(|store| store.state(name)).transpose().map_err(|error| vec![error.to_string()])?;
        let kept = kept.unwrap_or_default();
        let is_stored = |digest: &str| self.store.as_ref().is_some_and(|store| store.has(name, digest));
        let choice = choose(&newest.origin.digest, &kept, is_stored, &handler.reload);
        // What was kept before has passed its cases, and an instance that starts must not wait for them.
        let has_passed = self.known.is_empty() && kept.kept.as_ref() == Some(&newest.origin.digest);
        let cases = (!has_passed).then(|| cases::folder_of(&newest.path));
        let (choice, steady, trial) = match choice {
            Choice::Run { .. } => (choice, self.version(&newest, cases.as_deref())?, None),
            Choice::Pinned { ref digest, .. } => {
                let pinned = self.stored(&newest, digest).map_err(|why| vec![why])?;
                (choice, self.version(&pinned, None)?, None)
            }
            Choice::Trial { ref old, .. } => {
                let before = self.stored(&newest, old);
                let new = self.version(&newest, cases.as_deref())?;
                match before.map_err(|why| vec![why]).and_then(|before| self.version(&before, None)) {
                    Ok(before) => (choice, before, Some(new)),
                    Err(whys) => {
                        let why = whys.join("; ");
                        tracing::warn!(
                            handler = name,
                            why,
                            "the version before cannot be gone back to, so the new one has no trial"
                        );
                        (Choice::Run { digest: new.origin.digest.clone() }, new, None)
                    }
                }
            }
        };
        let share = if handler.reload.guard.is_some() { handler.reload.canary } else { 1.0 };
        let versions = Versions {
            steady: steady.part.clone(),
            trial: trial.as_ref().map(|trial| Trial { part: trial.part.clone(), share }),
        };
        let known: Vec<_> = [Some(steady), trial].into_iter().flatten().collect();
        Ok(Resolved { fresh: self.fresh(newest, &known), versions, choice, known, files })
    }

    /// What is in the folder, where it runs and was not loaded before.
    fn fresh(&self, newest: Sources, runs: &[Known]) -> Option<Fresh> {
        let (handler, digest) = (newest.handler.name.clone(), newest.origin.digest);
        let has = |known: &[Known]| known.iter().any(|known| known.origin.digest == digest);
        let is_fresh = has(runs) && !self.known.get(&handler).is_some_and(|before| has(before));
        let bytes = newest.bytes.filter(|_| is_fresh)?;
        Some(Fresh { handler, digest, bytes })
    }

    /// The handler with an earlier component.
    fn stored(&self, newest: &Sources, digest: &str) -> Result<Sources, String> {
        let Some(store) = &self.store else { return Err("there is no store of versions".to_owned()) };
        let bytes = store.bytes(&newest.handler.name, digest).map_err(|error| error.to_string())?;
        let bytes = bytes.ok_or_else(|| format!("version {digest} is not kept any more"))?;
        Ok(newest.with_component(store.path(&newest.handler.name, digest), bytes))
    }

    /// Takes a version that is loaded already, or loads it and runs its cases.
    fn version(&self, sources: &Sources, cases: Option<&Path>) -> Result<Known, Vec<String>> {
        let of_handler = || self.known.get(&sources.handler.name).into_iter().flatten();
        let is_same = |known: &&Known| known.origin == sources.origin && known.part.handler == sources.handler;
        if let Some(known) = of_handler().find(is_same) {
            return Ok(known.clone());
        }
        let built = sources.build(&self.engine)?;
        if let Some(folder) = cases {
            rehearse(&sources.handler, &built, folder)?;
        }
        let (handler, origin) = (Arc::clone(&sources.handler), sources.origin.clone());
        let mut part = load::part(handler, built);
        // What is known of a component's failures stays known where only its policy changes.
        if let Some(known) = of_handler().find(|known| known.origin.digest == origin.digest) {
            part.tally = Arc::clone(&known.part.tally);
        }
        Ok(Known { origin, part })
    }
}
