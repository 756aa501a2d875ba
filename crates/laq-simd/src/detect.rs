//! Detection and selection of the instruction set.

use std::ffi::OsStr;
use std::sync::OnceLock;

use crate::isa::Isa;

/// The environment variable that selects an instruction set.
pub const KERNEL_VARIABLE: &str = "LAQ_KERNEL";

/// `LAQ_KERNEL` names an instruction set that is unknown or that this processor does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{KERNEL_VARIABLE} is `{found}`, expected one of the instruction sets of this processor: {available}; \
     unset it to select the fastest"
)]
pub struct UnknownIsa {
    /// The value of the variable.
    pub found: String,
    /// The accepted names, comma separated.
    pub available: String,
}

impl Isa {
    /// The instruction sets of this processor, fastest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        #[cfg(target_arch = "x86_64")]
        let detected = {
            use crate::isa::Set;
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            [
                avx512.then_some(Isa(Set::Avx512)),
                avx2.then_some(Isa(Set::Avx2)),
            ]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let detected = [None];
        detected.into_iter().flatten().chain([Isa::PORTABLE])
    }

    /// The instruction set that `LAQ_KERNEL` names, or the fastest if the variable is unset.
    ///
    /// # Errors
    /// The variable names none of [`Isa::available`].
    pub fn from_environment() -> Result<Isa, UnknownIsa> {
        std::env::var_os(KERNEL_VARIABLE).map_or_else(|| Ok(Isa::fastest()), |name| parse(&name))
    }

    /// As [`from_environment`](Self::from_environment), read once per process. If the variable has
    /// an unknown value, prints a warning to standard error and selects the fastest.
    pub fn selected() -> Isa {
        static SELECTED: OnceLock<Isa> = OnceLock::new();
        *SELECTED.get_or_init(|| {
            Isa::from_environment().unwrap_or_else(|error| {
                let fastest = Isa::fastest();
                eprintln!("warning: {error}; using {fastest}");
                fastest
            })
        })
    }
}

fn parse(name: &OsStr) -> Result<Isa, UnknownIsa> {
    let unknown = || UnknownIsa {
        found: name.to_string_lossy().into_owned(),
        available: Isa::available()
            .map(Isa::name)
            .collect::<Vec<_>>()
            .join(", "),
    };
    Isa::available()
        .find(|isa| name == isa.name())
        .ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_set_has_a_name() {
        for isa in Isa::available() {
            assert_eq!(parse(OsStr::new(isa.name())), Ok(isa));
        }
        assert_eq!(Isa::available().last(), Some(Isa::PORTABLE));
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        let UnknownIsa { found, available } = parse(OsStr::new("mmx")).unwrap_err();
        assert_eq!(found, "mmx");
        assert!(available.ends_with("portable"), "{available}");
    }
}
