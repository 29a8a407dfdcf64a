//! The configuration file, watched by its content: editors rename files, and a ConfigMap swaps links.

use std::{thread, time::Duration};

use proxy_config::ConfigFile;
use tracing::{error, info};

use crate::{
    config::Settings,
    invocation::{CommandLine, Invocation},
    source,
};

/// Time between two looks at the file.
const PERIOD: Duration = Duration::from_secs(1);

/// Time for which a new content must stay the same: somebody may still be writing it.
const SETTLING_TIME: Duration = Duration::from_millis(500);

/// A configuration file, and what it said so far.
pub struct ConfigWatch {
    line: CommandLine,
    /// Content, or the error of the attempt to read it, at the last look.
    seen: Result<Option<String>, String>,
    /// Configuration in force.
    current: ConfigFile,
    /// Reason for which the source of a valid configuration cannot be opened yet.
    unopened: Option<String>,
}

/// Result of a look at the file.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// Nothing new.
    Same,
    /// Other words for the same configuration.
    SameMeaning,
    /// A configuration that cannot be, and the reason.
    Invalid(String),
    /// Another configuration.
    Changed,
}

/// Watch of the file that a command line names, if it names one; `text` is what has made the invocation.
pub fn of(line: &CommandLine, text: Option<String>, invocation: &Invocation) -> Option<ConfigWatch> {
    let current = invocation.config.clone();
    line.file().map(|_| ConfigWatch { line: line.clone(), seen: Ok(text), current, unopened: None })
}

impl ConfigWatch {
    /// Waits until the file has another valid configuration.
    pub fn wait(&mut self) {
        let path = self.line.file().unwrap_or_default();
        let path = path.display();
        loop {
            thread::sleep(PERIOD);
            let now = self.settled();
            match self.compare(now) {
                Look::Same => {}
                Look::SameMeaning => info!("{path} has changed, and means the same"),
                Look::Invalid(reason) => {
                    error!("{path} has changed, but the configuration before stays in force: {reason}");
                }
                Look::Changed => return info!("{path} has changed: starts again with its configuration"),
            }
        }
    }

    fn read(&self) -> Result<Option<String>, String> {
        self.line.read_file().map_err(|error| format!("{error:#}"))
    }

    /// Reads the file; a content that is new, once nobody writes it any more.
    fn settled(&self) -> Result<Option<String>, String> {
        let mut now = self.read();
        while now != self.seen {
            thread::sleep(SETTLING_TIME);
            let then = std::mem::replace(&mut now, self.read());
            if now == then {
                break;
            }
        }
        now
    }

    #[cfg(test)]
    fn look(&mut self) -> Look {
        let now = self.read();
        self.compare(now)
    }

    fn compare(&mut self, now: Result<Option<String>, String>) -> Look {
        let is_same = now == self.seen;
        if is_same && self.unopened.is_none() {
            return Look::Same;
        }
        self.seen = now;
        let checked = self.seen.as_ref().map_err(String::clone).and_then(|text| {
            let invocation =
                Invocation::new(&self.line, text.as_deref()).map_err(|error| format!("{error:#}"))?;
            let settings = Settings::new(&invocation).map_err(|error| error.to_string())?;
            Ok((settings, invocation.config))
        });
        let before = self.unopened.take();
        match checked {
            Err(reason) => Look::Invalid(one_line(&reason)),
            Ok((_, config)) if config == self.current => Look::SameMeaning,
            // Files that it names may be written later.
            Ok((settings, _)) => {
                match source::check(&settings).map_err(|error| one_line(&format!("{error:#}"))) {
                    Ok(()) => Look::Changed,
                    Err(reason) => {
                        self.unopened = Some(reason.clone());
                        if is_same && before.as_ref() == Some(&reason) {
                            Look::Same
                        } else {
                            Look::Invalid(reason)
                        }
                    }
                }
            }
        }
    }
}

