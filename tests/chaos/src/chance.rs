//! Numbers that look random and follow from a seed alone.

/// A stream of numbers that follows from its seed (`SplitMix64`).
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    /// The numbers for one purpose: `stream` and `index` tell it from the others of a seed.
    pub(crate) fn new(seed: u64, stream: u64, index: u64) -> Chance {
        let mut chance = Chance(seed);
        for part in [stream, index] {
            chance.0 = chance.next() ^ part;
        }
        chance
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, but not including, `end`.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        let scaled = (self.next() >> 32) * u64::from(end);
        u32::try_from(scaled >> 32).unwrap_or(0)
    }

    /// True in `percent` of all cases.
    pub(crate) fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }
}

#[cfg(test)]
mod tests {
    use super::Chance;

    fn draw(mut chance: Chance) -> Vec<u32> {
        (0..1000).map(|_| chance.below(10)).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_each_purpose_its_own() {
        assert_eq!(draw(Chance::new(1, 2, 3)), draw(Chance::new(1, 2, 3)));
        for other in [Chance::new(2, 2, 3), Chance::new(1, 3, 3), Chance::new(1, 2, 4)] {
            assert_ne!(draw(Chance::new(1, 2, 3)), draw(other));
        }
    }

    #[test]
    fn all_numbers_come_about_as_often() {
        let drawn = draw(Chance::new(7, 0, 0));
        for number in 0..10 {
            let count = drawn.iter().filter(|&&one| one == number).count();
            assert!((50..200).contains(&count), "{number}: {count}");
        }
    }
}
