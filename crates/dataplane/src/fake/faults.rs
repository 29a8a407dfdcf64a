//! Faults that a test injects into a fake.

use crate::{BatchReport, ErrorKind, FailedOp, TableError};

/// Refusal of operations: the error number for one, if it is to be refused.
type Refusal<Op> = Box<dyn Fn(&Op) -> Option<i32>>;

/// Faults that the test has asked for and that have not happened yet.
pub(super) struct Faults<Op> {
    /// Operations still to come before this one fails (0: the next), and its error number.
    ops: Vec<(usize, i32)>,
    /// Errors of the next whole calls, first one first.
    calls: Vec<ErrorKind>,
    /// Refuses operations for as long as it is set.
    refusal: Option<Refusal<Op>>,
    /// The next batch is executed, but its failures are not reported.
    lose_replies: bool,
}

impl<Op> Default for Faults<Op> {
    fn default() -> Self {
        Faults { ops: Vec::new(), calls: Vec::new(), refusal: None, lose_replies: false }
    }
}

/// Requests of the test; the methods that [`fault_injection`] gives to a fake say what each does.
impl<Op> Faults<Op> {
    pub(super) fn fail_nth(&mut self, n: usize, errno: i32) {
        self.ops.push((n.saturating_sub(1), errno));
    }

    pub(super) fn refuse(&mut self, refusal: impl Fn(&Op) -> Option<i32> + 'static) {
        self.refusal = Some(Box::new(refusal));
    }

    pub(super) fn refuse_nothing(&mut self) {
        self.refusal = None;
    }

    pub(super) fn fail_next_call(&mut self, kind: ErrorKind) {
        self.calls.push(kind);
    }

    pub(super) fn lose_replies_next(&mut self) {
        self.lose_replies = true;
    }
}

/// Questions of the fake.
impl<Op> Faults<Op> {
    /// Error of the operation that comes now, if any.
    pub(super) fn next_op(&mut self, op: &Op) -> Option<i32> {
        let now = self.ops.iter().position(|(wait, _)| *wait == 0).map(|i| self.ops.remove(i).1);
        for (wait, _) in &mut self.ops {
            *wait = wait.saturating_sub(1);
        }
        now.or_else(|| self.refusal.as_ref().and_then(|refusal| refusal(op)))
    }

    /// Error of the whole call that comes now, if any.
    pub(super) fn next_call(&mut self, operation: &str) -> Result<(), TableError> {
        if self.calls.is_empty() {
            return Ok(());
        }
        let kind = self.calls.remove(0);
        Err(TableError::new(operation, kind, format!("injected failure: {kind:?}")))
    }

    /// Report of a batch, whose failures get lost if the test asked for that.
    pub(super) fn report(&mut self, failed: Vec<FailedOp>) -> BatchReport {
        if std::mem::take(&mut self.lose_replies) {
            BatchReport { failed: Vec::new(), replies_lost: true }
        } else {
            BatchReport { failed, replies_lost: false }
        }
    }
}

/// Gives a fake of operations `$op`, whose state has a field `faults`, the methods with which a test makes it
/// fail.
macro_rules! fault_injection {
    ($fake:ty, $op:ty) => {
        /// Faults that the test can inject.
        impl $fake {
            /// The next operation fails with `errno`, whatever it is.
            pub fn fail_next(&self, errno: i32) {
                self.fail_nth(1, errno);
            }

            /// The `n`-th operation from now (1 is the next) fails with `errno`, whatever it is.
            pub fn fail_nth(&self, n: usize, errno: i32) {
                self.0.borrow_mut().faults.fail_nth(n, errno);
            }

            /// Every operation for which `refusal` returns an error number fails with it, until set anew.
            pub fn refuse(&self, refusal: impl Fn(&$op) -> Option<i32> + 'static) {
                self.0.borrow_mut().faults.refuse(refusal);
            }

            /// Ends the refusals of [`Self::refuse`].
            pub fn refuse_nothing(&self) {
                self.0.borrow_mut().faults.refuse_nothing();
            }

            /// The next call (one that reads, or a batch) fails as a whole, before anything is executed.
            pub fn fail_next_call(&self, kind: $crate::ErrorKind) {
                self.0.borrow_mut().faults.fail_next_call(kind);
            }

            /// The next batch is executed, but no failure in it is reported, only that replies were lost.
            pub fn lose_replies_next(&self) {
                self.0.borrow_mut().faults.lose_replies_next();
            }
        }
    };
}

pub(super) use fault_injection;
