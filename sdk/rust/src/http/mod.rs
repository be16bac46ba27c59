//! Requests to what `allow.http` of the handler's manifest entry grants.
//!
//! ```no_run
//! # fn handle() -> tidemill_sdk::Result<()> {
//! use tidemill_sdk::http;
//!
//! let template = http::get("https://templates.example/mail/welcome")?.success()?;
//! let answer = http::Request::new("POST", "https://api.mail.example/v1/send")
//!     .header("Authorization", "Bearer …")
//!     .header("Idempotency-Key", "the event's id")
//!     .body(template.body)
//!     .send()?
//!     .success()?;
//! # Ok(()) }
//! ```
//!
//! A request takes effect at once, whatever becomes of the event: send the event's id along, so that a repeat can be told.
//! Redirects are not followed. How long a request may take and how large a response may be is in the manifest (`http`).
//! Natively requests are answered by what a test made with [`testing::serve`](crate::testing::serve).

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Failure;

#[cfg(target_arch = "wasm32")]
mod send;

/// How much of a response's body is kept as the detail of a failure, in bytes.
const DETAIL_BYTES_MAX: usize = 2048;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The URL.
    pub url: String,
    /// The headers; those of the connection, and `Host`, are made by the host.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How long to wait for the beginning of the response, where that is less than the manifest allows.
    pub timeout: Option<Duration>,
}

/// A response, of any status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Response {
    /// The status, such as 200.
    pub status: u16,
    /// The headers in the order received.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What went wrong.
    pub message: String,
    /// Whether the request can never be sent: it is not granted, or is none.
    pub is_permanent: bool,
}

/// Sends a GET request.
///
/// # Errors
/// Where there is no response; see [`Error`].
pub fn get(url: &str) -> Result<Response, Error> {
    Request::new("GET", url).send()
}

impl Request {
    /// A request without headers or body.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Request {
        Request { method: method.into(), url: url.into(), headers: Vec::new(), body: Vec::new(), timeout: None }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Request {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self
    }

    /// Sets a body of JSON, and says so.
    ///
    /// # Errors
    /// A rejection, where the value has no form in JSON.
    pub fn json(self, value: &impl Serialize) -> Result<Request, Failure> {
        let body = serde_json::to_vec(value)?;
        Ok(self.header("Content-Type", "application/json").body(body))
    }

    /// Sets how long to wait for the beginning of the response.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Request {
        self.timeout = Some(timeout);
        self
    }

    /// Sends the request, and reads the whole response.
    ///
    /// # Errors
    /// Where there is no response; see [`Error`].
    pub fn send(&self) -> Result<Response, Error> {
        #[cfg(target_arch = "wasm32")]
        return send::send(self);
        #[cfg(not(target_arch = "wasm32"))]
        crate::testing::answer(self)
    }
}

impl Response {
    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    /// The body as text.
    ///
    /// # Errors
    /// Where it is not UTF-8.
    pub fn text(&self) -> Result<&str, std::str::Utf8Error> {
        std::str::from_utf8(&self.body)
    }

    /// The body, read as JSON.
    ///
    /// # Errors
    /// Where it is not JSON, or not of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// The response itself, where its status is below 400.
    ///
    /// # Errors
    /// A retry for 408, 425, 429 and from 500 on, after the time in `Retry-After` where that is a number of seconds; a
    /// rejection for the rest. The status is the failure's code, and the beginning of the body its detail.
    pub fn success(self) -> Result<Response, Failure> {
        if self.status < 400 {
            return Ok(self);
        }
        let message = format!("the response has status {}", self.status);
        let failure = match (self.status, self.header("Retry-After").and_then(|after| after.trim().parse().ok())) {
            (408 | 425 | 429 | 500.., Some(seconds)) => Failure::retry_after(message, Duration::from_secs(seconds)),
            (408 | 425 | 429 | 500.., None) => Failure::retry(message),
            _ => Failure::reject(message),
        };
        let start = &self.body[..self.body.len().min(DETAIL_BYTES_MAX)];
        let failure = if start.is_empty() { failure } else { failure.detail(String::from_utf8_lossy(start)) };
        Err(failure.code(self.status.into()))
    }
}

impl Error {
    /// A request that can never be sent.
    pub fn denied(message: impl Into<String>) -> Error {
        Error { message: message.into(), is_permanent: true }
    }

    /// Something that may pass.
    pub fn transient(message: impl Into<String>) -> Error {
        Error { message: message.into(), is_permanent: false }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// What can never be sent is rejected, all else attempted again.
impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        if error.is_permanent { Failure::reject(error.message) } else { Failure::retry(error.message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn requests_are_answered_by_the_server_of_the_test() {
        assert!(get("https://api.example/").is_err_and(|error| error.is_permanent));
        testing::serve(|request| {
            assert_eq!((request.method.as_str(), &*request.headers[0].1), ("POST", "1"));
            let headers = vec![("Content-Type".to_owned(), "text/plain".to_owned())];
            Ok(Response { status: 200, headers, body: request.body.clone() })
        });
        let request = Request::new("POST", "https://api.example/").header("X-Id", "1").json(&[1, 2]).expect("JSON");
        let response = request.send().expect("it is answered");
        assert_eq!((response.header("content-type"), response.text()), (Some("text/plain"), Ok("[1,2]")));
        assert_eq!(response.json::<Vec<u8>>().expect("JSON"), [1, 2]);
    }

    #[test]
    fn statuses_and_errors_become_failures() {
        let response = |status, after: &str| {
            let headers = vec![("retry-after".to_owned(), after.to_owned())];
            Response { status, headers, body: b"why".to_vec() }.success()
        };
        assert!(response(204, "").is_ok() && response(302, "").is_ok());
        let said = "the response has status";
        let retry = Failure::retry_after(format!("{said} 503"), Duration::from_secs(7)).code(503).detail("why");
        assert_eq!(response(503, "7"), Err(retry));
        assert_eq!(response(429, "tomorrow"), Err(Failure::retry(format!("{said} 429")).code(429).detail("why")));
        assert_eq!(response(404, "7"), Err(Failure::reject(format!("{said} 404")).code(404).detail("why")));
        assert_eq!(Failure::from(Error::denied("no")), Failure::reject("no"));
        assert_eq!(Failure::from(Error::transient("later")), Failure::retry("later"));
    }
}
