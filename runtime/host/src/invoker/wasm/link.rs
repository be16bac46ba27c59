//! What a guest can reach: the interfaces on offer, and the state behind them.
//!
//! All of WASI 0.2 is linked, and closed: there are no files, sockets, arguments or environment
//! variables, and nothing of the host's own is ever inherited.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi::p2::bindings::clocks::wall_clock;
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use super::bindings::messaging::wasmcloud::messaging::{consumer, types as messages};
use super::bindings::tidemill::handler::types;
use super::bindings::wasi::config::store;
use super::bindings::wasi::logging::logging;
use super::chance::Chance;
use super::http::{Client, Http};
use super::instance::Watch;
use super::keyvalue::{self, Keys};
use super::limiter::Limiter;
use super::messaging::Held;
use super::offer::Grant;
use super::transcript::{GuestStream, Level, Stream, Transcript};

/// The most host resources (streams, pollables) that one instance may hold at a time.
const RESOURCES_MAX: usize = 10_000;

/// A handler's `config` and `secrets`, by key.
pub(super) type Settings = Arc<BTreeMap<String, String>>;

/// What belongs to one instance on the host's side.
pub(super) struct State {
    /// When the running invocation ends.
    pub(super) deadline: Instant,
    /// Whether the guest has given its turn up, and is to go on when it has the next one.
    pub(super) is_between_turns: bool,
    /// Whether the running invocation is a rehearsal, from which nothing reaches outside.
    pub(super) is_rehearsal: bool,
    pub(super) watch: Arc<Watch>,
    pub(super) limiter: Limiter,
    pub(super) chance: Chance,
    pub(super) transcript: Arc<Mutex<Transcript>>,
    /// What a component publishes by itself.
    pub(super) held: Held,
    settings: Settings,
    client: Arc<Client>,
    pub(super) keys: Arc<Keys>,
    /// How many operations on buckets the running invocation has asked for.
    pub(super) operations: u32,
    /// Its requests, from the first one on.
    http: Option<Box<Http>>,
    wasi: WasiCtx,
    pub(super) resources: ResourceTable,
}

impl State {
    pub(super) fn new(
        limiter: Limiter,
        chance: Chance,
        transcript: Transcript,
        settings: Settings,
        client: Arc<Client>,
        keys: Arc<Keys>,
        deadline: Instant,
    ) -> State {
        let transcript = Arc::new(Mutex::new(transcript));
        let wasi = WasiCtx::builder()
            .stdout(GuestStream::new(Stream::Stdout, &transcript))
            .stderr(GuestStream::new(Stream::Stderr, &transcript))
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(RESOURCES_MAX);
        let watch = Arc::default();
        let held = Held::default();
        State {
            deadline,
            is_between_turns: false,
            is_rehearsal: false,
            watch,
            limiter,
            chance,
            transcript,
            held,
            settings,
            client,
            keys,
            operations: 0,
            http: None,
            wasi,
            resources,
        }
    }

    /// Whether nothing that the guest has begun outside goes on.
    pub(super) fn is_idle(&self) -> bool {
        self.http.as_ref().is_none_or(|http| http.is_idle())
    }

    /// Runs `action` on the transcript. It is shared with the guest's streams, which never hold on to it.
    pub(super) fn transcript<R>(&self, action: impl FnOnce(&mut Transcript) -> R) -> R {
        action(&mut super::transcript::lock(&self.transcript))
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let http = self.http.get_or_insert_with(|| Box::new(Http::new(&self.client, &self.transcript)));
        http.view(&mut self.resources, self.deadline, self.is_rehearsal)
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }
}

impl types::Host for State {}

impl store::Host for State {
    fn get(&mut self, key: String) -> Result<Option<String>, store::Error> {
        Ok(self.settings.get(&key).cloned())
    }

    fn get_all(&mut self) -> Result<Vec<(String, String)>, store::Error> {
        let settings = self.settings.iter();
        Ok(settings.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

impl logging::Host for State {
    fn log(&mut self, level: logging::Level, context: String, message: String) {
        let level = match level {
            logging::Level::Trace => Level::Trace,
            logging::Level::Debug => Level::Debug,
            logging::Level::Info => Level::Info,
            logging::Level::Warn => Level::Warn,
            logging::Level::Error => Level::Error,
            logging::Level::Critical => Level::Critical,
        };
        self.transcript(|transcript| transcript.log(level, &context, &message));
    }
}

/// What is on offer to a handler: everything that every handler has, and what it is granted.
pub(super) fn granted(common: &Linker<State>, grants: &[Grant]) -> wasmtime::Result<Linker<State>> {
    let mut linker = common.clone();
    for grant in grants {
        match grant {
            Grant::Http => wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?,
            Grant::KeyValue => keyvalue::add_to_linker(&mut linker)?,
        }
    }
    Ok(linker)
}

/// Everything that is on offer to every handler.
pub(super) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    linker.allow_shadowing(true);
    random::add_to_linker::<State, HasSelf<Chance>>(&mut linker, |state| &mut state.chance)?;
    insecure::add_to_linker::<State, HasSelf<Chance>>(&mut linker, |state| &mut state.chance)?;
    insecure_seed::add_to_linker::<State, HasSelf<Chance>>(&mut linker, |state| &mut state.chance)?;
    wall_clock::add_to_linker::<State, HasSelf<Chance>>(&mut linker, |state| &mut state.chance)?;
    linker.allow_shadowing(false);
    logging::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    store::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    types::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    messages::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    consumer::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    Ok(linker)
}
