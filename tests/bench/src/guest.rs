//! What one call of a guest costs, without NATS: in this process, one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde::Serialize;
use tidemill::invoker::Invoker;
use tidemill::invoker::wasm::{Engine, EngineOptions, WasmHandler};
use tidemill_policy::attempt::Attempt;
use tidemill_policy::event::Event;
use tidemill_policy::id::{IdKind, Token};
use tidemill_policy::manifest;
use tidemill_policy::outcome::Outcome;

use crate::stats::Spread;
use crate::subject::guest;
use crate::work::Work;

/// What a call costs, in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Call {
    pub(crate) guest: &'static str,
    pub(crate) reused_us: Spread,
    pub(crate) fresh_us: Spread,
}

/// Measures all guests.
pub(crate) async fn calls(rounds: u32, count: u32) -> Result<Vec<Call>> {
    let engine = Engine::new(&EngineOptions::default())?;
    let mut all = Vec::new();
    for (name, work, share) in [("echo", Work::Echo, 1), ("totals", Work::Totals, 1), ("echo-js", Work::Echo, 10)] {
        let reused_us = cost(&engine, name, work, "handler", rounds, count / share).await?;
        let fresh_us = cost(&engine, name, work, "event", rounds, count / share / 2).await?;
        all.push(Call { guest: name, reused_us, fresh_us });
    }
    Ok(all)
}

async fn cost(engine: &Engine, name: &str, work: Work, isolation: &str, rounds: u32, count: u32) -> Result<Spread> {
    let handler = handler(engine, &guest(name)?, isolation)?;
    let event = Arc::new(event(work.payload(1, 256, 0).into()));
    let mut all = Vec::new();
    for _ in 0..rounds {
        let since = Instant::now();
        for _ in 0..count {
            complete(&handler, &event).await?;
        }
        all.push(since.elapsed().as_secs_f64() * 1e6 / f64::from(count));
    }
    Ok(Spread::of(all))
}

/// A handler with the usual limits.
pub(crate) fn handler(engine: &Engine, component: &[u8], isolation: &str) -> Result<WasmHandler> {
    let text = format!("[handler.h]\nsubject = 'in.a'\nisolation = '{isolation}'\nallow = {{ publish = ['out.>'] }}\n");
    let source = manifest::Source { path: "tidemill.toml", text: &text };
    let parsed = manifest::parse(source, &[], &|_| None).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let handler = parsed.manifest.handlers.get("h").context("the handler is there")?;
    Ok(WasmHandler::from_bytes(engine, component, handler, BTreeMap::new())?)
}

/// Makes a call that must succeed, and returns the memory that the instance has, in bytes.
pub(crate) async fn complete(handler: &WasmHandler, event: &Arc<Event>) -> Result<u64> {
    let report = handler.invoke(Arc::clone(event)).await;
    match report.outcome {
        Outcome::Completed(_) => Ok(report.usage.memory_peak_bytes),
        outcome => bail!("the guest fails: {outcome:?}"),
    }
}

/// An event with this payload.
pub(crate) fn event(payload: Bytes) -> Event {
    Event {
        id: "bench".to_owned(),
        id_kind: IdKind::Given,
        token: Token::read(&"a".repeat(26)).expect("a token"),
        subject: "in.a".to_owned(),
        kind: None,
        source: None,
        time_ms: Some(1_700_000_000_000),
        content_type: None,
        data_schema: None,
        attributes: std::collections::BTreeMap::new(),
        time_ns: None,
        correlation_id: "bench".to_owned(),
        causation_id: None,
        attempt: Attempt::FIRST,
        max_attempts: 5,
        headers: Vec::new(),
        payload,
    }
}
