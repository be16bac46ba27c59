//! What all handlers of the process share: the compiler and its configuration, the memory pool, the
//! clock that interrupts endless loops, the interfaces on offer, and the cache of compiled code.
//!
//! An engine knows no handler, and never runs one.

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::component::Linker;
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

use super::cache::Cache;
use super::limiter::{CORE_INSTANCES_MAX, MEMORIES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX};
use super::link::{self, State};

/// How often running guests are interrupted to see whether their deadline has passed and to let other
/// tasks run: no invocation outlives its deadline by more than this.
pub const TICK: Duration = Duration::from_millis(5);

/// The longest wasm call stack that is kept of an invocation that was cut short.
const BACKTRACE_FRAMES_MAX: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// Settings of an [`Engine`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// How many invocations may run at the same time, of all handlers together; more wait for their
    /// turn. As many idle instances are kept.
    pub invocations: u32,
    /// Where compiled components are kept; nowhere if `None`.
    pub cache_dir: Option<PathBuf>,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions { invocations: 1000, cache_dir: None }
    }
}

/// Why an engine could not be made: always a matter of the machine, never of a component.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The machine does not give what the configuration asks for, such as address space.
    #[error("the WebAssembly engine cannot be set up: {0:#}")]
    Setup(wasmtime::Error),
    /// The thread that interrupts guests could not be started.
    #[error("the thread that interrupts guests cannot be started: {0}")]
    Ticker(io::Error),
}

/// The engine that all handlers of a process share. Clones are handles to the same engine; its thread
/// ends with the last of them.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    wasmtime: wasmtime::Engine,
    linker: Linker<State>,
    cache: Option<Cache>,
    running: Semaphore,
    idle: AtomicUsize,
    idle_max: usize,
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
        let ticker = start_ticker(wasmtime.clone()).map_err(EngineError::Ticker)?;
        Ok(Engine(Arc::new(Shared {
            wasmtime,
            linker,
            cache: options.cache_dir.clone().and_then(Cache::open),
            running: Semaphore::new(options.invocations as usize),
            idle: AtomicUsize::new(0),
            idle_max: options.invocations as usize,
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

    /// Waits for a place among the running invocations. Together with [`Engine::reserve_idle`] this
    /// keeps the number of instances within what the pool has room for.
    pub(super) async fn admit(&self) -> Option<SemaphorePermit<'_>> {
        self.0.running.acquire().await.ok()
    }

    /// Takes one of the places for idle instances, if there is one left.
    pub(super) fn reserve_idle(&self) -> bool {
        let taken = self.0.idle.fetch_add(1, Ordering::Relaxed);
        if taken >= self.0.idle_max {
            self.release_idle(1);
        }
        taken < self.0.idle_max
    }

    /// Gives back places for idle instances.
    pub(super) fn release_idle(&self, count: usize) {
        self.0.idle.fetch_sub(count, Ordering::Relaxed);
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
        .table_elements(TABLE_ELEMENTS_MAX);
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .consume_fuel(true)
        .epoch_interruption(true)
        .wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES_MAX))
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

fn start_ticker(engine: wasmtime::Engine) -> io::Result<mpsc::Sender<()>> {
    let (stop, stopped) = mpsc::channel();
    thread::Builder::new().name("tidemill-ticker".to_owned()).spawn(move || {
        while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            engine.increment_epoch();
        }
    })?;
    Ok(stop)
}
