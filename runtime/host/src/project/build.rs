//! Building a project: its tool is run, and what it leaves is looked at before it takes the place of an earlier component.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde::Deserialize;
use thiserror::Error;
use tokio::process::Command;

use super::recipe::{Place, Project, RECIPES};

/// Why there is no component.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The folder holds no project.
    #[error(
        "{folder} holds no project; one has a {markers}. `tidemill new NAME --lang LANG` writes one",
        folder = folder.display(), markers = markers()
    )]
    NoProject {
        /// The folder.
        folder: PathBuf,
    },
    /// What it takes is not there.
    #[error("cannot build {folder}: {missing}", folder = folder.display(), missing = missing.join("; "))]
    Missing {
        /// The project's folder.
        folder: PathBuf,
        /// What is missing and how to get it, one text for each.
        missing: Vec<String>,
    },
    /// The tool cannot be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The tool.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The tool found something wrong, which it has shown.
    #[error("{program} failed ({status}) in {folder}; what it says is above", folder = folder.display())]
    Failed {
        /// The tool.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The project's folder.
        folder: PathBuf,
    },
    /// The tool succeeded, but where is what it made?
    #[error("{program} succeeded, but {why}")]
    NoResult {
        /// The tool.
        program: String,
        /// What was found instead.
        why: String,
    },
    /// What was built is no handler that can run.
    #[error("{file} {why}", file = file.display())]
    Unfit {
        /// What was built.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn markers() -> String {
    let markers: Vec<_> = RECIPES.iter().map(|recipe| recipe.marker).collect();
    let (last, others) = markers.split_last().unwrap_or((&"", &[]));
    format!("{} or {last}", others.join(", "))
}

/// A component that was built and is in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// How long the tool took.
    pub elapsed: Duration,
}

/// Builds a project and puts the component in place in one step, after `check` has found nothing wrong with its bytes.
/// What the tool says goes to standard error. Ends the tool where the future is dropped.
///
/// # Errors
///
/// If a tool is missing or fails, or if what it makes cannot be found, is unfit, or cannot be put in place. Then what is
/// in the place stays.
pub async fn build(
    project: &Project,
    to: &Path,
    check: impl FnOnce(&[u8]) -> Result<(), String> + Send + 'static,
) -> Result<Built, BuildError> {
    let start = Instant::now();
    let folder = tempfile::tempdir().map_err(|source| BuildError::File {
        doing: "make a folder in",
        path: std::env::temp_dir(),
        source,
    })?;
    let result = run(project, &folder.path().join("handler.wasm")).await?;
    let elapsed = start.elapsed();
    let bytes = fs::read(&result).map_err(|source| BuildError::File { doing: "read", path: result.clone(), source })?;
    let size_bytes = bytes.len() as u64;
    let checked = tokio::task::spawn_blocking(move || check(&bytes).map(|()| bytes)).await;
    let checked = checked.unwrap_or_else(|error| Err(format!("cannot be checked: {error}")));
    let bytes = checked.map_err(|why| BuildError::Unfit { file: result, why })?;
    put(&bytes, to)?;
    Ok(Built { size_bytes, elapsed })
}

/// Runs the project's tool and returns the file that it made.
async fn run(project: &Project, told: &Path) -> Result<PathBuf, BuildError> {
    let missing = project.lacks();
    if !missing.is_empty() {
        return Err(BuildError::Missing { folder: project.folder.clone(), missing });
    }
    let command = project.command(told);
    let program = Path::new(command.get_program()).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let start = |source| BuildError::Start { program: program.clone(), source };
    let child = Command::from(command).kill_on_drop(true).spawn().map_err(start)?;
    let output = child.wait_with_output().await.map_err(start)?;
    if !output.status.success() {
        return Err(BuildError::Failed { program, status: output.status, folder: project.folder.clone() });
    }
    let found = match project.recipe.result {
        Place::Told if told.is_file() => Ok(told.to_owned()),
        Place::Told => Err(format!("made no {}", told.display())),
        Place::Messages => told_by_cargo(&output.stdout, &project.folder),
        Place::Folders(folders) => found_in(&project.folder, folders, project.name.kebab()),
    };
    found.map_err(|why| BuildError::NoResult { program, why })
}

