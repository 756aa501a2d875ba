//! Without the standard library there is no detection: the instruction set is the baseline.

use crate::isa::Isa;

impl Isa {
    /// [`PORTABLE`](Self::PORTABLE) alone: detection needs the feature `std`.
    pub fn available() -> impl Iterator<Item = Isa> {
        [Isa::PORTABLE].into_iter()
    }

    /// [`PORTABLE`](Self::PORTABLE): selection needs the feature `std`.
    pub fn selected() -> Isa {
        Isa::PORTABLE
    }
}
