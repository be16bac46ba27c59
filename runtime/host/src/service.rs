//! The instance as a NATS service: `nats micro` and `tidemill status` find all instances, and what each of them counts.
//!
//! The requests and errors that the protocol counts are those of the service's own endpoints, which tell how the
//! instance and its handlers are. What became of events is in the `data` of each endpoint.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{Request, Service, ServiceExt};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::broker::nats::Nats;
use crate::broker::nats::connect::{self, Link};
use crate::reload::{Ask, Report};
use crate::status::{Status, VERSION};

/// The name of the endpoint that tells how the instance is.
pub const INSTANCE_ENDPOINT: &str = "status";
/// What the names of the endpoints begin with that tell how the handlers are.
pub const HANDLER_ENDPOINT: &str = "handler-";
/// The key of the metadata that tells the instance's name.
pub const INSTANCE_KEY: &str = "instance";

/// How long to wait before the connection of the service is made anew: from the first to the second.
const DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long the server may take to be told that the instance is not there any more.
const STOP_MAX: Duration = Duration::from_secs(2);

/// The name of the service; with a prefix of one's own, that follows.
const NAME: &str = "tidemill";

/// The name of the service that all instances with this prefix are.
pub fn name(prefix: &str) -> String {
    if prefix == NAME { NAME.to_owned() } else { format!("{NAME}-{prefix}") }
}

/// What the subjects of the service's endpoints begin with.
pub fn space(prefix: &str) -> String {
    format!("{prefix}.service")
}

/// The subject on which the instances are asked for what they count.
pub fn stats_subject(prefix: &str) -> String {
    format!("$SRV.STATS.{}", name(prefix))
}

/// An instance that is registered, or will be as soon as it can.
pub struct Registered {
    /// Where the server hides it, nothing runs.
    task: Option<JoinHandle<()>>,
    stop: DropGuard,
}

impl Registered {
    /// Takes the instance off the list of those that can be found.
    pub async fn end(self) {
        drop(self.stop);
        if let Some(task) = self.task {
            // Where the server does not answer, nobody finds it there either.
            let _ = timeout(STOP_MAX, task).await;
        }
    }
}

/// Registers the instance in the background, until the process is asked to stop or the result is dropped. Where the
/// server does not let us, that is said once, and nothing else depends on it.
pub fn start(nats: &Nats, status: &Arc<Status>, prefix: &str, stop: &CancellationToken) -> Registered {
    let stop = stop.child_token();
    let serve = serve(Arc::clone(&nats.link), Arc::clone(status), prefix.to_owned(), stop.clone());
    let task = (!nats.is_hidden).then(|| tokio::spawn(serve));
    Registered { task, stop: stop.drop_guard() }
}

