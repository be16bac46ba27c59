//! HTTP servers that behave in every way but the usual one. Each listens on a port of its own, and tells which requests it
//! got and how many of its connections have ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{interval, timeout};

/// The longest that a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a server does once it has read a request's head.
#[derive(Clone)]
pub(crate) enum Manner {
    /// Sends these bytes.
    Answers(String),
    /// Sends these bytes before it has read anything.
    SpeaksFirst(&'static str),
    /// Sends status 200 and the request's own head and body as the body of the response.
    Echoes,
    /// Says nothing, and waits for the client to leave.
    IsSilent,
    /// Sends a line of a head that has no end, over and over.
    SendsHeaders,
    /// Sends a body without an end, as fast as it is taken.
    SendsBody,
    /// Sends a letter every few milliseconds, without an end.
    Drips(&'static str),
}

/// What a server has seen.
#[derive(Default, Clone)]
pub(crate) struct Seen {
    pub(crate) requests: Vec<String>,
    pub(crate) connections: usize,
    pub(crate) ended: usize,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: watch::Receiver<Seen>,
}

impl Server {
    pub(crate) async fn start(manner: Manner) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let (tell, seen) = watch::channel(Seen::default());
        tokio::spawn(async move {
            let tell = Arc::new(tell);
            while let Ok((stream, _)) = listener.accept().await {
                tell.send_modify(|seen| seen.connections += 1);
                let (tell, manner) = (Arc::clone(&tell), manner.clone());
                tokio::spawn(async move {
                    serve(stream, manner, &tell).await;
                    tell.send_modify(|seen| seen.ended += 1);
                });
            }
        });
        Server { address, seen }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until it has seen so much.
    pub(crate) async fn wait(&self, what: &str, enough: impl FnMut(&Seen) -> bool) {
        let mut seen = self.seen.clone();
        let waited = timeout(PATIENCE, seen.wait_for(enough)).await;
        assert!(waited.is_ok(), "{what}: {} connections, {} ended", self.seen().connections, self.seen().ended);
    }
}

/// Serves one connection until either side ends it.
async fn serve(mut stream: TcpStream, manner: Manner, tell: &watch::Sender<Seen>) {
    if let Manner::SpeaksFirst(text) = manner {
        let _ = stream.write_all(text.as_bytes()).await;
    }
    let Some(request) = read(&mut stream).await else { return };
    tell.send_modify(|seen| seen.requests.push(request.clone()));
    let written = match manner {
        Manner::SpeaksFirst(_) => return,
        Manner::Answers(text) => stream.write_all(text.as_bytes()).await,
        Manner::Echoes => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.len());
            stream.write_all(format!("{head}{request}").as_bytes()).await
        }
        Manner::IsSilent => {
            let mut rest = [0; 64];
            while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
            return;
        }
        Manner::SendsHeaders => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
            while stream.write_all(format!("X-More: {}\r\n", "x".repeat(1000)).as_bytes()).await.is_ok() {}
            return;
        }
        Manner::SendsBody => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            while stream.write_all(format!("3e8\r\n{}\r\n", "x".repeat(1000)).as_bytes()).await.is_ok() {}
            return;
        }
        Manner::Drips(start) => {
            let _ = stream.write_all(start.as_bytes()).await;
            let mut pace = interval(Duration::from_millis(5));
            loop {
                pace.tick().await;
                if stream.write_all(b"x").await.is_err() {
                    return;
                }
            }
        }
    };
    if written.is_ok() {
        let _ = stream.shutdown().await;
    }
}

/// Reads a request with its body, if that has a length.
async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(text.into_owned());
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
