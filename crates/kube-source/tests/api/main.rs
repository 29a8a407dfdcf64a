//! The API source against a server that breaks on request.

mod cluster;
mod credentials;
mod faults;
mod lists;
mod real;
