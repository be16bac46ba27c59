//! tidemill runs WebAssembly event handlers on NATS `JetStream` and owns everything around the call.
//!
//! Decisions are made by the policy crate; this crate carries them out. `pipeline` holds the path of one
//! event.

pub mod broker;
pub mod bucket;
pub mod cases;
pub mod clock;
pub mod crew;
pub mod dev;
pub mod fate;
pub mod gate;
pub mod http;
pub mod in_flight;
pub mod instance;
pub mod invoker;
pub mod leader;
pub mod load;
pub mod logging;
pub mod machine;
pub mod operate;
pub mod pipeline;
pub mod project;
pub mod rehearse;
pub mod reload;
pub mod schemas;
pub mod secrets;
pub mod service;
pub mod slots;
pub mod status;
mod step_back;
pub mod troubles;
pub mod turns;
pub mod version;
pub mod versions;
pub mod worker;
