//! From checked values to resolved ones: applies precedence and fills in what follows from other keys.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::check;
use super::contract;
use super::gate;
use super::layers::Layers;
use super::order;
use super::problem::{Complaint, Report, nearest};
use super::reach;
use super::read::{Named, Raw, Value, built_in};
use super::reload;
use super::resolved::{
    AckMode, Auth, BUCKET_SCHEME, Backoff, DeadLetterPolicy, Dedup, DedupKey, Format, Handler, Isolation, Limits,
    Manifest, Mode, Nats, Outputs, RetryPolicy, Runtime, Tls,
};
use super::share;
use super::tables::{HANDLER, NATS, RUNTIME};
use crate::budget::Budget;
use crate::history::Kind;

/// Resolves a manifest. If the report has errors afterwards, what is returned must not be used.
pub(super) fn manifest(raw: &Raw, report: &mut Report) -> Manifest {
    let nats = nats(&raw.nats, report);
    let runtime = runtime(&raw.runtime);
    let built_in = built_in(HANDLER);
    let mut handlers = BTreeMap::new();
    let mut durables = BTreeMap::new();
    let mut followed = BTreeSet::new();
    let mut concurrency = Vec::new();
    for (name, named) in &raw.handlers {
        let policy = policy(raw, named, report);
        followed.extend(policy.map(|(name, _)| name));
        let policy = policy.map(|(_, named)| &named.layer);
        let said = [Some(&named.layer), policy, Some(&raw.defaults.layer)];
        let said = said.into_iter().flatten().collect();
        let layers = Layers { said, built_in: &built_in, span: named.span };
        let handler = handler(name, &layers, &nats.prefix);
        check::handler(&handler, &layers, &nats.prefix, report);
        check::durable(&handler, &layers, &mut durables, report);
        share::memory(&handler, &layers, &runtime, report);
        concurrency.push((handler.concurrency, layers.span("concurrency")));
        handlers.insert(name.clone(), handler);
    }
    share::concurrency(&concurrency, report);
    check::whole(raw, &followed, report);
    Manifest { nats, runtime, handlers }
}

/// The policy that a handler follows, with its name.
fn policy<'a>(raw: &'a Raw, handler: &'a Named, report: &mut Report) -> Option<(&'a str, &'a Named)> {
    let said = handler.layer.get("policy").or_else(|| raw.defaults.layer.get("policy"))?;
    let Value::Text(name) = &said.value else {
        return None;
    };
    if let Some((name, policy)) = raw.policies.get_key_value(name) {
        return Some((name, policy));
    }
    let known = || raw.policies.keys().map(String::as_str);
    let hint = match nearest(name, known()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if raw.policies.is_empty() => "define it in [policy.<name>]".to_owned(),
        None => format!("known policies: {}", known().collect::<Vec<_>>().join(", ")),
    };
    report.error(said.span, Complaint::new("\"policy\" names no policy of the manifest").hint(hint));
    None
}

fn nats(named: &Named, report: &mut Report) -> Nats {
    let built_in = built_in(NATS);
    let layers = Layers { said: vec![&named.layer], built_in: &built_in, span: named.span };
    check::nats(&layers, report);
    Nats {
        urls: layers.list("url").iter().map(|(url, _)| url.clone()).collect(),
        auth: auth(&layers),
        tls: layers.find("tls").map(|_| Tls {
            ca: layers.path("tls.ca"),
            cert: layers.path("tls.cert"),
            key: layers.path("tls.key"),
        }),
        prefix: layers.text("prefix").unwrap_or_default(),
        replicas: layers.count("replicas"),
    }
}

fn auth(layers: &Layers) -> Auth {
    if let Some(reference) = layers.secret("credentials") {
        Auth::Credentials(reference)
    } else if let Some(reference) = layers.secret("nkey") {
        Auth::Nkey(reference)
    } else if let Some(reference) = layers.secret("token") {
        Auth::Token(reference)
    } else if let (Some(user), Some(password)) = (layers.text("user"), layers.secret("password")) {
        Auth::User { user, password }
    } else {
        Auth::None
    }
}

