//! The sandbox: runs handlers that are WebAssembly components.
//!
//! [`Engine`] is shared by the process, [`WasmHandler`] is one loaded component with its instances,
//! [`inspect`] looks at a file without running anything. Nothing here trusts a component: neither its
//! bytes, nor what it does, nor what it returns.

#[allow(missing_docs, unreachable_pub, unsafe_code, clippy::pedantic, reason = "the code is generated")]
mod bindings;
mod cache;
mod chance;
mod contract;
mod engine;
mod entry;
mod error;
mod habit;
mod handler;
mod http;
mod inspect;
mod instance;
mod keyvalue;
mod lane;
mod limiter;
mod link;
mod load;
mod memory;
mod messaging;
mod offer;
mod outcome;
mod pool;
mod secrets;
mod transcript;

pub use engine::{Engine, EngineError, EngineOptions};
pub use error::{LoadError, Problem};
pub use handler::WasmHandler;
pub use inspect::{Import, Inspection, Kind, digest, inspect};
pub use load::read;
pub use offer::Grant;
