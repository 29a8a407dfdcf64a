//! Types that deserialise from any value, so that a wrong one spoils nothing else.
//!
//! `null` means absent everywhere, as in Go. Instead of a value of the wrong kind, a description of it is
//! kept for the report.

use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

/// A string, number or boolean, or something else in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scalar {
    /// No value, or `null`.
    #[default]
    Absent,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A string.
    Text(String),
    /// Description of another value for messages, such as "a list".
    Wrong(&'static str),
}

impl Scalar {
    /// Tells whether the value is absent, `null` or the empty string; Go's API types do not distinguish
    /// these.
    pub fn is_empty(&self) -> bool {
        match self {
            Scalar::Absent => true,
            Scalar::Text(text) => text.is_empty(),
            _ => false,
        }
    }

    /// Value as text. YAML reads an unquoted `8080` as a number, which counts as text where text is expected.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Scalar::Text(text) => Some(Cow::Borrowed(text)),
            Scalar::Int(number) => Some(Cow::Owned(number.to_string())),
            _ => None,
        }
    }

    /// The string, if it is one.
    pub fn str(&self) -> Option<&str> {
        match self {
            Scalar::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Value as a number; digits in quotes count, too.
    pub fn int(&self) -> Option<i64> {
        match self {
            Scalar::Int(number) => Some(*number),
            Scalar::Text(text) => text.parse().ok(),
            _ => None,
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Absent => f.write_str("nothing"),
            Scalar::Bool(value) => value.fmt(f),
            Scalar::Int(value) => value.fmt(f),
            Scalar::Text(value) => write!(f, "{value:?}"),
            Scalar::Wrong(found) => f.write_str(found),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar::Int(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Scalar, E> {
        Ok(i64::try_from(value).map_or(Scalar::Wrong("a huge number"), Scalar::Int))
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<Scalar, E> {
        Ok(Scalar::Wrong("a huge number"))
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<Scalar, E> {
        Ok(Scalar::Wrong("a huge number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Scalar, E> {
        Ok(Scalar::Wrong("a fraction"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Scalar, E> {
        Ok(Scalar::Text(value))
    }

    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<Scalar, E> {
        Ok(Scalar::Wrong("binary data"))
    }

    fn visit_unit<E: Error>(self) -> Result<Scalar, E> {
        Ok(Scalar::Absent)
    }

    fn visit_none<E: Error>(self) -> Result<Scalar, E> {
        Ok(Scalar::Absent)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Scalar, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Scalar, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Wrong("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Wrong("an object"))
    }
}

/// Description of a scalar in the place of a list or an object, for messages; `None` for `null`.
fn misplaced(scalar: &Scalar) -> Option<&'static str> {
    match scalar {
        Scalar::Absent => None,
        Scalar::Bool(_) => Some("a boolean"),
        Scalar::Int(_) => Some("a number"),
        Scalar::Text(_) => Some("text"),
        Scalar::Wrong(found) => Some(found),
    }
}

/// Methods of a visitor that forward every scalar to [`ScalarVisitor`] and make the value out of the
/// misplaced scalar.
macro_rules! scalars_are_misplaced {
    ($make:expr) => {
        fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
            ScalarVisitor.visit_bool(value).map($make)
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
            ScalarVisitor.visit_i64(value).map($make)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
            ScalarVisitor.visit_u64(value).map($make)
        }

        fn visit_i128<E: Error>(self, value: i128) -> Result<Self::Value, E> {
            ScalarVisitor.visit_i128(value).map($make)
        }

        fn visit_u128<E: Error>(self, value: u128) -> Result<Self::Value, E> {
            ScalarVisitor.visit_u128(value).map($make)
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
            ScalarVisitor.visit_f64(value).map($make)
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
            ScalarVisitor.visit_str(value).map($make)
        }

        fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<Self::Value, E> {
            ScalarVisitor.visit_bytes(value).map($make)
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            ScalarVisitor.visit_unit().map($make)
        }

        fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
            ScalarVisitor.visit_none().map($make)
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_any(self)
        }

        fn visit_newtype_struct<D: Deserializer<'de>>(
            self,
            deserializer: D,
        ) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_any(self)
        }
    };
}

/// A list; `null` is an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T> {
    /// The elements.
    pub items: Vec<T>,
    /// Description of a value that is not a list.
    pub wrong: Option<&'static str>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        List { items: Vec::new(), wrong: None }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    scalars_are_misplaced!(|scalar| List { items: Vec::new(), wrong: misplaced(&scalar) });

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(List { items, wrong: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<List<T>, A::Error> {
        ScalarVisitor.visit_map(map).map(|scalar| List { items: Vec::new(), wrong: misplaced(&scalar) })
    }
}

/// An object with known fields; `null` is one without any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object<T> {
    /// The fields.
    pub value: T,
    /// Description of a value that is not an object.
    pub wrong: Option<&'static str>,
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    scalars_are_misplaced!(|scalar| Object { value: T::default(), wrong: misplaced(&scalar) });

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Object<T>, A::Error> {
        ScalarVisitor.visit_seq(seq).map(|scalar| Object { value: T::default(), wrong: misplaced(&scalar) })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        let value = T::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Object { value, wrong: None })
    }
}

/// Labels or annotations that we read; all others are skipped without a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Values by key.
    pub values: BTreeMap<String, Scalar>,
    /// Description of a value that is not an object.
    pub wrong: Option<&'static str>,
}

impl Labels {
    /// Prefixes of all keys that some code of this crate reads.
    const READ: [&str; 6] = [
        "kube-ipvs.io/",
        "endpoints.kubernetes.io/last-change-trigger-time",
        "service.kubernetes.io/",
        "kubernetes.io/service-name",
        "topology.kubernetes.io/zone",
        "k8s-app",
    ];

    /// Tells whether some code of this crate reads a key.
    pub(crate) fn is_read(key: &[u8]) -> bool {
        Self::READ.iter().any(|prefix| key.starts_with(prefix.as_bytes()))
    }

    /// Tells whether the key exists, whatever its value.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Value of a key.
    pub fn get(&self, key: &str) -> &Scalar {
        self.values.get(key).unwrap_or(&Scalar::Absent)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LabelsVisitor)
    }
}

struct LabelsVisitor;

impl<'de> Visitor<'de> for LabelsVisitor {
    type Value = Labels;

    scalars_are_misplaced!(|scalar| Labels { values: BTreeMap::new(), wrong: misplaced(&scalar) });

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Labels, A::Error> {
        ScalarVisitor
            .visit_seq(seq)
            .map(|scalar| Labels { values: BTreeMap::new(), wrong: misplaced(&scalar) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
        let mut values = BTreeMap::new();
        while let Some(key) = map.next_key::<LabelKey>()? {
            match key.0 {
                Some(key) => drop(values.insert(key, map.next_value()?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Labels { values, wrong: None })
    }
}

/// Key of a label or annotation; `None` if no code reads it.
struct LabelKey(Option<String>);

impl<'de> Deserialize<'de> for LabelKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(LabelKeyVisitor)
    }
}

struct LabelKeyVisitor;

impl Visitor<'_> for LabelKeyVisitor {
    type Value = LabelKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<LabelKey, E> {
        Ok(LabelKey(Labels::is_read(key.as_bytes()).then(|| key.to_owned())))
    }
}
