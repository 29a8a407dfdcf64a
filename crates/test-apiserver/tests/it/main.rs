//! Tests of the server with a raw HTTP client that hides nothing, and with kube's client over TLS.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod client;
mod control;
mod faults;
mod kube;
mod lists;
mod objects;
mod real;
mod watches;
