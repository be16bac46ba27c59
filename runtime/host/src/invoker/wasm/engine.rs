//! What all handlers of the process share: the compiler and its configuration, the pool of instances and the memory in
//! it, the clock that interrupts endless loops, the lane of those that compute for long, the interfaces on offer, and
//! the cache of compiled code.
//!
//! An engine knows no handler, and never runs one.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tidemill_policy::manifest::CONCURRENCY_MAX;
use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

use super::cache::Cache;
use super::error::Problem;
use super::handler::Ended;
use super::lane::Lane;
use super::limiter::{CORE_INSTANCES_MAX, MEMORIES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX};
use super::link::{self, State};
use super::memory::Memory;
use crate::broker::nats::keyvalue::Buckets;
use crate::machine;

/// The unit of turns. A guest that computes is interrupted after two of them at the latest, to see whether its deadline
/// has passed and to let others run.
const TICK: Duration = Duration::from_millis(2);

/// The same while there are calls in the long lane: the shorter their turns, the sooner others have a processor.
const TICK_OF_LANE: Duration = Duration::from_millis(1);

/// The longest wasm call stack that is kept of an invocation that was cut short.
const BACKTRACE_FRAMES_MAX: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// How much of an instance's memory stays with the process for the next one, and is reset by copying
/// instead of by unmapping: halves the cost of a fresh instance. Only where the kernel says which pages
/// are dirty, since it would take longer otherwise.
const KEEP_RESIDENT_MEMORY_BYTES: usize = 2 * 1024 * 1024;

/// The same for tables, which are small enough to be reset whole.
const KEEP_RESIDENT_TABLE_BYTES: usize = 64 * 1024;

/// Settings of an [`Engine`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// How many invocations there is room for at the same time, of all handlers together, and for as many idle
    /// instances. Each handler has its own part of it.
    pub invocations: u32,
    /// How much linear memory all instances may have together, in bytes; half of the machine's if `None`.
    pub memory_bytes: Option<u64>,
    /// Where compiled components are kept; nowhere if `None`.
    pub cache_dir: Option<PathBuf>,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions { invocations: CONCURRENCY_MAX, memory_bytes: None, cache_dir: None }
    }
}

/// Why an engine could not be made: always a matter of the machine, never of a component.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The machine does not give what the configuration asks for, such as address space.
    #[error("the WebAssembly engine cannot be set up: {0:#}")]
    Setup(wasmtime::Error),
    /// A thread that interrupts or runs guests could not be started.
    #[error("the threads that interrupt and run guests cannot be started: {0}")]
    Thread(io::Error),
}

/// The engine that all handlers of a process share. Clones are handles to the same engine; its thread
/// ends with the last of them.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    wasmtime: wasmtime::Engine,
    linker: Linker<State>,
    cache: Option<Cache>,
    memory: Memory,
    buckets: Arc<Buckets>,
    lane: Lane<Ended>,
    /// Who has which part of the pool.
    rooms: Mutex<Rooms>,
    /// How many handlers there have been.
    handlers: AtomicU64,
    /// The ticker thread runs until this is dropped.
    _ticker: mpsc::Sender<()>,
}

impl Engine {
    /// Sets up the engine and starts the thread that interrupts guests.
    ///
    /// # Errors
    ///
    /// If the machine does not give the address space or the thread that it takes.
    pub fn new(options: &EngineOptions) -> Result<Engine, EngineError> {
        let wasmtime = wasmtime::Engine::new(&config(options)).map_err(EngineError::Setup)?;
        let linker = link::linker(&wasmtime).map_err(EngineError::Setup)?;
        let lane = Lane::start(thread::available_parallelism().map_or(1, usize::from)).map_err(EngineError::Thread)?;
        let ticker = start_ticker(wasmtime.clone(), lane.calls()).map_err(EngineError::Thread)?;
        Ok(Engine(Arc::new(Shared {
            wasmtime,
            linker,
            cache: options.cache_dir.clone().and_then(Cache::open),
            memory: Memory::new(options.memory_bytes.unwrap_or_else(machine::memory_for_guests)),
            buckets: Arc::default(),
            lane,
            rooms: Mutex::new(Rooms { all: options.invocations, taken: BTreeMap::new() }),
            handlers: AtomicU64::new(0),
            _ticker: ticker,
        })))
    }

