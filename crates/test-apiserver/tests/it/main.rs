//! The server as clients see it: a raw HTTP client that hides nothing, and kube's client over TLS.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod client;
mod control;
mod faults;
mod kube;
mod lists;
mod objects;
mod real;
mod watches;
