//! Keys from JSON: the string, number or boolean at a pointer (RFC 6901), as it is written.
//!
//! This is a reader of its own, because a parser that makes values of what it reads makes one key of several: whole
//! numbers with 20 digits become equal floats. What counts of a number is its text: `1`, `1.0`, `1e0` and `-0` are four
//! keys. Of a string it is what the text stands for, whatever is escaped in it. The type belongs to the key: the string
//! `"1"` and the number `1` are two.
//!
//! The rest of the document may be what parsers in use accept: a byte order mark ahead, any depth, and beside the key lone
//! surrogates, bytes that are no UTF-8, `NaN` and `Infinity`. Of several members of one name the last one counts. A
//! document is read once from its start to its end, without recursion; each open list or object takes a byte.

use std::borrow::Cow;

use thiserror::Error;

/// What kind of value a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JsonKind {
    /// A string.
    String,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
}

/// A value that may be a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What a string stands for; a number or boolean as it is written.
    pub text: String,
    /// What kind of value it is.
    pub kind: JsonKind,
}

/// Why there is no telling which key a document has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unreadable {
    /// The document is not JSON.
    #[error("it is not JSON: {what} at byte {at}")]
    NoJson {
        /// What is there.
        what: &'static str,
        /// Where, counted from 0.
        at: usize,
    },
    /// The key is a string that is no text.
    #[error("it is a string with one half of a surrogate pair, which stands for no character")]
    LoneSurrogate,
    /// The key is a string that is no text.
    #[error("it is a string that is not UTF-8")]
    NotUtf8,
    /// The key is what some parsers accept as a number.
    #[error("it is {0}, which is no number")]
    NoNumber(&'static str),
}

impl Key {
    /// One text for each key, and no text for two of them. A string stands for itself, unless it could be taken for a
    /// number, a boolean or another string in quotes, or is empty: then it is in quotes, as in JSON.
    pub fn canonical(&self) -> Cow<'_, str> {
        let is_plain = match self.kind {
            JsonKind::Number | JsonKind::Boolean => true,
            JsonKind::String => !(self.text.starts_with('"') || is_taken_for_another_kind(&self.text)),
        };
        if is_plain {
            return Cow::Borrowed(&self.text);
        }
        Cow::Owned(serde_json::to_string(&self.text).expect("strings always serialise"))
    }

    /// Whether it is a string of nothing but blanks.
    pub fn is_blank(&self) -> bool {
        self.text.trim().is_empty()
    }
}

fn is_taken_for_another_kind(text: &str) -> bool {
    let mut reader = Reader { text: text.as_bytes(), at: 0 };
    matches!(text, "" | "true" | "false") || (reader.number().is_ok() && reader.at == text.len())
}

/// Finds the key at `pointer`; nothing where the document has no such value, or it is null, a list or an object.
///
/// # Errors
/// Why there is no telling.
pub fn find(document: &[u8], pointer: &str) -> Result<Option<Key>, Unreadable> {
    match scan(document, &tokens(pointer))? {
        None | Some(Scalar::Null) => Ok(None),
        Some(Scalar::String(raw)) => Ok(Some(Key { text: unescape(raw)?, kind: JsonKind::String })),
        Some(Scalar::Number(text)) => Ok(Some(Key { text: text.to_owned(), kind: JsonKind::Number })),
        Some(Scalar::Boolean(text)) => Ok(Some(Key { text: text.to_owned(), kind: JsonKind::Boolean })),
        Some(Scalar::NoNumber(text)) => Err(Unreadable::NoNumber(text)),
    }
}

/// The tokens of a pointer, with their escapes undone.
fn tokens(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~")).collect()
}

