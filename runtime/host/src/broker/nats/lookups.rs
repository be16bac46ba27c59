//! Looking markers up, where any server that has the bucket may answer.
//!
//! One task asks for all of this process, over [`super::wire`], and reads the answers from one subscription. A key that comes alone is asked
//! for at once. What comes while the server is being asked already gathers, and is asked for together, which costs the
//! server and us a fraction for each key (`multi_last` of direct gets, ADR-31).
//!
//! That a marker is not found must be true, or what has ended would be run again. So what is asked for together counts only
//! where the answer is seen to be whole, else each key is asked for alone; and servers before 2.14.6 are not asked so: they
//! leave out keys whose messages lie in several blocks of the file.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, StatusCode};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::markers::{self, Fault};
use super::wire::{Subscription, Wire};
use super::{CONFIRM_TIMEOUT, Nats, once, quarantine};
use crate::broker::Stored;

/// The first server that was found to leave nothing out: its version.
const WHOLE_SINCE: (u64, u64, u64) = (2, 14, 6);
/// How long keys gather while a question waits for its answer, as they do without where the server is near.
const PATIENCE: Duration = Duration::from_millis(1);
/// How many questions wait for their answers, at most, where keys gather.
const QUESTIONS_MAX: usize = 16;
/// How many keys are asked for together.
const KEYS_MAX: usize = 128;
/// At how many bytes the server ends an answer, whatever else there is.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How many keys may gather; more wait before that.
const GATHERED_MAX: usize = 4096;
/// How many answers are read before others have their turn.
const READ_AT_ONCE: usize = 128;
/// How often it is looked what was denied, and what is not waited for any more.
const LOOK: Duration = Duration::from_millis(250);

/// The status of the message that ends an answer for several keys.
const END_OF_BATCH: u16 = 204;

/// Those who look markers up on one connection.
#[derive(Debug)]
pub(super) struct Lookups {
    wanted: mpsc::Sender<Wanted>,
    _asker: AbortOnDropHandle<()>,
}

/// A key, and who is to be told what is kept under it.
#[derive(Debug)]
struct Wanted {
    key: String,
    told: oneshot::Sender<Result<Stored, Fault>>,
}

/// Looks a key up.
///
/// # Errors
/// Where the server does not answer, or has no bucket.
pub(super) async fn look_up(nats: &Nats, key: &str) -> Result<Stored, Fault> {
    let lookups = once(&nats.lookups, || Lookups::start(nats)).await?;
    let (told, answer) = oneshot::channel();
    let wanted = Wanted { key: key.to_owned(), told };
    let look_up = async {
        lookups.wanted.send(wanted).await.ok()?;
        answer.await.ok()
    };
    let answer = timeout(CONFIRM_TIMEOUT, look_up).await.ok().flatten();
    answer.unwrap_or_else(|| Err(Fault::Unavailable("the server does not answer".into())))
}

impl Lookups {
    async fn start(nats: &Nats) -> Result<Lookups, Fault> {
        let inbox = format!("{}.", nats.client.new_inbox());
        let wire = Arc::clone(nats.wire());
        let answers = wire.subscribe(format!("{inbox}*")).await;
        let (wanted, gathered) = mpsc::channel(GATHERED_MAX);
        let reconnects = *wire.link.reconnects.borrow();
        let asker = Asker {
            bucket: nats.bucket.clone(),
            subject: format!("$JS.API.DIRECT.GET.{}", markers::stream_of(&nats.bucket)),
            inbox,
            asked: BTreeMap::new(),
            next: 0,
            latest: Instant::now(),
            reconnects,
            gathers: is_whole(&wire),
            wire,
        };
        let asker = tokio::spawn(asker.run(gathered, answers));
        Ok(Lookups { wanted, _asker: AbortOnDropHandle::new(asker) })
    }
}

/// Whether the server leaves out nothing of what is asked for together. In a cluster another server may answer, of which we
/// do not know the version.
fn is_whole(wire: &Wire) -> bool {
    let info = wire.server_info();
    info.jetstream && info.cluster.is_none() && version(&info.version).is_some_and(|version| version >= WHOLE_SINCE)
}

/// The three numbers of a version, whatever stands behind them.
fn version(text: &str) -> Option<(u64, u64, u64)> {
    let mut numbers = text.split(['.', '-', '+']).map_while(|part| part.parse().ok());
    Some((numbers.next()?, numbers.next()?, numbers.next()?))
}

/// A question for several keys.
#[derive(Serialize)]
struct Together {
    /// Their subjects.
    multi_last: Vec<String>,
    max_bytes: usize,
}

