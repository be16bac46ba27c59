//! Whether what handlers ask for fits into one process.

use super::layers::Layers;
use super::problem::{Complaint, Report, Span};
use super::resolved::{CONCURRENCY_MAX, Handler, Runtime};
use super::units::show_size;

/// Checks that the process may have what a single invocation may.
pub(super) fn memory(handler: &Handler, layers: &Layers, runtime: &Runtime, report: &mut Report) {
    let (one, Some(all)) = (handler.limits.budget.memory_bytes, runtime.memory_bytes) else { return };
    // A value of zero was refused already.
    if one <= all || all == 0 || !layers.sound(&["limits", "limits.memory"]) {
        return;
    }
    let message = format!(
        "\"limits.memory\" ({}) of handler {:?} is more than \"runtime.memory\" ({}), which all handlers have together",
        show_size(one),
        handler.name,
        show_size(all),
    );
    let hint = "lower \"limits.memory\" or raise \"runtime.memory\"";
    report.error(layers.span("limits.memory"), Complaint::new(message).hint(hint));
}

/// Checks that what all handlers run at once fits; of each it is given how much that is, and where it stands.
pub(super) fn concurrency(handlers: &[(u32, Span)], report: &mut Report) {
    let total: u64 = handlers.iter().map(|(concurrency, _)| u64::from(*concurrency)).sum();
    let Some((_, span)) = handlers.iter().max_by_key(|(concurrency, _)| concurrency) else { return };
    if total <= u64::from(CONCURRENCY_MAX) {
        return;
    }
    let message = format!(
        "\"concurrency\" of the {} handlers adds up to {total}, and one process has room for {CONCURRENCY_MAX}",
        handlers.len(),
    );
    let hint = "lower it, for all handlers in [defaults], or divide them among several manifests";
    report.error(*span, Complaint::new(message).hint(hint));
}
