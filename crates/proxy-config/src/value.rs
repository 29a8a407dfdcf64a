//! Values of fields, and their spellings in files and flags.

use std::{collections::BTreeMap, fmt::Display, time::Duration};

use lb_types::{parse_duration, render_duration};

use crate::{
    go,
    tree::{Content, Node},
};

/// Type of a field.
pub(crate) trait Parse: Sized {
    /// Reads a node that is not null.
    fn parse(node: &Node) -> Result<Self, String>;

    /// Reads the values of a flag as typed.
    fn parse_flag(texts: &[String]) -> Result<Self, String> {
        Self::parse(&Node { line: 0, content: Content::Scalar(texts.join(",")) })
    }

    /// Tells whether Go takes the value for unset.
    fn is_zero(&self) -> bool;

    /// The value as YAML that is JSON, too, but for texts without quotes; `None` leaves the field out.
    fn to_yaml(&self) -> Option<String>;

    /// The values of the flag that mean the same.
    fn to_flag(&self) -> Vec<String>;

    /// True for booleans, whose flag needs no value.
    const IS_SWITCH: bool = false;
}

/// A field of any type.
pub(crate) trait Value {
    /// Reads a node. Where zero means the default, a zero changes nothing.
    fn read(&mut self, node: &Node, zero_counts: bool) -> Result<(), String>;
    /// Takes the values of a flag.
    fn take_flag(&mut self, texts: &[String]) -> Result<(), String>;
    /// See [`Parse::to_yaml`].
    fn yaml(&self) -> Option<String>;
    /// See [`Parse::to_flag`].
    fn flag(&self) -> Vec<String>;
    /// See [`Parse::IS_SWITCH`].
    fn is_switch(&self) -> bool;
}

impl<T: Parse> Value for T {
    fn read(&mut self, node: &Node, zero_counts: bool) -> Result<(), String> {
        let value = T::parse(node)?;
        if zero_counts || !value.is_zero() {
            *self = value;
        }
        Ok(())
    }

    fn take_flag(&mut self, texts: &[String]) -> Result<(), String> {
        *self = T::parse_flag(texts)?;
        Ok(())
    }

    fn yaml(&self) -> Option<String> {
        self.to_yaml()
    }

    fn flag(&self) -> Vec<String> {
        self.to_flag()
    }

    fn is_switch(&self) -> bool {
        T::IS_SWITCH
    }
}

/// Text of a scalar that is to be parsed.
fn text<'a>(node: &'a Node, expected: &str) -> Result<&'a str, String> {
    node.text().map(str::trim).ok_or_else(|| unexpected(node, expected))
}

fn unexpected(node: &Node, expected: &str) -> String {
    format!("expected {expected}, found {}", node.describe())
}

/// YAML of a text: JSON's quotes are YAML's, too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Parse for bool {
    const IS_SWITCH: bool = true;

    /// Booleans as YAML 1.1 spells them, as kube-proxy's parser does.
    fn parse(node: &Node) -> Result<Self, String> {
        let expected = "true or false";
        match text(node, expected)?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => Ok(true),
            "false" | "no" | "off" | "n" => Ok(false),
            _ => Err(unexpected(node, expected)),
        }
    }

    /// Also as `strconv.ParseBool` of Go spells them, by which kube-proxy's flags are read.
    fn parse_flag(texts: &[String]) -> Result<Self, String> {
        let text = texts.join(",");
        go::boolean(&text).or_else(|_| Self::parse(&Node { line: 0, content: Content::Scalar(text) }))
    }

    fn is_zero(&self) -> bool {
        !self
    }

    fn to_yaml(&self) -> Option<String> {
        Some(self.to_string())
    }

    fn to_flag(&self) -> Vec<String> {
        vec![self.to_string()]
    }
}

