//! The server that handlers ask what to do at the beginning of each attempt: so what has begun is known from outside,
//! whatever tidemill counts. It can hold back all answers to a process, so that nothing more begins there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::script::{Answer, Fate, Place};

/// The longest request that is read, in bytes.
const REQUEST_BYTES_MAX: usize = 8192;

/// The beginning of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Begin {
    /// The deployment and the handler, as `<deployment>/<handler>`.
    pub(crate) place: String,
    /// The process, as `<deployment>/<number>.<start>`.
    pub(crate) process: String,
    /// The event.
    pub(crate) event: String,
    /// Which attempt it is, as the handler is told.
    pub(crate) attempt: u32,
}

/// What is known.
#[derive(Debug, Default)]
struct Board {
    fates: BTreeMap<String, BTreeMap<String, Fate>>,
    begins: Vec<Begin>,
    /// How many attempts of each event have begun.
    begun: BTreeMap<(String, String), u32>,
    /// The attempts that wait for an answer.
    open: BTreeMap<usize, Open>,
    /// The processes that get no answer any more.
    held: BTreeSet<String>,
}

/// An attempt that waits for its answer.
#[derive(Debug)]
struct Open {
    begin: Begin,
    /// Whether it gets none.
    for_ever: bool,
}

/// The server. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Witness {
    /// Its URL.
    pub(crate) url: String,
    board: Arc<Mutex<Board>>,
    server: JoinHandle<()>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Witness {
    /// Starts it on a free port.
    pub(crate) async fn start() -> Result<Witness> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
        let url = format!("http://{}", listener.local_addr()?);
        let board = Arc::new(Mutex::new(Board::default()));
        let known = board.clone();
        let server = tokio::spawn(async move {
            loop {
                // It fails only where there are too many open files, which passes.
                if let Ok((connection, _)) = listener.accept().await {
                    tokio::spawn(serve(connection, known.clone()));
                }
            }
        });
        Ok(Witness { url, board, server })
    }

    /// Tells it what the events of these places are fated to do.
    pub(crate) fn learn(&self, places: &BTreeMap<String, Place>) {
        let mut board = lock(&self.board);
        for (name, place) in places {
            board.fates.entry(name.clone()).or_default().extend(place.events.clone());
        }
    }

    /// All that has begun, in order.
    pub(crate) fn begins(&self) -> Vec<Begin> {
        lock(&self.board).begins.clone()
    }

    /// How many attempts have begun.
    pub(crate) fn count(&self) -> usize {
        lock(&self.board).begins.len()
    }

    /// How many attempts of a place have begun.
    pub(crate) fn count_of(&self, place: &str) -> usize {
        lock(&self.board).begins.iter().filter(|begin| begin.place == place).count()
    }

    /// The processes of a deployment in which an attempt waits for ever.
    pub(crate) fn doomed(&self, deployment: &str) -> Vec<String> {
        let board = lock(&self.board);
        let of = |open: &&Open| open.for_ever && open.begin.process.split('/').next() == Some(deployment);
        board.open.values().filter(of).map(|open| open.begin.process.clone()).collect()
    }

    /// How many attempts of a place run in a process.
    pub(crate) fn open(&self, place: &str, process: &str) -> u32 {
        let board = lock(&self.board);
        let of = |open: &&Open| open.begin.place == place && open.begin.process == process;
        u32::try_from(board.open.values().filter(of).count()).unwrap_or(u32::MAX)
    }

    /// Answers nothing to a process from now on. It is never answered again: it is to be killed.
    pub(crate) fn hold(&self, process: &str) {
        lock(&self.board).held.insert(process.to_owned());
    }
}

fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().expect("nobody panics while the board is locked")
}

async fn serve(mut connection: TcpStream, board: Arc<Mutex<Board>>) {
    let Some(begin) = read(&mut connection).await else { return };
    let Some((number, fate, answer)) = enter(&board, begin) else { return refuse(&mut connection).await };
    let mut rest = [0; 1];
    let is_gone = tokio::select! {
        () = sleep(fate.pace) => false,
        // The handler sends nothing more: this is its end, or that of its process.
        _ = connection.read(&mut rest) => true,
    };
    if is_gone || leave(&board, number, answer) {
        answer_with(&mut connection, answer).await;
    } else {
        // It returns when the connection is closed, or broken.
        let _ = connection.read(&mut rest).await;
    }
    lock(&board).open.remove(&number);
}

