//! `docs/flags.md`, rendered from the definition of the command line.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory as _};

use super::Cli;

const INTRODUCTION: &str = "\
# Flags

Every flag of kube-ipvs, with its default and the text of `--help`.
The program's own definition of its command line renders this page: `UPDATE_GOLDEN=1 cargo test -p kube-ipvs flags`.

- `_` in a name counts as `-`, as in kube-proxy: `--cluster_cidr`.
- Where a flag is given more than once, the last one counts.
- Durations are written as in Go: `5s`, `1m30s`, `500ms`, `0`.
- A flag of the form `--NAME[=BOOL]` takes `true` and `false`; its name alone means `true`.
- `-h` and `--help` explain each command, and `-V` and `--version` of `kube-ipvs` print its version.
";

/// Heading of the flags that have none in `--help`.
const EVERY_COMMAND: &str = "Flags of every command";

#[test]
fn the_page_of_flags_says_what_the_program_takes() {
    testkit::assert_golden!("../../docs/flags.md", render_page(&Cli::command()));
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
