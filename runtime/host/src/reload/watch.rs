//! Watching the files that a generation is made of. The system tells of changes where it can; besides, they are looked
//! at every now and then, for file systems that tell nothing.
//!
//! A change counts when nothing has changed for a moment, so that a file that is being written is not taken for one
//! that is there. Whatever is found is only a reason to load; what is wrong with it is for the gate to say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::report::{Ask, Request};

/// Why it is asked for a reload.
pub(super) const CAUSE: &str = "files have changed";

/// How long it takes at least from one look to the next, in a folder that something else writes to all the time.
const PAUSE: Duration = Duration::from_millis(50);
/// For how long nothing must have changed.
const QUIET: Duration = Duration::from_millis(300);
/// After how long a change counts although something changes all the time.
const QUIET_MAX: Duration = Duration::from_secs(30);
/// The most entries of one folder that are looked at.
const ENTRIES_MAX: usize = 100_000;

/// What is no source: what tools make and fetch, and what is watched besides.
const NO_SOURCES: [&str; 8] =
    ["target", "node_modules", "build", "dist", "zig-out", "__pycache__", "plugins", "tidemill.toml"];

/// Where a generation comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    /// Files, by their paths.
    pub files: BTreeSet<PathBuf>,
    /// Folders of which every component, manifest and case counts.
    pub folders: BTreeSet<PathBuf>,
    /// Folders of which all counts that is the source of something, at all depths.
    pub sources: BTreeSet<PathBuf>,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    #[cfg(unix)]
    inode: (u64, u64),
}

type Snapshot = BTreeMap<PathBuf, Stamp>;

/// Asks for a reload whenever something has changed, until `stop`.
pub async fn run(
    places: watch::Receiver<Places>,
    poll: Duration,
    requests: mpsc::Sender<Request>,
    stop: CancellationToken,
) {
    let mut watch = Watch::new(places, poll);
    while stop.run_until_cancelled(watch.changed()).await.is_some() {
        let request = Request { ask: Ask::Reload, cause: CAUSE.to_owned(), answer: None };
        if requests.send(request).await.is_err() {
            return;
        }
    }
}

/// Notices changes.
pub struct Watch {
    places: watch::Receiver<Places>,
    poll: Duration,
    watcher: Option<RecommendedWatcher>,
    told: mpsc::Receiver<()>,
    /// The folders that the system tells changes of.
    folders: BTreeMap<PathBuf, Stamp>,
    seen: Option<Snapshot>,
}

impl Watch {
    /// Watches places, which may change; `poll` is how often they are looked at where the system tells of nothing.
    pub fn new(places: watch::Receiver<Places>, poll: Duration) -> Watch {
        let (tell, told) = mpsc::channel(1);
        Watch { places, poll, watcher: watcher(tell), told, folders: BTreeMap::new(), seen: None }
    }

    /// Waits until something has changed since the last call and has settled. What has changed before the first call is
    /// not known, so it returns at once.
    pub async fn changed(&mut self) {
        loop {
            let current = self.places.borrow_and_update().clone();
            if let Some(watcher) = &mut self.watcher {
                follow(watcher, &mut self.folders, &current);
            }
            let found = snapshot(&current).await;
            if self.seen.as_ref() != Some(&found) {
                self.seen = Some(settle(&current, found).await);
                return;
            }
            tokio::select! {
                Some(()) = self.told.recv() => sleep(PAUSE).await,
                Ok(()) = self.places.changed() => {
                    // What is watched from now on was loaded just now.
                    let current = self.places.borrow().clone();
                    self.seen = Some(merge(self.seen.as_ref(), snapshot(&current).await));
                }
                () = sleep(self.poll) => {}
            }
        }
    }
}

/// When a source in a folder was changed last.
pub fn last_change(folder: &Path) -> Option<SystemTime> {
    let mut all = Snapshot::new();
    note_sources(&mut all, folder);
    all.into_values().filter_map(|stamp| stamp.modified).max()
}

/// Adds what is looked at for the first time to what was seen; of the rest, a change is still to be noticed.
fn merge(seen: Option<&Snapshot>, found: Snapshot) -> Snapshot {
    let known = |path: &PathBuf| seen.and_then(|seen| seen.get(path)).cloned();
    found.into_iter().map(|(path, stamp)| (path.clone(), known(&path).unwrap_or(stamp))).collect()
}

/// What the system tells changes by, if it can.
fn watcher(tell: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let made = notify::recommended_watcher(move |told: notify::Result<notify::Event>| {
        // Where one change is told already, another one tells no more. An error may be that some were missed.
        if told.map_or(true, |event| is_change(event.kind)) {
            let _ = tell.try_send(());
        }
    });
    let failed =
        |error| tracing::info!(%error, "the system tells of no changes of files; looking at them now and then");
    made.map_err(failed).ok()
}

/// Whether what happened may have changed a file. Looking at the files opens folders, which is told of as well: who takes
/// that for a change looks for ever.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

