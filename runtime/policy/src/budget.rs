//! What one invocation may use, and what it did use.

use std::time::Duration;

/// The bounds of one invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Wall-clock time from the call to its return, host calls included.
    pub timeout: Duration,
    /// Wasm fuel, roughly one unit per instruction: a bound that does not depend on the machine.
    pub fuel: u64,
    /// Bytes of linear memory, all memories of the instance together.
    pub memory_bytes: u64,
    /// Number of outputs.
    pub outputs: u32,
    /// Bytes of all outputs together: subjects, headers and payloads.
    pub output_bytes: u64,
}

/// What one invocation used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Wall-clock time from the call to its return.
    pub duration: Duration,
    /// Fuel burnt.
    pub fuel: u64,
    /// The largest size of the instance's linear memories together, in bytes.
    pub memory_peak_bytes: u64,
}
