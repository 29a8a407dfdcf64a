//! Problems of objects, worded so that the author of an object can correct it.

use std::{fmt, sync::Arc};

/// One fault of one object or file. Everything else is served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// File of a manifest, with the line if that is known.
    pub file: Option<Arc<str>>,
    /// Object, such as `Service default/web`; empty if the text could not be read that far.
    pub object: String,
    /// Field, such as `spec.ports[1].port`; empty if the whole object is meant.
    pub field: String,
    /// Description of the fault and of its consequence.
    pub message: String,
    /// Advice for the author.
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

/// Result of the validation of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted<T> {
    /// Part of the object that is served; `None` if there is none, which is not always a problem (a headless
    /// Service).
    pub object: Option<T>,
    /// Problems of the rest.
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

    /// Adds a problem of a field.
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

    /// Adds a problem if a lenient type found something `wrong` where a list or an object was expected.
    pub(crate) fn expect(&mut self, field: &str, expected: &str, wrong: Option<&'static str>) {
        if let Some(found) = wrong {
            self.add(
                field,
                format!("{expected} is expected, found {found}; ignored"),
                format!("write {expected}"),
            );
        }
    }

    /// Returns the object with all its problems.
    pub(crate) fn finish<T>(self, object: Option<T>) -> Converted<T> {
        Converted { object, problems: self.problems }
    }
}
