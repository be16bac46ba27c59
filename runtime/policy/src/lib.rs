//! The pure half of tidemill: what an event is, what may come of it, and what is to be done then.
//!
//! Everything here is a function from values to values. No clock is read (`now` is an argument), no
//! randomness is drawn (jitter is derived from the event), nothing is sent, stored or logged; the host
//! crate carries out what is decided here.

pub mod admit;
pub mod arrival;
pub mod attempt;
pub mod budget;
mod cloud_event;
pub mod decide;
pub mod decode;
pub mod event;
mod fit;
pub mod gate;
pub mod headers;
pub mod history;
pub mod id;
pub mod in_flight;
pub mod json_key;
pub mod latest;
pub mod manifest;
pub mod marker;
pub mod order;
pub mod outcome;
pub mod output;
pub mod publication;
pub mod queue_message;
pub mod reach;
mod reads;
pub mod reload;
pub mod replay;
pub mod resume;
pub mod retry;
pub mod schema;
pub mod share;
pub mod subject;
pub mod together;
