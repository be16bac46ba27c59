//! From the host's call to the handler's function and back.

use std::panic;
use std::sync::Once;

use crate::bindings::tidemill::handler::types;
use crate::{Event, IntoOutputs, Result, log};

/// Exports a function as the plugin's handler.
///
/// The function takes an [`Event`] and returns `Result<T, Failure>`, where `T` is anything that
/// [`IntoOutputs`] knows: `Vec<Output>`, one `Output`, an `Option` or array of them, or `()`.
///
/// ```
/// use tidemill_sdk::{Event, Failure, Output, handler};
///
/// fn handle(event: Event) -> Result<Output, Failure> {
///     Ok(Output::new("out.copy", event.payload))
/// }
///
/// handler!(handle);
/// ```
///
/// Natively it exports nothing (the names of a component's exports are none that a native linker takes)
/// and only checks the function's type.
#[macro_export]
macro_rules! handler {
    ($handle:path) => {
        const _: () = {
            struct Plugin;

            impl $crate::bindings::exports::tidemill::handler::handler::Guest for Plugin {
                fn handle(
                    event: $crate::bindings::tidemill::handler::types::Event,
                ) -> ::core::result::Result<
                    ::std::vec::Vec<$crate::bindings::tidemill::handler::types::Output>,
                    $crate::bindings::tidemill::handler::types::Failure,
                > {
                    $crate::run(event, $handle)
                }
            }

            #[cfg(target_arch = "wasm32")]
    $crate::bindings::export!(Plugin with_types_in $crate::bindings);
        };
    };
}

/// Calls `handle` with the host's event and gives the host what it returns. For [`handler!`] only.
///
/// # Errors
///
/// The handler's own failure.
pub fn run<T: IntoOutputs>(
    event: types::Event,
    handle: fn(Event) -> Result<T>,
) -> std::result::Result<Vec<types::Output>, types::Failure> {
    static HOOK: Once = Once::new();
    HOOK.call_once(log_panics);
    let outputs = handle(event.into())?.into_outputs();
    Ok(outputs.into_iter().map(types::Output::from).collect())
}

/// Logs a panic's message and place before it becomes a trap, which would tell neither. The target
/// `wasm32-unknown-unknown` has no standard error to which Rust's own hook could write.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("a panic without text");
        match panic.location() {
            Some(place) => log::log(log::Level::Critical, "panic", format_args!("{message} ({place})")),
            None => log::log(log::Level::Critical, "panic", format_args!("{message}")),
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::bindings::tidemill::handler::types;
    use crate::{Event, Failure, Output, Result};

    fn event() -> types::Event {
        types::Event {
            id: "1".into(),
            subject: "a".into(),
            kind: None,
            source: None,
            time_ms: None,
            content_type: None,
            correlation_id: "1".into(),
            causation_id: None,
            attempt: 1,
            max_attempts: 1,
            headers: Vec::new(),
            payload: b"hello".into(),
        }
    }

    #[test]
    fn a_call_goes_through() {
        fn copy(event: Event) -> Result<Output> {
            event.text()?;
            Ok(Output::new(format!("out.{}", event.subject), event.payload))
        }
        let outputs = run(event(), copy).expect("the handler succeeds");
        assert_eq!(outputs.len(), 1);
        assert_eq!(outputs[0].subject, "out.a");
        assert_eq!(outputs[0].payload, b"hello");
    }

    #[test]
    fn a_failure_goes_through() {
        fn refuse(_: Event) -> Result<()> {
            Err(Failure::reject("no"))
        }
        let failure = run(event(), refuse).expect_err("the handler fails");
        assert!(matches!(failure, types::Failure::Reject(error) if error.message == "no"));
    }
}
