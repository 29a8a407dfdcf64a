//! Failure of a whole call, as opposed to that of one operation in a batch.

use std::error::Error;

/// Kinds of errors, by what a caller can do about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The kernel lacks the subsystem: a module is missing.
    NotSupported,
    /// A capability is missing.
    PermissionDenied,
    /// The call is worth repeating: a dump was interrupted, a buffer was full, the table was busy.
    Transient,
    /// Anything else.
    Other,
}

/// Failure of a whole call to a kernel table.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct TableError {
    /// Attempted operation, such as "dump virtual servers".
    pub operation: String,
    /// Kind, by which the caller decides what to do.
    pub kind: ErrorKind,
    /// The adapter's own error.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

impl TableError {
    /// Wraps an adapter's error.
    pub fn new(
        operation: impl Into<String>,
        kind: ErrorKind,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        TableError { operation: operation.into(), kind, source: source.into() }
    }

    /// Tells whether repeating the call may succeed without anything else changing.
    pub fn is_retryable(&self) -> bool {
        self.kind == ErrorKind::Transient
    }
}