/// A whole number in any form that kube-proxy's parser of YAML takes for one: decimal, hexadecimal, octal, binary, with
/// underscores, or a fraction without digits behind its point, as templates print large numbers (`1.048576e+06`).
fn whole_number(text: &str) -> Option<i64> {
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let lower = digits.to_ascii_lowercase();
    let based = go::based(&lower).filter(|(rest, _)| !rest.starts_with(['+', '-']));
    let with_radix = based.and_then(|(rest, radix)| i64::from_str_radix(rest, radix).ok());
    let unsigned = || digits.parse().ok().filter(|number: &i64| *number >= 0);
    // Beyond that, a fraction of 64 bits is not exact, and no setting is as large.
    let fraction = || {
        let number: f64 = digits.parse().ok()?;
        #[expect(clippy::cast_possible_truncation, reason = "it is a whole number within 2^53")]
        (number.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&number)).then_some(number as i64)
    };
    with_radix.or_else(unsigned).or_else(fraction).map(|number| sign * number)
}

fn parse_whole<T: TryFrom<i64>>(node: &Node, expected: &str) -> Result<T, String> {
    let number = whole_number(text(node, expected)?).and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| unexpected(node, expected))
}

fn parse_fraction(node: &Node, expected: &str) -> Result<f32, String> {
    let text = text(node, expected)?;
    #[expect(clippy::cast_precision_loss, reason = "a fraction of 32 bits is what the field has")]
    let whole = whole_number(text).map(|number| number as f32);
    whole.map_or_else(|| text.parse().map_err(|_| unexpected(node, expected)), Ok)
}

macro_rules! number {
    ($type:ty, $parse:ident, $expected:literal) => {
        impl Parse for $type {
            fn parse(node: &Node) -> Result<Self, String> {
                $parse(node, $expected)
            }

            fn is_zero(&self) -> bool {
                *self == <$type>::default()
            }

            fn to_yaml(&self) -> Option<String> {
                Some(self.to_string())
            }

            fn to_flag(&self) -> Vec<String> {
                vec![self.to_string()]
            }
        }
    };
}

number!(i32, parse_whole, "a whole number of 32 bits");
number!(u32, parse_whole, "a whole number of 32 bits, 0 or more");
number!(f32, parse_fraction, "a number");

impl Parse for String {
    fn parse(node: &Node) -> Result<Self, String> {
        node.text().map(str::to_owned).ok_or_else(|| unexpected(node, "a text"))
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn to_yaml(&self) -> Option<String> {
        Some(quoted(self))
    }

    fn to_flag(&self) -> Vec<String> {
        vec![self.clone()]
    }
}

impl Parse for Duration {
    fn parse(node: &Node) -> Result<Self, String> {
        let text = text(node, "a duration like 30s")?;
        parse_duration(text).map_err(|error| error.to_string())
    }

    fn is_zero(&self) -> bool {
        Duration::is_zero(self)
    }

    fn to_yaml(&self) -> Option<String> {
        Some(render_duration(*self))
    }

    fn to_flag(&self) -> Vec<String> {
        vec![render_duration(*self)]
    }
}

/// A duration that may also be a number of nanoseconds, as `logging.flushFrequency` is in old files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaybeNanoseconds(pub Duration);

impl Parse for MaybeNanoseconds {
    fn parse(node: &Node) -> Result<Self, String> {
        let nanoseconds = node.text().and_then(|text| text.parse().ok());
        let duration = nanoseconds.map_or_else(|| Duration::parse(node), |n| Ok(Duration::from_nanos(n)));
        duration.map(MaybeNanoseconds)
    }

    fn is_zero(&self) -> bool {
        self.0.is_zero()
    }

    fn to_yaml(&self) -> Option<String> {
        self.0.to_yaml()
    }

    fn to_flag(&self) -> Vec<String> {
        self.0.to_flag()
    }
}

/// Elements of a list.
fn elements<'a>(node: &'a Node, expected: &str) -> Result<&'a [Node], String> {
    match &node.content {
        Content::List(nodes) => Ok(nodes),
        _ => Err(unexpected(node, expected)),
    }
}

impl Parse for Vec<String> {
    fn parse(node: &Node) -> Result<Self, String> {
        elements(node, "a list of texts")?.iter().map(String::parse).collect()
    }

