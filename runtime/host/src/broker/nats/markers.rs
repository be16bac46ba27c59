//! Markers: a key-value bucket, read by direct gets and written by compare-and-set.
//!
//! The client's own key-value store is not used for writing, because its update has no time to live.

use std::time::Duration;

use async_nats::StatusCode;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use tidemill_policy::marker::Marker;

use super::{CONFIRM_TIMEOUT, Nats};
use crate::broker::{MarkerError, Recalled};

/// The shortest time to live that the server knows.
const LIFETIME_MIN: Duration = Duration::from_secs(1);

/// The name of the bucket.
pub fn bucket(prefix: &str) -> String {
    format!("{prefix}_done")
}

/// The name of the stream that holds the bucket.
pub fn stream(prefix: &str) -> String {
    format!("KV_{}", bucket(prefix))
}

/// The subject of a key in a bucket.
pub fn subject(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

/// Reads a marker from any replica.
///
/// # Errors
/// Where the server does not answer.
pub async fn recall(nats: &Nats, key: &str) -> Result<Recalled, MarkerError> {
    let unavailable = |why: &dyn std::fmt::Display| MarkerError::Unavailable(why.to_string());
    let bucket = &nats.bucket;
    let request = format!("$JS.API.DIRECT.GET.KV_{bucket}.{}", subject(bucket, key));
    let answer = tokio::time::timeout(CONFIRM_TIMEOUT, nats.client.request(request, "".into())).await;
    let answer = answer.map_err(|_| unavailable(&"no answer"))?.map_err(|error| unavailable(&error))?;
    match answer.status {
        None | Some(StatusCode::OK) => {}
        Some(StatusCode::NOT_FOUND) => return Ok(Recalled::default()),
        Some(status) => {
            let description = answer.description.unwrap_or_default();
            return Err(unavailable(&format_args!("status {status} {description}")));
        }
    }
    let header = |name: &str| answer.headers.as_ref().and_then(|headers| headers.get(name));
    let revision = header("Nats-Sequence").and_then(|text| text.as_str().parse().ok());
    let revision = revision.ok_or_else(|| unavailable(&"an answer without a sequence"))?;
    // A key that somebody deleted by hand has a message that says so.
    if header("KV-Operation").is_some() {
        return Ok(Recalled { marker: None, revision });
    }
    let marker = serde_json::from_slice(&answer.payload).map_err(|error| {
        tracing::error!(bucket, key, %error, "a marker cannot be read, and is taken for none");
    });
    Ok(Recalled { marker: marker.ok(), revision })
}

/// Writes a marker if its revision is still `revision`, and returns the new one.
///
/// # Errors
/// Where the revision is another one, or the server does not confirm.
pub async fn remember(
    nats: &Nats,
    key: &str,
    marker: &Marker,
    lifetime: Duration,
    revision: u64,
) -> Result<u64, MarkerError> {
    let unavailable = |why: &dyn std::fmt::Display| MarkerError::Unavailable(why.to_string());
    let value = serde_json::to_vec(marker).map_err(|error| unavailable(&error))?;
    let mut message = PublishMessage::build().payload(value.into()).expected_last_subject_sequence(revision);
    if nats.features.message_ttl {
        // Whole seconds, rounded up.
        message = message
            .ttl(Duration::from_secs(lifetime.as_secs() + u64::from(lifetime.subsec_nanos() > 0)).max(LIFETIME_MIN));
    }
    let target = subject(&nats.bucket, key);
    if let Some(why) = nats.link.denied(&target) {
        return Err(unavailable(&why));
    }
    let confirmation = nats.context.send_publish(target.clone(), message).await.map_err(|error| unavailable(&error))?;
    let result = tokio::select! {
        result = confirmation => result,
        why = nats.link.until_denied(&target) => return Err(unavailable(&why)),
    };
    match result {
        Ok(stored) => Ok(stored.sequence),
        Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Err(MarkerError::Conflict),
        Err(error) => match super::publish::server_code(&error) {
            Some(ErrorCode::STREAM_WRONG_LAST_SEQUENCE) => Err(MarkerError::Conflict),
            _ => Err(unavailable(&error)),
        },
    }
}
