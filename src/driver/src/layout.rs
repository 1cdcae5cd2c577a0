//! How C handles, structs and constants are declared, once each: the Rust item, the compile-time check of
//! its layout, and the row that the tests compare with NVIDIA's own headers.

/// A value of all zero bytes, as C programs make by `memset` and as NVIDIA asks for reserved fields.
pub trait Zero {
    /// That value.
    const ZERO: Self;
}

macro_rules! zero_numbers {
    ($($number:ident)*) => { $( impl Zero for $number { const ZERO: Self = 0 as Self; } )* };
}
zero_numbers! { u8 u16 u32 u64 usize i8 i16 i32 i64 f32 }

impl<T> Zero for *const T {
    const ZERO: Self = core::ptr::null();
}
impl<T> Zero for *mut T {
    const ZERO: Self = core::ptr::null_mut();
}
impl<T: Zero + Copy, const N: usize> Zero for [T; N] {
    const ZERO: Self = [T::ZERO; N];
}

/// Declares handles: values that the driver gives out and only the driver can read. They are addresses or
/// indices of the driver's; as numbers they can be compared, hashed, and sent to other threads.
macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident($number:ident);)*) => { $(
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub $number);

        impl $name {
            /// The null handle.
            pub const NULL: Self = Self(0);

            /// Whether this is the null handle.
            #[inline]
            pub const fn is_null(self) -> bool {
                self.0 == 0
            }

            /// The handle's bits.
            #[inline]
            pub const fn as_u64(self) -> u64 {
                self.0 as u64
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(formatter, "{}({:#x})", stringify!($name), self.0)
            }
        }

        impl $crate::layout::Zero for $name {
            const ZERO: Self = Self(0);
        }
    )*

        #[cfg(test)]
        pub(crate) const HANDLES: &[$crate::layout::Layout] = &[$(
            $crate::layout::Layout { name: stringify!($name), size_bytes: size_of::<$name>(), fields: &[] }
        ),*];
    };
}
pub(crate) use handles;

/// Declares C structs. The number in brackets is in bytes: the size of a struct, the offset of a field;
/// both are checked at compile time. A field whose name in C is another one says `as` and that name.
macro_rules! c_structs {
    ($(
        $(#[$doc:meta])*
        struct $name:ident [$size:literal] {
            $( $(#[$field_doc:meta])* [$offset:literal] $field:ident $(as $c_field:ident)?: $type:ty, )*
        }
    )*) => { $(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[allow(missing_docs)] // fields carry NVIDIA's names
        pub struct $name {
            $( $(#[$field_doc])* pub $field: $type, )*
        }

        const _: () = {
            assert!(size_of::<$name>() == $size);
            $( assert!(core::mem::offset_of!($name, $field) == $offset); )*
        };

        impl $crate::layout::Zero for $name {
            const ZERO: Self = Self { $( $field: <$type as $crate::layout::Zero>::ZERO, )* };
        }

        /// All zero.
        impl Default for $name {
            #[inline]
            fn default() -> Self {
                <Self as $crate::layout::Zero>::ZERO
            }
        }
    )*

        #[cfg(test)]
        pub(crate) const STRUCTS: &[$crate::layout::Layout] = &[$(
            $crate::layout::Layout {
                name: stringify!($name),
                size_bytes: size_of::<$name>(),
                fields: &[$((
                    $crate::layout::c_name!($field $(as $c_field)?),
                    core::mem::offset_of!($name, $field),
                )),*],
            }
        ),*];
    };
}
pub(crate) use c_structs;

/// Declares the values of C enums and flag sets. They are plain numbers, never Rust enums: the driver may
/// know values that this library doesn't.
macro_rules! c_constants {
    ($(
        $(#[$doc:meta])*
        $type:ident: $number:ty {
            $($name:ident = $value:expr,)*
        }
    )*) => { $(
        $(#[$doc])*
        pub type $type = $number;
        $( #[allow(missing_docs)] pub const $name: $type = $value; )*
    )*

        #[cfg(test)]
        pub(crate) const CONSTANTS: &[(&str, i64)] = &[$($( (stringify!($name), $name as i64), )*)*];
    };
}
pub(crate) use c_constants;

/// The layout of a C type, for the comparison with the headers.
#[cfg(test)]
pub(crate) struct Layout {
    /// The type's name in C.
    pub name: &'static str,
    /// Its size in bytes.
    pub size_bytes: usize,
    /// Fields by name in C, with their offset in bytes.
    pub fields: &'static [(&'static str, usize)],
}

/// A field's name in C.
#[cfg(test)]
macro_rules! c_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident as $c_field:ident) => {
        stringify!($c_field)
    };
}
#[cfg(test)]
pub(crate) use c_name;
