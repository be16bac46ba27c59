//! Writes a resolved manifest as TOML, every key explicitly.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tidemill_policy::manifest::{
    Auth, CircuitBreaker, Handler, HttpPolicy, Manifest, Nats, Order, OrderForm, Reload, RetryPolicy, Runtime,
    SecretRef, Tls, Trigger,
};

pub(crate) fn render(manifest: &Manifest) -> String {
    let handlers: Map<String, Value> =
        manifest.handlers.iter().map(|(name, each)| (name.clone(), handler(each))).collect();
    let whole = json!({
        "nats": nats(&manifest.nats),
        "runtime": runtime(&manifest.runtime),
        "handler": handlers,
    });
    toml::to_string(&whole).unwrap()
}

fn nats(nats: &Nats) -> Value {
    let mut table = json!({ "prefix": nats.prefix, "replicas": nats.replicas });
    if !nats.urls.is_empty() {
        table["url"] = json!(nats.urls);
    }
    match &nats.auth {
        Auth::None => {}
        Auth::Credentials(reference) => table["credentials"] = secret(reference),
        Auth::Nkey(reference) => table["nkey"] = secret(reference),
        Auth::Token(reference) => table["token"] = secret(reference),
        Auth::User { user, password } => {
            table["user"] = text(user);
            table["password"] = secret(password);
        }
    }
    if let Some(tls) = &nats.tls {
        table["tls"] = tls_files(tls);
    }
    table
}

fn tls_files(tls: &Tls) -> Value {
    let mut table = json!({});
    for (key, file) in [("ca", &tls.ca), ("cert", &tls.cert), ("key", &tls.key)] {
        if let Some(file) = file {
            table[key] = path(file);
        }
    }
    table
}

fn runtime(runtime: &Runtime) -> Value {
    let mut table = json!({
        "plugins": runtime.bucket.as_ref().map_or_else(|| path(&runtime.plugins), |bucket| json!(format!("nats:{bucket}"))),
        "listen": runtime.listen.as_deref().unwrap_or("off"),
        "drain": duration(runtime.drain),
        "in_flight": format!("{}B", runtime.in_flight),
        "watch": runtime.watch,
        "watch_poll": duration(runtime.watch_poll),
        "versions": path(&runtime.versions),
        "keep_versions": runtime.keep_versions,
    });
    if let Some(memory) = runtime.memory_bytes {
        table["memory"] = json!(format!("{memory}B"));
    }
    if let Some(cache) = &runtime.cache {
        table["cache"] = path(cache);
    }
    table
}