/// Watches the folders of all places, and anew those that were replaced.
fn follow(watcher: &mut RecommendedWatcher, known: &mut BTreeMap<PathBuf, Stamp>, places: &Places) {
    let of_files = places.files.iter().filter_map(|file| file.parent());
    let mut folders: BTreeSet<PathBuf> = of_files.map(Path::to_owned).chain(places.folders.iter().cloned()).collect();
    // A folder that was deleted is told of by the one that it was in.
    folders.extend(places.folders.iter().filter_map(|folder| folder.parent().map(Path::to_owned)));
    places.sources.iter().for_each(|folder| {
        walk(folder, &mut |path, is_folder| {
            if is_folder {
                folders.insert(path.to_owned());
            }
        });
    });
    for folder in folders {
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        let Some(now) = identity(&folder) else {
            known.remove(&folder);
            continue;
        };
        if known.get(&folder) == Some(&now) {
            continue;
        }
        let _ = watcher.unwatch(&folder);
        match watcher.watch(&folder, RecursiveMode::NonRecursive) {
            Ok(()) => drop(known.insert(folder, now)),
            Err(error) => tracing::debug!(folder = %folder.display(), %error, "not told of changes"),
        }
    }
}

/// Which folder it is, whatever is in it.
fn identity(folder: &Path) -> Option<Stamp> {
    let stamp = stamp(folder)?;
    Some(Stamp { bytes: 0, modified: None, ..stamp })
}

/// Waits until nothing has changed for a moment.
async fn settle(places: &Places, mut found: Snapshot) -> Snapshot {
    let end = Instant::now() + QUIET_MAX;
    loop {
        sleep(QUIET).await;
        let again = snapshot(places).await;
        if again == found || Instant::now() > end {
            return again;
        }
        found = again;
    }
}

async fn snapshot(places: &Places) -> Snapshot {
    let places = places.clone();
    let taken = tokio::task::spawn_blocking(move || {
        let mut all = Snapshot::new();
        places.files.iter().for_each(|file| note(&mut all, file));
        places.folders.iter().for_each(|folder| note_folder(&mut all, folder));
        places.sources.iter().for_each(|folder| note_sources(&mut all, folder));
        all
    });
    taken.await.unwrap_or_default()
}

fn note(all: &mut Snapshot, file: &Path) {
    if let Some(stamp) = stamp(file) {
        all.insert(file.to_owned(), stamp);
    }
}

fn note_folder(all: &mut Snapshot, folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.take(ENTRIES_MAX).filter_map(Result::ok).map(|entry| entry.path()) {
        match path.extension().and_then(|end| end.to_str()) {
            Some("wasm" | "toml") => note(all, &path),
            Some("cases") => {
                let cases = fs::read_dir(&path).into_iter().flatten().take(ENTRIES_MAX);
                cases.filter_map(Result::ok).for_each(|case| note(all, &case.path()));
            }
            _ => {}
        }
    }
}

fn note_sources(all: &mut Snapshot, folder: &Path) {
    walk(folder, &mut |path, is_folder| {
        if !is_folder {
            note(all, path);
        }
    });
}

/// Visits a folder of sources, and the folders and files in it that are sources, without following links to folders.
fn walk(folder: &Path, visit: &mut impl FnMut(&Path, bool)) {
    visit(folder, true);
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.take(ENTRIES_MAX).filter_map(Result::ok) {
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        if name.starts_with('.') || NO_SOURCES.contains(&&*name) || path.extension().is_some_and(|end| end == "wasm") {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, visit);
        } else {
            visit(&path, false);
        }
    }
}

/// The state of what a path leads to in the end.
fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        bytes: metadata.len(),
        modified: metadata.modified().ok(),
        #[cfg(unix)]
        inode: {
            use std::os::unix::fs::MetadataExt;
            (metadata.dev(), metadata.ino())
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told comes in the order in which it happened.
    #[tokio::test]
    async fn looking_at_the_files_is_no_change() {
        // The folder above is watched too, and others make theirs beside this one.
        let above = tempfile::tempdir().expect("a temporary folder");
        let folder = above.path().join("project");
        fs::create_dir(&folder).expect("a folder");
        let file = |name: &str| folder.join(name);
        fs::write(file("h.wasm"), "a").expect("written");
        let (tell, mut told) = mpsc::unbounded_channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let event = event.expect("the system tells of changes");
            if is_change(event.kind) {
                let _ = tell.send(event.paths);
            }
        })
        .expect("a watcher");
        let places = Places {
            files: [file("tidemill.toml")].into(),
            folders: [folder.clone()].into(),
            sources: BTreeSet::new(),
        };
        follow(&mut watcher, &mut BTreeMap::new(), &places);
        for _ in 0..3 {
            assert_eq!(snapshot(&places).await.len(), 1);
            fs::read(file("h.wasm")).expect("read");
        }
        fs::write(file("tidemill.toml"), "b").expect("written");
        assert_eq!(told.recv().await.expect("told"), [file("tidemill.toml")]);
    }
}
