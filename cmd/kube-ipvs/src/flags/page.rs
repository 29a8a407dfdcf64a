//! `docs/flags.md`, rendered from the definition of the command line.

use std::fmt::Write as _;

use clap::{Arg, Command};
use proxy_config::{ConfigFile, Field, Kind};

use super::{command, without_effect};

const INTRODUCTION: &str = "\
# Flags

Every flag of kube-ipvs, with its default and the text of `--help`.
The program's own definition of its command line renders this page: `UPDATE_GOLDEN=1 cargo test -p kube-ipvs flags`.

- `_` in a name counts as `-`, as in kube-proxy: `--cluster_cidr`.
- Where a flag is given more than once, the last one counts; the values of lists add up, but for `--cluster-cidr`.
- Durations are written as in Go: `5s`, `1m30s`, `500ms`, `0`.
- A flag of the form `--NAME[=BOOL]` takes `true` and `false`; its name alone means `true`.
- `-h` and `--help` explain each command.
- Every flag of kube-proxy is accepted. [Those without effect](#flags-without-effect) are named in the log with the reason.
- `--config` names a file with the [same settings as fields](configuration.md).
";

const CONFIGURATION: &str = "\
# Configuration file

Every field of the file that `--config` names, with its flag, its default and its meaning.
The program's own definition renders this page: `UPDATE_GOLDEN=1 cargo test -p kube-ipvs flags`.

The file has a `KubeProxyConfiguration` as kube-proxy has it, a `KubeIpvsConfiguration`, or both, as YAML documents with `---` in between:

```yaml
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ipvs
clusterCIDR: 10.244.0.0/16
---
apiVersion: kube-ipvs.io/v1alpha1
kind: KubeIpvsConfiguration
gracefulTimeout: 10m
```

- **Defaults.** A field that is missing or `null` has its default, and so has an empty text (an empty duration is an error). In a `KubeProxyConfiguration`, so has `0` or `0s`, unless zero is a value of its own (`or 0` in the table). In a `KubeIpvsConfiguration` zero is zero.
- **Unknown fields** are ignored, and the last of several duplicates counts; a warning names path and line. A value of the wrong type, a document of another kind and broken YAML are errors. All mistakes are listed at once, those of the text with file and line; broken YAML hides the others.
- **Precedence.** With a `KubeProxyConfiguration` in the file, flags of kube-proxy that have a field are ignored, as in kube-proxy; a warning lists them. A file that has only our settings leaves them alone. `--hostname-override` and the flags of the log override the file, and so do the flags of `KubeIpvsConfiguration`. `--master` has no field.
- **Changes** to the file take effect within some seconds, however it is replaced: the process executes itself anew with the new configuration. Drains go on (unless the state directory is another one), and the kernel keeps serving meanwhile. If the new content is invalid, the log has an ERROR line and the old configuration stays in force.
- `kube-ipvs --write-config-to FILE` writes the configuration in effect.

Differences from kube-proxy:

- `mode` must be `ipvs` or empty, which means the same here.
- The default of `ipvs.minSyncPeriod` is 0 in files and on the command line; kube-proxy's flag has 1 s.
- The default of `healthzBindAddress` is `[::]:10256`, which answers in both families, unless `bindAddress` is an IPv4 address of the node.
- An empty `--healthz-bind-address` or `--metrics-bind-address` disables the server, and so does `--healthz-port=0` or `--metrics-port=0`. In kube-proxy, the former changes nothing, and `--metrics-port=0` is an error. In a file, an empty address means the default.
- `conntrack.maxPerCore` and `conntrack.min` never lower the kernel's limit, and a `conntrack.min` above 1,048,576 counts in full. A parameter that cannot be written is reported, and stops nothing.
- An unknown feature gate is a warning, not an error.
";

/// Heading of the flags that have none in `--help`.
const EVERY_COMMAND: &str = "Flags of every command";

#[test]
fn the_page_of_flags_says_what_the_program_takes() {
    testkit::assert_golden!("../../docs/flags.md", render_page(&command()));
}

#[test]
fn the_page_of_the_configuration_says_what_the_program_takes() {
    testkit::assert_golden!("../../docs/configuration.md", render_configuration(&command()));
}

/// A table for each kind of document.
fn render_configuration(program: &Command) -> String {
    let mut page = CONFIGURATION.to_owned();
    let fields = ConfigFile::default().fields();
    for kind in Kind::ALL {
        let head = "| field | flag | default | meaning |\n| --- | --- | --- | --- |";
        let _infallible = write!(page, "\n## {}\n\n{head}\n", kind.as_str());
        for field in fields.iter().filter(|field| field.document == kind) {
            page.push_str(&render_field(program, field));
        }
    }
    page
}

fn render_field(program: &Command, field: &Field) -> String {
    let arg = field.flag.and_then(|flag| program.get_arguments().find(|arg| arg.get_long() == Some(flag)));
    let flag = field.flag.map(|flag| format!("`--{flag}`")).unwrap_or_default();
    let own = || arg.map(render_default).unwrap_or_default();
    let default = field.value.as_ref().map_or_else(own, |value| format!("`{value}`"));
    let default = if default == "`\"\"`" || default == "`[]`" { String::new() } else { default };
    let zero = if field.zero_counts && !field.is_switch { " or 0" } else { "" };
    let meaning = match (arg, without_effect::why_field(&field.path)) {
        (Some(arg), _) => render_help(arg),
        (None, Some(why)) => cell(&format!("{} No effect: {why}", field.meaning)),
        (None, None) => cell(field.meaning.trim_end_matches('.')),
    };
    format!("| `{}` | {flag} | {default}{zero} | {meaning} |\n", field.path)
}

/// The whole page: commands first, then flags of every command by heading, then those of single commands.
fn render_page(program: &Command) -> String {
    let mut page = INTRODUCTION.to_owned();
    page.push_str("\n## Commands\n\n| command | does |\n| --- | --- |\n");
    page.push_str("| `kube-ipvs` | Follows the cluster and programs the kernel until it is stopped |\n");
    for command in program.get_subcommands() {
        let _infallible = writeln!(page, "| `kube-ipvs {}` | {} |", command.get_name(), about(command));
    }
    for heading in headings(program) {
        let of_heading = |arg: &&Arg| arg.get_help_heading() == heading;
        render_table(&mut page, heading.unwrap_or(EVERY_COMMAND), program.get_arguments().filter(of_heading));
    }
    for command in program.get_subcommands().filter(|command| command.get_arguments().next().is_some()) {
        render_table(&mut page, &format!("Flags of {}", command.get_name()), command.get_arguments());
    }
    page
}

/// Headings in the order of `--help`, each once.
fn headings(command: &Command) -> Vec<Option<&str>> {
    let mut headings = Vec::new();
    for heading in command.get_arguments().map(Arg::get_help_heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    headings
}

fn render_table<'a>(page: &mut String, heading: &str, args: impl Iterator<Item = &'a Arg>) {
    let _infallible = write!(page, "\n## {heading}\n\n| flag | default | meaning |\n| --- | --- | --- |\n");
    for arg in args {
        let (name, default, help) = (render_name(arg), render_default(arg), render_help(arg));
        let _infallible = writeln!(page, "| `{name}` | {default} | {help} |");
    }
}

/// `-o, --output FORMAT`, for example.
fn render_name(arg: &Arg) -> String {
    let short = arg.get_short().map(|letter| format!("-{letter}"));
    let long = arg.get_long().map(|name| format!("--{name}"));
    let names = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    let value = arg.get_value_names().and_then(<[_]>::first).map(|name| name.as_str()).unwrap_or_default();
    if !arg.get_action().takes_values() {
        names
    } else if arg.is_require_equals_set() {
        format!("{names}[=BOOL]")
    } else {
        format!("{names} {value}")
    }
}

fn render_default(arg: &Arg) -> String {
    let values = arg.get_default_values().iter().map(|value| value.to_string_lossy());
    let values = values.filter(|value| !value.is_empty()).collect::<Vec<_>>();
    if values.is_empty() || !arg.get_action().takes_values() {
        return String::new();
    }
    format!("`{}`", values.join(","))
}

fn render_help(arg: &Arg) -> String {
    arg.get_help().map(|help| cell(&help.to_string())).unwrap_or_default()
}

fn about(command: &Command) -> String {
    command.get_about().map(|about| cell(&about.to_string())).unwrap_or_default()
}

/// Text that ends no column.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}