/// A value that holds no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scalar<'a> {
    /// A string as it is written, without its quotes.
    String(&'a [u8]),
    Number(&'a str),
    Boolean(&'static str),
    Null,
    NoNumber(&'static str),
}

/// The lists and objects that are open.
#[derive(Debug, Default)]
struct Open {
    /// What each began with, from the outermost to the innermost.
    brackets: Vec<u8>,
    /// For those that the pointer leads through, which are the outermost ones, how many values of each were begun.
    path: Vec<usize>,
}

/// Reads all of a document, and returns the last value at the path if that holds no others.
fn scan<'a>(document: &'a [u8], tokens: &[String]) -> Result<Option<Scalar<'a>>, Unreadable> {
    let mut reader = Reader { text: document, at: 0 };
    if document.starts_with(b"\xef\xbb\xbf") {
        reader.at = 3;
    }
    let (mut open, mut found) = (Open::default(), None);
    // How many tokens lead to the value that follows; nothing beside the path.
    let mut reached = Some(0);
    loop {
        reader.blanks();
        if let Some(bracket @ (b'{' | b'[')) = reader.peek() {
            reader.at += 1;
            open.brackets.push(bracket);
            if reached.is_some_and(|reached| reached < tokens.len()) {
                open.path.push(0);
            }
            reader.blanks();
            if reader.peek() != Some(closing(bracket)) {
                reached = member(&mut reader, &mut open, tokens, &mut found)?;
                continue;
            }
        } else {
            let scalar = reader.scalar()?;
            if reached == Some(tokens.len()) {
                found = Some(scalar);
            }
        }
        if !close(&mut reader, &mut open)? {
            return Ok(found);
        }
        reached = member(&mut reader, &mut open, tokens, &mut found)?;
    }
}

/// Closes what ends behind a value. Returns whether another value follows.
fn close(reader: &mut Reader<'_>, open: &mut Open) -> Result<bool, Unreadable> {
    loop {
        reader.blanks();
        let next = reader.peek();
        let Some(&bracket) = open.brackets.last() else {
            return if next.is_none() { Ok(false) } else { Err(reader.fault("something behind its end")) };
        };
        match next {
            Some(b',') => {
                reader.at += 1;
                return Ok(true);
            }
            Some(byte) if byte == closing(bracket) => {
                reader.at += 1;
                open.brackets.pop();
                open.path.truncate(open.brackets.len());
            }
            _ => return Err(reader.fault("neither a comma nor a closing bracket")),
        }
    }
}

/// Reads what stands before a value in its list or object. Returns how many tokens lead to that value.
fn member(
    reader: &mut Reader<'_>,
    open: &mut Open,
    tokens: &[String],
    found: &mut Option<Scalar<'_>>,
) -> Result<Option<usize>, Unreadable> {
    let depth = open.brackets.len();
    let token = tokens.get(depth - 1).filter(|_| open.path.len() == depth);
    if open.brackets.last() == Some(&b'{') {
        reader.blanks();
        let name = reader.string()?;
        reader.blanks();
        if reader.peek() != Some(b':') {
            return Err(reader.fault("no colon"));
        }
        reader.at += 1;
        let Some(_) = token.filter(|token| is_named(name, token)) else { return Ok(None) };
        // The one before, of the same name, does not count any more.
        *found = None;
        return Ok(Some(depth));
    }
    let (Some(token), Some(begun)) = (token, open.path.last_mut()) else { return Ok(None) };
    let index = *begun;
    *begun += 1;
    Ok((list_index(token) == Some(index)).then_some(depth))
}

/// Whether a member's name, as it is written, stands for `token`.
fn is_named(raw: &[u8], token: &str) -> bool {
    if raw.contains(&b'\\') { unescape(raw).is_ok_and(|name| name == token) } else { raw == token.as_bytes() }
}

/// The place in a list that a token names: digits without a leading zero.
fn list_index(token: &str) -> Option<usize> {
    let is_plain = token.bytes().all(|byte| byte.is_ascii_digit()) && (token.len() == 1 || !token.starts_with('0'));
    token.parse().ok().filter(|_| is_plain)
}

fn closing(bracket: u8) -> u8 {
    if bracket == b'{' { b'}' } else { b']' }
}

/// Where reading has come to.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn fault(&self, what: &'static str) -> Unreadable {
        let what = if self.at >= self.text.len() { "its end" } else { what };
        Unreadable::NoJson { what, at: self.at.min(self.text.len()) }
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn scalar(&mut self) -> Result<Scalar<'a>, Unreadable> {
        const WORDS: [(&str, Scalar<'static>); 6] = [
            ("true", Scalar::Boolean("true")),
            ("false", Scalar::Boolean("false")),
            ("null", Scalar::Null),
            ("NaN", Scalar::NoNumber("NaN")),
            ("Infinity", Scalar::NoNumber("Infinity")),
            ("-Infinity", Scalar::NoNumber("-Infinity")),
        ];
        if self.peek() == Some(b'"') {
            return Ok(Scalar::String(self.string()?));
        }
        let rest = self.text.get(self.at..).unwrap_or_default();
        if let Some((word, scalar)) = WORDS.iter().find(|(word, _)| rest.starts_with(word.as_bytes())) {
            self.at += word.len();
            return Ok(*scalar);
        }
        self.number().map(Scalar::Number)
    }

    /// Reads a string, and returns what stands between its quotes.
    fn string(&mut self) -> Result<&'a [u8], Unreadable> {
        if self.peek() != Some(b'"') {
            return Err(self.fault("no string"));
        }
        self.at += 1;
        let start = self.at;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                Some(0..0x20) => return Err(self.fault("a control character in a string")),
                Some(_) => self.at += 1,
                None => return Err(self.fault("")),
            }
        }
        let raw = &self.text[start..self.at];
        self.at += 1;
        Ok(raw)
    }

    /// Reads what follows a backslash.
    fn escape(&mut self) -> Result<(), Unreadable> {
        let length = match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 1,
            Some(b'u') => 5,
            _ => return Err(self.fault("an unknown escape")),
        };
        let digits = self.text.get(self.at + 1..self.at + length);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(self.fault("an escape without four digits"));
        }
        self.at += length;
        Ok(())
    }

    fn number(&mut self) -> Result<&'a str, Unreadable> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits("no value")?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits("no digit behind the point")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("no digit in the exponent")?;
        }
        Ok(std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default())
    }

    fn digits(&mut self, what: &'static str) -> Result<(), Unreadable> {
        if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return Err(self.fault(what));
        }
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }
}

