use proptest::prelude::*;

use super::{Ledger, sure};

#[test]
fn what_all_need_is_theirs_where_it_fits() {
    let rows: [(&[u64], u64, &[u64]); 5] = [
        (&[10, 20, 30], 60, &[10, 20, 30]),
        (&[10, 20, 30], 100, &[10, 20, 30]),
        (&[50, 50, 50], 100, &[16, 16, 16]),
        (&[5, 500, 500], 105, &[5, 24, 24]),
        (&[60, 60], 100, &[40, 40]),
    ];
    for (needs, capacity, expected) in rows {
        assert_eq!(sure(needs, capacity), expected, "{needs:?} of {capacity}");
    }
}

#[test]
fn one_that_eats_memory_takes_nothing_of_what_another_is_sure_of() {
    let mut ledger = Ledger::new(100);
    let (eater, good) = (ledger.open("eater", 1000), ledger.open("good", 1000));
    let mut bytes = 0;
    while ledger.take(eater, 1).is_ok() {
        bytes += 1;
    }
    assert_eq!(bytes, 75, "what it is sure of, and all that is lent");
    ledger.take(good, 25).expect("it is sure of this");
    let shortage = ledger.take(good, 1).expect_err("nothing is left");
    assert_eq!((shortage.capacity, shortage.sure, shortage.used), (100, 25, 25));
    assert_eq!(shortage.most, ("eater".to_owned(), 75));
    ledger.give_back(eater, 1);
    ledger.take(good, 1).expect("it was given back");
}

#[test]
fn idle_memory_helps_where_it_is_lent_or_ones_own() {
    let mut ledger = Ledger::new(100);
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|handler| ledger.open(handler, 1000));
    for (id, bytes) in [(a, 20), (b, 30), (c, 12)] {
        ledger.take(id, bytes).expect("there is room");
    }
    assert_eq!(ledger.lenders(d), [b, a, d], "each is sure of 12, so that nothing of it is lent to c");
}

#[test]
fn an_account_that_is_opened_or_closed_changes_what_the_others_are_sure_of() {
    let mut ledger = Ledger::new(100);
    let old = ledger.open("old", 100);
    ledger.take(old, 100).expect("all of it is its own");
    let new = ledger.open("new", 100);
    ledger.take(new, 1).expect_err("never more than there is");
    ledger.give_back(old, 60);
    ledger.take(new, 50).expect("the old one has made room");
    ledger.give_back(old, 40);
    ledger.close(old);
    ledger.take(new, 50).expect("it is alone");
    assert_eq!(ledger.used(), 100);
}

#[derive(Debug, Clone)]
enum Step {
    Take(usize, u64),
    GiveBack(usize, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (any::<usize>(), 1u64..60).prop_map(|(who, bytes)| Step::Take(who, bytes)),
        2 => (any::<usize>(), 1u64..60).prop_map(|(who, bytes)| Step::GiveBack(who, bytes)),
    ]
}

proptest! {
    #[test]
    fn there_is_never_more_than_the_cap_and_nobody_is_refused_what_it_is_sure_of(
        needs in proptest::collection::vec(1u64..400, 1..6),
        capacity in 1u64..600,
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut ledger = Ledger::new(capacity);
        let ids: Vec<_> = needs.iter().map(|need| ledger.open("handler", *need)).collect();
        let sure = sure(&needs, capacity);
        prop_assert!(sure.iter().sum::<u64>() <= capacity);
        let mut used = vec![0; needs.len()];
        for step in steps {
            match step {
                Step::Take(who, bytes) => {
                    let who = who % needs.len();
                    // Whoever opened the account knows what it needs at most.
                    if used[who] + bytes > needs[who] {
                        continue;
                    }
                    let taken = ledger.take(ids[who], bytes);
                    prop_assert!(taken.is_ok() || used[who] + bytes > sure[who], "refused what it is sure of");
                    let kept: u64 = used.iter().zip(&sure).map(|(used, sure)| *used.max(sure)).sum();
                    let more = (used[who] + bytes).saturating_sub(used[who].max(sure[who]));
                    prop_assert_eq!(taken.is_ok(), kept + more <= capacity, "nothing is refused that could be lent");
                    if taken.is_ok() {
                        used[who] += bytes;
                    }
                }
                Step::GiveBack(who, bytes) => {
                    let who = who % needs.len();
                    let bytes = bytes.min(used[who]);
                    ledger.give_back(ids[who], bytes);
                    used[who] -= bytes;
                }
            }
            prop_assert_eq!(ledger.used(), used.iter().sum::<u64>());
            prop_assert!(ledger.used() <= capacity);
        }
        if needs.iter().sum::<u64>() <= capacity {
            prop_assert_eq!(sure, needs, "where all needs fit, nobody is ever refused");
        }
    }

    #[test]
    fn the_cap_holds_while_accounts_come_and_go(
        capacity in 1u64..600,
        steps in proptest::collection::vec((0u8..4, any::<usize>(), 1u64..300), 1..200),
    ) {
        let mut ledger = Ledger::new(capacity);
        let mut open = Vec::new();
        for (step, who, bytes) in steps {
            if step == 0 || open.is_empty() {
                open.push((ledger.open("handler", bytes), 0));
                continue;
            }
            let who = who % open.len();
            let (id, used) = open[who];
            match step {
                1 => {
                    ledger.give_back(id, used);
                    ledger.close(id);
                    open.swap_remove(who);
                }
                _ if ledger.take(id, bytes).is_ok() => open[who].1 += bytes,
                _ => {}
            }
            prop_assert!(ledger.used() <= capacity);
            prop_assert_eq!(ledger.used(), open.iter().map(|(_, used)| used).sum::<u64>());
        }
    }
}
