//! Every parser of outside input, as functions that take any bytes.
//!
//! Reading order: [`TARGETS`], then the modules by the origin of the input: `kernel`, `cluster`, `node`. A
//! target panics if a parser does, or if the parser misreads the input. It returns whether the parser
//! accepted the input, so that a test can distinguish seeds that lead into a parser from those that it
//! refuses at once.
//!
//! Deliberately not here: any parser. `cargo xtask fuzz` runs the targets under libFuzzer; each finding
//! becomes a file in `findings/TARGET` and a test beside the parser.

mod cluster;
mod kernel;
mod node;
pub mod seeds;

/// Fuzz target: one parser, or several that read the same input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name for `cargo xtask fuzz`.
    pub name: &'static str,
    /// Function that takes any bytes and returns whether the parser accepted them.
    pub run: fn(&[u8]) -> bool,
    /// Files and folders with accepted inputs, relative to the repository.
    pub seeds: &'static [&'static str],
}

/// All targets.
pub const TARGETS: [Target; 13] = [
    Target { name: "ipvs", run: kernel::ipvs, seeds: &["crates/ipvs/tests/replies/captures"] },
    Target { name: "rtnetlink", run: kernel::rtnetlink, seeds: &["fuzz/seeds/rtnetlink.hex"] },
    Target { name: "nft", run: kernel::nft, seeds: &["fuzz/seeds/nft.hex"] },
    Target { name: "conntrack", run: kernel::conntrack, seeds: &["fuzz/seeds/conntrack.hex"] },
    Target { name: "watch", run: cluster::watch, seeds: &["fuzz/seeds/watch"] },
    Target { name: "list", run: cluster::list, seeds: &["fuzz/seeds/list"] },
    Target {
        name: "protobuf-watch",
        run: cluster::protobuf_watch,
        seeds: &["fuzz/seeds/protobuf-watch.hex"],
    },
    Target { name: "protobuf-list", run: cluster::protobuf_list, seeds: &["fuzz/seeds/protobuf-list.hex"] },
    Target {
        name: "manifest",
        run: cluster::manifest,
        seeds: &["fuzz/seeds/manifest", "manifests/examples"],
    },
    Target { name: "kubeconfig", run: cluster::kubeconfig, seeds: &["fuzz/seeds/kubeconfig"] },
    Target { name: "drains", run: node::drains, seeds: &["fuzz/seeds/drains"] },
    Target { name: "config", run: node::config, seeds: &["crates/proxy-config/testdata"] },
    Target { name: "words", run: node::words, seeds: &["fuzz/seeds/words.txt"] },
];

/// Target of a name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
