//! `tidemill run`: an instance that runs until it is told to stop.

use clap::Args;
use tidemill::logging::Purpose;

use super::{Done, Failure, Global, service};

const EXAMPLES: &str = "\
Ctrl-C or SIGTERM: no more events are taken, those in flight are finished (see runtime.drain).
Ctrl-C again: ends at once; the events in flight are delivered again later.
SIGHUP: reloads, as changed files do by themselves (see runtime.watch) and `tidemill reload` does for all instances.

Examples:
  tidemill run
  tidemill run --manifest /etc/tidemill/tidemill.toml --output json 2>> tidemill.log
  tidemill run --nats-url nats://10.0.0.1:4222,nats://10.0.0.2:4222";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {}

/// Runs the handlers.
pub(crate) async fn run(global: &Global, _: &Arguments) -> Done {
    global.start_log(Purpose::Service)?;
    let signals = service::signals()?;
    let work = async {
        let mirror = service::copy_plugins(global, &signals).await?;
        if signals.stop.is_cancelled() {
            return Ok(());
        }
        let file = global.read_manifest()?;
        let target = global.target(Some(&file))?.ok_or_else(|| {
            Failure::usage(format!(
                "{} names no NATS server; add url = \"nats://HOST:4222\" to its table [nats], or give --nats-url or \
                 TIDEMILL_NATS_URL, or use `tidemill dev`, which starts a private server",
                file.path.display()
            ))
        })?;
        let engine = Global::engine(Some(&file))?;
        let Some(first) = service::load(file, engine, &signals).await? else { return Ok(()) };
        service::serve(first, target, mirror, false, &signals).await
    };
    // Boxed, since it is large.
    service::unless_aborted(&signals, Box::pin(work)).await
}
