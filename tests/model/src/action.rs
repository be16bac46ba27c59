//! Everything that can happen next.

use std::fmt;

use tidemill_policy::marker::Marker;

use crate::instance;
use crate::rules::{End, Rules};
use crate::server::{Forgotten, small};
use crate::setup::Dedup;
use crate::state::{Delivery, INSTANCES, Input, Look, Name, Number, OUTPUTS, Phase, Revision, State, Work};

/// Something that can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A message is given to an instance.
    Deliver(u8, Name),
    /// A retry falls due.
    Fire(u8),
    /// A retry that was restored falls due once more.
    FireRestored(u8),
    /// The server takes a message back from an instance that it does not hear of.
    Lapse(u8),
    /// An instance reaches the server again.
    Reconnect(u8),
    /// An instance makes its next request, or takes its next step.
    Step(u8),
    /// The handler returns.
    End(u8, End),
    /// An instance looks again at what another one has; true where it has not changed for long.
    LookAgain(u8, bool),
    /// The request arrives, and its answer does not.
    StepUnanswered(u8),
    /// What an instance says about a delivery does not arrive.
    SettleLost(u8),
    /// The process dies.
    Crash(u8),
    /// The process cannot reach the server.
    CutOff(u8),
    /// The process is stopped, and the time to drain is over.
    Stop(u8),
    /// So much time passes that the instance is not sure any more that nobody else has the message.
    Slow(u8),
    /// The server is killed, and forgets.
    ServerDies(Forgotten),
    /// A marker's time is over.
    Expire(u8),
    /// An operator discards a dead letter.
    Discard(u8),
    /// An operator purges the input.
    PurgeInput,
    /// An operator drops all retries.
    DropRetries,
    /// The producer sends the event once more.
    SendAgain,
}

/// Who acts: where each of these goes on as long as it can, everything must come to rest.
pub const ACTORS: u8 = 8;
/// Whose turn comes although it is not there all the time: the patience of each instance ends.
pub const RECURRING: [u8; 2] = [2, 3];

impl Action {
    /// Whether it is a fault, or an operator's doing.
    pub fn is_fault(self) -> bool {
        self.cost() != (0, 0)
    }

    /// How many faults and operations it costs.
    fn cost(self) -> (u8, u8) {
        match self {
            Action::StepUnanswered(_)
            | Action::SettleLost(_)
            | Action::Crash(_)
            | Action::CutOff(_)
            | Action::Stop(_)
            | Action::Slow(_)
            | Action::ServerDies(_)
            | Action::Expire(_) => (1, 0),
            Action::Discard(_) | Action::PurgeInput | Action::DropRetries => (0, 1),
            _ => (0, 0),
        }
    }

    /// Who acts.
    pub fn actor(self) -> u8 {
        match self {
            Action::Step(instance) | Action::End(instance, _) => instance,
            Action::LookAgain(instance, true) => 2 + instance,
            Action::LookAgain(instance, false) => 4 + instance,
            Action::Deliver(..) => 6,
            _ => 7,
        }
    }

    /// The same with the instances exchanged.
    #[must_use]
    pub fn mirrored(self) -> Action {
        match self {
            Action::Deliver(instance, name) => Action::Deliver(1 - instance, name),
            Action::Lapse(instance) => Action::Lapse(1 - instance),
            Action::Reconnect(instance) => Action::Reconnect(1 - instance),
            Action::Step(instance) => Action::Step(1 - instance),
            Action::End(instance, end) => Action::End(1 - instance, end),
            Action::LookAgain(instance, is_patient) => Action::LookAgain(1 - instance, is_patient),
            Action::StepUnanswered(instance) => Action::StepUnanswered(1 - instance),
            Action::SettleLost(instance) => Action::SettleLost(1 - instance),
            Action::Crash(instance) => Action::Crash(1 - instance),
            Action::CutOff(instance) => Action::CutOff(1 - instance),
            Action::Stop(instance) => Action::Stop(1 - instance),
            Action::Slow(instance) => Action::Slow(1 - instance),
            other => other,
        }
    }
}

