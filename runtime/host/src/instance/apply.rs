//! A new generation takes the place of the one that runs: as a whole, or not at all.
//!
//! What only changes what is done with the next event is swapped in place, and its consumers never notice. What
//! concerns consumers ends and starts the handler: its events wait in their stream meanwhile. Handlers that did not
//! change are not touched.

use std::sync::Arc;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tidemill_policy::manifest::Handler;
use tidemill_policy::reload::diff::{Change, diff};

use super::start::{self, Consumers};
use super::{Generation, Site, StartError, division};
use crate::broker::nats::preflight::{self, Conflicts};
use crate::broker::nats::streams::{self, StreamError};
use crate::invoker::Invoker;
use crate::operate::retries;
use crate::service;

/// What a new generation has changed, by the names of handlers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Applied {
    /// Have started.
    pub added: Vec<String>,
    /// Have drained and stopped.
    pub removed: Vec<String>,
    /// Take the next event with what is new.
    pub swapped: Vec<String>,
    /// Have drained, and started with what is new.
    pub restarted: Vec<String>,
    /// What an operator should know.
    pub notes: Vec<String>,
}

impl Applied {
    /// Whether all handlers are as they were.
    pub fn is_nothing(&self) -> bool {
        self.lists().all(|(_, names)| names.is_empty())
    }

    /// What has changed, on one line.
    pub fn summary(&self) -> String {
        let lists = self.lists().filter(|(_, names)| !names.is_empty());
        let lists: Vec<_> = lists.map(|(what, names)| format!("{what} {}", names.join(", "))).collect();
        if lists.is_empty() { "nothing has changed".to_owned() } else { lists.join("; ") }
    }

    fn lists(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        let Applied { added, removed, swapped, restarted, .. } = self;
        [("added", added), ("removed", removed), ("swapped", swapped), ("restarted", restarted)]
            .into_iter()
            .map(|(what, names)| (what, names.as_slice()))
    }
}

/// Why a generation cannot take the place of the one that runs, which goes on unchanged.
#[derive(Debug, Error)]
pub enum Refused {
    /// There is no server yet to compare it with.
    #[error("the instance is not connected to NATS; this is tried again until it is")]
    Starting,
    /// Something cannot change while the process runs.
    #[error("{0}")]
    Fixed(String),
    /// The manifest and the server contradict each other.
    #[error(transparent)]
    Conflicts(#[from] Conflicts),
    /// The server does not let it be, or does not answer.
    #[error(transparent)]
    Server(Box<StartError>),
}

impl From<StartError> for Refused {
    fn from(error: StartError) -> Refused {
        Refused::Server(Box::new(error))
    }
}

impl Refused {
    /// Whether it may work later without anybody's help.
    pub fn may_pass(&self) -> bool {
        match self {
            Refused::Starting => true,
            Refused::Server(error) => matches!(**error, StartError::Stream(StreamError::NoAnswer(_))),
            Refused::Fixed(_) | Refused::Conflicts(_) => false,
        }
    }
}

/// What is to be done about each handler.
#[derive(Debug, Default)]
struct Plan {
    applied: Applied,
    /// Whether the policy of any handler is another one.
    is_policy: bool,
}

fn plan<I>(old: &Generation<I>, new: &Generation<I>) -> Result<Plan, Refused> {
    let changes = diff(&old.manifest, &new.manifest);
    if !changes.refused.is_empty() {
        let all: Vec<_> = changes.refused.iter().map(ToString::to_string).collect();
        return Err(Refused::Fixed(all.join("\n")));
    }
    let is_same = |name: &str| match (old.handlers.get(name), new.handlers.get(name)) {
        (Some(old), Some(new)) => old.is_same(new),
        _ => false,
    };
    let mut plan = Plan::default();
    for (name, change) in changes.handlers {
        plan.is_policy |= change != Change::Same;
        let list = match change {
            Change::Added => &mut plan.applied.added,
            Change::Removed => &mut plan.applied.removed,
            Change::Restart { .. } => &mut plan.applied.restarted,
            Change::Same if is_same(&name) => continue,
            // Where the policy is the same, the component is not, or a schema, or a secret.
            Change::Swap | Change::Same => &mut plan.applied.swapped,
        };
        list.push(name);
    }
    Ok(plan)
}

impl<I: Invoker + Clone> Site<I> {
    /// Puts `new` in the place of `current`.
    pub(super) async fn apply(&mut self, current: &mut Generation<I>, new: Generation<I>) -> Result<Applied, Refused> {
        let Plan { mut applied, is_policy } = plan(current, &new)?;
        if is_policy {
            self.prepare(&new).await?;
        }
        let starting: Vec<_> = applied.added.iter().chain(&applied.restarted).collect();
        let handlers: Vec<&Arc<Handler>> =
            starting.iter().filter_map(|name| Some(&new.handlers.get(*name)?.newest().handler)).collect();
        let consumers = start::consumers(&self.nats, &handlers, &new.manifest, &self.status).await?;
        let ending = applied.removed.iter().chain(&applied.restarted).filter_map(|name| self.units.get(name));
        join_all(ending.map(|unit| unit.end(new.manifest.runtime.drain))).await;
        let requested = self.stop.requested.clone();
        let made = start::ensure_consumers(&self.nats, &consumers, &self.status, &requested).await;
        match made {
            Ok(notes) => applied.notes.extend(notes),
            Err(error) => {
                self.put_back(current, &applied).await;
                return Err(error.into());
            }
        }
        for name in &applied.removed {
            if let Some(unit) = self.units.remove(name) {
                unit.delete_consumers(&self.nats).await;
            }
        }
        for name in &applied.restarted {
            self.units.remove(name);
        }
        self.divide(&new, &consumers);
        self.start_all(&new, consumers).await;
        for name in &applied.swapped {
            if let (Some(unit), Some(versions)) = (self.units.get(name), new.handlers.get(name)) {
                unit.change(versions.clone());
            }
        }
        for name in &applied.removed {
            self.status.forget(name);
            applied.notes.extend(self.left_behind(name).await);
        }
        self.manifest.send_replace(Arc::clone(&new.manifest));
        *current = new;
        if !(applied.added.is_empty() && applied.removed.is_empty()) {
            self.service = service::start(&self.nats, &self.status, &self.prefix, &self.stop.requested);
        }
        Ok(applied)
    }

