//! Connecting: options from the manifest, and what the events of the connection mean to us.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerError};
use thiserror::Error;
use tidemill_policy::manifest::{Auth, SecretRef, Tls};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::secrets::{self, SecretError};
use crate::troubles::{Effect, Troubles};

/// After how long a denial is forgotten: an operator may have granted the permission since.
const DENIAL_AGE_MAX: Duration = Duration::from_secs(5);
/// The most denials that are remembered; they are forgotten early where there are more.
const DENIALS_MAX: usize = 10_000;
/// What is in trouble while there is no connection.
const CONNECTION: &str = "connection";

/// The state of a connection, as its events tell it.
#[derive(Debug)]
pub struct Link {
    up: watch::Sender<bool>,
    /// What is wrong.
    pub troubles: Arc<Troubles>,
    denials: RwLock<HashMap<String, (String, Instant)>>,
    denied: Notify,
    /// How often the server has denied something.
    denials_seen: AtomicU64,
    /// Whether a loss is no news: we are closing the connection ourselves, or another one tells.
    closing: AtomicBool,
    /// Cancelled when the client library has given up for good: its task has ended, and nothing is sent or
    /// received any more.
    pub lost: CancellationToken,
    /// How often the connection was made anew.
    pub reconnects: watch::Sender<u64>,
    /// How another one like it is made.
    pub(super) origin: Origin,
}

/// Where a connection leads, and under which name.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    pub(super) target: Target,
    pub(super) name: String,
}

impl Default for Link {
    fn default() -> Link {
        Link::new(Arc::default())
    }
}

impl Link {
    /// A connection that is yet to be made.
    pub fn new(troubles: Arc<Troubles>) -> Link {
        Link {
            up: watch::Sender::new(false),
            troubles,
            denials: RwLock::default(),
            denied: Notify::new(),
            denials_seen: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            lost: CancellationToken::new(),
            reconnects: watch::Sender::new(0),
            origin: Origin::default(),
        }
    }

    /// Whether the connection is up.
    pub fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Waits until the connection is up.
    pub async fn until_up(&self) {
        // An error would mean that the sender is gone, which we hold ourselves.
        let _ = self.up.subscribe().wait_for(|up| *up).await;
    }

    /// What the server said when it lately denied a subject.
    pub fn denied(&self, subject: &str) -> Option<String> {
        self.denied_since(subject, None)
    }

    /// What the server said when it denied a subject after `since`.
    fn denied_since(&self, subject: &str, since: Option<Instant>) -> Option<String> {
        let denials = self.denials.read().unwrap_or_else(PoisonError::into_inner);
        let (why, when) = denials.get(subject)?;
        let counts = since.map_or(when.elapsed() < DENIAL_AGE_MAX, |since| *when >= since);
        counts.then(|| why.clone())
    }

    /// What the server said when it denied a subject after `since`.
    pub fn denied_after(&self, subject: &str, since: Instant) -> Option<String> {
        self.denied_since(subject, Some(since))
    }

    /// How often the server has denied something: what it told before of what we may do is to be asked again.
    pub fn denials_seen(&self) -> u64 {
        self.denials_seen.load(Ordering::Relaxed)
    }

    /// Waits until the server denies anything, from now on.
    pub async fn denies(&self) {
        self.denied.notified().await;
    }

    /// Waits until the server denies a subject; a denial before `since` does not count.
    pub async fn until_denied(&self, subject: &str, since: Instant) -> String {
        loop {
            let mut next = pin!(self.denied.notified());
            next.as_mut().enable();
            if let Some(why) = self.denied_since(subject, Some(since)) {
                return why;
            }
            next.await;
        }
    }

    /// What the server denied after `since`: why a request was not answered.
    pub fn any_denial_since(&self, since: Instant) -> Option<String> {
        let denials = self.denials.read().unwrap_or_else(PoisonError::into_inner);
        denials.values().filter(|(_, when)| *when >= since).max_by_key(|(_, when)| *when).map(|(why, _)| why.clone())
    }

