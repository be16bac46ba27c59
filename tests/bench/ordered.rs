//! How many events a second ordered handlers get through: `cargo bench -p tidemill --bench ordered --profile dev`.
//!
//! Two instances, each with its own connection, 256-byte events of 1,000 keys, one output each, acknowledgements
//! confirmed: what `{ partitions }` and `{ queues }` do with a handler that costs nothing, beside the same without an order.

#[allow(dead_code, reason = "shared with the integration tests")]
#[path = "../integration/support.rs"]
mod support;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use support::{World, completed, eventually, output};

const EVENTS: u64 = 20_000;
const KEYS: u64 = 1_000;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let key = |more: &str| format!("order = {{ by = 'key', key = 'subject:2', {more} }}");
    let rows = [
        ("no order".to_owned(), String::new()),
        ("4 partitions".to_owned(), key("partitions = 4")),
        ("16 partitions".to_owned(), key("partitions = 16")),
        ("64 partitions".to_owned(), key("partitions = 64")),
        ("queues".to_owned(), key("form = 'queues'")),
        ("queues, from the payload".to_owned(), "order = { by = 'key', key = 'json:/key' }".to_owned()),
    ];
    for (name, order) in rows {
        println!("{name:26} {:>8.0} events/s", measure(&order).await);
    }
}

async fn measure(order: &str) -> f64 {
    let world = World::in_and_out().await;
    let mut confirmations: VecDeque<async_nats::jetstream::context::PublishAckFuture> = VecDeque::new();
    for number in 0..EVENTS {
        // The client holds back publishers that leave too many confirmations waiting.
        if confirmations.len() >= 1_000
            && let Some(oldest) = confirmations.pop_front()
        {
            oldest.await.expect("confirmed");
        }
        let payload = format!("{{\"key\":\"k{}\",\"rest\":\"{:0>220}\"}}", number % KEYS, number);
        let sent = world.context.publish(format!("in.k{}", number % KEYS), payload.into()).await;
        confirmations.push_back(sent.expect("sent"));
    }
    for confirmation in confirmations {
        confirmation.await.expect("confirmed");
    }
    let manifest = format!(
        "[handler.h]\nsubject = 'in.*'\nstream = 'IN'\nallow.publish = ['out.>']\nconcurrency = 128\nack = 'confirmed'\n{order}\n"
    );
    let done = Arc::new(AtomicU64::new(0));
    let since = Instant::now();
    let instances: Vec<_> = (0..2)
        .map(|_| {
            let done = Arc::clone(&done);
            world.run(&manifest, move |event| {
                done.fetch_add(1, Ordering::Relaxed);
                completed(&[output("out.a", &event.id)])
            })
        })
        .collect();
    eventually("all are handled", || async { (done.load(Ordering::Relaxed) >= EVENTS).then_some(()) }).await;
    eventually("all outputs are stored", || async {
        let out = world.context.get_stream("OUT").await.ok()?;
        (out.cached_info().state.messages >= EVENTS).then_some(())
    })
    .await;
    let seconds = since.elapsed().as_secs_f64();
    for instance in instances {
        instance.drain().await.expect("drains");
    }
    f64::from(u32::try_from(EVENTS).expect("fits")) / seconds
}
