//! What an instance does with a delivery, request by request, as `runtime/host/src/pipeline.rs` does it: recall, admit,
//! begin, invoke, record, publish, conclude, settle. All that is decided is asked of the rules.

use tidemill_policy::marker::{Carrier, Marker, Next};

use crate::rules::{End, Follows, Rules, Stand};
use crate::setup::{Dedup, Mutation};
use crate::state::{Delivery, Look, Number, OUTPUTS, Past, Phase, Revision, Settlement, State, Then, Work};

/// How far attempts are counted.
const MADE_MAX: u8 = 6;

/// One instance on its way: the state, with its work taken out.
struct Turn<'a> {
    state: &'a mut State,
    rules: &'a mut Rules,
    instance: u8,
    work: Work,
    /// Whether the answer to its request is lost.
    is_unanswered: bool,
}

/// Has an instance make its next request, or take its next step.
pub fn step(state: &mut State, rules: &mut Rules, instance: u8, is_unanswered: bool) {
    #[allow(clippy::redundant_closure_for_method_calls, reason = "the method is not general enough over lifetimes")]
    let request = |turn: &mut Turn<'_>| turn.request();
    take_turn(state, rules, instance, is_unanswered, request);
}

/// The attempt that an instance makes ends.
pub fn end(state: &mut State, rules: &mut Rules, instance: u8, end: End) {
    take_turn(state, rules, instance, false, |turn| turn.end(end));
}

/// Looks again at what somebody else has; `is_patient` where nothing was heard of that one for long.
pub fn look_again(state: &mut State, rules: &mut Rules, instance: u8, is_patient: bool) {
    let event = rules.arrival(state.works[usize::from(instance)].as_ref().expect("a work").arrival).number;
    if is_patient {
        // As much time has passed for the others.
        let others = state.works.iter_mut().enumerate().filter(|(place, _)| *place != usize::from(instance));
        for other in others.filter_map(|(_, other)| other.as_mut()) {
            if rules.arrival(other.arrival).number == event {
                other.is_sure = false;
                other.is_overdue |= other.is_cut;
            }
        }
    }
    take_turn(state, rules, instance, false, |turn| {
        (turn.work.look, turn.work.phase, turn.work.is_patient) = (Look::Again, Phase::Recall, is_patient);
    });
}

/// An instance is asked to stop: it hands back what has not begun, and cuts off what runs.
pub fn stop(state: &mut State, rules: &mut Rules, instance: u8) {
    take_turn(state, rules, instance, false, |turn| {
        if turn.work.phase == Phase::Run {
            turn.past().runs_left += 1;
        }
        turn.work.is_last = true;
        turn.settle(Settlement::Nak);
    });
}

