//! Integration tests: the binary as users meet it, and the host against a real `nats-server` and real components.

mod attempts;
mod bench;
mod cases;
mod cli;
mod cluster;
#[path = "../conformance/mod.rs"]
mod conformance;
mod dedup;
mod delivery;
mod deploy;
mod faults;
mod flow;
mod gate;
mod identity;
mod keys;
mod keyvalue;
mod languages;
mod latest;
mod lookups;
mod operator;
mod order;
mod positions;
mod preflight;
mod projects;
mod raw;
mod refused;
mod reload;
mod schema;
mod service;
mod support;
mod together;
mod unreadable;
