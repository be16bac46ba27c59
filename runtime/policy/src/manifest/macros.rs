//! What the types of the manifest are declared with.

/// Declares an enum whose values have a name in the manifest, so that reader, schema, reference and
/// output take the names from one place.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$value_doc])* $value,)*
        }

        impl $name {
            /// All values, in the order of [`Self::NAMES`].
            pub const ALL: &[Self] = &[$(Self::$value),*];
            /// The names of all values.
            pub const NAMES: &[&str] = &[$($text),*];

            /// The value's name in the manifest.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
