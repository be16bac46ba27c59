//! Making the connection: which server, TLS, and as whom. It does the same as the client library, from the same settings;
//! secrets and certificates are read anew each time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{ConnectInfo, Protocol, ServerAddr, ServerInfo};
use bytes::BytesMut;
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use rand::seq::SliceRandom;
use thiserror::Error;
use tidemill_policy::manifest::{Auth, SecretRef, Tls};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::frame::{self, Frame};
use crate::broker::nats::connect::{Origin, Target, credentials_in};
use crate::secrets::{self, SecretError};

/// How long one server may take until it has taken us in.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most servers that are remembered from what they tell of each other.
const POOL_MAX: usize = 256;

/// A connection, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that the server has taken up.
pub(super) struct Connected {
    pub(super) stream: Box<dyn Stream>,
    pub(super) info: ServerInfo,
    /// What it has sent already.
    pub(super) buffer: BytesMut,
}

/// The servers that may be connected to: those of the settings, and those that they tell of.
pub(super) struct Pool(Vec<ServerAddr>);

/// Why a connection was not made.
#[derive(Debug, Error)]
pub(super) enum DialError {
    #[error("no server is named")]
    NoServer,
    #[error("{0}: it does not answer")]
    Silent(String),
    #[error("{0}: {1}")]
    Failed(String, Failure),
}

/// What went wrong with one server.
#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("the credentials are no JWT and seed, or the seed is none")]
    Credentials,
    #[error("TLS: {0}")]
    Tls(String),
    #[error("the server refuses the connection: {0}")]
    Refused(String),
    #[error("it is no NATS server: {0}")]
    Odd(String),
}

impl Pool {
    pub(super) fn new(target: &Target) -> Pool {
        Pool(target.urls.iter().filter_map(|url| url.parse().ok()).collect())
    }

    fn learn(&mut self, info: &ServerInfo) {
        for address in info.connect_urls.iter().filter_map(|url| url.parse().ok()) {
            if self.0.len() < POOL_MAX && !self.0.contains(&address) {
                self.0.push(address);
            }
        }
    }
}

/// Connects to one of the servers, in no particular order.
pub(super) async fn dial(origin: &Origin, pool: &mut Pool) -> Result<Connected, DialError> {
    let mut servers = pool.0.clone();
    servers.shuffle(&mut rand::rng());
    let mut last = DialError::NoServer;
    for address in servers {
        let name = || format!("{}:{}", address.host(), address.port());
        match timeout(PATIENCE, connect(origin, &address)).await {
            Ok(Ok(connected)) => {
                pool.learn(&connected.info);
                return Ok(connected);
            }
            Ok(Err(failure)) => last = DialError::Failed(name(), failure),
            Err(_) => last = DialError::Silent(name()),
        }
    }
    Err(last)
}

async fn connect(origin: &Origin, address: &ServerAddr) -> Result<Connected, Failure> {
    let Origin { target, name } = origin;
    let tcp = TcpStream::connect((address.host(), address.port())).await?;
    // Without it, small requests would wait for acknowledgements. It is no reason to fail.
    let _ = tcp.set_nodelay(true);
    let mut stream: Box<dyn Stream> = Box::new(tcp);
    let mut buffer = BytesMut::with_capacity(8 * 1024);
    let info: ServerInfo = match read(&mut stream, &mut buffer).await? {
        Frame::Info(json) => serde_json::from_slice(&json).map_err(|error| Failure::Odd(error.to_string()))?,
        Frame::Refusal(why) => return Err(Failure::Refused(why)),
        frame => return Err(Failure::Odd(format!("{frame:?}"))),
    };
    let asks_tls = target.tls.is_some() || address.tls_required();
    if asks_tls || info.tls_required {
        stream = secure(target, address, stream).await?;
    }
    let mut hello = ConnectInfo {
        verbose: false,
        pedantic: false,
        user_jwt: None,
        nkey: None,
        signature: None,
        name: Some(format!("{name} events")),
        echo: true,
        lang: "rust".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: Protocol::Dynamic,
        tls_required: asks_tls,
        user: None,
        pass: None,
        auth_token: None,
        headers: true,
        no_responders: true,
    };
    authenticate(&mut hello, target, &info.nonce)?;
    let hello = serde_json::to_string(&hello).map_err(io::Error::other)?;
    stream.write_all(format!("CONNECT {hello}\r\nPING\r\n").as_bytes()).await?;
    stream.flush().await?;
    loop {
        match read(&mut stream, &mut buffer).await? {
            Frame::Pong => return Ok(Connected { stream, info, buffer }),
            Frame::Refusal(why) => return Err(Failure::Refused(why)),
            Frame::Ping => stream.write_all(b"PONG\r\n").await?,
            Frame::Info(_) | Frame::Fine => {}
            frame @ Frame::Message(..) => return Err(Failure::Odd(format!("{frame:?}"))),
        }
    }
}

