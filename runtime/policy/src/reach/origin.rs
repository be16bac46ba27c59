//! Origins: scheme, host and port (RFC 6454), in one form each.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// The longest name of a host, in bytes (RFC 1035).
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// How an origin is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// By TLS.
    Https,
}

/// The host of an origin. Two hosts are the same if they are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A name, in lower case.
    Name(String),
    /// An address that is written out.
    Address(IpAddr),
}

/// Where requests go: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// The host.
    pub host: Host,
    /// The port; that of the scheme where none is named.
    pub port: u16,
}

/// Why a text is no origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OriginError {
    /// The scheme is another one.
    #[error("only http:// and https:// are spoken")]
    Scheme,
    /// A user or password stands before the host.
    #[error("a user or password must not stand before the host")]
    UserInfo,
    /// There is no host, or one in another form.
    #[error(
        "the host must be a name of letters, digits, \"-\" and \"_\" (an international one in its \"xn--\" form), an IPv4 \
         address of four decimal numbers, or an IPv6 address in brackets"
    )]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("the port must be a number from 1 to 65535")]
    Port,
}

impl Scheme {
    /// Reads a scheme, in any case.
    pub fn parse(text: &str) -> Option<Scheme> {
        [Scheme::Http, Scheme::Https].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme.name()))
    }

    /// The scheme's name.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// The port where none is named.
    pub fn usual_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

impl Host {
    /// Reads a host. Everything that some software takes for an address and other for a name (`127.1`, `0x7f.1`,
    /// `2130706433`) is refused, as are empty labels and a dot at the end.
    pub fn parse(text: &str) -> Option<Host> {
        if let Some(address) = text.strip_prefix('[') {
            let address: Ipv6Addr = address.strip_suffix(']')?.parse().ok()?;
            return Some(Host::Address(address.into()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Some(Host::Address(address.into()));
        }
        let is_name = text.len() <= NAME_BYTES_MAX && text.split('.').all(is_label);
        let last = text.rsplit('.').next().unwrap_or_default();
        (is_name && !last.starts_with(|c: char| c.is_ascii_digit())).then(|| Host::Name(text.to_ascii_lowercase()))
    }
}

fn is_label(label: &str) -> bool {
    let is_plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    (1..=LABEL_BYTES_MAX).contains(&label.len()) && is_plain && !label.starts_with('-') && !label.ends_with('-')
}

impl Origin {
    /// Reads an origin from its scheme and its authority, `host[:port]`.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(scheme: &str, authority: &str) -> Result<Origin, OriginError> {
        let scheme = Scheme::parse(scheme).ok_or(OriginError::Scheme)?;
        if authority.contains('@') {
            return Err(OriginError::UserInfo);
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let host = Host::parse(host).ok_or(OriginError::Host)?;
        let port = match port {
            Some(port) => parse_port(port).ok_or(OriginError::Port)?,
            None => scheme.usual_port(),
        };
        Ok(Origin { scheme, host, port })
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let is_number = text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port > 0)
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.host)?;
        if self.port == self.scheme.usual_port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_origin_has_one_form() {
        for (scheme, authority, expected) in [
            ("https", "api.example", "https://api.example"),
            ("HTTPS", "API.Example:443", "https://api.example"),
            ("http", "api.example:80", "http://api.example"),
            ("http", "api.example:443", "http://api.example:443"),
            ("http", "localhost:8080", "http://localhost:8080"),
            ("http", "10.0.0.1", "http://10.0.0.1"),
            ("http", "[::1]:80", "http://[::1]"),
            ("http", "[0:0:0:0:0:0:0:1]", "http://[::1]"),
            ("https", "xn--bcher-kva.example", "https://xn--bcher-kva.example"),
            ("https", "3com.example", "https://3com.example"),
            ("https", "a_b.example", "https://a_b.example"),
        ] {
            assert_eq!(Origin::parse(scheme, authority).map(|origin| origin.to_string()).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_is_not_plain_is_no_origin() {
        use OriginError::{Host, Port, Scheme, UserInfo};
        for (authority, expected) in [
            ("", Host),
            (":80", Host),
            ("user@api.example", UserInfo),
            ("user:pw@api.example", UserInfo),
            ("api.example@evil.example", UserInfo),
            ("api.example:", Port),
            ("api.example:0", Port),
            ("api.example:+80", Port),
            ("api.example:65536", Port),
            ("api.example:080080", Port),
            ("api.example.", Host),
            ("api..example", Host),
            (".example", Host),
            ("-api.example", Host),
            ("b\u{fc}cher.example", Host),
            ("api.example\u{3002}evil", Host),
            ("api%2eexample", Host),
            ("api example", Host),
            ("api.example/", Host),
            ("127.1", Host),
            ("127.0.0.1.", Host),
            ("0177.0.0.1", Host),
            ("0x7f.0.0.1", Host),
            ("0x7f000001", Host),
            ("2130706433", Host),
            ("1.2.3.4.5", Host),
            ("127.0.0.0x1", Host),
            ("[::1", Host),
            ("::1", Host),
            ("[fe80::1%25eth0]", Host),
            ("[127.0.0.1]", Host),
        ] {
            assert_eq!(Origin::parse("http", authority), Err(expected), "{authority:?}");
        }
        assert_eq!(Origin::parse("ftp", "api.example"), Err(Scheme));
        assert!(Origin::parse("http", &format!("{}.example", "a".repeat(64))).is_err());
        assert!(Origin::parse("http", &vec!["a"; 128].join(".")).is_err());
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(scheme in "http|https", authority in "([a-z0-9.\\[\\]:-]{1,12})(:[0-9]{1,5})?") {
            if let Ok(origin) = Origin::parse(&scheme, &authority) {
                let shown = origin.to_string();
                let (scheme, authority) = shown.split_once("://").expect("a scheme");
                prop_assert_eq!(Origin::parse(scheme, authority), Ok(origin));
            }
        }

        #[test]
        fn nothing_panics(scheme in any::<String>(), authority in any::<String>()) {
            let _ = Origin::parse(&scheme, &authority);
        }
    }
}
