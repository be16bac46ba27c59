//! Watching over new versions: which are on trial, how they do, and what follows.
//!
//! What was decided is written down before it counts, so that a process that is killed in the middle of it goes on in the
//! same way when it is started again.

use std::collections::BTreeMap;

use tidemill_policy::decide::rfc3339;
use tidemill_policy::manifest::Handler;
use tidemill_policy::publication::retries_through_stream;
use tidemill_policy::reload::guard::{self, Tally, Verdict};
use tidemill_policy::reload::start::{Choice, Kept, Pin};
use tokio::time::Instant;

use super::{Reloader, Wasm};
use crate::broker::nats::Nats;
use crate::broker::nats::connect;
use crate::clock::Clock;
use crate::operate::letters;
use crate::troubles::Effect;
use crate::version::Versions;
use crate::versions::{Entry, Outcome, short};

/// A version on trial.
pub(super) struct Watched {
    /// Its digest.
    digest: String,
    since: Instant,
    /// What the version before had done by then.
    before: Tally,
}

impl Reloader {
    /// Remembers what was chosen to run, and watches over what is new.
    pub(super) fn note_choices(&mut self, choices: &BTreeMap<String, Choice>) {
        self.trials.retain(|name, _| choices.contains_key(name));
        for (name, choice) in choices {
            let Some(versions) = self.current.handlers.get(name).cloned() else { continue };
            let takes_none = versions.trial.as_ref().is_some_and(|trial| trial.share >= 1.0);
            versions.steady.invoker.rest(takes_none);
            match choice {
                Choice::Run { digest } => {
                    self.trials.remove(name);
                    self.status.troubles.end(&went_back(name));
                    self.keep(name, digest, Outcome::Loaded, String::new(), Tally::default());
                }
                Choice::Trial { new, .. } => {
                    self.status.troubles.end(&went_back(name));
                    self.watch_over(name, new, &versions);
                }
                Choice::Pinned { digest, why, .. } => {
                    self.trials.remove(name);
                    let why = format!("version {} runs, not the one in the folder: {why}", short(digest));
                    self.status.troubles.begin(&went_back(name), Effect::None, &why);
                }
            }
        }
    }

    fn watch_over(&mut self, name: &str, new: &str, versions: &Versions<Wasm>) {
        let Some(trial) = &versions.trial else { return };
        if self.trials.get(name).is_some_and(|watched| watched.digest == new) {
            return;
        }
        let reload = &trial.part.handler.reload;
        let guard = tidemill_policy::manifest::show_duration(reload.guard.unwrap_or_default());
        let old = short(&versions.steady.component);
        tracing::info!(
            handler = name,
            version = short(new),
            before = old,
            guard,
            share = trial.share,
            "a new version is on trial"
        );
        let why = format!("on trial for {guard}, instead of {old}");
        self.note(name, new, Outcome::Loaded, why, Tally::default());
        let before = versions.steady.tally.now();
        self.trials.insert(name.to_owned(), Watched { digest: new.to_owned(), since: Instant::now(), before });
    }

    /// Looks at what is on trial, and keeps it or goes back.
    pub(super) async fn judge(&mut self) {
        for name in self.trials.keys().cloned().collect::<Vec<_>>() {
            let (Some(watched), Some(versions)) = (self.trials.get(&name), self.current.handlers.get(&name)) else {
                continue;
            };
            let Some(trial) = &versions.trial else { continue };
            let reload = &trial.part.handler.reload;
            let (new, old) = (trial.part.tally.now(), versions.steady.tally.now());
            // Where both have enough events at the same time, that is what they are compared by.
            let beside = Tally {
                attempts: old.attempts.saturating_sub(watched.before.attempts),
                failures: old.failures.saturating_sub(watched.before.failures),
            };
            let old = if beside.attempts >= u64::from(reload.min_events) { beside } else { old };
            let versions = versions.clone();
            match guard::verdict(reload, old, new, watched.since.elapsed()) {
                Verdict::Wait => {}
                Verdict::Keep => self.keep_new(&name, versions, new).await,
                Verdict::GoBack { why } => self.go_back(&name, versions, new, why).await,
            }
        }
    }

    /// Ends a trial well.
    async fn keep_new(&mut self, name: &str, versions: Versions<Wasm>, counts: Tally) {
        let Some(trial) = versions.trial else { return };
        let digest = trial.part.component.clone();
        self.keep(name, &digest, Outcome::Kept, String::new(), counts);
        if self.settle(name, Versions::only(trial.part)).await {
            tracing::info!(handler = name, version = short(&digest), "the new version is kept");
        }
    }

