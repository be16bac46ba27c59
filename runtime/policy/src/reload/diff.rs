//! What a new manifest changes, and what that asks of a running instance.
//!
//! The manifest alone is compared: files that it names, such as components, schemas and secrets, may have changed
//! where nothing differs here.

use std::collections::BTreeMap;
use std::fmt;

use crate::manifest::{Auth, Handler, Manifest, Nats, Outputs, Runtime, SchemaPolicy};
use crate::marker;
use crate::publication::{provided_window, repeats_within, retries_through_stream};

/// What differs between two manifests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// What cannot change while the instance runs; with any of it, the new manifest is not taken over.
    pub refused: Vec<Refused>,
    /// What becomes of each handler of either manifest, by its name.
    pub handlers: BTreeMap<String, Change>,
}

/// A key of the whole process that cannot change while the instance runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The key, with its table.
    pub key: &'static str,
}

impl Refused {
    /// What to do about it.
    pub const REMEDY: &'static str = "restart the instance to apply it";
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot change while the instance runs; {}", self.key, Refused::REMEDY)
    }
}

/// What becomes of one handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Nothing differs.
    Same,
    /// Only what is looked at for each event differs: the next event may be run by the new policy, and the consumers stay.
    Swap,
    /// Something differs that its consumers, its gate or our streams were made by: it is drained and begun anew.
    Restart {
        /// The keys of its table that ask for it.
        keys: Vec<&'static str>,
    },
}

/// Compares two manifests.
pub fn diff(old: &Manifest, new: &Manifest) -> Diff {
    let mut refused = refused_nats(&old.nats, &new.nats);
    refused.extend(refused_runtime(&old.runtime, &new.runtime));
    let names = old.handlers.keys().chain(new.handlers.keys());
    let change_of = |name: &String| match (old.handlers.get(name), new.handlers.get(name)) {
        (Some(old), Some(new)) => change(old, new),
        (Some(_), None) => Change::Removed,
        (None, _) => Change::Added,
    };
    let handlers = names.map(|name| (name.clone(), change_of(name))).collect();
    Diff { refused, handlers }
}

