//! The second part of the demo: a shop of six handlers in six languages, of which one is stopped in the midst of the work.

mod checks;
mod ledger;
mod orders;
mod trace;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::jetstream;
use async_nats::jetstream::kv;
use async_nats::jetstream::message::PublishMessage;
use ratatui::text::Line;
use tidemill::broker::nats::server::{Server, executable};

use crate::checks::Check;
use crate::host::Host;
use crate::report;
use crate::status::{self, Status};
use crate::text::duration;
use crate::view::{self, Theme};
use orders::{Order, TRACED};

/// How long tidemill may take to load its handlers; the first time, they are compiled.
const READY_TIMEOUT: Duration = Duration::from_mins(3);
/// How long any step may take.
const STEP_TIMEOUT: Duration = Duration::from_mins(1);
/// The handler that is stopped.
const STOPPED: &str = "inventory";

/// Runs the shop with its files in `folder`, and shows it. Says whether everything was as it must be.
pub(crate) async fn run(folder: &Path, theme: Theme) -> Result<bool> {
    print(&[Line::default(), report::heading("The shop: one order, six languages", theme)])?;
    let server = Server::start(&executable(None), &folder.join("shop-nats"), None, "").await?;
    let client = async_nats::connect(&server.url).await.context("cannot connect to the private server")?;
    let context = jetstream::new(client);
    let bucket = kv::Config { bucket: ledger::BUCKET.to_owned(), ..kv::Config::default() };
    context.create_key_value(bucket).await.context("cannot make the bucket")?;
    let manifest = Manifest::copy(folder)?;
    let mut shop = Shop { host: Host::start(&manifest.file, &server.url, &folder.join("shop.log"))?, theme };
    shop.wait_until_ready().await?;
    let orders = orders::all();
    let (first, second) = orders.split_at(orders.len() / 2);

    let start = Instant::now();
    place(&context, first).await?;
    let status = shop.wait_for("the first half of the orders", &orders::events(first, true)).await?;
    shop.say(&format!("{} orders in {}", first.len(), duration(start.elapsed())))?;

    manifest.without(STOPPED)?;
    let before = shop.wait_until(&format!("{STOPPED} is stopped"), |status| is_there(status, false)).await?;
    shop.say(&format!("{STOPPED} is stopped: its entry is taken out of the manifest"))?;
    place(&context, second).await?;
    let mut wanted = orders::events(first, true);
    wanted.remove(STOPPED);
    for (handler, count) in orders::events(second, false) {
        *wanted.entry(handler).or_default() += count;
    }
    let without = shop.wait_for("the orders that came without inventory", &wanted).await?;
    let others = without.ends().saturating_sub(before.ends());
    shop.say(&format!("{} more orders: everybody else goes on", second.len()))?;

    manifest.whole()?;
    let all = orders::events(&orders, true);
    let rest = all[STOPPED] - status.of(STOPPED).handled;
    let mut wanted = all.clone();
    wanted.insert(STOPPED, rest);
    shop.wait_until("inventory is started again", |status| is_there(status, true)).await?;
    let last = shop.wait_for("all orders", &wanted).await?;
    shop.say(&format!("{STOPPED} is back, and has caught up"))?;
    shop.host.drain().await?;

    let ledger = ledger::read(&context).await.context("cannot read what came out")?;
    server.stop().await;
    let caught_up = (last.of(STOPPED).handled, rest);
    let stopped = checks::Stopped { orders: second.len(), others, caught_up };
    let retries = last.handlers.values().map(|handler| handler.retried).sum();
    show(&ledger, &checks::all(&orders, &ledger, stopped, retries), theme)
}

fn show(ledger: &ledger::Ledger, checks: &[Check], theme: Theme) -> Result<bool> {
    let traced = format!("o-{TRACED:04}");
    let mut lines = vec![Line::default(), report::heading("One order that is paid for, but not in stock", theme)];
    lines.extend(trace::lines(&ledger.facts, &traced, &ledger.entries, theme));
    lines.extend([Line::default(), report::heading("Checks of the shop", theme)]);
    lines.extend(checks.iter().map(|check| report::verdict(check, theme)));
    lines.extend([Line::default(), report::last_word(checks, theme)]);
    print(&lines)?;
    Ok(checks.iter().all(|check| check.holds))
}

