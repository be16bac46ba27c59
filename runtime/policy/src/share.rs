//! How handlers share a process: who of those that compute for long gets the next turn, and who may take how
//! much memory.

pub mod memory;
pub mod turns;

/// Divides `capacity` so that nobody gets more than it needs, and whoever gets less than that gets no less than
/// anybody else: small needs are met in full, the others are cut to one level. What does not divide evenly is left.
pub fn level(needs: &[u64], capacity: u64) -> Vec<u64> {
    let mut rising: Vec<u64> = needs.to_vec();
    rising.sort_unstable();
    let mut left = capacity;
    let mut sharers = rising.len() as u64;
    for need in rising {
        let level = left / sharers;
        if need > level {
            return needs.iter().map(|need| (*need).min(level)).collect();
        }
        left -= need;
        sharers -= 1;
    }
    needs.to_vec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::level;

    #[test]
    fn small_needs_are_met_and_large_ones_cut_to_one_level() {
        let rows: [(&[u64], u64, &[u64]); 6] = [
            (&[], 10, &[]),
            (&[3, 4], 10, &[3, 4]),
            (&[1, 100, 100], 21, &[1, 10, 10]),
            (&[100, 1, 5, 100], 20, &[7, 1, 5, 7]),
            (&[5, 5, 5], 2, &[0, 0, 0]),
            (&[7], 0, &[0]),
        ];
        for (needs, capacity, expected) in rows {
            assert_eq!(level(needs, capacity), expected, "{needs:?} of {capacity}");
        }
    }

    proptest! {
        #[test]
        fn shares_fit_and_are_even(needs in proptest::collection::vec(0u64..1_000, 0..12), capacity in 0u64..4_000) {
            let shares = level(&needs, capacity);
            let total: u64 = shares.iter().sum();
            prop_assert!(total <= capacity);
            let most = shares.iter().copied().max().unwrap_or(0);
            for (share, need) in shares.iter().zip(&needs) {
                prop_assert!(share <= need);
                prop_assert!(share == need || *share == most, "{share} of {need}, while another has {most}");
            }
            let all_met = shares == needs;
            prop_assert!(all_met || total + needs.len() as u64 > capacity, "{total} of {capacity}");
        }
    }
}
