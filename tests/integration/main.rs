//! Integration tests: the host against a real `nats-server` and real components.

mod delivery;
mod support;
