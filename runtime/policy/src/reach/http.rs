//! Grants of `allow.http`, and which requests they cover.

use std::borrow::Cow;
use std::fmt;

use thiserror::Error;

use super::origin::{Origin, OriginError};

/// The longest grant or URL that is looked at, in bytes.
const URL_BYTES_MAX: usize = 8 * 1024;

/// The longest path that is shown in a message, in bytes.
const SHOWN_BYTES_MAX: usize = 200;

/// How often a path may have been percent-encoded over and over.
const ENCODINGS_MAX: usize = 8;

/// An entry of `allow.http`: an origin, perhaps of certain methods and paths only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpGrant {
    /// The methods, in upper case; all but `CONNECT` where there are none.
    pub methods: Vec<String>,
    /// The origin.
    pub origin: Origin,
    /// What paths begin with, `/` at its beginning; `/` for all.
    pub path: String,
}

/// Why a text is no grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GrantError {
    /// It is not of the form of a grant.
    #[error("a grant is an origin as in \"https://api.example\", perhaps with a path, and methods before it")]
    Form,
    /// The methods are not methods.
    #[error("methods are written in upper case with commas between them, as in \"GET,POST https://api.example\"")]
    Methods,
    /// The method leads everywhere.
    #[error("CONNECT cannot be granted, since it leads past every other grant")]
    Connect,
    /// Something is wrong with the origin.
    #[error(transparent)]
    Origin(OriginError),
    /// It has a query or a fragment.
    #[error("a grant ends with its path: queries cannot be granted")]
    Query,
    /// The path could be read in several ways.
    #[error("the path must be plain: no \".\" or \"..\", no \"\\\", \"*\" or blank, nothing percent-encoded")]
    Path,
}

/// A request as the grants see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The method.
    pub method: String,
    /// The origin.
    pub origin: Origin,
    /// The path, without the query; `/` at least.
    pub path: String,
}

/// Why a request is refused, and what would grant it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It cannot be understood in one way only.
    #[error("a request is refused: {0}")]
    Origin(OriginError),
    /// Its URL is too long.
    #[error("a request is refused: its URL has more than {URL_BYTES_MAX} bytes")]
    TooLong,
    /// Its method leads everywhere.
    #[error("CONNECT {0} is refused: no grant covers it")]
    Connect(Origin),
    /// Its origin is not granted.
    #[error("{0} is not granted; add \"{origin}\" to allow.http of the handler", origin = .0.origin)]
    NotGranted(Target),
    /// Its origin is granted, but not this method and path.
    #[error("{target} is not granted; allow.http grants {granted} of that origin")]
    NotCovered {
        /// What was asked for.
        target: Target,
        /// What of that origin is granted.
        granted: String,
    },
    /// Its path could be read in several ways, and the grant is for certain paths.
    #[error(
        "{0} is refused: with a grant for certain paths, a path must not have \".\" or \"..\", \"\\\", or an encoded \"/\" in it"
    )]
    Ambiguous(Target),
}

impl HttpGrant {
    /// Reads a grant as the manifest says it.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<HttpGrant, GrantError> {
        if text.len() > URL_BYTES_MAX {
            return Err(GrantError::Form);
        }
        let (methods, url) = match text.split_once(' ') {
            Some((methods, url)) => (parse_methods(methods)?, url),
            None => (Vec::new(), text),
        };
        let (scheme, rest) = url.split_once("://").ok_or(GrantError::Form)?;
        if rest.contains(['?', '#']) {
            return Err(GrantError::Query);
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let origin = Origin::parse(scheme, authority).map_err(GrantError::Origin)?;
        let path = if path.is_empty() { "/" } else { path };
        let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'%' | b'*' | b'"'));
        if !is_plain || !is_unambiguous(path) {
            return Err(GrantError::Path);
        }
        Ok(HttpGrant { methods, origin, path: path.to_owned() })
    }

    fn covers(&self, target: &Target) -> bool {
        let fits = self.methods.is_empty() || self.methods.contains(&target.method);
        fits && self.origin == target.origin && is_below(&self.path, &target.path)
    }
}

