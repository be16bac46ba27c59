//! Publishing with a confirmation, for many publications at once.
//!
//! All confirmations come in on one subscription, where each publication has a number; whoever waits is told by the one
//! task that reads them. That task also tells those whom the server has denied the subject, which it says beside the
//! request, and those who have waited for too long. The client's own way takes a timer and several locks for
//! each publication instead.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::client::{PublishError, PublishErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, HeaderMap, Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use super::connect::Link;
use super::outbox::Item;
use super::{CONFIRM_TIMEOUT, Nats, once};

/// How many publications may wait for their confirmations at once; more wait before they are sent.
const UNCONFIRMED_MAX: usize = 4096;
/// How often it is looked who has waited for too long.
const LOOK: Duration = Duration::from_millis(250);
/// How many confirmations are read before others have their turn.
const READ_AT_ONCE: usize = 128;

/// What the server has stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    /// The stream.
    pub(super) stream: String,
    /// Where in it.
    pub(super) sequence: u64,
    /// Whether it was there already.
    pub(super) duplicate: bool,
}

/// Why something is not stored, as far as is known.
#[derive(Debug)]
pub(super) enum Unconfirmed {
    /// It is larger than the server takes.
    TooLarge(String),
    /// Nobody answers for its subject.
    NoStream,
    /// The server denies its subject.
    Denied(String),
    /// The stream refuses it.
    Refused(ErrorCode, String),
    /// There is no answer, or none that can be understood.
    Unknown(String),
}

impl std::fmt::Display for Unconfirmed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unconfirmed::NoStream => f.write_str("no stream answers"),
            Unconfirmed::TooLarge(why)
            | Unconfirmed::Denied(why)
            | Unconfirmed::Refused(_, why)
            | Unconfirmed::Unknown(why) => f.write_str(why),
        }
    }
}

/// Those who wait for confirmations on one connection.
#[derive(Debug)]
pub(super) struct Confirmations {
    /// What the subjects of confirmations begin with.
    inbox: String,
    waiting: Arc<Mutex<Waiting>>,
    room: Arc<Semaphore>,
    _reader: AbortOnDropHandle<()>,
}

/// Those who wait, in the order of their numbers.
#[derive(Debug, Default)]
struct Waiting {
    /// The number of the first.
    first: u64,
    slots: VecDeque<Option<Slot>>,
    /// Why no confirmations come any more.
    over: Option<&'static str>,
}

#[derive(Debug)]
struct Slot {
    subject: Subject,
    since: Instant,
    told: oneshot::Sender<Result<Message, Unconfirmed>>,
    /// Its part of what may wait at once, as soon as it is sent.
    room: Option<OwnedSemaphorePermit>,
}

/// Who waits for the confirmation of something that is to be sent.
#[derive(Debug)]
pub(super) struct Ticket {
    waiting: Arc<Mutex<Waiting>>,
    number: u64,
    /// Kept here until it is sent, also if nobody waits any more.
    room: Option<OwnedSemaphorePermit>,
}

/// Something that was sent, and is to be confirmed.
#[derive(Debug)]
pub(super) struct Confirmation(oneshot::Receiver<Result<Message, Unconfirmed>>);

/// Sends a message, and returns what to wait for. Waits where too many confirmations are outstanding.
///
/// # Errors
/// Where nothing can be sent any more.
pub(super) async fn send(
    nats: &Nats,
    subject: &str,
    headers: HeaderMap,
    payload: Bytes,
) -> Result<Confirmation, Unconfirmed> {
    let confirmations = once(&nats.confirmations, || Confirmations::start(&nats.client, &nats.link)).await?;
    let room = Arc::clone(&confirmations.room).acquire_owned().await.ok();
    let subject = Subject::from(subject);
    let (told, answer) = oneshot::channel();
    let slot = Slot { subject: subject.clone(), since: Instant::now(), told, room: None };
    let waiting = Arc::clone(&confirmations.waiting);
    let number = lock(&waiting).enter(slot)?;
    let (reply, ticket) = (confirmations.reply(number), Ticket { waiting, number, room });
    nats.outbox().put(Item::Publication { subject, reply, headers, payload, ticket }).await;
    Ok(Confirmation(answer))
}

impl Ticket {
    /// Whether it is to be sent still: whoever has waited for too long sends it again.
    pub(super) fn is_waited_for(&self) -> bool {
        lock(&self.waiting).slot(self.number).is_some_and(|slot| !slot.told.is_closed())
    }

