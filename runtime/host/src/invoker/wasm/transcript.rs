//! What a guest writes: standard output, standard error and log calls become log lines of the host.
//!
//! It is bounded in every direction, and lines are escaped, so that a guest can neither flood the log
//! nor forge lines in it. Nothing else of the host's is written through here.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tidemill_policy::event::Event;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::secrets::Secrets;

/// The most lines that are passed on for one invocation.
const LINES_MAX: u32 = 256;

/// The most bytes that are passed on for one invocation.
const BYTES_MAX: usize = 64 * 1024;

/// The longest line that is passed on, in bytes; the rest of it is cut off.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// The longest context of a log call that is passed on, in bytes.
const CONTEXT_BYTES_MAX: usize = 256;

/// How many of the last lines are kept for the error history, and how much of each, in bytes.
const TAIL_LINES_MAX: usize = 20;
const TAIL_LINE_BYTES_MAX: usize = 500;

/// The longest last words that are kept for the error history, in bytes.
const LAST_WORDS_BYTES_MAX: usize = 2 * 1024;

/// How many remarks of the host's are kept for the error history, and how much of each, in bytes.
const REMARKS_MAX: usize = 8;
const REMARK_BYTES_MAX: usize = 1024;

/// How severe a line is, as `wasi:logging` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
}

/// A stream of bytes that a guest writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// What one instance writes, one invocation at a time.
pub(super) struct Transcript {
    handler: Arc<str>,
    event_id: String,
    attempt: u32,
    lines: u32,
    bytes: usize,
    dropped: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    tail: VecDeque<String>,
    /// What the host refused or could not do.
    remarks: Vec<String>,
    remarks_dropped: u32,
    secrets: Arc<Secrets>,
    last_words: Option<String>,
}

impl Transcript {
    pub(super) fn new(handler: Arc<str>, secrets: Arc<Secrets>) -> Transcript {
        Transcript {
            handler,
            event_id: String::new(),
            attempt: 0,
            lines: 0,
            bytes: 0,
            dropped: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
            tail: VecDeque::new(),
            remarks: Vec::new(),
            remarks_dropped: 0,
            secrets,
            last_words: None,
        }
    }

    /// Forgets what was written before, and marks what follows with this event.
    pub(super) fn begin(&mut self, event: &Event) {
        self.event_id.clear();
        self.event_id.push_str(&event.id);
        self.attempt = event.attempt.get();
        self.lines = 0;
        self.bytes = 0;
        self.dropped = 0;
        self.stdout.clear();
        self.stderr.clear();
        self.tail.clear();
        self.remarks.clear();
        self.remarks_dropped = 0;
        self.last_words = None;
    }

