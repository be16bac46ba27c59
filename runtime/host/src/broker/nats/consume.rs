//! Pulling from one consumer, only as far as there is credit. Whatever interrupts it is looked into: a
//! consumer or a stream that somebody has deleted is made again where that is ours to do, and as long as
//! nothing can be pulled, it is a trouble that says why.
//!
//! Pull requests are sent by hand rather than through the client's message stream, because that prefetches
//! on its own: here, every message that the server sends has its place in flight and its bytes reserved
//! before it is asked for.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{StatusCode, Subject};
use tidemill_policy::resume::Seen;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::connect::acknowledgements;
use super::lease::{Lease, Leases};
use super::open::{Open, Request};
use super::owner::Owner;
use super::place::Place;
use super::progress::Progress;
use super::quarantine::{self, Block};
use super::wire::{Arrived, Subscription, Wire};
use super::{Nats, drift, durable, streams, surety};
use crate::broker::{Delivery, Source};
use crate::in_flight::{Claim, Purse, Reserved};
use crate::troubles::Effect;
use crate::turns::Turns;

/// How long a pull request waits at the server.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// The same of a pull request that has bytes reserved which others may need.
const LARGE_PULL_EXPIRES: Duration = Duration::from_secs(2);
/// What is told of bytes where a message must come whatever its size.
const ANY_BYTES: u64 = 1 << 30;
/// How long a message that must come waits for bytes before it comes without.
const BYTES_PATIENCE: Duration = Duration::from_millis(100);
/// How often the server says that an idle pull request is still known to it.
const PULL_HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the first pull request waits at the server: its answer shows that pulling works.
const FIRST_PULL_EXPIRES: Duration = Duration::from_millis(100);
/// After how long without a sign of life a pull request is taken for lost.
const SILENCE_MAX: Duration = Duration::from_secs(11);
/// The same of the first pull request.
const FIRST_SILENCE_MAX: Duration = Duration::from_secs(5);
/// How often it is looked for such a silence.
const LOOK: Duration = Duration::from_secs(1);
/// How many messages that have arrived are taken in before anything else is looked at.
const TAKEN_AT_ONCE: usize = 64;
/// How long the server may take to say that it denies an acknowledgement, after it has answered a later request.
const DENIAL_DELAY_MAX: Duration = Duration::from_millis(250);
/// How long to wait for what the server has sent before pulling was interrupted.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// After how long without a message nothing more is expected when the process stops, and how long that may take.
const LINGER_QUIET: Duration = Duration::from_millis(250);
const LINGER_MAX: Duration = Duration::from_secs(1);
/// For how long it is taken for sure, after a look, that the server does not leave payloads out.
const WHOLE: Duration = Duration::from_secs(1);
/// How long to wait before a consumer that fails is looked at again: from the first to the second.
const RECOVERY_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What to consume.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The stream.
    pub stream: String,
    /// When it was created, in seconds since the Unix epoch.
    pub stream_created_unix: i64,
    /// The subjects with which the stream is made again if somebody deletes it; nothing where that is not ours
    /// to do.
    pub create_with: Option<Vec<String>>,
    /// For how long the stream should recognise duplicates if we make it.
    pub repeats_within: Duration,
    /// The consumer's name.
    pub name: String,
    /// The subjects.
    pub filters: Vec<String>,
    /// How long the server waits for a sign of life before it delivers a message again.
    pub ack_wait: Duration,
    /// The most messages in flight over all instances.
    pub max_ack_pending: i64,
    /// The most messages in flight here.
    pub credit: u32,
    /// Whether this consumer is of this instance only: it starts with what arrives from now on, and goes
    /// when nobody pulls from it for a minute.
    pub broadcast: bool,
    /// How many replicas it has; 0 is as many as its stream if it is durable, else one.
    pub replicas: usize,
    /// What the messages are.
    pub source: Source,
    /// Whether the order of the events depends on nobody else having them.
    pub is_ordered: bool,
    /// Keeps the events of one key in order, where several are in flight: what is redelivered late must not be
    /// overtaken by what was delivered later.
    pub turns: Option<Arc<Turns>>,
    /// Whose it is.
    pub owner: Arc<Owner>,
    /// How far a `broadcast` handler has come here.
    pub progress: Arc<Progress>,
}

