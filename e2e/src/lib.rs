//! The black-box proof: the real binary, a real kernel, and clients that know nothing of either.
//!
//! In reading order: [`net`] builds a node, pods and an outside client from network namespaces; [`manifest`]
//! writes the Services, EndpointSlices and the Node that kube-ipvs follows; [`proxy`] starts, kills and
//! questions the binary; [`observe`] reads the kernel with tools that are not ours (`ipvsadm`, `nft`, `ip`,
//! ftrace); [`probe`] holds servers and clients; [`demo`] puts them together for a human, `tests/traffic` for
//! a machine.
//!
//! Deliberately not here: any dependency on a crate of the product. The tests use its command line, its log
//! and its effects in the kernel.

pub mod chaos;
pub mod checker;
pub mod demo;
pub mod manifest;
pub mod net;
pub mod observe;
pub mod probe;
pub mod proxy;