fn runtime(named: &Named) -> Runtime {
    let built_in = built_in(RUNTIME);
    let layers = Layers { said: vec![&named.layer], built_in: &built_in, span: named.span };
    let versions = layers.path("versions").unwrap_or_default();
    let plugins = layers.text("plugins").unwrap_or_default();
    let bucket = plugins.strip_prefix(BUCKET_SCHEME).map(str::to_owned);
    Runtime {
        plugins: bucket.as_ref().map_or_else(|| plugins.into(), |bucket| Runtime::copy_of(&versions, bucket)),
        bucket,
        listen: layers.text("listen").filter(|listen| listen != "off"),
        drain: layers.duration("drain"),
        in_flight: layers.integer("in_flight"),
        memory_bytes: layers.find("memory").map(|_| layers.integer("memory")),
        cache: layers.path("cache"),
        watch: layers.flag("watch"),
        watch_poll: layers.duration("watch_poll"),
        versions,
        keep_versions: layers.count("keep_versions"),
    }
}

fn handler(name: &str, layers: &Layers, prefix: &str) -> Handler {
    let list = |path| layers.list(path).iter().map(|(text, _)| text.clone()).collect();
    let limits = limits(layers);
    Handler {
        name: name.to_owned(),
        prefix: prefix.to_owned(),
        component: layers.path("component").unwrap_or_else(|| format!("{name}.wasm").into()),
        subjects: list("subject"),
        stream: layers.text("stream"),
        create_stream: layers.flag("create_stream"),
        durable: layers.text("durable").unwrap_or_else(|| format!("{prefix}-{name}")),
        mode: layers.choice("mode", Mode::ALL, Mode::name),
        format: layers.choice("format", Format::ALL, Format::name),
        concurrency: layers.count("concurrency"),
        ack: layers.choice("ack", AckMode::ALL, AckMode::name),
        ack_wait: ack_wait(layers, limits.budget.timeout),
        max_age: layers.find("max_age").map(|_| layers.duration("max_age")),
        schema: contract::resolve(layers),
        dedup: dedup(layers),
        order: order::order(layers),
        config: entries(layers, "config", |value| match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }),
        secrets: entries(layers, "secrets", |value| match value {
            Value::Secret(reference) => Some(reference.clone()),
            _ => None,
        }),
        isolation: layers.choice("isolation", Isolation::ALL, Isolation::name),
        limits,
        outputs: layers.choice("outputs", Outputs::ALL, Outputs::name),
        retry: retry(layers),
        circuit_breaker: gate::circuit_breaker(layers, "circuit_breaker"),
        outage_brake: layers.flag("outage_brake"),
        rate_limit: gate::rate_limit(layers, "rate_limit"),
        dead_letter: DeadLetterPolicy {
            subject: layers.text("dead_letter.subject").unwrap_or_else(|| format!("{prefix}.deadletter.{name}")),
            max_age: layers.duration("dead_letter.max_age"),
            on: kinds(layers, "dead_letter.on"),
        },
        allow: reach::allow(layers),
        http: reach::http(layers),
        keyvalue: reach::keyvalue(layers),
        reload: reload::resolve(layers),
    }
}

fn entries<T>(layers: &Layers, path: &str, read: impl Fn(&Value) -> Option<T>) -> BTreeMap<String, T> {
    let entries = layers.entries(path).into_iter();
    entries.filter_map(|(name, leaf)| Some((name.to_owned(), read(&leaf.value)?))).collect()
}

fn limits(layers: &Layers) -> Limits {
    Limits {
        budget: Budget {
            timeout: layers.duration("limits.timeout"),
            fuel: layers.integer("limits.fuel"),
            memory_bytes: layers.integer("limits.memory"),
            outputs: layers.count("limits.outputs"),
            output_bytes: layers.integer("limits.output_bytes"),
        },
        payload_bytes: layers.integer("limits.payload"),
        reuse: layers.count("limits.reuse"),
    }
}

fn retry(layers: &Layers) -> RetryPolicy {
    RetryPolicy {
        max_attempts: layers.count("retry.max_attempts"),
        backoff: layers.choice("retry.backoff", Backoff::ALL, Backoff::name),
        initial: layers.duration("retry.initial"),
        max: layers.duration("retry.max"),
        multiplier: layers.number("retry.multiplier"),
        jitter: layers.number("retry.jitter"),
        in_memory: layers.duration("retry.in_memory"),
        on: kinds(layers, "retry.on"),
    }
}

