//! The project's own tool, as a library: where things are, how the tools are got, how guests are built.
//!
//! Integration tests call it too, so that a test run by hand finds (or makes) the same NATS server and
//! the same guests as `cargo xtask test`. It writes below `target/` only; the one exception is a
//! toolchain for WebAssembly, which rustup or the system's package manager installs where it always does.

pub mod bench;
pub mod chaos;
pub mod demo;
pub mod guests;
#[cfg(test)]
mod layout;
pub mod matrix;
pub mod paths;
pub mod process;
pub mod stamp;
pub mod suite;
pub mod templates;
pub mod tools;
