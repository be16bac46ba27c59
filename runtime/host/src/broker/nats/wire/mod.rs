//! A connection for what others have stored: any bytes are taken as a subject and as headers.
//!
//! The client library drops its connection at a subject or a header that it cannot read, and at some it ends for good: what
//! one producer stores on one subject would interrupt all handlers, again and again. So events, and values that others may
//! have written, come in here. Nothing is interpreted on the way; `super::quarantine` tells what is a message.
//!
//! It does what pulling and asking takes: publish, subscribe, and end a subscription without losing what is on its way.
//! Publications and acknowledgements go over the client, and so do questions that the server itself answers in JSON.

mod dial;
mod frame;
mod run;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::ServerInfo;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

pub use frame::Arrived;

use super::connect::{Link, Origin};

/// How much may wait to be written; whoever has more to say waits.
const COMMANDS_MAX: usize = 4096;
/// How many messages of one subscription may wait to be read; more are dropped, as the client library does.
const MESSAGES_MAX: usize = 65_536;

/// The connection. It ends when this is dropped.
#[derive(Debug)]
pub struct Wire {
    /// Its state. Its loss is no trouble of its own: the client's tells of it.
    pub link: Arc<Link>,
    shared: Arc<Shared>,
    server: watch::Receiver<ServerInfo>,
    _runner: AbortOnDropHandle<()>,
}

/// What those who use it have in common with the task that runs it.
#[derive(Debug)]
struct Shared {
    commands: mpsc::Sender<Command>,
    subscriptions: Mutex<HashMap<u64, Subscribed>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Subscribed {
    subject: String,
    messages: mpsc::Sender<Arrived>,
}

/// What is to be written.
#[derive(Debug)]
enum Command {
    Subscribe(u64),
    Unsubscribe(u64),
    /// End the subscription once the server has sent all that it has for it.
    Drain(u64),
    Publish {
        subject: String,
        reply: String,
        payload: Bytes,
    },
}

/// Messages on a subject; it ends when this is dropped.
#[derive(Debug)]
pub struct Subscription {
    number: u64,
    messages: mpsc::Receiver<Arrived>,
    shared: Arc<Shared>,
}

impl Wire {
    /// Connects in the background, and again whenever the connection is lost. As long as that fails while the client's
    /// own connection `main` is up, it is a trouble.
    pub(super) fn start(origin: Origin, main: &Arc<Link>) -> Wire {
        let link = Arc::new(Link::new(Arc::clone(&main.troubles)));
        let (commands, wanted) = mpsc::channel(COMMANDS_MAX);
        let (info, server) = watch::channel(ServerInfo::default());
        let shared = Arc::new(Shared { commands, subscriptions: Mutex::default(), next: AtomicU64::new(1) });
        let runner = run::Runner {
            origin,
            main: Arc::clone(main),
            link: Arc::clone(&link),
            info,
            subscriptions: Arc::downgrade(&shared),
            wanted,
        };
        let runner = AbortOnDropHandle::new(tokio::spawn(runner.run()));
        Wire { link, shared, server, _runner: runner }
    }

    /// What the server said of itself when the connection was made.
    pub fn server_info(&self) -> ServerInfo {
        self.server.borrow().clone()
    }

    /// Subscribes to a subject.
    pub async fn subscribe(&self, subject: String) -> Subscription {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        self.shared.lock().insert(number, Subscribed { subject, messages: sender });
        let subscription = Subscription { number, messages, shared: Arc::clone(&self.shared) };
        self.shared.put(Command::Subscribe(number)).await;
        subscription
    }

    /// Asks, to be answered at `inbox`; nothing where no answer comes in time.
    pub async fn request(&self, inbox: String, subject: String, payload: Bytes, patience: Duration) -> Option<Arrived> {
        let mut answers = self.subscribe(inbox.clone()).await;
        self.publish(subject, inbox, payload).await;
        timeout(patience, answers.next()).await.ok().flatten()
    }

    /// Publishes. Without a connection it waits for the next one. What is no subject is not sent: the server would take a
    /// part of it for something else.
    pub async fn publish(&self, subject: String, reply: String, payload: Bytes) {
        if [&subject, &reply]
            .iter()
            .any(|text| text.contains(|c: char| c.is_ascii_whitespace() || c.is_ascii_control()))
        {
            tracing::error!(subject, reply, "this is no subject, and nothing is sent");
            return;
        }
        self.shared.put(Command::Publish { subject, reply, payload }).await;
    }
}

impl Shared {
    async fn put(&self, command: Command) {
        // An error would mean that the connection has ended with its owner, who is not there to be told.
        let _ = self.commands.send(command).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Subscribed>> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// Waits for the next message; nothing when the subscription has ended.
    pub async fn next(&mut self) -> Option<Arrived> {
        self.messages.recv().await
    }

    /// The next message if it is there already.
    pub fn present(&mut self) -> Option<Arrived> {
        self.messages.try_recv().ok()
    }

    /// Waits for messages, and takes as many as there are, up to `most`. Returns how many; 0 when the subscription has ended.
    pub async fn next_many(&mut self, messages: &mut Vec<Arrived>, most: usize) -> usize {
        self.messages.recv_many(messages, most).await
    }

    /// Ends the subscription: it still gives what the server has sent by then.
    pub async fn drain(&self) {
        self.shared.put(Command::Drain(self.number)).await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.number);
        // Where there is no room, the server is told at the next message for it.
        let _ = self.shared.commands.try_send(Command::Unsubscribe(self.number));
    }
}
