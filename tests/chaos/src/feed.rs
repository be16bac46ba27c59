//! Publishes events, each as often as it takes until the server confirms that it is stored.

use std::future::IntoFuture;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use futures::{StreamExt, stream};
use tokio::time::sleep;

use crate::plan::{Message, ORDER_HEADER};

/// How many events may be on their way without being confirmed yet.
const UNCONFIRMED_MAX: usize = 256;
/// How long to wait before an event is published again.
const AGAIN_DELAY: Duration = Duration::from_millis(50);

/// Publishes them all; returns how many publications had to be repeated.
pub(crate) async fn publish(context: jetstream::Context, messages: Vec<Message>) -> u64 {
    let confirmations = messages.into_iter().map(|message| confirm(&context, message));
    stream::iter(confirmations).buffered(UNCONFIRMED_MAX).fold(0, async |sum, repeats| sum + repeats).await
}

/// Publishes an event until it is confirmed. Its id lets the server recognise what it has already.
async fn confirm(context: &jetstream::Context, message: Message) -> u64 {
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
