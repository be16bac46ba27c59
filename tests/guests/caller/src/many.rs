//! Requests that are begun and not waited for, by the interface itself.

use tidemill_sdk::{Failure, Result};

#[cfg(target_arch = "wasm32")]
mod requests {
    use tidemill_sdk::bindings::http::wasi::http::outgoing_handler::handle;
    use tidemill_sdk::bindings::http::wasi::http::types::{
        ErrorCode, Fields, FutureIncomingResponse, OutgoingRequest, Scheme,
    };
    use tidemill_sdk::bindings::wasi::io::poll::poll;
    use tidemill_sdk::{Failure, Result};

    fn begin_one(url: &str) -> Result<FutureIncomingResponse> {
        let rest = url.strip_prefix("http://").unwrap_or(url);
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let request = OutgoingRequest::new(Fields::new());
        let unusable = |()| Failure::reject("the URL cannot be used");
        request.set_scheme(Some(&Scheme::Http)).map_err(unusable)?;
        request.set_authority(Some(authority)).map_err(unusable)?;
        request.set_path_with_query(Some(path)).map_err(unusable)?;
        handle(request, None).map_err(|code| Failure::reject(format!("{code:?}")))
    }

    /// Begins `count` requests, and waits until `refused` of them have ended.
    pub(super) fn many(count: usize, refused: usize, url: &str) -> Result {
        let begun = (0..count).map(|_| begin_one(url)).collect::<Result<Vec<_>>>()?;
        let pollables: Vec<_> = begun.iter().map(FutureIncomingResponse::subscribe).collect();
        let all: Vec<_> = pollables.iter().collect();
        // The borrow ends before the pollables do, which must end before their futures.
        while poll(&all).len() < refused {}
        drop(all);
        drop(pollables);
        let is_refused =
            |one: &&FutureIncomingResponse| matches!(one.get(), Some(Ok(Err(ErrorCode::ConnectionLimitReached))));
        let refused = begun.iter().filter(is_refused).count();
        Err(Failure::reject(format!("{refused} of {count} were refused")))
    }

    pub(super) fn leak(url: &str) -> Result {
        std::mem::forget(begin_one(url)?);
        Ok(Vec::new())
    }
}

#[cfg(target_arch = "wasm32")]
pub(crate) fn begin(argument: &str) -> Result {
    let parts: Vec<_> = argument.split(' ').collect();
    let [count, refused, url] = parts[..] else { return Err(Failure::reject("not two numbers and a URL")) };
    requests::many(count.parse()?, refused.parse()?, url)
}

#[cfg(target_arch = "wasm32")]
pub(crate) fn leak(url: &str) -> Result {
    requests::leak(url)
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn begin(_: &str) -> Result {
    Err(Failure::reject("only as a plugin"))
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn leak(_: &str) -> Result {
    Err(Failure::reject("only as a plugin"))
}
