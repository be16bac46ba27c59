//! What there is at one moment: what the server holds, what each instance is doing, and what has happened so far, as
//! far as the properties need it. What the rules work on is held by number, see [`crate::rules::Rules`].

/// The two instances.
pub const INSTANCES: usize = 2;
/// The most events that there are: without `dedup`, one for each message.
pub const EVENTS: usize = 3;
/// How many outputs an event has.
pub const OUTPUTS: usize = 2;

/// The number of something that the rules have made.
pub type Number = u16;

/// A message of one of the two streams, by its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// Of the input.
    Input(u8),
    /// Of the retry stream.
    Retry(u8),
}

/// Where a stored message stands with its consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Delivery {
    /// It can be delivered.
    Waiting,
    /// This instance got it last.
    Pending(u8),
    /// It is acknowledged.
    Settled,
}

/// A message of the input. One that is settled stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Input {
    /// Whether it is still in the stream.
    pub stored: bool,
    /// Where it stands.
    pub delivery: Delivery,
    /// How often it was delivered, as far as the server knows.
    pub delivered: u8,
}

/// A message of the retry stream, which is a work queue: what is settled is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Due {
    /// Its sequence.
    pub sequence: u8,
    /// What it says: the number of a retry.
    pub retry: Number,
    /// Where it stands.
    pub delivery: Delivery,
    /// How often it was delivered.
    pub delivered: u8,
}

/// A dead letter. One that was discarded stays here, so that places do not shift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Letter {
    /// Its message id.
    pub id: Number,
    /// Which event it is of.
    pub event: u8,
    /// Whether it is there.
    pub stored: bool,
    /// Whether the server still knows its id.
    pub id_known: bool,
    /// Which time the producer had sent the message whose run ended in it.
    pub sent: u8,
}

/// Everything that the server holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Server {
    /// The input, by sequence.
    pub inputs: Vec<Input>,
    /// The retries that are due.
    pub due: Vec<Due>,
    /// The last sequence of the retry stream.
    pub due_last: u8,
    /// The retries that wait for their time, by subject.
    pub schedules: Vec<(Number, Number)>,
    /// Schedules that have fired, which a server that dies may restore.
    pub fired: Vec<Number>,
    /// Schedules that were restored: they fire once more.
    pub restored: Vec<Number>,
    /// The ids of retries that the server knows.
    pub retry_ids: Vec<Number>,
    /// The outputs: the id, the event, and which of its outputs it is.
    pub outputs: Vec<(Number, u8, u8)>,
    /// The dead letters.
    pub letters: Vec<Letter>,
    /// The markers, by event.
    pub markers: [Option<Number>; EVENTS],
}

/// What an instance knows of a marker's revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Revision {
    /// That there is none, or nothing.
    None,
    /// That of the marker that is there.
    Current,
    /// That of one that was replaced.
    Stale,
}

/// Whether a marker must be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Look {
    /// If the policy says so.
    First,
    /// In any case.
    Again,
    /// Not any more.
    Done,
}

/// What is said about a delivery at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Settlement {
    /// It is done.
    Ack,
    /// It is handed back.
    Nak,
    /// Nothing: somebody else has it.
    Nothing,
}

/// What follows a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Then {
    /// The handler is called.
    Run,
    /// The outputs are published.
    Publish,
    /// What was decided about a failure is done.
    Follow(Number),
    /// The message is acknowledged.
    Settle,
}

/// Which request an instance makes next, or what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// The delivery waits for a place, or at the gate.
    Taken,
    /// The marker is looked up.
    Recall,
    /// The server is asked whether something still has the event.
    Ask {
        /// What may have it: the number of a list.
        carriers: Number,
        /// Whether it was given up on.
        is_buried: bool,
        /// Whether the marker has not changed for long.
        is_abandoned: bool,
    },
    /// Somebody else has the event.
    Wait,
    /// A marker is written.
    Write(Number, Then),
    /// After a conflict, what is there is looked at.
    Reread(Number, Then),
    /// The handler runs.
    Run,
    /// The marker is looked at before the outputs are published, since the delivery is old.
    Check,
    /// This output is published.
    Publish(u8),
    /// A retry or a dead letter is published: the number of a failure and what follows it.
    Follow(Number),
    /// The next attempt waits in memory.
    Pause,
    /// It is taken back that an attempt has begun.
    TakeBack(Settlement),
    /// The delivery is settled.
    Settle(Settlement),
}

/// One delivery in the hands of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Work {
    /// Which message it is.
    pub name: Name,
    /// The arrival's number.
    pub arrival: Number,
    /// What comes next.
    pub phase: Phase,
    /// Whether the marker must be looked at.
    pub look: Look,
    /// What is known of the marker's revision.
    pub revision: Revision,
    /// Whether a marker was written or seen.
    pub exists: bool,
    /// Whether it is recorded that an attempt has begun, and not how it ended.
    pub has_begun: bool,
    /// Whether nobody else can have got the message, by the instance's clock.
    pub is_sure: bool,
    /// Whether the marker was seen as it is now.
    pub has_seen: bool,
    /// Whether the patience is over.
    pub is_patient: bool,
    /// Whether the instance cannot reach the server.
    pub is_cut: bool,
    /// Whether it could not for longer than the patience.
    pub is_overdue: bool,
    /// Whether the attempt that is due is counted as made.
    pub is_counted: bool,
    /// Whether the process ends after this.
    pub is_last: bool,
}

/// What has happened to an event, as far as the properties need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Past {
    /// How many attempts were made; counted no further than needed.
    pub made: u8,
    /// How many runs are still allowed.
    pub runs_left: i8,
    /// How often the producer has sent it.
    pub sent: u8,
    /// Whether the operator has removed what there was of it since the producer sent it last.
    pub excused: bool,
    /// Whether a marker has expired, after which nobody can know what was before.
    pub forgotten: bool,
}

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    /// What the server holds.
    pub server: Server,
    /// What each instance is doing.
    pub works: [Option<Work>; INSTANCES],
    /// What has happened, by event.
    pub past: [Past; EVENTS],
    /// How many faults there may still be.
    pub faults: u8,
    /// How many operations there may still be.
    pub operations: u8,
    /// Whether the producer sends once more.
    pub resends: bool,
    /// What does not hold.
    pub broken: Option<&'static str>,
}

impl State {
    /// Notes that something does not hold.
    pub fn break_unless(&mut self, holds: bool, what: &'static str) {
        if !holds && self.broken.is_none() {
            self.broken = Some(what);
        }
    }

    /// Whether nothing is left to do.
    pub fn is_at_rest(&self) -> bool {
        let server = &self.server;
        self.works.iter().all(Option::is_none)
            && server.inputs.iter().all(|input| !input.stored || input.delivery == Delivery::Settled)
            && server.due.is_empty()
            && server.schedules.is_empty()
            && server.restored.is_empty()
    }
}