    fn parse_flag(texts: &[String]) -> Result<Self, String> {
        Ok(texts.to_vec())
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn to_yaml(&self) -> Option<String> {
        Some(format!("[{}]", self.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ")))
    }

    fn to_flag(&self) -> Vec<String> {
        self.clone()
    }
}

/// Splits `A=1,B=2`.
fn pairs(texts: &[String]) -> Result<Vec<(String, String)>, String> {
    let pairs = texts.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|pair| !pair.is_empty());
    let split = |pair: &str| {
        let (name, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} has no =VALUE"))?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    pairs.map(split).collect()
}

fn join<N: Display, V: Display>(pairs: impl Iterator<Item = (N, V)>) -> Vec<String> {
    pairs.map(|(name, value)| format!("{name}={value}")).collect()
}

impl Parse for BTreeMap<String, bool> {
    fn parse(node: &Node) -> Result<Self, String> {
        // Files of Kubernetes 1.9 and before have one text.
        if let Some(text) = node.text() {
            return Self::parse_flag(&[text.to_owned()]);
        }
        let Content::Map(entries) = &node.content else { return Err(unexpected(node, "a mapping")) };
        let gate = |entry: &crate::tree::Entry| {
            let value = bool::parse(&entry.value).map_err(|error| format!("{}: {error}", entry.key))?;
            Ok((entry.key.clone(), value))
        };
        entries.iter().filter(|entry| entry.value.content != Content::Null).map(gate).collect()
    }

    fn parse_flag(texts: &[String]) -> Result<Self, String> {
        let gate = |(name, value)| {
            let value = bool::parse_flag(&[value]).map_err(|error| format!("{name}: {error}"))?;
            Ok((name, value))
        };
        pairs(texts)?.into_iter().map(gate).collect()
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn to_yaml(&self) -> Option<String> {
        let gates = self.iter().map(|(name, value)| format!("{}: {value}", quoted(name)));
        Some(format!("{{{}}}", gates.collect::<Vec<_>>().join(", ")))
    }

    fn to_flag(&self) -> Vec<String> {
        join(self.iter())
    }
}

/// Verbosity of the log lines of some source files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VModule {
    /// Pattern of file names.
    pub file_pattern: String,
    /// Verbosity there.
    pub verbosity: u32,
}

impl Parse for Vec<VModule> {
    fn parse(node: &Node) -> Result<Self, String> {
        let expected = "a list of {filePattern: TEXT, verbosity: NUMBER}";
        let missing = |node: &Node| unexpected(node, expected);
        let one = |node: &Node| {
            let pattern = node.get("filePattern").ok_or_else(|| missing(node))?;
            let verbosity = node.get("verbosity").ok_or_else(|| missing(node))?;
            Ok(VModule { file_pattern: String::parse(pattern)?, verbosity: u32::parse(verbosity)? })
        };
        elements(node, expected)?.iter().map(one).collect()
    }

    fn parse_flag(texts: &[String]) -> Result<Self, String> {
        let one = |(file_pattern, verbosity): (String, String)| {
            let verbosity =
                verbosity.parse().map_err(|_| format!("{file_pattern}: {verbosity:?} is no verbosity"))?;
            Ok(VModule { file_pattern, verbosity })
        };
        pairs(texts)?.into_iter().map(one).collect()
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn to_yaml(&self) -> Option<String> {
        let one = |module: &VModule| {
            let pattern = quoted(&module.file_pattern);
            format!("{{\"filePattern\": {pattern}, \"verbosity\": {}}}", module.verbosity)
        };
        Some(format!("[{}]", self.iter().map(one).collect::<Vec<_>>().join(", ")))
    }

    fn to_flag(&self) -> Vec<String> {
        join(self.iter().map(|module| (&module.file_pattern, module.verbosity)))
    }
}

/// A field that leaves its flag alone where it is unset.
impl<T: Parse> Parse for Option<T> {
    const IS_SWITCH: bool = T::IS_SWITCH;

    fn parse(node: &Node) -> Result<Self, String> {
        T::parse(node).map(Some)
    }

    fn parse_flag(texts: &[String]) -> Result<Self, String> {
        T::parse_flag(texts).map(Some)
    }

    fn is_zero(&self) -> bool {
        self.is_none()
    }

    fn to_yaml(&self) -> Option<String> {
        self.as_ref().and_then(T::to_yaml)
    }

    fn to_flag(&self) -> Vec<String> {
        self.as_ref().map(T::to_flag).unwrap_or_default()
    }
}
