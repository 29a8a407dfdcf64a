//! Reduction of a kernel's modules to those that a network guest needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{command, paths};

/// Modules that are kept, by path below `kernel/`, with all that they depend on.
const WANTED: &[&str] = &[
    "arch/x86/crypto/",
    "crypto/",
    "drivers/char/hw_random/virtio-rng.",
    "drivers/char/virtio_console.",
    "drivers/net/dummy.",
    "drivers/net/ifb.",
    "drivers/net/ipvlan/",
    "drivers/net/macvlan.",
    "drivers/net/net_failover.",
    "drivers/net/nlmon.",
    "drivers/net/tun.",
    "drivers/net/veth.",
    "drivers/net/virtio_net.",
    "drivers/net/vxlan",
    "drivers/virtio/",
    "lib/",
    "net/802/",
    "net/8021q/",
    "net/bridge/",
    "net/core/",
    "net/ipv4/",
    "net/ipv6/",
    "net/llc/",
    "net/netfilter/",
    "net/netlink/",
    "net/packet/",
    "net/sched/",
    "net/sctp/",
    "net/unix/",
    "net/xfrm/",
];

/// Modules without which a kernel is of no use, as files or built in.
const REQUIRED: &[&str] = &[
    "ip_vs",
    "ip_vs_dh",
    "ip_vs_lc",
    "ip_vs_mh",
    "ip_vs_nq",
    "ip_vs_rr",
    "ip_vs_sed",
    "ip_vs_sh",
    "ip_vs_wlc",
    "ip_vs_wrr",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_masq",
    "nft_nat",
    "nft_reject_inet",
    "nf_conntrack_netlink",
    "dummy",
    "veth",
    "bridge",
    "sctp",
    "virtio_console",
];

/// The folder of all releases: `lib/modules`, or `usr/lib/modules` in newer packages.
pub fn folder(tree: &Path) -> Result<PathBuf> {
    let candidates = [tree.join("usr/lib/modules"), tree.join("lib/modules")];
    candidates.into_iter().find(|dir| dir.is_dir()).context("the packages hold no modules")
}

/// Copies the needed modules of an unpacked kernel, decompressed and indexed, to `into/lib/modules`.
pub fn prune(tree: &Path, release: &str, into: &Path) -> Result<()> {
    let from = tree.join("lib/modules").join(release);
    move_to_lib(tree, release, &from)?;
    depmod(tree, release)?;
    let dependencies = parse_dep(&read(&from.join("modules.dep"))?);
    let builtin = read(&from.join("modules.builtin")).unwrap_or_default();
    check_required(dependencies.keys().map(String::as_str).chain(builtin.lines()))?;

    let to = into.join("lib/modules").join(release);
    if to.exists() {
        fs::remove_dir_all(&to)?;
    }
    for module in closure(&dependencies) {
        copy(&from.join(&module), &to.join(&module))?;
    }
    decompress(&to)?;
    for index in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        if from.join(index).exists() {
            fs::copy(from.join(index), to.join(index))?;
        }
    }
    depmod(into, release)
}

/// Moves the modules into `lib/modules`, the only place in which `depmod -b` looks.
fn move_to_lib(tree: &Path, release: &str, to: &Path) -> Result<()> {
    let from = folder(tree)?.join(release);
    if from != to {
        paths::create(&tree.join("lib/modules"))?;
        fs::rename(&from, to).context("moving the modules")?;
    }
    Ok(())
}

fn depmod(base: &Path, release: &str) -> Result<()> {
    let depmod = paths::find_program("depmod").context("depmod is missing: apt-get install kmod")?;
    command::capture(Command::new(depmod).arg("-b").arg(base).arg(release)).map(drop)
}

/// Parses `modules.dep`: module path -> paths of all modules that it needs.
fn parse_dep(text: &str) -> BTreeMap<String, Vec<String>> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(module, needs)| (module.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
        .collect()
}

/// Wanted modules and everything that they depend on (`modules.dep` is transitive already).
fn closure(dependencies: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
    let wanted = dependencies.iter().filter(|(module, _)| is_wanted(module));
    wanted.flat_map(|(module, needs)| needs.iter().chain([module])).cloned().collect()
}

fn is_wanted(module: &str) -> bool {
    let path = module.strip_prefix("kernel/").unwrap_or(module);
    WANTED.iter().any(|prefix| path.starts_with(prefix))
}

fn check_required<'a>(modules: impl Iterator<Item = &'a str>) -> Result<()> {
    let present: BTreeSet<String> = modules.map(module_name).collect();
    let missing: Vec<_> = REQUIRED.iter().copied().filter(|name| !present.contains(*name)).collect();
    if !missing.is_empty() {
        bail!("this kernel lacks {}", missing.join(", "));
    }
    Ok(())
}

/// Name under which `modprobe` knows a module's file.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        paths::create(parent)?;
    }
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    Ok(())
}

/// Decompresses every module once, so that guests need no decompressor and the image compresses better.
fn decompress(dir: &Path) -> Result<()> {
    for (extension, program) in [("xz", "xz"), ("zst", "zstd"), ("gz", "gzip")] {
        let script = format!(
            "find . -name '*.ko.{extension}' -print0 | xargs -0 -r -n 64 {program} -d -q{}",
            if program == "zstd" { " --rm" } else { "" }
        );
        command::capture(Command::new("sh").args(["-c", &script]).current_dir(dir))
            .context("decompressing modules")?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/net/netfilter/ipvs/ip_vs.ko.xz: kernel/net/netfilter/nf_conntrack.ko.xz kernel/lib/libcrc32c.ko.xz
kernel/net/netfilter/nf_conntrack.ko.xz: kernel/lib/libcrc32c.ko.xz
kernel/drivers/net/virtio_net.ko.xz: kernel/net/core/failover.ko.xz
kernel/drivers/net/wireguard/wireguard.ko.xz: kernel/lib/crypto/libchacha.ko.xz
kernel/fs/ext4/ext4.ko.xz:
";

    #[test]
    fn closure_keeps_wanted_modules_and_their_needs() {
        let kept = closure(&parse_dep(DEP));
        let expected = [
            "kernel/drivers/net/virtio_net.ko.xz",
            "kernel/lib/libcrc32c.ko.xz",
            "kernel/net/core/failover.ko.xz",
            "kernel/net/netfilter/ipvs/ip_vs.ko.xz",
            "kernel/net/netfilter/nf_conntrack.ko.xz",
        ];
        assert_eq!(kept.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn missing_modules_are_named() {
        let names = REQUIRED.iter().filter(|name| **name != "ip_vs_mh" && **name != "sctp");
        let paths: Vec<_> = names.map(|name| format!("kernel/x/{name}.ko.xz")).collect();
        let error = check_required(paths.iter().map(String::as_str)).expect_err("two are missing");
        assert_eq!(error.to_string(), "this kernel lacks ip_vs_mh, sctp");
    }

    #[test]
    fn names_have_underscores() {
        assert_eq!(module_name("kernel/drivers/char/hw_random/virtio-rng.ko.zst"), "virtio_rng");
    }
}
