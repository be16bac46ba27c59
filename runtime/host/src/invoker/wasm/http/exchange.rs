//! One request and its response, in bounds: of time, of size.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use tidemill_policy::manifest::{HttpPolicy, show_duration, show_size};
use tidemill_policy::reach::Target;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout, timeout_at};
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::connect::{self, Failed};
use super::gate::Wait;
use crate::invoker::wasm::transcript::{self, Transcript};

/// The most headers of a response, and the most bytes of them.
const HEADERS_MAX: usize = 128;
const HEADER_BYTES_MAX: usize = 32 * 1024;

/// The response, and what drives its connection.
pub(super) type Answer = Result<(Response<WasiBody>, Driver), Error>;
type Driver = Box<dyn Future<Output = Result<(), Error>> + Send>;

/// A request that was granted and has its place.
pub(super) struct Exchange {
    pub(super) target: Target,
    pub(super) policy: HttpPolicy,
    /// When its time is over.
    pub(super) ends: Instant,
    pub(super) wait: Option<Wait>,
    pub(super) _place: OwnedSemaphorePermit,
    pub(super) transcript: Arc<Mutex<Transcript>>,
}

impl Exchange {
    /// Sends the request and waits for the response's head. Its body and its connection end with the time of the request, or
    /// when they are dropped.
    pub(super) async fn carry_out(mut self, request: Request<WasiBody>, options: RequestOptions) -> Answer {
        let wait = self.wait.take();
        let starts = wait.as_ref().map_or(Duration::ZERO, Wait::starts);
        let answer = timeout_at(self.ends, async {
            if !starts.is_zero() {
                sleep(starts).await;
            }
            self.exchange(request, options).await
        });
        let answer = answer.await.unwrap_or_else(|_| Err((Error::HttpResponseTimeout, self.overdue())));
        if let Some(wait) = wait {
            wait.ended(answer.as_ref().map_or(true, |(response, _)| response.status().is_server_error()));
        }
        match answer {
            Ok((response, driver)) => self.bounded(response, driver, options),
            Err((error, why)) => {
                self.remark(&why);
                Err(error)
            }
        }
    }

    async fn exchange(
        &self,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<(Response<Incoming>, Driver), Failed> {
        let patience = options.connect_timeout.unwrap_or(Duration::MAX).min(self.policy.connect_timeout);
        let connecting = timeout(patience, connect::connect(&self.target.origin));
        let stream = connecting.await.unwrap_or_else(|_| {
            let said = format!("no connection within {} (`http.connect_timeout`)", show_duration(patience));
            Err((Error::ConnectionTimeout, said))
        })?;
        // The server is told the path alone; the host is in its header.
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);

        let mut builder = http1::Builder::new();
        builder.max_headers(HEADERS_MAX).max_buf_size(HEADER_BYTES_MAX);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let mut connection = Box::pin(connection);
        let first_byte = options.first_byte_timeout.unwrap_or(Duration::MAX);
        let sending = timeout(first_byte, sender.send_request(request));
        let (response, is_closed) = match select(pin!(sending), connection.as_mut()).await {
            Either::Left((response, _)) => (response, false),
            Either::Right((_, sending)) => (sending.await, true),
        };
        let late = |_| (Error::ConnectionReadTimeout, "no response in the time that the handler gave it".to_owned());
        let response = response.map_err(late)?.map_err(|error| broken(&error))?;
        let driver: Driver = if is_closed {
            Box::new(std::future::ready(Ok(())))
        } else {
            Box::new(async move { connection.await.map_err(Error::Hyper) })
        };
        Ok((response, driver))
    }

    /// Bounds what comes after the response's head.
    fn bounded(self, response: Response<Incoming>, driver: Driver, options: RequestOptions) -> Answer {
        let cap = self.policy.response_bytes;
        if response.body().size_hint().lower() > cap {
            self.remark(&self.too_large());
            return Err(Error::HttpResponseBodySize(Some(cap)));
        }
        let ends = self.ends;
        let driver = Box::new(async move {
            // What is wrong with the connection is told by the body.
            let _ = timeout_at(ends, Box::into_pin(driver)).await;
            Ok(())
        });
        let silence = options.between_bytes_timeout.map(|silence| (silence, Box::pin(sleep(silence))));
        let response = response.map(|body| {
            let inner = Some(body);
            Bounded { inner, left: cap, over: Box::pin(sleep_until(ends)), silence, exchange: self }.boxed_unsync()
        });
        Ok((response, driver))
    }

    fn remark(&self, why: &str) {
        transcript::lock(&self.transcript).remark(&format!("{}: {why}", self.target));
    }

    fn overdue(&self) -> String {
        let limit = show_duration(self.policy.request_timeout);
        format!("no whole response within {limit} (`http.request_timeout`)")
    }

    fn too_large(&self) -> String {
        format!("the response has more than {} (`http.response`)", show_size(self.policy.response_bytes))
    }
}

/// What is wrong with a connection.
fn broken(error: &hyper::Error) -> Failed {
    if error.is_parse_too_large() {
        let said = format!("the response has more than {HEADERS_MAX} headers or {HEADER_BYTES_MAX} bytes of them");
        return (Error::HttpResponseHeaderSectionSize(None), said);
    }
    let code = if error.is_parse() { Error::HttpProtocolError } else { Error::HttpResponseIncomplete };
    (code, format!("no response: {error}"))
}

/// The body of a response, within its bounds. It keeps the request's place until it is dropped.
struct Bounded {
    /// The body; nothing after its end, or once a bound was hit.
    inner: Option<Incoming>,
    left: u64,
    over: Pin<Box<Sleep>>,
    /// How long the guest wants to wait for each part of it.
    silence: Option<(Duration, Pin<Box<Sleep>>)>,
    exchange: Exchange,
}

impl Bounded {
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<(Error, String)> {
        if self.over.as_mut().poll(context).is_ready() {
            return Poll::Ready((Error::HttpResponseTimeout, self.exchange.overdue()));
        }
        let Some((limit, silence)) = &mut self.silence else { return Poll::Pending };
        ready!(silence.as_mut().poll(context));
        let said = format!("the response stopped for {}, the time that the handler gave it", show_duration(*limit));
        Poll::Ready((Error::ConnectionReadTimeout, said))
    }

    fn take(
        &mut self,
        frame: Option<Result<Frame<Bytes>, hyper::Error>>,
    ) -> Option<Result<Frame<Bytes>, (Error, String)>> {
        let frame = match frame? {
            Ok(frame) => frame,
            // Its connection ends at the same time.
            Err(_) if Instant::now() >= self.exchange.ends => {
                return Some(Err((Error::HttpResponseTimeout, self.exchange.overdue())));
            }
            Err(error) => return Some(Err(broken(&error))),
        };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        let Some(left) = self.left.checked_sub(length) else {
            let cap = self.exchange.policy.response_bytes;
            return Some(Err((Error::HttpResponseBodySize(Some(cap)), self.exchange.too_large())));
        };
        self.left = left;
        if let Some((limit, silence)) = &mut self.silence {
            silence.as_mut().reset(Instant::now() + *limit);
        }
        Some(Ok(frame))
    }
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let next = match Pin::new(inner).poll_frame(context) {
            Poll::Ready(frame) => self.take(frame),
            Poll::Pending => Some(Err(ready!(self.poll_over(context)))),
        };
        Poll::Ready(match next {
            Some(Ok(frame)) => Some(Ok(frame)),
            Some(Err((error, why))) => {
                self.inner = None;
                self.exchange.remark(&why);
                Some(Err(error))
            }
            None => {
                self.inner = None;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
