//! Methods by name: the registry, and how a name is read.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use crate::methods::FAMILIES;
use crate::quantizer::Quantizer;

/// A method for any number of bits, as the registry describes it.
#[derive(Debug)]
pub struct Family {
    /// The id, with M for the bits where it has any: `lat-a`, `laq-linear-M`, `laq-linear-M-e`.
    pub id: &'static str,
    /// Other names that are understood, those of the authors' code among them.
    pub aliases: &'static [&'static str],
    /// The bits that may stand for M.
    pub bits: Option<RangeInclusive<u8>>,
    /// The levels, in a few words.
    pub codebook: &'static str,
    /// Where the scale comes from, in a few words.
    pub scale: &'static str,
    /// How levels are found, in a few words.
    pub solver: &'static str,
    /// The publication.
    pub source: &'static str,
    /// Makes the method for a number of bits, which methods without bits do not look at.
    pub(crate) quantizer: Option<fn(u8) -> Arc<dyn Quantizer>>,
}

impl Family {
    /// The id with a number of bits for M.
    fn with_bits(&self, bits: u8) -> String {
        self.id.replace('M', &bits.to_string())
    }
}

/// All families, in the order of the paper's tables; behind them those that the paper does not have.
pub fn families() -> &'static [Family] {
    &FAMILIES
}

/// A method, parsed from its id (`"lat-a".parse()`): a [`Family`] with its bits. Equal where the ids are.
#[derive(Clone)]
pub struct Method {
    family: &'static Family,
    bits: Option<u8>,
    quantizer: Option<Arc<dyn Quantizer>>,
}

/// Bits of an alias that comes without any: those of most rows of the paper's tables.
const DEFAULT_BITS: u8 = 3;

impl Method {
    fn new(family: &'static Family, bits: Option<u8>) -> Self {
        let quantizer = family.quantizer.map(|new| new(bits.unwrap_or_default()));
        Self {
            family,
            bits,
            quantizer,
        }
    }

    /// Every method: each family with each of its bits.
    pub fn all() -> impl Iterator<Item = Method> {
        families().iter().flat_map(|family| {
            let bits: Vec<_> = match family.bits.clone() {
                Some(range) => range.map(Some).collect(),
                None => vec![None],
            };
            bits.into_iter().map(move |bits| Method::new(family, bits))
        })
    }

    /// The canonical id, such as `lat-a` or `laq-linear-3`.
    pub fn id(&self) -> String {
        match self.bits {
            Some(bits) => self.family.with_bits(bits),
            None => self.family.id.to_owned(),
        }
    }

    /// The family that the method is of.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// The bits of a level, where the family leaves the choice.
    pub fn bits(&self) -> Option<u8> {
        self.bits
    }

    /// The method itself; `None` for `full`, which quantizes nothing.
    pub fn quantizer(&self) -> Option<&dyn Quantizer> {
        self.quantizer.as_deref()
    }
}

/// Why a name stands for no method.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseMethodError {
    /// No method has the name.
    #[error(
        "there is no method `{found}`; did you mean `{suggestion}`? The methods are {}",
        list_of_ids()
    )]
    Unknown {
        /// What was asked for.
        found: String,
        /// The id that looks most like it.
        suggestion: String,
    },
    /// A method with bits, named without them or with a number that it does not have.
    #[error(
        "`{found}` has no number of bits that it could have; expected `{lowest}` to `{highest}`"
    )]
    Bits {
        /// What was asked for.
        found: String,
        /// The id with the fewest bits.
        lowest: String,
        /// The id with the most bits.
        highest: String,
    },
}

fn list_of_ids() -> String {
    let ids: Vec<_> = families().iter().map(|family| family.id).collect();
    format!("{} (M is 2 to 8 bits)", ids.join(", "))
}

impl FromStr for Method {
    type Err = ParseMethodError;

    /// Reads an id or an alias, in upper or lower case. An id that has bits needs them
    /// (`laq-linear-3`); an alias may go without (`LAQ_linear` is 3 bits, `LAQ_linear-4` is 4).
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let mut wrong_bits = None;
        for family in families() {
            let Some(range) = &family.bits else {
                let mut names = family.aliases.iter().chain([&family.id]);
                if names.any(|known| known.eq_ignore_ascii_case(name)) {
                    return Ok(Method::new(family, None));
                }
                continue;
            };
            for alias in family.aliases {
                if alias.eq_ignore_ascii_case(name) {
                    return Ok(Method::new(family, Some(DEFAULT_BITS)));
                }
            }
            // Bits are written one way only, so that no method has two ids: no sign, no leading zero.
            let with_bits = |bits: &u8| {
                let alias = |alias: &&str| format!("{alias}-{bits}").eq_ignore_ascii_case(name);
                family.with_bits(*bits).eq_ignore_ascii_case(name)
                    || family.aliases.iter().any(alias)
            };
            if let Some(bits) = range.clone().find(with_bits) {
                return Ok(Method::new(family, Some(bits)));
            }
            // Of several families whose beginning and end fit, the last is the one with the longer id.
            if names_family(name, family) {
                wrong_bits = Some(ParseMethodError::Bits {
                    found: name.to_owned(),
                    lowest: family.with_bits(*range.start()),
                    highest: family.with_bits(*range.end()),
                });
            }
        }
        Err(wrong_bits.unwrap_or_else(|| ParseMethodError::Unknown {
            found: name.to_owned(),
            suggestion: nearest(name),
        }))
    }
}

/// Whether `name` is the family's id or an alias with something else, or nothing, for its bits.
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

/// What follows `prefix`, whatever the case.
fn strip_prefix<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = name.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// The id whose own spelling, or an alias of which, is the fewest edits away.
fn nearest(name: &str) -> String {
    let spellings = |method: &Method| {
        let aliases = method.family.aliases.iter().map(|alias| match method.bits {
            Some(bits) => format!("{alias}-{bits}"),
            None => (*alias).to_owned(),
        });
        aliases.chain([method.id()]).collect::<Vec<_>>()
    };
    let name = name.to_ascii_lowercase();
    let distance = |method: &Method| {
        let spellings = spellings(method).into_iter();
        spellings
            .map(|spelling| edits(&name, &spelling.to_ascii_lowercase()))
            .min()
    };
    let best = Method::all().min_by_key(|method| distance(method));
    best.map(|method| method.id()).unwrap_or_default()
}

/// Fewest insertions, deletions and replacements that turn `a` into `b`.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
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
