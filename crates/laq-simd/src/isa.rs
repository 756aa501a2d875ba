//! Instruction sets.

use core::fmt;

/// The instruction sets that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Set {
    /// The baseline of the target.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ and VL, with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// An instruction set that this processor has.
///
/// The value is a proof: it can only be made by detection, so a call of a `#[target_feature]`
/// function with the features of its [`Set`] is sound.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(pub(crate) Set);

impl Isa {
    /// The baseline of the target.
    pub const PORTABLE: Isa = Isa(Set::Portable);

    /// The fastest instruction set of this processor.
    pub fn fastest() -> Isa {
        Isa::available().next().unwrap_or(Isa::PORTABLE)
    }

    /// The set whose features the processor has.
    #[inline]
    pub fn set(self) -> Set {
        self.0
    }

    /// The name that `LAQ_KERNEL` takes.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Isa({})", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::multiversion! {
        fn sum<T: IntoIterator<Item = f32>>(values: T) -> f32 {
            values.into_iter().sum()
        }
    }

    #[test]
    fn every_version_is_called() {
        for isa in Isa::available() {
            assert_eq!(sum(isa, [1.0, 2.0, 4.0]), 7.0, "{isa}");
        }
    }
}