fn print(lines: &[Line<'_>]) -> Result<()> {
    view::print(lines).context("cannot print")
}

fn is_there(status: &Status, wanted: bool) -> bool {
    status.handlers.contains_key(STOPPED) == wanted
}

async fn place(context: &jetstream::Context, orders: &[Order]) -> Result<()> {
    for order in orders {
        let message = PublishMessage::build().message_id(&order.id).payload(order.payload.clone().into());
        let sent = context.send_publish("order.placed", message).await;
        sent.context("cannot publish")?.await.with_context(|| format!("{} was not confirmed", order.id))?;
    }
    Ok(())
}

/// A copy of the shop's manifest, to be changed while it is in use.
struct Manifest {
    file: PathBuf,
    text: String,
}

impl Manifest {
    fn copy(folder: &Path) -> Result<Manifest> {
        let original = crate::host::root().join("plugins/shop/tidemill.toml");
        let text = fs::read_to_string(&original).with_context(|| format!("cannot read {}", original.display()))?;
        let folder = folder.join("shop");
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let manifest = Manifest { file: folder.join("tidemill.toml"), text };
        manifest.whole()?;
        Ok(manifest)
    }

    fn whole(&self) -> Result<()> {
        self.put(&self.text)
    }

    /// Takes out the table of a handler.
    fn without(&self, handler: &str) -> Result<()> {
        let head = format!("[handler.{handler}]");
        let start = self.text.find(&head).with_context(|| format!("the manifest has no {head}"))?;
        let rest = &self.text[start + 1..];
        let end = rest.find("\n[").map_or(self.text.len(), |end| start + 1 + end);
        self.put(&format!("{}{}", &self.text[..start], &self.text[end..]))
    }

    fn put(&self, text: &str) -> Result<()> {
        let new = self.file.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &self.file)).context("cannot write the manifest")
    }
}

/// The running tidemill.
struct Shop {
    host: Host,
    theme: Theme,
}

impl Shop {
    fn say(&self, text: &str) -> Result<()> {
        print(&[report::titled("", text.to_owned(), self.theme)])
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        self.say("tidemill loads the handlers; the first time, it compiles them")?;
        let start = Instant::now();
        let mut ticks = status::ticks();
        while !status::is_ready(self.host.port).await {
            self.host.check_alive()?;
            if start.elapsed() > READY_TIMEOUT {
                bail!("tidemill was not ready after {} s", READY_TIMEOUT.as_secs());
            }
            ticks.tick().await;
        }
        Ok(())
    }

    /// Waits until handlers are done with so many events.
    async fn wait_for(&mut self, what: &str, wanted: &BTreeMap<&str, u64>) -> Result<Status> {
        let is_done = |status: &Status| {
            wanted.iter().all(|(handler, count)| {
                let one = status.of(handler);
                one.ends() >= *count && one.in_flight == 0
            })
        };
        self.wait_until(&format!("{what} ({wanted:?})"), is_done).await
    }

    async fn wait_until(&mut self, what: &str, is_so: impl Fn(&Status) -> bool) -> Result<Status> {
        let start = Instant::now();
        let mut ticks = status::ticks();
        loop {
            ticks.tick().await;
            self.host.check_alive()?;
            let status = status::fetch(self.host.port).await?;
            if is_so(&status) {
                return Ok(status);
            }
            if start.elapsed() > STEP_TIMEOUT {
                let done = status.handlers.iter().map(|(name, one)| format!("{name} {}", one.ends()));
                let done: Vec<_> = done.collect();
                bail!("after {} s not yet: {what}; done: {}", STEP_TIMEOUT.as_secs(), done.join(", "));
            }
        }
    }
}
