//! What we may publish on, as the server tells it. It is asked before several messages are sent for one event: the server
//! says of a message that it is denied only after those before it are stored.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use super::Nats;
use super::preflight::permissions::{self, User};

/// How old the answer may be: permissions change while a connection lasts.
const AGE_MAX: Duration = Duration::from_secs(10);
/// How old it must be before what it denies is asked for again.
const DENIAL_AGE_MAX: Duration = Duration::from_secs(1);
/// How soon a server that did not tell is asked again.
const SILENCE: Duration = Duration::from_mins(1);

/// What the server has told.
#[derive(Debug, Default)]
pub(super) struct Grants {
    known: RwLock<Option<Known>>,
    /// Who asks; others go by what is known meanwhile.
    asking: Mutex<()>,
}

#[derive(Debug, Clone)]
struct Known {
    /// Nothing where the server does not tell.
    user: Option<Arc<User>>,
    since: Instant,
    /// The connection it was told on, and what was denied by then.
    reconnects: u64,
    denials: u64,
}

impl Known {
    fn is_fresh(&self, nats: &Nats, age_max: Duration) -> bool {
        let age_max = if self.user.is_some() { age_max } else { SILENCE };
        self.since.elapsed() < age_max
            && self.reconnects == *nats.link.reconnects.borrow()
            && (self.user.is_none() || self.denials == nats.link.denials_seen())
    }
}

/// Why we may not publish on a subject; nothing where we may, or where the server does not tell.
pub(super) async fn refuses(nats: &Nats, subject: &str) -> Option<String> {
    let denies = |known: &Option<Known>| {
        let user = known.as_ref()?.user.as_ref()?;
        (!user.may_publish(subject)).then(|| user.lacks(subject))
    };
    // Perhaps it was granted since.
    match denies(&known(nats, AGE_MAX).await) {
        Some(_) => denies(&known(nats, DENIAL_AGE_MAX).await),
        None => None,
    }
}

/// What the server has told, asked again where that is too old.
async fn known(nats: &Nats, age_max: Duration) -> Option<Known> {
    let known = nats.grants.read();
    if !nats.link.is_up() || known.as_ref().is_some_and(|known| known.is_fresh(nats, age_max)) {
        return known;
    }
    let _asking = nats.grants.asking.lock().await;
    // Perhaps somebody else has asked while we waited for that.
    let known = nats.grants.read();
    if known.as_ref().is_some_and(|known| known.is_fresh(nats, age_max)) {
        return known;
    }
    let (reconnects, denials) = (*nats.link.reconnects.borrow(), nats.link.denials_seen());
    let user = Box::pin(permissions::told(nats)).await.map(Arc::new);
    let told = Some(Known { user, since: Instant::now(), reconnects, denials });
    nats.grants.known.write().unwrap_or_else(PoisonError::into_inner).clone_from(&told);
    told
}

impl Grants {
    fn read(&self) -> Option<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
