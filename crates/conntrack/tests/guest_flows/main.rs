//! Tests with the connection tracking of real kernels. Needs root and ip_vs: `cargo xtask guest test -p
//! conntrack`.

mod contract;
mod scale;
mod tool;
mod traffic;
