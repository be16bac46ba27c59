//! NATS, held to what every broker must do.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::stream::Config;
use tidemill::broker::nats::Nats;
use tidemill::broker::nats::connect::{self, Target};
use tidemill::broker::nats::consume::{self, Spec};
use tidemill::broker::nats::durable;
use tidemill::broker::nats::lease::Lease;
use tidemill::broker::nats::streams;
use tidemill::broker::{Delivery, Source};
use tidemill_policy::manifest::Auth;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::conformance::{ACK_WAIT, Bench, conformance, manifest};
use crate::support::{World, purse};

struct Real {
    world: World,
    nats: Arc<Nats>,
    deliveries: mpsc::UnboundedReceiver<Delivery<Lease>>,
}

async fn bench() -> Real {
    let world = World::start().await;
    world.stream("IN", &["in.>"]).await;
    // Servers that know no batches ignore it.
    let outputs = Config { allow_atomic_publish: true, ..World::config("OUT", &["out.>"]) };
    world.context.create_stream(outputs).await.expect("a stream");
    let base = std::path::PathBuf::new();
    let target = Target { urls: vec![world.server.url.clone()], auth: Auth::None, tls: None, base };
    let (client, link) = connect::connect(&target, "bench", Arc::default()).await.expect("a connection");
    let mut nats = Nats::new(client, link);
    streams::prepare(&mut nats, &manifest()).await.expect("streams");
    let nats = Arc::new(nats);
    let (sender, deliveries) = mpsc::unbounded_channel();
    for (stream, filter, source) in
        [("IN", "in.>", Source::Input), ("TIDEMILL_RETRY", "tidemill.retry.due.h.*", Source::Retry)]
    {
        let spec = Spec {
            stream: stream.into(),
            stream_created_unix: 0,
            create_with: None,
            repeats_within: Duration::ZERO,
            name: "c".into(),
            filters: vec![filter.into()],
            ack_wait: ACK_WAIT,
            max_ack_pending: 100,
            credit: 10,
            broadcast: false,
            replicas: 0,
            source,
            is_ordered: false,
            turns: None,
            owner: Arc::default(),
            progress: Arc::default(),
        };
        durable::ensure(&nats, &spec).await.expect("a consumer");
        let sender = sender.clone();
        let hand_over = move |delivery| {
            let _ = sender.send(delivery);
        };
        let never = CancellationToken::new();
        let unlimited = tokio::sync::watch::channel(u32::MAX).1;
        tokio::spawn(consume::run(Arc::clone(&nats), spec, purse(), unlimited, never.clone(), never, hand_over));
    }
    Real { world, nats, deliveries }
}

impl Bench for Real {
    type Broker = Nats;

    fn broker(&self) -> &Nats {
        &self.nats
    }

    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        u64::try_from(since.as_millis()).expect("fits")
    }

    async fn input(&self, id: &str) {
        // The same id may come twice, which the stream would take for one message.
        self.world.publish("in.x", &[("X-Id", id)], "payload").await;
    }

    async fn next(&mut self, wait: Duration) -> Option<Delivery<Lease>> {
        tokio::time::timeout(wait, self.deliveries.recv()).await.ok()?
    }

    fn has_batches(&self) -> bool {
        self.nats.features.api_level >= 2
    }

    async fn outputs(&self) -> Vec<String> {
        let messages = self.world.messages("OUT").await;
        messages.into_iter().map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect()
    }
}

conformance!(tokio::test, bench());