impl State {
    /// Everything that can happen next.
    pub fn actions(&self, rules: &Rules) -> Vec<Action> {
        let mut all = Vec::new();
        for (place, work) in self.works.iter().enumerate() {
            let instance = small(place);
            for name in self.server.ready() {
                let is_free = work.as_ref().is_none_or(|work| work.name == name && !work.is_cut);
                if is_free {
                    all.push(Action::Deliver(instance, name));
                }
            }
            if let Some(work) = work {
                self.actions_of(rules, instance, work, &mut all);
            }
        }
        all.extend((0..self.server.schedules.len()).map(|index| Action::Fire(small(index))));
        all.extend((0..self.server.restored.len()).map(|index| Action::FireRestored(small(index))));
        if self.faults > 0 {
            all.extend(self.forgettable().into_iter().map(Action::ServerDies));
            let is_idle = |event: u8| !self.works.iter().flatten().any(|w| rules.arrival(w.arrival).number == event);
            let kept = (0..).zip(&self.server.markers).filter(|(_, marker)| marker.is_some());
            all.extend(kept.filter(|(event, _)| is_idle(*event)).map(|(event, _)| Action::Expire(event)));
        }
        if self.operations > 0 {
            let letters = self.server.letters.iter().enumerate().filter(|(_, letter)| {
                letter.stored && (rules.setup.discards_early || self.is_over(rules, letter.event))
            });
            all.extend(letters.map(|(index, _)| Action::Discard(small(index))));
            all.extend(self.server.inputs.iter().any(|input| input.stored).then_some(Action::PurgeInput));
            let has_retries = !self.server.schedules.is_empty() || !self.server.due.is_empty();
            all.extend(has_retries.then_some(Action::DropRetries));
        }
        all.extend(self.resends.then_some(Action::SendAgain));
        all
    }

    /// Whether an event is marked as dead, and no retry of it is there any more.
    fn is_over(&self, rules: &Rules, event: u8) -> bool {
        let server = &self.server;
        let marker = server.markers[usize::from(event)].map(|marker| rules.marker(marker));
        let is_marked = matches!(marker, Some(Marker::Dead { .. }));
        let is_of_event = |retry: Number| rules.event_of_retry(retry) == event;
        let held = server.schedules.iter().map(|(_, retry)| *retry).chain(server.restored.iter().copied());
        is_marked && !held.chain(server.due.iter().map(|due| due.retry)).any(is_of_event)
    }

    fn actions_of(&self, rules: &Rules, instance: u8, work: &Work, all: &mut Vec<Action>) {
        let may_fail = self.faults > 0;
        if work.is_cut {
            all.push(Action::Reconnect(instance));
            all.extend(self.holds(instance).then_some(Action::Lapse(instance)));
        }
        match work.phase {
            Phase::Run => all.extend([End::Success, End::Failure].map(|end| Action::End(instance, end))),
            Phase::Wait if !work.is_cut => {
                all.push(Action::LookAgain(instance, false));
                let is_quiet = work.has_seen && !self.is_busy_with(rules, instance, work);
                all.extend(is_quiet.then_some(Action::LookAgain(instance, true)));
            }
            Phase::Taken | Phase::Pause => all.push(Action::Step(instance)),
            _ if !work.is_cut => {
                all.push(Action::Step(instance));
                let changes = matches!(work.phase, Phase::Write(..) | Phase::Publish(_) | Phase::Follow(_));
                all.extend((may_fail && changes).then_some(Action::StepUnanswered(instance)));
                let settles = matches!(work.phase, Phase::Settle(_));
                all.extend((may_fail && settles).then_some(Action::SettleLost(instance)));
            }
            _ => {}
        }
        if may_fail {
            all.push(Action::Crash(instance));
            all.extend((!work.is_cut).then_some(Action::CutOff(instance)));
            let may_stop = matches!(work.phase, Phase::Run | Phase::Taken | Phase::Wait | Phase::Pause);
            all.extend(may_stop.then_some(Action::Stop(instance)));
            let may_take_long = work.is_sure && matches!(work.phase, Phase::Run | Phase::Taken);
            all.extend(may_take_long.then_some(Action::Slow(instance)));
        }
    }

    /// Whether another instance that reaches the server is about to say something about the event, so that its marker
    /// does not stay as it is for long.
    fn is_busy_with(&self, rules: &Rules, instance: u8, work: &Work) -> bool {
        let event = rules.arrival(work.arrival).number;
        let is_other = |(place, _): &(usize, &Option<Work>)| *place != usize::from(instance);
        self.works.iter().enumerate().filter(is_other).filter_map(|(_, other)| other.as_ref()).any(|other| {
            let is_busy = match other.phase {
                Phase::Taken | Phase::Wait | Phase::Pause | Phase::Recall | Phase::Ask { .. } => false,
                Phase::Run => rules.claims(),
                _ => true,
            };
            is_busy && !other.is_cut && rules.arrival(other.arrival).number == event
        })
    }

