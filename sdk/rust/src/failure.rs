//! Why an event could not be handled.

use std::fmt;
use std::time::Duration;

use crate::bindings::tidemill::handler::types;

/// What went wrong, for people and for the event's error history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Error {
    /// A code of the handler's own, such as an HTTP status.
    pub code: Option<i32>,
    /// One sentence that says what went wrong.
    pub message: String,
    /// More about it, such as a stack trace.
    pub detail: Option<String>,
}

/// Why an event could not be handled, and so what becomes of it.
///
/// `?` turns the errors of JSON, UTF-8 and numbers into rejections: data that is malformed now stays
/// so. There is no conversion from I/O-like errors; say with [`Failure::retry`] that they may pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It may work later: the event is attempted again according to the retry policy.
    Retry {
        /// What went wrong.
        error: Error,
        /// The handler's wish for the delay, for example from a `Retry-After`.
        after: Option<Duration>,
    },
    /// It can never work: the event goes to the dead letters at once.
    Reject(Error),
}

impl Failure {
    /// It may work later.
    pub fn retry(message: impl Into<String>) -> Self {
        Self::Retry { error: Error { message: message.into(), ..Error::default() }, after: None }
    }

    /// It may work after this time. More than 49 days are taken as 49 days.
    pub fn retry_after(message: impl Into<String>, after: Duration) -> Self {
        Self::retry(message).after(after)
    }

    /// It can never work.
    pub fn reject(message: impl Into<String>) -> Self {
        Self::Reject(Error { message: message.into(), ..Error::default() })
    }

    /// Sets the code, such as an HTTP status.
    #[must_use]
    pub fn code(mut self, code: i32) -> Self {
        self.error_mut().code = Some(code);
        self
    }

    /// Sets the detail, such as the text of a response.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.error_mut().detail = Some(detail.into());
        self
    }

    /// What went wrong.
    pub fn error(&self) -> &Error {
        match self {
            Self::Retry { error, .. } | Self::Reject(error) => error,
        }
    }

    fn error_mut(&mut self) -> &mut Error {
        match self {
            Self::Retry { error, .. } | Self::Reject(error) => error,
        }
    }

    fn after(mut self, delay: Duration) -> Self {
        if let Self::Retry { after, .. } = &mut self {
            *after = Some(delay);
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self {
            Self::Retry { .. } => "retry",
            Self::Reject(_) => "reject",
        };
        write!(f, "{verdict}: {}", self.error().message)
    }
}

impl std::error::Error for Failure {}

macro_rules! rejects {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::reject(error.to_string())
            }
        })+
    };
}

rejects!(
    serde_json::Error,
    std::str::Utf8Error,
    std::string::FromUtf8Error,
    std::num::ParseIntError,
    std::num::ParseFloatError,
    std::num::TryFromIntError,
);

impl From<Failure> for types::Failure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Retry { error, after } => Self::Retry((error.into(), after.map(millis))),
            Failure::Reject(error) => Self::Reject(error.into()),
        }
    }
}

impl From<Error> for types::Error {
    fn from(error: Error) -> Self {
        Self { code: error.code, message: error.message, detail: error.detail }
    }
}

fn millis(delay: Duration) -> u32 {
    u32::try_from(delay.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Failure;
    use crate::bindings::tidemill::handler::types;

    #[test]
    fn question_mark_rejects_malformed_data() {
        fn parse(text: &str) -> Result<u8, Failure> {
            Ok(text.parse::<u8>()?)
        }
        assert_eq!(parse("x"), Err(Failure::reject("invalid digit found in string")));
    }

    #[test]
    fn a_delay_is_rounded_down_to_milliseconds_and_clamped() {
        for (delay, expected) in
            [(Duration::from_micros(1999), 1), (Duration::from_secs(2), 2000), (Duration::MAX, u32::MAX)]
        {
            let failure: types::Failure = Failure::retry_after("later", delay).into();
            assert!(matches!(failure, types::Failure::Retry((_, Some(ms))) if ms == expected));
        }
    }

    #[test]
    fn code_and_detail_reach_the_host() {
        let failure = Failure::reject("no such user").code(404).detail("body");
        let types::Failure::Reject(error) = failure.into() else {
            panic!("not a rejection");
        };
        assert_eq!(error.code, Some(404));
        assert_eq!(error.message, "no such user");
        assert_eq!(error.detail.as_deref(), Some("body"));
    }
}
