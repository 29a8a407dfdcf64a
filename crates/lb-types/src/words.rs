//! Enums whose values are words: of flags, annotations, files, logs and metrics.

/// Defines such an enum and its words; and, where words are read, the error that any other word leads to, for which the
/// crate needs `thiserror`.
#[macro_export]
macro_rules! words {
    (
        $(#[$enum:meta])* $name:ident { $($(#[$value:meta])* $variant:ident = $word:literal,)+ }
        $($(#[$error:meta])* $unknown:ident = $message:literal)?
    ) => {
        $(#[$enum])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$value])* $variant,)+ }

        impl $name {
            /// All of them, in their order.
            pub const ALL: [$name; [$($word),+].len()] = [$($name::$variant),+];

            /// Its word.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        $(
            $(#[$error])*
            #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
            #[error($message)]
            pub struct $unknown(pub String);

            impl std::str::FromStr for $name {
                type Err = $unknown;

                fn from_str(word: &str) -> Result<Self, $unknown> {
                    let known = $name::ALL.into_iter().find(|one| one.as_str() == word);
                    known.ok_or_else(|| $unknown(word.to_owned()))
                }
            }
        )?
    };
}