fn take_turn(
    state: &mut State,
    rules: &mut Rules,
    instance: u8,
    is_unanswered: bool,
    what: impl FnOnce(&mut Turn<'_>),
) {
    let Some(work) = state.works[usize::from(instance)].take() else { return };
    let mut turn = Turn { state, rules, instance, work, is_unanswered };
    what(&mut turn);
    let Turn { work, .. } = turn;
    if work.phase == Phase::Settle(Settlement::Nothing) && !work.is_last {
        // Nobody keeps it alive any more.
        state.server.hand_back(work.name, instance);
    } else {
        state.works[usize::from(instance)] = Some(work);
    }
}

impl Turn<'_> {
    fn event(&self) -> usize {
        self.rules.arrival(self.work.arrival).number.into()
    }

    fn past(&mut self) -> &mut Past {
        let event = self.event();
        &mut self.state.past[event]
    }

    fn present(&self) -> Option<Number> {
        self.state.server.markers[self.event()]
    }

    fn request(&mut self) {
        match self.work.phase {
            Phase::Taken | Phase::Pause => self.again(),
            Phase::Recall => self.recall(),
            Phase::Ask { carriers, is_buried, is_abandoned } => {
                let subjects = self.rules.retry_subjects(self.work.arrival);
                let carries = |carriers| self.state.server.carries(carriers, subjects, self.rules);
                let is_carried = carries(self.rules.carriers(carriers));
                let is_over = if is_buried { !carries(&[Carrier::Retry]) } else { is_abandoned };
                match (is_carried, is_over) {
                    (true, _) => self.settle(Settlement::Ack),
                    (false, true) => self.admit(),
                    (false, false) => self.work.phase = Phase::Wait,
                }
            }
            Phase::Write(marker, then) => self.write(marker, then),
            Phase::Reread(marker, then) => self.reread(marker, then),
            Phase::Check => self.check(),
            Phase::Publish(index) => self.publish(index),
            Phase::Follow(failure) => self.follow(failure),
            Phase::TakeBack(settlement) => self.take_back(settlement),
            Phase::Settle(settlement) => self.settled(settlement),
            Phase::Wait | Phase::Run => unreachable!("it waits"),
        }
    }

    /// Goes through the steps once more.
    fn again(&mut self) {
        let is_wanted = self.rules.arrival(self.work.arrival).is_wanted;
        match self.work.look {
            Look::Again => self.work.phase = Phase::Recall,
            Look::First if is_wanted => self.work.phase = Phase::Recall,
            Look::First | Look::Done => {
                self.work.look = Look::Done;
                self.admit();
            }
        }
    }

    fn recall(&mut self) {
        let present = self.present();
        let work = &mut self.work;
        let is_abandoned = work.has_seen && work.is_patient;
        let is_fresh = work.look == Look::First && work.is_sure;
        work.look = Look::Done;
        work.revision = if present.is_some() { Revision::Current } else { Revision::None };
        (work.exists, work.has_seen, work.is_patient) = (present.is_some(), true, false);
        let (stand, arrival) = self.rules.stand(work.arrival, present, self.instance, is_fresh, is_abandoned);
        work.arrival = arrival;
        match stand {
            Stand::Due => self.admit(),
            Stand::Superseded => self.settle(Settlement::Ack),
            Stand::Elsewhere(carriers) => work.phase = Phase::Ask { carriers, is_buried: false, is_abandoned },
            Stand::Buried(carriers) => work.phase = Phase::Ask { carriers, is_buried: true, is_abandoned },
            Stand::Claimed => work.phase = Phase::Wait,
            Stand::TakenAway => self.settle(Settlement::Nothing),
            Stand::Failed(failure) => self.decided(failure),
        }
    }

    fn admit(&mut self) {
        let known = self.rules.arrival(self.work.arrival);
        let records_begin = known.records_begin;
        match self.rules.follows(self.work.arrival, None) {
            Some(Follows::Fail(marker, failure)) => self.work.phase = Phase::Write(marker, Then::Follow(failure)),
            _ if records_begin => {
                let begun = self.rules.begun(self.work.arrival, self.instance);
                self.work.phase = Phase::Write(begun, Then::Run);
            }
            _ => self.run(),
        }
    }

    /// The handler is called.
    fn run(&mut self) {
        self.count();
        self.work.is_counted = false;
        self.work.phase = Phase::Run;
        let attempt = self.rules.arrival(self.work.arrival).arrival.attempt.get();
        let (made, max_attempts) = (self.past().made, self.rules.setup.max_attempts);
        self.past().runs_left -= 1;
        let is_in_bounds = self.past().runs_left >= 0;
        let event = self.event();
        let is_of_event = |work: &&Work| usize::from(self.rules.arrival(work.arrival).number) == event;
        let mut others = self.state.works.iter().flatten().filter(is_of_event);
        let is_twice = others.any(|other| other.phase == Phase::Run && !other.is_overdue) && self.rules.claims();
        let is_forgotten = self.past().forgotten;
        self.state.break_unless(attempt <= u32::from(made), "an attempt is charged that was not made");
        self.state.break_unless(attempt <= max_attempts, "an event is run for an attempt that it does not have");
        self.state.break_unless(is_in_bounds, "an event is run too often");
        self.state.break_unless(!is_twice || is_forgotten, "two instances run a claimed event at once");
    }

    /// Counts the attempt that is due as made, once.
    fn count(&mut self) {
        if !std::mem::replace(&mut self.work.is_counted, true) {
            let past = self.past();
            past.made = (past.made + 1).min(MADE_MAX);
        }
    }

    fn end(&mut self, end: End) {
        match self.rules.follows(self.work.arrival, Some(end)) {
            Some(Follows::Fail(marker, failure)) => self.work.phase = Phase::Write(marker, Then::Follow(failure)),
            _ => self.make_sure(),
        }
    }

    /// Before outputs are published: where somebody else may have got the message meanwhile, that is looked at.
    fn make_sure(&mut self) {
        self.work.phase = if self.work.is_sure {
            Phase::Publish(0)
        } else if self.work.has_begun {
            Phase::Write(self.rules.begun(self.work.arrival, self.instance), Then::Publish)
        } else {
            Phase::Check
        };
    }

    fn check(&mut self) {
        let is_same = match self.work.revision {
            Revision::None => self.present().is_none(),
            Revision::Current => true,
            Revision::Stale => false,
        };
        if is_same {
            (self.work.is_sure, self.work.phase) = (true, Phase::Publish(0));
        } else {
            self.work.look = Look::Again;
            self.again();
        }
    }

    fn publish(&mut self, index: u8) {
        let id = self.rules.output(self.work.arrival, index);
        let event = self.rules.arrival(self.work.arrival).number;
        let outputs = &mut self.state.server.outputs;
        if !outputs.iter().any(|(other, _, _)| *other == id) {
            let is_repeated = outputs.iter().any(|(_, of, at)| (*of, *at) == (event, index));
            outputs.push((id, event, index));
            outputs.sort_unstable();
            self.state.break_unless(!is_repeated, "an output is stored twice");
        }
        if self.is_unanswered {
            return self.make_sure();
        }
        if usize::from(index) + 1 < OUTPUTS {
            self.work.phase = Phase::Publish(index + 1);
            return;
        }
        let done = self.rules.done(self.work.arrival);
        self.conclude(done);
    }

    /// Marks the event as ended, where that is to be remembered.
    fn conclude(&mut self, marker: Number) {
        if self.rules.arrival(self.work.arrival).records_end || self.work.exists {
            self.work.phase = Phase::Write(marker, Then::Settle);
        } else {
            self.settle(Settlement::Ack);
        }
    }

    fn write(&mut self, marker: Number, then: Then) {
        let is_expected = match self.work.revision {
            Revision::None => self.present().is_none(),
            Revision::Current => true,
            Revision::Stale => false,
        };
        if !is_expected {
            if !self.is_unanswered {
                self.work.phase = Phase::Reread(marker, then);
            }
            return;
        }
        let event = self.rules.arrival(self.work.arrival).number;
        self.state.replace_marker(self.rules, event, Some(marker));
        if let Marker::Open(progress) = self.rules.marker(marker)
            && progress.next == Next::End
            && then == Then::Run
        {
            self.count();
        }
        if self.is_unanswered {
            // What it knows of the revision is not right any more.
            self.work.revision = Revision::Stale;
        } else {
            self.written(then);
        }
    }

    fn written(&mut self, then: Then) {
        let work = &mut self.work;
        (work.revision, work.exists, work.has_begun) = (Revision::Current, true, false);
        work.is_sure = !work.is_cut;
        match then {
            Then::Run => {
                work.has_begun = true;
                self.run();
            }
            Then::Publish => {
                work.has_begun = true;
                work.phase = Phase::Publish(0);
            }
            Then::Follow(failure) => self.decided(failure),
            Then::Settle => self.settle(Settlement::Ack),
        }
    }

    fn reread(&mut self, marker: Number, then: Then) {
        let present = self.present();
        self.work.revision = if present.is_some() { Revision::Current } else { Revision::None };
        if present == Some(marker) {
            self.written(then);
        } else if self.rules.may_replace(self.work.arrival, self.instance, marker, present) {
            self.work.phase = Phase::Write(marker, then);
        } else {
            // Whoever has written that knows what becomes of the event; what it is we only look at where we go on.
            self.work.revision = Revision::Stale;
            self.work.look = Look::Again;
            // What is there is not ours to take back.
            self.work.has_begun &= self.rules.setup.mutation == Some(Mutation::TakeBackUnseen);
            match then {
                Then::Settle => self.settle(Settlement::Ack),
                Then::Run | Then::Publish | Then::Follow(_) => self.again(),
            }
        }
    }

    /// Does what follows a failure that is recorded.
    fn decided(&mut self, failure: Number) {
        match self.rules.failure(failure).1 {
            Next::Attempt(_) => self.pause(failure),
            Next::Retry(_) | Next::DeadLetter => self.work.phase = Phase::Follow(failure),
            Next::End => self.settle(Settlement::Nak),
        }
    }

    /// The next attempt waits in this process.
    fn pause(&mut self, failure: Number) {
        if self.rules.setup.dedup != Dedup::Off {
            self.work.look = Look::Again;
        }
        self.work.arrival = self.rules.paused(self.work.arrival, failure);
        self.work.phase = Phase::Pause;
    }

    fn follow(&mut self, failure: Number) {
        if matches!(self.rules.failure(failure).1, Next::Retry(_)) {
            return self.retry(failure);
        }
        let known = self.rules.arrival(self.work.arrival);
        let event = known.number;
        let sent = 1 + u8::from(known.arrival.origin.sequence >= u64::from(self.rules.setup.messages));
        let (id, told) = self.rules.letter(self.work.arrival, failure);
        let past = *self.past();
        let (place, is_new) = self.state.server.bury(id, event, sent);
        let others = self.state.server.letters.iter().filter(|l| l.stored && l.event == event && l.sent == sent);
        let is_second = is_new && others.count() > 1;
        self.state.break_unless(told <= past.made, "an event is given up after attempts that were not made");
        self.state.break_unless(!is_second || past.forgotten, "an event has two dead letters for one run");
        if !self.is_unanswered {
            let dead = self.rules.dead(self.work.arrival, place);
            self.conclude(dead);
        }
    }

    fn retry(&mut self, failure: Number) {
        if self.rules.setup.retries_too_large {
            let failure = self.rules.failure_in_place(failure);
            let failed = self.rules.failed(self.work.arrival, failure);
            self.work.phase = Phase::Write(failed, Then::Follow(failure));
            return;
        }
        let retry = self.rules.retry(self.work.arrival, failure);
        self.state.server.schedule(self.rules, retry);
        if !self.is_unanswered {
            self.settle(Settlement::Ack);
        }
    }

    /// Settles; what was begun and not ended is taken back first.
    fn settle(&mut self, settlement: Settlement) {
        self.work.phase = if self.work.has_begun { Phase::TakeBack(settlement) } else { Phase::Settle(settlement) };
    }

    /// Only once, whatever comes of it.
    fn take_back(&mut self, settlement: Settlement) {
        self.work.has_begun = false;
        if self.work.revision == Revision::Current {
            let handed_back = self.rules.handed_back(self.work.arrival);
            let event = self.rules.arrival(self.work.arrival).number;
            self.state.replace_marker(self.rules, event, Some(handed_back));
        }
        self.work.phase = Phase::Settle(settlement);
    }

    fn settled(&mut self, settlement: Settlement) {
        match settlement {
            Settlement::Ack => self.state.server.acknowledge(self.work.name),
            Settlement::Nak => self.state.server.hand_back(self.work.name, self.instance),
            Settlement::Nothing => {}
        }
        // Nothing more comes of it.
        self.work.phase = Phase::Settle(Settlement::Nothing);
        if self.work.is_last {
            self.work.is_last = false;
            self.state.process_ends(self.rules, self.instance);
        }
    }
}

impl State {
    /// What a process was doing has no more effect.
    pub fn dies(&mut self, rules: &mut Rules, instance: u8) {
        if let Some(work) = self.works[usize::from(instance)].take() {
            self.server.hand_back(work.name, instance);
        }
        self.process_ends(rules, instance);
    }

    fn process_ends(&mut self, rules: &mut Rules, instance: u8) {
        for marker in self.server.markers.iter_mut().flatten() {
            *marker = rules.after_death(*marker, instance);
        }
    }

    /// What an instance says about its delivery does not arrive, and it forgets about it.
    pub fn settles_in_vain(&mut self, rules: &mut Rules, instance: u8) {
        if let Some(work) = self.works[usize::from(instance)].take() {
            self.server.hand_back(work.name, instance);
            if work.is_last {
                self.process_ends(rules, instance);
            }
        }
    }

    /// Whether an instance still counts as the one that got the message of its work last.
    pub fn holds(&self, instance: u8) -> bool {
        let work = self.works[usize::from(instance)].as_ref();
        work.is_some_and(|work| self.server.delivery(work.name) == Some(Delivery::Pending(instance)))
    }
}
