//! One run: a plan carried out by instances that die and come back, until everything has come to rest.

use std::sync::Arc;
use std::time::Duration;

use tidemill::gate::Gate;
use tidemill::gate::keeper::Keeper;
use tidemill::instance::Part;
use tidemill::pipeline::{Pipeline, Stop};
use tidemill::status::Status;
use tidemill::worker::Worker;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::check::Summary;
use crate::plan::{Faults, Plan};
use crate::world::{Process, World};

/// For how long things go wrong.
const CHAOS: Duration = Duration::from_secs(30);
/// How long everything may take to come to rest afterwards.
const REST: Duration = Duration::from_hours(2);
/// How much of the latest a server forgets that is killed.
const FORGOTTEN: Duration = Duration::from_millis(300);

/// A run that has ended.
pub(crate) struct Finished {
    pub(crate) violations: Vec<String>,
    pub(crate) summary: Summary,
    pub(crate) trace: Vec<String>,
}

/// Runs a seed.
pub(crate) fn run(seed: u64) -> Finished {
    run_plan(Plan::new(seed), seed)
}

/// Runs a plan.
pub(crate) fn run_plan(plan: Plan, seed: u64) -> Finished {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let finished = runtime.block_on(async {
        let world = World::new(plan, seed);
        let at_rest = drive(&world).await;
        let mut state = world.lock();
        let state = &mut *state;
        if !at_rest {
            state.ledger.violations.push("it does not come to rest".into());
        }
        state.ledger.at_rest(&world.plan, &state.server);
        Finished {
            violations: std::mem::take(&mut state.ledger.violations),
            summary: state.ledger.summary(&world.plan, &state.server),
            trace: std::mem::take(&mut state.trace),
        }
    });
    runtime.shutdown_background();
    finished
}

/// Carries the plan out. Returns whether everything has come to rest.
async fn drive(world: &Arc<World>) -> bool {
    let producer = tokio::spawn(produce(Arc::clone(world)));
    let mut instances: Vec<_> = (0..world.plan.instances).map(|number| Instance::start(world, number, 0)).collect();
    let end = Instant::now() + CHAOS;
    while Instant::now() < end {
        sleep(Duration::from_millis(250)).await;
        for instance in &mut instances {
            instance.look_after().await;
        }
        something_happens_to_the_server(world);
    }
    world.lock().faults = Faults::default();
    for instance in &mut instances {
        instance.process.set_reachable(true);
        instance.look_after().await;
    }
    producer.await.expect("no panic");
    timeout(REST + world.plan.outage, async {
        loop {
            let changed = world.changed.notified();
            if world.lock().server.is_at_rest() {
                return;
            }
            changed.await;
        }
    })
    .await
    .is_ok()
}

async fn produce(world: Arc<World>) {
    let start = Instant::now();
    let mut copies: Vec<_> =
        world.plan.events.iter().flat_map(|script| script.at.iter().map(|at| (*at, script.id.clone()))).collect();
    copies.sort();
    for (at, id) in copies {
        tokio::time::sleep_until(start + at).await;
        let mut state = world.lock();
        world.note(&mut state, &format!("{id} is published"));
        state.server.input(&id, world.clock.now_ms());
        drop(state);
        world.changed.notify_waiters();
    }
}

fn something_happens_to_the_server(world: &World) {
    let mut state = world.lock();
    let faults = state.faults;
    if state.rng.chance(faults.event / 4) {
        world.note(&mut state, "the server dies and forgets");
        for event in state.server.roll_back(FORGOTTEN) {
            state.ledger.forgive_anew(&world.plan, &event);
        }
        drop(state);
        world.changed.notify_waiters();
    }
}

/// A process, and what starts it again.
struct Instance {
    number: u64,
    starts: u64,
    process: Process,
    stop: Stop,
    in_flight: TaskTracker,
}

impl Instance {
    fn start(world: &Arc<World>, number: u64, starts: u64) -> Instance {
        let process = Process::start(world, format!("i{number}.{starts}"));
        let stop = Stop { requested: CancellationToken::new(), overdue: CancellationToken::new() };
        let in_flight = TaskTracker::new();
        let handler = Arc::new(world.plan.handler.clone());
        let gate = Gate::new(Arc::clone(&handler), world.clock);
        let credit = handler.concurrency as usize * 2;
        let part = Part { handler: Arc::clone(&handler), invoker: (), component: String::new() };
        let pipeline = Pipeline {
            handler,
            invoker: process.clone(),
            broker: Arc::new(process.clone()),
            prefix: "tidemill".into(),
            instance: process.name.clone(),
            component: "digest".into(),
            clock: world.clock,
            stop: stop.clone(),
            recent: Arc::default(),
            gate: Arc::clone(&gate),
        };
        let status = Arc::new(Status::new(process.name.clone(), &[part]));
        let worker = Worker::new(pipeline, status, in_flight.clone());
        let (pulling, stops, tracker) = (process.clone(), stop.clone(), in_flight.clone());
        tokio::spawn(async move {
            let (broker, name) = (Arc::new(pulling.clone()), pulling.name.clone());
            let keeper = Keeper::start(Arc::clone(&gate), broker, name, Vec::new()).await;
            tokio::spawn(keeper.run(stops.overdue));
            consume(pulling, worker, credit, gate.intake(), stops.requested, tracker).await;
        });
        Instance { number, starts, process, stop, in_flight }
    }

    /// Starts it again if it has died; otherwise something may happen to it.
    async fn look_after(&mut self) {
        let world = Arc::clone(&self.process.world);
        if self.process.is_alive() {
            let (happens, kind) = {
                let mut state = world.lock();
                let faults = state.faults;
                (state.rng.chance(faults.event), state.rng.below(4))
            };
            match (happens, kind) {
                (false, _) => return,
                (true, 0) => self.process.kill(&mut world.lock(), "by SIGKILL"),
                (true, 1) => self.shut_down().await,
                (true, _) => {
                    self.process.set_reachable(kind == 2);
                    world.note(&mut world.lock(), &format!("{} reachable: {}", self.process.name, kind == 2));
                    world.changed.notify_waiters();
                    return;
                }
            }
        }
        *self = Instance::start(&world, self.number, self.starts + 1);
    }

    /// Stops it in good order, with little time to drain.
    async fn shut_down(&mut self) {
        let world = &self.process.world;
        world.note(&mut world.lock(), &format!("{} is asked to stop", self.process.name));
        self.stop.requested.cancel();
        self.in_flight.close();
        if timeout(Duration::from_secs(2), self.in_flight.wait()).await.is_err() {
            self.stop.overdue.cancel();
            let _ = timeout(Duration::from_secs(10), self.in_flight.wait()).await;
        }
        self.process.kill(&mut world.lock(), "in good order");
    }
}

/// Pulls while there is credit.
async fn consume(
    process: Process,
    worker: Arc<Worker<Process, Process>>,
    credit: usize,
    intake: watch::Receiver<u32>,
    stop: CancellationToken,
    in_flight: TaskTracker,
) {
    loop {
        while in_flight.len() >= credit.min(*intake.borrow() as usize) && !stop.is_cancelled() {
            sleep(Duration::from_millis(10)).await;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            delivery = process.next() => match delivery {
                Some(delivery) => Worker::start(&worker, delivery),
                None => return,
            },
        }
    }
}
