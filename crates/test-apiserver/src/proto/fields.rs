//! Fields of an object, taken one by one into a message.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::resource::Resource;

/// Error for an object that has no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Untyped;

/// Fields that are not taken yet.
#[derive(Debug, Default)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Fields of an object of a resource, without its type.
    pub(super) fn of_object(object: Value, resource: Resource) -> Result<Self, Untyped> {
        let Value::Object(fields) = object else { return Err(Untyped) };
        let mut fields = Self(fields);
        let types = [("apiVersion", resource.api_version()), ("kind", resource.kind())];
        for (field, expect) in types {
            if fields.pointer(field)?.is_some_and(|found| found != expect) {
                return Err(Untyped);
            }
        }
        Ok(fields)
    }

    /// The message, once nothing is left.
    pub(super) fn finish<T>(self, message: T) -> Result<T, Untyped> {
        if self.0.is_empty() { Ok(message) } else { Err(Untyped) }
    }

    /// Takes a value; `null` is none, as in Go.
    pub(super) fn take(&mut self, field: &str) -> Option<Value> {
        self.0.remove(field).filter(|value| !value.is_null())
    }

    /// Takes text that a pointer points at.
    pub(super) fn pointer(&mut self, field: &str) -> Result<Option<String>, Untyped> {
        self.take(field).map(text).transpose()
    }

    /// Takes text, which is never missing.
    pub(super) fn text(&mut self, field: &str) -> Result<Option<String>, Untyped> {
        Ok(Some(self.pointer(field)?.unwrap_or_default()))
    }

    /// Takes a number that a pointer points at.
    pub(super) fn number_pointer<N: TryFrom<i64>>(&mut self, field: &str) -> Result<Option<N>, Untyped> {
        let number = |value: Value| N::try_from(value.as_i64().ok_or(Untyped)?).map_err(|_| Untyped);
        self.take(field).map(number).transpose()
    }

    /// Takes a number, which is never missing.
    pub(super) fn number<N: TryFrom<i64> + Default>(&mut self, field: &str) -> Result<Option<N>, Untyped> {
        Ok(Some(self.number_pointer(field)?.unwrap_or_default()))
    }

    /// Takes a boolean that a pointer points at.
    pub(super) fn flag_pointer(&mut self, field: &str) -> Result<Option<bool>, Untyped> {
        self.take(field).map(|value| value.as_bool().ok_or(Untyped)).transpose()
    }

    /// Takes a boolean, which is never missing.
    pub(super) fn flag(&mut self, field: &str) -> Result<Option<bool>, Untyped> {
        Ok(Some(self.flag_pointer(field)?.unwrap_or_default()))
    }

    /// Takes a list of texts.
    pub(super) fn texts(&mut self, field: &str) -> Result<Vec<String>, Untyped> {
        self.list(field)?.into_iter().map(text).collect()
    }

    /// Takes a map from text to something.
    pub(super) fn map<T>(
        &mut self,
        field: &str,
        value: impl Fn(Value) -> Result<T, Untyped>,
    ) -> Result<BTreeMap<String, T>, Untyped> {
        match self.take(field) {
            None => Ok(BTreeMap::new()),
            Some(Value::Object(map)) => {
                map.into_iter().map(|(key, found)| Ok((key, value(found)?))).collect()
            }
            Some(_) => Err(Untyped),
        }
    }

    /// Takes a message, which is never missing.
    pub(super) fn message<T>(
        &mut self,
        field: &str,
        read: impl Fn(&mut Fields) -> Result<T, Untyped>,
    ) -> Result<T, Untyped> {
        nested(self.take(field).unwrap_or_else(|| Map::new().into()), &read)
    }

    /// Takes a message that a pointer points at.
    pub(super) fn message_pointer<T>(
        &mut self,
        field: &str,
        read: impl Fn(&mut Fields) -> Result<T, Untyped>,
    ) -> Result<Option<T>, Untyped> {
        self.take(field).map(|value| nested(value, &read)).transpose()
    }

    /// Takes a list of messages.
    pub(super) fn messages<T>(
        &mut self,
        field: &str,
        read: impl Fn(&mut Fields) -> Result<T, Untyped>,
    ) -> Result<Vec<T>, Untyped> {
        self.list(field)?.into_iter().map(|value| nested(value, &read)).collect()
    }

    fn list(&mut self, field: &str) -> Result<Vec<Value>, Untyped> {
        match self.take(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => Ok(values),
            Some(_) => Err(Untyped),
        }
    }
}

fn nested<T>(value: Value, read: &impl Fn(&mut Fields) -> Result<T, Untyped>) -> Result<T, Untyped> {
    let Value::Object(fields) = value else { return Err(Untyped) };
    let mut fields = Fields(fields);
    let message = read(&mut fields)?;
    fields.finish(message)
}

/// A value that is text.
pub(super) fn text(value: Value) -> Result<String, Untyped> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(Untyped),
    }
}