    /// Says that it is sent.
    pub(super) fn given(self) {
        if let Some(slot) = lock(&self.waiting).slot(self.number) {
            slot.room = self.room;
        }
    }

    /// Says that the client does not take it.
    pub(super) fn refuse(self, error: &PublishError) {
        if let Some(slot) = lock(&self.waiting).leave(self.number) {
            let why = match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => Unconfirmed::TooLarge(error.to_string()),
                _ => Unconfirmed::Unknown(error.to_string()),
            };
            let _ = slot.told.send(Err(why));
        }
    }
}

impl Confirmation {
    /// Waits until the message is stored, for as long as the server may take.
    pub(super) async fn stored(self) -> Result<Stored, Unconfirmed> {
        match self.0.await {
            Ok(answer) => read(&answer?),
            Err(_) => Err(Unconfirmed::Unknown("the connection has ended".to_owned())),
        }
    }
}

/// What an answer says.
fn read(answer: &Message) -> Result<Stored, Unconfirmed> {
    #[derive(Deserialize)]
    struct Answer {
        error: Option<jetstream::Error>,
        stream: Option<String>,
        seq: Option<u64>,
        #[serde(default)]
        duplicate: bool,
    }
    if answer.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(Unconfirmed::NoStream);
    }
    match serde_json::from_slice(&answer.payload) {
        Ok(Answer { error: Some(error), .. }) => Err(Unconfirmed::Refused(error.error_code(), error.to_string())),
        Ok(Answer { stream: Some(stream), seq: Some(sequence), duplicate, .. }) => {
            Ok(Stored { stream, sequence, duplicate })
        }
        Ok(_) => Err(Unconfirmed::Unknown("the answer to a publication says nothing".to_owned())),
        Err(error) => Err(Unconfirmed::Unknown(format!("the answer to a publication is not understood: {error}"))),
    }
}

impl Confirmations {
    async fn start(client: &Client, link: &Arc<Link>) -> Result<Confirmations, Unconfirmed> {
        let inbox = format!("{}.", client.new_inbox());
        let answers = client.subscribe(format!("{inbox}*")).await;
        let answers = answers.map_err(|error| Unconfirmed::Unknown(error.to_string()))?;
        let waiting: Arc<Mutex<Waiting>> = Arc::default();
        let reader = tokio::spawn(listen(answers, inbox.len(), Arc::clone(&waiting), Arc::clone(link)));
        let room = Arc::new(Semaphore::new(UNCONFIRMED_MAX));
        Ok(Confirmations { inbox, waiting, room, _reader: AbortOnDropHandle::new(reader) })
    }

    /// Where the confirmation with this number comes in.
    fn reply(&self, number: u64) -> String {
        // Made large enough at once: the longest number has 20 digits.
        let mut reply = String::with_capacity(self.inbox.len() + 20);
        let _ = write!(reply, "{}{number}", self.inbox);
        reply
    }
}

/// Tells those who wait, until the client ends.
async fn listen(answers: Subscriber, inbox_length: usize, waiting: Arc<Mutex<Waiting>>, link: Arc<Link>) {
    let mut answers = answers.ready_chunks(READ_AT_ONCE);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            chunk = answers.next() => {
                let Some(chunk) = chunk else { break };
                for answer in chunk {
                    let number = answer.subject.get(inbox_length..).and_then(|text| text.parse().ok());
                    // A number that nobody waits for any more: the answer came too late.
                    let slot = number.and_then(|number| lock(&waiting).leave(number));
                    if let Some(slot) = slot {
                        let _ = slot.told.send(Ok(answer));
                    }
                }
            }
            () = link.denies() => lock(&waiting).fail(|slot| {
                link.denied_after(&slot.subject, slot.since).map(Unconfirmed::Denied)
            }),
            _ = looks.tick() => lock(&waiting).fail(|slot| {
                let is_late = slot.since.elapsed() >= CONFIRM_TIMEOUT;
                // What was denied while nobody listened is denied too.
                let denial = link.denied_after(&slot.subject, slot.since).map(Unconfirmed::Denied);
                denial.or_else(|| is_late.then(|| Unconfirmed::Unknown("the server does not confirm".to_owned())))
            }),
        }
    }
    let mut waiting = lock(&waiting);
    waiting.over = Some("the connection has ended");
    waiting.slots.clear();
}

