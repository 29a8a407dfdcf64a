//! Contents of a guest: tools of the host, the kernel's modules, and the files of the run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufWriter, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::cpio::{Archive, Node};
use crate::{command, kernels::Kernel, paths};

/// Programs that every guest has, copied from the host.
const TOOLS: &[&str] =
    &["busybox", "conntrack", "dash", "env", "ip", "ipvsadm", "kmod", "nft", "ping", "ss", "sysctl"];

/// Programs that a guest has if the host does. Those of coreutils and util-linux are there because
/// busybox starts its own `ip` and not iproute2 when one of its applets is the parent.
const OPTIONAL_TOOLS: &[&str] = &[
    "bash",
    "bridge",
    "ipset",
    "iptables",
    "ip6tables",
    "nsenter",
    "setsid",
    "strace",
    "tc",
    "tcpdump",
    "timeout",
    "unshare",
    "xargs",
];

/// Files and folders of the host that are copied to the same place.
const SHARED: &[&str] = &["/etc/protocols", "/etc/services", "/etc/iproute2", "/usr/share/iproute2"];

const INIT: &str = include_str!("init.sh");

/// Folder of busybox's applets; last in `PATH`, so that they never hide a real program.
const APPLETS: &str = "usr/lib/busybox";

#[derive(Debug)]
enum Entry {
    Folder,
    Bytes(Vec<u8>, u32),
    Host(PathBuf),
    Link(String),
}

/// The contents of a guest's file system under construction.
#[derive(Debug, Default)]
pub struct Image {
    /// Paths relative to the root; sorted, so that parents come first.
    entries: BTreeMap<String, Entry>,
}

impl Image {
    /// The image from which every run starts.
    pub fn new(kernel: &Kernel) -> Result<Self> {
        let mut image = Self::default();
        image.add_skeleton();
        image.add_bytes("/init", INIT.as_bytes(), 0o755);
        let missing: Vec<_> = TOOLS.iter().filter(|tool| paths::find_program(tool).is_none()).collect();
        if !missing.is_empty() {
            bail!("guests need these programs, run `cargo xtask setup`: {missing:?}");
        }
        image.add_busybox()?;
        for tool in TOOLS.iter().chain(OPTIONAL_TOOLS).filter(|tool| **tool != "busybox") {
            if let Some(host) = paths::find_program(tool) {
                image.add_program(&host, &format!("/usr/bin/{tool}"))?;
            }
        }
        image.add_link("/usr/bin/sh", "dash");
        image.add_link("/usr/sbin/modprobe", "../bin/kmod");
        image.add_link("/usr/bin/lsmod", "kmod");
        let agent = std::env::current_exe().context("finding this program")?;
        image.add_built(&agent, "/usr/lib/guest/agent")?;
        for shared in SHARED.iter().filter(|path| Path::new(path).exists()) {
            image.add_tree(Path::new(shared), shared)?;
        }
        image.add_tree(&kernel.modules(), &format!("/lib/modules/{}", kernel.release))?;
        Ok(image)
    }

