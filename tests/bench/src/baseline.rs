//! The hand-written consumer: what somebody would write with async-nats who knows it well. It consumes, does the
//! work, publishes one output with an id derived from the event, waits for its confirmation, and acknowledges. With
//! deduplication it looks first whether the event is in a key-value bucket, and puts it there before it acknowledges.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::kv::{self, CreateErrorKind};
use async_nats::jetstream::stream::StorageType;
use async_nats::jetstream::{self, AckKind, Message};
use clap::Args;
use futures::StreamExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::work::Work;

/// For how long it is remembered which events are done.
const WINDOW: Duration = Duration::from_hours(1);

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
    /// Whether an event that is done is not worked on again
    #[arg(long)]
    pub(crate) dedup: bool,
}

/// What is needed to work on an event.
struct Tools {
    context: jetstream::Context,
    work: Work,
    /// The events that are done.
    done: Option<kv::Store>,
}

/// Consumes until it is killed.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let client = async_nats::connect(&options.url).await?;
    let context = jetstream::context::ContextBuilder::new().max_ack_inflight(4096).build(client);
    let stream = context.get_stream("IN").await?;
    let done = if options.dedup { Some(context.create_key_value(bucket()).await?) } else { None };
    let tools = Arc::new(Tools { context, work: options.work, done });
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
        consumers.spawn(consume(Arc::clone(&tools), consumer, options.in_flight));
    }
    consumers.join_next().await.context("there are no consumers")??
}

fn bucket() -> kv::Config {
    let limit_markers = Some(Duration::from_secs(1));
    kv::Config { bucket: "done".to_owned(), storage: StorageType::File, limit_markers, ..kv::Config::default() }
}

async fn consume(tools: Arc<Tools>, consumer: PullConsumer, in_flight: usize) -> Result<()> {
    let messages = consumer.stream().max_messages_per_batch(in_flight * 2);
    let mut messages = messages.heartbeat(Duration::from_secs(5)).messages().await?;
    let slots = Arc::new(Semaphore::new(in_flight));
    while let Some(message) = messages.next().await {
        let message = message?;
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let tools = Arc::clone(&tools);
        tokio::spawn(async move {
            if let Err(error) = tools.handle(message).await {
                eprintln!("{error:#}");
            }
            drop(slot);
        });
    }
    Ok(())
}

impl Tools {
    async fn handle(&self, message: Message) -> Result<()> {
        let info = message.info().map_err(anyhow::Error::from_boxed)?;
        let id = format!("{}-{}", info.stream, info.stream_sequence);
        if let Some(done) = &self.done
            && done.get(id.as_str()).await?.is_some()
        {
            return acknowledge(&message).await;
        }
        let output = self.work.run(message.payload.clone()).context("the event is malformed")?;
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, id.as_str());
        self.context.publish_with_headers(self.work.output(), headers, output).await?.await?;
        if let Some(done) = &self.done {
            match done.create_with_ttl(&id, "done".into(), WINDOW).await {
                Ok(_) => {}
                Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
        }
        acknowledge(&message).await
    }
}

async fn acknowledge(message: &Message) -> Result<()> {
    message.ack_with(AckKind::Ack).await.map_err(anyhow::Error::from_boxed)
}