/// Asks, and tells the answers.
struct Asker {
    wire: Arc<Wire>,
    bucket: String,
    /// Where is asked for several keys; with a key's subject behind it for that alone.
    subject: String,
    /// What the subjects of answers begin with.
    inbox: String,
    /// The questions that wait for their answers, by number.
    asked: BTreeMap<u64, Question>,
    next: u64,
    /// When the latest question was asked.
    latest: Instant,
    /// How often the connection had been made anew when it was last looked which server it is.
    reconnects: u64,
    /// Whether keys may be asked for together.
    gathers: bool,
}

struct Question {
    subject: String,
    since: Instant,
    wanted: Vec<Wanted>,
    answer: Answer,
}

impl Asker {
    /// Runs until the connection or whoever looks up has ended.
    async fn run(mut self, mut gathered: mpsc::Receiver<Wanted>, mut answers: Subscription) {
        let link = Arc::clone(&self.wire.link);
        let mut chunk = Vec::with_capacity(READ_AT_ONCE);
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wanted = Vec::new();
        loop {
            let may_ask = self.may_ask();
            tokio::select! {
                count = answers.next_many(&mut chunk, READ_AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    for arrived in chunk.drain(..) {
                        self.hear(&quarantine::answer(arrived)).await;
                    }
                }
                count = gathered.recv_many(&mut wanted, KEYS_MAX), if may_ask => {
                    if count == 0 {
                        return;
                    }
                    self.look_who_answers();
                    if self.gathers {
                        // Whoever is about to look something up too comes along.
                        yield_now().await;
                        while wanted.len() < KEYS_MAX && let Ok(one) = gathered.try_recv() {
                            wanted.push(one);
                        }
                    }
                    self.ask(std::mem::take(&mut wanted)).await;
                }
                () = sleep_until(self.latest + PATIENCE), if !may_ask && self.asked.len() < QUESTIONS_MAX => {}
                () = link.denies() => self.look_what_is_denied().await,
                _ = looks.tick() => {
                    self.look_what_is_denied().await;
                    self.asked.retain(|_, question| question.since.elapsed() < CONFIRM_TIMEOUT);
                }
            }
        }
    }

    /// While an answer is waited for, further keys gather, but not for long.
    fn may_ask(&self) -> bool {
        let is_patient = self.asked.len() >= QUESTIONS_MAX || self.latest.elapsed() < PATIENCE;
        !self.gathers || self.asked.is_empty() || !is_patient
    }

    /// Another server may be another version, and may grant other permissions.
    fn look_who_answers(&mut self) {
        let reconnects = *self.wire.link.reconnects.borrow();
        if reconnects != self.reconnects {
            (self.reconnects, self.gathers) = (reconnects, is_whole(&self.wire));
        }
    }

    async fn ask(&mut self, mut wanted: Vec<Wanted>) {
        wanted.retain(|one| !one.told.is_closed());
        if wanted.len() < 2 || !self.gathers || self.wire.link.denied(&self.subject).is_some() {
            return self.ask_alone(wanted).await;
        }
        let multi_last = wanted.iter().map(|one| markers::subject(&self.bucket, &one.key)).collect();
        match serde_json::to_vec(&Together { multi_last, max_bytes: ANSWER_BYTES_MAX }) {
            Ok(question) => self.send(self.subject.clone(), question.into(), wanted).await,
            Err(error) => tell_all(wanted, &Err(Fault::Unavailable(error.to_string()))),
        }
    }

    /// Asks for each key by itself.
    async fn ask_alone(&mut self, wanted: Vec<Wanted>) {
        for one in wanted {
            let subject = format!("{}.{}", self.subject, markers::subject(&self.bucket, &one.key));
            match self.wire.link.denied(&subject) {
                Some(why) => one.tell(Err(Fault::Unavailable(why))),
                None => self.send(subject, Bytes::new(), vec![one]).await,
            }
        }
    }

    async fn send(&mut self, subject: String, question: Bytes, wanted: Vec<Wanted>) {
        let (number, reply) = (self.next, format!("{}{}", self.inbox, self.next));
        self.next += 1;
        let since = Instant::now();
        self.latest = since;
        self.wire.publish(subject.clone(), reply, question).await;
        self.asked.insert(number, Question { subject, since, wanted, answer: Answer::default() });
    }

    /// Tells what an answer says, once all of it is there.
    async fn hear(&mut self, message: &Message) {
        let number = message.subject.get(self.inbox.len()..).and_then(|text| text.parse().ok());
        // Otherwise the answer came too late.
        let Some((number, question)) = number.and_then(|number| Some((number, self.asked.get_mut(&number)?))) else {
            return;
        };
        let end = if question.is_alone() { Some(End::Same(stored(message))) } else { question.answer.hear(message) };
        let Some((end, Question { wanted, answer, .. })) = end.and_then(|end| Some((end, self.asked.remove(&number)?)))
        else {
            return;
        };
        let may_gather = match end {
            End::Same(result) => return tell_all(wanted, &result),
            // The question may have waited for a connection to another server than was expected.
            End::Whole if is_whole(&self.wire) => return answer.tell(&self.bucket, wanted),
            End::Whole => true,
            End::Unclear { may_gather } => may_gather,
        };
        self.gathers &= may_gather;
        self.ask_alone(wanted).await;
    }

