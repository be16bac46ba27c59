//! What is killed and when, as a plan that follows from the seed.

use crate::chance::Chance;

/// How many waves the events come in at least.
pub(crate) const WAVES_MIN: u64 = 12;

/// What is done to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    /// One instance is killed.
    Instance(usize),
    /// All instances are killed at once.
    AllInstances,
    /// The server is restarted: by SIGKILL where `crash`, else by SIGTERM.
    Server {
        /// Whether it gets no chance to write its state.
        crash: bool,
    },
}

/// When something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// After which share of the wave's results, in percent.
    pub(crate) percent: u64,
    /// How many milliseconds later.
    pub(crate) delay_ms: u64,
    /// What.
    pub(crate) blow: Blow,
}

/// What is done in a wave, in order: two kills of an instance (one of them of all instances in every fourth wave
/// or so), and a restart of the server in every second wave.
pub(crate) fn wave(seed: u64, wave: u64, instances: usize) -> Vec<Moment> {
    let mut chance = Chance::new(seed, 2, wave);
    let count = u32::try_from(instances).unwrap_or(u32::MAX);
    let mut blows: Vec<_> = (0..2).map(|_| Blow::Instance(chance.below(count) as usize)).collect();
    if chance.percent(25) {
        blows[0] = Blow::AllInstances;
    }
    if wave % 2 == 1 {
        blows.push(Blow::Server { crash: wave % 4 == 3 });
    }
    let mut moment =
        |blow| Moment { percent: u64::from(5 + chance.below(70)), delay_ms: u64::from(chance.below(40)), blow };
    let mut moments: Vec<_> = blows.into_iter().map(&mut moment).collect();
    moments.sort_by_key(|moment| moment.percent);
    moments
}

#[cfg(test)]
mod tests {
    use super::{Blow, WAVES_MIN, wave};

    #[test]
    fn the_shortest_run_has_enough_kills_and_both_kinds_of_restarts_whatever_the_seed() {
        for seed in 0..100 {
            let blows: Vec<_> =
                (0..WAVES_MIN).flat_map(|number| wave(seed, number, 2)).map(|moment| moment.blow).collect();
            let count = |wanted: fn(&Blow) -> bool| blows.iter().filter(|&blow| wanted(blow)).count();
            assert!(count(|blow| !matches!(blow, Blow::Server { .. })) >= 20);
            assert!(count(|blow| *blow == Blow::Server { crash: true }) >= 3);
            assert!(count(|blow| *blow == Blow::Server { crash: false }) >= 3);
        }
    }

    #[test]
    fn the_plan_follows_from_the_seed() {
        assert_eq!(wave(3, 5, 2), wave(3, 5, 2));
        assert_ne!(
            (0..9).map(|n| wave(3, n, 2)).collect::<Vec<_>>(),
            (0..9).map(|n| wave(4, n, 2)).collect::<Vec<_>>()
        );
    }
}
