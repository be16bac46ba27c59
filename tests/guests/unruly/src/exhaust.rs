//! Commands that use up what the host gives, or return what it must refuse.

use std::hint::black_box;
use std::sync::Mutex;

use tidemill_sdk::{Output, log};

/// What `grow` has taken and never gives back.
static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Keeps its own frame, so that a backtrace names it.
#[inline(never)]
pub(crate) fn forever() -> ! {
    loop {
        black_box(());
    }
}

pub(crate) fn without_bound() -> ! {
    let mut taken = Vec::new();
    loop {
        taken.push(black_box(vec![1_u8; 1024 * 1024]));
    }
}

pub(crate) fn grow(bytes: usize) -> Vec<Output> {
    let mut kept = KEPT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    kept.push(black_box(vec![1; bytes]));
    Vec::new()
}

/// Calls itself until the stack is full; the black boxes keep it from becoming a loop.
#[inline(never)]
pub(crate) fn recurse(depth: u64) -> u64 {
    if black_box(depth) == u64::MAX {
        return depth;
    }
    black_box(recurse(depth + 1)) + 1
}

/// Is on the stack of the trap, so that a backtrace has two names to show.
#[inline(never)]
pub(crate) fn outer_of_the_trap() -> ! {
    bottom_of_the_trap(black_box(1))
}

#[inline(never)]
fn bottom_of_the_trap(depth: u32) -> ! {
    black_box(depth);
    trap()
}

#[cfg(target_arch = "wasm32")]
fn trap() -> ! {
    core::arch::wasm32::unreachable()
}

#[cfg(not(target_arch = "wasm32"))]
fn trap() -> ! {
    std::process::abort()
}

#[cfg(target_arch = "wasm32")]
pub(crate) fn sleep(ms: usize) -> Vec<Output> {
    use tidemill_sdk::bindings::wasi::clocks::monotonic_clock;

    monotonic_clock::subscribe_duration(ms as u64 * 1_000_000).block();
    Vec::new()
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn sleep(ms: usize) -> Vec<Output> {
    std::thread::sleep(std::time::Duration::from_millis(ms as u64));
    Vec::new()
}

pub(crate) fn outputs(count: usize) -> Vec<Output> {
    (0..count).map(|index| Output::new("out.many", index.to_string())).collect()
}

pub(crate) fn huge_output(bytes: usize) -> Vec<Output> {
    vec![Output::new("out.huge", vec![b'x'; bytes])]
}

pub(crate) fn flood_log(lines: usize) -> Vec<Output> {
    for number in 0..lines {
        log::info!("{number:0100}");
    }
    Vec::new()
}

/// Headers that would deduplicate, erase, split or forge messages if the host let them pass, and a good one.
pub(crate) fn forbidden_headers() -> Output {
    Output::new("out.headers", "hello")
        .header("Nats-Msg-Id", "always-the-same")
        .header("nats-rollup", "all")
        .header("Nats-Expected-Last-Sequence", "1")
        .header("Tidemill-Attempt", "1")
        .header("Tidemill-Origin-Seq", "1")
        .header("Split", "a\r\nNats-Rollup: all")
        .header("Spl\r\nit", "a")
        .header("", "no name")
        .header("Good", "kept")
}
