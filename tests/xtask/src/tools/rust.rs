//! A way to compile Rust for WebAssembly: a rustup target, else Debian's compiler with its library sources.
//!
//! Where rustup cannot download a target, Debian's packages are of use: they hold a compiler and the
//! sources of exactly its standard library, which cargo then builds for the target (`-Zbuild-std`).
//! Debian ships no linker for it; rustup's toolchains all do.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, process};

const PLAIN: &str = "wasm32-unknown-unknown";
const WASIP2: &str = "wasm32-wasip2";
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

const BY_HAND: &str = "run `rustup target add wasm32-unknown-unknown`, or on Debian, as root, \
                       `apt-get install rustc-web cargo-web rust-web-src` beside a toolchain of rustup, \
                       of which the linker is used";

/// What outer runs of cargo and rustup leave in the environment and another toolchain must not see.
const FOREIGN: [&str; 7] =
    ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC", "RUSTC_WRAPPER", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "LD_LIBRARY_PATH"];

/// A way to compile Rust for WebAssembly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RustBuilder {
    /// The toolchain in use has the target.
    Rustup {
        /// The target's name.
        target: &'static str,
    },
    /// Debian's compiler and library sources, linked with rustup's linker.
    Debian {
        /// The folder that holds `rust-lld`.
        linker: PathBuf,
    },
}

impl RustBuilder {
    /// The target it compiles for. Files for `wasm32-wasip2` are components; those for
    /// `wasm32-unknown-unknown` are core modules that carry the component's type, and the host makes
    /// components of them.
    pub fn target(&self) -> &'static str {
        match self {
            Self::Rustup { target } => target,
            Self::Debian { .. } => PLAIN,
        }
    }

    /// A `cargo build` for the target, to which packages, profile and target folder are to be added.
    pub fn cargo_build(&self) -> Command {
        let mut command = match self {
            Self::Rustup { .. } => process::cargo(),
            Self::Debian { .. } => Command::new(DEBIAN_CARGO),
        };
        self.set_environment(&mut command);
        command.arg("build");
        command
    }

    /// Has a command that runs `cargo build` of its own do so with this toolchain and for its target.
    pub fn set_environment(&self, command: &mut Command) {
        command.env("CARGO_BUILD_TARGET", self.target());
        let Self::Debian { linker } = self else { return };
        for name in FOREIGN {
            command.env_remove(name);
        }
        let path = super::path_of(command);
        let dirs = std::iter::once(linker.clone()).chain(std::env::split_paths(&path));
        if let Ok(path) = std::env::join_paths(dirs) {
            command.env("PATH", path);
        }
        command.env("CARGO", DEBIAN_CARGO).env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
        command.env("CARGO_UNSTABLE_BUILD_STD", "std,panic_abort");
    }
}

impl fmt::Display for RustBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustup { target } => write!(f, "rustup's {target}"),
            Self::Debian { .. } => write!(f, "Debian's compiler for {PLAIN}"),
        }
    }
}

/// Finds or installs a way to compile Rust for WebAssembly.
///
/// `TIDEMILL_GUEST_RUST` set to `rustup` or `debian` allows only that one.
///
/// # Errors
///
/// If neither rustup nor Debian's package manager can give one.
pub fn rust_builder() -> Result<RustBuilder> {
    let only = std::env::var("TIDEMILL_GUEST_RUST").ok();
    let (rustup, debian) = match only.as_deref() {
        None => (true, true),
        Some("rustup") => (true, false),
        Some("debian") => (false, true),
        Some(other) => bail!("TIDEMILL_GUEST_RUST is {other:?}; use rustup or debian"),
    };
    let sysroot = sysroot()?;
    if let Some(found) = find(&sysroot, rustup, debian) {
        return Ok(found);
    }
    let _lock = super::lock()?;
    if rustup && find(&sysroot, rustup, debian).is_none() {
        add_rustup_target();
    }
    if debian && find(&sysroot, rustup, debian).is_none() {
        install_debian_packages().context(BY_HAND)?;
    }
    find(&sysroot, rustup, debian).with_context(|| format!("no way to compile Rust for WebAssembly; {BY_HAND}"))
}

fn find(sysroot: &Path, rustup: bool, debian: bool) -> Option<RustBuilder> {
    let has = |target: &&str| sysroot.join("lib/rustlib").join(target).join("lib").is_dir();
    if rustup && let Some(target) = [PLAIN, WASIP2].into_iter().find(has) {
        return Some(RustBuilder::Rustup { target });
    }
    let linker = linker_folder(sysroot)?;
    (debian && has_debian_packages()).then_some(RustBuilder::Debian { linker })
}

fn sysroot() -> Result<PathBuf> {
    let said = process::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(said.trim()))
}

/// The folder of a rustup toolchain that holds `rust-lld`, whatever the host's triple is.
fn linker_folder(sysroot: &Path) -> Option<PathBuf> {
    let targets = std::fs::read_dir(sysroot.join("lib/rustlib")).ok()?;
    targets.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).find(|bin| bin.join("rust-lld").is_file())
}

fn has_debian_packages() -> bool {
    let sources = "/usr/lib/rustlib/src/rust/library/std/Cargo.toml";
    [DEBIAN_CARGO, DEBIAN_RUSTC, sources].iter().all(|file| Path::new(file).is_file())
}

/// Tries in silence: where rustup has no network, Debian's packages are the normal way and no failure.
fn add_rustup_target() {
    if paths::find_in_path("rustup").is_none() {
        return;
    }
    println!("    asking rustup for {PLAIN}");
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", PLAIN]).env("RUSTUP_MAX_RETRIES", "0");
    if process::output(&mut rustup).is_err() {
        println!("    rustup cannot download it");
    }
}

fn install_debian_packages() -> Result<()> {
    if paths::find_in_path("apt-get").is_none() {
        bail!("this system has no apt-get");
    }
    println!("    installing {} with apt-get", DEBIAN_PACKAGES.join(", "));
    let root = process::output(Command::new("id").arg("-u"))?.trim() == "0";
    let apt = |args: &[&str]| {
        let mut command = if root {
            Command::new("apt-get")
        } else {
            let mut sudo = Command::new("sudo");
            sudo.args(["-n", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
            sudo
        };
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        process::stream(&mut command)
    };
    apt(&["update", "-qq"])?;
    let flags = ["install", "-y", "-qq", "--no-install-recommends", "-oDpkg::Use-Pty=0"];
    apt(&[&flags[..], &DEBIAN_PACKAGES[..]].concat())
}
