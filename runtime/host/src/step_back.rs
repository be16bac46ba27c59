//! How a task lets others go first.

use std::future::poll_fn;
use std::task::Poll;

/// Asks to be polled again, and goes on then. Unlike with tokio's `yield_now`, that is as soon as whoever polls it likes: in
/// a task of its own, behind all that can run now on the same thread.
pub(crate) async fn step_back() {
    let mut has_asked = false;
    poll_fn(|context| {
        if has_asked {
            return Poll::Ready(());
        }
        has_asked = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
