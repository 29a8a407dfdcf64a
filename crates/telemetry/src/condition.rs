//! What of this node an operator should know, as `/readyz` lists it.

use std::collections::BTreeMap;

use serde::Serialize;

/// Whether a condition keeps the process from being ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ready all the same: worth knowing.
    Notice,
    /// Not ready while it lasts.
    NotReady,
}

/// All conditions that hold at the moment.
#[derive(Debug, Default)]
pub(crate) struct Conditions(BTreeMap<&'static str, (Effect, Vec<String>)>);

/// One condition in the answer of `/readyz`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Listed<'a> {
    code: &'static str,
    word: &'a str,
    /// Whether it is a reason for `"ready":false`.
    pub(crate) blocks: bool,
}

impl Listed<'_> {
    /// A reason for not being ready that concerns no object in particular.
    pub(crate) const fn reason(code: &'static str) -> Self {
        Listed { code, word: "", blocks: true }
    }
}

impl Conditions {
    /// Replaces what is listed under a code.
    pub(crate) fn replace(&mut self, code: &'static str, effect: Effect, words: Vec<String>) {
        match words.is_empty() {
            true => _ = self.0.remove(code),
            false => _ = self.0.insert(code, (effect, words)),
        }
    }

    /// All of them, by code.
    pub(crate) fn list(&self) -> Vec<Listed<'_>> {
        let mut list = Vec::new();
        for (code, (effect, words)) in &self.0 {
            let blocks = *effect == Effect::NotReady;
            list.extend(words.iter().map(|word| Listed { code, word, blocks }));
        }
        list
    }
}
