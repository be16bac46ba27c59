//! Child processes, the CPU time they have used and the memory they hold, as Linux tells it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

/// How many ticks of CPU time make a second; the same on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

/// The CPU time that a process has used so far, of all its threads.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    let after_name = stat.rsplit_once(')').context("the process tells nothing")?.1;
    let ticks = |index: usize| after_name.split_whitespace().nth(index).and_then(|text| text.parse::<f64>().ok());
    let (user, system) = (ticks(11).context("no user time")?, ticks(12).context("no system time")?);
    Ok(Duration::from_secs_f64((user + system) / TICKS))
}

/// The memory that a process holds, in bytes.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no resident size")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// This executable, to be started again with other arguments.
pub(crate) fn own() -> Result<Command> {
    Ok(Command::new(std::env::current_exe().context("cannot tell where this executable is")?))
}

/// The tidemill that was built together with this executable.
pub(crate) fn tidemill() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this executable is")?;
    let path = own.with_file_name(format!("tidemill{}", std::env::consts::EXE_SUFFIX));
    if !path.is_file() {
        bail!("{} is missing; start the benchmark with: cargo xtask bench", path.display());
    }
    Ok(path)
}

/// A process that runs in the background, killed when this is dropped.
pub(crate) struct Background {
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts it, with what it says in a file.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Background> {
        let out = std::fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out).process_group(0).kill_on_drop(true);
        let child = command.spawn().context("cannot start a process")?;
        Ok(Background { child, log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().context("the process has ended")
    }

    /// Fails where it has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            bail!("a process ended ({status}): {}", lines[lines.len().saturating_sub(5)..].join("\n"));
        }
        Ok(())
    }

    /// Ends it at once.
    pub(crate) async fn kill(mut self) {
        // It fails only if the process is gone already.
        let _ = self.child.kill().await;
    }
}

/// Runs a command to its end, and returns what it printed.
pub(crate) async fn output(mut command: Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("cannot start a process")?;
    if !output.status.success() {
        bail!("a process failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
