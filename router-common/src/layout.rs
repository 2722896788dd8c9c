//! `abi!`: declares a type that crosses a map, with its size checked and padding refused.
//!
//! The only file that may write `unsafe impl Pod`.

/// Declares `repr(C)` structs with a stated size. Generic ones state a size per address family:
///
/// ```
/// router_common::abi! {
///     /// A key.
///     pub struct Key[8] { pub a: u32, pub b: u16, pub c: [u8; 2] }
/// }
/// router_common::abi! {
///     /// A key per family.
///     pub struct FamilyKey<A>[Ipv4: 8, Ipv6: 20] { pub a: A, pub b: u32 }
/// }
/// ```
///
/// Implicit padding does not compile:
///
/// ```compile_fail
/// router_common::abi! {
///     /// Three bytes of padding behind `b`.
///     pub struct Bad[8] { pub a: u32, pub b: u8 }
/// }
/// ```
#[macro_export]
macro_rules! abi {
    (
        $(#[$meta:meta])*
        pub struct $name:ident<$family:ident>[$($instance:ident: $size:literal),+] {
            $($(#[$field_meta:meta])* pub $field:ident: $type:ty),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name<$family> { $($(#[$field_meta])* pub $field: $type,)* }
        impl<$family> $name<$family> {
            /// Sum of the fields' sizes: the type's own size, unless there is padding.
            const FIELDS: usize = 0 $(+ size_of::<$type>())*;
        }
        $(const _: () = {
            type Instance = $name<$crate::net::$instance>;
            assert!(size_of::<Instance>() == $size, "size differs from the one stated");
            assert!(Instance::FIELDS == $size, "implicit padding");
            // SAFETY: repr(C), no padding (asserted), every field is plain integers.
            #[cfg(feature = "user")]
            #[allow(unsafe_code, reason = "the checked macro is where Pod is implemented")]
            unsafe impl $crate::Pod for Instance {}
        };)+
    };
    (
        $(#[$meta:meta])*
        pub struct $name:ident[$size:literal] {
            $($(#[$field_meta:meta])* pub $field:ident: $type:ty),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }
        const _: () = {
            assert!(size_of::<$name>() == $size, "size differs from the one stated");
            assert!(0 $(+ size_of::<$type>())* == $size, "implicit padding");
        };
        // SAFETY: repr(C), no padding (asserted), every field is plain integers.
        #[cfg(feature = "user")]
        #[allow(unsafe_code, reason = "the checked macro is where Pod is implemented")]
        unsafe impl $crate::Pod for $name {}
    };
}