/// Pulls and hands over until `stop`; whatever fails is tried again. Deliveries in flight are kept alive until
/// `settled`. No more is asked for than `intake` says may be in hand; what was asked for before it fell still arrives.
/// Nor is more asked for than `purse` has bytes for.
pub async fn run(
    nats: Arc<Nats>,
    spec: Spec,
    purse: Purse,
    intake: watch::Receiver<u32>,
    stop: CancellationToken,
    settled: CancellationToken,
    hand_over: impl Fn(Delivery<Lease>),
) {
    let leases = Arc::new(Leases::new(spec.ack_wait, spec.is_ordered, Arc::clone(&nats.in_hand)));
    tokio::spawn(Arc::clone(&leases).keep_alive(nats.client.clone(), settled));
    let trouble = format!("consumer {}", spec.name);
    let hand_over = &hand_over;
    let credit = Arc::new(Semaphore::new(spec.credit as usize));
    let surety = surety::watch(&nats, &spec, &leases, stop.clone());
    let drift = drift::watch(&nats, spec.clone(), stop.clone());
    let (last, top) = (AtomicU64::new(0), AtomicU64::new(0));
    let wire = nats.wire();
    let consumer = Consumer {
        nats: &nats,
        wire,
        spec,
        purse,
        leases: &leases,
        hand_over,
        trouble,
        seen: None,
        stop,
        last,
        top,
        hollow: Mutex::default(),
        whole_until: None,
    };
    let pull = async { tokio::join!(consumer.pull_until_stopped(&credit), surety, drift) };
    tokio::select! {
        () = restrain(&credit, intake) => {}
        _ = pull => {}
    }
}

/// Takes as much credit away as there may not be in hand, and gives it back. Credit is granted in the order in which it
/// is asked for, so whatever comes back while too much is in hand comes here, and nothing is pulled with it.
async fn restrain(credit: &Arc<Semaphore>, mut intake: watch::Receiver<u32>) {
    let total = credit.available_permits();
    let Ok(mut taken) = Arc::clone(credit).acquire_many_owned(0).await else { return };
    loop {
        let left = (*intake.borrow_and_update() as usize).min(total);
        let (has, wanted) = (taken.num_permits(), total - left);
        if has > wanted {
            drop(taken.split(has - wanted));
        }
        let more = u32::try_from(wanted.saturating_sub(has)).unwrap_or(u32::MAX);
        tokio::select! {
            changed = intake.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
            Ok(more) = Arc::clone(credit).acquire_many_owned(more), if more > 0 => taken.merge(more),
        }
    }
}

struct Consumer<'a, H> {
    nats: &'a Nats,
    /// Over which events come in.
    wire: &'a Wire,
    spec: Spec,
    purse: Purse,
    leases: &'a Arc<Leases>,
    hand_over: &'a H,
    /// What is in trouble while nothing can be pulled.
    trouble: String,
    /// The stream as it was last seen; nothing before it was first looked at.
    seen: Option<Seen>,
    stop: CancellationToken,
    /// The number of the latest delivery.
    last: AtomicU64,
    /// The highest sequence that was delivered.
    top: AtomicU64,
    /// Where deliveries are answered that seem to have come without their payloads.
    hollow: Mutex<Vec<Subject>>,
    /// Until when it is known that the server does not leave payloads out.
    whole_until: Option<Instant>,
}

/// How pulling ended.
enum Interruption {
    /// The consumer or the connection is not what it was; what it is now will show.
    Usual(String),
    /// Nothing can be pulled.
    Trouble(String),
    /// The server denies our acknowledgements, so that it would deliver everything again and again.
    Unacknowledged(String),
}

