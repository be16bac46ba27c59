//! Going back to an earlier version by hand.

use std::fs;

use tidemill_policy::reload::guard::Tally;
use tidemill_policy::reload::start::{Kept, Pin};

use super::Reloader;
use crate::invoker::wasm::digest;
use crate::load;
use crate::versions::{Outcome, Store, short};

impl Reloader {
    /// Has an earlier version run, from the next reload on, until another file is put into the folder. Returns what was
    /// to run before.
    pub(super) fn pin(&self, handler: &str, to: Option<&str>) -> Result<Kept, String> {
        let Some(versions) = self.current.handlers.get(handler) else {
            let names: Vec<_> = self.current.handlers.keys().map(String::as_str).collect();
            return Err(format!("there is no handler {handler:?}; the handlers are {}", names.join(", ")));
        };
        let Some(store) = &self.loader.store else {
            return Err("no versions are kept here, since runtime.versions cannot be written".to_owned());
        };
        let path =
            load::component_path_in(&self.base, &self.current.manifest.runtime.plugins, &versions.newest().handler);
        let in_folder = fs::read(&path).map(|bytes| digest(&bytes));
        let in_folder = in_folder.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let runs = &versions.newest().component;
        let target = match to {
            Some(start) => named(store, handler, start)?,
            None if versions.trial.is_some() => versions.steady.component.clone(),
            None => store.before(handler, runs).map_err(|error| error.to_string())?.ok_or_else(|| {
                format!("no version of {handler} is kept but the one that runs; see tidemill history {handler}")
            })?,
        };
        if target == *runs && versions.trial.is_none() {
            return Err(format!("version {} of {handler} runs already", short(runs)));
        }
        let before = store.state(handler).map_err(|error| error.to_string())?;
        let why = format!("gone back to by hand from {}", short(runs));
        let pin =
            (target != in_folder).then(|| Pin { digest: target.clone(), instead_of: in_folder, why: why.clone() });
        store.set_state(handler, &Kept { kept: Some(target.clone()), pin }).map_err(|error| error.to_string())?;
        self.note(handler, &target, Outcome::RolledBack, why, Tally::default());
        Ok(before)
    }

    /// Undoes [`Reloader::pin`], where the version could not be loaded.
    pub(super) fn unpin(&self, handler: &str, before: &Kept) {
        if let Some(store) = &self.loader.store
            && let Err(error) = store.set_state(handler, before)
        {
            tracing::error!(handler, %error, "a restart will try the earlier version again");
        }
    }
}

/// The kept version whose digest begins like this.
fn named(store: &Store, handler: &str, start: &str) -> Result<String, String> {
    let kept = store.list(handler).map_err(|error| error.to_string())?;
    let mut found = kept.into_iter().filter(|digest| digest.starts_with(start));
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => {
            Err(format!("no version of {handler} that begins with {start:?} is kept; see tidemill history {handler}"))
        }
        (Some(_), Some(_)) => {
            Err(format!("several versions of {handler} begin with {start:?}; give more of the digest"))
        }
    }
}
