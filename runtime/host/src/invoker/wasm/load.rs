//! From a file to a handler: everything that can be wrong is found here, before the first event.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tidemill_policy::manifest::Handler;
use tokio::sync::Semaphore;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre};

use super::bindings::messaging::exports::wasmcloud::messaging::handler::BrokerMessage;
use super::bindings::tidemill::handler::types::{Event, Failure, Output};
use super::engine::Engine;
use super::entry::EntryPre;
use super::error::{LoadError, Problem};
use super::habit::Habit;
use super::handler::WasmHandler;
use super::http::Client;
use super::inspect::{self, ComponentBytes, Import, Inspection};
use super::keyvalue::Keys;
use super::limiter::{MEMORIES_MAX, TABLES_MAX};
use super::link::{self, State};
use super::offer::{self, Grant, SERVED};
use super::pool::Pool;
use super::secrets::Secrets;

/// The size of a page of WebAssembly memory, in bytes.
const PAGE_BYTES: u64 = 64 * 1024;

/// The types of `handle`: what it takes, and what it returns.
type Parameters<'a> = (Event<'a>,);
type Returned = (Result<Vec<Output>, Failure>,);

/// The types of wasmCloud's `handle-message`.
type Message<'a> = (BrokerMessage<'a>,);
type Handled = (Result<(), String>,);

impl WasmHandler {
    /// Loads a component, or a core module that says how to make it one, with the handler's limits.
    /// `settings` are the handler's `config` and the values of its `secrets`.
    ///
    /// Compiles if there is no compiled code in the cache, which takes from 0.05 to 10 seconds of CPU
    /// time: not to be called on a thread that runs events.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is no handler, or asks for more than it is offered.
    pub fn load(
        engine: &Engine,
        file: &Path,
        handler: &Handler,
        settings: BTreeMap<String, String>,
    ) -> Result<WasmHandler, LoadError> {
        let bytes = read(file, handler)?;
        WasmHandler::from_bytes(engine, &bytes, handler, settings)
            .map_err(|problem| LoadError { file: file.to_owned(), problem })
    }

    /// As [`WasmHandler::load`], with the file's bytes.
    ///
    /// # Errors
    ///
    /// If they are no handler, or ask for more than is offered.
    pub fn from_bytes(
        engine: &Engine,
        file: &[u8],
        handler: &Handler,
        settings: BTreeMap<String, String>,
    ) -> Result<WasmHandler, Problem> {
        let bytes = inspect::component(file)?;
        let inspection = inspect::describe(file, &bytes);
        let handler_interface = check_exports(&inspection)?;
        let component = compile(engine, &bytes)?;
        check_size(&component, &bytes, handler.limits.budget.memory_bytes)?;
        let pre = link(engine, &component, &inspection, &Grant::of(handler))?;
        let pre = Arc::new(check_type(engine, pre, handler_interface)?);
        let room = engine.make_room(&handler.name, handler.concurrency)?;
        let pool = Arc::<Pool>::default();
        Ok(WasmHandler {
            name: Arc::from(&*handler.name),
            engine: engine.clone(),
            pre,
            client: Arc::new(Client::new(handler)),
            keys: Arc::new(Keys::new(handler, engine.buckets())),
            secrets: Arc::new(Secrets::new(handler, &settings)),
            settings: Arc::new(settings),
            budget: handler.limits.budget,
            isolation: handler.isolation,
            reuse: handler.limits.reuse,
            slots: Arc::new(Semaphore::new(handler.concurrency as usize)),
            account: engine.memory().open(&handler.name, handler.memory_need_bytes(), &pool),
            pool,
            habit: Habit::default(),
            rests: AtomicBool::new(false),
            inspection,
            room,
        })
    }
}

/// Reads the file of a handler's component.
///
/// # Errors
///
/// If there is none, or it cannot be read.
pub fn read(file: &Path, handler: &Handler) -> Result<Vec<u8>, LoadError> {
    fs::read(file).map_err(|error| {
        let problem = match error.kind() {
            io::ErrorKind::NotFound => Problem::Missing { handler: handler.name.clone() },
            _ => Problem::Unreadable(error),
        };
        LoadError { file: file.to_owned(), problem }
    })
}

