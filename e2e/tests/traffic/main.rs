//! Proof by traffic: the binary in `KUBE_IPVS_BIN`, a kernel with IPVS, and clients that know nothing of
//! either.
//!
//! They need root; each test builds its own network namespaces and may run in a process of its own. Those
//! under load end in `_slow`: a guest on a busy machine may need minutes for what takes seconds.

mod affinity;
mod api;
mod bad_input;
mod bindings;
mod change;
mod chaos;
mod config_file;
mod drain;
mod external;
mod families;
mod foreign;
mod health_checks;
mod limits;
mod node_ports;
mod nodes;
mod plan;
mod reach;
mod refuse;
mod repair;
mod rest;
mod restart;
mod schedulers;
mod shared;
mod sources;
mod takeover;
mod testbed;
mod udp;
mod visible;
