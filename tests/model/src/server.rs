//! What the server does: it stores, delivers, lets schedules fall due, keeps markers, and forgets when it is killed.

use tidemill_policy::arrival::place_of;
use tidemill_policy::marker::Carrier;

use crate::rules::Rules;
use crate::state::{Delivery, Due, Input, Letter, Look, Name, Number, Past, Phase, Revision, Server, State, Work};

/// What a server that is killed takes back, as sets of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// Messages of the input whose acknowledgement or count of deliveries is gone.
    pub inputs: u8,
    /// Retries whose count of deliveries is gone.
    pub due: u8,
    /// Schedules that have fired and are there again.
    pub fired: u8,
}

fn has(set: u8, position: usize) -> bool {
    set >> position & 1 == 1
}

impl Server {
    fn delivery_mut(&mut self, name: Name) -> Option<(&mut Delivery, &mut u8)> {
        match name {
            Name::Input(sequence) => {
                let input = &mut self.inputs[usize::from(sequence)];
                input.stored.then_some((&mut input.delivery, &mut input.delivered))
            }
            Name::Retry(sequence) => {
                let due = self.due.iter_mut().find(|due| due.sequence == sequence)?;
                Some((&mut due.delivery, &mut due.delivered))
            }
        }
    }

    /// Where a message stands; nothing where it is not there any more.
    pub fn delivery(&self, name: Name) -> Option<Delivery> {
        match name {
            Name::Input(sequence) => {
                Some(self.inputs[usize::from(sequence)]).filter(|input| input.stored).map(|input| input.delivery)
            }
            Name::Retry(sequence) => self.due.iter().find(|due| due.sequence == sequence).map(|due| due.delivery),
        }
    }

    /// The messages that can be delivered.
    pub fn ready(&self) -> Vec<Name> {
        let is_ready = |input: &&(usize, &Input)| input.1.stored && input.1.delivery == Delivery::Waiting;
        let inputs = self.inputs.iter().enumerate();
        let inputs = inputs.filter(|input| is_ready(&input)).map(|(index, _)| Name::Input(small(index)));
        let due = self.due.iter().filter(|due| due.delivery == Delivery::Waiting);
        inputs.chain(due.map(|due| Name::Retry(due.sequence))).collect()
    }

    /// A message is acknowledged, by whoever got it at any time.
    pub fn acknowledge(&mut self, name: Name) {
        match name {
            Name::Input(sequence) => self.inputs[usize::from(sequence)].delivery = Delivery::Settled,
            Name::Retry(sequence) => self.due.retain(|due| due.sequence != sequence),
        }
    }

    /// A message is handed back by `instance`, or not heard of any more: that counts only where it got it last.
    pub fn hand_back(&mut self, name: Name, instance: u8) {
        if let Some((delivery, _)) = self.delivery_mut(name)
            && *delivery == Delivery::Pending(instance)
        {
            *delivery = Delivery::Waiting;
        }
    }

    /// A retry is stored, unless its id is known.
    pub fn schedule(&mut self, rules: &Rules, retry: Number) {
        let stored = rules.retry_of(retry);
        if self.retry_ids.contains(&stored.id) {
            return;
        }
        insert(&mut self.retry_ids, stored.id);
        self.restored.retain(|restored| rules.retry_of(*restored).schedule != stored.schedule);
        self.schedules.retain(|(subject, _)| *subject != stored.schedule);
        insert(&mut self.schedules, (stored.schedule, retry));
    }

    fn fall_due(&mut self, retry: Number) {
        self.due_last += 1;
        self.due.push(Due { sequence: self.due_last, retry, delivery: Delivery::Waiting, delivered: 0 });
    }

    /// Whether something still has an event, as the broker answers it.
    pub fn carries(&self, carriers: &[Carrier], (schedule, due): (Number, Number), rules: &Rules) -> bool {
        carriers.iter().any(|carrier| match carrier {
            Carrier::Message(name) => place_of(name).is_some_and(|place| match place.stream.as_str() {
                "IN" => usize::try_from(place.sequence).is_ok_and(|index| self.inputs[index].stored),
                _ => self.due.iter().any(|due| u64::from(due.sequence) == place.sequence),
            }),
            Carrier::Retry => {
                let is_held = |retry: &Number| rules.retry_of(*retry).schedule == schedule;
                self.schedules.iter().any(|(_, retry)| is_held(retry))
                    || self.restored.iter().any(is_held)
                    || self.due.iter().any(|message| rules.retry_of(message.retry).due == due)
            }
            Carrier::Letter(stored) => {
                usize::try_from(stored.sequence).is_ok_and(|index| self.letters.get(index).is_some_and(|l| l.stored))
            }
        })
    }

    /// A dead letter is stored, unless its id is known. Returns its place, and whether it was stored.
    pub fn bury(&mut self, id: Number, event: u8, sent: u8) -> (usize, bool) {
        if let Some(index) = self.letters.iter().position(|letter| letter.id == id && letter.id_known) {
            return (index, false);
        }
        self.letters.push(Letter { id, event, stored: true, id_known: true, sent });
        (self.letters.len() - 1, true)
    }
}

