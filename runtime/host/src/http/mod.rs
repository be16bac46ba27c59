//! Health and status over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use thiserror::Error;
use tokio::net::TcpListener;

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