    /// Looks for contradictions with the server, and has our own streams take what is new.
    async fn prepare(&self, new: &Generation<I>) -> Result<(), Refused> {
        let findings = preflight::check(&self.nats, &new.manifest).await.map_err(StartError::from)?;
        for warning in &findings.warnings {
            tracing::warn!("{warning}");
        }
        findings.into_result()?;
        streams::extend(&self.nats, &new.manifest).await.map_err(StartError::from)?;
        Ok(())
    }

    /// Starts the handlers again that were ended for a generation that is not to be.
    async fn put_back(&mut self, current: &Generation<I>, applied: &Applied) {
        let ended: Vec<_> = applied.removed.iter().chain(&applied.restarted).collect();
        let handlers: Vec<&Arc<Handler>> =
            ended.iter().filter_map(|name| Some(&current.handlers.get(*name)?.newest().handler)).collect();
        let restored = async {
            let consumers = start::consumers(&self.nats, &handlers, &current.manifest, &self.status).await?;
            start::ensure_consumers(&self.nats, &consumers, &self.status, &self.stop.requested).await?;
            Ok::<_, StartError>(consumers)
        };
        match restored.await {
            Ok(consumers) => {
                for name in ended {
                    self.units.remove(name);
                }
                self.start_all(current, consumers).await;
            }
            Err(error) => {
                tracing::error!(%error, "the handlers that were running cannot be started again; connecting anew");
                self.nats.link.lost.cancel();
            }
        }
    }

    async fn start_all(&mut self, generation: &Generation<I>, consumers: Consumers) {
        for (name, specs) in consumers {
            let Some(versions) = generation.handlers.get(&name) else { continue };
            let unit = self.start(versions.clone(), specs).await;
            self.units.insert(name, unit);
        }
    }

    /// Divides the bytes that may be in flight among the consumers that there will be.
    fn divide(&self, new: &Generation<I>, starting: &Consumers) {
        let count: usize = self.units.values().map(|unit| unit.purses.len()).sum::<usize>()
            + starting.iter().map(|(_, specs)| specs.len()).sum::<usize>();
        let highest = self.units.values().flat_map(|unit| &unit.purses).max().map_or(0, |highest| highest + 1);
        self.budget.divide_anew(division(&self.nats, &new.manifest, count), highest.max(count));
    }

    /// What a handler that was removed leaves in the retry stream, where it is kept.
    async fn left_behind(&self, handler: &str) -> Option<String> {
        let waiting = retries::count(&self.nats, &self.prefix, handler).await.ok()?;
        (waiting > 0).then(|| {
            format!(
                "handler.{handler} was removed, and {waiting} of its events wait for another attempt: they are kept in stream \
                 {}, and handled when a handler of that name is added again; see tidemill retry list {handler}",
                streams::retry_stream(&self.prefix)
            )
        })
    }
}