impl State {
    /// The first state: everything is stored and nothing delivered.
    pub fn first(rules: &Rules) -> State {
        let setup = rules.setup;
        let input = Input { stored: true, delivery: Delivery::Waiting, delivered: 0 };
        let mut past = [Past::default(); crate::state::EVENTS];
        for message in 0..setup.messages {
            let past = &mut past[usize::from(rules.event_of_input(message))];
            past.sent = 1;
            past.runs_left += i8::try_from(setup.runs_of_message()).expect("few");
        }
        State {
            server: Server { inputs: vec![input; setup.messages.into()], ..Server::default() },
            works: [None, None],
            past,
            faults: setup.faults,
            operations: setup.operations,
            resends: false,
            broken: None,
        }
    }

    /// Gives a message to an instance.
    pub fn deliver(&mut self, rules: &mut Rules, instance: u8, name: Name) {
        let Some((delivery, delivered)) = self.server.delivery_mut(name) else { return };
        *delivery = Delivery::Pending(instance);
        *delivered += 1;
        let delivered = *delivered;
        let place = usize::from(instance);
        if self.works[place].is_some() {
            // The process has it in hand, and leaves it at that.
            return;
        }
        let retry = match name {
            Name::Input(_) => 0,
            Name::Retry(of) => self.server.due.iter().find(|due| due.sequence == of).map_or(0, |due| due.retry),
        };
        let arrival = rules.arrive(name, retry, delivered);
        let is_shared = self.works.iter().flatten().any(|other| other.name == name);
        let event = rules.arrival(arrival).number;
        self.past[usize::from(event)].runs_left += i8::from(is_shared);
        self.works[place] = Some(Work {
            name,
            arrival,
            phase: Phase::Taken,
            look: Look::First,
            revision: Revision::None,
            exists: false,
            has_begun: false,
            is_sure: true,
            has_seen: false,
            is_patient: false,
            is_cut: false,
            is_overdue: false,
            is_counted: false,
            is_last: false,
        });
    }

    /// A schedule falls due.
    pub fn fire(&mut self, index: usize) {
        let (_, retry) = self.server.schedules.remove(index);
        self.server.fall_due(retry);
        if self.faults > 0 {
            insert(&mut self.server.fired, retry);
        }
    }

    /// A schedule that was restored falls due once more, which removes the one that has followed on its subject.
    pub fn fire_restored(&mut self, rules: &Rules, index: usize) {
        let retry = self.server.restored.remove(index);
        let subject = rules.retry_of(retry).schedule;
        self.server.schedules.retain(|(other, _)| *other != subject);
        self.server.fall_due(retry);
    }

    /// Replaces an event's marker. What the others know of its revision is not that of the marker any more.
    pub fn replace_marker(&mut self, rules: &Rules, event: u8, marker: Option<Number>) {
        self.server.markers[usize::from(event)] = marker;
        for work in self.works.iter_mut().flatten().filter(|work| rules.arrival(work.arrival).number == event) {
            work.has_seen = false;
            if work.revision == Revision::Current {
                work.revision = Revision::Stale;
            }
        }
    }

    /// The server is killed and comes back.
    pub fn server_dies(&mut self, rules: &Rules, forgotten: Forgotten) {
        let runs = i8::try_from(rules.setup.runs_of_message()).expect("few");
        let server = &mut self.server;
        let mut touched = Vec::new();
        for (index, input) in server.inputs.iter_mut().enumerate().filter(|(index, _)| has(forgotten.inputs, *index)) {
            (input.delivery, input.delivered) = (Delivery::Waiting, 0);
            touched.push(rules.event_of_input(small(index)));
        }
        for (_, due) in server.due.iter_mut().enumerate().filter(|(index, _)| has(forgotten.due, *index)) {
            (due.delivery, due.delivered) = (Delivery::Waiting, 0);
            touched.push(rules.event_of_retry(due.retry));
        }
        let fired = std::mem::take(&mut server.fired);
        for (index, retry) in fired.into_iter().enumerate() {
            if has(forgotten.fired, index) {
                insert(&mut server.restored, retry);
                touched.push(rules.event_of_retry(retry));
            }
        }
        // Ids live on with the messages that are stored.
        let held: Vec<_> = server.schedules.iter().map(|(_, retry)| rules.retry_of(*retry).id).collect();
        server.retry_ids.retain(|id| held.contains(id));
        for letter in &mut server.letters {
            letter.id_known &= letter.stored;
        }
        for event in touched {
            self.past[usize::from(event)].runs_left += runs;
        }
    }

    /// What a server that is killed now may forget.
    pub fn forgettable(&self) -> Vec<Forgotten> {
        let set = |flags: Vec<bool>| flags.iter().enumerate().fold(0u8, |set, (at, flag)| set | u8::from(*flag) << at);
        let inputs = set(self.server.inputs.iter().map(|input| input.stored && input.delivered > 0).collect());
        let due = set(self.server.due.iter().map(|due| due.delivered > 0).collect());
        let fired = set(self.server.fired.iter().map(|_| true).collect());
        let mut all = Vec::new();
        for inputs in subsets(inputs) {
            for due in subsets(due) {
                all.extend(subsets(fired).map(|fired| Forgotten { inputs, due, fired }));
            }
        }
        all
    }
}

/// All subsets of a set.
fn subsets(set: u8) -> impl Iterator<Item = u8> {
    (0..=set).filter(move |subset| subset & !set == 0)
}

/// Puts something in its place in a sorted list.
fn insert<T: Ord>(list: &mut Vec<T>, item: T) {
    let at = list.partition_point(|other| *other < item);
    list.insert(at, item);
}

/// A position as a number of one byte.
pub fn small(index: usize) -> u8 {
    u8::try_from(index).expect("few")
}
