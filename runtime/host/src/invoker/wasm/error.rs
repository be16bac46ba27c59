//! Why a file cannot become a handler, in words that say what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::offer::{self, Grant};

/// A file that cannot be loaded, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct LoadError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// There is no such file.
    #[error("no such file; build it, or correct `component` of handler `{handler}`")]
    Missing {
        /// The handler that names the file.
        handler: String,
    },
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// It is no WebAssembly binary.
    #[error("is {found}, not a WebAssembly component")]
    NotWasm {
        /// What it looks like.
        found: &'static str,
    },
    /// It begins like WebAssembly, and then does not go on like it.
    #[error("is a truncated or corrupt WebAssembly file; build or copy it again: {0}")]
    Corrupt(String),
    /// It is a core module that does not say what its imports and exports mean, and does not export what a handler
    /// does.
    #[error(
        "is a WebAssembly module without a component type, and exports no `{}`; build it with a tidemill SDK or \
         wit-bindgen, or make it a component with `wasm-tools component embed` and `wasm-tools component new`",
        super::contract::HANDLE
    )]
    PlainModule,
    /// It is a core module that does not fit its component type.
    #[error("is a WebAssembly module that cannot be made a component: {0}")]
    Encode(String),
    /// It exports no handler.
    #[error("exports no handler (`{served}`); {}", Listed("its exports are", exports, "it exports nothing"))]
    NoHandler {
        /// What is looked for.
        served: &'static str,
        /// What it exports instead.
        exports: Vec<String>,
    },
    /// It exports a handler of a version that the host does not serve.
    #[error(
        "exports `{found}`, and this tidemill serves `{served}`; build it against that version, or use \
         a tidemill that serves its own"
    )]
    HandlerVersion {
        /// What it exports.
        found: String,
        /// What the host serves.
        served: &'static str,
    },
    /// Its handler has another type than the one in the contract.
    #[error("exports `{served}` with another type; build it against the published WIT: {why}")]
    HandlerType {
        /// What the host serves.
        served: &'static str,
        /// What is different.
        why: String,
    },
    /// It imports what the host does not offer.
    #[error("imports what it is not offered: {}", Hinted(imports))]
    Imports {
        /// The names of all such imports.
        imports: Vec<String>,
    },
    /// It imports an interface that is on offer, but with something else in it.
    #[error("imports an interface with another content than the one on offer: {0}")]
    ImportType(String),
    /// It starts with more memory than it may have.
    #[error(
        "starts with {initial} bytes of memory, and may have {limit}; raise `limits.memory`, or link it \
         with a smaller stack or initial memory"
    )]
    Memory {
        /// Bytes it starts with, all memories together.
        initial: u64,
        /// Bytes it may have.
        limit: u64,
    },
    /// It has more parts than an instance may have.
    #[error("has {found} {what}, and may have {max}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much it has.
        found: u32,
        /// How much it may have.
        max: u32,
    },
    /// It is to run more invocations at once than there is room for.
    #[error(
        "cannot run {concurrency} events at once: this process has room for {left} more, of all handlers; lower \
         `concurrency` of this or other handlers, or start more processes"
    )]
    Room {
        /// How many it is to run.
        concurrency: u32,
        /// How many there is room for.
        left: u32,
    },
    /// It does not compile.
    #[error("is corrupt, or uses what this tidemill does not support: {0}")]
    Compile(String),
}

/// A list of names after an introduction.
struct Listed<'a>(&'static str, &'a [String], &'static str);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1.is_empty() {
            return f.write_str(self.2);
        }
        write!(f, "{} `{}`", self.0, self.1.join("`, `"))
    }
}

/// Imports that are not on offer, with a hint for those that are often met.
struct Hinted<'a>(&'a [String]);

impl fmt::Display for Hinted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, import) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "`{import}`")?;
            if let Some(hint) = hint(import) {
                write!(f, " ({hint})")?;
            }
        }
        Ok(())
    }
}

fn hint(import: &str) -> Option<String> {
    if let Some(grant) = offer::grant_for(import) {
        return Some(format!("not granted: add {} to the handler{}", grant.example(), needless(grant)));
    }
    let hint = if import.starts_with("wasi:http/") {
        Some("only its outgoing-handler and types of 0.2 are there")
    } else if import.starts_with("wasi:keyvalue/") {
        Some("only its store and atomics of 0.2.0-draft2 are there")
    } else if import.starts_with("wasi:") && import.contains("@0.3") {
        Some("build for WASI 0.2")
    } else {
        None
    };
    hint.map(str::to_owned)
}

/// What to do where the grant is not needed: some languages import it whether it is used or not.
fn needless(grant: Grant) -> &'static str {
    match grant {
        Grant::Http => ", or build without it (componentize-js: `-d http fetch-event`)",
        Grant::KeyValue => "",
    }
}
