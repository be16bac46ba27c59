//! Keeping the connection up: reading, writing, noticing that it is gone, and making it anew.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_nats::ServerInfo;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::dial::{self, Connected, Pool, Stream};
use super::frame::{self, Frame};
use super::{Command, Shared};
use crate::broker::nats::connect::{Link, Origin};
use crate::troubles::Effect;

/// What is in trouble while this connection cannot be made.
const TROUBLE: &str = "connection for events";
/// For how long that fails before it is a trouble: a server that restarts takes both connections, one after the other.
const FAILING_MIN: Duration = Duration::from_secs(2);
/// How long to wait before the next attempt: from the first to the second.
const DELAYS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(2));
/// A connection that lasted for less is followed by such a wait too.
const LASTING_MIN: Duration = Duration::from_secs(1);
/// How often it is looked whether the server has given a sign of life.
const LOOK: Duration = Duration::from_secs(10);
/// How many looks in a row may find none.
const SILENT_LOOKS_MAX: u32 = 2;
/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;
/// How much room must be left before more is made.
const READ_BYTES_MIN: usize = 8 * 1024;
/// How many commands are written at once.
const WRITTEN_AT_ONCE: usize = 64;

/// The task that runs the connection.
pub(super) struct Runner {
    pub(super) origin: Origin,
    /// The client's connection.
    pub(super) main: Arc<Link>,
    pub(super) link: Arc<Link>,
    pub(super) info: watch::Sender<ServerInfo>,
    /// Gone when nobody uses the connection any more.
    pub(super) subscriptions: Weak<Shared>,
    pub(super) wanted: mpsc::Receiver<Command>,
}

/// What the connection itself has to say.
enum Own {
    Ping,
    Pong,
    /// Nobody listens to this subscription any more.
    Unwanted(u64),
}

impl Runner {
    /// Runs until nobody uses the connection any more.
    pub(super) async fn run(mut self) {
        let mut pool = Pool::new(&self.origin.target);
        let mut delay = DELAYS.0;
        while let Some(connected) = self.connect(&mut pool, &mut delay).await {
            let since = Instant::now();
            let server = connected.info.server_name.clone();
            self.info.send_replace(connected.info);
            self.link.rise();
            self.main.troubles.end(TROUBLE);
            let end = self.serve(connected.stream, connected.buffer).await;
            self.link.fall();
            let Err(error) = end else { return };
            tracing::debug!(server, %error, "the connection for events was lost");
            if since.elapsed() >= LASTING_MIN {
                delay = DELAYS.0;
            } else {
                sleep(delay).await;
                delay = (delay * 2).min(DELAYS.1);
            }
        }
    }

    /// Connects, and goes on trying until it works; nothing when nobody waits for it any more.
    async fn connect(&self, pool: &mut Pool, delay: &mut Duration) -> Option<Connected> {
        let since = Instant::now();
        loop {
            let error = match dial::dial(&self.origin, pool).await {
                Ok(connected) => return Some(connected),
                Err(error) => error,
            };
            self.subscriptions.upgrade()?;
            tracing::debug!(%error, "cannot make the connection for events");
            // While the client has none either, that is told already.
            if since.elapsed() >= FAILING_MIN && self.main.is_up() {
                let why = format!("a second connection, over which events come in, cannot be made: {error}");
                self.main.troubles.begin(TROUBLE, Effect::Intake, &why);
            }
            sleep(*delay).await;
            *delay = (*delay * 2).min(DELAYS.1);
        }
    }

    /// Reads and writes until the connection is gone, which is an error, or nobody uses it any more.
    async fn serve(&mut self, stream: Box<dyn Stream>, buffer: BytesMut) -> io::Result<()> {
        let Some(shared) = self.subscriptions.upgrade() else { return Ok(()) };
        let numbers: Vec<_> = shared.lock().keys().copied().collect();
        drop(shared);
        let (reader, writer) = tokio::io::split(stream);
        let (say, own) = mpsc::unbounded_channel();
        let heard = AtomicBool::new(true);
        let drained = Drained::default();
        let reading = Reading {
            subscriptions: &self.subscriptions,
            link: &self.link,
            say: say.clone(),
            heard: &heard,
            drained: &drained,
        };
        let mut writing = Writing { subscriptions: &self.subscriptions, out: BytesMut::new(), drained: &drained };
        for number in numbers {
            writing.encode(&Command::Subscribe(number));
        }
        let end = tokio::select! {
            end = reading.run(reader, buffer) => end,
            end = writing.run(writer, &mut self.wanted, own) => end,
            end = watch_over(&heard, &say) => end,
        };
        // What was to end has ended with the connection.
        if let Some(shared) = self.subscriptions.upgrade() {
            let ended: Vec<_> = drained.lock().drain(..).flatten().collect();
            for number in &ended {
                shared.lock().remove(number);
            }
        }
        end
    }
}

