//! Objects in a bucket of NATS' object store: which there are, what is in them, and putting some.
//!
//! They are read by questions to the leader of the bucket's stream, not by a consumer: of an object that is replaced while
//! it is read, a consumer waits for chunks that never come, while a question is answered with "gone". Nor can a replica that
//! is behind answer with what was there before. They are written in the form that all clients of object stores know.

mod put;

use std::collections::BTreeMap;
use std::io;

use data_encoding::{BASE64, BASE64URL, BASE64URL_NOPAD, HEXLOWER};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::ask::{AskError, ask, found, message};
use super::{ASKED_AT_ONCE, Nats};

pub use put::{Content, Put, create, put};

/// The most objects that a bucket may hold.
pub const OBJECTS_MAX: usize = 10_000;

/// The stream of a bucket.
pub fn stream_of(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

/// The subjects on which it is told which objects there are.
pub fn changes_of(bucket: &str) -> String {
    format!("$O.{bucket}.M.>")
}

/// The subject on which it is told what an object is.
fn meta_subject(bucket: &str, name: &str) -> String {
    format!("$O.{bucket}.M.{}", BASE64URL.encode(name.as_bytes()))
}

fn chunk_subject(bucket: &str, nuid: &str) -> String {
    format!("$O.{bucket}.C.{nuid}")
}

/// What tells one state of a bucket from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    created: String,
    /// The sequence of the last message of its stream.
    pub sequence: u64,
    messages: u64,
}

/// An object as it is described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of what is in it, in hexadecimal.
    pub digest: String,
    /// The sequence of its description.
    pub sequence: u64,
    nuid: String,
}

/// Something in a bucket that is no object of ours, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Odd {
    /// Its name, or its subject where it has none.
    pub name: String,
    /// What is odd about it.
    pub why: String,
}

/// Why an object was not read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It was replaced or deleted meanwhile.
    #[error("it was replaced while it was read")]
    Gone,
    /// What is in it is not what its description says.
    #[error("its content is not what its description says (size or SHA-256); put it again")]
    Wrong,
    /// The server did not give it.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It could not be written down here.
    #[error(transparent)]
    Write(#[from] io::Error),
}

/// What is told about an object, in the form of all clients.
#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    name: String,
    #[serde(default, skip_serializing)]
    options: Option<Options>,
    bucket: String,
    #[serde(default)]
    nuid: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    chunks: u64,
    #[serde(default)]
    mtime: String,
    #[serde(default)]
    digest: String,
    #[serde(default, skip_serializing)]
    deleted: bool,
}

#[derive(Debug, Deserialize)]
struct Options {
    link: Option<Value>,
}

#[derive(Deserialize)]
struct Info {
    created: String,
    state: InfoState,
    #[serde(default)]
    total: u64,
}

#[derive(Deserialize)]
struct InfoState {
    last_seq: u64,
    messages: u64,
    subjects: Option<BTreeMap<String, u64>>,
}

/// The state of a bucket; nothing where there is none.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub async fn state(nats: &Nats, bucket: &str) -> Result<Option<State>, AskError> {
    let info = ask::<Info>(nats, &format!("STREAM.INFO.{}", stream_of(bucket)), &Value::Null).await;
    let Some(Info { created, state, .. }) = found(info)? else { return Ok(None) };
    Ok(Some(State { created, sequence: state.last_seq, messages: state.messages }))
}

/// All objects of a bucket that is there.
///
/// # Errors
/// Where the server denies, refuses or does not answer; and where there are more than [`OBJECTS_MAX`].
pub async fn list(nats: &Nats, bucket: &str) -> Result<Vec<Result<Object, Odd>>, AskError> {
    let path = format!("STREAM.INFO.{}", stream_of(bucket));
    let info: Info = ask(nats, &path, &json!({ "subjects_filter": changes_of(bucket) })).await?;
    let subjects = info.state.subjects.unwrap_or_default();
    if subjects.len() > OBJECTS_MAX || info.total > OBJECTS_MAX as u64 {
        let why = format!("the bucket holds more than {OBJECTS_MAX} objects; is it meant for components?");
        return Err(AskError::Refused { subject: format!("$JS.API.{path}"), why });
    }
    let described = subjects.into_keys().map(async |subject| {
        let described = last(nats, bucket, &subject).await?;
        Ok::<_, AskError>(described.and_then(|(sequence, meta)| read_meta(bucket, &subject, sequence, &meta)))
    });
    let described: Vec<_> = described.collect();
    stream::iter(described).buffered(ASKED_AT_ONCE).try_filter_map(async |one| Ok(one)).try_collect().await
}

/// One object; nothing where there is none of that name, or something odd.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub async fn find(nats: &Nats, bucket: &str, name: &str) -> Result<Option<Object>, AskError> {
    let subject = meta_subject(bucket, name);
    let described = last(nats, bucket, &subject).await?;
    Ok(described.and_then(|(sequence, meta)| read_meta(bucket, &subject, sequence, &meta)).and_then(Result::ok))
}

