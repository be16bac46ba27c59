//! What a handler costs in each language: the same one, of the conformance cases, written with each kit.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use tidemill::invoker::wasm::{Engine, EngineOptions};

use crate::guest::{self, complete};
use crate::stats::Spread;
use crate::subject;

/// The kits.
const LANGUAGES: [&str; 8] = ["rust", "c", "cpp", "zig", "go", "js", "ts", "python"];
/// How many calls the steady state is measured over.
const CALLS: u32 = 5_000;
/// How many events are handled by an instance of their own.
const FRESH_CALLS: u32 = 300;

/// The figures of one language.
#[derive(Debug, Serialize)]
pub(crate) struct Language {
    pub(crate) name: &'static str,
    pub(crate) component_bytes: usize,
    /// Compiling it from nothing, with all processors.
    pub(crate) compile_ms: Spread,
    /// The first call, for which an instance is made.
    pub(crate) first_us: Spread,
    /// A call of an instance that is used again.
    pub(crate) reused_us: Spread,
    /// A call with an instance for each event.
    pub(crate) fresh_us: Spread,
    /// The memory of an instance after all the calls.
    pub(crate) memory_bytes: u64,
}

/// Measures all of them.
pub(crate) async fn measure(rounds: u32) -> Result<Vec<Language>> {
    // Without a cache, so that each is compiled each time.
    let engine = Engine::new(&EngineOptions::default())?;
    let mut all = Vec::new();
    for language in LANGUAGES {
        all.push(one(&engine, language, rounds).await?);
    }
    Ok(all)
}

async fn one(engine: &Engine, language: &'static str, rounds: u32) -> Result<Language> {
    let component = subject::guest(&format!("cases-{language}"))?;
    let payload = format!(r#"{{"do": "echo", "text": "{}"}}"#, "x".repeat(220));
    let event = Arc::new(guest::event(payload.into()));
    let (mut compile, mut first, mut reused, mut fresh, mut memory_bytes) = (vec![], vec![], vec![], vec![], 0);
    for _ in 0..rounds {
        let since = Instant::now();
        let handler = guest::handler(engine, &component, "handler")?;
        compile.push(since.elapsed().as_secs_f64() * 1e3);
        let since = Instant::now();
        complete(&handler, &event).await?;
        first.push(since.elapsed().as_secs_f64() * 1e6);
        let since = Instant::now();
        for _ in 0..CALLS {
            memory_bytes = complete(&handler, &event).await?;
        }
        reused.push(since.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS));
        let handler = guest::handler(engine, &component, "event")?;
        let since = Instant::now();
        for _ in 0..FRESH_CALLS {
            complete(&handler, &event).await?;
        }
        fresh.push(since.elapsed().as_secs_f64() * 1e6 / f64::from(FRESH_CALLS));
    }
    Ok(Language {
        name: language,
        component_bytes: component.len(),
        compile_ms: Spread::of(compile),
        first_us: Spread::of(first),
        reused_us: Spread::of(reused),
        fresh_us: Spread::of(fresh),
        memory_bytes,
    })
}
