//! Publishes events, each as often as it takes until the server confirms that it is stored, and no faster than they
//! are handled: so the server is restarted while it is published to.

use std::future::IntoFuture;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::plan::{Message, ORDER_HEADER};

/// How many events may be on their way without being confirmed yet.
const UNCONFIRMED_MAX: usize = 256;
/// How long to wait before an event is published again.
const AGAIN_DELAY: Duration = Duration::from_millis(50);

/// Which share of the events may wait to be handled, in percent.
const BACKLOG_MAX: u64 = 20;
/// How long to wait for that. Events that are retried for long must not stop the others.
const BACKLOG_TIMEOUT: Duration = Duration::from_secs(2);

/// Publishes all messages; returns how many publications had to be repeated. `handled` says which share
/// of what must come of them is there, in percent.
pub(crate) async fn publish(
    context: jetstream::Context,
    messages: Vec<Message>,
    mut handled: watch::Receiver<u64>,
) -> u64 {
    let mut repeats = 0;
    let mut published = 0;
    for chunk in messages.chunks(UNCONFIRMED_MAX) {
        let share = published * 100 / messages.len().max(1) as u64;
        // It fails only where the time is over, or nobody counts any more.
        let _ = timeout(BACKLOG_TIMEOUT, handled.wait_for(|&handled| share <= handled + BACKLOG_MAX)).await;
        let confirmations = chunk.iter().map(|message| confirm(&context, message));
        repeats += join_all(confirmations).await.into_iter().sum::<u64>();
        published += chunk.len() as u64;
    }
    repeats
}

/// Publishes an event until it is confirmed. Its id lets the server recognise what it has already.
async fn confirm(context: &jetstream::Context, message: &Message) -> u64 {
    let mut repeats = 0;
    loop {
        let publication = PublishMessage::build()
            .message_id(&message.id)
            .header(ORDER_HEADER, message.order.as_str())
            .payload(message.payload.clone().into());
        if let Ok(confirmation) = context.send_publish(message.subject.clone(), publication).await
            && confirmation.into_future().await.is_ok()
        {
            return repeats;
        }
        repeats += 1;
        sleep(AGAIN_DELAY).await;
    }
}
