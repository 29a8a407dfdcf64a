//! The API source against a server that breaks on request.

mod access;
mod answers;
mod cluster;
mod credentials;
mod events;
mod faults;
mod herd;
mod http2;
mod lists;
mod media;
mod plugins;
mod proxies;
mod real;
