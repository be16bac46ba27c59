//! From an origin to a connection: the name, the addresses that may be connected to, TLS.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, OnceLock};
use std::{io, vec};

use tidemill_policy::reach::address::may_connect;
use tidemill_policy::reach::{Host, Origin, Scheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{IpAddr, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use wasmtime_wasi_http::Error;

/// How many names the process resolves at once: each takes a thread until the system's resolver gives up, whether anybody
/// still waits for it or not.
const LOOKUPS_MAX: usize = 64;

static LOOKUPS: Semaphore = Semaphore::const_new(LOOKUPS_MAX);

/// A connection, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why there is no connection: for the guest, and for the log.
pub(super) type Failed = (Error, String);

/// Connects to an origin, to none but the addresses that may be connected to.
pub(super) async fn connect(origin: &Origin) -> Result<Box<dyn Stream>, Failed> {
    let addresses = resolve(origin).await?;
    let allowed = allowed(origin, &addresses)?;
    let stream = TcpStream::connect(&allowed[..]).await.map_err(|error| refused(&error))?;
    // Without it, small requests would wait for acknowledgements. It is no reason to fail.
    let _ = stream.set_nodelay(true);
    match origin.scheme {
        Scheme::Http => Ok(Box::new(stream)),
        Scheme::Https => secure(origin, stream).await,
    }
}

async fn resolve(origin: &Origin) -> Result<Vec<SocketAddr>, Failed> {
    let name = match &origin.host {
        Host::Address(address) => return Ok(vec![SocketAddr::new(*address, origin.port)]),
        Host::Name(name) => (name.clone(), origin.port),
    };
    let unknown = |why: String| {
        let said = format!("the name {} cannot be resolved: {why}", origin.host);
        (Error::DnsError { rcode: Some("address not available".to_owned()), info_code: None }, said)
    };
    let permit = LOOKUPS.acquire().await.map_err(|error| unknown(error.to_string()))?;
    let looked_up = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        name.to_socket_addrs().map(vec::IntoIter::collect::<Vec<_>>)
    });
    let looked_up = looked_up.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    looked_up.map_err(|error| unknown(error.to_string()))
}

/// Those of the addresses that may be connected to.
fn allowed(origin: &Origin, addresses: &[SocketAddr]) -> Result<Vec<SocketAddr>, Failed> {
    let allowed: Vec<_> = addresses.iter().copied().filter(|address| may_connect(&origin.host, address.ip())).collect();
    match addresses.first() {
        _ if !allowed.is_empty() => Ok(allowed),
        Some(address) => Err(prohibited(origin, *address)),
        None => Err((Error::DestinationNotFound, format!("the name {} has no address", origin.host))),
    }
}

fn prohibited(origin: &Origin, address: SocketAddr) -> Failed {
    let named = Origin { host: Host::Address(address.ip()), ..origin.clone() };
    let said = format!(
        "{} leads to {}, which is not a public address; such an address is reached only where it is granted as itself, \
         by \"{named}\" in allow.http of the handler",
        origin.host,
        address.ip(),
    );
    (Error::DestinationIpProhibited, said)
}

fn refused(error: &io::Error) -> Failed {
    let code = match error.kind() {
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Error::DestinationIpUnroutable,
        _ => Error::ConnectionRefused,
    };
    (code, format!("no connection: {error}"))
}

async fn secure(origin: &Origin, stream: TcpStream) -> Result<Box<dyn Stream>, Failed> {
    let name = match &origin.host {
        Host::Address(address) => ServerName::IpAddress(IpAddr::from(*address)),
        Host::Name(name) => ServerName::try_from(name.clone())
            .map_err(|error| (Error::TlsCertificateError, format!("no certificate can be for {name}: {error}")))?,
    };
    let config = tokio::task::spawn_blocking(tls).await;
    let config =
        config.unwrap_or_else(|error| Err(error.to_string())).map_err(|why| (Error::TlsCertificateError, why))?;
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => {
            let is_certificate = error.to_string().contains("certificate");
            let code = if is_certificate { Error::TlsCertificateError } else { Error::TlsProtocolError };
            Err((code, format!("no TLS: {error}")))
        }
    }
}

/// How TLS is spoken: with the certificate authorities of the system, read once for the process.
fn tls() -> Result<Arc<ClientConfig>, String> {
    static CONFIG: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    CONFIG.get_or_init(read_tls).clone()
}

fn read_tls() -> Result<Arc<ClientConfig>, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        let remedy = "install the package ca-certificates, or name a file in SSL_CERT_FILE";
        return Err(format!("no TLS: the system has no certificate authorities{why}; {remedy}, and restart tidemill"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("no TLS: {error}"))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, resolved: &[&str], expected: &[&str]) -> String {
        let origin = Origin::parse("http", host).expect("an origin");
        let addresses: Vec<_> = resolved.iter().map(|address| address.parse().expect("an address")).collect();
        let found = allowed(&origin, &addresses);
        let shown = found.as_deref().unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown, expected, "{host} {resolved:?}");
        found.err().map(|(_, said)| said).unwrap_or_default()
    }

    #[test]
    fn a_name_that_leads_inside_is_not_connected_to() {
        check("api.example", &["1.1.1.1:80", "[2606:4700::1111]:80"], &["1.1.1.1:80", "[2606:4700::1111]:80"]);
        check("api.example", &["127.0.0.1:80", "1.1.1.1:80", "169.254.169.254:80"], &["1.1.1.1:80"]);
        check("localhost", &["127.0.0.1:80", "[::1]:80", "10.0.0.1:80"], &["127.0.0.1:80", "[::1]:80"]);
        assert_eq!(
            check("api.example:81", &["10.0.0.1:81"], &[]),
            "api.example leads to 10.0.0.1, which is not a public address; such an address is reached only where it is \
             granted as itself, by \"http://10.0.0.1:81\" in allow.http of the handler"
        );
        assert_eq!(check("api.example", &[], &[]), "the name api.example has no address");
    }
}
