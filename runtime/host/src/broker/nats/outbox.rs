//! Publications and settlements on their way to the client.
//!
//! The client's task writes whatever it is given, as soon as it runs; and it runs right after the task that has given it
//! something. That would be a write to the connection for each message or two, and writing costs this machine and the
//! server more than what is written. So while many events are in hand, messages gather here until those tasks have
//! run that could already run on the same thread when the first of them came, and are given to the client together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::coop::consume_budget;
use tokio_util::task::AbortOnDropHandle;

use super::confirm::Ticket;
use crate::step_back::step_back;

/// From how many events in hand on messages gather. With fewer there is little to gather, and an event that is alone on
/// its way has those before and behind it in hand for a moment too.
const GATHERED_FROM: usize = 8;
/// How many messages are given to the client before others have their turn.
const GIVEN_AT_ONCE: usize = 256;

/// Messages on their way to one client. There are as many at most as there may be publications without a confirmation, and
/// deliveries in hand.
#[derive(Debug)]
pub(super) struct Outbox {
    client: Client,
    /// How many events there are.
    in_hand: Arc<AtomicUsize>,
    /// How many messages the client was not given yet.
    gathered: Arc<AtomicUsize>,
    queue: mpsc::UnboundedSender<Item>,
    _sender: AbortOnDropHandle<()>,
}

/// What is given to the client.
#[derive(Debug)]
pub(super) enum Item {
    /// A message that is to be confirmed.
    Publication {
        /// Where to publish.
        subject: Subject,
        /// Where the confirmation goes.
        reply: String,
        /// All headers.
        headers: HeaderMap,
        /// The payload.
        payload: Bytes,
        /// Who is told if the client does not take it.
        ticket: Ticket,
    },
    /// What becomes of a delivery; nobody waits for it.
    Settlement {
        /// Where it goes.
        reply: Subject,
        /// What it says.
        body: Bytes,
    },
    /// Tells that everything before it was given to the client.
    Mark(oneshot::Sender<()>),
}

impl Outbox {
    /// Starts the task that gives messages to the client; `in_hand` is how many events there are at any time. Must be
    /// called in a tokio runtime.
    pub(super) fn start(client: Client, in_hand: Arc<AtomicUsize>) -> Outbox {
        let (queue, items) = mpsc::unbounded_channel();
        let gathered = Arc::new(AtomicUsize::new(0));
        let sender = tokio::spawn(give(client.clone(), Arc::clone(&gathered), items));
        Outbox { client, in_hand, gathered, queue, _sender: AbortOnDropHandle::new(sender) }
    }

    /// Sends something: at once where few events are in hand, else together with what others send. It does not overtake
    /// what was sent before.
    pub(super) async fn put(&self, item: Item) {
        if self.in_hand.load(Ordering::Relaxed) < GATHERED_FROM && self.gathered.load(Ordering::Acquire) == 0 {
            // Boxed, since it would be moved with each of the futures around it, of which there are many.
            return Box::pin(item.give(&self.client)).await;
        }
        self.gathered.fetch_add(1, Ordering::Relaxed);
        // The other end goes only with this one.
        let _ = self.queue.send(item);
        // Whoever has much to send lets others run now and then.
        consume_budget().await;
    }

    /// Waits until everything was given to the client that was put here before.
    pub(super) async fn emptied(&self) {
        let (told, emptied) = oneshot::channel();
        let _ = self.queue.send(Item::Mark(told));
        let _ = emptied.await;
    }
}

/// Gives the client what comes, until nobody can send any more.
async fn give(client: Client, gathered: Arc<AtomicUsize>, mut items: mpsc::UnboundedReceiver<Item>) {
    let mut next = Vec::new();
    while items.recv_many(&mut next, GIVEN_AT_ONCE).await > 0 {
        step_back().await;
        while next.len() < GIVEN_AT_ONCE
            && let Ok(item) = items.try_recv()
        {
            next.push(item);
        }
        for item in next.drain(..) {
            let is_message = !matches!(item, Item::Mark(_));
            item.give(&client).await;
            gathered.fetch_sub(usize::from(is_message), Ordering::Release);
        }
    }
}

impl Item {
    async fn give(self, client: &Client) {
        match self {
            Item::Publication { subject, reply, headers, payload, ticket } => {
                if !ticket.is_waited_for() {
                    return;
                }
                match client.publish_with_reply_and_headers(subject, reply, headers, payload).await {
                    Ok(()) => ticket.given(),
                    Err(error) => ticket.refuse(&error),
                }
            }
            Item::Settlement { reply, body } => {
                // Then the server delivers it again.
                if let Err(error) = client.publish(reply, body).await {
                    tracing::debug!(%error, "could not settle a delivery");
                }
            }
            Item::Mark(told) => _ = told.send(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use async_nats::ConnectOptions;
    use futures::poll;
    use tokio::task::yield_now;

    use super::*;

    /// The outbox of a client that takes one message and no more, since there is no server.
    async fn outbox(in_hand: usize) -> Outbox {
        let options = ConnectOptions::new().retry_on_initial_connect().client_capacity(1);
        let client = options.connect("127.0.0.1:1").await.expect("it connects later");
        Outbox::start(client, Arc::new(AtomicUsize::new(in_hand)))
    }

    fn settlement() -> Item {
        Item::Settlement { reply: "a".into(), body: Bytes::new() }
    }

    /// Whether it has come to its end after everything else has run.
    async fn is_over(future: impl Future<Output = ()>) -> bool {
        let mut future = pin!(future);
        for _ in 0..100 {
            if poll!(&mut future).is_ready() {
                return true;
            }
            yield_now().await;
        }
        false
    }

    #[tokio::test]
    async fn it_is_emptied_once_the_client_has_taken_everything() {
        let outbox = outbox(GATHERED_FROM).await;
        outbox.put(settlement()).await;
        outbox.emptied().await;
        for _ in 0..2 {
            assert!(is_over(outbox.put(settlement())).await, "nobody waits for the client");
        }
        assert!(!is_over(outbox.emptied()).await);
    }

    #[tokio::test]
    async fn what_is_sent_later_does_not_overtake() {
        let outbox = outbox(GATHERED_FROM).await;
        outbox.put(settlement()).await;
        outbox.in_hand.store(1, Ordering::Relaxed);
        outbox.put(settlement()).await;
        assert_eq!(outbox.gathered.load(Ordering::Relaxed), 2, "it waits behind the one before");
    }

    #[tokio::test]
    async fn what_is_sent_while_little_is_in_hand_does_not_wait_for_more() {
        let outbox = outbox(1).await;
        outbox.put(settlement()).await;
        assert!(!is_over(outbox.put(settlement())).await, "the client is given it at once, and has no room");
    }
}
