//! A model checker for delivery. It goes through every interleaving of two instances that share the messages of one
//! event (or of two), a server, and a bounded number of faults, and checks in each state what must hold.
//!
//! The rules are the real ones: whatever an instance decides comes from `tidemill_policy`, see [`rules`]. What the host
//! does between two decisions, and what the server does, is modelled: see [`instance`] and [`server`]. The page
//! `runtime/docs/protocol.md` says what is modelled, what is checked and what is not.

pub mod action;
pub mod explore;
pub mod instance;
pub mod rules;
pub mod server;
pub mod setup;
pub mod state;

#[cfg(test)]
mod tests;