async fn read(stream: &mut Box<dyn Stream>, buffer: &mut BytesMut) -> Result<Frame, Failure> {
    loop {
        if let Some(frame) = frame::next(buffer).map_err(|error| Failure::Odd(error.to_string()))? {
            return Ok(frame);
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// Says who we are, as [`crate::broker::nats::connect`] has the client say it.
fn authenticate(hello: &mut ConnectInfo, target: &Target, nonce: &str) -> Result<(), Failure> {
    if let Some((user, password)) = target.urls.iter().find_map(|url| credentials_in(url)) {
        match password {
            Some(password) => (hello.user, hello.pass) = (Some(user), Some(password)),
            None => hello.auth_token = Some(user),
        }
        return Ok(());
    }
    let read = |secret: &SecretRef| secrets::read(secret, &target.base);
    match &target.auth {
        Auth::None => {}
        Auth::Token(secret) => hello.auth_token = Some(read(secret)?),
        Auth::User { user, password } => (hello.user, hello.pass) = (Some(user.clone()), Some(read(password)?)),
        Auth::Nkey(secret) => {
            let (key, signature) = sign(&read(secret)?, nonce)?;
            (hello.nkey, hello.signature) = (Some(key), Some(signature));
        }
        Auth::Credentials(secret) => {
            let text = read(secret)?;
            let (jwt, seed) = parts_of(&text).ok_or(Failure::Credentials)?;
            (hello.user_jwt, hello.signature) = (Some(jwt.to_owned()), Some(sign(seed, nonce)?.1));
        }
    }
    Ok(())
}

/// The public key of a seed, and the signature of what the server has us sign.
fn sign(seed: &str, nonce: &str) -> Result<(String, String), Failure> {
    let keys = KeyPair::from_seed(seed).map_err(|_| Failure::Credentials)?;
    let signature = keys.sign(nonce.as_bytes()).map_err(|_| Failure::Credentials)?;
    Ok((keys.public_key(), BASE64URL_NOPAD.encode(&signature)))
}

/// The JWT and the seed in a credentials file: each is the line behind one that begins with dashes and says `BEGIN`.
fn parts_of(text: &str) -> Option<(&str, &str)> {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let is_begin = |line: &str| line.starts_with("---") && line.contains("BEGIN");
    let mut parts = lines.windows(2).filter(|pair| is_begin(pair[0])).map(|pair| pair[1]);
    Some((parts.next()?, parts.next()?))
}

async fn secure(target: &Target, address: &ServerAddr, stream: Box<dyn Stream>) -> Result<Box<dyn Stream>, Failure> {
    let name = ServerName::try_from(address.host().to_owned()).map_err(|error| Failure::Tls(error.to_string()))?;
    let (files, base) = (target.tls.clone().unwrap_or_default(), target.base.clone());
    let config = tokio::task::spawn_blocking(move || tls(&files, &base)).await.map_err(io::Error::other)?;
    let config = config.map_err(Failure::Tls)?;
    let secured = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    Ok(Box::new(secured.map_err(|error| Failure::Tls(error.to_string()))?))
}

/// How TLS is spoken: with the certificate authority of the settings, else those of the system.
fn tls(files: &Tls, base: &std::path::Path) -> Result<ClientConfig, String> {
    let certificates = |path: &std::path::Path| {
        let path = base.join(path);
        let said = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let all = CertificateDer::pem_file_iter(&path).map_err(|error| said(&error))?;
        all.collect::<Result<Vec<_>, _>>().map_err(|error| said(&error))
    };
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(ca) => {
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(|error| error.to_string())?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let (Some(cert), Some(key)) = (&files.cert, &files.key) else { return Ok(builder.with_no_client_auth()) };
    let key = PrivateKeyDer::from_pem_file(base.join(key)).map_err(|error| format!("{}: {error}", key.display()))?;
    builder.with_client_auth_cert(certificates(cert)?, key).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_wherever_the_file_ends() {
        let file = "-----BEGIN NATS USER JWT-----\neyJ0.a-b_c\n------END NATS USER JWT------\n\n\
            ****** IMPORTANT ******\nkeep it secret\n\n-----BEGIN USER NKEY SEED-----\r\nSUAX\r\n------END USER NKEY SEED------";
        assert_eq!(parts_of(file), Some(("eyJ0.a-b_c", "SUAX")));
        assert_eq!(parts_of(&format!("{file}\n\n")), Some(("eyJ0.a-b_c", "SUAX")));
        assert_eq!(parts_of("-----BEGIN NATS USER JWT-----\neyJ0\n"), None);
        assert_eq!(parts_of(""), None);
    }
}
