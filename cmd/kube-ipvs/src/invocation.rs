//! The command line and the file that it names, as one value.
//!
//! The file's fields are read as the flags that mean the same ([`proxy_config::Field::flag`]), so that one place checks
//! both ([`crate::config`]). Precedence is kube-proxy's: its flags are ignored where there is a file with a
//! configuration of it, except the few that [`wins_over_file`] names.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use anyhow::{Context, anyhow};
use clap::{ArgMatches, FromArgMatches as _, parser::ValueSource};
use proxy_config::{ConfigFile, Field, InvalidFile, Kind, Parsed, Problem};

use crate::flags::{self, Cli, without_effect};

/// Flags of kube-proxy without a field of their own that are ignored where there is a configuration of it in a file.
const DEPRECATED: [&str; 2] = ["healthz-port", "metrics-port"];

/// A command line as typed.
#[derive(Clone, Debug)]
pub struct CommandLine {
    /// All arguments, the program's name included.
    args: Vec<OsString>,
    matches: ArgMatches,
    /// The flags without the file.
    pub cli: Cli,
    /// Flags of [`GO_RUNNER`], as typed.
    runner_flags: Vec<String>,
}

/// Program in the images of kube-proxy that starts another one with its output in a file, and by which kops starts
/// kube-proxy (nodeup/pkg/model/kube_proxy.go): `/go-runner FLAGS /usr/local/bin/kube-proxy FLAGS`. Images of ours have a
/// link of that name.
const GO_RUNNER: &str = "go-runner";

/// The command line and the file that it names.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Flags, with the values of the file where these count.
    pub cli: Cli,
    /// Every setting in the form of a file. Own settings that neither sets are unset.
    pub config: ConfigFile,
    /// Names of the settings.
    pub names: Names,
    /// Lines for the log: settings that are ignored or have no effect.
    pub warnings: Vec<String>,
    /// Values of the wrong type, whose settings have their defaults here. [`crate::config::Settings::new`] fails with
    /// them, and with what it finds itself.
    pub errors: Vec<String>,
}

/// Names of settings, for messages: the field if the value is the file's, else the flag.
#[derive(Clone, Debug, Default)]
pub struct Names(BTreeMap<&'static str, String>);

impl Names {
    /// Name of a flag's setting.
    pub fn of(&self, flag: &str) -> String {
        debug_assert!(IDS.contains_key(flag), "there is no --{flag}");
        self.0.get(flag).cloned().unwrap_or_else(|| format!("--{flag}"))
    }

    /// Tells whether a setting has the name of its flag.
    fn is_flag(&self, flag: &str) -> bool {
        !self.0.contains_key(flag)
    }
}

impl CommandLine {
    /// Parses arguments.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut args: Vec<_> = args.into_iter().collect();
        let runner_flags = strip_runner(&mut args);
        flags::drop_empty(&mut args);
        let matches = flags::try_parse(args.clone())?;
        let cli = Cli::from_arg_matches(&matches)?;
        if let (Some(flag), Some((command, _))) = (cli.contradiction(), matches.subcommand()) {
            let error = format!("--{flag} is a task of its own; leave it or the command \"{command}\" out\n");
            return Err(flags::command().error(clap::error::ErrorKind::ArgumentConflict, error));
        }
        Ok(CommandLine { args, matches, cli, runner_flags })
    }

    /// All arguments, the program's name included.
    pub fn args(&self) -> &[OsString] {
        &self.args
    }

    /// Values of all flags as typed, or their defaults. Those without effect are left out unless they are given.
    pub fn flag_values(&self) -> BTreeMap<String, String> {
        let command = flags::command();
        let args = command.get_arguments().filter(|arg| arg.get_action().takes_values());
        let value = |arg: &clap::Arg| {
            let flag = arg.get_long()?;
            let is_idle = arg.get_help_heading() == Some(without_effect::HEADING);
            let counts = !is_idle || is_given(&self.matches, flag);
            counts.then(|| (flag.to_owned(), values(&self.matches, flag).join(",")))
        };
        args.filter_map(value).collect()
    }

    /// File with the configuration, if it names one.
    pub fn file(&self) -> Option<PathBuf> {
        self.cli.process.config.clone().filter(|path| !path.as_os_str().is_empty())
    }

    /// Reads the file that it names.
    pub fn read_file(&self) -> anyhow::Result<Option<String>> {
        let read = |path: PathBuf| {
            fs::read_to_string(&path).with_context(|| format!("read --config {}", path.display()))
        };
        self.file().map(read).transpose()
    }
}

impl Invocation {
    /// Joins a command line and the text of its file.
    pub fn new(line: &CommandLine, text: Option<&str>) -> anyhow::Result<Self> {
        let mut invocation = match text {
            Some(text) => Invocation::with_file(line, text)?,
            None => Invocation::join(&line.matches, ConfigFile::default(), Names::default())?,
        };
        let warning =
            |flag: &String| format!("{flag} of {GO_RUNNER} has no effect: the log goes to standard error");
        invocation.warnings.extend(line.runner_flags.iter().map(warning));
        Ok(invocation)
    }