/// The handler interface that is served to it.
fn check_exports(inspection: &Inspection) -> Result<&'static str, Problem> {
    match &inspection.handler {
        Some(found) if offer::are_compatible(offer::served(found), found) => Ok(offer::served(found)),
        Some(found) => Err(Problem::HandlerVersion { found: found.clone(), served: offer::served(found) }),
        None => Err(Problem::NoHandler { served: SERVED, exports: inspection.exports.clone() }),
    }
}

fn compile(engine: &Engine, bytes: &ComponentBytes<'_>) -> Result<Component, Problem> {
    let component = match engine.cache() {
        Some(cache) => cache.component(engine.wasmtime(), &bytes.bytes),
        None => Component::new(engine.wasmtime(), &bytes.bytes),
    };
    component.map_err(|error| Problem::Compile(format!("{error:#}")))
}

/// Compares what every instance will take with what it may take.
fn check_size(component: &Component, bytes: &ComponentBytes<'_>, memory_limit: u64) -> Result<(), Problem> {
    let Some(required) = component.resources_required() else {
        return Ok(());
    };
    for (what, found, max) in
        [("memories", required.num_memories, MEMORIES_MAX), ("tables", required.num_tables, TABLES_MAX)]
    {
        if found > max {
            return Err(Problem::TooMany { what, found, max });
        }
    }
    let largest = required.max_initial_memory_size.unwrap_or(0);
    let initial = if required.num_memories == bytes.outline.memories {
        bytes.outline.memory_bytes
    } else {
        largest.saturating_mul(PAGE_BYTES)
    };
    if initial > memory_limit {
        return Err(Problem::Memory { initial, limit: memory_limit });
    }
    Ok(())
}

fn link(
    engine: &Engine,
    component: &Component,
    inspection: &Inspection,
    grants: &[Grant],
) -> Result<InstancePre<State>, Problem> {
    let linked = match grants {
        [] => engine.linker().instantiate_pre(component),
        grants => link::granted(engine.linker(), grants).and_then(|linker| linker.instantiate_pre(component)),
    };
    linked.map_err(|error| {
        let is_missing =
            |import: &&Import| !import.offered && !import.grant.is_some_and(|grant| grants.contains(&grant));
        let missing = inspection.imports.iter().filter(is_missing);
        let imports: Vec<_> = missing.map(|import| import.name.clone()).collect();
        if imports.is_empty() { Problem::ImportType(format!("{error:#}")) } else { Problem::Imports { imports } }
    })
}

/// Checks the type of the handler's function, which the bindings would do at the first call only.
fn check_type(engine: &Engine, pre: InstancePre<State>, served: &'static str) -> Result<EntryPre, Problem> {
    let wrong = |why: String| Problem::HandlerType { served, why };
    let name = if served == SERVED { "handle" } else { "handle-message" };
    let engine = engine.wasmtime();
    let component = pre.component().component_type();
    let handler = component.get_export(engine, served).map(|export| export.ty);
    let Some(ComponentItem::ComponentInstance(handler)) = handler else {
        return Err(wrong("it is not an interface".to_owned()));
    };
    let function = handler.get_export(engine, name).map(|export| export.ty);
    let Some(ComponentItem::ComponentFunc(function)) = function else {
        return Err(wrong(format!("it has no function `{name}`")));
    };
    if function.async_() {
        return Err(wrong(format!("`{name}` is an `async func`")));
    }
    let types = pre.instance_type();
    let checked = if served == SERVED {
        function.typecheck::<Parameters<'_>, Returned>(&types)
    } else {
        function.typecheck::<Message<'_>, Handled>(&types)
    };
    checked.map_err(|error| wrong(format!("{error:#}")))?;
    EntryPre::new(pre, served).map_err(|error| wrong(format!("{error:#}")))
}
