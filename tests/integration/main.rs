//! Tests of tidemill as a whole, from outside.

mod cli;
