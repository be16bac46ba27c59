//! From the files on disk to what an instance runs: the manifest with its drop-ins, the handlers' settings,
//! and their components. Nothing here talks to a broker.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde::Serialize;
use thiserror::Error;
use tidemill_policy::manifest::{self, Auth, BUCKET_SCHEME, Handler, Manifest, Problems, Runtime, SecretRef, Source};
use tidemill_policy::schema::Schemas;

use crate::invoker::wasm::{self, Engine, LoadError, WasmHandler};
use crate::version::Part;
use crate::{bucket, schemas, secrets};

/// The most drop-in manifests that are read.
const DROP_INS_MAX: usize = 10_000;

/// A manifest that was read and is valid.
#[derive(Debug)]
pub struct ManifestFile {
    /// The file.
    pub path: PathBuf,
    /// Its folder, which relative paths in it start from.
    pub base: PathBuf,
    /// What it says, drop-ins included.
    pub manifest: Manifest,
    /// What is probably not meant.
    pub warnings: Problems,
}

/// Why there is no manifest.
#[derive(Debug, Error)]
pub enum ReadError {
    /// There is no such file.
    #[error(
        "there is no manifest at {path}; name another with --manifest FILE, or write one, for example:\n\n    \
         [handler.hello]            # runs plugins/hello.wasm\n    \
         subject = \"greetings.>\"    # for each event on these subjects\n    \
         allow = {{ publish = [\"hello.said\"] }}\n",
        path = path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The components and drop-ins come from a bucket, and are not here.
    #[error(
        "{path}: runtime.plugins is bucket {bucket:?} in NATS, which was not copied to {folder} yet; `tidemill run` does so, \
         or without running anything: tidemill check --server",
        path = path.display(),
        folder = folder.display()
    )]
    NotCopied {
        /// The manifest.
        path: PathBuf,
        /// The bucket.
        bucket: String,
        /// Where its copy would be.
        folder: PathBuf,
    },
    /// There are more drop-ins than anyone could mean.
    #[error("{folder} holds more than {DROP_INS_MAX} drop-in manifests; is runtime.plugins right?", folder = folder.display())]
    TooMany {
        /// The folder.
        folder: PathBuf,
    },
    /// Something is wrong in the manifest or in its drop-ins.
    #[error("{0}")]
    Invalid(Problems),
}

/// Reads a manifest and the drop-ins in its folder of plugins.
///
/// # Errors
/// Where a file cannot be read, and for all that is wrong in them.
pub fn read(path: &Path) -> Result<ManifestFile, ReadError> {
    read_with(path, |path, base, text, alone| match alone {
        Some(runtime) => {
            let folder = tidy(&base.join(&runtime.plugins));
            if let Some(bucket) = runtime.bucket.clone().filter(|_| !bucket::is_complete(&folder)) {
                return Err(ReadError::NotCopied { path: path.to_owned(), bucket, folder });
            }
            read_drop_ins(&folder, path)
        }
        // Its plain text may still tell where the drop-ins are, so that what is wrong there is told at the same time.
        None => match manifest::plugins_folder(text) {
            Some(plugins) if plugins.starts_with(BUCKET_SCHEME) => Ok(Vec::new()),
            plugins => read_drop_ins(&base.join(plugins.as_deref().unwrap_or("plugins")), path),
        },
    })
}

/// Reads a manifest without the drop-ins of its folder: what the process needs to know before it can get at them. `drop_in` is
/// one to be looked at beside it, with its name.
///
/// # Errors
/// Where the file cannot be read, and for all that is wrong in it.
pub fn read_alone(path: &Path, drop_in: Option<(String, String)>) -> Result<ManifestFile, ReadError> {
    read_with(path, |_, _, _, _| Ok(drop_in.into_iter().collect()))
}

