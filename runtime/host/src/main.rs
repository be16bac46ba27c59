//! The command `tidemill`.

mod cli;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use cli::{Cli, Failure};

/// Many small blocks are taken on one thread and given back on another for each event, with which it is far quicker than
/// glibc's: a sixth of the CPU time of an event.
#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let out = cli.global.out();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return out.fail(&Failure::from(error)).into(),
    };
    let done = runtime.block_on(cli.run());
    // A component that is still being compiled must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => out.fail(&failure).into(),
    }
}