/// One of the messages of cargo.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// The WebAssembly file that cargo made of the package in the folder.
fn told_by_cargo(messages: &[u8], folder: &Path) -> Result<PathBuf, String> {
    let manifest = folder.canonicalize().unwrap_or_else(|_| folder.to_owned()).join("Cargo.toml");
    let messages =
        messages.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Message>(line).ok());
    let own = messages.filter(|message| message.reason == "compiler-artifact" && message.manifest_path == manifest);
    let mut files = own.flat_map(|message| message.filenames);
    files.find(|file| file.extension().is_some_and(|end| end == "wasm")).ok_or_else(|| {
        "made no .wasm file of this package; its Cargo.toml needs crate-type = [\"cdylib\"] below [lib]".to_owned()
    })
}

/// The only WebAssembly file in the folders, or the one of this name.
fn found_in(project: &Path, folders: &[&str], name: &str) -> Result<PathBuf, String> {
    let entries = folders.iter().filter_map(|folder| fs::read_dir(project.join(folder)).ok()).flatten();
    let files = entries.filter_map(Result::ok).map(|entry| entry.path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|end| end == "wasm")).collect();
    let places = folders.join("/ or ");
    if let Some(index) = files.iter().position(|file| file.file_stem().is_some_and(|stem| stem == name)) {
        return Ok(files.swap_remove(index));
    }
    match files.len() {
        1 => Ok(files.swap_remove(0)),
        0 => Err(format!("there is no .wasm file in {places}/ of {}", project.display())),
        _ => {
            Err(format!("there are several .wasm files in {places}/ of {}, and none is {name}.wasm", project.display()))
        }
    }
}

/// Writes a component so that nobody ever reads half of it.
fn put(bytes: &[u8], to: &Path) -> Result<(), BuildError> {
    let failed = |doing, path: &Path, source| BuildError::File { doing, path: path.to_owned(), source };
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|error| failed("make", folder, error))?;
    let scratch = tempfile::NamedTempFile::new_in(folder).map_err(|error| failed("write in", folder, error))?;
    fs::write(scratch.path(), bytes).map_err(|error| failed("write", scratch.path(), error))?;
    readable(scratch.path()).map_err(|error| failed("write", scratch.path(), error))?;
    scratch.persist(to).map(drop).map_err(|error| failed("write", to, error.error))
}

/// Lets others read the file: temporary ones are for their owner only.
#[cfg(unix)]
fn readable(file: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_says_where_the_component_is() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let home = home.path().canonicalize().expect("a path");
        let line = |manifest: &Path, file: &str| {
            let message = serde_json::json!({
                "reason": "compiler-artifact", "manifest_path": manifest, "filenames": [file],
            });
            format!("{message}\n")
        };
        let own = home.join("Cargo.toml");
        let others = line(&home.join("sdk/Cargo.toml"), "/t/sdk.wasm") + &line(&own, "/t/a.rlib") + "no JSON\n";
        assert!(told_by_cargo(others.as_bytes(), &home).is_err_and(|why| why.contains("cdylib")));
        let all = others + &line(&own, "/t/a.wasm");
        assert_eq!(told_by_cargo(all.as_bytes(), &home), Ok(PathBuf::from("/t/a.wasm")));
    }

    #[test]
    fn the_component_is_found_where_tools_leave_it() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let find =
            || found_in(home.path(), &["build", "dist"], "mail").map(|file| file.file_name().map(ToOwned::to_owned));
        assert!(find().is_err_and(|why| why.contains("no .wasm file in build/ or dist/")));
        fs::create_dir(home.path().join("dist")).expect("made");
        for (file, expected) in
            [("a.js", None), ("a.wasm", Some("a.wasm")), ("b.wasm", None), ("mail.wasm", Some("mail.wasm"))]
        {
            fs::write(home.path().join("dist").join(file), "").expect("written");
            assert_eq!(find().ok().flatten(), expected.map(Into::into), "{file}");
        }
    }

    #[test]
    fn components_are_put_in_place_for_everyone_to_read() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let to = home.path().join("plugins/a.wasm");
        for bytes in [&b"one"[..], b"two"] {
            put(bytes, &to).expect("written");
            assert_eq!(fs::read(&to).expect("read"), bytes);
        }
        assert_eq!(fs::read_dir(home.path().join("plugins")).expect("listed").count(), 1);
    }
}
