//! Everything that can come of one invocation.

use std::time::Duration;

use crate::event::Output;

/// An error as the handler reports it. Mirrors `error` in `wit/handler.wit`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HandlerError {
    /// A code of the handler's own, such as an HTTP status.
    pub code: Option<i32>,
    /// One sentence that says what went wrong.
    pub message: String,
    /// More about it, such as a stack trace of the handler's own making.
    pub detail: Option<String>,
}

/// Everything that can come of an invocation. Failures are values: nothing in the path of an event
/// returns early with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The handler succeeded; these are to be published.
    Completed(Vec<Output>),
    /// The handler asks to be called again, perhaps after `delay`.
    Retry {
        /// What went wrong.
        error: HandlerError,
        /// The handler's wish for the delay.
        delay: Option<Duration>,
    },
    /// The handler says that this event can never be handled.
    Rejected(HandlerError),
    /// The deadline passed.
    TimedOut(Interruption),
    /// The fuel ran out.
    OutOfFuel(Interruption),
    /// The instance asked for more memory than it may have.
    OutOfMemory(Interruption),
    /// The code trapped (a panic, an abort, an out-of-bounds access, a stack overflow, …), or could
    /// not be instantiated.
    Trapped(Interruption),
    /// The handler returned outputs that exceed its budget.
    OutputRefused {
        /// Which output, and why.
        message: String,
    },
}

/// Where and how an invocation was cut short.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interruption {
    /// One sentence that says what happened.
    pub message: String,
    /// The wasm call stack, innermost frame first, with function names where the module has them;
    /// then the last lines that the handler wrote to its log or standard error, where there are any.
    pub stack_trace: Option<String>,
}
