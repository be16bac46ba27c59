//! The programs that the project needs and does not bring along, and how to get each.
//!
//! Every function here finds its tool where it is already, and fetches it only where it is not, so all
//! of them can be called at any time and by several processes at once.

mod js;
mod nats;
mod rust;

use std::fs::{self, File};

use anyhow::{Context, Result};

pub use js::componentize_qjs;
pub use nats::{nats_server, nats_server_default, nats_server_of};
pub use rust::{RustBuilder, rust_builder};

use crate::paths;

/// Gets everything that the tests and the demo need.
///
/// # Errors
///
/// If a tool can be neither found nor fetched; the message says what to install by hand.
pub fn setup() -> Result<()> {
    println!("==> NATS server");
    println!("    {}", nats_server()?.display());
    println!("==> Rust for WebAssembly");
    println!("    {}", rust_builder()?);
    println!("==> JavaScript for WebAssembly");
    println!("    {}", componentize_qjs()?.display());
    Ok(())
}

/// Holds off other processes that fetch tools, until it is dropped.
fn lock() -> Result<File> {
    let dir = paths::tools();
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let file = File::create(dir.join("lock")).context("cannot create the lock file of the tools")?;
    file.lock().context("cannot lock the tools")?;
    Ok(file)
}
