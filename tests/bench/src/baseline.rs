//! The hand-written consumer: what somebody would write with async-nats who knows it well. It consumes, does the
//! work, publishes one output with an id derived from the event, waits for its confirmation, and acknowledges.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::{self, AckKind, Message};
use clap::Args;
use futures::StreamExt;
use tokio::sync::Semaphore;

use crate::work::Work;

/// What the hand-written consumer is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[arg(long)]
    pub(crate) url: String,
    #[arg(long)]
    pub(crate) work: Work,
    /// How many events are worked on at once
    #[arg(long)]
    pub(crate) in_flight: usize,
}

/// Consumes until it is killed.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let client = async_nats::connect(&options.url).await?;
    let context = jetstream::context::ContextBuilder::new().max_ack_inflight(4096).build(client);
    let stream = context.get_stream("IN").await?;
    let config = pull::Config {
        durable_name: Some("baseline".to_owned()),
        max_ack_pending: i64::try_from(options.in_flight * 2)?,
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let batch = options.in_flight * 2;
    let mut messages =
        consumer.stream().max_messages_per_batch(batch).heartbeat(Duration::from_secs(5)).messages().await?;
    let slots = Arc::new(Semaphore::new(options.in_flight));
    let context = Arc::new(context);
    while let Some(message) = messages.next().await {
        let message = message?;
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let (context, work) = (Arc::clone(&context), options.work);
        tokio::spawn(async move {
            if let Err(error) = handle(&context, work, message).await {
                eprintln!("{error:#}");
            }
            drop(slot);
        });
    }
    Ok(())
}

async fn handle(context: &jetstream::Context, work: Work, message: Message) -> Result<()> {
    let info = message.info().map_err(anyhow::Error::from_boxed)?;
    let id = format!("{}:{}:0", info.stream, info.stream_sequence);
    let output = work.run(message.payload.clone()).context("the event is malformed")?;
    let mut headers = HeaderMap::new();
    headers.insert(async_nats::header::NATS_MESSAGE_ID, id);
    context.publish_with_headers(work.output(), headers, output).await?.await?;
    message.ack_with(AckKind::Ack).await.map_err(anyhow::Error::from_boxed)
}