    /// Tells those whose question was denied. Where keys may not be asked for together, each is asked for alone.
    async fn look_what_is_denied(&mut self) {
        let denial = |question: &Question| self.wire.link.denied_after(&question.subject, question.since);
        let denied: Vec<_> =
            self.asked.iter().filter_map(|(number, question)| Some((*number, denial(question)?))).collect();
        for (number, why) in denied {
            let Some(question) = self.asked.remove(&number) else { continue };
            if question.is_alone() {
                tell_all(question.wanted, &Err(Fault::Unavailable(why)));
            } else {
                self.gathers = false;
                self.ask_alone(question.wanted).await;
            }
        }
    }
}

impl Question {
    fn is_alone(&self) -> bool {
        self.wanted.len() == 1
    }
}

impl Wanted {
    fn tell(self, stored: Result<Stored, Fault>) {
        // Otherwise nobody waits for it any more.
        let _ = self.told.send(stored);
    }
}

fn tell_all(wanted: Vec<Wanted>, stored: &Result<Stored, Fault>) {
    for one in wanted {
        one.tell(stored.clone());
    }
}

/// What has come of the answer for several keys: a message for each that is found, then one that says that this was all.
#[derive(Debug, Default)]
struct Answer {
    /// By subject.
    found: HashMap<String, Stored>,
    /// The revision of the latest. Each message names the one before, so that a gap is noticed.
    latest: u64,
    bytes: usize,
    has_gap: bool,
}

/// How an answer for several keys ends.
#[derive(Debug)]
enum End {
    /// All is there: what was not found does not exist.
    Whole,
    /// The same for each key.
    Same(Result<Stored, Fault>),
    /// Something may be missing. It is to be asked for each key alone, and from now on, unless it may be asked for several.
    Unclear { may_gather: bool },
}

impl Answer {
    /// Takes one message of it, and says whether it is the last.
    fn hear(&mut self, message: &Message) -> Option<End> {
        self.bytes += message.length;
        let before = number(message, "Nats-Last-Sequence");
        match message.status.unwrap_or(StatusCode::OK) {
            StatusCode::OK => {
                self.has_gap |= before != Some(self.latest);
                match (text(message, "Nats-Subject"), stored(message)) {
                    (Some(subject), Ok(stored)) => {
                        self.latest = stored.revision;
                        self.found.insert(subject.to_owned(), stored);
                    }
                    _ => self.has_gap = true,
                }
                None
            }
            status if status.as_u16() == END_OF_BATCH => {
                let is_whole = !self.has_gap
                    && before == Some(self.latest)
                    && number(message, "Nats-Num-Pending") == Some(0)
                    && self.bytes < ANSWER_BYTES_MAX;
                Some(if is_whole { End::Whole } else { End::Unclear { may_gather: true } })
            }
            StatusCode::NO_RESPONDERS => Some(End::Same(stored(message))),
            StatusCode::NOT_FOUND => {
                // Another description means that one of those found has expired while they were read.
                let is_whole = message.description.as_deref() == Some("No Results") && self.found.is_empty();
                Some(if is_whole { End::Whole } else { End::Unclear { may_gather: true } })
            }
            _ => Some(End::Unclear { may_gather: false }),
        }
    }

    fn tell(&self, bucket: &str, wanted: Vec<Wanted>) {
        for one in wanted {
            // Mostly nothing is found.
            let stored = if self.found.is_empty() { None } else { self.found.get(&markers::subject(bucket, &one.key)) };
            one.tell(Ok(stored.cloned().unwrap_or_default()));
        }
    }
}

/// What a message says that is kept under its key.
pub(super) fn stored(message: &Message) -> Result<Stored, Fault> {
    match message.status {
        None | Some(StatusCode::OK) => {}
        Some(StatusCode::NOT_FOUND) => return Ok(Stored::default()),
        Some(StatusCode::NO_RESPONDERS) => return Err(Fault::Nobody("there is no such bucket".into())),
        Some(status) => {
            let description = message.description.as_deref().unwrap_or_default();
            return Err(Fault::Unavailable(format!("status {status} {description}")));
        }
    }
    let revision = number(message, "Nats-Sequence");
    let revision = revision.ok_or_else(|| Fault::Unavailable("an answer without a sequence".into()))?;
    Ok(Stored { value: has_value(message).then(|| message.payload.clone()), revision })
}