    /// What is there after an action.
    #[must_use]
    pub fn after(&self, rules: &mut Rules, action: Action) -> State {
        let mut next = self.clone();
        let (faults, operations) = action.cost();
        next.faults -= faults;
        next.operations -= operations;
        match action {
            Action::Deliver(instance, name) => next.deliver(rules, instance, name),
            Action::Fire(index) => next.fire(index.into()),
            Action::FireRestored(index) => next.fire_restored(rules, index.into()),
            Action::Lapse(instance) => next.lapse(instance),
            Action::Reconnect(instance) => next.reconnect(rules, instance),
            Action::Step(instance) => instance::step(&mut next, rules, instance, false),
            Action::End(instance, end) => instance::end(&mut next, rules, instance, end),
            Action::LookAgain(instance, is_patient) => instance::look_again(&mut next, rules, instance, is_patient),
            Action::StepUnanswered(instance) => instance::step(&mut next, rules, instance, true),
            Action::SettleLost(instance) => next.settles_in_vain(rules, instance),
            Action::Crash(instance) => next.dies(rules, instance),
            Action::CutOff(instance) => next.work_mut(instance).is_cut = true,
            Action::Stop(instance) => instance::stop(&mut next, rules, instance),
            Action::Slow(instance) => next.work_mut(instance).is_sure = false,
            Action::ServerDies(forgotten) => next.server_dies(rules, forgotten),
            Action::Expire(event) => next.expire(rules, event),
            Action::Discard(index) => {
                let letter = &mut next.server.letters[usize::from(index)];
                letter.stored = false;
                // A message of it that is delivered once more is run: nothing tells it from one that was sent again.
                let past = &mut next.past[usize::from(letter.event)];
                past.excused = true;
                past.runs_left += i8::try_from(rules.setup.runs_of_message()).expect("few");
            }
            Action::PurgeInput => next.purge_input(rules),
            Action::DropRetries => next.drop_retries(rules),
            Action::SendAgain => next.send_again(rules),
        }
        next.resends |= operations > 0 && rules.setup.dedup != Dedup::Off;
        next.tidy(rules);
        next
    }

    fn work_mut(&mut self, instance: u8) -> &mut Work {
        self.works[usize::from(instance)].as_mut().expect("a work")
    }

    fn lapse(&mut self, instance: u8) {
        let work = self.work_mut(instance);
        work.is_sure = false;
        let name = work.name;
        self.server.hand_back(name, instance);
    }

    /// A claim is written anew at once, where nobody else has taken it over.
    fn reconnect(&mut self, rules: &Rules, instance: u8) {
        let work = self.work_mut(instance);
        work.is_cut = false;
        let event = rules.arrival(work.arrival).number;
        let renews = rules.claims() && work.has_begun && work.revision == Revision::Current;
        if renews {
            work.is_sure = true;
            let work = self.works[usize::from(instance)].take();
            self.replace_marker(rules, event, self.server.markers[usize::from(event)]);
            self.works[usize::from(instance)] = work;
        }
    }

    fn expire(&mut self, rules: &Rules, event: u8) {
        self.replace_marker(rules, event, None);
        let past = &mut self.past[usize::from(event)];
        past.forgotten = true;
        past.runs_left += i8::try_from(rules.setup.runs_of_message()).expect("few");
    }

    fn purge_input(&mut self, rules: &Rules) {
        for (sequence, input) in self.server.inputs.iter_mut().enumerate() {
            *input = Input { stored: false, delivery: Delivery::Settled, delivered: 0 };
            self.past[usize::from(rules.event_of_input(small(sequence)))].excused = true;
        }
    }

    fn drop_retries(&mut self, rules: &Rules) {
        let held = self.server.schedules.iter().map(|(_, retry)| *retry);
        let dropped: Vec<_> = held.chain(self.server.due.iter().map(|due| due.retry)).collect();
        self.server.schedules.clear();
        self.server.due.clear();
        self.server.restored.clear();
        for retry in dropped {
            let past = &mut self.past[usize::from(rules.event_of_retry(retry))];
            past.excused = true;
            past.runs_left += i8::try_from(rules.setup.runs_of_message()).expect("few");
        }
    }

    fn send_again(&mut self, rules: &Rules) {
        self.resends = false;
        self.server.inputs.push(Input { stored: true, delivery: Delivery::Waiting, delivered: 0 });
        let past = &mut self.past[0];
        past.sent += 1;
        past.excused = false;
        past.runs_left += i8::try_from(rules.setup.runs_of_message()).expect("few");
    }

    /// Checks what must hold at rest, and leaves out what makes no difference any more.
    fn tidy(&mut self, rules: &Rules) {
        if self.faults == 0 {
            self.server.fired.clear();
        }
        if self.is_at_rest() {
            for event in 0..self.past.len() {
                let is_kept = self.past[event].sent == 0 || self.past[event].excused || self.has_ended(small(event));
                self.break_unless(is_kept, "an event is lost: at rest it has neither all outputs nor a dead letter");
            }
        }
        debug_assert!(self.works.len() == INSTANCES && rules.setup.faults >= self.faults);
    }

