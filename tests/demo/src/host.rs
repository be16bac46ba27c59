//! The real `tidemill` as a process of its own, as a user would start it.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long it may take to end after it was asked to; the manifest's `drain` is shorter.
const END_TIMEOUT: Duration = Duration::from_secs(40);
/// The variable that the demo's manifest takes the port from.
const PORT_VARIABLE: &str = "TIDEMILL_DEMO_PORT";
/// The variable that the shop's manifest takes the folder of its components from.
const PLUGINS_VARIABLE: &str = "TIDEMILL_SHOP_PLUGINS";

/// A running `tidemill dev`. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Host {
    child: Child,
    /// Where it serves its status.
    pub(crate) port: u16,
}

/// How the process ended after it was asked to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// What it said.
    pub(crate) status: ExitStatus,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Host {
    /// Starts it on a manifest and the server at `url`. All that it prints goes to `log`.
    pub(crate) fn start(manifest: &Path, url: &str, log: &Path) -> Result<Host> {
        let executable = executable()?;
        let port = free_port().context("cannot find a free port")?;
        let out = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = Command::new(&executable);
        command.arg("dev").arg("--manifest").arg(manifest).args(["--nats-url", url]);
        command.env(PORT_VARIABLE, port.to_string()).env("NO_COLOR", "1");
        command.env(PLUGINS_VARIABLE, root().join("target/guests"));
        command.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        // In a group of its own: on Ctrl-C it is the demo that ends it.
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {}", executable.display()))?;
        Ok(Host { child, port })
    }

    /// Says how it ended, where it has ended by itself.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("tidemill ended unexpectedly ({status})"),
            None => Ok(()),
        }
    }

    /// Asks it to end, as Ctrl-C does, and waits until it has drained.
    pub(crate) async fn drain(mut self) -> Result<Ended> {
        let pid = self.child.id().context("tidemill has ended already")?;
        let start = Instant::now();
        // The signal goes to a child that we have not waited for, so the pid is still its own.
        let sent = Command::new("kill").args(["-INT", &pid.to_string()]).status().await;
        if !sent.context("cannot run kill")?.success() {
            bail!("cannot send SIGINT to tidemill");
        }
        let status = timeout(END_TIMEOUT, self.child.wait()).await;
        let status =
            status.with_context(|| format!("tidemill did not end {} s after SIGINT", END_TIMEOUT.as_secs()))??;
        Ok(Ended { status, took: start.elapsed() })
    }
}

/// The executable that was built together with this one.
fn executable() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where the demo's executable is")?;
    let path = own.with_file_name(format!("tidemill{}", std::env::consts::EXE_SUFFIX));
    if !path.is_file() {
        bail!("{} is missing; start the demo with: cargo xtask demo", path.display());
    }
    Ok(path)
}

/// The checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/demo lies two folders deep")
}

/// The manifest of the demo's first part.
pub(crate) fn manifest() -> PathBuf {
    root().join("plugins/tidemill.toml")
}

/// A port that nobody listens on. Another process may take it before we do, which then is reported.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