/// Asks for a sign of life where there was none for a while; an error where none comes.
async fn watch_over(heard: &AtomicBool, say: &mpsc::UnboundedSender<Own>) -> io::Result<()> {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent = 0;
    loop {
        looks.tick().await;
        if heard.swap(false, Ordering::Relaxed) {
            silent = 0;
            continue;
        }
        silent += 1;
        if silent > SILENT_LOOKS_MAX {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the server gives no sign of life"));
        }
        // An error would mean that the connection is gone, which its reader tells.
        let _ = say.send(Own::Ping);
    }
}

/// What each answer to a ping means, in the order in which they were sent: the end of a subscription, or nothing but life.
#[derive(Default)]
struct Drained(Mutex<VecDeque<Option<u64>>>);

impl Drained {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Option<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Reading<'a> {
    subscriptions: &'a Weak<Shared>,
    link: &'a Link,
    say: mpsc::UnboundedSender<Own>,
    heard: &'a AtomicBool,
    drained: &'a Drained,
}

impl Reading<'_> {
    async fn run(&self, mut reader: ReadHalf<Box<dyn Stream>>, mut buffer: BytesMut) -> io::Result<()> {
        loop {
            while let Some(frame) = frame::next(&mut buffer).map_err(io::Error::other)? {
                if !self.take(frame) {
                    return Ok(());
                }
            }
            if buffer.capacity() - buffer.len() < READ_BYTES_MIN {
                buffer.reserve(READ_BYTES);
            }
            if reader.read_buf(&mut buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.heard.store(true, Ordering::Relaxed);
        }
    }

    /// Returns whether somebody still uses the connection.
    fn take(&self, frame: Frame) -> bool {
        let Some(shared) = self.subscriptions.upgrade() else { return false };
        match frame {
            Frame::Message(number, message) => {
                let is_full = shared.lock().get(&number).map(|subscribed| {
                    matches!(subscribed.messages.try_send(message), Err(mpsc::error::TrySendError::Full(_)))
                });
                match is_full {
                    Some(true) => {
                        tracing::warn!("messages were dropped on their way in; the server delivers them again");
                    }
                    Some(false) => {}
                    None => self.say(Own::Unwanted(number)),
                }
            }
            Frame::Ping => self.say(Own::Pong),
            Frame::Pong => {
                if let Some(Some(number)) = self.drained.lock().pop_front() {
                    shared.lock().remove(&number);
                }
            }
            Frame::Refusal(text) => self.link.on_server_error(&text),
            Frame::Info(_) | Frame::Fine => {}
        }
        true
    }

    fn say(&self, own: Own) {
        // An error would mean that the connection is gone, which reading notices by itself.
        let _ = self.say.send(own);
    }
}

struct Writing<'a> {
    subscriptions: &'a Weak<Shared>,
    out: BytesMut,
    drained: &'a Drained,
}

impl Writing<'_> {
    async fn run(
        &mut self,
        mut writer: WriteHalf<Box<dyn Stream>>,
        wanted: &mut mpsc::Receiver<Command>,
        mut own: mpsc::UnboundedReceiver<Own>,
    ) -> io::Result<()> {
        let mut commands = Vec::with_capacity(WRITTEN_AT_ONCE);
        loop {
            if !self.out.is_empty() {
                writer.write_all(&self.out).await?;
                writer.flush().await?;
                self.out.clear();
            }
            tokio::select! {
                count = wanted.recv_many(&mut commands, WRITTEN_AT_ONCE) => {
                    if count == 0 {
                        return Ok(());
                    }
                    commands.drain(..).for_each(|command| self.encode(&command));
                }
                Some(own) = own.recv() => match own {
                    Own::Ping => self.ping(None),
                    Own::Pong => self.out.extend_from_slice(b"PONG\r\n"),
                    Own::Unwanted(number) => self.encode(&Command::Unsubscribe(number)),
                }
            }
        }
    }

    fn ping(&mut self, ends: Option<u64>) {
        self.drained.lock().push_back(ends);
        self.out.extend_from_slice(b"PING\r\n");
    }

    fn encode(&mut self, command: &Command) {
        match command {
            Command::Subscribe(number) => {
                let Some(shared) = self.subscriptions.upgrade() else { return };
                if let Some(subscribed) = shared.lock().get(number) {
                    self.line(&["SUB ", &subscribed.subject, " ", &number.to_string()]);
                }
            }
            Command::Unsubscribe(number) => self.line(&["UNSUB ", &number.to_string()]),
            Command::Drain(number) => {
                self.line(&["UNSUB ", &number.to_string()]);
                self.ping(Some(*number));
            }
            Command::Publish { subject, reply, payload } => {
                self.line(&["PUB ", subject, " ", reply, " ", &payload.len().to_string()]);
                self.out.extend_from_slice(payload);
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    fn line(&mut self, words: &[&str]) {
        for word in words {
            self.out.extend_from_slice(word.as_bytes());
        }
        self.out.extend_from_slice(b"\r\n");
    }
}
