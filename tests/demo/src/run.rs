//! One run from the start of the server to its end: what is done, in order, and how long it took.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::jetstream;
use tidemill::broker::nats::server::{Server, executable};

use crate::checks::{self, Check};
use crate::events::{self, Event};
use crate::expect::{self, Expected};
use crate::feed;
use crate::host::{self, Host};
use crate::ledger::{self, Ledger};
use crate::status::{self, Status};
use crate::text::duration;
use crate::view::{self, Scene, Theme, View};

/// How long tidemill may take to load its handlers; the first time, they are compiled.
const READY_TIMEOUT: Duration = Duration::from_mins(1);
/// How long it may take from the first event to the last settlement.
const SETTLE_TIMEOUT: Duration = Duration::from_mins(1);

/// The name of the log within the folder of a run.
pub(crate) const LOG: &str = "tidemill.log";

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Run {
    /// What had to come out.
    pub(crate) expected: Expected,
    /// What came out.
    pub(crate) ledger: Ledger,
    /// What the instance counted.
    pub(crate) status: Status,
    /// How long things took.
    pub(crate) times: Times,
    /// What had to hold.
    pub(crate) checks: Vec<Check>,
}

/// How long things took, from the first publication on.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Times {
    /// Until every event was confirmed by the server.
    pub(crate) published: Duration,
    /// How often handlers were done with an event when nothing but retries was left, and until then.
    pub(crate) at_once: (u64, Duration),
    /// Until everything was settled.
    pub(crate) settled: Duration,
}

/// Runs the demo with its files in `folder`.
pub(crate) async fn run(folder: &Path, theme: Theme) -> Result<Run> {
    let events = events::all();
    let expected = expect::expect(&events);
    let mut screen = Screen { view: View::open(theme), start: Instant::now() };
    screen.show(&expected, &Status::default(), "starting a private NATS server")?;
    let server = Server::start(&executable(None), &folder.join("nats"), None, "").await?;
    let mut host = Host::start(&host::manifest(), &server.url, &folder.join(LOG))?;
    wait_until_ready(&mut host, &expected, &mut screen).await?;

    let client = async_nats::connect(&server.url).await.context("cannot connect to the private server")?;
    let context = jetstream::new(client);
    let (status, times) = publish_and_watch(&context, &mut host, &events, &expected, &mut screen).await?;
    screen.show(&expected, &status, "everything is settled; SIGINT sent, tidemill drains")?;
    let ended = host.drain().await?;
    let last = format!("everything is settled; tidemill drained and ended {} after SIGINT", duration(ended.took));
    screen.close(&expected, &status, last)?;

    let inputs = ["order.placed", "registration.welcome_email"];
    let ledger = ledger::read(&context, &inputs).await.context("cannot read what came out")?;
    server.stop().await;
    let checks = checks::all(&expected, &ledger, &status, ended);
    Ok(Run { expected, ledger, status, times, checks })
}

/// The view, and since when it is shown.
struct Screen {
    view: View,
    start: Instant,
}

impl Screen {
    fn show(&mut self, expected: &Expected, status: &Status, phase: &str) -> Result<()> {
        let scene = Scene::new(expected, status, phase.to_owned(), self.start.elapsed());
        self.view.show(&scene).context("cannot draw")
    }

    fn close(self, expected: &Expected, status: &Status, phase: String) -> Result<()> {
        let scene = Scene::new(expected, status, phase, self.start.elapsed());
        self.view.close(&scene).context("cannot draw")
    }
}

async fn wait_until_ready(host: &mut Host, expected: &Expected, screen: &mut Screen) -> Result<()> {
    let start = Instant::now();
    let mut ticks = status::ticks();
    while !status::is_ready(host.port).await {
        host.check_alive()?;
        if start.elapsed() > READY_TIMEOUT {
            bail!("tidemill was not ready after {} s", READY_TIMEOUT.as_secs());
        }
        screen.show(expected, &Status::default(), "tidemill loads the handlers; the first time, it compiles them")?;
        ticks.tick().await;
    }
    Ok(())
}

/// Publishes the events and shows what becomes of them until all are settled.
async fn publish_and_watch(
    context: &jetstream::Context,
    host: &mut Host,
    events: &[Event],
    expected: &Expected,
    screen: &mut Screen,
) -> Result<(Status, Times)> {
    let confirmed = AtomicU64::new(0);
    let mut watch = Watch { start: Instant::now(), times: Times::default() };
    let mut publishing = std::pin::pin!(feed::publish(context, events, &confirmed));
    let mut all_published = false;
    let mut ticks = status::ticks();
    loop {
        tokio::select! {
            published = &mut publishing, if !all_published => {
                published?;
                all_published = true;
                watch.times.published = watch.start.elapsed();
            }
            _ = ticks.tick() => {
                host.check_alive()?;
                let status = status::fetch(host.port).await?;
                screen.show(expected, &status, &view::phase(expected, &status, confirmed.load(Ordering::Relaxed)))?;
                if watch.note(expected, &status) && all_published {
                    return Ok((status, watch.times));
                }
                if watch.start.elapsed() > SETTLE_TIMEOUT {
                    let missing = status.missing(expected).join("\n  ");
                    bail!("not everything was settled after {} s:\n  {missing}", SETTLE_TIMEOUT.as_secs());
                }
            }
        }
    }
}

struct Watch {
    start: Instant,
    times: Times,
}

impl Watch {
    /// Notes how far the handlers are; says whether they are done.
    fn note(&mut self, expected: &Expected, status: &Status) -> bool {
        let (ends, elapsed) = (status.ends(), self.start.elapsed());
        if self.times.at_once.0 == 0 && ends >= expected.at_once() {
            self.times.at_once = (ends, elapsed);
        }
        self.times.settled = elapsed;
        status.missing(expected).is_empty()
    }
}
