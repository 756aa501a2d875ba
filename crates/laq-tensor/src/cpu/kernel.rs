//! Which instructions the CPU backend uses, decided once at run time.

use crate::BackendError;

/// The environment variable that forces a kernel.
pub const KERNEL_VARIABLE: &str = "LAQ_KERNEL";

/// The instruction sets, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// A set of kernels that this processor is known to run.
///
/// A value is proof: it can only be made by looking at the processor, which is what makes the calls
/// into `#[target_feature]` functions sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(Set);

impl Kernel {
    /// Every kernel of this processor, slowest first.
    pub fn available() -> Vec<Kernel> {
        let mut kernels = vec![Kernel(Set::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                kernels.push(Kernel(Set::Avx2));
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
                    kernels.push(Kernel(Set::Avx512));
                }
            }
        }
        kernels
    }

    /// The fastest kernel, or the one that the environment variable `LAQ_KERNEL` names.
    ///
    /// # Errors
    /// [`BackendError::UnknownKernel`] when the variable names none of [`Kernel::available`].
    pub fn from_environment() -> Result<Kernel, BackendError> {
        let available = Kernel::available();
        match std::env::var(KERNEL_VARIABLE) {
            Err(_) => Ok(available[available.len() - 1]),
            Ok(name) => available
                .iter()
                .copied()
                .find(|kernel| kernel.name() == name)
                .ok_or_else(|| BackendError::UnknownKernel {
                    found: name,
                    variable: KERNEL_VARIABLE,
                    available: available
                        .iter()
                        .map(|kernel| kernel.name())
                        .collect::<Vec<_>>()
                        .join(", "),
                }),
        }
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

    pub(crate) fn set(self) -> Set {
        self.0
    }
}

/// Compiles one plain Rust function once for each instruction set and calls the right copy.
///
/// The body is written as loops over slices that the compiler turns into vector instructions of
/// the width at hand. It never fuses a product and a sum by itself, so that all copies round alike.
macro_rules! for_each_set {
    ($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        pub(crate) fn $name(kernel: $crate::cpu::kernel::Kernel, $($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn portable($($argument: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $type),*) $(-> $result)? { portable($($argument),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
            fn avx512($($argument: $type),*) $(-> $result)? { portable($($argument),*) }
            match kernel.set() {
                $crate::cpu::kernel::Set::Portable => portable($($argument),*),
                // SAFETY: a `Kernel` of this set exists only where the processor has its features.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::kernel::Set::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::kernel::Set::Avx512 => unsafe { avx512($($argument),*) },
            }
        }
    };
}
pub(crate) use for_each_set;
