//! The reference: all operations in f64 and plain loops.
//!
//! [`conformance`](crate::conformance) compares backends with these functions. The tests of this
//! crate check their backward passes by finite differences. Arguments and shapes are those of the
//! traits of [`Backend`](crate::Backend).

mod convolution;
mod dense;
mod losses;
mod lstm;
mod norm;
mod optimizer;
mod pool;

pub use convolution::*;
pub use dense::*;
pub use losses::*;
pub use lstm::*;
pub use norm::*;
pub use optimizer::*;
pub use pool::*;
