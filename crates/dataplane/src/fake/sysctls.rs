//! Kernel parameters in memory.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use lb_types::SysctlOp;

use crate::{ErrorKind, Sysctls, TableError};

/// Kernel parameters in memory; each is absent until it is set.
#[derive(Clone, Default)]
pub struct FakeSysctls(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    values: BTreeMap<String, u32>,
    writes: usize,
    log: Vec<SysctlOp>,
    read_only: BTreeSet<String>,
}

impl FakeSysctls {
    /// Makes the kernel have a parameter.
    pub fn set(&self, name: &str, value: u32) {
        self.0.borrow_mut().values.insert(name.to_owned(), value);
    }

    /// Current value.
    pub fn get(&self, name: &str) -> Option<u32> {
        self.0.borrow().values.get(name).copied()
    }

    /// Number of writes so far.
    pub fn writes(&self) -> usize {
        self.0.borrow().writes
    }

    /// Executed writes, in order.
    pub fn log(&self) -> Vec<SysctlOp> {
        self.0.borrow().log.clone()
    }

    /// Makes a parameter read-only, as where `/proc/sys` is, or writable again.
    pub fn refuse(&self, name: &str, refused: bool) {
        let names = &mut self.0.borrow_mut().read_only;
        if refused {
            names.insert(name.to_owned());
        } else {
            names.remove(name);
        }
    }
}

impl Sysctls for FakeSysctls {
    fn read(&mut self, name: &str) -> Result<Option<u32>, TableError> {
        Ok(self.get(name))
    }

    fn write(&mut self, op: &SysctlOp) -> Result<(), TableError> {
        let mut state = self.0.borrow_mut();
        state.writes += 1;
        if state.read_only.contains(&*op.name) {
            return Err(TableError::new(op.to_string(), ErrorKind::PermissionDenied, "read-only"));
        }
        match state.values.get_mut(&*op.name) {
            Some(value) => {
                *value = op.value;
                state.log.push(op.clone());
                Ok(())
            }
            None => Err(TableError::new(op.to_string(), ErrorKind::NotSupported, "no such parameter")),
        }
    }
}
