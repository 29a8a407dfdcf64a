//! `cargo xtask manifests`: the objects that a cluster gets, written out.
//!
//! kubectl renders the overlays and patches into `manifests/rendered`, which tests without these programs check; the
//! Helm chart must give the same objects, and all must be valid in the releases of Kubernetes that `schemas` names.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    command, paths, schemas,
    tally::Tally,
    tools::{self, Renderers},
};

/// `cargo xtask manifests`.
#[derive(Debug, Args)]
pub struct Manifests {
    /// Writes nothing, and fails if a file is out of date or the chart gives other objects.
    #[arg(long)]
    check: bool,
}

/// Overlays, and the values by which the chart gives the same objects.
const OVERLAYS: &[(&str, Option<&str>)] = &[
    ("standalone", None),
    ("debug", Some("values-debug.yaml")),
    ("hardened", Some("values-hardened.yaml")),
    ("kubeadm", Some("values-kubeadm.yaml")),
];
/// Patches for kubeadm's DaemonSet.
const PATCHES: &[&str] = &["in-place", "rollback"];
/// Text that the chart must give, and how often.
type Given = (&'static str, usize);
/// Values of the chart that no overlay has, with what they must give.
const VALUES: &[(&[&str], &[Given])] = &[
    (
        &["kubeProxyConfiguration.healthzBindAddress=127.0.0.1:10300"],
        &[("containerPort: 10300", 1), ("host: \"127.0.0.1\"", 3)],
    ),
    (&["healthzBindAddress=[fd00::1]:10300"], &[("containerPort: 10300", 1), ("host: \"fd00::1\"", 3)]),
    (&["healthzBindAddress=0.0.0.0:10256"], &[("containerPort: 10256", 1), ("host:", 0)]),
    (
        &["kubeProxyConfiguration.metricsBindAddress=[::]:10350"],
        &[("containerPort: 10350", 1), ("containerPort: 10256", 1)],
    ),
    (
        &[
            "extraVolumes[0].name=kubeconfig",
            "extraVolumeMounts[0].name=kubeconfig",
            "extraVolumeMounts[0].mountPath=/etc/kubernetes/kube-proxy.conf",
            "extraEnv[0].name=NO_PROXY",
            "tolerations[0].key=only-these",
            "nodeSelector.disk=ssd",
        ],
        &[
            ("      - name: kubeconfig\n", 1),
            ("mountPath: /etc/kubernetes/kube-proxy.conf\n", 2),
            ("        - name: NO_PROXY\n", 1),
            ("key: only-these\n", 1),
            ("        disk: ssd\n", 1),
        ],
    ),
];
/// Number of files and comparisons.
const CHECKS: usize = 2 * OVERLAYS.len() + PATCHES.len() + VALUES.len();

const HEAD: &str = "# Written by `cargo xtask manifests`.\n";

/// A file in `manifests/rendered`.
struct Rendered {
    path: PathBuf,
    text: String,
}

impl Manifests {
    /// Writes or checks the files.
    pub fn run(&self) -> Result<ExitCode> {
        let renderers = tools::renderers()?;
        let mut tally = Tally::default();
        if self.check {
            check_with(&renderers, &mut tally)?;
        } else {
            for file in renderers.files()? {
                paths::create(&manifests().join("rendered"))?;
                fs::write(&file.path, file.text)
                    .with_context(|| format!("writing {}", file.path.display()))?;
            }
            renderers.check_chart(&mut tally)?;
        }
        schemas::check(&mut tally)?;
        tally.print_details();
        Ok(tally.exit_code())
    }
}

/// Counts each file and each comparison; skips all where kubectl and helm are not to be had.
pub fn check(tally: &mut Tally) -> Result<()> {
    let lack = "kubectl and helm cannot be fetched";
    match tally.have(tools::renderers(), "manifests", lack, CHECKS) {
        Some(renderers) => check_with(&renderers, tally),
        None => Ok(()),
    }
}

fn check_with(renderers: &Renderers, tally: &mut Tally) -> Result<()> {
    for Rendered { path, text } in renderers.files()? {
        let shown = path.strip_prefix(paths::repository()).unwrap_or(&path).display().to_string();
        if fs::read_to_string(&path).is_ok_and(|written| written == text) {
            tally.pass();
        } else {
            tally.fail(&shown, "it is out of date: run cargo xtask manifests");
        }
    }
    renderers.check_chart(tally)
}

fn manifests() -> PathBuf {
    paths::repository().join("manifests")
}

impl Renderers {
    /// Renders every file.
    fn files(&self) -> Result<Vec<Rendered>> {
        let overlays = OVERLAYS.iter().map(|(name, _)| Ok(((*name).to_owned(), self.overlay(name)?)));
        let patches = PATCHES.iter().map(|name| Ok((format!("kubeadm-{name}"), self.patched(name)?)));
        overlays
            .chain(patches)
            .map(|rendered: Result<_>| {
                let (name, text) = rendered?;
                let path = manifests().join("rendered").join(name).with_extension("yaml");
                Ok(Rendered { path, text: HEAD.to_owned() + &text })
            })
            .collect()
    }

    /// Compares the chart with each overlay.
    fn check_chart(&self, tally: &mut Tally) -> Result<()> {
        for (name, values) in OVERLAYS {
            let (chart, overlay) =
                (self.normalised(&self.chart(*values, &[])?)?, self.normalised(&self.overlay(name)?)?);
            if chart == overlay {
                tally.pass();
                continue;
            }
            println!("the chart gives for {name}:\n{chart}\nand the overlay:\n{overlay}");
            tally.fail(
                &format!("manifests/helm for {name}"),
                "it gives other objects than the overlay, see above",
            );
        }
        for (values, expected) in VALUES {
            let chart = self.chart(None, values)?;
            match expected.iter().find(|(part, count)| chart.matches(*part).count() != *count) {
                None => tally.pass(),
                Some((part, count)) => tally.fail(
                    &format!("manifests/helm with {values:?}"),
                    &format!("{part:?} is not there {count} times"),
                ),
            }
        }
        Ok(())
    }

    fn overlay(&self, name: &str) -> Result<String> {
        self.kustomize(&manifests().join("overlays").join(name))
    }

    fn patched(&self, name: &str) -> Result<String> {
        let dir = manifests().join("kubeadm");
        let mut kubectl = Command::new(&self.kubectl);
        kubectl.args(["patch", "--local", "-o", "yaml", "-f"]).arg(dir.join("kube-proxy.yaml"));
        command::capture(kubectl.arg("--patch-file").arg(dir.join(name).with_extension("yaml")))
    }

    fn chart(&self, values: Option<&str>, settings: &[&str]) -> Result<String> {
        let chart = manifests().join("helm/kube-ipvs");
        let mut helm = Command::new(&self.helm);
        helm.args(["template", "--namespace", "kube-system", "kube-ipvs"]).arg(&chart);
        if let Some(values) = values {
            helm.arg("--values").arg(chart.join(values));
        }
        for setting in settings {
            helm.args(["--set-string", setting]);
        }
        command::capture(&mut helm)
    }

    /// Renders objects with sorted fields, in one order and without comments.
    fn normalised(&self, objects: &str) -> Result<String> {
        let dir = paths::target().join("manifests");
        paths::create(&dir)?;
        fs::write(dir.join("objects.yaml"), objects)?;
        fs::write(
            dir.join("kustomization.yaml"),
            "resources: [objects.yaml]\nsortOptions: {order: legacy}\n",
        )?;
        self.kustomize(&dir)
    }

    fn kustomize(&self, dir: &Path) -> Result<String> {
        command::capture(Command::new(&self.kubectl).arg("kustomize").arg(dir))
    }
}
