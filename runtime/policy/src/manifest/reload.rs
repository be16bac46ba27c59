//! `reload`: how long a new version of a handler is watched, and when it goes back to the one before.

use std::time::Duration;

use super::layers::Layers;
use super::problem::{Complaint, Report};
use super::resolved::Handler;

/// `reload`: what becomes of a new version of a handler.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reload {
    /// For how long a new version is watched; `None` where it is kept whatever it does.
    pub guard: Option<Duration>,
    /// The share of failed attempts at which it goes back, above 0 and up to 1.
    pub max_failure_ratio: f64,
    /// The fewest attempts of which the share means something; at least 1.
    pub min_events: u32,
    /// The share of events that goes to the new version while it is watched, above 0 and up to 1.
    pub canary: f64,
    /// Whether events that the new version gave up on are run again after going back.
    pub rerun: bool,
}

/// Resolves `reload` of one handler.
pub(super) fn resolve(layers: &Layers) -> Reload {
    Reload {
        guard: Some(layers.duration("reload.guard")).filter(|guard| !guard.is_zero()),
        max_failure_ratio: layers.number("reload.max_failure_ratio"),
        min_events: layers.count("reload.min_events"),
        canary: layers.number("reload.canary"),
        rerun: layers.flag("reload.rerun"),
    }
}

/// Checks `reload` of one handler.
pub(super) fn check(handler: &Handler, layers: &Layers, report: &mut Report) {
    let reload = &handler.reload;
    if reload.guard.is_some() || reload.canary >= 1.0 || !layers.sound(&["reload", "reload.guard", "reload.canary"]) {
        return;
    }
    let message = "\"reload.canary\" is below 1, but \"reload.guard\" is \"0s\": the share would never end";
    let hint = "say for how long with guard = \"30s\", or remove \"reload.canary\"";
    report.error(layers.span("reload.canary"), Complaint::new(message).hint(hint));
}
