//! Methods by name.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use crate::blocks::BlockFormat;
use crate::codebook::Bits;
use crate::families::{Family, families, format_ids, formats};
use crate::granularity::Granularity;
use crate::quantizer::{Quantizer, Solver};

/// A method, parsed from its id (`"lat-a".parse()`): a [`Family`] and its number of bits. Methods
/// are equal if their ids are.
#[derive(Clone)]
pub struct Method {
    family: &'static Family,
    bits: Option<Bits>,
    quantizer: Option<Quantizer>,
    scale_start: Option<f32>,
    granularity: Granularity,
}

/// A granularity that a format does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{format} has a scale for each block of {block} weights, not for each {found}: omit the granularity"
)]
pub struct GranularityError {
    /// The id of the format.
    pub format: String,
    /// The weights of its blocks.
    pub block: usize,
    /// The granularity.
    pub found: Granularity,
}

impl Family {
    /// The methods of the family, one per number of bits.
    pub fn methods(&'static self) -> impl Iterator<Item = Method> {
        let sizes: Vec<_> = match self.bits.clone() {
            Some(range) => range
                .filter_map(|bits| Bits::new(bits).ok())
                .map(Some)
                .collect(),
            None => vec![None],
        };
        sizes.into_iter().map(move |bits| Method::new(self, bits))
    }
}

/// The number of bits of an alias without one: that of most rows of the paper's tables.
const DEFAULT_BITS: u8 = 3;

impl Method {
    fn new(family: &'static Family, bits: Option<Bits>) -> Self {
        let sized = bits.unwrap_or(Bits::MIN);
        let quantizer = family.quantizer.map(|(solver, levels)| Quantizer {
            solver,
            codebook: levels.codebook(sized),
        });
        Self {
            family,
            bits,
            quantizer,
            scale_start: None,
            granularity: family.block.map_or(Granularity::Gate, Granularity::Block),
        }
    }

    /// With the weights that share a scale; without it, those of a gate, or the blocks of a format.
    ///
    /// # Errors
    /// If a format has other blocks.
    pub fn with_granularity(mut self, granularity: Granularity) -> Result<Self, GranularityError> {
        if let Some(block) = self.family.block
            && granularity != Granularity::Block(block)
        {
            return Err(GranularityError {
                format: self.id(),
                block,
                found: granularity,
            });
        }
        self.granularity = granularity;
        Ok(self)
    }

    /// The weights that share a scale.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// What [`solve_blocks`](crate::blocks::solve_blocks) solves for a format; `None` for others.
    pub fn block_format(&self) -> Option<BlockFormat> {
        let (quantizer, block) = (self.quantizer()?, self.family.block?);
        let Solver::ExactOnGrid { grid } = quantizer.solver() else {
            return None;
        };
        BlockFormat::new(quantizer.codebook().clone(), grid, block).ok()
    }

    /// With another start of trained scales than that of TWN, a finite number; no effect on other
    /// methods.
    pub fn with_scale_start(mut self, start: f32) -> Self {
        self.scale_start = Some(start).filter(|_| self.has_trained_scales());
        self
    }

    /// The start of trained scales, where it is not that of TWN.
    pub fn scale_start(&self) -> Option<f32> {
        self.scale_start
    }

    /// Whether the scales are trained: TTQ.
    pub fn has_trained_scales(&self) -> bool {
        self.solver() == Some(Solver::Trained)
    }

    /// Every method: each family with each of its numbers of bits; without formats.
    pub fn all() -> impl Iterator<Item = Method> {
        families().iter().flat_map(Family::methods)
    }

    /// The method with this id or alias and this number of bits. A name that contains another
    /// number of bits is an error, as is a method without a choice of bits.
    ///
    /// # Errors
    /// As [`str::parse`]; [`ParseMethodError::OtherBits`] and [`ParseMethodError::FixedBits`].
    pub fn with_bits(name: &str, bits: u8) -> Result<Method, ParseMethodError> {
        let sized = |family: &&Family| family.bits.is_some() && family.has_name(name);
        if let Some(family) = families().iter().find(sized) {
            return family.id_with_bits(bits).parse();
        }
        let method: Method = name.parse()?;
        match method.bits() {
            Some(own) if own == bits => Ok(method),
            Some(own) => Err(ParseMethodError::OtherBits {
                method: method.id(),
                own,
                bits,
            }),
            None => Err(ParseMethodError::FixedBits {
                method: method.id(),
                bits,
            }),
        }
    }

    /// The canonical id, such as `lat-a` or `laq-linear-3`.
    pub fn id(&self) -> String {
        match self.bits {
            Some(bits) => self.family.id_with_bits(bits.get()),
            None => self.family.id.to_owned(),
        }
    }

    /// The family of the method.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// The number of bits in the id.
    pub fn bits(&self) -> Option<u8> {
        self.bits.map(Bits::get)
    }

    /// The solver and its codebook; `None` for `full`, which quantizes nothing.
    pub fn quantizer(&self) -> Option<&Quantizer> {
        self.quantizer.as_ref()
    }

    /// Bits of a weight as a packed level; 32 for `full`. Ternary levels take 2.
    pub fn storage_bits(&self) -> u32 {
        let quantizer = self.quantizer();
        quantizer.map_or(32, |quantizer| quantizer.codebook().storage_bits().into())
    }

    fn solver(&self) -> Option<Solver> {
        self.quantizer().map(Quantizer::solver)
    }

