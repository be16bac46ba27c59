//! The log of the process: which lines are written, in which form, and where to.

mod readable;

use std::io::IsTerminal;

use thiserror::Error;
use tracing_subscriber::EnvFilter;

use readable::Readable;
pub use readable::{counted, show_elapsed};

/// The environment variable whose filter replaces the one that the flags lead to.
pub const FILTER_VARIABLE: &str = "TIDEMILL_LOG";
/// The target of the lines that handlers write.
pub const HANDLER_TARGET: &str = "tidemill::handler";
/// The levels from silence to everything.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What is logged where nothing else is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A command that does one thing and tells its result: warnings only.
    Command,
    /// One run of a handler: its own lines as well.
    Invocation,
    /// A service: what an operator wants to read.
    Service,
    /// A developer's desk: the fate of every event, readable, on standard output.
    Desk {
        /// How wide the handlers' names are.
        name_width: usize,
    },
}

/// How to log.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What for.
    pub purpose: Purpose,
    /// How many levels more (or, negative, fewer) than usual.
    pub verbosity: i16,
    /// Whether each line is a JSON object.
    pub json: bool,
}

/// A filter that cannot be read.
#[derive(Debug, Error)]
#[error(
    "{FILTER_VARIABLE}: {0}; write a level (error, warn, info, debug, trace), or targets as in \"info,tidemill=debug\""
)]
pub struct FilterError(String);

/// Starts the log. Called once, before anything is logged.
///
/// # Errors
/// Where the filter in the environment cannot be read.
pub fn start(options: Options) -> Result<(), FilterError> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(text) if !text.trim().is_empty() => {
            EnvFilter::try_new(&text).map_err(|error| FilterError(format!("{error} in {text:?}")))?
        }
        _ => EnvFilter::new(directives(options)),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    match options.purpose {
        _ if options.json => builder.json().flatten_event(true).with_writer(std::io::stderr).init(),
        Purpose::Desk { name_width } => {
            let colour = wants_colour(std::io::stdout().is_terminal());
            builder.event_format(Readable { colour, name_width }).with_writer(std::io::stdout).init();
        }
        Purpose::Service => {
            builder.with_ansi(wants_colour(std::io::stderr().is_terminal())).with_writer(std::io::stderr).init();
        }
        Purpose::Command | Purpose::Invocation => {
            let colour = wants_colour(std::io::stderr().is_terminal());
            builder.event_format(Readable { colour, name_width: 0 }).with_writer(std::io::stderr).init();
        }
    }
    Ok(())
}

/// Whether to colour: on a terminal only, and not where the user says no (<https://no-color.org>).
fn wants_colour(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The filter that the flags lead to: libraries are quieter than we are.
fn directives(options: Options) -> String {
    let (libraries, ours, events, handlers) = match options.purpose {
        Purpose::Command => (0, 2, 2, 2),
        Purpose::Invocation => (1, 2, 2, 4),
        Purpose::Service => (2, 3, 3, 3),
        Purpose::Desk { .. } => (1, 3, 4, 4),
    };
    let level = |usual: i16| {
        let index = usual.saturating_add(options.verbosity).clamp(0, 5);
        LEVELS[usize::try_from(index).unwrap_or(0)]
    };
    format!(
        "{},tidemill={},{}={},{HANDLER_TARGET}={}",
        level(libraries),
        level(ours),
        crate::fate::LOG_TARGET,
        level(events),
        level(handlers)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_make_the_log_louder_and_quieter_within_bounds() {
        #[track_caller]
        fn check(purpose: Purpose, verbosity: i16, expected: &str) {
            let text = directives(Options { purpose, verbosity, json: false });
            assert_eq!(text, expected);
            EnvFilter::try_new(text).expect("a valid filter");
        }
        check(Purpose::Service, 0, "warn,tidemill=info,tidemill::event=info,tidemill::handler=info");
        check(Purpose::Service, 1, "info,tidemill=debug,tidemill::event=debug,tidemill::handler=debug");
        check(Purpose::Command, 0, "off,tidemill=warn,tidemill::event=warn,tidemill::handler=warn");
        check(Purpose::Service, 9, "trace,tidemill=trace,tidemill::event=trace,tidemill::handler=trace");
        check(Purpose::Service, i16::MIN, "off,tidemill=off,tidemill::event=off,tidemill::handler=off");
    }
}