fn parse_methods(text: &str) -> Result<Vec<String>, GrantError> {
    let methods: Vec<_> = text.split(',').map(str::to_owned).collect();
    let is_method =
        |method: &String| !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    if !methods.iter().all(is_method) {
        return Err(GrantError::Methods);
    }
    if methods.iter().any(|method| method == "CONNECT") { Err(GrantError::Connect) } else { Ok(methods) }
}

/// Whether a path is `prefix` or below it: the prefix ends where a segment does.
fn is_below(prefix: &str, path: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'),
        None => false,
    }
}

/// Whether everybody who reads this path, and decodes it as often as they like, comes to the same segments.
fn is_unambiguous(path: &str) -> bool {
    let mut bytes = Cow::Borrowed(path.as_bytes());
    for _ in 0..ENCODINGS_MAX {
        if bytes.contains(&b'\\')
            || bytes.iter().any(u8::is_ascii_control)
            || bytes.split(|byte| *byte == b'/').any(is_dots)
        {
            return false;
        }
        match decoded(&bytes) {
            Some(next) if next == *bytes => return true,
            Some(next) => bytes = Cow::Owned(next),
            None => return false,
        }
    }
    false
}

/// Whether a segment is `.` or `..`; some servers leave everything from a `;` on aside.
fn is_dots(segment: &[u8]) -> bool {
    let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
    name == b"." || name == b".."
}

/// A path with what is percent-encoded decoded once; nothing where that is a slash, or no encoding.
fn decoded(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(after.get(..2)?).ok()?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let byte = u8::from_str_radix(digits, 16).ok()?;
        if byte == b'/' {
            return None;
        }
        out.push(byte);
        rest = &after[2..];
    }
    Some(out)
}

impl Target {
    /// Reads a request: method, scheme, authority, and path with or without query.
    ///
    /// # Errors
    /// Where it can be understood in several ways, or is too long to be looked at.
    pub fn new(method: &str, scheme: &str, authority: &str, path_and_query: &str) -> Result<Target, Refusal> {
        if method.len() + authority.len() + path_and_query.len() > URL_BYTES_MAX {
            return Err(Refusal::TooLong);
        }
        let origin = Origin::parse(scheme, authority).map_err(Refusal::Origin)?;
        let path = path_and_query.split(['?', '#']).next().unwrap_or_default();
        let path = if path.is_empty() { "/" } else { path };
        Ok(Target { method: method.to_owned(), origin, path: path.to_owned() })
    }
}

/// Whether one of the grants covers a request.
///
/// # Errors
/// Why none does.
pub fn admit(grants: &[HttpGrant], target: &Target) -> Result<(), Refusal> {
    if target.method.eq_ignore_ascii_case("CONNECT") {
        return Err(Refusal::Connect(target.origin.clone()));
    }
    let covering = grants.iter().filter(|grant| grant.covers(target));
    match covering.map(|grant| grant.path == "/").reduce(|one, other| one || other) {
        Some(true) => Ok(()),
        Some(false) if is_unambiguous(&target.path) => Ok(()),
        Some(false) => Err(Refusal::Ambiguous(target.clone())),
        None => Err(not_covered(grants, target)),
    }
}

fn not_covered(grants: &[HttpGrant], target: &Target) -> Refusal {
    let granted: Vec<_> =
        grants.iter().filter(|grant| grant.origin == target.origin).map(|grant| format!("\"{grant}\"")).collect();
    if granted.is_empty() {
        return Refusal::NotGranted(target.clone());
    }
    Refusal::NotCovered { target: target.clone(), granted: granted.join(", ") }
}

/// The origins of the grants, each once.
pub fn origins(grants: &[HttpGrant]) -> Vec<Origin> {
    let mut origins: Vec<_> = grants.iter().map(|grant| grant.origin.clone()).collect();
    origins.sort();
    origins.dedup();
    origins
}

impl fmt::Display for HttpGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.methods.is_empty() {
            write!(f, "{} ", self.methods.join(","))?;
        }
        write!(f, "{}", self.origin)?;
        if self.path == "/" { Ok(()) } else { f.write_str(&self.path) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.path.floor_char_boundary(SHOWN_BYTES_MAX);
        let more = if end < self.path.len() { "…" } else { "" };
        write!(f, "{} {}{}{more}", self.method, self.origin, &self.path[..end])
    }
}

#[cfg(test)]
mod tests;
