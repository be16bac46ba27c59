//! Integration tests: the binary as users meet it, and the host against a real `nats-server` and real components.

mod cli;
mod delivery;
mod faults;
mod preflight;
mod support;