/// What a string stands for, given what is written between its quotes, of which the escapes are known to be complete.
fn unescape(raw: &[u8]) -> Result<String, Unreadable> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(position) = memchr::memchr(b'\\', rest) {
        bytes.extend_from_slice(&rest[..position]);
        rest = &rest[position + 1..];
        let plain = match rest.first() {
            Some(b'u') => {
                let character;
                (character, rest) = unicode(rest)?;
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(&byte) => byte,
            None => break,
        };
        bytes.push(plain);
        rest = &rest[1..];
    }
    bytes.extend_from_slice(rest);
    String::from_utf8(bytes).map_err(|_| Unreadable::NotUtf8)
}

/// The character of an escape that begins with `u`, or of two that are a surrogate pair, and what follows.
fn unicode(text: &[u8]) -> Result<(char, &[u8]), Unreadable> {
    let high = code_unit(text).ok_or(Unreadable::LoneSurrogate)?;
    let (low, pair) = match text.get(5..7) {
        Some(b"\\u") => (code_unit(&text[6..]), text.get(11..)),
        _ => (None, None),
    };
    if let Some(character) = char::from_u32(u32::from(high)) {
        return Ok((character, text.get(5..).unwrap_or_default()));
    }
    let units = [high, low.ok_or(Unreadable::LoneSurrogate)?];
    let mut characters = char::decode_utf16(units);
    match (characters.next(), pair) {
        (Some(Ok(character)), Some(rest)) => Ok((character, rest)),
        _ => Err(Unreadable::LoneSurrogate),
    }
}

/// The number of an escape that begins with `u`.
fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = std::str::from_utf8(text.get(1..5)?).ok()?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests;