/// Reads a manifest with the drop-ins that are found by its path, its folder, its text, and what it says of the process if
/// that can be told.
fn read_with(
    path: &Path,
    drop_ins: impl FnOnce(&Path, &Path, &str, Option<&Runtime>) -> Result<Vec<(String, String)>, ReadError>,
) -> Result<ManifestFile, ReadError> {
    let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ReadError::Missing { path: path.to_owned() },
        _ => ReadError::Unreadable { path: path.to_owned(), source },
    })?;
    let base = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = path.display().to_string();
    let main = Source { path: &name, text: &text };
    let env = |name: &str| std::env::var(name).ok();
    // Only the main file says where the drop-ins are.
    let alone = manifest::parse(main, &[], &env).ok().map(|alone| alone.manifest.runtime);
    let drop_ins = drop_ins(path, &base, &text, alone.as_ref())?;
    let drop_ins: Vec<_> = drop_ins.iter().map(|(path, text)| Source { path, text }).collect();
    let parsed = manifest::parse(main, &drop_ins, &env).map_err(ReadError::Invalid)?;
    Ok(ManifestFile { path: path.to_owned(), base, manifest: parsed.manifest, warnings: parsed.warnings })
}

/// The `*.toml` files of a folder with their texts, sorted by name, without the manifest itself. No folder, no drop-ins.
fn read_drop_ins(folder: &Path, main: &Path) -> Result<Vec<(String, String)>, ReadError> {
    let unreadable = |path: &Path, source| ReadError::Unreadable { path: path.to_owned(), source };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(folder, error)),
    };
    let main = main.canonicalize().ok();
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        let is_manifest = path.extension().is_some_and(|end| end == "toml") && path.is_file();
        if is_manifest && path.canonicalize().ok() != main {
            paths.push(path);
        }
        if paths.len() > DROP_INS_MAX {
            return Err(ReadError::TooMany { folder: folder.to_owned() });
        }
    }
    paths.sort();
    let read = |path: PathBuf| match std::fs::read_to_string(&path) {
        Ok(text) => Ok((tidy(&path).display().to_string(), text)),
        Err(error) => Err(unreadable(&path, error)),
    };
    paths.into_iter().map(read).collect()
}

/// A path without the `./` that joining with the folder `.` leaves.
pub fn tidy(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != std::path::Component::CurDir).collect()
}

/// Where compiled components are kept: what the manifest says, else the user's cache folder; nowhere if there
/// is no such folder either.
pub fn cache_dir(configured: Option<&Path>, base: &Path, env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let folder = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    match configured {
        Some(path) => Some(base.join(path)),
        None => folder("XDG_CACHE_HOME")
            .or_else(|| folder("HOME").map(|home| home.join(".cache")))
            .map(|cache| cache.join("tidemill")),
    }
}

/// The file of a handler's component.
pub fn component_path(file: &ManifestFile, handler: &Handler) -> PathBuf {
    component_path_in(&file.base, &file.manifest.runtime.plugins, handler)
}

/// The file of a handler's component, with the folder of plugins in the folder `base` of the manifest.
pub fn component_path_in(base: &Path, plugins: &Path, handler: &Handler) -> PathBuf {
    tidy(&base.join(plugins).join(&handler.component))
}

/// The files that a handler's table names.
pub fn files(file: &ManifestFile, handler: &Handler) -> Vec<PathBuf> {
    let secrets = handler.secrets.values().filter_map(|secret| match secret {
        SecretRef::File(path) => Some(path),
        SecretRef::Env(_) => None,
    });
    let schemas = handler.schema.files();
    let mut files: Vec<_> = secrets.chain(schemas).map(|path| file.base.join(path)).collect();
    files.push(component_path(file, handler));
    files
}

/// A handler and what came of loading it.
pub struct Loaded {
    /// The handler.
    pub handler: Arc<Handler>,
    /// The component and its schemas, or all that is wrong.
    pub result: Result<(WasmHandler, Arc<Schemas>), Vec<String>>,
    /// How long it took.
    pub elapsed: Duration,
}