    fn has_ended(&self, event: u8) -> bool {
        let outputs = self.server.outputs.iter().filter(|(_, of, _)| *of == event).count();
        outputs >= OUTPUTS || self.server.letters.iter().any(|l| l.event == event && l.stored)
    }

    /// The same with the instances exchanged.
    #[must_use]
    pub fn mirrored(&self, rules: &mut Rules) -> State {
        let mut mirrored = self.clone();
        mirrored.works.swap(0, 1);
        let turn = |delivery: &mut Delivery| {
            if let Delivery::Pending(instance) = delivery {
                *instance = 1 - *instance;
            }
        };
        mirrored.server.inputs.iter_mut().for_each(|input| turn(&mut input.delivery));
        mirrored.server.due.iter_mut().for_each(|due| turn(&mut due.delivery));
        for marker in mirrored.server.markers.iter_mut().flatten() {
            *marker = rules.mirrored(*marker);
        }
        for work in mirrored.works.iter_mut().flatten() {
            if let Phase::Write(marker, _) | Phase::Reread(marker, _) = &mut work.phase {
                *marker = rules.mirrored(*marker);
            }
        }
        mirrored
    }
}

/// An action in a state, as a line of a trace.
pub fn describe(rules: &Rules, state: &State, action: Action, is_mirrored: bool) -> String {
    let shown = if is_mirrored { action.mirrored() } else { action };
    let doing = |instance: u8| {
        state.works[usize::from(instance)]
            .as_ref()
            .map(|work| Doing { rules, work, is_mirrored }.to_string())
            .unwrap_or_default()
    };
    match (shown, action) {
        (Action::Step(shown), Action::Step(instance)) => format!("{}: {}", label(shown), doing(instance)),
        (Action::StepUnanswered(shown), Action::StepUnanswered(instance)) => {
            format!("{}: {}; the answer is lost", label(shown), doing(instance))
        }
        (Action::SettleLost(shown), Action::SettleLost(instance)) => {
            format!("{}: {}; that does not arrive", label(shown), doing(instance))
        }
        (Action::Deliver(shown, name), _) => format!("the server delivers {name:?} to {}", label(shown)),
        (Action::End(shown, end), _) => format!("{}: the handler ends in {end:?}", label(shown)),
        (Action::LookAgain(shown, is_patient), _) => {
            format!("{}: looks again{}", label(shown), if is_patient { ", its patience is over" } else { "" })
        }
        (Action::Crash(shown), Action::Crash(instance)) => {
            format!("{} dies, about to: {}", label(shown), doing(instance))
        }
        (Action::CutOff(shown), _) => format!("{} is cut off", label(shown)),
        (Action::Reconnect(shown), _) => format!("{} reaches the server again", label(shown)),
        (Action::Lapse(shown), _) => format!("the server takes the message back from {}", label(shown)),
        (Action::Stop(shown), _) => format!("{} is stopped", label(shown)),
        (Action::Slow(shown), _) => format!("{} takes long", label(shown)),
        (other, _) => format!("{other:?}"),
    }
}

fn label(instance: u8) -> &'static str {
    if instance == 0 { "A" } else { "B" }
}

struct Doing<'a> {
    rules: &'a Rules,
    work: &'a Work,
    is_mirrored: bool,
}

impl fmt::Display for Doing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.work.name;
        match self.work.phase {
            Phase::Taken if self.work.look == Look::First => write!(f, "begins with {name:?}"),
            Phase::Taken | Phase::Pause => write!(f, "goes on with {name:?}"),
            Phase::Recall => write!(f, "recalls"),
            Phase::Ask { carriers, .. } => write!(f, "asks for {:?}", self.rules.carriers(carriers)),
            Phase::Write(marker, then) => {
                write!(f, "writes {}, then {then:?}", self.rules.show_marker(marker, self.is_mirrored))
            }
            Phase::Reread(marker, _) => {
                write!(f, "rereads after a conflict over {}", self.rules.show_marker(marker, self.is_mirrored))
            }
            Phase::Check => write!(f, "looks before it publishes"),
            Phase::Publish(index) => write!(f, "publishes output {index}"),
            Phase::Follow(failure) => write!(f, "publishes for {}", self.rules.show_failure(failure)),
            Phase::TakeBack(_) => write!(f, "takes back that it has begun"),
            Phase::Settle(settlement) => write!(f, "settles {name:?} with {settlement:?}"),
            Phase::Wait => write!(f, "waits for somebody else"),
            Phase::Run => write!(f, "runs the handler"),
        }
    }
}
