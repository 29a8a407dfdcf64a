//! Checks of a finished image: other programs read it, and its own runs where there is nothing else, also on a
//! kernel with IPVS.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use serde_json::Value;

use super::{Built, Ingredients, PROGRAM_PATH, VERSION, layout, tag, target_dir};
use crate::{
    command,
    guest::{self, protocol::Task},
    kernels, paths, setup,
    tally::Tally,
};

/// Commands that plan for the examples as in a container: nothing of the guest is in reach but its kernel.
const PLAN: &str = "mkdir -p /image/proc && mount -t proc proc /image/proc && exec chroot /image \
    /usr/local/bin/kube-ipvs plan --manifests /manifests --hostname-override demo-node";

/// Time in milliseconds that the plan may take in an emulated machine.
const PLAN_TIMEOUT_MS: u64 = 60_000;

/// A check, with what it checks.
type Check = (&'static str, fn(&Proof) -> Result<()>);

/// Checks that read the image with a program of others.
const READERS: &[Check] = &[
    ("skopeo finds command and labels", Proof::inspect),
    ("skopeo makes a Docker archive of it", Proof::convert),
    ("the bill of materials goes along with a copy", Proof::copy_all),
];
/// Checks that run the program in an empty root.
const RUNS: &[Check] = &[("kube-ipvs version and kube-proxy version", Proof::version)];
/// Folder with the contents of the image, in the one of the image.
const ROOT: &str = "root";
/// Number of all checks, with those of the build and of packing twice.
const CHECKS: usize = 2 + READERS.len() + RUNS.len();

/// Builds the image and counts each check; skips all where compiler or sources are not to be had.
pub fn check(tally: &mut Tally) -> Result<()> {
    let _ = fs::remove_dir_all(folder()?);
    let lack = "compiler or sources for musl cannot be fetched";
    let Some(ingredients) = tally.have(Ingredients::prepare(), "image", lack, CHECKS) else { return Ok(()) };
    // A program that is not static, or too large, ends here.
    let built = ingredients.build(&target_dir()?)?;
    tally.pass();
    let packed_again = ingredients.pack(built.program.clone(), built.sbom.clone())?;
    if packed_again.archive == built.archive {
        tally.pass();
    } else {
        tally.fail("image", "one program gives two images");
    }
    let proof = Proof::lay_out(&built)?;
    print!("{}", built.report(&proof.archive));
    let skopeo = setup::ensure_also(&["skopeo"]);
    if tally.have(skopeo, "image", "skopeo cannot be installed", READERS.len()).is_some() {
        proof.run(READERS, tally);
    }
    if rustix::process::geteuid().is_root() {
        proof.run(RUNS, tally);
    } else {
        tally.skip_many("image", "only root may run it in an empty root", RUNS.len());
    }
    Ok(())
}

/// Plans with the image of [`check`] on a real kernel.
pub fn check_in_guest(tally: &mut Tally) -> Result<()> {
    let root = folder()?.join(ROOT);
    if !root.join(PROGRAM_PATH).exists() {
        tally.skip("image in a guest", "there is no image, see above");
        return Ok(());
    }
    let kernel = kernels::ensure(kernels::series(kernels::DEFAULT_SERIES)?)?;
    let mut image = guest::image::Image::new(&kernel)?;
    image.add_tree(&root, "/image")?;
    image.add_tree(&paths::repository().join("manifests/examples"), "/image/manifests")?;
    let mut session = guest::boot(&kernel, &image, guest::MEMORY_MIB, "image")?;
    let argv = ["sh", "-c", PLAN].map(str::to_owned).into();
    let mut printed = Vec::new();
    let task = Task { argv, env: Vec::new(), timeout_ms: PLAN_TIMEOUT_MS };
    let outcome = session.run(&task, |bytes| printed.extend_from_slice(bytes))?;
    session.quit();
    let printed = String::from_utf8_lossy(&printed);
    if outcome.code == Some(0) && printed.contains(" writes\n") {
        tally.pass();
    } else {
        let problem = outcome.problem().unwrap_or_default();
        println!("{printed}{problem}");
        tally.fail("image in a guest", "kube-ipvs plan failed, see above");
    }
    Ok(())
}

/// Folder of the image that is checked.
fn folder() -> Result<PathBuf> {
    Ok(target_dir()?.join("image"))
}

/// An image on disk.
struct Proof {
    dir: PathBuf,
    archive: PathBuf,
    digest: String,
}

impl Proof {
    fn lay_out(built: &Built) -> Result<Self> {
        let dir = folder()?;
        paths::create(&dir)?;
        let archive = dir.join("kube-ipvs.tar");
        built.write(&archive)?;
        Ok(Self { dir, archive, digest: built.digest.clone() })
    }

    fn run(&self, checks: &[Check], tally: &mut Tally) {
        for (what, check) in checks {
            match check(self) {
                Ok(()) => tally.pass(),
                Err(error) => tally.fail(&format!("image: {what}"), &format!("{error:#}")),
            }
        }
    }

    /// Name of the image for skopeo.
    fn source(&self) -> String {
        format!("oci-archive:{}:{}", self.archive.display(), tag())
    }

    fn inspect(&self) -> Result<()> {
        let config = skopeo(&["inspect", "--config", &self.source()])?;
        let config: Value = serde_json::from_str(&config).context("reading the output of skopeo")?;
        let config = &config["config"];
        ensure!(config["Entrypoint"][0] == format!("/{PROGRAM_PATH}"), "it finds {config}");
        ensure!(config["Labels"]["org.opencontainers.image.version"] == VERSION, "it finds {config}");
        Ok(())
    }

    fn convert(&self) -> Result<()> {
        let to = self.dir.join("docker.tar");
        let _ = fs::remove_file(&to);
        let result =
            skopeo(&["copy", &self.source(), &format!("docker-archive:{}:kube-ipvs:x", to.display())]);
        let _ = fs::remove_file(&to);
        result.map(|_| ())
    }

    /// Copies everything, as to a registry, and looks for the bill of materials in the copy.
    fn copy_all(&self) -> Result<()> {
        let to = self.dir.join("copy");
        let _ = fs::remove_dir_all(&to);
        paths::create(&to)?;
        let copy = format!("oci:{}:{}", to.display(), tag());
        skopeo(&["copy", "--all", "--preserve-digests", &self.source(), &copy])?;
        let index = read_json(&to.join("index.json"))?;
        ensure!(
            index["manifests"][0]["digest"] == self.digest.as_str(),
            "the copy has another digest: {index}"
        );
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap_or_default();
            read_json(&to.join("blobs").join(digest.replace(':', "/")))
        };
        let image = blob(&index["manifests"][0])?;
        let attached = blob(&image["manifests"][1])?;
        ensure!(attached["artifactType"] == layout::SBOM, "it is {attached}");
        ensure!(attached["subject"]["digest"] == image["manifests"][0]["digest"], "it is about {attached}");
        let sbom = blob(&attached["layers"][0])?;
        ensure!(sbom["metadata"]["component"]["name"] == "kube-ipvs", "it is about {}", sbom["metadata"]);
        Ok(())
    }

    fn version(&self) -> Result<()> {
        let root = self.empty_root()?;
        let expected = format!("kube-ipvs {VERSION}\n");
        for name in ["kube-ipvs", "kube-proxy"] {
            let printed = command::capture(in_root(&root, name)?.arg("version"))?;
            ensure!(printed == expected, "{name} version prints {printed:?}");
        }
        Ok(())
    }

    /// The layer as skopeo or a runtime would unpack it, and nothing else.
    fn empty_root(&self) -> Result<PathBuf> {
        let (root, copy) = (self.dir.join(ROOT), self.dir.join("layout"));
        let _ = fs::remove_dir_all(&root);
        tar::Archive::new(fs::File::open(&self.archive)?).unpack(&copy)?;
        let blob =
            |digest: &Value| copy.join("blobs").join(digest.as_str().unwrap_or_default().replace(':', "/"));
        let top = read_json(&copy.join("index.json"))?;
        let index = read_json(&blob(&top["manifests"][0]["digest"]))?;
        let manifest = read_json(&blob(&index["manifests"][0]["digest"]))?;
        let layer = fs::File::open(blob(&manifest["layers"][0]["digest"]))?;
        tar::Archive::new(GzDecoder::new(layer)).unpack(&root)?;
        Ok(root)
    }
}

fn skopeo(arguments: &[&str]) -> Result<String> {
    // Debian's policy for signatures is in a package that is not needed otherwise.
    command::capture(Command::new("skopeo").arg("--insecure-policy").args(arguments))
}

fn in_root(root: &Path, program: &str) -> Result<Command> {
    let mut command = Command::new(paths::find_program("chroot").context("chroot is missing")?);
    command.arg(root).arg(format!("/usr/local/bin/{program}")).env_clear();
    Ok(command)
}

fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
}
