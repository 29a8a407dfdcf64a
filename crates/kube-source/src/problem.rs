//! What is wrong with an object, said so that its author can correct it.

use std::{fmt, sync::Arc};

/// One thing that is wrong with one object or file. Everything else is served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// File, with a line where that is known; only from manifests.
    pub file: Option<Arc<str>>,
    /// `Service default/web`; empty if the text could not be read that far.
    pub object: String,
    /// `spec.ports[1].port`; empty if the whole object is meant.
    pub field: String,
    /// What is wrong, and what was done about it.
    pub message: String,
    /// What its author can do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [self.file.as_deref().unwrap_or_default(), &self.object, &self.field];
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// An object after validation: `None` if nothing of it can be served, which is not always a problem (a headless
/// Service).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted<T> {
    /// What is served of it.
    pub object: Option<T>,
    /// What is not, and why.
    pub problems: Vec<Problem>,
}

/// Collects the problems of one object.
pub(crate) struct Report {
    object: String,
    problems: Vec<Problem>,
}

impl Report {
    pub(crate) fn new(object: String) -> Self {
        Report { object, problems: Vec::new() }
    }

    /// Notes a problem at a field.
    pub(crate) fn add(
        &mut self,
        field: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.problems.push(Problem {
            file: None,
            object: self.object.clone(),
            field: field.into(),
            message: message.into(),
            remedy: remedy.into(),
        });
    }

    /// Notes that a list or an object was expected; `wrong` is what a lenient type found there.
    pub(crate) fn expect(&mut self, field: &str, expected: &str, wrong: Option<&'static str>) {
        if let Some(found) = wrong {
            self.add(
                field,
                format!("{expected} is expected, found {found}; ignored"),
                format!("write {expected}"),
            );
        }
    }

    /// The object with all its problems.
    pub(crate) fn finish<T>(self, object: Option<T>) -> Converted<T> {
        Converted { object, problems: self.problems }
    }
}
