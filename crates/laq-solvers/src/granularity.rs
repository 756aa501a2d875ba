//! Which weights share a scale.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::ops::Range;
use core::str::FromStr;

/// The most weights of a block.
pub const MAX_BLOCK: usize = 1 << 16;

/// The weights that share a scale (or pair of scales).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// `tensor`: all of a tensor.
    Tensor,
    /// `gate`: each gate of an LSTM, all of any other tensor, as in the paper.
    #[default]
    Gate,
    /// `row`: each index of the first dimension: an output of a dense layer, a filter of a convolution.
    Row,
    /// `block:N`: N successive weights of a row, of which the last block may have fewer.
    Block(usize),
}

impl Granularity {
    /// The groups of a row-major matrix whose rows form `gates` blocks of equal size.
    ///
    /// # Panics
    /// If `gates` is zero or does not divide the number of weights, or a block has no weights.
    pub fn groups(self, rows: usize, columns: usize, gates: usize) -> Groups {
        let weights = rows * columns;
        match self {
            Self::Tensor => Groups::equal(weights, 1),
            Self::Gate => Groups::equal(weights, gates),
            Self::Row => Groups::blocks(rows, columns, columns.max(1)),
            Self::Block(length) => Groups::blocks(rows, columns, length),
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor => formatter.pad("tensor"),
            Self::Gate => formatter.pad("gate"),
            Self::Row => formatter.pad("row"),
            Self::Block(length) => formatter.pad(&format!("block:{length}")),
        }
    }
}

/// A text that is no granularity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown granularity `{found}`, expected `tensor`, `gate`, `row`, or `block:N` with 1 to {MAX_BLOCK} weights, such \
     as `block:64`"
)]
pub struct ParseGranularityError {
    /// The text.
    pub found: String,
}

impl FromStr for Granularity {
    type Err = ParseGranularityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let length = |text: &str| {
            let length: usize = text.parse().ok()?;
            // No sign and no leading zero, so that no granularity has two names.
            let is_canonical = length.to_string() == text;
            (is_canonical && (1..=MAX_BLOCK).contains(&length)).then_some(length)
        };
        let found = match (text, text.strip_prefix("block:")) {
            ("tensor", _) => Some(Self::Tensor),
            ("gate", _) => Some(Self::Gate),
            ("row", _) => Some(Self::Row),
            (_, Some(number)) => length(number).map(Self::Block),
            _ => None,
        };
        found.ok_or_else(|| ParseGranularityError { found: text.into() })
    }
}

/// The groups of weights of a row-major matrix, each with its own scale: successive spans of equal length,
/// cut into groups of equal length, of which the last of a span may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    spans: usize,
    span: usize,
    /// At least 1.
    length: usize,
}

impl Groups {
    /// Rows of `columns` weights, each cut into blocks of `length`, at least 1.
    ///
    /// # Panics
    /// If `length` is zero.
    pub fn blocks(rows: usize, columns: usize, length: usize) -> Self {
        assert!(length > 0, "a block has weights");
        Self {
            spans: rows,
            span: columns,
            length: length.min(columns).max(1),
        }
    }

    /// `count` groups of equal length.
    ///
    /// # Panics
    /// If `count` is zero or does not divide the number of weights.
    pub fn equal(weights: usize, count: usize) -> Self {
        assert!(
            count > 0 && weights.is_multiple_of(count),
            "{weights} weights do not form {count} groups"
        );
        let span = weights / count;
        Self {
            spans: count,
            span,
            length: span.max(1),
        }
    }

    /// The number of weights.
    pub fn weights(&self) -> usize {
        self.spans * self.span
    }

    /// The number of groups.
    pub fn count(&self) -> usize {
        self.spans * self.per_span()
    }

    /// The number of spans.
    pub fn spans(&self) -> usize {
        self.spans
    }

    /// The weights of a span.
    pub fn span(&self) -> usize {
        self.span
    }

    /// The groups of a span.
    pub fn per_span(&self) -> usize {
        self.span.div_ceil(self.length).max(1)
    }

    /// The weights of a block, where spans have several.
    pub fn block(&self) -> Option<usize> {
        (self.per_span() > 1).then_some(self.length)
    }

    /// The most weights of a group.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The length of all groups; `None` if the last of a span is shorter.
    pub fn equal_length(&self) -> Option<usize> {
        match self.span {
            0 => Some(0),
            span => span.is_multiple_of(self.length).then_some(self.length),
        }
    }

    /// The weights of a group.
    pub fn range(&self, group: usize) -> Range<usize> {
        let (span, within) = (group / self.per_span(), group % self.per_span());
        let (start, end) = (span * self.span, (span + 1) * self.span);
        let first = start + within * self.length;
        first..end.min(first + self.length)
    }

    /// The weights of every group, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let groups = *self;
        (0..self.count()).map(move |group| groups.range(group))
    }

    /// The group of a weight.
    pub fn group_of(&self, weight: usize) -> usize {
        let span = weight / self.span.max(1);
        span * self.per_span() + weight % self.span.max(1) / self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_others_are_errors() {
        for name in [
            "tensor",
            "gate",
            "row",
            "block:1",
            "block:64",
            "block:65536",
        ] {
            assert_eq!(name.parse::<Granularity>().unwrap().to_string(), name);
        }
        for name in [
            "",
            "rows",
            "block",
            "block:",
            "block:0",
            "block:-1",
            "block:064",
            "block:+64",
            "block:65537",
            "Row",
        ] {
            let found = name.into();
            assert_eq!(
                name.parse::<Granularity>(),
                Err(ParseGranularityError { found })
            );
        }
    }

    #[test]
    fn every_weight_is_in_one_group_of_its_row() {
        for (rows, columns, gates) in [
            (8, 75, 4),
            (4, 64, 4),
            (3, 5, 1),
            (2, 0, 1),
            (0, 5, 1),
            (1, 1, 1),
        ] {
            for granularity in ["tensor", "gate", "row", "block:1", "block:32", "block:100"] {
                let granularity: Granularity = granularity.parse().unwrap();
                let groups = granularity.groups(rows, columns, gates);
                assert_eq!(groups.weights(), rows * columns);
                let mut next = 0;
                for (group, range) in groups.ranges().enumerate() {
                    assert_eq!(range.start, next);
                    next = range.end;
                    assert!(range.len() <= groups.length());
                    for weight in range.clone() {
                        assert_eq!(groups.group_of(weight), group);
                    }
                    if let (Granularity::Block(_), Some(last)) = (granularity, range.clone().last())
                    {
                        assert_eq!(range.start / columns, last / columns);
                    }
                    if let Some(length) = groups.equal_length() {
                        assert_eq!(range.len(), length);
                    }
                }
                assert_eq!(next, rows * columns);
            }
        }
    }
}
