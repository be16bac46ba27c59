//! Hot reload: what a new manifest changes, which version of a component is run, who of the events goes to it while it
//! is watched, and whether it is kept.

pub mod canary;
pub mod diff;
pub mod guard;
pub mod start;