    /// Ends a trial badly.
    async fn go_back(&mut self, name: &str, versions: Versions<Wasm>, counts: Tally, why: String) {
        let Some(trial) = versions.trial else { return };
        let (old, new) = (versions.steady.component.clone(), trial.part.component.clone());
        if let Some(store) = &self.loader.store {
            let pin = Pin { digest: old.clone(), instead_of: new.clone(), why: why.clone() };
            let kept = Kept { kept: Some(old.clone()), pin: Some(pin) };
            // Where the instance does not answer, this comes again and again.
            let is_noted = store.state(name).is_ok_and(|present| present == kept);
            if !is_noted && let Err(error) = store.set_state(name, &kept) {
                tracing::error!(handler = name, %error, "a restart will put the version that failed on trial again");
            }
        }
        versions.steady.invoker.rest(false);
        let handler = versions.steady.handler.clone();
        if !self.settle(name, Versions::only(versions.steady)).await {
            return;
        }
        self.note(name, &new, Outcome::WentBack, why.clone(), counts);
        tracing::error!(handler = name, from = short(&new), to = short(&old), "went back to the version before: {why}");
        let shown = format!(
            "went back from version {} to {}: {why}; put a corrected component into the folder",
            short(&new),
            short(&old)
        );
        self.status.troubles.note(&went_back(name), Effect::None, &shown);
        if handler.reload.rerun && retries_through_stream(&handler) {
            match self.rerun(&handler, &new).await {
                Ok(count) => {
                    tracing::warn!(handler = name, count, "events that the new version gave up on are attempted again");
                }
                Err(error) => tracing::error!(
                    handler = name,
                    %error,
                    "what the new version gave up on stays among the dead letters; tidemill dlq replay --handler {name} --all"
                ),
            }
        }
    }

    /// Has the versions of one handler run that its trial ended with.
    async fn settle(&mut self, name: &str, versions: Versions<Wasm>) -> bool {
        let mut generation = self.current.clone();
        generation.handlers.insert(name.to_owned(), versions);
        if self.order(generation.clone()).await.is_err() {
            // It is looked at again soon.
            return false;
        }
        self.trials.remove(name);
        self.loader.forget_others(name, &generation);
        self.current = generation;
        self.status.reloads.has_new_generation();
        true
    }

    /// Sends the events on their way again that a version gave up on.
    async fn rerun(&self, handler: &Handler, version: &str) -> anyhow::Result<usize> {
        let (client, link) = connect::connect(&self.target, "tidemill reload", std::sync::Arc::default()).await?;
        let nats = Nats::new(client, link);
        let is_wanted = |entry: &letters::Entry| {
            let last = entry.letter.arrival.history.errors.last();
            entry.handler == handler.name && last.is_some_and(|error| error.component == version)
        };
        let mut count = 0;
        for place in letters::places(&nats, &self.current.manifest, Some(handler)).await? {
            for entry in place.select(is_wanted).await? {
                letters::replay(&place.shelf, &self.current.manifest, &entry, false).await?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Writes down that a version needs no trial any more.
    fn keep(&self, name: &str, digest: &str, outcome: Outcome, why: String, counts: Tally) {
        let Some(store) = &self.loader.store else { return };
        let kept = Kept { kept: Some(digest.to_owned()), pin: None };
        if store.state(name).is_ok_and(|present| present == kept) {
            return;
        }
        self.note(name, digest, outcome, why, counts);
        let written = store.set_state(name, &kept).and_then(|()| store.tidy(name, self.keep_versions, &[digest]));
        if let Err(error) = written {
            tracing::warn!(handler = name, %error, "this version cannot be gone back to");
        }
    }

    /// Adds to the history of a handler.
    pub(super) fn note(&self, name: &str, digest: &str, outcome: Outcome, why: String, counts: Tally) {
        let Some(store) = &self.loader.store else { return };
        let entry = Entry {
            time: rfc3339(Clock::System.now_ms()),
            digest: digest.to_owned(),
            outcome,
            why: (!why.is_empty()).then_some(why),
            attempts: counts.attempts,
            failures: counts.failures,
            instance: self.status.name.clone(),
        };
        if let Err(error) = store.record(name, &entry) {
            tracing::warn!(handler = name, %error, "the history has a gap");
        }
    }
}

/// What is in trouble while an earlier version runs than the one in the folder.
fn went_back(handler: &str) -> String {
    format!("version of {handler}")
}
