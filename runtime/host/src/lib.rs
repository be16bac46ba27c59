//! tidemill host.