    pub(super) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.0.wasmtime
    }

    pub(super) fn linker(&self) -> &Linker<State> {
        &self.0.linker
    }

    pub(super) fn cache(&self) -> Option<&Cache> {
        self.0.cache.as_ref()
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// The buckets that handlers use, to be told of each connection.
    pub fn buckets(&self) -> Arc<Buckets> {
        Arc::clone(&self.0.buckets)
    }

    pub(super) fn lane(&self) -> &Lane<Ended> {
        &self.0.lane
    }

    /// How much linear memory all instances have at the moment, idle ones included, in bytes.
    pub fn memory_used_bytes(&self) -> u64 {
        self.0.memory.used()
    }

    /// Sets a part of the pool aside for a handler that runs so many invocations at once. The versions of one handler
    /// share it, since they run no more together.
    pub(super) fn make_room(&self, handler: &str, concurrency: u32) -> Result<Room, Problem> {
        self.rooms().take(handler, concurrency).map_err(|left| Problem::Room { concurrency, left })?;
        let number = self.0.handlers.fetch_add(1, Ordering::Relaxed);
        Ok(Room { engine: self.clone(), handler: handler.to_owned(), number, concurrency })
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.0.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many invocations there is room for, and how many of them each version of each handler runs at once.
struct Rooms {
    all: u32,
    taken: BTreeMap<String, Vec<u32>>,
}

impl Rooms {
    /// Takes room for a version, or says how much is left.
    fn take(&mut self, handler: &str, concurrency: u32) -> Result<(), u32> {
        let widest = |versions: &Vec<u32>| versions.iter().copied().max().unwrap_or(0);
        let taken: u32 =
            self.taken.iter().filter(|(name, _)| *name != handler).map(|(_, versions)| widest(versions)).sum();
        let left = self.all - taken;
        if concurrency > left {
            return Err(left);
        }
        self.taken.entry(handler.to_owned()).or_default().push(concurrency);
        Ok(())
    }

    fn give_back(&mut self, handler: &str, concurrency: u32) {
        let Some(versions) = self.taken.get_mut(handler) else { return };
        if let Some(place) = versions.iter().position(|one| *one == concurrency) {
            versions.swap_remove(place);
        }
        if versions.is_empty() {
            self.taken.remove(handler);
        }
    }
}

/// A handler's part of the pool, given back when this is dropped.
pub(super) struct Room {
    engine: Engine,
    handler: String,
    number: u64,
    concurrency: u32,
}

impl Room {
    /// Tells the loaded versions of the engine apart.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.engine.rooms().give_back(&self.handler, self.concurrency);
    }
}

fn config(options: &EngineOptions) -> Config {
    let instances = options.invocations.saturating_mul(2);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_MAX))
        .total_memories(instances.saturating_mul(MEMORIES_MAX))
        .total_tables(instances.saturating_mul(TABLES_MAX))
        .total_gc_heaps(instances)
        .total_stacks(instances)
        .max_memories_per_module(MEMORIES_MAX)
        .max_tables_per_module(TABLES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .table_keep_resident(KEEP_RESIDENT_TABLE_BYTES);
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Auto).linear_memory_keep_resident(KEEP_RESIDENT_MEMORY_BYTES);
    }
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .wasm_gc(false) // there is no collector in this build, so garbage would only pile up
        .concurrency_support(false)
        .consume_fuel(true)
        .epoch_interruption(true)
        .wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES_MAX))
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

fn start_ticker(engine: wasmtime::Engine, long_calls: Arc<AtomicUsize>) -> io::Result<mpsc::Sender<()>> {
    let (stop, stopped) = mpsc::channel();
    thread::Builder::new().name("tidemill-ticker".to_owned()).spawn(move || {
        let tick = || if long_calls.load(Ordering::Relaxed) == 0 { TICK } else { TICK_OF_LANE };
        while stopped.recv_timeout(tick()) == Err(RecvTimeoutError::Timeout) {
            engine.increment_epoch();
        }
    })?;
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_of_one_handler_share_their_room() {
        let mut rooms = Rooms { all: 10, taken: BTreeMap::new() };
        assert_eq!(rooms.take("a", 6), Ok(()));
        assert_eq!(rooms.take("b", 4), Ok(()));
        assert_eq!((rooms.take("a", 6), rooms.take("a", 7)), (Ok(()), Err(6)));
        rooms.give_back("a", 6);
        assert_eq!(rooms.take("c", 1), Err(0), "the other version is still there");
        rooms.give_back("a", 6);
        assert_eq!(rooms.take("c", 6), Ok(()));
    }
}