    fn with_file(line: &CommandLine, text: &str) -> anyhow::Result<Self> {
        let path = line.file().unwrap_or_default();
        let (Parsed { file, kinds, warnings }, problems) = match ConfigFile::parse(text) {
            Ok(parsed) => (parsed, Vec::new()),
            Err(InvalidFile { problems, rest: Some(rest) }) => (*rest, problems),
            Err(InvalidFile { problems, rest: None }) => {
                let lines = problems.iter().map(|problem| format!("{}: {problem}", path.display()));
                return Err(anyhow!("{}", lines.collect::<Vec<_>>().join("\n")));
            }
        };
        let from_file = fields_that_count(line, &file, &kinds);
        let is_kube_proxys = kinds.contains(&Kind::KubeProxy);
        let ignored = if is_kube_proxys { ignored(line) } else { Vec::new() };
        // Also of a field that the file leaves out: its flag would be ignored.
        let replaced = file.fields().into_iter().filter(|field| is_kube_proxys && !wins_over_file(field));
        let named = from_file.iter().cloned().chain(replaced);
        let names = named.filter_map(|field| Some((field.flag?, field.path))).collect();
        let args = arguments(line, &from_file, &ignored);
        let matches = flags::try_parse(args).map_err(|error| anyhow!("{}", error.render()))?;
        let mut joined = Invocation::join(&matches, file, Names(names))?;
        let in_file = |problem: &Problem| format!("{}: {problem}", path.display());
        joined.errors.splice(..0, problems.iter().map(in_file));
        joined.warnings.extend(warnings.iter().map(in_file));
        joined.warnings.extend(ignored_flags(&ignored));
        Ok(joined)
    }

    fn join(matches: &ArgMatches, mut config: ConfigFile, names: Names) -> anyhow::Result<Self> {
        let mut errors = Vec::new();
        for flag in
            config.fields().iter().filter_map(|field| field.flag).filter(|flag| is_given(matches, flag))
        {
            if let Err(error) = config.set_flag(flag, &values(matches, flag)) {
                errors.push(format!("{}: {error}", names.of(flag)));
            }
        }
        let warnings = warnings(matches, &config, &names);
        Ok(Invocation { cli: Cli::from_arg_matches(matches)?, config, names, warnings, errors })
    }

    /// Every setting in the form of a file, with the defaults of own settings.
    pub fn complete_config(&self, line: &CommandLine) -> ConfigFile {
        let mut config = self.config.clone();
        let unset = |field: &Field| field.document == Kind::KubeIpvs && field.value.is_none();
        for flag in self.config.fields().iter().filter(|field| unset(field)).filter_map(|field| field.flag) {
            let values = values(&line.matches, flag);
            if !values.is_empty() {
                // A default of the command line is a value of the field; a test goes through all of them.
                let _is_valid = config.set_flag(flag, &values);
            }
        }
        config
    }
}

/// Takes go-runner and its flags, which are those before the first argument that is none, off a command line.
fn strip_runner(args: &mut Vec<OsString>) -> Vec<String> {
    let program = args.first().map(Path::new).and_then(Path::file_name);
    if program.is_none_or(|name| name != GO_RUNNER) {
        return Vec::new();
    }
    // Without a path of a program to start, what follows is this one's.
    let at = args.iter().skip(1).position(|arg| !arg.to_string_lossy().starts_with('-'));
    let Some(flags) = at.filter(|at| Path::new(&args[at + 1]).components().count() > 1) else {
        return Vec::new();
    };
    args.drain(..=flags).skip(1).map(|flag| flag.to_string_lossy().into_owned()).collect()
}

/// Ids of the flags for clap, by their names.
static IDS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let command = flags::command();
    let named = |arg: &clap::Arg| Some((arg.get_long()?.to_owned(), arg.get_id().to_string()));
    command.get_arguments().filter_map(named).collect()
});

/// Tells whether a flag is on the command line.
fn is_given(matches: &ArgMatches, flag: &str) -> bool {
    IDS.get(flag).is_some_and(|id| matches.value_source(id) == Some(ValueSource::CommandLine))
}

/// Values of a flag as typed, or its defaults.
fn values(matches: &ArgMatches, flag: &str) -> Vec<String> {
    let raw = IDS.get(flag).and_then(|id| matches.get_raw(id)).into_iter().flatten();
    raw.map(|value| value.to_string_lossy().into_owned()).collect()
}

/// Tells whether a flag on the command line wins over the field of a file.
fn wins_over_file(field: &Field) -> bool {
    field.document == Kind::KubeIpvs || field.path == "hostnameOverride" || field.path.starts_with("logging.")
}

