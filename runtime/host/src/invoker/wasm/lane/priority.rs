//! Lower priorities for threads, where threads have one of their own. Taking one is always allowed; giving it up is not.
//! And the times for which a thread had a processor, and was kept waiting for one.

use std::fs::File;
use std::io::{Read, Seek};
use std::time::Duration;
#[cfg(not(target_os = "linux"))]
use std::{sync::LazyLock, time::Instant};

#[cfg(target_os = "linux")]
use rustix::time::{ClockId, clock_gettime};
#[cfg(target_os = "linux")]
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// By how much a thread that leaves most to others is nicer: where both want all they can get, the kernel gives it about a
/// third of what it gives to another thread.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// This thread has what nobody else wants, which may be nothing. Others have its processor at once when they wake up.
pub(super) fn leave_all() {
    #[cfg(target_os = "linux")]
    {
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
    }
}

/// This thread gets on beside what is always busy. It keeps its processor for a few milliseconds when others wake up.
pub(super) fn leave_most() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(NICE);
}

/// For how long this thread had a processor since some moment; where that is not told, how long ago the moment was.
#[cfg(target_os = "linux")]
pub(in super::super) fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// For how long this thread had a processor since some moment; where that is not told, how long ago the moment was.
#[cfg(not(target_os = "linux"))]
pub(in super::super) fn processor_time() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// Tells for how long a thread was ready to run and kept waiting for a processor. Where the kernel does not say, it never
/// was.
pub(super) struct Waits {
    /// Three numbers, of which the second is the time in nanoseconds.
    schedstat: Option<File>,
    last: Duration,
}

impl Waits {
    /// Those of the calling thread, from now on.
    pub(super) fn of_this_thread() -> Waits {
        let mut waits = Waits { schedstat: File::open("/proc/thread-self/schedstat").ok(), last: Duration::ZERO };
        waits.since_last();
        waits
    }

    /// For how long it was since this was asked last.
    pub(super) fn since_last(&mut self) -> Duration {
        let all = self.read().unwrap_or(self.last);
        let last = std::mem::replace(&mut self.last, all);
        all.saturating_sub(last)
    }

    fn read(&mut self) -> Option<Duration> {
        let file = self.schedstat.as_mut()?;
        let mut text = [0; 64];
        file.rewind().ok()?;
        let length = file.read(&mut text).ok()?;
        let nanos = str::from_utf8(&text[..length]).ok()?.split_whitespace().nth(1)?;
        nanos.parse().ok().map(Duration::from_nanos)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::hint::spin_loop;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::{available_parallelism, scope};
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_thread_waits_for_a_processor_where_there_are_more_that_want_one() {
        let is_over = AtomicBool::new(false);
        let deadline = Instant::now() + Duration::from_mins(1);
        scope(|scope| {
            for _ in 0..available_parallelism().expect("a number").get() * 2 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        spin_loop();
                    }
                });
            }
            let mut waits = Waits::of_this_thread();
            let mut waited = Duration::ZERO;
            while waited < Duration::from_millis(10) && Instant::now() < deadline {
                waited += waits.since_last();
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(waited >= Duration::from_millis(10), "{waited:?}");
        });
    }
}