/// Whether an attempt is answered now; then it is open no longer. In one step, so that what is open when its process is
/// held is not answered.
fn leave(board: &Mutex<Board>, number: usize, answer: Answer) -> bool {
    let mut board = lock(board);
    let is_held = board.open.get(&number).is_some_and(|open| board.held.contains(&open.begin.process));
    let is_answered = !is_held && answer != Answer::Never;
    if is_answered {
        board.open.remove(&number);
    }
    is_answered
}

/// Takes note of a beginning; says which one it is and what comes of it. Of an event that nobody sent, nothing.
fn enter(board: &Mutex<Board>, begin: Begin) -> Option<(usize, Fate, Answer)> {
    let mut board = lock(board);
    let number = board.begins.len();
    board.begins.push(begin.clone());
    let fate = *board.fates.get(&begin.place)?.get(&begin.event)?;
    let earlier = board.begun.entry((begin.place.clone(), begin.event.clone())).or_default();
    let answer = fate.answer(begin.attempt, *earlier);
    *earlier += 1;
    board.open.insert(number, Open { begin, for_ever: answer == Answer::Never });
    Some((number, fate, answer))
}

/// Reads a request: `GET /<deployment>/<handler>/<process>/<event>/<attempt>`.
async fn read(connection: &mut TcpStream) -> Option<Begin> {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        if request.len() > REQUEST_BYTES_MAX || connection.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
    let text = String::from_utf8(request).ok()?;
    parse(text.split(' ').nth(1)?)
}

fn parse(path: &str) -> Option<Begin> {
    let mut parts = path.trim_start_matches('/').split('/');
    let mut next = || parts.next();
    let (deployment, handler, process, event) = (next()?, next()?, next()?, next()?);
    Some(Begin {
        place: format!("{deployment}/{handler}"),
        process: format!("{deployment}/{process}"),
        event: event.to_owned(),
        attempt: next()?.parse().ok()?,
    })
}

async fn answer_with(connection: &mut TcpStream, answer: Answer) {
    let body = match answer {
        Answer::Done => "done",
        Answer::Retry => "retry",
        Answer::Reject | Answer::Never => "reject",
    };
    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    // Where the process is gone, it needs no answer.
    let _ = connection.write_all(text.as_bytes()).await;
}

async fn refuse(connection: &mut TcpStream) {
    let text = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let _ = connection.write_all(text.as_bytes()).await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::super::script::Role;
    use super::*;

    /// The start of a process, asking.
    async fn ask(witness: &Witness, path: &str) -> TcpStream {
        let mut connection = TcpStream::connect(&witness.url["http://".len()..]).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        connection.write_all(request.as_bytes()).await.expect("it reads");
        connection
    }

    async fn answer(mut connection: TcpStream) -> String {
        let mut text = String::new();
        connection.read_to_string(&mut text).await.expect("it answers");
        text.rsplit("\r\n").next().expect("a body").to_owned()
    }

    async fn witness(role: Role) -> Witness {
        let witness = Witness::start().await.expect("it starts");
        let events = BTreeMap::from([("e-1".to_owned(), Fate { role, ..Fate::GOOD })]);
        witness.learn(&BTreeMap::from([("a/h".to_owned(), Place { events, ..Place::default() })]));
        witness
    }

    async fn until(what: impl Fn() -> bool) {
        let wait = async {
            while !what() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), wait).await.expect("it comes about");
    }

    #[tokio::test]
    async fn an_attempt_is_noted_and_answered() {
        let witness = witness(Role::Rejected).await;
        assert_eq!(answer(ask(&witness, "/a/h/0.1/e-1/3").await).await, "reject");
        let expected = Begin { place: "a/h".into(), process: "a/0.1".into(), event: "e-1".into(), attempt: 3 };
        assert_eq!(witness.begins(), [expected]);
        until(|| witness.open("a/h", "a/0.1") == 0).await;
    }

    #[tokio::test]
    async fn a_process_in_which_a_killer_waits_is_doomed_until_it_is_gone() {
        let witness = witness(Role::Killer).await;
        let connection = ask(&witness, "/a/h/0.1/e-1/1").await;
        until(|| witness.doomed("a") == ["a/0.1"]).await;
        assert!(witness.doomed("b").is_empty());
        drop(connection);
        until(|| witness.doomed("a").is_empty()).await;
    }

    #[tokio::test]
    async fn a_process_that_is_held_gets_no_answer_and_others_do() {
        let witness = witness(Role::Good).await;
        witness.hold("a/0.1");
        let _held = ask(&witness, "/a/h/0.1/e-1/1").await;
        until(|| witness.open("a/h", "a/0.1") == 1).await;
        assert_eq!(answer(ask(&witness, "/a/h/1.1/e-1/1").await).await, "done");
        assert_eq!(witness.open("a/h", "a/0.1"), 1);
    }
}
