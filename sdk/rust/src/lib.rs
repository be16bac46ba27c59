#![doc = include_str!("../README.md")]

pub mod bindings;
pub mod clock;
pub mod config;
mod event;
mod export;
mod failure;
#[cfg(all(feature = "heap", target_arch = "wasm32", target_os = "unknown", not(target_feature = "atomics")))]
mod heap;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "keyvalue")]
pub mod keyvalue;
pub mod log;
mod output;
pub mod random;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use event::Event;
#[doc(hidden)]
pub use export::run;
pub use failure::{Error, Failure};
pub use output::{IntoOutputs, Output};

/// What a handler returns: the messages that follow from the event, or why it could not be handled.
pub type Result<T = Vec<Output>> = std::result::Result<T, Failure>;
