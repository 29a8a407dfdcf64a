//! Golden text: renderings of values in the repository, so that a review shows their changes.

use std::{fmt::Write as _, fs, io, path::Path};

/// Environment variable whose value `1` has the files written instead of compared.
pub const UPDATE_VARIABLE: &str = "UPDATE_GOLDEN";

/// Compares text with a file, whose path is relative to the package directory (`tests/golden/plan.txt`).
///
/// `UPDATE_GOLDEN=1 cargo test` writes the file; the difference then shows in `git diff`.
#[macro_export]
macro_rules! assert_golden {
    ($path:expr, $actual:expr $(,)?) => {
        $crate::golden::check(
            &::std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join($path),
            ::std::convert::AsRef::<str>::as_ref(&$actual),
            ::std::env::var_os($crate::golden::UPDATE_VARIABLE).is_some_and(|value| value == "1"),
        )
    };
}

/// Function to which [`assert_golden!`] expands.
#[track_caller]
pub fn check(path: &Path, actual: &str, update: bool) {
    if update {
        write(path, actual).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        return;
    }
    let expected = match fs::read_to_string(path) {
        Ok(expected) => expected,
        Err(error) => {
            panic!("{}: {error}\nwrite it with {UPDATE_VARIABLE}=1; it would be:\n{actual}", path.display())
        }
    };
    if expected != actual {
        let changes = render_changes(&expected, actual);
        panic!("{} differs (rewrite it with {UPDATE_VARIABLE}=1):\n{changes}", path.display());
    }
}

fn write(path: &Path, actual: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, actual)
}

/// Renders the lines between the common beginning and the common end, with `-` expected and `+` actual.
fn render_changes(expected: &str, actual: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (expected.lines().collect(), actual.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let mut text = format!("from line {}:\n", head + 1);
    for (sign, lines) in [('-', &old[..old.len() - tail]), ('+', &new[..new.len() - tail])] {
        for line in lines {
            let _ = writeln!(text, "{sign} {line}");
        }
    }
    if expected.lines().eq(actual.lines()) {
        text.push_str("only the newline at the end differs\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{check, render_changes};
    use crate::TempDir;

    #[test]
    fn changes_are_cut_to_what_differs() {
        let text = render_changes("a\nb\nc\nd\n", "a\nx\ny\nd\n");
        assert_eq!(text, "from line 2:\n- b\n- c\n+ x\n+ y\n");
        assert!(render_changes("a\n", "a").contains("newline"));
    }

    #[test]
    fn update_writes_and_the_next_comparison_passes() {
        let directory = TempDir::new("golden");
        let path = directory.path().join("deep/plan.txt");
        check(&path, "one\n", true);
        check(&path, "one\n", false);
    }

    #[test]
    #[should_panic(expected = "- one\n+ two")]
    fn a_difference_is_shown() {
        let directory = TempDir::new("golden");
        let path = directory.path().join("plan.txt");
        check(&path, "one\n", true);
        check(&path, "two\n", false);
    }

    #[test]
    #[should_panic(expected = "UPDATE_GOLDEN=1")]
    fn a_missing_file_says_how_to_write_it() {
        let directory = TempDir::new("golden");
        check(&directory.path().join("plan.txt"), "one\n", false);
    }
}