/// Answers until `stop` or a denial. Anybody may ask, and with headers that the client library stumbles over: so the
/// service has a connection of its own, which is made anew where the library has ended for good.
async fn serve(main: Arc<Link>, status: Arc<Status>, prefix: String, stop: CancellationToken) {
    let mut delay = DELAYS.0;
    loop {
        let connected = stop.run_until_cancelled(connect::connect_beside(&main, "service")).await;
        let Some(connected) = connected else { return };
        match connected {
            Ok((client, link)) => {
                delay = DELAYS.0;
                if let End::ForGood = answer(&client, &link, &status, &prefix, &stop).await {
                    // What was said last is on its way when the connection is closed.
                    let _ = timeout(STOP_MAX, client.flush()).await;
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "cannot connect to be found as a service"),
        }
        if stop.run_until_cancelled(sleep(delay)).await.is_none() {
            return;
        }
        delay = (delay * 2).min(DELAYS.1);
    }
}

/// Whether it is over, or the connection is.
enum End {
    ForGood,
    Lost,
}

async fn answer(client: &Client, link: &Link, status: &Arc<Status>, prefix: &str, stop: &CancellationToken) -> End {
    let since = Instant::now();
    let (service, mut requests) = match register(client, status, prefix).await {
        Ok(registered) => registered,
        Err(_) if link.lost.is_cancelled() => return End::Lost,
        Err(error) => {
            tracing::warn!(%error, "the instance is not registered as a service: tidemill status does not find it");
            return End::ForGood;
        }
    };
    let (counts, own) = (stats_subject(prefix), format!("{}.{INSTANCE_ENDPOINT}", space(prefix)));
    let answer = async {
        while let Some((endpoint, request)) = requests.next().await {
            let status = Arc::clone(status);
            let answer = async move {
                let answer = endpoint.answer(&status, &request.message.payload).await;
                if let Err(error) = request.respond(Ok(answer)).await {
                    tracing::debug!(%error, "could not answer a request");
                }
            };
            // A reload takes a while, and meanwhile others want to know how the instance is.
            tokio::spawn(answer);
        }
    };
    let end = tokio::select! {
        () = stop.cancelled() => End::ForGood,
        () = answer => End::Lost,
        () = link.lost.cancelled() => End::Lost,
        why = async {
            tokio::select! {
                why = link.until_denied(&counts, since) => why,
                why = link.until_denied(&own, since) => why,
            }
        } => {
            tracing::warn!(
                why,
                "the instance is not registered as a service, so that tidemill status and nats micro do not find it; grant \
                 subscribe on \"$SRV.>\" and \"{}.>\"",
                space(prefix)
            );
            End::ForGood
        }
    };
    // It fails never: it tells its tasks to end.
    let _ = service.stop().await;
    end
}

type Requests = SelectAll<BoxStream<'static, (Answers, Request)>>;

/// What an endpoint answers with.
#[derive(Debug, Clone)]
enum Answers {
    /// How the instance is.
    Instance,
    /// How a handler is.
    Handler(String),
    /// What came of a reload.
    Reload,
    /// What came of going back to an earlier version.
    Rollback,
}

/// What is sent with a request to go back to an earlier version.
#[derive(Debug, Serialize, Deserialize)]
pub struct RollbackRequest {
    /// The handler.
    pub handler: String,
    /// The beginning of the version's digest; the last one that was kept before, if none is named.
    pub to: Option<String>,
}

/// What a reload or a rollback is answered with: a report, or why there is none.
#[derive(Debug, Serialize)]
struct Refusal {
    ok: bool,
    problems: Vec<String>,
}

/// The subject on which one instance is asked to reload.
pub fn reload_subject(prefix: &str, instance: &str) -> String {
    format!("{}.{RELOAD}.{instance}", space(prefix))
}

/// The subject on which one instance is asked to go back to an earlier version, with a [`RollbackRequest`].
pub fn rollback_subject(prefix: &str, instance: &str) -> String {
    format!("{}.{ROLLBACK}.{instance}", space(prefix))
}

const RELOAD: &str = "reload";
const ROLLBACK: &str = "rollback";

async fn register(
    client: &async_nats::Client,
    status: &Arc<Status>,
    prefix: &str,
) -> Result<(Service, Requests), async_nats::Error> {
    let counts = Arc::clone(status);
    let data = move |endpoint: String, _| match endpoint.strip_prefix(HANDLER_ENDPOINT) {
        Some(handler) => json(&counts.report_of(handler)),
        None if endpoint == INSTANCE_ENDPOINT => json(&counts.report_of_instance()),
        None => serde_json::Value::Null,
    };
    let metadata = [(INSTANCE_KEY, status.name.as_str()), ("prefix", prefix)];
    let service = client
        .service_builder()
        .description("runs WebAssembly event handlers on NATS JetStream")
        .metadata(HashMap::from(metadata.map(|(key, value)| (key.to_owned(), value.to_owned()))))
        // Each instance answers each request: one is not like another.
        .queue_group(&status.name)
        .stats_handler(data)
        .start(name(prefix), VERSION)
        .await?;
    let space = service.group(space(prefix));
    let own = space.endpoint_builder().name(INSTANCE_ENDPOINT).add(INSTANCE_ENDPOINT).await?;
    let mut requests = Requests::new();
    requests.push(tagged(own, Answers::Instance));
    for (name, answers) in [(RELOAD, Answers::Reload), (ROLLBACK, Answers::Rollback)] {
        let subject = format!("{name}.{}", status.name);
        requests.push(tagged(space.endpoint_builder().name(name).add(subject).await?, answers));
    }
    let handlers = space.group("handler");
    for handler in status.handlers() {
        let endpoint = handlers.endpoint_builder().name(format!("{HANDLER_ENDPOINT}{handler}")).add(&handler).await?;
        requests.push(tagged(endpoint, Answers::Handler(handler)));
    }
    Ok((service, requests))
}

fn tagged(endpoint: Endpoint, answers: Answers) -> BoxStream<'static, (Answers, Request)> {
    endpoint.map(move |request| (answers.clone(), request)).boxed()
}

impl Answers {
    async fn answer(&self, status: &Status, payload: &[u8]) -> Bytes {
        let answer = match self {
            Answers::Instance => json(&status.report()),
            Answers::Handler(handler) => json(&status.report_of(handler)),
            Answers::Reload => done(status.reloads.ask(Ask::Reload, "asked for over NATS").await),
            Answers::Rollback => match serde_json::from_slice(payload) {
                Ok(RollbackRequest { handler, to }) => {
                    done(status.reloads.ask(Ask::Rollback { handler, to }, "asked for over NATS").await)
                }
                Err(error) => done(Err(format!("the request is not {{\"handler\": NAME, \"to\": DIGEST}}: {error}"))),
            },
        };
        answer.to_string().into()
    }
}

fn done(report: Result<Report, String>) -> serde_json::Value {
    match report {
        Ok(report) => json(&report),
        Err(why) => json(&Refusal { ok: false, problems: vec![why] }),
    }
}

fn json(value: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}