/// The keys whose pair differs.
fn differing<const N: usize>(pairs: [(&'static str, bool); N]) -> impl Iterator<Item = &'static str> {
    pairs.into_iter().filter(|(_, is_same)| !is_same).map(|(key, _)| key)
}

fn refused_nats(old: &Nats, new: &Nats) -> Vec<Refused> {
    let Nats { urls, auth, tls, prefix, replicas } = old;
    let keys = differing([
        ("nats.url", *urls == new.urls),
        (if new.auth == Auth::None { auth_key(auth) } else { auth_key(&new.auth) }, *auth == new.auth),
        ("nats.tls", *tls == new.tls),
        ("nats.prefix", *prefix == new.prefix),
        ("nats.replicas", *replicas == new.replicas),
    ]);
    keys.map(|key| Refused { key }).collect()
}

/// The key by which a way to authenticate is told.
fn auth_key(auth: &Auth) -> &'static str {
    match auth {
        Auth::None => "nats",
        Auth::Credentials(_) => "nats.credentials",
        Auth::Nkey(_) => "nats.nkey",
        Auth::Token(_) => "nats.token",
        Auth::User { .. } => "nats.user",
    }
}

fn refused_runtime(old: &Runtime, new: &Runtime) -> Vec<Refused> {
    let Runtime {
        plugins,
        bucket,
        listen,
        in_flight,
        memory_bytes,
        cache,
        watch,
        watch_poll,
        versions,
        // Looked at when they are needed.
        drain: _,
        keep_versions: _,
    } = old;
    let keys = differing([
        ("runtime.plugins", *plugins == new.plugins && *bucket == new.bucket),
        ("runtime.listen", *listen == new.listen),
        ("runtime.in_flight", *in_flight == new.in_flight),
        ("runtime.memory", *memory_bytes == new.memory_bytes),
        ("runtime.cache", *cache == new.cache),
        ("runtime.watch", *watch == new.watch),
        ("runtime.watch_poll", *watch_poll == new.watch_poll),
        ("runtime.versions", *versions == new.versions),
    ]);
    keys.map(|key| Refused { key }).collect()
}

fn change(old: &Handler, new: &Handler) -> Change {
    let keys = differing_keys(old, new);
    if keys.is_empty() {
        return Change::Same;
    }
    let keys: Vec<_> = keys.into_iter().filter(|key| !is_per_event(key, old, new)).collect();
    if keys.is_empty() { Change::Swap } else { Change::Restart { keys } }
}

/// Whether a key that differs is looked at for each event and nowhere else. What is not named here is not, so that a
/// new key asks for a restart until somebody has thought about it.
fn is_per_event(key: &str, old: &Handler, new: &Handler) -> bool {
    match key {
        "component" | "config" | "secrets" | "isolation" | "schema" | "schema_versions" | "schema_by"
        | "schema_out" | "max_age" | "reload" | "http" | "keyvalue" => true,
        "limits" => {
            // The right to try an event, while the breaker is half open, is as long as the timeout lets it be run.
            let is_claimed = old.circuit_breaker.is_some() || new.circuit_breaker.is_some();
            let same_timeout = old.limits.budget.timeout == new.limits.budget.timeout;
            same_timeout || (!is_claimed && old.ack_wait == new.ack_wait && server_knows(old) == server_knows(new))
        }
        "retry" => server_knows(old) == server_knows(new),
        "dead_letter" => old.dead_letter.subject == new.dead_letter.subject && server_knows(old) == server_knows(new),
        "outputs" | "allow" => stored_together(old) == stored_together(new),
        _ => false,
    }
}

/// What of failures and their retries the server was told when consumers and streams were made: whether retries have a
/// consumer, for how long a stream that we make recognises duplicates, and how long markers live at most, which older servers
/// apply to the whole bucket.
fn server_knows(handler: &Handler) -> impl PartialEq + use<> {
    let window = handler.create_stream.then(|| provided_window(repeats_within(handler)));
    (retries_through_stream(handler), window, marker::lifetime_max([handler].into_iter()))
}

/// The subjects whose streams must take the outputs of an event as one batch: checked, and told to the streams that we
/// make, at the start.
fn stored_together(handler: &Handler) -> &[String] {
    match handler.outputs {
        Outputs::Atomic => &handler.allow.publish,
        Outputs::Each => &[],
    }
}

/// The keys of a handler's table that differ. Every field is named, so that a new one cannot be forgotten.
fn differing_keys(old: &Handler, new: &Handler) -> Vec<&'static str> {
    let Handler {
        name: _,
        // Part of `[nats]`, which does not change while an instance runs.
        prefix: _,
        component,
        subjects,
        stream,
        create_stream,
        durable,
        mode,
        format,
        concurrency,
        ack,
        ack_wait,
        max_age,
        schema: SchemaPolicy { default, by, versions, outputs: schema_out },
        dedup,
        order,
        config,
        secrets,
        isolation,
        limits,
        outputs,
        retry,
        circuit_breaker,
        outage_brake,
        rate_limit,
        dead_letter,
        allow,
        http,
        keyvalue,
        reload,
    } = old;
    let keys = differing([
        ("component", *component == new.component),
        ("subject", *subjects == new.subjects),
        ("stream", *stream == new.stream),
        ("create_stream", *create_stream == new.create_stream),
        ("durable", *durable == new.durable),
        ("mode", *mode == new.mode),
        ("format", *format == new.format),
        ("concurrency", *concurrency == new.concurrency),
        ("ack", *ack == new.ack),
        ("ack_wait", *ack_wait == new.ack_wait),
        ("max_age", *max_age == new.max_age),
        ("schema", *default == new.schema.default),
        ("schema_by", *by == new.schema.by),
        ("schema_versions", *versions == new.schema.versions),
        ("schema_out", *schema_out == new.schema.outputs),
        ("dedup", *dedup == new.dedup),
        ("order", *order == new.order),
        ("config", *config == new.config),
        ("secrets", *secrets == new.secrets),
        ("isolation", *isolation == new.isolation),
        ("limits", *limits == new.limits),
        ("outputs", *outputs == new.outputs),
        ("retry", *retry == new.retry),
        ("circuit_breaker", *circuit_breaker == new.circuit_breaker),
        ("outage_brake", *outage_brake == new.outage_brake),
        ("rate_limit", *rate_limit == new.rate_limit),
        ("dead_letter", *dead_letter == new.dead_letter),
        ("allow", *allow == new.allow),
        ("http", *http == new.http),
        ("keyvalue", *keyvalue == new.keyvalue),
        ("reload", *reload == new.reload),
    ]);
    keys.collect()
}

#[cfg(test)]
mod tests;