/// Whether a message of a bucket holds a value: a key that was deleted, or has expired, has one that says so.
pub(super) fn has_value(message: &Message) -> bool {
    text(message, "KV-Operation").is_none_or(|operation| operation == "PUT")
        && text(message, "Nats-Marker-Reason").is_none()
}

fn text<'a>(message: &'a Message, header: &str) -> Option<&'a str> {
    Some(message.headers.as_ref()?.get(header)?.as_str())
}

fn number(message: &Message, header: &str) -> Option<u64> {
    text(message, header)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;

    use super::*;

    fn message(status: Option<u16>, description: &str, headers: &[(&str, &str)]) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        Message {
            subject: "inbox.1".into(),
            reply: None,
            payload: "{}".into(),
            headers: Some(map),
            status: status.map(|status| StatusCode::from_u16(status).expect("a status")),
            description: Some(description.to_owned()),
            length: 100,
        }
    }

    fn hit(subject: &str, sequence: &str, before: &str) -> Message {
        message(None, "", &[("Nats-Subject", subject), ("Nats-Sequence", sequence), ("Nats-Last-Sequence", before)])
    }

    fn end(before: &str, pending: &str) -> Message {
        message(Some(204), "EOB", &[("Nats-Last-Sequence", before), ("Nats-Num-Pending", pending)])
    }

    /// What two keys are told, `a` of which is kept in revision 7; nothing where it is not clear.
    fn told(messages: &[Message]) -> Option<Vec<Result<Stored, Fault>>> {
        let mut answer = Answer::default();
        let (last, others) = messages.split_last().expect("a message");
        assert!(others.iter().all(|message| answer.hear(message).is_none()), "it goes on");
        let (wanted, told): (Vec<_>, Vec<_>) = ["a", "b"]
            .map(|key| {
                let (told, answer) = oneshot::channel();
                (Wanted { key: key.to_owned(), told }, answer)
            })
            .into_iter()
            .unzip();
        match answer.hear(last).expect("the end") {
            End::Whole => answer.tell("done", wanted),
            End::Same(result) => tell_all(wanted, &result),
            End::Unclear { .. } => return None,
        }
        Some(told.into_iter().map(|mut told| told.try_recv().expect("told")).collect())
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert_eq!(version("2.14.6"), Some((2, 14, 6)));
        assert!(version("2.15.0-RC.1+x") > Some(WHOLE_SINCE) && version("2.9.25") < Some(WHOLE_SINCE));
        assert_eq!((version(""), version("2.x.1")), (None, None));
    }

    #[test]
    fn what_is_asked_for_together_is_told_to_each() {
        let kept = |revision| Ok(Stored { value: Some("{}".into()), revision });
        let (a, b) = (hit("$KV.done.a", "7", "0"), hit("$KV.done.b", "9", "7"));
        assert_eq!(told(&[a.clone(), b, end("9", "0")]), Some(vec![kept(7), kept(9)]));
        assert_eq!(told(&[a, end("7", "0")]), Some(vec![kept(7), Ok(Stored::default())]));
        let none = message(Some(404), "No Results", &[]);
        assert_eq!(told(&[none]), Some(vec![Ok(Stored::default()), Ok(Stored::default())]));
        let nobody = Err(Fault::Nobody("there is no such bucket".to_owned()));
        assert_eq!(told(&[message(Some(503), "", &[])]), Some(vec![nobody.clone(), nobody]));
    }

    #[test]
    fn an_answer_of_which_something_may_be_missing_tells_nothing() {
        let a = || hit("$KV.done.a", "7", "0");
        let large = Message { length: ANSWER_BYTES_MAX, ..a() };
        let rows = [
            ("the first was lost", vec![hit("$KV.done.b", "9", "7"), end("9", "0")]),
            ("the last was lost", vec![a(), end("9", "0")]),
            ("all were lost", vec![end("7", "0")]),
            ("there is more", vec![a(), end("7", "1")]),
            ("there is no room for more", vec![large, end("7", "0")]),
            ("one expired meanwhile", vec![a(), message(Some(404), "Message Not Found", &[])]),
            ("one expired meanwhile, the first", vec![message(Some(404), "Message Not Found", &[])]),
            ("nothing, and something", vec![a(), message(Some(404), "No Results", &[])]),
            ("an answer of an older server", vec![message(Some(408), "Empty Request", &[])]),
            ("no sequence", vec![message(None, "", &[("Nats-Subject", "$KV.done.a")]), end("0", "0")]),
        ];
        for (what, messages) in rows {
            assert_eq!(told(&messages), None, "{what}");
        }
    }
}