    /// Says that a loss is no news from now on: the connection is about to be closed by us, or the process has another one
    /// that tells.
    pub fn expect_end(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Notes that the client library has ended: it panics at some of what a server may send.
    pub fn lose(&self) {
        self.up.send_replace(false);
        self.lost.cancel();
    }

    /// Notes that the connection was made, whose loss is told of by another one.
    pub(super) fn rise(&self) {
        // Permissions may have changed with the connection.
        self.denials.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.reconnects.send_modify(|count| *count += 1);
        self.up.send_replace(true);
    }

    /// Notes that it was lost.
    pub(super) fn fall(&self) {
        self.up.send_replace(false);
    }

    fn on_event(&self, event: Event) {
        match event {
            Event::Connected => {
                if !self.up.send_replace(true) {
                    self.reconnects.send_modify(|count| *count += 1);
                    self.troubles.end(CONNECTION);
                }
                // Permissions may have changed with the connection.
                self.denials.write().unwrap_or_else(PoisonError::into_inner).clear();
            }
            Event::Disconnected | Event::Closed => {
                if self.up.send_replace(false) && !self.closing.load(Ordering::Relaxed) {
                    let why = "lost the connection to NATS; events wait there until it is back";
                    self.troubles.begin(CONNECTION, Effect::Intake, why);
                }
            }
            Event::LameDuckMode => tracing::info!("the NATS server is about to shut down"),
            Event::SlowConsumer(_) => {
                tracing::warn!("messages were dropped on their way in; the server delivers them again");
            }
            Event::ServerError(ServerError::Other(text)) => self.on_server_error(&text),
            Event::ServerError(error) => tracing::warn!(%error, "the NATS server reports an error"),
            Event::ClientError(error) => tracing::debug!(%error, "the NATS client reports an error"),
            Event::Draining => {}
        }
    }

    /// The server says that it denies a publication or a subscription beside it, in the form
    /// `Permissions Violation for Publish to "subject"`. Whoever waits for an answer makes a trouble of it.
    pub(super) fn on_server_error(&self, text: &str) {
        let lower = text.to_ascii_lowercase();
        let subject = text.split('"').nth(1).filter(|_| lower.contains("permissions violation for"));
        let Some(subject) = subject else {
            tracing::warn!(error = text, "the NATS server reports an error");
            return;
        };
        tracing::debug!(subject, "the NATS server denies a subject");
        let mut denials = self.denials.write().unwrap_or_else(PoisonError::into_inner);
        denials.retain(|_, (_, when)| when.elapsed() < DENIAL_AGE_MAX);
        if denials.len() >= DENIALS_MAX {
            denials.clear();
        }
        let key = acknowledgements_like(subject).unwrap_or_else(|| subject.to_owned());
        denials.insert(key, (text.to_owned(), Instant::now()));
        drop(denials);
        self.denials_seen.fetch_add(1, Ordering::Relaxed);
        self.denied.notify_waiters();
    }
}

/// The subject of all acknowledgements to one consumer.
pub fn acknowledgements(stream: &str, consumer: &str) -> String {
    format!("$JS.ACK.{stream}.{consumer}.>")
}

/// The same from the subject of a single one, which has five more tokens, or six behind a domain and an
/// account.
fn acknowledgements_like(subject: &str) -> Option<String> {
    let tokens: Vec<_> = subject.strip_prefix("$JS.ACK.")?.split('.').collect();
    match tokens.as_slice() {
        [stream, consumer, _, _, _, _, _] | [_, _, stream, consumer, _, _, _, _, _, ..] => {
            Some(acknowledgements(stream, consumer))
        }
        _ => None,
    }
}

/// Says of the connection that it is lost for good when the client library drops what it tells events to: its task is gone.
struct Ended(Arc<Link>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.lose();
    }
}

/// Where to connect and as whom.
#[derive(Debug, Clone)]
pub struct Target {
    /// Server URLs.
    pub urls: Vec<String>,
    /// How to authenticate.
    pub auth: Auth,
    /// TLS files.
    pub tls: Option<Tls>,
    /// What relative paths are relative to.
    pub base: PathBuf,
}

impl Default for Target {
    /// Nowhere.
    fn default() -> Target {
        Target { urls: Vec::new(), auth: Auth::None, tls: None, base: PathBuf::new() }
    }
}

/// Why a connection cannot even be tried, or failed.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// A secret cannot be read.
    #[error("[nats]: {0}")]
    Secret(#[from] SecretError),
    /// The credentials file is not one.
    #[error("[nats] credentials: {0}")]
    Credentials(std::io::Error),
    /// The server cannot be reached, or refuses us.
    #[error("cannot connect to NATS at {urls}: {source}")]
    Unreachable {
        /// The URLs tried.
        urls: String,
        /// What the client says.
        source: async_nats::ConnectError,
    },
}

/// URLs as they may be shown: a user and a password in them are left out.
pub fn without_credentials(urls: &[String]) -> String {
    let shown = |url: &String| match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_owned(),
        (_, None) => url.clone(),
    };
    urls.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// Connects once.