/// While an instance lives, it prolongs what it works on; this is how long it takes after it died.
fn ack_wait(layers: &Layers, timeout: Duration) -> Duration {
    const ACK_WAIT_MIN: Duration = Duration::from_secs(30);
    match layers.find("ack_wait") {
        Some(_) => layers.duration("ack_wait"),
        None => (timeout * 3 / 2).max(ACK_WAIT_MIN),
    }
}

fn dedup(layers: &Layers) -> Option<Dedup> {
    let key = DedupKey::parse(&layers.text("dedup.key")?)?;
    Some(Dedup { key, window: layers.duration("dedup.window"), claim: layers.flag("dedup.claim") })
}

fn kinds(layers: &Layers, path: &str) -> Vec<Kind> {
    let named = |name: &str| Kind::OF_ATTEMPTS.into_iter().find(|kind| kind.name() == name);
    layers.list(path).iter().filter_map(|(name, _)| named(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Source, parse};
    use super::*;

    fn parsed(text: &str) -> Manifest {
        let main = Source { path: "tidemill.toml", text };
        parse(main, &[], &|_| None).map_err(|problems| problems.to_string()).expect("valid").manifest
    }

    #[test]
    fn every_leaf_comes_from_the_first_table_that_has_it() {
        let manifest = parsed(
            r#"
            [defaults]
            concurrency = 2
            policy = "patient"
            config = { from = "defaults", region = "eu" }
            retry = { max_attempts = 3, initial = "1s", jitter = 0.1 }
            [policy.patient]
            config = { from = "policy", mode = "slow" }
            retry = { max_attempts = 20, initial = "2s" }
            [handler.mail]
            subject = "mail"
            config.from = "handler"
            retry.max_attempts = 7
            "#,
        );
        let mail = &manifest.handlers["mail"];
        assert_eq!(mail.concurrency, 2);
        assert_eq!(mail.retry.max_attempts, 7);
        assert_eq!(mail.retry.initial, Duration::from_secs(2));
        assert!((mail.retry.jitter - 0.1).abs() < f64::EPSILON);
        assert_eq!(mail.retry.max, Duration::from_mins(1));
        let config = [("from", "handler"), ("mode", "slow"), ("region", "eu")];
        let config = config.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(mail.config, BTreeMap::from(config));
    }

    #[test]
    fn a_list_is_replaced_as_a_whole() {
        let manifest = parsed(
            r#"
            defaults.allow.publish = ["a", "b"]
            [handler.mail]
            subject = "mail"
            allow.publish = ["c"]
            [handler.log]
            subject = "log"
            "#,
        );
        assert_eq!(manifest.handlers["mail"].allow.publish, ["c"]);
        assert_eq!(manifest.handlers["log"].allow.publish, ["a", "b"]);
    }

    #[test]
    fn what_is_not_said_is_built_in_or_derived() {
        let manifest = parsed("nats.prefix = 'acme'\nhandler.welcome-email.subject = 'mail'");
        let mail = &manifest.handlers["welcome-email"];
        assert_eq!(mail.component.to_str(), Some("welcome-email.wasm"));
        assert_eq!(mail.durable, "acme-welcome-email");
        assert_eq!(mail.dead_letter.subject, "acme.deadletter.welcome-email");
        assert_eq!(mail.limits.budget.memory_bytes, 64 << 20);
        assert_eq!(mail.limits.budget.fuel, 500_000_000);
        assert_eq!((mail.mode, mail.format), (Mode::Queue, Format::Auto));
        assert_eq!(manifest.runtime.listen.as_deref(), Some("127.0.0.1:7070"));
        assert_eq!(manifest.nats.auth, Auth::None);
        assert_eq!((manifest.runtime.plugins.to_str(), manifest.runtime.bucket), (Some("plugins"), None));
    }

    #[test]
    fn a_bucket_has_its_copy_beside_the_versions() {
        let runtime = parsed("runtime = { plugins = 'nats:shared', versions = '/var/lib/tm' }").runtime;
        assert_eq!(runtime.bucket.as_deref(), Some("shared"));
        assert_eq!(runtime.plugins.to_str(), Some("/var/lib/tm/plugins.shared"));
    }
}
