//! The contract's types (`wit/handler.wit`) as they lie in memory: addresses have 32 bits.

/// A text, or a list of bytes or records.
pub const List = extern struct { ptr: u32 = 0, len: u32 = 0 };

pub const OptionList = extern struct { is_some: u8 = 0, value: List = .{} };
pub const OptionU64 = extern struct { is_some: u8 = 0, value: u64 align(8) = 0 };
pub const Option32 = extern struct { is_some: u8 = 0, value: u32 = 0 };

pub const Header = extern struct { name: List, value: List };

pub const Event = extern struct {
    id: List,
    subject: List,
    kind: OptionList,
    source: OptionList,
    time_ms: OptionU64,
    content_type: OptionList,
    correlation_id: List,
    causation_id: OptionList,
    attempt: u32,
    max_attempts: u32,
    headers: List,
    payload: List,
};

pub const Output = extern struct {
    subject: List,
    kind: OptionList,
    content_type: OptionList,
    headers: List,
    payload: List,
};

pub const Error = extern struct {
    code: Option32,
    message: List,
    detail: OptionList,
};

pub const Verdict = enum(u8) { retry = 0, reject = 1 };

pub const Failure = extern struct {
    verdict: Verdict,
    @"error": Error,
    /// Of `retry` only.
    delay_ms: Option32 = .{},
};

pub const Result = extern struct {
    is_failure: u8,
    as: extern union { outputs: List, failure: Failure },
};

/// A result of an optional text or of an error, which is a variant of texts.
pub const Setting = extern struct { is_error: u8, value: OptionList };