impl<H: Fn(Delivery<Lease>)> Consumer<'_, H> {
    async fn pull_until_stopped(mut self, credit: &Arc<Semaphore>) {
        let stop = self.stop.clone();
        let mut delay = RECOVERY_DELAYS.0;
        let mut unacknowledged = false;
        let mut server = None;
        loop {
            let both_up = async { tokio::join!(self.nats.link.until_up(), self.wire.link.until_up()) };
            if stop.run_until_cancelled(both_up).await.is_none() {
                return;
            }
            let present = self.wire.server_info().server_id;
            // One that was started anew may have forgotten what it has delivered, and deliver it to others.
            if self.spec.is_ordered && server.replace(present.clone()).is_some_and(|before| before != present) {
                self.leases.renew();
            }
            let since = Instant::now();
            let end = match stop.run_until_cancelled(self.recover(unacknowledged)).await {
                None => return,
                Some(Ok(())) => self.pull(credit).await,
                Some(Err(end)) => end,
            };
            if since.elapsed() > SILENCE_MAX * 2 {
                delay = RECOVERY_DELAYS.0;
            }
            unacknowledged = matches!(end, Interruption::Unacknowledged(_));
            match end {
                Interruption::Usual(why) => tracing::debug!(consumer = %self.spec.name, why, "pulling was interrupted"),
                Interruption::Trouble(why) | Interruption::Unacknowledged(why) if self.is_connected() => {
                    self.nats.link.troubles.begin(&self.trouble, Effect::Intake, &why);
                }
                _ => {}
            }
            if stop.run_until_cancelled(sleep(delay)).await.is_none() {
                return;
            }
            delay = (delay * 2).min(RECOVERY_DELAYS.1);
        }
    }

    fn is_connected(&self) -> bool {
        self.nats.link.is_up() && self.wire.link.is_up()
    }

    /// Pulls until something goes wrong, and says what.
    async fn pull(&self, credit: &Arc<Semaphore>) -> Interruption {
        let inbox = self.nats.client.new_inbox();
        let mut messages = self.wire.subscribe(format!("{inbox}.*")).await;
        // What was on its way when pulling was interrupted comes later, after what is pulled now.
        self.hold();
        // What was asked for and has not arrived. Freed as a whole when this function returns.
        let Ok(nothing) = Arc::clone(credit).acquire_many_owned(0).await else { return usual("closed") };
        let mut open = Open::new(nothing, self.purse.nothing());
        let end = self.pull_into(&inbox, &mut messages, credit, &mut open).await;
        let late = self.linger(&mut messages, &inbox, open.places()).await;
        // What the server has sent by now would otherwise wait for its redelivery; so would what is handed back and
        // sent once more on a request that is still open.
        if self.wire.link.is_up() {
            messages.drain().await;
            for message in late.into_iter().take(open.places()) {
                self.receive(message, &mut open);
            }
            let rest = async {
                while let Some(message) = messages.next().await {
                    if !is_answer(&message, &inbox) && open.places() > 0 {
                        self.receive(message, &mut open);
                    }
                }
            };
            // The subscription ends when the server has confirmed; if not, the rest comes again.
            let _ = timeout(DRAIN_MAX, rest).await;
        }
        end
    }

    /// What the server sends on requests that are open when the process stops. In a cluster, the one that sends learns
    /// only later that we do not listen any more, and what it has sent by then would count as attempts that were lost. It
    /// is not handed back before we have ended to listen: it would come here again.
    async fn linger(&self, messages: &mut Subscription, inbox: &str, open: usize) -> Vec<Arrived> {
        let mut late = Vec::new();
        if self.stop.is_cancelled() && self.wire.server_info().cluster.is_some() {
            let wait = async {
                while late.len() < open
                    && let Ok(Some(message)) = timeout(LINGER_QUIET, messages.next()).await
                {
                    late.extend(Some(message).filter(|message| !is_answer(message, inbox)));
                }
            };
            let _ = timeout(LINGER_MAX, wait).await;
        }
        late
    }

    async fn pull_into(
        &self,
        inbox: &str,
        messages: &mut Subscription,
        credit: &Arc<Semaphore>,
        open: &mut Open,
    ) -> Interruption {
        let link = &self.wire.link;
        let mut reconnects = link.reconnects.subscribe();
        let mut client_reconnects = self.nats.link.reconnects.subscribe();
        let mut denied = pin!(self.until_denied(inbox, Instant::now()));
        let refill = (self.spec.credit / 4).max(1);
        let mut heard = Instant::now();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Whether an answer has shown that pulling works; the first request is a small one that has one soon.
        let (mut asked, mut works) = (false, false);
        // While there is room, and no bytes are left.
        let mut claim: Option<Claim> = None;
        loop {
            let wanted = if open.places() == 0 { 1 } else { refill };
            let (places, bytes, bytes_max) = tokio::select! {
                message = messages.next() => {
                    heard = Instant::now();
                    let Some(message) = message else { return usual("the subscription has ended") };
                    let at_once = if works { TAKEN_AT_ONCE } else { 1 };
                    if let Err(why) = self.take_in(message, inbox, messages, open, at_once) {
                        return if works { Interruption::Usual(why) } else { Interruption::Trouble(why) };
                    }
                    if !works {
                        works = true;
                        link.troubles.end(&self.trouble);
                    }
                    continue;
                }
                more = Arc::clone(credit).acquire_many_owned(wanted), if claim.is_none() && (works || !asked) => {
                    let Ok(mut places) = more else { return usual("closed") };
                    if asked {
                        merge_free(credit, &mut places);
                    }
                    let bytes_max = open.reach.is_outsized().then_some(ANY_BYTES);
                    if bytes_max.is_some() {
                        drop(places.split(places.num_permits() - 1));
                    }
                    let (least, most) = open.reach.bytes(places.num_permits() as u64, self.purse.share());
                    let mut wait = self.purse.claim(least, most);
                    // Room is not kept while there are no bytes: it may be taken away meanwhile.
                    let Some(bytes) = wait.now() else {
                        claim = Some(wait);
                        continue;
                    };
                    (places, bytes, bytes_max)
                }
                bytes = granted(&mut claim, self.spec.turns.as_deref()) => {
                    claim = None;
                    let Ok(mut places) = Arc::clone(credit).try_acquire_owned() else { continue };
                    let bytes_max = (bytes.is_none() || open.reach.is_outsized()).then_some(ANY_BYTES);
                    if asked && bytes_max.is_none() {
                        merge_free(credit, &mut places);
                    }
                    (places, bytes.unwrap_or_else(|| self.purse.nothing()), bytes_max)
                }
                _ = looks.tick() => {
                    let silence_max = if works { SILENCE_MAX } else { FIRST_SILENCE_MAX };
                    if open.places() > 0 && heard.elapsed() >= silence_max {
                        return silent(works);
                    }
                    if open.overdue().is_some_and(|until| until <= Instant::now()) {
                        return usual("the server does not say that a pull request has ended");
                    }
                    continue;
                }
                _ = reconnects.changed() => return usual("the connection for events was made anew"),
                _ = client_reconnects.changed() => return usual("the connection was made anew"),
                end = &mut denied => return end,
                () = self.stop.cancelled() => return usual("the process stops"),
            };
            if open.places() == 0 {
                heard = Instant::now();
            }
            if let Err(error) = self.request(inbox, places, bytes, bytes_max, asked, open).await {
                return Interruption::Usual(error);
            }
            asked = true;
        }
    }

    /// Waits until the server denies what pulling needs.
    async fn until_denied(&self, inbox: &str, since: Instant) -> Interruption {
        let link = &self.wire.link;
        let (next, acks) = (self.next_subject(), acknowledgements(&self.spec.stream, &self.spec.name));
        let wildcard = format!("{inbox}.*");
        tokio::select! {
            why = link.until_denied(&next, since) => Interruption::Trouble(grant("pulling", &next, &why)),
            why = self.nats.link.until_denied(&next, since) => Interruption::Trouble(grant("pulling", &next, &why)),
            why = self.nats.link.until_denied(&acks, since) => Interruption::Unacknowledged(grant("acknowledging", &acks, &why)),
            why = link.until_denied(&wildcard, since) => {
                Interruption::Trouble(format!("the server denies receiving ({why}); grant subscribe on \"_INBOX.>\""))
            }
        }
    }

    fn next_subject(&self) -> String {
        format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.spec.stream, self.spec.name)
    }

    /// Asks for as many messages as there are places, with `bytes` together, or `bytes_max` where that is more.
    ///
    /// The first request goes over the connection for events, behind its subscription, and its answer shows that the server
    /// knows where we listen. All others go over the client, behind the acknowledgements of what was in these places:
    /// else the server would have more in flight than may be in hand.
    async fn request(
        &self,
        inbox: &str,
        places: OwnedSemaphorePermit,
        bytes: Reserved,
        bytes_max: Option<u64>,
        asked: bool,
        open: &mut Open,
    ) -> Result<(), String> {
        let expires = match asked {
            false => FIRST_PULL_EXPIRES,
            true if bytes.count() > self.purse.share() => LARGE_PULL_EXPIRES,
            true => PULL_EXPIRES,
        };
        let bytes_max = bytes_max.unwrap_or(bytes.count());
        let mut body = serde_json::json!({
            "batch": places.num_permits(),
            "max_bytes": bytes_max,
            "expires": u64::try_from(expires.as_nanos()).unwrap_or(u64::MAX),
        });
        if expires > PULL_HEARTBEAT * 2 {
            body["idle_heartbeat"] = u64::try_from(PULL_HEARTBEAT.as_nanos()).unwrap_or(u64::MAX).into();
        }
        let reply = format!("{inbox}.{}", open.next());
        let (subject, body) = (self.next_subject(), body.to_string().into());
        if asked {
            let sent = self.nats.client.publish_with_reply(subject, reply, body).await;
            sent.map_err(|error| error.to_string())?;
        } else {
            self.wire.publish(subject, reply, body).await;
        }
        open.add(Request { places, bytes, bytes_max, until: Instant::now() + expires + SILENCE_MAX });
        Ok(())
    }

    /// Takes in a message, and of those that have arrived behind it so many that they are `at_once`.
    fn take_in(
        &self,
        first: Arrived,
        inbox: &str,
        messages: &mut Subscription,
        open: &mut Open,
        at_once: usize,
    ) -> Result<(), String> {
        let (mut next, mut taken) = (Some(first), 0);
        while let Some(message) = next {
            if is_answer(&message, inbox) {
                self.answer(&message, open)?;
            } else {
                self.receive(message, open);
            }
            if !self.hollow().is_empty() {
                return Err("a message came without its payload".to_owned());
            }
            taken += 1;
            next = if taken < at_once { messages.present() } else { None };
        }
        Ok(())
    }

    /// Takes the lease for a message and hands it over. One that clients cannot read is handed over as damaged.
    fn receive(&self, arrived: Arrived, open: &mut Open) {
        let room = open.arrived(arrived.length() as u64);
        let reply = Subject::from_utf8(arrived.reply.clone()).unwrap_or_else(|_| Subject::from_static(""));
        let Some(place) = Place::read(&reply) else {
            tracing::warn!(consumer = %self.spec.name, "a message without a place in the stream");
            return;
        };
        if self.is_gap(place.number) {
            self.hold();
        }
        self.top.fetch_max(place.sequence, Ordering::Relaxed);
        if self.spec.broadcast {
            self.spec.progress.note(place.sequence, place.stored_ns);
        }
        if is_hollow(&arrived) && self.whole_until.is_none_or(|until| until <= Instant::now()) {
            self.hollow().push(reply);
            return;
        }
        let position = place.position(self.spec.stream_created_unix);
        let Some(lease) = self.leases.take(position.sequence, reply, room) else { return };
        let message = quarantine::message(&arrived.subject, &arrived.headers, arrived.payload);
        if let Some(damage) = &message.damage {
            let Spec { stream, name, .. } = &self.spec;
            tracing::warn!(stream, consumer = name, sequence = position.sequence, damage, "a message cannot be read");
        }
        (self.hand_over)(Delivery { message, position, source: self.spec.source, receipt: lease });
    }

    fn hollow(&self) -> MutexGuard<'_, Vec<Subject>> {
        self.hollow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has deliveries that came without their payloads come again, now that the consumer is known to send them. A producer
    /// may have written what makes them look so.
    async fn hand_hollow_back(&mut self) {
        let hollow = std::mem::take(&mut *self.hollow());
        if hollow.is_empty() {
            return;
        }
        for reply in hollow {
            let _ = self.nats.client.publish(reply, "-NAK".into()).await;
        }
        self.whole_until = Some(Instant::now() + WHOLE);
    }

    /// Lets no event of an ordered handler begin until all that the server has delivered before is in hand.
    fn hold(&self) {
        if let Some(turns) = &self.spec.turns {
            turns.hold();
        }
    }

    /// Whether a delivery did not arrive: the server numbers them without gaps.
    fn is_gap(&self, number: u64) -> bool {
        let last = self.last.swap(number, Ordering::Relaxed);
        last != 0 && last + 1 != number
    }

    /// Deals with an answer to a pull request: gives back the credit of one that has ended.
    fn answer(&self, message: &Arrived, open: &mut Open) -> Result<(), String> {
        let unclear = || "the answer to a pull request is not understood".to_owned();
        let block = quarantine::read(&message.headers).map_err(str::to_owned)?;
        let status = block.status.ok_or_else(unclear)?;
        if status == StatusCode::IDLE_HEARTBEAT {
            return Ok(());
        }
        let description = block.description.as_str();
        if description.eq_ignore_ascii_case("consumer deleted") {
            // Perhaps with its stream: then what is in flight must not be settled.
            self.leases.suspend();
        }
        let number =
            std::str::from_utf8(&message.subject).ok().and_then(|subject| subject.rsplit('.').next()?.parse().ok());
        let (Some(number), Some(places), Some(bytes)) =
            (number, unused(&block, "Nats-Pending-Messages"), unused(&block, "Nats-Pending-Bytes"))
        else {
            return Err(format!("the server answers a pull request with status {status} {description}"));
        };
        if status == StatusCode::TIMEOUT {
            open.reach.idle();
        } else if description.eq_ignore_ascii_case("message size exceeds maxbytes") {
            open.reach.refused(bytes, self.purse.share());
        } else if !description.eq_ignore_ascii_case("batch completed") {
            return Err(format!("the server answers a pull request with status {status} {description}"));
        }
        open.ended(number, usize::try_from(places).unwrap_or(usize::MAX), bytes);
        Ok(())
    }

    /// Makes the consumer again if it is gone, and its stream where that is ours to do.
    async fn recover(&mut self, unacknowledged: bool) -> Result<(), Interruption> {
        let since = Instant::now();
        if unacknowledged {
            self.try_to_acknowledge(since).await?;
        }
        let result = self.look().await;
        result.map_err(|why| {
            let denial = self.nats.link.any_denial_since(since);
            Interruption::Trouble(denial.map_or(why.clone(), |denial| format!("{why}: {denial}")))
        })
    }

    /// Says on a delivery that does not exist that it is being worked on, which only shows whether we may.
    async fn try_to_acknowledge(&self, since: Instant) -> Result<(), Interruption> {
        let Spec { stream, name, .. } = &self.spec;
        let acks = acknowledgements(stream, name);
        let probe = format!("$JS.ACK.{stream}.{name}.1.0.0.0.0");
        let _ = self.nats.client.publish(probe, "+WPI".into()).await;
        // Its answer comes after the denial, but by another way.
        let _ = durable::info(self.nats, &self.spec).await;
        match timeout(DENIAL_DELAY_MAX, self.nats.link.until_denied(&acks, since)).await {
            Ok(why) => Err(Interruption::Unacknowledged(grant("acknowledging", &acks, &why))),
            Err(_) => Ok(()),
        }
    }

    async fn look(&mut self) -> Result<(), String> {
        let nats = self.nats;
        self.find_stream().await?;
        match durable::info(nats, &self.spec).await {
            // One that waits for sequences that a stream which was set back has yet to give, or that somebody has leave the
            // payloads out.
            Ok(Some(info))
                if info.config.headers_only
                    || self.seen.is_some_and(|seen| info.delivered.stream_sequence > seen.last) =>
            {
                durable::ensure(nats, &self.spec).await.map_err(|error| error.to_string())?;
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                durable::ensure(nats, &self.spec).await.map_err(|error| error.to_string())?;
                tracing::warn!(consumer = %self.spec.name, "made a consumer anew that was deleted");
            }
            Err(error) => return Err(format!("the server does not tell about the consumer: {error}")),
        }
        self.hand_hollow_back().await;
        Ok(())
    }

    /// Looks at the stream, makes it if it is gone and ours, and notes whether it is a new one: the ids of
    /// events and the leases depend on that.
    async fn find_stream(&mut self) -> Result<(), String> {
        let seen = match streams::seen(self.nats, &self.spec.stream).await {
            Ok(Some(seen)) => seen,
            Ok(None) => self.make_stream().await?,
            Err(error) => return Err(error.to_string()),
        };
        let top = self.top.swap(0, Ordering::Relaxed);
        let before = self.seen.map(|before| Seen { last: before.last.max(top), ..before });
        if let Some(why) = before.and_then(|before| drift::counts_anew(&self.spec, before, seen)) {
            drift::say_of_stream(&self.nats.link.troubles, &self.spec.stream, &why);
            self.leases.renew();
        }
        self.seen = Some(seen);
        self.spec.stream_created_unix = i64::try_from(seen.created_ns.div_euclid(1_000_000_000)).unwrap_or_default();
        self.leases.resume();
        Ok(())
    }

    async fn make_stream(&self) -> Result<Seen, String> {
        let Spec { stream, filters, .. } = &self.spec;
        let result = match (&self.spec.source, &self.spec.create_with) {
            (Source::Retry, _) => streams::restore(self.nats, Some(stream)).await,
            (Source::Input, Some(subjects)) => {
                tracing::warn!(stream, "making a stream anew that was deleted");
                let together = &self.nats.own.load_full().together;
                streams::provide(self.nats, stream, subjects, self.spec.repeats_within, together).await
            }
            (Source::Partition { .. }, _) => {
                return Err(format!(
                    "stream {stream:?} does not exist any more; start anew to have it made, with all events of the input \
                     stream in it"
                ));
            }
            (Source::Input, None) => {
                let subjects = filters.join(",");
                return Err(format!(
                    "stream {stream:?} does not exist any more; make it anew: nats stream add {stream} --subjects {subjects:?}"
                ));
            }
        };
        result.map_err(|error| error.to_string())?;
        let seen = streams::seen(self.nats, stream).await.map_err(|error| error.to_string())?;
        seen.ok_or_else(|| format!("stream {stream:?} was made anew and is gone again"))
    }
}

