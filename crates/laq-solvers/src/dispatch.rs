//! Picks the instruction set at run time. What is computed with it is left to `kernels`.

use std::sync::OnceLock;

use crate::problem::SolveError;

/// The instruction set that kernels run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    Portable,
    Avx2,
    Avx512,
}

impl Kernel {
    const NAMES: [(Kernel, &str); 3] = [
        (Kernel::Avx512, "avx512"),
        (Kernel::Avx2, "avx2"),
        (Kernel::Portable, "portable"),
    ];

    /// Whether this processor has it. The unsafe calls below rest on it: nothing makes a `Kernel` other than
    /// `Portable` but [`Kernel::available`].
    pub(crate) fn is_available(self) -> bool {
        match self {
            Kernel::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The kernels of this processor, fastest first.
    pub(crate) fn available() -> impl Iterator<Item = (Kernel, &'static str)> {
        Self::NAMES
            .into_iter()
            .filter(|(kernel, _)| kernel.is_available())
    }

    /// The kernel named by `LAQ_KERNEL` (read once), or else the fastest.
    pub(crate) fn selected() -> Result<Kernel, SolveError> {
        static SELECTED: OnceLock<Result<Kernel, SolveError>> = OnceLock::new();
        SELECTED
            .get_or_init(|| Self::by_name(std::env::var_os("LAQ_KERNEL").as_deref()))
            .clone()
    }

    fn by_name(name: Option<&std::ffi::OsStr>) -> Result<Kernel, SolveError> {
        let accepted = |known: &str| name.is_none_or(|name| name == known);
        match Self::available().find(|(_, known)| accepted(known)) {
            Some((kernel, _)) => Ok(kernel),
            None => Err(SolveError::Kernel {
                found: name.unwrap_or_default().to_string_lossy().into_owned(),
                available: Self::available()
                    .map(|(_, known)| known)
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }
}

/// Compiles one function body for every kernel and picks among them by the first argument.
macro_rules! multiversion {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident<$($generic:ident: $bound:path),*>($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        $visibility fn $name<$($generic: $bound),*>(kernel: Kernel, $($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn portable<$($generic: $bound),*>($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2<$($generic: $bound),*>($($argument: $type),*) $(-> $result)? {
                portable($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512<$($generic: $bound),*>($($argument: $type),*) $(-> $result)? {
                portable($($argument),*)
            }

            debug_assert!(kernel.is_available());
            match kernel {
                // SAFETY: only `Kernel::available` makes this value, so the processor has AVX2.
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: as above, for the four parts of AVX-512 that are enabled.
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx512 => unsafe { avx512($($argument),*) },
                _ => portable($($argument),*),
            }
        }
    };
}
pub(crate) use multiversion;

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_kernel_can_be_asked_for_by_name() {
        for (kernel, name) in Kernel::available() {
            assert_eq!(Kernel::by_name(Some(OsStr::new(name))), Ok(kernel));
        }
        let fastest = Kernel::available().next().map(|(kernel, _)| kernel);
        assert_eq!(Kernel::by_name(None).ok(), fastest);
        let message = Kernel::by_name(Some(OsStr::new("mmx")))
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with("LAQ_KERNEL is `mmx`, expected one of"),
            "{message}"
        );
        assert!(message.contains("portable"), "{message}");
    }
}
