//! Health and status over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use thiserror::Error;
use tokio::net::TcpListener;

use crate::reload::{Ask, Report};
use crate::status::{Status, StatusReport};

/// Why the HTTP server cannot be started.
#[derive(Debug, Error)]
#[error("runtime.listen: cannot listen on {address}: {source}; choose another address, or \"off\"")]
pub struct ListenError {
    /// The address.
    pub address: String,
    /// Why.
    pub source: std::io::Error,
}

/// Starts to serve in the background, and returns the address it got. Ends with the process.
///
/// # Errors
/// Where the address is in use or not ours.
pub async fn serve(address: &str, status: Arc<Status>) -> Result<SocketAddr, ListenError> {
    let fail = |source| ListenError { address: address.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let local = listener.local_addr().map_err(fail)?;
    let router = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/api/v1/status", get(report))
        .route("/api/v1/reload", post(reload))
        .route("/api/v1/handlers/{handler}/rollback", post(rollback))
        .with_state(status);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the HTTP server ended");
        }
    });
    Ok(local)
}

async fn ready(State(status): State<Arc<Status>>) -> impl IntoResponse {
    match status.unready().as_slice() {
        [] => (StatusCode::OK, "ok".to_owned()),
        reasons => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n")),
    }
}

async fn report(State(status): State<Arc<Status>>) -> Json<StatusReport> {
    Json(status.report())
}

/// Which version to go back to.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct To {
    /// The beginning of its digest.
    to: Option<String>,
}

async fn reload(State(status): State<Arc<Status>>, headers: HeaderMap) -> Response {
    ask(&status, &headers, Ask::Reload).await
}

async fn rollback(
    State(status): State<Arc<Status>>,
    Path(handler): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let to = if body.is_empty() { Ok(To::default()) } else { serde_json::from_slice(&body) };
    match to {
        Ok(To { to }) => ask(&status, &headers, Ask::Rollback { handler, to }).await,
        Err(error) => {
            (StatusCode::BAD_REQUEST, format!("the body is not {{\"to\": DIGEST}}: {error}\n")).into_response()
        }
    }
}

/// Has something done that changes what runs.
async fn ask(status: &Status, headers: &HeaderMap, ask: Ask) -> Response {
    // Browsers send it with each such request: pages of others must not be able to do this to who looks at them.
    if headers.contains_key(header::ORIGIN) {
        return (StatusCode::FORBIDDEN, "requests of web pages are not served here\n").into_response();
    }
    match status.reloads.ask(ask, "asked for over HTTP").await {
        Ok(report @ Report { ok: true, .. }) => Json(report).into_response(),
        Ok(report) => (StatusCode::UNPROCESSABLE_ENTITY, Json(report)).into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}