fn handler(handler: &Handler) -> Value {
    let (budget, limits) = (&handler.limits.budget, &handler.limits);
    let mut table = json!({
        "component": path(&handler.component),
        "subject": handler.subjects,
        "create_stream": handler.create_stream,
        "durable": handler.durable,
        "mode": handler.mode.name(),
        "format": handler.format.name(),
        "concurrency": handler.concurrency,
        "config": map(&handler.config, |value| text(value)),
        "secrets": map(&handler.secrets, secret),
        "ack": handler.ack.name(),
        "ack_wait": duration(handler.ack_wait),
        "outputs": handler.outputs.name(),
        "isolation": handler.isolation.name(),
        "limits": {
            "timeout": duration(budget.timeout),
            "fuel": budget.fuel,
            "memory": format!("{}B", budget.memory_bytes),
            "payload": format!("{}B", limits.payload_bytes),
            "outputs": budget.outputs,
            "output_bytes": format!("{}B", budget.output_bytes),
            "reuse": limits.reuse,
        },
        "retry": retry(&handler.retry),
        "dead_letter": {
            "subject": handler.dead_letter.subject,
            "max_age": duration(handler.dead_letter.max_age),
            "on": handler.dead_letter.on.iter().map(|kind| kind.name()).collect::<Vec<_>>(),
        },
        "allow": {
            "publish": handler.allow.publish,
            "http": handler.allow.http.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "keyvalue": handler.allow.keyvalue.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
        "http": http(&handler.http),
        "keyvalue": {
            "value": format!("{}B", handler.keyvalue.value_bytes),
            "operations": handler.keyvalue.operations,
        },
        "reload": reload(&handler.reload),
    });
    if let Some(stream) = &handler.stream {
        table["stream"] = json!(stream);
    }
    if let Some(max_age) = handler.max_age {
        table["max_age"] = duration(max_age);
    }
    if let Some(Order::Latest(latest)) = &handler.order {
        table["order"] = json!({
            "by": "latest",
            "key": latest.key.to_string(),
            "time": latest.time.to_string(),
            "on_stale": latest.on_stale.name(),
            "on_missing": latest.on_missing.name(),
            "window": duration(latest.window),
        });
    }
    let schema = &handler.schema;
    if let Some(file) = &schema.default {
        table["schema"] = path(file);
    }
    if !schema.versions.is_empty() {
        table["schema_by"] = json!(schema.by.to_string());
    }
    table["schema_versions"] = map(&schema.versions, |file| path(file));
    table["schema_out"] = map(&schema.outputs, |file| path(file));
    table["outage_brake"] = json!(handler.outage_brake);
    if let Some(breaker) = &handler.circuit_breaker {
        table["circuit_breaker"] = circuit_breaker(breaker);
    }
    if let Some(limit) = &handler.rate_limit {
        table["rate_limit"] = json!({ "rate": limit.to_string(), "burst": limit.burst, "across": limit.across.name() });
    }
    if let Some(dedup) = &handler.dedup {
        let window = duration(dedup.window);
        table["dedup"] = json!({ "key": dedup.key.to_string(), "window": window, "claim": dedup.claim });
    }
    if let Some(order) = handler.key_order() {
        table["order"] = json!({ "by": "key", "key": order.key.to_string(), "on_failure": order.on_failure.name() });
        let (form, name, size) = match order.form {
            OrderForm::Partitions(count) => ("partitions", "partitions", count),
            OrderForm::Queues { in_flight } => ("queues", "in_flight", in_flight),
        };
        table["order"]["form"] = form.into();
        table["order"][name] = size.into();
    }
    table
}

fn circuit_breaker(breaker: &CircuitBreaker) -> Value {
    let mut text = json!({
        "open_for": duration(breaker.open_for),
        "open_max": duration(breaker.open_max),
        "successes": breaker.successes,
    });
    match breaker.trigger {
        Trigger::InARow { failures } => text["failures"] = json!(failures),
        Trigger::Ratio { ratio, window, events_min } => {
            text["ratio"] = json!(ratio);
            text["window"] = json!(duration(window));
            text["min_events"] = json!(events_min);
        }
    }
    text
}

fn http(http: &HttpPolicy) -> Value {
    let mut table = json!({
        "connect_timeout": duration(http.connect_timeout),
        "request_timeout": duration(http.request_timeout),
        "response": format!("{}B", http.response_bytes),
        "in_flight": http.in_flight,
    });
    if let Some(breaker) = &http.circuit_breaker {
        table["circuit_breaker"] = circuit_breaker(breaker);
    }
    if let Some(limit) = &http.rate_limit {
        table["rate_limit"] = json!({ "rate": limit.to_string(), "burst": limit.burst });
    }
    table
}

fn retry(retry: &RetryPolicy) -> Value {
    json!({
        "max_attempts": retry.max_attempts,
        "backoff": retry.backoff.name(),
        "initial": duration(retry.initial),
        "max": duration(retry.max),
        "multiplier": retry.multiplier,
        "jitter": retry.jitter,
        "in_memory": duration(retry.in_memory),
        "on": retry.on.iter().map(|kind| kind.name()).collect::<Vec<_>>(),
    })
}

fn reload(reload: &Reload) -> Value {
    json!({
        "guard": duration(reload.guard.unwrap_or_default()),
        "max_failure_ratio": reload.max_failure_ratio,
        "min_events": reload.min_events,
        "canary": reload.canary,
        "rerun": reload.rerun,
    })
}

fn map<T>(entries: &BTreeMap<String, T>, value: impl Fn(&T) -> Value) -> Value {
    entries.iter().map(|(name, entry)| (name.clone(), value(entry))).collect::<Map<_, _>>().into()
}

fn text(text: &str) -> Value {
    json!(text.replace("${", "$${"))
}

fn path(path: &Path) -> Value {
    text(path.to_str().unwrap())
}

fn secret(reference: &SecretRef) -> Value {
    text(&reference.to_string())
}

fn duration(duration: Duration) -> Value {
    json!(format!("{}ms", duration.as_millis()))
}
