//! Enums whose values are words, which `drain.json` has, too.

/// Defines such an enum as [`lb_types::words`] does, and reads and writes it as its word.
macro_rules! words {
    ($(#[$enum:meta])* $name:ident $values:tt $($unknown:tt)*) => {
        lb_types::words! { $(#[$enum])* $name $values $($unknown)* }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                crate::spelling::text::serialize(self, to)
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                crate::spelling::text::deserialize(from)
            }
        }
    };
}

pub(crate) use words;
