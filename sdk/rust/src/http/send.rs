//! A request through `wasi:http`.

use super::{Error, Request, Response};
use crate::bindings::http::wasi::http::outgoing_handler::handle;
use crate::bindings::http::wasi::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
};
use crate::bindings::http::wasi::io::streams::StreamError;

/// How much is written or read at once, in bytes. A stream takes no more than 4096 in one blocking call.
const WRITE_BYTES: usize = 4096;
const READ_BYTES: u64 = 64 * 1024;

pub(super) fn send(request: &Request) -> Result<Response, Error> {
    let outgoing = outgoing(request)?;
    let body = outgoing.body().map_err(|()| Error::denied("the request can have no body"))?;
    let options = RequestOptions::new();
    if let Some(timeout) = request.timeout {
        let nanoseconds = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        // A host that knows no such option has its own.
        let _ = options.set_first_byte_timeout(Some(nanoseconds));
    }
    let answer = handle(outgoing, Some(options)).map_err(error)?;
    let written = write(body, &request.body);
    answer.subscribe().block();
    let response = match answer.get() {
        Some(Ok(Ok(response))) => response,
        Some(Ok(Err(code))) => return Err(error(code)),
        Some(Err(())) | None => return Err(Error::transient("the response was taken already")),
    };
    // A server may answer before it has read everything.
    let response = read(response)?;
    if response.status < 400 {
        written?;
    }
    Ok(response)
}

fn outgoing(request: &Request) -> Result<OutgoingRequest, Error> {
    let no_url = || Error::denied(format!("{:?} is no URL of http or https", request.url));
    let (scheme, rest) = request.url.split_once("://").ok_or_else(no_url)?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return Err(no_url()),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };

    let fields = Fields::new();
    for (name, value) in &request.headers {
        let refused = |why| Error::denied(format!("the header {name:?} cannot be sent: {why:?}"));
        fields.append(name, value.as_bytes()).map_err(refused)?;
    }
    if !request.body.is_empty() && !fields.has("content-length") {
        let length = request.body.len().to_string();
        fields.append("content-length", length.as_bytes()).map_err(|why| Error::denied(format!("{why:?}")))?;
    }
    let outgoing = OutgoingRequest::new(fields);
    outgoing.set_method(&method(&request.method)).map_err(|()| Error::denied("the method is none"))?;
    outgoing.set_scheme(Some(&scheme)).map_err(|()| no_url())?;
    outgoing.set_authority(Some(authority)).map_err(|()| no_url())?;
    outgoing.set_path_with_query(Some(&path)).map_err(|()| no_url())?;
    Ok(outgoing)
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

fn write(body: OutgoingBody, bytes: &[u8]) -> Result<(), Error> {
    let cut = |_: StreamError| Error::transient("the connection ended before the request was sent");
    let stream = body.write().map_err(|()| Error::transient("the body was written already"))?;
    for part in bytes.chunks(WRITE_BYTES) {
        stream.blocking_write_and_flush(part).map_err(cut)?;
    }
    drop(stream);
    OutgoingBody::finish(body, None).map_err(error)
}

fn read(response: IncomingResponse) -> Result<Response, Error> {
    let status = response.status();
    let headers = response.headers().entries().into_iter();
    let headers = headers.map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned())).collect();
    let taken = |()| Error::transient("the body was read already");
    let body = response.consume().map_err(taken)?;
    let bytes = read_all(&body)?;
    Ok(Response { status, headers, body: bytes })
}

fn read_all(body: &IncomingBody) -> Result<Vec<u8>, Error> {
    let stream = body.stream().map_err(|()| Error::transient("the body was read already"))?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(READ_BYTES) {
            Ok(part) => bytes.extend_from_slice(&part),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(why)) => {
                let code = crate::bindings::http::wasi::http::types::http_error_code(&why);
                return Err(code.map_or_else(|| Error::transient(why.to_debug_string()), error));
            }
        }
    }
}

fn error(code: ErrorCode) -> Error {
    let message = format!("no response: {code:?}");
    let is_permanent = matches!(
        code,
        ErrorCode::HttpRequestDenied
            | ErrorCode::HttpRequestUriInvalid
            | ErrorCode::HttpRequestMethodInvalid
            | ErrorCode::DestinationIpProhibited
    );
    Error { message, is_permanent }
}
