//! Publishes the events, each confirmed by `JetStream`.

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use async_nats::jetstream;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;

use crate::events::Event;

/// How many events may be on their way without being confirmed yet.
const UNCONFIRMED_MAX: usize = 256;

/// Publishes all events in order and counts in `confirmed` those that are stored.
pub(crate) async fn publish(context: &jetstream::Context, events: &[Event], confirmed: &AtomicU64) -> Result<()> {
    let mut on_their_way: VecDeque<(&Event, PublishAckFuture)> = VecDeque::new();
    for event in events {
        if on_their_way.len() == UNCONFIRMED_MAX
            && let Some((event, confirmation)) = on_their_way.pop_front()
        {
            confirm(event, confirmation, confirmed).await?;
        }
        let message = PublishMessage::build().message_id(&event.id).payload(event.payload.clone().into());
        let sent = context.send_publish(event.subject, message).await;
        on_their_way.push_back((event, sent.with_context(|| format!("cannot publish {}", event.id))?));
    }
    for (event, confirmation) in on_their_way {
        confirm(event, confirmation, confirmed).await?;
    }
    Ok(())
}

async fn confirm(event: &Event, confirmation: PublishAckFuture, confirmed: &AtomicU64) -> Result<()> {
    let stored = confirmation.into_future().await.with_context(|| format!("{} was not confirmed", event.id))?;
    if stored.duplicate {
        bail!("the server takes {} for a duplicate, although it is the first of its id", event.id);
    }
    confirmed.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
