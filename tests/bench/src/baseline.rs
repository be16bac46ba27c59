//! The hand-written consumer: what somebody would write with async-nats who knows it well. It consumes, does the
//! work, publishes one output with an id derived from the event, waits for its confirmation, and acknowledges.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::{self, AckKind, Message};
use clap::Args;
use futures::StreamExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::work::Work;

/// What the hand-written consumer is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[arg(long)]
    pub(crate) url: String,
    #[arg(long)]
    pub(crate) work: Work,
    /// How many consumers there are, each of a subject of its own where there are several
    #[arg(long)]
    pub(crate) consumers: u64,
    /// How many events of each are worked on at once
    #[arg(long)]
    pub(crate) in_flight: usize,
}

/// Consumes until it is killed.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let client = async_nats::connect(&options.url).await?;
    let context = jetstream::context::ContextBuilder::new().max_ack_inflight(4096).build(client);
    let stream = context.get_stream("IN").await?;
    let context = Arc::new(context);
    let mut consumers = JoinSet::new();
    for number in 0..options.consumers {
        let subject = if options.consumers == 1 { String::new() } else { format!("in.{number}") };
        let config = pull::Config {
            durable_name: Some(format!("baseline-{number}")),
            filter_subject: subject,
            max_ack_pending: i64::try_from(options.in_flight * 2)?,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await?;
        consumers.spawn(consume(Arc::clone(&context), consumer, options.work, options.in_flight));
    }
    consumers.join_next().await.context("there are no consumers")??
}

async fn consume(context: Arc<jetstream::Context>, consumer: PullConsumer, work: Work, in_flight: usize) -> Result<()> {
    let messages = consumer.stream().max_messages_per_batch(in_flight * 2);
    let mut messages = messages.heartbeat(Duration::from_secs(5)).messages().await?;
    let slots = Arc::new(Semaphore::new(in_flight));
    while let Some(message) = messages.next().await {
        let message = message?;
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let context = Arc::clone(&context);
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
