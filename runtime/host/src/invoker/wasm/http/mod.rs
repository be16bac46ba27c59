//! `wasi:http/outgoing-handler`: which requests of a guest are sent, and what they may take.
//!
//! A request is checked against the grants before anything is done for it. From then on it is one task, which owns its
//! connection and ends when the guest drops it, when its instance is dropped, or when its time is over. Redirects are not
//! followed: a guest that follows one sends another request.

mod connect;
mod exchange;
mod gate;

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use http::Request;
use tidemill_policy::manifest::{Handler, HttpPolicy};
use tidemill_policy::reach::http::{admit, origins};
use tidemill_policy::reach::{HttpGrant, Origin, Target};
use tokio::sync::Semaphore;
use wasmtime::component::ResourceTable;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks};

use exchange::{Answer, Exchange};
use gate::{Gate, Wait};

use super::transcript::{self, Transcript};

/// The most that the headers of one request or response may take in the host's memory, in bytes.
const HEADER_BYTES_MAX: usize = 32 * 1024;

/// The most that a guest may pass on of a request's body at once, in bytes.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// What a handler may send: its grants, its limits, and what its instances know of each origin together.
pub(super) struct Client {
    grants: Vec<HttpGrant>,
    policy: HttpPolicy,
    gates: BTreeMap<Origin, Gate>,
}

impl Client {
    /// What a handler's entry in the manifest grants it.
    pub(super) fn new(handler: &Handler) -> Client {
        let (grants, policy) = (handler.allow.http.clone(), handler.http);
        let is_gated = policy.rate_limit.is_some() || policy.circuit_breaker.is_some();
        let origins = if is_gated { origins(&grants) } else { Vec::new() };
        let gates = origins.into_iter().map(|origin| (origin, Gate::new(policy))).collect();
        Client { grants, policy, gates }
    }
}

/// The requests of one instance.
pub(super) struct Http {
    context: WasiHttpCtx,
    hooks: Hooks,
}

struct Hooks {
    client: Arc<Client>,
    transcript: Arc<Mutex<Transcript>>,
    /// A permit for each request that may be under way at once.
    places: Arc<Semaphore>,
    /// When the running invocation ends.
    deadline: Instant,
    is_rehearsal: bool,
}

impl Http {
    pub(super) fn new(client: &Arc<Client>, transcript: &Arc<Mutex<Transcript>>) -> Http {
        let mut context = WasiHttpCtx::new();
        context.set_field_size_limit(HEADER_BYTES_MAX);
        let places = Arc::new(Semaphore::new(client.policy.in_flight as usize));
        let (client, transcript) = (Arc::clone(client), Arc::clone(transcript));
        Http { context, hooks: Hooks { client, transcript, places, deadline: Instant::now(), is_rehearsal: false } }
    }

    /// What the bindings of `wasi:http` work on, for an invocation with this deadline.
    pub(super) fn view<'a>(
        &'a mut self,
        table: &'a mut ResourceTable,
        deadline: Instant,
        is_rehearsal: bool,
    ) -> WasiHttpCtxView<'a> {
        self.hooks.deadline = deadline;
        self.hooks.is_rehearsal = is_rehearsal;
        WasiHttpCtxView { hooks: &mut self.hooks, table, ctx: &mut self.context }
    }

    /// Whether no request is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.hooks.places.available_permits() == self.hooks.client.policy.in_flight as usize
    }
}

impl Hooks {
    /// Checks a request, and takes a place for it.
    fn begin(&self, request: &Request<WasiBody>) -> Result<Exchange, (Error, String)> {
        let client = &self.client;
        let target = target(request)?;
        admit(&client.grants, &target).map_err(|refusal| (Error::HttpRequestDenied, refusal.to_string()))?;
        if self.is_rehearsal {
            let said = format!("{target} is not sent: this is a rehearsal, from which nothing reaches outside");
            return Err((Error::HttpRequestDenied, said));
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let most = client.policy.in_flight;
            let said = format!("{target} is refused: {most} requests are under way already (`http.in_flight`)");
            return Err((Error::ConnectionLimitReached, said));
        };
        // The end of the invocation needs no timer: its instance is dropped, and with that the request.
        let ends = Instant::now() + client.policy.request_timeout;
        let is_gated = client.gates.contains_key(&target.origin);
        let wait =
            is_gated.then(|| Wait::enter(Arc::clone(client), &target.origin, ends.min(self.deadline), self.deadline));
        let wait =
            wait.transpose().map_err(|why| (Error::DestinationUnavailable, format!("{target} is refused: {why}")))?;
        let transcript = Arc::clone(&self.transcript);
        Ok(Exchange { target, policy: client.policy, ends: ends.into(), wait, _place: place, transcript })
    }
}

fn target(request: &Request<WasiBody>) -> Result<Target, (Error, String)> {
    let uri = request.uri();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Target::new(request.method().as_str(), uri.scheme_str().unwrap_or_default(), authority, path)
        .map_err(|refusal| (Error::HttpRequestUriInvalid, refusal.to_string()))
}

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        match self.begin(&request) {
            Ok(exchange) => Box::new(exchange.carry_out(request, options.unwrap_or_default())),
            Err((error, said)) => {
                transcript::lock(&self.transcript).remark(&said);
                Box::new(ready(Err(error)))
            }
        }
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES_MAX
    }

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        if error.is_incomplete_message() { ErrorCode::HttpResponseIncomplete } else { ErrorCode::HttpProtocolError }
    }
}
