//! One run: a plan carried out by instances that die and come back, until everything has come to rest.

use std::sync::Arc;
use std::time::Duration;

use tidemill::crew::{Crew, Site};
use tidemill::gate::Gate;
use tidemill::gate::keeper::Keeper;
use tidemill::leader::Leader;
use tidemill::pipeline::Stop;
use tidemill::turns::Turns;
use tidemill::version::{Part, Versions};
use tidemill::worker::Worker;
use tidemill_policy::order::is_all_in_hand;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::check::Summary;
use crate::plan::{Faults, Flow, Plan};
use crate::world::{Next, Process, State, World};

/// For how long things go wrong.
const CHAOS: Duration = Duration::from_secs(30);
/// How long everything may take to come to rest afterwards.
const REST: Duration = Duration::from_hours(2);
/// How often the instances are looked after.
const LOOK: Duration = Duration::from_millis(250);
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
    let ticker = tokio::spawn(tick(Arc::clone(world)));
    let mut instances: Vec<_> = (0..world.plan.instances).map(|number| Instance::start(world, number, 0)).collect();
    let end = Instant::now() + CHAOS;
    while Instant::now() < end {
        sleep(LOOK).await;
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
    let at_rest = timeout(REST + world.plan.outage, async {
        loop {
            let changed = world.changed.notified();
            if world.lock().server.is_at_rest() {
                return;
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep(LOOK) => {}
            }
            // A death may have been settled before all faults ended.
            for instance in &mut instances {
                instance.look_after().await;
            }
        }
    })
    .await
    .is_ok();
    ticker.abort();
    at_rest
}

/// Has processes prolong their leases, whatever else they do.
async fn tick(world: Arc<World>) {
    loop {
        sleep(world.ack_wait() / 8).await;
        world.lock().server.tick(world.clock.now_ms(), world.ack_wait());
    }
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
        let script = world.plan.script(&id);
        state.server.input(&script.key, script.headers(), world.clock.now_ms());
        state.ledger.arrived(&id);
        drop(state);
        world.changed.notify_waiters();
    }
}

fn something_happens_to_the_server(world: &World) {
    let mut state = world.lock();
    let faults = state.faults;
    if state.rng.chance(faults.event / 4) {
        world.note(&mut state, "the server dies and forgets");
        let State { server, rng, ledger, .. } = &mut *state;
        for event in server.roll_back(FORGOTTEN, rng) {
            ledger.forgive_anew(&world.plan, &event);
        }
    }
    if state.rng.chance(faults.amnesia) {
        world.note(&mut state, "what is remembered of events is lost");
        state.server.forget_markers();
        for script in &world.plan.events {
            state.ledger.forgive_anew(&world.plan, &script.id);
        }
    }
    if state.rng.chance(faults.full) {
        let time = state.rng.millis(20_000);
        world.note(&mut state, &format!("the stream of outputs is full for {time:?}"));
        state.server.fill(time);
    }
    if state.rng.chance(faults.restore) {
        let span_ms = state.rng.below(3_000);
        let since_ms = world.clock.now_ms().saturating_sub(span_ms);
        let State { server, earlier, .. } = &mut *state;
        let gone = server.restore(since_ms, earlier);
        world.note(&mut state, &format!("the input is restored as it was {span_ms} ms ago, without {gone:?}"));
        for event in gone {
            state.ledger.gone(&event);
        }
    }
    drop(state);
    world.changed.notify_waiters();
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
        let part = Part {
            handler,
            invoker: process.clone(),
            schemas: Arc::default(),
            component: "digest".into(),
            tally: Arc::default(),
        };
        let site = Site {
            broker: Arc::new(process.clone()),
            prefix: "tidemill".into(),
            instance: process.name.as_str().into(),
            clock: world.clock,
            recent: Arc::default(),
            gate: Arc::clone(&gate),
        };
        let crew = Crew::new(site, Arc::default(), Versions::only(part));
        let (starting, stops, tracker) = (process.clone(), stop.clone(), in_flight.clone());
        in_flight.spawn(async move {
            let (broker, name) = (Arc::new(starting.clone()), starting.name.clone());
            let keeper = Keeper::start(Arc::clone(&gate), broker, name, Vec::new());
            let Some(keeper) = stops.requested.run_until_cancelled(keeper).await else { return };
            tokio::spawn(keeper.run(stops.overdue.clone()));
            if let Flow::Window(window) = starting.world.plan.flow {
                return lead(starting, crew, stops, window as usize).await;
            }
            let worker = crew.worker(&stops, tracker.clone(), None);
            tokio::spawn(consume(starting, worker, credit, gate.intake(), stops.requested, tracker, None));
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

/// Pulls whenever it is the active instance.
async fn lead(process: Process, crew: Crew<Process, Process>, stop: Stop, window: usize) {
    let leader = Leader::new(Arc::new(process.clone()), &crew.handler(), &process.name);
    let serve = |stop: Stop| {
        let (turns, in_flight) = (Arc::new(Turns::default()), TaskTracker::new());
        turns.hold();
        let worker = crew.worker(&stop, in_flight.clone(), Some(Arc::clone(&turns)));
        let process = process.clone();
        async move {
            let requested = stop.requested.clone();
            let everything = watch::channel(u32::MAX).1;
            let (tracker, held) = (in_flight.clone(), Some(Arc::clone(&turns)));
            let consume = consume(process.clone(), worker, window, everything, requested, tracker, held);
            // Tasks of their own, so that they end as such when the term is lost.
            let consumer = tokio::spawn(consume);
            let sure = stop.requested.clone().run_until_cancelled_owned(become_sure(process, turns));
            let sure = tokio::spawn(sure);
            let _ = consumer.await;
            let _ = sure.await;
            in_flight.close();
            in_flight.wait().await;
        }
    };
    leader.lead(&stop, serve).await;
}

/// Lets events begin whenever everything that was delivered is in hand.
async fn become_sure(process: Process, turns: Arc<Turns>) {
    loop {
        let hold = turns.held().await;
        loop {
            let before = process.held();
            let told = process.in_flight().await;
            if let Some((pending, delivered)) = told
                && is_all_in_hand(pending, delivered, &before, &process.held())
            {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        turns.release(hold);
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
    turns: Option<Arc<Turns>>,
) {
    loop {
        while in_flight.len() >= credit.min(*intake.borrow() as usize) && !stop.is_cancelled() {
            sleep(Duration::from_millis(10)).await;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            next = process.next() => match next {
                Some(Next::Delivery(delivery)) => Worker::start(&worker, *delivery),
                Some(Next::Lost) => turns.iter().for_each(|turns| turns.hold()),
                None => return,
            },
        }
    }
}