/// Takes all the room that is free.
fn merge_free(credit: &Arc<Semaphore>, places: &mut OwnedSemaphorePermit) {
    let free = u32::try_from(credit.available_permits()).unwrap_or(u32::MAX);
    if let Ok(rest) = Arc::clone(credit).try_acquire_many_owned(free) {
        places.merge(rest);
    }
}

/// Waits for the bytes that are claimed; for ever where none are. What must be in hand for anything to begin does not
/// wait for long, and comes without.
async fn granted(claim: &mut Option<Claim>, turns: Option<&Turns>) -> Option<Reserved> {
    let Some(claim) = claim else { return std::future::pending().await };
    let Some(turns) = turns else { return claim.granted().await };
    loop {
        match timeout(BYTES_PATIENCE, claim.granted()).await {
            Ok(bytes) => return bytes,
            Err(_) if turns.is_held() => return None,
            Err(_) => {}
        }
    }
}

/// Whether it is an answer of the server itself, which comes to where we asked to be answered. An event comes on the
/// subject that it was stored on, whatever its headers look like.
fn is_answer(message: &Arrived, inbox: &str) -> bool {
    message.subject.starts_with(inbox.as_bytes())
}

/// What the server says is left of a pull request.
fn unused(block: &Block, header: &str) -> Option<u64> {
    block.headers.iter().find(|(name, _)| name == header)?.1.parse().ok()
}

/// Whether the server says that it has left a payload out, or a producer does.
fn is_hollow(arrived: &Arrived) -> bool {
    let size = |block: Block| block.headers.iter().any(|(name, size)| name == "Nats-Msg-Size" && size != "0");
    arrived.payload.is_empty() && !arrived.headers.is_empty() && quarantine::read(&arrived.headers).is_ok_and(size)
}

fn usual(why: &str) -> Interruption {
    Interruption::Usual(why.to_owned())
}

fn silent(works: bool) -> Interruption {
    let why = "the server does not answer pull requests".to_owned();
    if works { Interruption::Usual(why) } else { Interruption::Trouble(why) }
}

fn grant(what: &str, subject: &str, why: &str) -> String {
    format!("the server denies {what} ({why}); grant publish on {subject:?}")
}