/// What one version of a handler is made of beside its policy: two that have the same are the same.
#[derive(Clone, PartialEq, Eq)]
pub struct Origin {
    /// The digest of its component.
    pub digest: String,
    /// Its `config` and the values of its `secrets`.
    settings: BTreeMap<String, String>,
    /// The texts of its schemas.
    schemas: schemas::Files,
}

/// What a handler is made of, read and not yet compiled.
pub struct Sources {
    /// The handler.
    pub handler: Arc<Handler>,
    /// The file of its component.
    pub path: PathBuf,
    /// What is in it; nothing where it cannot be read.
    pub bytes: Option<Vec<u8>>,
    /// What tells it from another version.
    pub origin: Origin,
    schemas: Arc<Schemas>,
    /// What is wrong with all that.
    faults: Vec<String>,
}

/// One thing that keeps the handlers from running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The table in the manifest that it is about.
    pub key: String,
    /// What is wrong, and the remedy.
    pub message: String,
}

/// Loads the components of all handlers, as many at once as there are processors.
pub async fn handlers(file: &ManifestFile, engine: &Engine) -> Vec<Loaded> {
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let loading = file.manifest.handlers.values().map(|one| handler(file, engine, one));
    futures::stream::iter(loading).buffered(at_once).collect().await
}

/// Loads the component of a handler.
pub async fn handler(file: &ManifestFile, engine: &Engine, handler: &Handler) -> Loaded {
    let handler = Arc::new(handler.clone());
    let (engine, base, path) = (engine.clone(), file.base.clone(), component_path(file, &handler));
    let given = Arc::clone(&handler);
    let started = Instant::now();
    let result = tokio::task::spawn_blocking(move || sources(&base, path, &given).build(&engine)).await;
    let result = result.unwrap_or_else(|error| Err(vec![format!("loading the component failed: {error}")]));
    Loaded { handler, result, elapsed: started.elapsed() }
}

/// Reads what a handler is made of; `base` is the folder of the manifest.
pub fn sources(base: &Path, path: PathBuf, handler: &Arc<Handler>) -> Sources {
    let (settings, mut faults) = settings(handler, base);
    let (schemas, texts) = schemas::read_with_files(handler, base);
    let schemas = schemas.unwrap_or_else(|more| {
        faults.extend(more);
        Schemas::default()
    });
    let bytes = wasm::read(&path, handler).map_err(|error| faults.push(error.to_string())).ok();
    let digest = wasm::digest(bytes.as_deref().unwrap_or_default());
    let origin = Origin { digest, settings, schemas: texts };
    Sources { handler: Arc::clone(handler), path, bytes, origin, schemas: Arc::new(schemas), faults }
}

impl Sources {
    /// The files of its schemas, those included that they refer to.
    pub fn schema_files(&self) -> Vec<PathBuf> {
        self.origin.schemas.keys().cloned().collect()
    }

    /// The same with another component.
    #[must_use]
    pub fn with_component(&self, path: PathBuf, bytes: Vec<u8>) -> Sources {
        let origin = Origin { digest: wasm::digest(&bytes), ..self.origin.clone() };
        let (handler, schemas, faults) = (Arc::clone(&self.handler), Arc::clone(&self.schemas), self.faults.clone());
        Sources { handler, path, bytes: Some(bytes), origin, schemas, faults }
    }

    /// Compiles the component, which takes up to seconds of CPU time.
    ///
    /// # Errors
    /// All that is wrong with what the handler is made of.
    pub fn build(&self, engine: &Engine) -> Result<(WasmHandler, Arc<Schemas>), Vec<String>> {
        let mut faults = self.faults.clone();
        let settings = || self.origin.settings.clone();
        let built = self.bytes.as_ref().map(|bytes| WasmHandler::from_bytes(engine, bytes, &self.handler, settings()));
        match built {
            Some(Ok(built)) if faults.is_empty() => return Ok((built, Arc::clone(&self.schemas))),
            Some(Err(problem)) => faults.push(LoadError { file: self.path.clone(), problem }.to_string()),
            Some(Ok(_)) | None => {}
        }
        Err(faults)
    }
}

