//! The sandbox with real guests: what comes of each way to behave and to misbehave.
//!
//! The guests are built by `cargo xtask guests`; without them these tests fail.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cache;
mod fairness;
mod http;
mod inputs;
mod instances;
mod interrupts;
mod loading;
mod logs;
mod messaging;
mod outcomes;
mod server;
mod setup;
mod steady;
mod wat;
