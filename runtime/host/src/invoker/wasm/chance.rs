//! The time of day and the random numbers that one invocation sees, both repeatable.
//!
//! Everything follows from a seed and a time: the time stands still, and the numbers are ChaCha12
//! streams of the seed. No system clock and no system randomness are read here, so that a replay with
//! the same two values sees the same.

use chacha20::ChaCha12Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use wasmtime::bail;
use wasmtime_wasi::p2::bindings::clocks::wall_clock::{self, Datetime};
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};

use crate::invoker::Seed;

/// The most random bytes that one call gives, since the host has to hold them.
const BYTES_MAX: u64 = 1 << 20;

/// Each interface draws from a stream of its own, so that none depends on how much another was used.
const RANDOM: u64 = 0;
const INSECURE: u64 = 1;
const INSECURE_SEED: u64 = 2;

/// The source of an invocation's time and random numbers.
pub(super) struct Chance {
    pub(super) seed: Seed,
    pub(super) clock_ms: u64,
    random: Option<ChaCha12Rng>,
    insecure: Option<ChaCha12Rng>,
}

impl Chance {
    pub(super) fn new(seed: Seed, clock_ms: u64) -> Chance {
        Chance { seed, clock_ms, random: None, insecure: None }
    }

    fn random(&mut self) -> &mut ChaCha12Rng {
        let seed = self.seed;
        self.random.get_or_insert_with(|| stream(seed, RANDOM))
    }

    fn insecure(&mut self) -> &mut ChaCha12Rng {
        let seed = self.seed;
        self.insecure.get_or_insert_with(|| stream(seed, INSECURE))
    }
}

fn stream(seed: Seed, number: u64) -> ChaCha12Rng {
    let mut rng = ChaCha12Rng::from_seed(seed);
    rng.set_stream(number);
    rng
}

fn bytes(rng: &mut ChaCha12Rng, count: u64) -> wasmtime::Result<Vec<u8>> {
    if count > BYTES_MAX {
        bail!("asked for {count} random bytes at once; {BYTES_MAX} are allowed");
    }
    let mut bytes = vec![0; usize::try_from(count)?];
    rng.fill_bytes(&mut bytes);
    Ok(bytes)
}

impl random::Host for Chance {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        bytes(self.random(), len)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.random().next_u64())
    }
}

impl insecure::Host for Chance {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        bytes(self.insecure(), len)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.insecure().next_u64())
    }
}

impl insecure_seed::Host for Chance {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        let mut rng = stream(self.seed, INSECURE_SEED);
        Ok((rng.next_u64(), rng.next_u64()))
    }
}

impl wall_clock::Host for Chance {
    fn now(&mut self) -> wasmtime::Result<Datetime> {
        Ok(Datetime { seconds: self.clock_ms / 1000, nanoseconds: u32::try_from(self.clock_ms % 1000 * 1_000_000)? })
    }

    fn resolution(&mut self) -> wasmtime::Result<Datetime> {
        Ok(Datetime { seconds: 0, nanoseconds: 1_000_000 })
    }
}
