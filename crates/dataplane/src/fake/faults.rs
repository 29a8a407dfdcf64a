//! What a test has asked a fake to do wrong.

use crate::{ErrorKind, TableError};

/// Error number with which an operation is to be refused, if it is.
type Refusal<Op> = Box<dyn Fn(&Op) -> Option<i32>>;

/// What the test has asked to go wrong.
pub(super) struct Faults<Op> {
    /// Operations still to come before this one fails (0: the next), and how.
    pub(super) ops: Vec<(usize, i32)>,
    /// Errors of the next whole calls, first one first.
    pub(super) calls: Vec<ErrorKind>,
    /// Refuses operations for as long as it is set.
    pub(super) refuse: Option<Refusal<Op>>,
    /// The next batch is executed, but its failures are not reported.
    pub(super) lose_replies: bool,
}

impl<Op> Default for Faults<Op> {
    fn default() -> Self {
        Faults { ops: Vec::new(), calls: Vec::new(), refuse: None, lose_replies: false }
    }
}

impl<Op> Faults<Op> {
    /// Error of the operation that comes now, if any.
    pub(super) fn next_op(&mut self, op: &Op) -> Option<i32> {
        let now = self.ops.iter().position(|(wait, _)| *wait == 0).map(|i| self.ops.remove(i).1);
        for (wait, _) in &mut self.ops {
            *wait = wait.saturating_sub(1);
        }
        now.or_else(|| self.refuse.as_ref().and_then(|refuse| refuse(op)))
    }

    /// Error of the whole call that comes now, if any.
    pub(super) fn next_call(&mut self, operation: &str) -> Result<(), TableError> {
        if self.calls.is_empty() {
            return Ok(());
        }
        let kind = self.calls.remove(0);
        Err(TableError::new(operation, kind, format!("injected failure: {kind:?}")))
    }
}