impl Waiting {
    fn enter(&mut self, slot: Slot) -> Result<u64, Unconfirmed> {
        if let Some(why) = self.over {
            return Err(Unconfirmed::Unknown(why.to_owned()));
        }
        self.slots.push_back(Some(slot));
        Ok(self.first + self.slots.len() as u64 - 1)
    }

    fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        self.place(number)?.as_mut()
    }

    fn place(&mut self, number: u64) -> Option<&mut Option<Slot>> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(index)
    }

    fn leave(&mut self, number: u64) -> Option<Slot> {
        let slot = self.place(number)?.take();
        self.tidy();
        slot
    }

    /// Tells those for whom there is a reason why they need not wait any longer.
    fn fail(&mut self, reason: impl Fn(&Slot) -> Option<Unconfirmed>) {
        for place in &mut self.slots {
            if let Some(why) = place.as_ref().and_then(&reason)
                && let Some(slot) = place.take()
            {
                let _ = slot.told.send(Err(why));
            }
        }
        self.tidy();
    }

    fn tidy(&mut self) {
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        Slot { subject: "a".into(), since: Instant::now(), told: oneshot::channel().0, room: None }
    }

    #[tokio::test]
    async fn numbers_are_given_once_and_room_is_given_back() {
        let mut waiting = Waiting::default();
        let numbers: Vec<_> = (0..4).map(|_| waiting.enter(slot()).expect("it goes on")).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
        assert!(waiting.leave(2).is_some() && waiting.leave(2).is_none());
        assert_eq!(waiting.slots.len(), 4, "those before still wait");
        assert!(waiting.leave(0).is_some() && waiting.leave(1).is_some());
        assert_eq!(waiting.slots.len(), 1);
        assert_eq!(waiting.enter(slot()).expect("it goes on"), 4);
        assert!(waiting.leave(0).is_none() && waiting.leave(99).is_none());
        assert!(waiting.leave(3).is_some() && waiting.leave(4).is_some());
        assert!(waiting.slots.is_empty());
    }

    #[test]
    fn there_is_room_again_when_a_publication_is_confirmed_or_will_never_be_sent() {
        let (room, waiting): (_, Arc<Mutex<Waiting>>) = (Arc::new(Semaphore::new(1)), Arc::default());
        let enter = || {
            let (told, answer) = oneshot::channel();
            let number = lock(&waiting).enter(Slot { told, ..slot() }).expect("it goes on");
            let room = Arc::clone(&room).try_acquire_owned().ok();
            (Ticket { waiting: Arc::clone(&waiting), number, room }, answer)
        };
        let (late, _answer) = enter();
        assert!(late.is_waited_for());
        lock(&waiting).fail(|_| Some(Unconfirmed::NoStream));
        assert!(!late.is_waited_for() && room.available_permits() == 0, "it is not sent yet");
        drop(late);

        let (unwanted, answer) = enter();
        drop(answer);
        assert!(!unwanted.is_waited_for());
        drop((lock(&waiting).leave(unwanted.number), unwanted));

        let (sent, _answer) = enter();
        let number = sent.number;
        sent.given();
        assert_eq!(room.available_permits(), 0, "it is not confirmed yet");
        drop(lock(&waiting).leave(number));
        assert_eq!(room.available_permits(), 1);
    }

    #[test]
    fn what_no_server_says_is_not_understood() {
        let answer = |payload: &'static str, status| Message {
            subject: "a".into(),
            reply: None,
            payload: payload.into(),
            headers: None,
            status,
            description: None,
            length: 0,
        };
        let stored = read(&answer(r#"{"stream":"OUT","seq":7,"duplicate":true}"#, None)).expect("stored");
        assert_eq!(stored, Stored { stream: "OUT".to_owned(), sequence: 7, duplicate: true });
        let refusal = read(&answer(r#"{"error":{"code":400,"err_code":10071,"description":"no"},"seq":0}"#, None));
        assert!(matches!(refusal, Err(Unconfirmed::Refused(ErrorCode::STREAM_WRONG_LAST_SEQUENCE, _))));
        assert!(matches!(read(&answer("", Some(StatusCode::NO_RESPONDERS))), Err(Unconfirmed::NoStream)));
        for odd in ["", "{}", "[]", r#"{"stream":"OUT"}"#] {
            assert!(matches!(read(&answer(odd, None)), Err(Unconfirmed::Unknown(_))), "{odd}");
        }
    }
}
