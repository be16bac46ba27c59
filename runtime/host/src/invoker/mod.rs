//! The boundary between the path of an event and the code that handles it.
//!
//! An invoker runs a handler for one event and says what came of it. It decides nothing about retries,
//! publishes nothing and settles nothing: whatever happens in the handler is an [`Outcome`].

pub mod wasm;

use std::future::Future;
use std::sync::Arc;

use tidemill_policy::budget::Usage;
use tidemill_policy::event::Event;
use tidemill_policy::outcome::Outcome;

/// Runs a handler for one event. There are two implementations: WebAssembly, and a scripted one in tests.
pub trait Invoker: Send + Sync + 'static {
    /// Runs the handler once. Called once for each attempt, from many tasks at the same time.
    ///
    /// The future may be dropped at any await: the handler is then stopped where it is, nothing keeps
    /// running, and what it had changed in its instance is thrown away with the instance.
    fn invoke(&self, event: Arc<Event>) -> impl Future<Output = Report> + Send;
}

impl<I: Invoker> Invoker for Arc<I> {
    fn invoke(&self, event: Arc<Event>) -> impl Future<Output = Report> + Send {
        I::invoke(self, event)
    }
}

/// Where the random numbers of one invocation come from.
pub type Seed = [u8; 32];

/// What came of one invocation, and what it takes to run it again in the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What came of it.
    pub outcome: Outcome,
    /// What it used, also if it failed.
    pub usage: Usage,
    /// The seed of its random numbers.
    pub seed: Seed,
    /// The time of day it was given, in milliseconds since the Unix epoch.
    pub clock_ms: u64,
}
