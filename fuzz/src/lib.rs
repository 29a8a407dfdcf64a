//! Every parser of outside input, as functions that take any bytes.
//!
//! Reading order: [`TARGETS`], then the modules by the side the input comes from: `kernel`, `cluster`, `node`. A target
//! panics if a parser does or if what it read is not what was there; it returns whether the input was understood, so
//! that a test can tell seeds that lead into a parser from those that it refuses at once.
//!
//! Deliberately not here: any parser. `cargo xtask fuzz` runs the targets under libFuzzer; what it finds becomes a file
//! in `findings/TARGET` and a test beside the parser.

mod cluster;
mod kernel;
mod node;
pub mod seeds;

/// One parser, or several that read the same.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// As `cargo xtask fuzz` names it.
    pub name: &'static str,
    /// Takes any bytes; whether they were understood.
    pub run: fn(&[u8]) -> bool,
    /// Files and folders below the repository where inputs are that are understood.
    pub seeds: &'static [&'static str],
}

/// All of them.
pub const TARGETS: [Target; 10] = [
    Target { name: "ipvs", run: kernel::ipvs, seeds: &["crates/ipvs/tests/replies/captures"] },
    Target { name: "rtnetlink", run: kernel::rtnetlink, seeds: &["fuzz/seeds/rtnetlink.hex"] },
    Target { name: "nft", run: kernel::nft, seeds: &["fuzz/seeds/nft.hex"] },
    Target { name: "conntrack", run: kernel::conntrack, seeds: &["fuzz/seeds/conntrack.hex"] },
    Target { name: "watch", run: cluster::watch, seeds: &["fuzz/seeds/watch"] },
    Target { name: "list", run: cluster::list, seeds: &["fuzz/seeds/list"] },
    Target {
        name: "manifest",
        run: cluster::manifest,
        seeds: &["fuzz/seeds/manifest", "manifests/examples"],
    },
    Target { name: "kubeconfig", run: cluster::kubeconfig, seeds: &["fuzz/seeds/kubeconfig"] },
    Target { name: "drains", run: node::drains, seeds: &["fuzz/seeds/drains"] },
    Target { name: "words", run: node::words, seeds: &["fuzz/seeds/words.txt"] },
];

/// The target of a name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