/// The last message on a subject, with its sequence.
async fn last(nats: &Nats, bucket: &str, subject: &str) -> Result<Option<(u64, Vec<u8>)>, AskError> {
    get(nats, bucket, &json!({ "last_by_subj": subject })).await
}

async fn get(nats: &Nats, bucket: &str, question: &Value) -> Result<Option<(u64, Vec<u8>)>, AskError> {
    let Some(message) = found(message(nats, &stream_of(bucket), question).await)? else { return Ok(None) };
    Ok(Some((message.seq, BASE64.decode(message.data.as_bytes()).unwrap_or_default())))
}

/// What a description says; nothing of an object that was deleted.
fn read_meta(bucket: &str, subject: &str, sequence: u64, meta: &[u8]) -> Option<Result<Object, Odd>> {
    let odd = |name: &str, why: String| Some(Err(Odd { name: name.to_owned(), why }));
    let meta: Meta = match serde_json::from_slice(meta) {
        Ok(meta) => meta,
        Err(error) => return odd(subject, format!("its description cannot be read: {error}")),
    };
    if meta.deleted {
        return None;
    }
    if meta_subject(bucket, &meta.name) != subject {
        return odd(&meta.name, format!("it is described on {subject:?}, which is another object's"));
    }
    if meta.options.is_some_and(|options| options.link.is_some()) {
        return odd(&meta.name, "it is a link; put the file itself".to_owned());
    }
    match sha256(&meta.digest) {
        Some(digest) => Some(Ok(Object { name: meta.name, bytes: meta.size, digest, sequence, nuid: meta.nuid })),
        None => odd(&meta.name, "it has no SHA-256 to check it by".to_owned()),
    }
}

/// The digest in hexadecimal, from `SHA-256=` and base64.
fn sha256(text: &str) -> Option<String> {
    let encoded = text.strip_prefix("SHA-256=")?.trim_end_matches('=');
    let digest = BASE64URL_NOPAD.decode(encoded.as_bytes()).ok()?;
    (digest.len() == 32).then(|| HEXLOWER.encode(&digest))
}

/// Reads an object piece by piece. All has been read and is what it should be when this returns.
///
/// # Errors
/// Where it is gone, or not what it should be; where the server does not give it; and those of `take`.
pub async fn read(
    nats: &Nats,
    bucket: &str,
    object: &Object,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), ReadError> {
    let filter = chunk_subject(bucket, &object.nuid);
    let (mut next, mut left, mut digest) = (1, object.bytes, Sha256::new());
    while left > 0 {
        let question = json!({ "seq": next, "next_by_subj": filter });
        let (sequence, chunk) = get(nats, bucket, &question).await?.ok_or(ReadError::Gone)?;
        left = left.checked_sub(chunk.len() as u64).ok_or(ReadError::Wrong)?;
        digest.update(&chunk);
        take(&chunk)?;
        next = sequence + 1;
    }
    if HEXLOWER.encode(&digest.finalize()) == object.digest { Ok(()) } else { Err(ReadError::Wrong) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(change: impl FnOnce(&mut Value)) -> Option<Result<Object, Odd>> {
        let digest = format!("SHA-256={}", BASE64URL.encode(&Sha256::digest(b"x")));
        let mut meta =
            json!({ "name": "a.wasm", "bucket": "b", "nuid": "n", "size": 1, "chunks": 1, "digest": digest });
        change(&mut meta);
        read_meta("b", &meta_subject("b", "a.wasm"), 7, meta.to_string().as_bytes())
    }

    #[test]
    fn a_description_tells_an_object_a_deleted_one_or_why_it_is_odd() {
        let object = meta(|_| ()).expect("something").expect("an object");
        assert_eq!((object.name.as_str(), object.bytes, object.sequence), ("a.wasm", 1, 7));
        assert_eq!(object.digest, crate::invoker::wasm::digest(b"x"));
        assert_eq!(meta(|meta| meta["deleted"] = true.into()), None);
        let unpadded =
            meta(|meta| meta["digest"] = meta["digest"].as_str().expect("text").trim_end_matches('=').into());
        let odd = |change: fn(&mut Value)| meta(change).expect("something").expect_err("odd").why;
        assert!(unpadded.expect("something").is_ok());
        assert!(odd(|meta| meta["name"] = "b.wasm".into()).contains("another object's"));
        assert!(odd(|meta| meta["options"] = json!({ "link": { "bucket": "c" } })).contains("link"));
        assert!(odd(|meta| meta["digest"] = "MD5=00".into()).contains("no SHA-256"));
        assert!(odd(|meta| *meta = json!("x")).contains("cannot be read"));
    }
}