/// Fields of the documents in a file that this command line does not override.
fn fields_that_count(line: &CommandLine, file: &ConfigFile, kinds: &BTreeSet<Kind>) -> Vec<Field> {
    let is_set = |field: &Field| field.flag_values.iter().any(|value| !value.is_empty());
    // As in kube-proxy, whose DaemonSet may have a variable there that is not set.
    let is_empty = |field: &Field, flag| {
        field.path == "hostnameOverride" && values(&line.matches, flag).iter().all(String::is_empty)
    };
    let gives_way = |field: &Field, flag| {
        wins_over_file(field) && is_given(&line.matches, flag) && !is_empty(field, flag)
    };
    let counts = |field: &Field| {
        kinds.contains(&field.document)
            && field.flag.is_some_and(|flag| is_set(field) && !gives_way(field, flag))
    };
    file.fields().into_iter().filter(counts).collect()
}

/// Flags of the command line that are ignored because of a KubeProxyConfiguration in the file.
fn ignored(line: &CommandLine) -> Vec<&'static str> {
    let fields = ConfigFile::default().fields();
    let replaced = fields.iter().filter(|field| !wins_over_file(field)).filter_map(|field| field.flag);
    replaced.chain(DEPRECATED).filter(|flag| is_given(&line.matches, flag)).collect()
}

fn ignored_flags(ignored: &[&str]) -> Option<String> {
    let flags: Vec<_> = ignored.iter().map(|flag| format!("--{flag}")).collect();
    (!flags.is_empty()).then(|| {
        format!(
            "with a KubeProxyConfiguration in --config these flags are ignored, as in kube-proxy: {}; set their fields in \
             the file",
            flags.join(", ")
        )
    })
}

/// Command line with the fields of a file as flags, and without the flags that give way to it.
fn arguments(line: &CommandLine, from_file: &[Field], ignored: &[&str]) -> Vec<OsString> {
    let mut args: Vec<OsString> = line.args.first().cloned().into_iter().collect();
    let command = flags::command();
    args.extend(typed(&command, &line.matches, ignored));
    if let Some((name, matches)) = line.matches.subcommand() {
        args.push(name.into());
        args.extend(command.find_subcommand(name).into_iter().flat_map(|sub| typed(sub, matches, &[])));
    }
    for field in from_file {
        let flag = field.flag.unwrap_or_default();
        args.extend(field.flag_values.iter().map(|value| format!("--{flag}={value}").into()));
    }
    args
}

/// Flags of a command as they were typed, but for some.
fn typed(command: &clap::Command, matches: &ArgMatches, without: &[&str]) -> Vec<OsString> {
    let mut args = Vec::new();
    for arg in command.get_arguments() {
        let (Some(long), id) = (arg.get_long(), arg.get_id().as_str()) else { continue };
        if without.contains(&long) || matches.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        if !arg.get_action().takes_values() {
            args.push(format!("--{long}").into());
            continue;
        }
        for value in matches.get_raw(id).into_iter().flatten() {
            let mut arg = OsString::from(format!("--{long}="));
            arg.push(value);
            args.push(arg);
        }
    }
    args
}

/// Settings that have no effect: flags that are given, and fields that are not the default.
fn warnings(matches: &ArgMatches, config: &ConfigFile, names: &Names) -> Vec<String> {
    let defaults = ConfigFile::default().fields();
    let fields = config.fields().into_iter().zip(defaults).filter_map(|(field, default)| {
        let why = without_effect::why_field(&field.path)?;
        let typed = field.flag.filter(|flag| names.is_flag(flag) && is_given(matches, flag));
        let name = typed.map_or_else(|| field.path.clone(), |flag| names.of(flag));
        (typed.is_some() || field.value != default.value).then(|| format!("{name} has no effect: {why}"))
    });
    let old = without_effect::old_flags().filter(|(flag, _)| is_given(matches, flag));
    fields.chain(old.map(|(flag, why)| format!("--{flag} has no effect: {why}"))).collect()
}

#[cfg(test)]
pub mod testing {
    //! Invocations for the tests of other modules.

    use super::*;

    /// A command line without a file, on node `n1` unless it says otherwise.
    pub fn invocation(args: &[&str]) -> Invocation {
        Invocation::new(&command_line(args), None).unwrap()
    }

    /// The same with the text of its file.
    pub fn with_file(args: &[&str], text: &str) -> anyhow::Result<Invocation> {
        Invocation::new(&command_line(args), Some(text))
    }

    /// A command line on node `n1`, unless it says otherwise.
    pub fn command_line(args: &[&str]) -> CommandLine {
        let node = args.iter().all(|arg| !arg.starts_with("--hostname-override"));
        let node = node.then_some("--hostname-override=n1");
        let args = ["kube-ipvs"].into_iter().chain(args.iter().copied()).chain(node);
        CommandLine::parse(args.map(OsString::from)).unwrap()
    }
}

#[cfg(test)]
mod tests;
