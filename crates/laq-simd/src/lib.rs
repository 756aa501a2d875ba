#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod buffer;
#[cfg_attr(not(feature = "std"), path = "baseline.rs")]
mod detect;
mod isa;
pub mod math;

pub use buffer::AlignedBuffer;
#[cfg(feature = "std")]
pub use detect::{KERNEL_VARIABLE, UnknownIsa};
pub use isa::{Isa, Set};

/// Compiles a function once per instruction set; the first argument of the result is an [`Isa`] and
/// selects the version.
///
/// The body is written as loops over slices or arrays that the compiler vectorises. The compiler
/// does not contract a product and a sum into one operation, so all versions return the same bits.
/// Type parameters take one bound each: `fn sum<T: Table, C: Curvature>(…)`.
#[macro_export]
macro_rules! multiversion {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident $(<$($generic:ident: $bound:path),+ $(,)?>)? ($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        $visibility fn $name $(<$($generic: $bound),+>)? (isa: $crate::Isa, $($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn portable $(<$($generic: $bound),+>)? ($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<$($generic: $bound),+>)? ($($argument: $type),*) $(-> $result)? {
                portable($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512 $(<$($generic: $bound),+>)? ($($argument: $type),*) $(-> $result)? {
                portable($($argument),*)
            }

            match isa.set() {
                $crate::Set::Portable => portable($($argument),*),
                // SAFETY: an `Isa` of this set exists only if the processor has its features.
                #[cfg(target_arch = "x86_64")]
                $crate::Set::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::Set::Avx512 => unsafe { avx512($($argument),*) },
            }
        }
    };
}