///
/// # Errors
/// Where a secret cannot be read, or no server can be reached.
pub async fn connect(
    target: &Target,
    name: &str,
    troubles: Arc<Troubles>,
) -> Result<(Client, Arc<Link>), ConnectError> {
    let origin = Origin { target: target.clone(), name: name.to_owned() };
    let link = Arc::new(Link { origin, ..Link::new(troubles) });
    let observer = Ended(Arc::clone(&link));
    let options = authenticate(ConnectOptions::new(), target)?
        .name(name)
        .connection_timeout(Duration::from_secs(5))
        .ping_interval(Duration::from_secs(10))
        .event_callback(move |event| {
            observer.0.on_event(event);
            std::future::ready(())
        });
    let options = encrypt(options, target);
    let client = options
        .connect(target.urls.as_slice())
        .await
        .map_err(|source| ConnectError::Unreachable { urls: without_credentials(&target.urls), source })?;
    link.up.send_replace(true);
    Ok((client, link))
}

/// Connects once more to where a connection leads, for a purpose of its own. Its loss is told of by that one.
///
/// # Errors
/// Where a secret cannot be read, or no server can be reached.
pub async fn connect_beside(link: &Link, purpose: &str) -> Result<(Client, Arc<Link>), ConnectError> {
    let Origin { target, name } = &link.origin;
    let (client, link) = connect(target, &format!("{name} {purpose}"), Arc::default()).await?;
    link.expect_end();
    Ok((client, link))
}

/// Connects, and goes on trying until it works.
///
/// # Errors
/// Only what no waiting can cure: secrets that cannot be read.
pub async fn connect_patiently(
    target: &Target,
    name: &str,
    troubles: &Arc<Troubles>,
) -> Result<(Client, Arc<Link>), ConnectError> {
    let mut delay = Duration::from_millis(100);
    loop {
        match connect(target, name, Arc::clone(troubles)).await {
            Err(error @ ConnectError::Unreachable { .. }) => {
                troubles.begin(CONNECTION, Effect::Intake, &format!("{error}; trying again until it works"));
            }
            Err(error) => return Err(error),
            Ok(connected) => {
                troubles.end(CONNECTION);
                return Ok(connected);
            }
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(2));
    }
}

fn authenticate(options: ConnectOptions, target: &Target) -> Result<ConnectOptions, ConnectError> {
    if let Some((user, password)) = target.urls.iter().find_map(|url| credentials_in(url)) {
        return Ok(match password {
            Some(password) => options.user_and_password(user, password),
            None => options.token(user),
        });
    }
    let read = |secret: &SecretRef| secrets::read(secret, &target.base);
    Ok(match &target.auth {
        Auth::None => options,
        Auth::Credentials(secret) => options.credentials(&read(secret)?).map_err(ConnectError::Credentials)?,
        Auth::Nkey(secret) => options.nkey(read(secret)?),
        Auth::Token(secret) => options.token(read(secret)?),
        Auth::User { user, password } => options.user_and_password(user.clone(), read(password)?),
    })
}

/// The user and password, or the token alone, in a URL such as `nats://user:password@host`. The client
/// library reads neither; what is said so close to the server's name goes before the manifest.
pub(super) fn credentials_in(url: &str) -> Option<(String, Option<String>)> {
    let address: async_nats::ServerAddr = url.parse().ok()?;
    Some((address.username()?.to_owned(), address.password().map(str::to_owned)))
}

fn encrypt(mut options: ConnectOptions, target: &Target) -> ConnectOptions {
    let Some(tls) = &target.tls else { return options };
    let file = |path: &Path| target.base.join(path);
    options = options.require_tls(true);
    if let Some(ca) = &tls.ca {
        options = options.add_root_certificates(file(ca));
    }
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        options = options.add_client_certificate(file(cert), file(key));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::{acknowledgements_like, credentials_in, without_credentials};

    #[test]
    fn credentials_in_a_url_are_read() {
        let both = Some(("u".to_owned(), Some("p".to_owned())));
        assert_eq!(credentials_in("nats://u:p@h:4222"), both);
        assert_eq!(credentials_in("nats://token@h"), Some(("token".to_owned(), None)));
        assert_eq!(credentials_in("nats://h"), None);
    }

    #[test]
    fn denied_acknowledgements_are_told_by_their_consumer() {
        for subject in ["$JS.ACK.S.c.1.2.3.4.5", "$JS.ACK.domain.hash.S.c.1.2.3.4.5", "$JS.ACK._.hash.S.c.1.2.3.4.5.x"]
        {
            assert_eq!(acknowledgements_like(subject).as_deref(), Some("$JS.ACK.S.c.>"), "{subject}");
        }
        assert_eq!(acknowledgements_like("$JS.API.INFO"), None);
    }

    #[test]
    fn urls_are_shown_without_credentials() {
        let rows = [
            ("nats://h:4222", "nats://h:4222"),
            ("nats://u:p@h:4222", "nats://h:4222"),
            ("tls://token@h", "tls://h"),
            ("u:p@ss@h", "h"),
        ];
        for (url, expected) in rows {
            assert_eq!(without_credentials(&[url.to_owned()]), expected);
        }
    }
}