    /// Whether the method finds the optimum of problem (1) for its codebook and number of scales.
    pub fn is_exact(&self) -> bool {
        let solver = self.solver();
        let exact = |solver| {
            use Solver::{Exact, ExactOnGrid, WeightedSigns};
            matches!(solver, Exact { .. } | ExactOnGrid { .. } | WeightedSigns)
        };
        solver.is_some_and(exact)
    }

    /// Whether the method alternates between scale and levels.
    pub fn is_alternating(&self) -> bool {
        matches!(self.solver(), Some(Solver::Alternating { .. }))
    }

    /// The method that finds the optimum of the problem that this one solves by alternating; `None`
    /// for all other methods.
    pub fn exact_counterpart(&self) -> Option<Method> {
        let quantizer = self.quantizer()?;
        let Solver::Alternating { two_scales } = quantizer.solver() else {
            return None;
        };
        let exact = Quantizer {
            solver: Solver::Exact { two_scales },
            codebook: quantizer.codebook().clone(),
        };
        Method::all().find(|method| method.quantizer() == Some(&exact))
    }

    /// [`Quantizer::has_latent_gradient`]; false for `full`.
    pub fn has_latent_gradient(&self) -> bool {
        self.quantizer().is_some_and(Quantizer::has_latent_gradient)
    }
}

/// A name that no method has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseMethodError {
    /// The name is unknown.
    #[error("unknown method `{found}`, expected one of {}", list_of_ids())]
    Unknown {
        /// The name.
        found: String,
    },
    /// A sized method without a valid number of bits.
    #[error("`{found}` lacks a valid number of bits, expected `{lowest}` to `{highest}`")]
    Bits {
        /// The name.
        found: String,
        /// The id with the fewest bits.
        lowest: String,
        /// The id with the most bits.
        highest: String,
    },
    /// The name contains another number of bits than was passed.
    #[error("`{method}` has {own} bits, not {bits}")]
    OtherBits {
        /// The id.
        method: String,
        /// Its number of bits.
        own: u8,
        /// The number of bits that was passed.
        bits: u8,
    },
    /// The method has no choice of bits.
    #[error("`{method}` has no choice of bits, but {bits} were passed")]
    FixedBits {
        /// The id.
        method: String,
        /// The number of bits that was passed.
        bits: u8,
    },
}

fn list_of_ids() -> String {
    let ids: Vec<_> = families().iter().map(|family| family.id).collect();
    let formats: Vec<_> = format_ids().collect();
    let (ids, formats) = (ids.join(", "), formats.join(", "));
    format!("{ids} (M is 2 to 8 bits), or the formats {formats}")
}

impl FromStr for Method {
    type Err = ParseMethodError;

    /// Parses an id or an alias, ignoring case. An id of a sized method contains the number of bits
    /// (`laq-linear-3`); an alias may omit it (`LAQ_linear` has 3 bits, `LAQ_linear-4` has 4).
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let mut wrong_bits = None;
        for family in families().iter().chain(formats()) {
            let Some(range) = &family.bits else {
                let mut names = family.aliases.iter().chain([&family.id]);
                if names.any(|known| known.eq_ignore_ascii_case(name)) {
                    return Ok(Method::new(family, None));
                }
                continue;
            };
            for alias in family.aliases {
                if alias.eq_ignore_ascii_case(name) {
                    return Ok(Method::new(family, Bits::new(DEFAULT_BITS).ok()));
                }
            }
            // No sign and no leading zero, so that no method has two ids.
            let with_bits = |bits: &u8| {
                let alias = |alias: &&str| format!("{alias}-{bits}").eq_ignore_ascii_case(name);
                family.id_with_bits(*bits).eq_ignore_ascii_case(name)
                    || family.aliases.iter().any(alias)
            };
            if let Some(bits) = range.clone().find(with_bits) {
                return Ok(Method::new(family, Bits::new(bits).ok()));
            }
            // Of several families with a matching prefix and suffix, the last has the longest id.
            if names_family(name, family) {
                wrong_bits = Some(ParseMethodError::Bits {
                    found: name.to_owned(),
                    lowest: family.id_with_bits(*range.start()),
                    highest: family.id_with_bits(*range.end()),
                });
            }
        }
        Err(wrong_bits.unwrap_or_else(|| ParseMethodError::Unknown {
            found: name.to_owned(),
        }))
    }
}

/// Whether `name` is the id or an alias of the family with an invalid or missing number of bits.
fn names_family(name: &str, family: &Family) -> bool {
    let (start, end) = family.id.split_once("-M").unwrap_or((family.id, ""));
    let starts = family.aliases.iter().chain([&start]);
    starts.into_iter().any(|start| {
        strip_prefix(name, start).is_some_and(|rest| {
            rest.eq_ignore_ascii_case(end)
                || rest.starts_with('-') && rest.to_ascii_lowercase().ends_with(end)
        })
    })
}

/// The rest of `name` after `prefix`, ignoring case.
fn strip_prefix<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = name.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

impl TryFrom<&str> for Method {
    type Error = ParseMethodError;

    fn try_from(name: &str) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.id())
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Method({self})")
    }
}

impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        (self.family.id, self.bits) == (other.family.id, other.bits)
    }
}

impl Eq for Method {}

impl Hash for Method {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.family.id, self.bits).hash(state);
    }
}