/// A list of mistakes on one line of the log.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use testkit::TempDir;

    use super::*;
    use crate::invocation::testing;

    fn file(fields: &str) -> String {
        format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n{fields}"
        )
    }

    fn watch(path: &Path) -> ConfigWatch {
        let config = format!("--config={}", path.display());
        let line = testing::command_line(&[&config, "--master=https://10.0.0.1:6443"]);
        let text = line.read_file().unwrap();
        let invocation = Invocation::new(&line, text.as_deref()).unwrap();
        of(&line, text, &invocation).unwrap()
    }

    /// Conformance: app TestConfigChange
    #[test]
    fn only_another_valid_configuration_is_a_change() {
        let dir = TempDir::new("config-watch");
        let path = dir.path().join("config.conf");
        fs::write(&path, file("")).unwrap();
        let mut watch = watch(&path);
        let mut look_at = |text: &str| {
            fs::write(&path, text).unwrap();
            watch.look()
        };
        assert_eq!(look_at(&file("")), Look::Same);
        assert_eq!(look_at(&file("# for the reader\nipvs: {syncPeriod: 0s}\n")), Look::SameMeaning);
        for (text, reason) in [
            (file("ipvs: {scheduler: fair}\n"), "ipvs.scheduler: "),
            (file("ipvs: [\n"), "line 4: "),
            (file("mode: iptables\n"), "mode: "),
            (String::new(), "is empty"),
            (file("clientConnection: {kubeconfig: /no/such/file}\n"), "/no/such/file"),
        ] {
            let look = look_at(&text);
            let is_listed = |got: &str| got.contains(reason) && !got.contains('\n');
            assert!(matches!(&look, Look::Invalid(got) if is_listed(got)), "{text}: {look:?}");
            assert_eq!(look_at(&text), Look::Same, "is reported once");
        }
        assert_eq!(look_at(&file("ipvs: {scheduler: lc}\n")), Look::Changed);
    }

    /// The new start would end, and with it the process that serves.
    #[test]
    fn a_configuration_without_a_source_is_no_change() {
        // In a Pod there is a source always.
        if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
            return;
        }
        let dir = TempDir::new("config-watch-source");
        let path = dir.path().join("config.conf");
        let named = format!(
            "{}---\napiVersion: kube-ipvs.io/v1alpha1\nkind: KubeIpvsConfiguration\nmanifests: {}\n",
            file(""),
            dir.path().display()
        );
        fs::write(&path, named).unwrap();
        let line = testing::command_line(&[&format!("--config={}", path.display())]);
        let text = line.read_file().unwrap();
        let invocation = Invocation::new(&line, text.as_deref()).unwrap();
        let mut watch = of(&line, text, &invocation).unwrap();
        fs::write(&path, file("")).unwrap();
        let look = watch.look();
        assert!(
            matches!(&look, Look::Invalid(reason) if reason.contains("no address of the API server")),
            "{look:?}"
        );
    }

    #[test]
    fn a_content_that_is_still_written_is_waited_for() {
        let dir = TempDir::new("config-watch-settles");
        let path = dir.path().join("config.conf");
        fs::write(&path, file("")).unwrap();
        let watch = watch(&path);
        let whole = file("ipvs: {scheduler: lc}\n");
        thread::scope(|scope| {
            scope.spawn(|| {
                for length in [20, 60, whole.len()] {
                    fs::write(&path, &whole[..length]).unwrap();
                    thread::sleep(SETTLING_TIME / 2);
                }
            });
            testkit::wait_until(Duration::from_secs(5), "somebody writes", || watch.read() != watch.seen);
            assert_eq!(watch.settled(), Ok(Some(whole.clone())));
        });
    }

    #[test]
    fn a_kubeconfig_that_comes_later_is_a_change_then() {
        let dir = TempDir::new("config-watch-kubeconfig");
        let (path, kubeconfig) = (dir.path().join("config.conf"), dir.path().join("kubeconfig"));
        fs::write(&path, file("")).unwrap();
        let mut watch = watch(&path);
        let named = format!("clientConnection: {{kubeconfig: {}}}\n", kubeconfig.display());
        fs::write(&path, file(&named)).unwrap();
        assert!(matches!(watch.look(), Look::Invalid(_)));
        assert_eq!(watch.look(), Look::Same, "is reported once");
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
                    clusters: [{name: c, cluster: {server: 'https://10.0.0.1:6443'}}]\n\
                    contexts: [{name: c, context: {cluster: c, user: u}}]\n\
                    users: [{name: u, user: {token: t}}]\n";
        fs::write(&kubeconfig, text).unwrap();
        assert_eq!(watch.look(), Look::Changed);
    }

    #[test]
    fn a_config_map_that_swaps_its_links_is_a_change_and_a_file_that_is_away_is_none() {
        let dir = TempDir::new("config-map");
        for (name, scheduler) in [("..1", "rr"), ("..2", "lc")] {
            fs::create_dir(dir.path().join(name)).unwrap();
            let text = file(&format!("ipvs: {{scheduler: {scheduler}}}\n"));
            fs::write(dir.path().join(name).join("config.conf"), text).unwrap();
        }
        let (data, swap) = (dir.path().join("..data"), dir.path().join("..data_tmp"));
        symlink("..1", &data).unwrap();
        let path = dir.path().join("config.conf");
        symlink("..data/config.conf", &path).unwrap();
        let mut watch = watch(&path);
        assert_eq!(watch.look(), Look::Same);
        fs::remove_file(&data).unwrap();
        assert!(matches!(watch.look(), Look::Invalid(reason) if reason.contains("No such file")));
        symlink("..2", &swap).unwrap();
        fs::rename(&swap, &data).unwrap();
        assert_eq!(watch.look(), Look::Changed);
    }
}
