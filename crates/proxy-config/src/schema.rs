//! Declaration of sections: type, defaults and the visit of every field from one place.

use crate::value::Value;

/// A section of the configuration.
pub(crate) trait Section {
    /// Visits each field, sections inside included, in the order of the file. `prefix` ends in a dot, or is empty.
    fn visit(&mut self, prefix: &str, visitor: &mut dyn FnMut(Leaf<'_>));
}

/// A field with its value.
pub(crate) struct Leaf<'a> {
    /// Path in the document: `ipvs.syncPeriod`.
    pub(crate) path: String,
    /// Flag with the same meaning, without dashes.
    pub(crate) flag: Option<&'static str>,
    /// False if zero, as well as null, means the default.
    pub(crate) zero_counts: bool,
    /// Meaning, in a sentence.
    pub(crate) meaning: &'static str,
    /// The value.
    pub(crate) value: &'a mut dyn Value,
}

/// Declares a section: fields with default, name, flag, and `if null` where a zero is not the default; then the
/// sections inside it.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $field:ident: $type:ty = $default:expr => $key:literal $(flag $flag:literal)? $(if $null:ident)?;
            )*
        }
        $({
            $( $(#[doc = $inner_doc:literal])+ $inner:ident: $inner_type:ident => $inner_key:literal; )*
        })?
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $type, )*
            $( $( $(#[doc = $inner_doc])+ pub $inner: $inner_type, )* )?
        }

        impl Default for $name {
            fn default() -> Self {
                $name {
                    $( $field: $default, )*
                    $( $( $inner: Default::default(), )* )?
                }
            }
        }

        impl $crate::schema::Section for $name {
            fn visit(&mut self, prefix: &str, visitor: &mut dyn FnMut($crate::schema::Leaf<'_>)) {
                $(
                    visitor($crate::schema::Leaf {
                        path: format!("{prefix}{}", $key),
                        flag: Some(concat!($($flag)?)).filter(|flag| !flag.is_empty()),
                        zero_counts: !concat!($(stringify!($null))?).is_empty(),
                        meaning: concat!($($doc),+).trim_ascii(),
                        value: &mut self.$field,
                    });
                )*
                $( $( self.$inner.visit(&format!("{prefix}{}.", $inner_key), visitor); )* )?
            }
        }
    };
}

pub(crate) use section;
