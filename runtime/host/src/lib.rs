//! tidemill host.

pub mod invoker;
