//! Lower priorities for threads, where threads have one of their own. Taking one is always allowed; giving it up is not.
//! And the time for which a thread had a processor.

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
