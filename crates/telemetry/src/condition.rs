//! Conditions of this node that an operator should know, as `/readyz` lists them.

use std::collections::BTreeMap;

use serde::Serialize;

/// Effect of a condition on the readiness of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The process is ready all the same.
    Notice,
    /// The process is not ready while the condition lasts.
    NotReady,
}

/// All current conditions, by code.
#[derive(Debug, Default)]
pub(crate) struct Conditions(BTreeMap<&'static str, (Effect, Vec<String>)>);

/// One condition in the answer of `/readyz`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Listed<'a> {
    code: &'static str,
    word: &'a str,
    /// True if the condition is a reason for `"ready":false`.
    pub(crate) blocks: bool,
}

impl Listed<'_> {
    /// A reason for not being ready that concerns no particular object.
    pub(crate) const fn reason(code: &'static str) -> Self {
        Listed { code, word: "", blocks: true }
    }
}

impl Conditions {
    /// Replaces the words under a code; without words, the code goes.
    pub(crate) fn replace(&mut self, code: &'static str, effect: Effect, words: Vec<String>) {
        if words.is_empty() {
            self.0.remove(code);
        } else {
            self.0.insert(code, (effect, words));
        }
    }

    /// Lists all conditions, by code.
    pub(crate) fn list(&self) -> Vec<Listed<'_>> {
        let mut list = Vec::new();
        for (code, (effect, words)) in &self.0 {
            let blocks = *effect == Effect::NotReady;
            list.extend(words.iter().map(|word| Listed { code, word, blocks }));
        }
        list
    }
}
