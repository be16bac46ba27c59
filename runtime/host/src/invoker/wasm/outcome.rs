//! What comes of an invocation, as the vocabulary of the policy has it.
//!
//! Everything that a guest says is cut to a size at which it can be kept in an event's history.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use tidemill_policy::budget::Budget;
use tidemill_policy::event::Output;
use tidemill_policy::outcome::{HandlerError, Interruption, Outcome};
use wasmtime::{FrameInfo, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::bindings::tidemill::handler::types::{self, Failure};
use super::limiter::MemoryExhausted;
use super::transcript::Transcript;

/// The longest message that is kept, in bytes.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// The longest detail or stack trace that is kept, in bytes.
const DETAIL_BYTES_MAX: usize = 16 * 1024;

/// The longest function or file name that is kept in a stack trace, in bytes.
const NAME_BYTES_MAX: usize = 300;

/// Host memory that an output takes beyond its text and payload, at most, with a few headers.
const OUTPUT_OVERHEAD_BYTES: usize = 512;

/// What a guest may pass to the host in one call besides outputs, in bytes.
const CALL_BYTES_MAX: usize = 256 * 1024;

/// The deadline passed while the guest was computing.
#[derive(Debug, thiserror::Error)]
#[error("the deadline passed")]
pub(super) struct DeadlinePassed;

/// How many bytes the host takes over from a guest in one call or return before it stops: enough for
/// any outputs within the budget, so that a guest cannot fill the host's memory with what is refused.
pub(super) fn transfer_bytes_max(budget: &Budget) -> usize {
    let bytes = usize::try_from(budget.output_bytes).unwrap_or(usize::MAX);
    let overhead = (budget.outputs as usize).saturating_mul(OUTPUT_OVERHEAD_BYTES);
    bytes.saturating_mul(2).saturating_add(overhead).saturating_add(CALL_BYTES_MAX)
}

/// The outcome of a handler that returned outputs.
pub(super) fn of_outputs(outputs: Vec<types::Output>, budget: &Budget) -> Outcome {
    let refused = |message| Outcome::OutputRefused { message };
    if outputs.len() > budget.outputs as usize {
        let (count, max) = (outputs.len(), budget.outputs);
        return refused(format!("returned {count} outputs; {max} are allowed (`limits.outputs`)"));
    }
    let bytes: u64 = outputs.iter().map(size).sum();
    if bytes > budget.output_bytes {
        let max = budget.output_bytes;
        return refused(format!("returned {bytes} bytes of outputs; {max} are allowed (`limits.output_bytes`)"));
    }
    Outcome::Completed(outputs.into_iter().map(output).collect())
}

fn size(output: &types::Output) -> u64 {
    let headers = output.headers.iter();
    let bytes = output.subject.len()
        + output.kind.as_deref().map_or(0, str::len)
        + output.content_type.as_deref().map_or(0, str::len)
        + headers.map(|(name, value)| name.len() + value.len()).sum::<usize>()
        + output.payload.len();
    bytes as u64
}

fn output(output: types::Output) -> Output {
    Output {
        subject: output.subject,
        kind: output.kind,
        content_type: output.content_type,
        headers: output.headers,
        payload: Bytes::from(output.payload),
    }
}

/// The outcome of a handler that returned a failure.
pub(super) fn of_failure(failure: Failure, transcript: &Transcript) -> Outcome {
    match failure {
        Failure::Retry((error, delay_ms)) => {
            let error = handler_error(error, transcript);
            Outcome::Retry { error, delay: delay_ms.map(|ms| Duration::from_millis(ms.into())) }
        }
        Failure::Reject(error) => Outcome::Rejected(handler_error(error, transcript)),
    }
}

/// What the handler says, and after that what the host refused or could not do, which may be why.
fn handler_error(error: types::Error, transcript: &Transcript) -> HandlerError {
    let secrets = transcript.secrets();
    let mut remarks = String::new();
    push_remarks(&mut remarks, transcript);
    let own = error.detail.map(|detail| truncate(secrets.redacted(detail), DETAIL_BYTES_MAX - remarks.len()));
    let detail = match own {
        Some(own) if remarks.is_empty() => Some(own),
        Some(own) => Some(format!("{own}\n{remarks}")),
        None => (!remarks.is_empty()).then_some(remarks),
    };
    HandlerError {
        code: error.code,
        message: truncate(secrets.redacted(error.message), MESSAGE_BYTES_MAX),
        detail: detail.map(|detail| truncate(detail, DETAIL_BYTES_MAX)),
    }
}

/// Appends what the host refused or could not do.
fn push_remarks(text: &mut String, transcript: &Transcript) {
    let (remarks, dropped) = transcript.remarks();
    if remarks.is_empty() {
        return;
    }
    text.push_str("refused or failed outside of the handler:\n");
    for remark in remarks {
        writeln!(text, "  {remark}").ok();
    }
    if dropped > 0 {
        writeln!(text, "  … and {dropped} more").ok();
    }
}

/// The outcome of a handler that was still waiting in a host call when its time was over.
pub(super) fn waited_too_long(budget: &Budget, transcript: &Transcript) -> Outcome {
    let timeout = budget.timeout;
    Outcome::TimedOut(Interruption {
        message: format!("still waiting in a host call after {timeout:?} (`limits.timeout`)"),
        stack_trace: stack_trace(None, transcript),
    })
}

/// The outcome of a call that ended in an error of wasmtime's or of the host's.
pub(super) fn of_error(
    error: &wasmtime::Error,
    budget: &Budget,
    instantiated: bool,
    transcript: &Transcript,
) -> Outcome {
    let backtrace = error.downcast_ref::<WasmBacktrace>();
    let interruption = |message: String| {
        let stage = if instantiated { "" } else { "while it was being instantiated: " };
        Interruption {
            message: truncate(transcript.secrets().redacted(format!("{stage}{message}")), MESSAGE_BYTES_MAX),
            stack_trace: stack_trace(backtrace, transcript),
        }
    };
    if error.is::<DeadlinePassed>() {
        let timeout = budget.timeout;
        let message = format!("still running after {timeout:?} (`limits.timeout`)");
        return Outcome::TimedOut(interruption(message));
    }
    if let Some(exhausted) = error.downcast_ref::<MemoryExhausted>() {
        return Outcome::OutOfMemory(interruption(exhausted.to_string()));
    }
    let trap = error.downcast_ref::<Trap>();
    if trap == Some(&Trap::AllocationTooLarge) {
        let message = "threw more exceptions than its memory holds (`limits.memory`)";
        return Outcome::OutOfMemory(interruption(message.to_owned()));
    }
    if trap == Some(&Trap::OutOfFuel) {
        let fuel = budget.fuel;
        let message = format!("burnt all of its {fuel} units of fuel (`limits.fuel`)");
        return Outcome::OutOfFuel(interruption(message));
    }
    if backtrace.is_none() && is_transfer_refused(error) {
        let max = transfer_bytes_max(budget);
        return Outcome::OutputRefused {
            message: format!("returned more than {max} bytes, far beyond `limits.outputs` and `limits.output_bytes`"),
        };
    }
    Outcome::Trapped(interruption(trap_message(error, transcript)))
}

/// Whether the host stopped taking over a guest's data. Wasmtime's type for this is private; a test
/// holds the text.
fn is_transfer_refused(error: &wasmtime::Error) -> bool {
    let cause = error.root_cause().to_string();
    cause.contains("fuel allocated for hostcalls has been exhausted")
}

fn trap_message(error: &wasmtime::Error, transcript: &Transcript) -> String {
    if let Some(I32Exit(status)) = error.downcast_ref::<I32Exit>() {
        return format!("exited with status {status} instead of returning");
    }
    let cause = error.downcast_ref::<Trap>().map_or_else(|| error.root_cause().to_string(), Trap::to_string);
    match transcript.last_words() {
        Some(words) => format!("{words} ({cause})"),
        None => cause,
    }
}

/// The stack, innermost frame first, then the last lines that the handler wrote.
fn stack_trace(backtrace: Option<&WasmBacktrace>, transcript: &Transcript) -> Option<String> {
    let mut text = String::new();
    for frame in backtrace.map_or(&[][..], WasmBacktrace::frames) {
        push_frame(&mut text, frame);
    }
    for (index, line) in transcript.tail().enumerate() {
        if index == 0 {
            text.push_str("last lines of its log and standard error:\n");
        }
        text.push_str("  ");
        text.push_str(line);
        text.push('\n');
    }
    push_remarks(&mut text, transcript);
    text.truncate(text.trim_end().len());
    (!text.is_empty()).then(|| truncate(text, DETAIL_BYTES_MAX))
}

/// Appends one line: `function (module) at 0x1234`, and source positions where the module has them.
fn push_frame(text: &mut String, frame: &FrameInfo) {
    let function = match frame.func_name() {
        Some(name) => truncate(demangle(name), NAME_BYTES_MAX),
        None => format!("function {}", frame.func_index()),
    };
    let module = frame.module().name().unwrap_or("unnamed module");
    let module = truncate(module.to_owned(), NAME_BYTES_MAX);
    write!(text, "{function} ({module})").ok();
    if let Some(offset) = frame.module_offset() {
        write!(text, " at {offset:#x}").ok();
    }
    let positions = frame.symbols().iter();
    for (file, line) in positions.filter_map(|symbol| Some((symbol.file()?, symbol.line()?))) {
        let file = truncate(file.to_owned(), NAME_BYTES_MAX);
        write!(text, ", {file}:{line}").ok();
    }
    text.push('\n');
}

fn demangle(name: &str) -> String {
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return format!("{rust:#}");
    }
    cpp_demangle::Symbol::new(name).ok().and_then(|symbol| symbol.demangle().ok()).unwrap_or_else(|| name.to_owned())
}

/// Cuts a text to at most `bytes_max` bytes, and marks that it was cut.
pub(super) fn truncate(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = text.floor_char_boundary(bytes_max.saturating_sub('…'.len_utf8()));
        text.truncate(end);
        text.push('…');
    }
    text
}
