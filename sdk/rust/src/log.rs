//! Log lines, which the host marks with handler, event and attempt. Natively they go to standard error.
//!
//! ```
//! tidemill_sdk::log::info!("sent to {} recipients", 3);
//! ```

use std::fmt;

/// How urgent a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The finest detail, of use to the author only.
    Trace,
    /// Detail that helps to find a fault.
    Debug,
    /// Normal progress.
    Info,
    /// Something unexpected that the handler could deal with.
    Warn,
    /// Something failed.
    Error,
    /// Something failed that needs a person at once.
    Critical,
}

/// Emits one line; `context` names the part of the program that logs. The macros of this module are
/// shorter and use the path of the calling module.
#[cfg(target_arch = "wasm32")]
pub fn log(level: Level, context: &str, message: fmt::Arguments<'_>) {
    use crate::bindings::wasi::logging::logging;

    let level = match level {
        Level::Trace => logging::Level::Trace,
        Level::Debug => logging::Level::Debug,
        Level::Info => logging::Level::Info,
        Level::Warn => logging::Level::Warn,
        Level::Error => logging::Level::Error,
        Level::Critical => logging::Level::Critical,
    };
    logging::log(level, context, &message.to_string());
}

/// Emits one line; `context` names the part of the program that logs. The macros of this module are
/// shorter and use the path of the calling module.
#[cfg(not(target_arch = "wasm32"))]
pub fn log(level: Level, context: &str, message: fmt::Arguments<'_>) {
    eprintln!("{level:?} {context}: {message}");
}

macro_rules! level_macros {
    ($($(#[$doc:meta])* $name:ident = $level:ident, $exported:ident;)+) => {
        level_macros!(@ ($) $($(#[$doc])* $name = $level, $exported;)+);
    };
    (@ ($d:tt) $($(#[$doc:meta])* $name:ident = $level:ident, $exported:ident;)+) => {
        $(
            #[doc(hidden)]
            #[macro_export]
            macro_rules! $exported {
                ($d($d part:tt)+) => {
                    $crate::log::log(
                        $crate::log::Level::$level,
                        ::core::module_path!(),
                        ::core::format_args!($d($d part)+),
                    )
                };
            }
            $(#[$doc])*
            pub use $exported as $name;
        )+
    };
}

level_macros! {
    /// Logs the finest detail; takes what `format!` takes.
    trace = Trace, __log_trace;
    /// Logs detail that helps to find a fault; takes what `format!` takes.
    debug = Debug, __log_debug;
    /// Logs normal progress; takes what `format!` takes.
    info = Info, __log_info;
    /// Logs something unexpected that the handler could deal with; takes what `format!` takes.
    warn = Warn, __log_warn;
    /// Logs that something failed; takes what `format!` takes.
    error = Error, __log_error;
    /// Logs that something failed that needs a person at once; takes what `format!` takes.
    critical = Critical, __log_critical;
}
