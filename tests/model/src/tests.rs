use crate::explore::explore;
use crate::setup::{Dedup, Mutation, Setup};

fn setup(dedup: Dedup, max_attempts: u32, messages: u8, faults: u8) -> Setup {
    Setup {
        dedup,
        max_attempts,
        in_memory: false,
        retries_too_large: false,
        messages,
        faults,
        operations: 0,
        mutation: None,
    }
}

fn number(name: &str, default: u8) -> u8 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn probe() {
    let dedup = match number("D", 0) { 0 => Dedup::Off, 1 => Dedup::On, _ => Dedup::Claim };
    let mutation = match number("MUT", 0) { 1 => Some(Mutation::ChargeDeliveries), 2 => Some(Mutation::ForgetPlace), 3 => Some(Mutation::TrustMarkers), 4 => Some(Mutation::Impatient), 5=> Some(Mutation::Patient), _ => None };
    let setup = Setup { operations: number("O", 0), mutation, in_memory: number("IM",0)>0, retries_too_large: number("TL",0)>0, ..setup(dedup, number("A", 1).into(), number("M", 1), number("F", 1)) };
    let start = std::time::Instant::now();
    let found = explore(setup);
    println!("{setup:?}\n{} states, {} steps, {} at rest, depth {}, {:?}", found.states, found.steps, found.at_rest, found.depth, start.elapsed());
    if let Some(broken) = found.broken { println!("{broken}"); }
}