    /// Passes on unfinished lines, and says how many lines were dropped.
    pub(super) fn end(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(self.unfinished(stream));
            if !rest.is_empty() {
                self.stream_line(stream, &rest);
            }
        }
        if self.dropped > 0 {
            let (handler, event_id, attempt) = (&*self.handler, &*self.event_id, self.attempt);
            tracing::warn!(
                target: "tidemill::handler",
                handler, event_id, attempt, dropped = self.dropped,
                "the handler wrote more than is logged for one event"
            );
        }
    }

    /// The last lines written to standard error or logged as a warning or worse, oldest first.
    pub(super) fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }

    /// What the host refused or could not do, in its order, and how much more there was.
    pub(super) fn remarks(&self) -> (&[String], u32) {
        (&self.remarks, self.remarks_dropped)
    }

    /// What keeps secrets out of what is written about the handler.
    pub(super) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Takes note of what the host refuses or cannot do for the guest. What is said again is kept once.
    pub(super) fn remark(&mut self, text: &str) {
        let text = clean(&self.secrets.redact(text), REMARK_BYTES_MAX).into_owned();
        if self.remarks.contains(&text) || self.remarks.len() == REMARKS_MAX {
            self.remarks_dropped = self.remarks_dropped.saturating_add(1);
            return;
        }
        if self.has_room(text.len()) {
            self.pass_on("host", Level::Warn, "", &text);
        }
        self.remarks.push(text);
    }

    /// The last message of level critical on one line, which is how an SDK reports a panic.
    pub(super) fn last_words(&self) -> Option<&str> {
        self.last_words.as_deref()
    }

    /// Takes a log call.
    pub(super) fn log(&mut self, level: Level, context: &str, message: &str) {
        if level == Level::Critical {
            let words = message.lines().collect::<Vec<_>>().join(" ");
            self.last_words = Some(clean(&self.secrets.redact(&words), LAST_WORDS_BYTES_MAX).into_owned());
        }
        for line in message.lines() {
            self.line("log", level, context, line);
        }
    }

    /// Takes bytes written to a stream, and passes on the lines that they complete.
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            let unfinished = self.unfinished(stream);
            let room = (LINE_BYTES_MAX + 1).saturating_sub(unfinished.len());
            unfinished.extend_from_slice(&text[..text.len().min(room)]);
            if text.len() < part.len() {
                let line = std::mem::take(unfinished);
                self.stream_line(stream, &line);
            }
        }
    }

    fn unfinished(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn stream_line(&mut self, stream: Stream, line: &[u8]) {
        let (name, level) = match stream {
            Stream::Stdout => ("stdout", Level::Info),
            Stream::Stderr => ("stderr", Level::Warn),
        };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.line(name, level, "", &String::from_utf8_lossy(line));
    }

    fn line(&mut self, stream: &str, level: Level, context: &str, line: &str) {
        let secrets = Arc::clone(&self.secrets);
        let line = &*secrets.redact(line);
        if level >= Level::Warn {
            if self.tail.len() == TAIL_LINES_MAX {
                self.tail.pop_front();
            }
            let line = clean(line, TAIL_LINE_BYTES_MAX).into_owned();
            self.tail.push_back(line);
        }
        if self.has_room(line.len().min(LINE_BYTES_MAX)) {
            self.pass_on(stream, level, &secrets.redact(context), &clean(line, LINE_BYTES_MAX));
        }
    }

    /// Counts a line of so many bytes, unless it is one too many.
    fn has_room(&mut self, bytes: usize) -> bool {
        if self.lines == LINES_MAX || self.bytes + bytes > BYTES_MAX {
            self.dropped += 1;
            return false;
        }
        self.lines += 1;
        self.bytes += bytes;
        true
    }

    fn pass_on(&self, stream: &str, level: Level, context: &str, line: &str) {
        let context = clean(context, CONTEXT_BYTES_MAX);
        let context = (!context.is_empty()).then_some(&*context);
        macro_rules! event {
            ($level:ident) => {
                tracing::event!(
                    target: "tidemill::handler",
                    tracing::Level::$level,
                    handler = &*self.handler,
                    event_id = &*self.event_id,
                    attempt = self.attempt,
                    stream,
                    context,
                    "{line}"
                )
            };
        }
        match level {
            Level::Trace => event!(TRACE),
            Level::Debug => event!(DEBUG),
            Level::Info => event!(INFO),
            Level::Warn => event!(WARN),
            Level::Error | Level::Critical => event!(ERROR),
        }
    }
}

/// Whether a character could end a line, move the cursor, colour the terminal or reorder the text.
fn is_unsafe(c: char) -> bool {
    (c.is_control() && c != '\t') || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The line with unsafe characters escaped, cut to `bytes_max` bytes before that.
fn clean(line: &str, bytes_max: usize) -> Cow<'_, str> {
    if line.len() <= bytes_max && !line.contains(is_unsafe) {
        return Cow::Borrowed(line);
    }
    let end = line.floor_char_boundary(bytes_max);
    let mut clean = String::with_capacity(end + 16);
    for c in line[..end].chars() {
        if is_unsafe(c) {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    if end < line.len() {
        clean.push('…');
    }
    Cow::Owned(clean)
}

/// Locks a transcript. Nothing in this file panics while it holds the lock; if something did, a log
/// that is half a line off is no reason to stop handling events.
pub(super) fn lock(transcript: &Mutex<Transcript>) -> MutexGuard<'_, Transcript> {
    transcript.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A guest's standard output or standard error.
#[derive(Clone)]
pub(super) struct GuestStream {
    stream: Stream,
    transcript: Arc<Mutex<Transcript>>,
}

impl GuestStream {
    pub(super) fn new(stream: Stream, transcript: &Arc<Mutex<Transcript>>) -> GuestStream {
        GuestStream { stream, transcript: Arc::clone(transcript) }
    }

    fn take(&self, bytes: &[u8]) {
        lock(&self.transcript).write(self.stream, bytes);
    }
}

impl IsTerminal for GuestStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for GuestStream {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(BYTES_MAX)
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
