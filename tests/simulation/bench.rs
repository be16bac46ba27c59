//! The simulated broker, held to what every broker must do.

use std::sync::Arc;
use std::time::Duration;

use tidemill::broker::Delivery;

use crate::conformance::{ACK_WAIT, Bench, conformance};
use crate::plan::{Faults, Plan};
use crate::world::{Next, Process, Receipt, World};

struct Simulated {
    process: Process,
}

fn bench() -> Simulated {
    let mut plan = Plan::new(0);
    plan.faults = Faults::default();
    plan.handler.ack_wait = ACK_WAIT;
    plan.flow = crate::plan::Flow::Free;
    let world: Arc<World> = World::new(plan, 0);
    Simulated { process: Process::start(&world, "i".into()) }
}

impl Bench for Simulated {
    type Broker = Process;

    fn broker(&self) -> &Process {
        &self.process
    }

    fn now_ms(&self) -> u64 {
        self.process.world.clock.now_ms()
    }

    async fn input(&self, id: &str) {
        let headers = vec![(tidemill_policy::headers::MSG_ID.to_owned(), id.to_owned())];
        self.process.world.lock().server.input("x", headers, self.now_ms());
    }

    async fn next(&mut self, wait: Duration) -> Option<Delivery<Receipt>> {
        match tokio::time::timeout(wait, self.process.next()).await.ok()?? {
            Next::Delivery(delivery) => Some(*delivery),
            Next::Lost => None,
        }
    }

    fn has_batches(&self) -> bool {
        true
    }

    async fn outputs(&self) -> Vec<String> {
        let payload = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.process.world.lock().server.outputs.iter().map(|output| payload(&output.payload)).collect()
    }
}

conformance!(tokio::test(start_paused = true), std::future::ready(bench()));