    fn add_skeleton(&mut self) {
        for dir in ["dev", "proc", "sys", "run", "tmp", "root", "mnt", "etc", "usr/bin", "usr/sbin"] {
            self.insert(dir, Entry::Folder);
        }
        for (link, target) in
            [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
        {
            self.entries.insert(link.to_owned(), Entry::Link(target.to_owned()));
        }
        self.insert("var", Entry::Folder);
        self.add_link("/var/run", "/run");
        self.add_bytes("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644);
        self.add_bytes("/etc/group", b"root:x:0:\n", 0o644);
        self.add_bytes("/etc/hosts", b"127.0.0.1 localhost guest\n::1 localhost\n", 0o644);
    }

    fn add_busybox(&mut self) -> Result<()> {
        let busybox = paths::find_program("busybox").context("busybox is missing")?;
        self.add_program(&busybox, &format!("/{APPLETS}/busybox"))?;
        let applets = command::capture(Command::new(&busybox).arg("--list"))?;
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            self.add_link(&format!("/{APPLETS}/{applet}"), "busybox");
        }
        Ok(())
    }

    /// Adds a file of the host as it is.
    pub fn add_file(&mut self, host: &Path, guest: &str) -> Result<()> {
        if !host.is_file() {
            bail!("{} is not a file", host.display());
        }
        self.insert(guest, Entry::Host(host.to_owned()));
        Ok(())
    }

    /// Adds a program of the host and the libraries that it is linked with.
    pub fn add_program(&mut self, host: &Path, guest: &str) -> Result<()> {
        self.add_file(host, guest)?;
        for library in libraries(host)? {
            self.add_file(&library, &library.to_string_lossy())?;
        }
        Ok(())
    }

    /// Adds a program that cargo has just built, without its debugging information.
    pub fn add_built(&mut self, host: &Path, guest: &str) -> Result<()> {
        self.add_program(&strip(host)?, guest)
    }

    /// Adds an empty folder.
    pub fn add_folder(&mut self, guest: &str) {
        self.insert(guest, Entry::Folder);
    }

    /// Adds a file with these contents.
    pub fn add_bytes(&mut self, guest: &str, contents: &[u8], mode: u32) {
        self.insert(guest, Entry::Bytes(contents.to_vec(), mode));
    }

    /// Adds a file, or a folder with all that is below it.
    pub fn add_tree(&mut self, host: &Path, guest: &str) -> Result<()> {
        if !host.is_dir() {
            return self.add_file(host, guest);
        }
        self.insert(guest, Entry::Folder);
        for entry in fs::read_dir(host).with_context(|| format!("reading {}", host.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().context("a file name that is not UTF-8")?;
            self.add_tree(&entry.path(), &format!("{guest}/{name}"))?;
        }
        Ok(())
    }

    fn add_link(&mut self, guest: &str, target: &str) {
        self.insert(guest, Entry::Link(target.to_owned()));
    }

    fn insert(&mut self, guest: &str, entry: Entry) {
        let path = merge_usr(guest);
        for (index, _) in path.match_indices('/') {
            self.entries.entry(path[..index].to_owned()).or_insert(Entry::Folder);
        }
        self.entries.insert(path, entry);
    }

    /// Writes the image as an uncompressed archive: to unpack a compressed one takes an emulated processor
    /// longer than to copy it.
    pub fn write(&self, to: &Path) -> Result<()> {
        let file = File::create(to).with_context(|| format!("creating {}", to.display()))?;
        let mut archive = Archive::new(BufWriter::new(file));
        for (path, entry) in &self.entries {
            append(&mut archive, path, entry).with_context(|| format!("adding {path} to the guest"))?;
        }
        archive.finish()?.flush().with_context(|| format!("writing {}", to.display()))
    }
}

fn append(archive: &mut Archive<impl Write>, path: &str, entry: &Entry) -> Result<()> {
    match entry {
        Entry::Folder => archive.append(path, Node::Folder)?,
        Entry::Link(target) => archive.append(path, Node::Link(target))?,
        Entry::Bytes(contents, mode) => archive.append(path, Node::File { mode: *mode, contents })?,
        Entry::Host(host) => {
            let contents = fs::read(host).with_context(|| format!("reading {}", host.display()))?;
            let mode = fs::metadata(host)?.permissions().mode() & 0o777;
            archive.append(path, Node::File { mode, contents: &contents })?;
        }
    }
    Ok(())
}

/// Path in the guest, where, as in Debian, `/bin`, `/sbin` and `/lib*` are links into `/usr`.
fn merge_usr(guest: &str) -> String {
    let path = guest.trim_matches('/');
    let top = path.split('/').next().unwrap_or(path);
    if ["bin", "sbin", "lib", "lib64"].contains(&top) { format!("usr/{path}") } else { path.to_owned() }
}

/// The shared libraries of a program, as `ldd` resolves them; none for static programs and scripts.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = command::capture_any(Command::new("ldd").arg(program))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(line) = text.lines().find(|line| line.contains("not found")) {
        bail!("{} needs a library that is missing: {}", program.display(), line.trim());
    }
    Ok(parse_ldd(&text))
}

/// The absolute paths in `ldd`'s lines `name => /path (address)` and `/path (address)`.
fn parse_ldd(text: &str) -> BTreeSet<PathBuf> {
    let words = text.lines().flat_map(str::split_whitespace);
    words.filter(|word| word.starts_with('/')).map(|word| PathBuf::from(word.trim_end_matches(':'))).collect()
}

/// Copies a program without debugging information; makes the copy anew only when the program has changed.
fn strip(program: &Path) -> Result<PathBuf> {
    let dir = paths::guest_output()?.join("stripped");
    paths::create(&dir)?;
    // Programs of several profiles have the same name.
    let name = program.to_string_lossy().trim_start_matches('/').replace('/', "-");
    let stripped = dir.join(&name);
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    if modified(&stripped).is_some_and(|copy| Some(copy) > modified(program)) {
        return Ok(stripped);
    }
    let scratch = dir.join(format!(".{name}-{}", std::process::id()));
    let result =
        command::capture(Command::new("strip").args(["--strip-debug", "-o"]).arg(&scratch).arg(program));
    if result.is_err() {
        return Ok(program.to_owned());
    }
    fs::rename(&scratch, &stripped)?;
    Ok(stripped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_below_usr() {
        assert_eq!(merge_usr("/bin/kube-ipvs"), "usr/bin/kube-ipvs");
        assert_eq!(merge_usr("/lib64/ld-linux-x86-64.so.2"), "usr/lib64/ld-linux-x86-64.so.2");
        assert_eq!(merge_usr("/binary"), "binary");
    }

    #[test]
    fn parents_are_added_and_sorted_first() {
        let mut image = Image::default();
        image.add_bytes("/a/b/c", b"", 0o644);
        assert_eq!(image.entries.keys().collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
    }

    #[test]
    fn libraries_of_a_program() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_ldd(text), expected.iter().map(PathBuf::from).collect());
        assert!(parse_ldd("\tnot a dynamic executable\n").is_empty());
    }
}
