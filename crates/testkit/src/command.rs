//! Runs of other people's tools (`ip`, `nft`, `ipvsadm`), with full reports of failures.

use std::{
    fmt,
    io::Write,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

/// Failure of a command, with everything that is needed to understand it without a rerun.
#[derive(Debug)]
pub struct CommandError {
    /// Command line as one would type it.
    pub line: String,
    /// Exit code; `None` if the program could not start or died by a signal.
    pub code: Option<i32>,
    /// Text on standard output.
    pub stdout: String,
    /// Text on standard error, or the reason why the program could not start.
    pub stderr: String,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "`{}` exited with {code}", self.line)?,
            None => write!(f, "`{}` did not finish", self.line)?,
        }
        for (name, text) in [("stderr", &self.stderr), ("stdout", &self.stdout)] {
            if !text.trim().is_empty() {
                write!(f, "\n  {name}: {}", text.trim_end().replace('\n', "\n          "))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for CommandError {}

/// Renders the command line, with quotes only where a reader would be misled without them.
fn render_line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            if word.is_empty() || word.contains([' ', '\n', '\'', '"', ';']) {
                format!("{word:?}")
            } else {
                word.into_owned()
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a prepared command to its end and returns its standard output; an exit code other than 0 is an error.
pub fn try_output(command: &mut Command) -> Result<String, CommandError> {
    try_output_with_input(command, "")
}

/// [`try_output`] with text on standard input, which must fit into a pipe (64 KiB) or be read at once.
pub fn try_output_with_input(command: &mut Command, input: &str) -> Result<String, CommandError> {
    let line = render_line(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.spawn().and_then(|mut child| {
        // A program that ends without reading everything says why itself.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        child.wait_with_output()
    });
    let output = output.map_err(|error| CommandError {
        line: line.clone(),
        code: None,
        stdout: String::new(),
        stderr: format!("cannot start: {error}"),
    })?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let mut stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code().is_none() {
        stderr = format!("{} {stderr}", output.status);
    }
    Err(CommandError { line, code: output.status.code(), stdout, stderr })
}

/// Runs `words[0]` with the other words as arguments, in the network namespace of the calling thread.
pub fn try_run<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> Result<String, CommandError> {
    let (program, arguments) = words.split_first().expect("a command has at least a program");
    try_output(Command::new(program).args(arguments))
}

/// [`try_run`] that panics with the full report of a failure.
#[track_caller]
pub fn run<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> String {
    try_run(words).unwrap_or_else(|error| panic!("{error}"))
}

/// Has the kernel kill the program when the calling *thread* ends, so that a test that dies leaves no process
/// behind.
///
/// Not for a thread of [`crate::NetNs::enter`], which ends before the program should.
pub fn die_with_thread(command: &mut Command) -> &mut Command {
    #[expect(unsafe_code, reason = "the setting belongs to the child, so it is made between fork and exec")]
    // SAFETY: the closure only makes the system call prctl; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(|| {
            let signal = rustix::process::Signal::KILL;
            Ok(rustix::process::set_parent_process_death_signal(Some(signal))?)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{die_with_thread, run, try_output_with_input, try_run};

    #[test]
    fn standard_input_arrives() {
        assert_eq!(try_output_with_input(&mut Command::new("cat"), "one\ntwo\n").unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_child_ends_with_its_thread() {
        let thread =
            std::thread::spawn(|| die_with_thread(Command::new("sleep").arg("600")).spawn().unwrap());
        assert!(!thread.join().unwrap().wait().unwrap().success());
    }

    #[test]
    fn standard_output_comes_back() {
        assert_eq!(run(&["echo", "one two"]), "one two\n");
    }

    #[test]
    fn a_failure_names_line_code_and_both_outputs() {
        let error = try_run(&["sh", "-c", "echo out; echo err >&2; exit 3"]).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.code, Some(3));
        for part in
            ["sh -c \"echo out; echo err >&2; exit 3\"", "exited with 3", "stderr: err", "stdout: out"]
        {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
    }

    #[test]
    fn a_missing_program_and_a_signal_are_errors_too() {
        assert!(try_run(&["no-such-program-here"]).unwrap_err().to_string().contains("cannot start"));
        assert!(try_run(&["sh", "-c", "kill -9 $$"]).unwrap_err().to_string().contains("signal: 9"));
    }
}