/// Makes a version of a handler of what was loaded.
pub fn part(handler: Arc<Handler>, (invoker, schemas): (WasmHandler, Arc<Schemas>)) -> Part<Arc<WasmHandler>> {
    let component = invoker.inspection().digest.clone();
    Part { handler, invoker: Arc::new(invoker), schemas, component, tally: Arc::default() }
}

impl Loaded {
    /// The version, or all that is wrong with it.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn into_part(self) -> Result<Part<Arc<WasmHandler>>, Vec<Fault>> {
        let Loaded { handler, result, .. } = self;
        match result {
            Ok(built) => Ok(part(handler, built)),
            Err(messages) => Err(messages.into_iter().map(|message| Fault::of_handler(&handler, message)).collect()),
        }
    }
}

impl Fault {
    /// A fault of a handler.
    pub fn of_handler(handler: &Handler, message: String) -> Fault {
        Fault { key: format!("handler.{}", handler.name), message }
    }
}

/// The handler's `config` and the values of its `secrets`, and which of the latter cannot be read.
fn settings(handler: &Handler, base: &Path) -> (BTreeMap<String, String>, Vec<String>) {
    let mut settings = handler.config.clone();
    let mut faults = Vec::new();
    for (key, secret) in &handler.secrets {
        match secrets::read(secret, base) {
            Ok(value) => {
                settings.insert(key.clone(), value);
            }
            Err(error) => faults.push(format!("secrets.{key}: {error}")),
        }
    }
    (settings, faults)
}

/// The secrets of `[nats]` that cannot be read.
pub fn nats_faults(file: &ManifestFile) -> Vec<Fault> {
    let secret: Option<&SecretRef> = match &file.manifest.nats.auth {
        Auth::None => None,
        Auth::Credentials(secret) | Auth::Nkey(secret) | Auth::Token(secret) => Some(secret),
        Auth::User { password, .. } => Some(password),
    };
    let error = secret.and_then(|secret| secrets::read(secret, &file.base).err());
    error.map(|error| Fault { key: "nats".into(), message: error.to_string() }).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_manifest_says_or_in_the_users_cache_folder() {
        #[track_caller]
        fn check(configured: Option<&str>, env: &[(&str, &str)], expected: Option<&str>) {
            let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            let folder = cache_dir(configured.map(Path::new), Path::new("/etc/tm"), &env);
            assert_eq!(folder.as_deref(), expected.map(Path::new));
        }
        check(Some("cache"), &[("HOME", "/home/a")], Some("/etc/tm/cache"));
        check(Some("/var/cache/tm"), &[], Some("/var/cache/tm"));
        check(None, &[("HOME", "/home/a")], Some("/home/a/.cache/tidemill"));
        check(None, &[("HOME", "/home/a"), ("XDG_CACHE_HOME", "/c")], Some("/c/tidemill"));
        check(None, &[("HOME", "/home/a"), ("XDG_CACHE_HOME", "")], Some("/home/a/.cache/tidemill"));
        check(None, &[("HOME", "relative")], None);
        check(None, &[], None);
    }

    #[test]
    fn drop_ins_are_the_toml_files_beside_the_components_in_order() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let main = folder.path().join("tidemill.toml");
        for name in ["tidemill.toml", "b.toml", "a.toml", "a.wasm", "notes.txt"] {
            std::fs::write(folder.path().join(name), name).expect("written");
        }
        std::fs::create_dir(folder.path().join("folder.toml")).expect("made");
        let found = read_drop_ins(folder.path(), &main).expect("read");
        assert_eq!(found.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), ["a.toml", "b.toml"]);
        assert!(read_drop_ins(&folder.path().join("missing"), &main).expect("read").is_empty());
    }
}
