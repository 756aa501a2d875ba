//! The paper's claims, judged by our own figures and, beside them, by the paper's. One is this project's: it is about rows
//! that the paper does not have, and says so.
//!
//! A claim is a set of comparisons between rows of one column. It holds in a column if every comparison does, does not if
//! one fails, and is open while cells are missing.

/// How far apart two figures may be and still count as equal, in nats per character. The paper's exact and approximate
/// solvers differ by up to 0.008.
pub(crate) const TOLERANCE: f64 = 0.01;

/// One claim with its verdicts, one a column.
pub(crate) struct Claim {
    pub(crate) title: &'static str,
    /// (column, by our figures, by the paper's figures)
    pub(crate) columns: Vec<(String, Verdict, Verdict)>,
}

/// What the figures of one column say about a claim.
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    /// The comparisons that have both figures.
    pub(crate) judged: Vec<Judged>,
    /// How many comparisons the claim has.
    pub(crate) comparisons: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outcome {
    Holds,
    Fails,
    Open,
}

/// One comparison with its figures.
pub(crate) struct Judged {
    pub(crate) comparison: Comparison,
    pub(crate) left: f64,
    pub(crate) right: f64,
    pub(crate) holds: bool,
}

/// `(left, relation, right)`
pub(crate) type Comparison = (&'static str, Relation, &'static str);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Relation {
    /// Lower.
    Below,
    /// Lower, or at most the tolerance above.
    AtMost,
    /// At most the tolerance apart.
    Near,
}
use Relation::{AtMost, Below, Near};

const CLAIMS: &[(&str, &[Comparison])] = &[
    (
        "LAT < TWN: loss-aware beats plain ternary",
        &[("lat-e", Below, "twn"), ("lat-a", Below, "twn")],
    ),
    (
        "LAT2 < TTQ: loss-aware beats trained ternary",
        &[("lat2-e", Below, "ttq"), ("lat2-a", Below, "ttq")],
    ),
    (
        "LAQ < DoReFa: loss-aware beats plain 3 and 4 bits",
        &[
            ("laq-linear-3", Below, "dorefa-3"),
            ("laq-log-3", Below, "dorefa-3"),
            ("laq-linear-4", Below, "dorefa-4"),
            ("laq-log-4", Below, "dorefa-4"),
        ],
    ),
    (
        "LAB ≤ BWN < BinaryConnect: so it is with 1 bit",
        &[("lab", AtMost, "bwn"), ("bwn", Below, "binary-connect")],
    ),
    (
        "approximate ≈ exact",
        &[("lat-a", Near, "lat-e"), ("lat2-a", Near, "lat2-e")],
    ),
    (
        "approximate ≈ exact, with 3 and 4 bits too (not a claim of the paper)",
        &[
            ("laq-linear-3", Near, "laq-linear-3-e"),
            ("laq-log-3", Near, "laq-log-3-e"),
            ("laq-linear-4", Near, "laq-linear-4-e"),
            ("laq-log-4", Near, "laq-log-4-e"),
        ],
    ),
    (
        "loss-aware ternary and 3 bits match or beat full precision",
        &[
            ("lat-e", AtMost, "full"),
            ("lat-a", AtMost, "full"),
            ("lat2-e", AtMost, "full"),
            ("lat2-a", AtMost, "full"),
            ("laq-linear-3", AtMost, "full"),
            ("laq-log-3", AtMost, "full"),
        ],
    ),
];

/// Judges every claim in every column. `ours` and `papers` give the figure of a row in a column, if there is one.
pub(crate) fn judge(
    columns: &[String],
    ours: impl Fn(&str, usize) -> Option<f64>,
    papers: impl Fn(&str, usize) -> Option<f64>,
) -> Vec<Claim> {
    CLAIMS
        .iter()
        .map(|&(title, comparisons)| Claim {
            title,
            columns: columns
                .iter()
                .enumerate()
                .map(|(index, column)| {
                    let ours = verdict(comparisons, |row| ours(row, index));
                    (
                        column.clone(),
                        ours,
                        verdict(comparisons, |row| papers(row, index)),
                    )
                })
                .collect(),
        })
        .collect()
}

fn verdict(comparisons: &[Comparison], figure: impl Fn(&str) -> Option<f64>) -> Verdict {
    let judged: Vec<Judged> = comparisons
        .iter()
        .filter_map(|&comparison| {
            let (left, right) = (figure(comparison.0)?, figure(comparison.2)?);
            let holds = match comparison.1 {
                Below => left < right,
                AtMost => left <= right + TOLERANCE,
                Near => (left - right).abs() <= TOLERANCE,
            };
            Some(Judged {
                comparison,
                left,
                right,
                holds,
            })
        })
        .collect();
    let outcome = if judged.iter().any(|judged| !judged.holds) {
        Outcome::Fails
    } else if judged.len() < comparisons.len() {
        Outcome::Open
    } else {
        Outcome::Holds
    };
    Verdict {
        outcome,
        judged,
        comparisons: comparisons.len(),
    }
}

impl Outcome {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Outcome::Holds => "holds",
            Outcome::Fails => "does not hold",
            Outcome::Open => "not enough cells",
        }
    }
}

impl Relation {
    pub(crate) fn sign(self) -> char {
        match self {
            Below => '<',
            AtMost => '≤',
            Near => '≈',
        }
    }
}

/// What the verdicts mean, as a sentence under the claims.
pub(crate) fn explanation() -> String {
    format!(
        "Mean test figures of finished cells of the same column and preset; ≤, ≈ and \"match\" allow {TOLERANCE:.3} nats per \
         character. Cells cut short say how the methods compare at that budget, not at the paper's."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(figures: &[(&str, f64)], claim: usize) -> Outcome {
        let figure = |row: &str| {
            figures
                .iter()
                .find(|(name, _)| *name == row)
                .map(|(_, value)| *value)
        };
        verdict(CLAIMS[claim].1, figure).outcome
    }

    #[test]
    fn a_claim_holds_fails_or_is_open() {
        assert_eq!(
            outcome(&[("lat-e", 1.2), ("lat-a", 1.3), ("twn", 1.4)], 0),
            Outcome::Holds
        );
        assert_eq!(outcome(&[("lat-e", 1.2), ("twn", 1.4)], 0), Outcome::Open);
        assert_eq!(
            outcome(&[("lat-e", 1.4), ("twn", 1.4)], 0),
            Outcome::Fails,
            "a tie is not below"
        );
        assert_eq!(outcome(&[], 0), Outcome::Open);
    }

    #[test]
    fn at_most_and_near_allow_the_tolerance() {
        assert_eq!(
            outcome(&[("lab", 1.309), ("bwn", 1.3), ("binary-connect", 2.0)], 3),
            Outcome::Holds
        );
        assert_eq!(
            outcome(&[("lab", 1.311), ("bwn", 1.3), ("binary-connect", 2.0)], 3),
            Outcome::Fails
        );
        assert_eq!(
            outcome(
                &[
                    ("lat-a", 1.2),
                    ("lat-e", 1.209),
                    ("lat2-a", 1.3),
                    ("lat2-e", 1.291)
                ],
                4
            ),
            Outcome::Holds
        );
        assert_eq!(
            outcome(
                &[
                    ("lat-a", 1.2),
                    ("lat-e", 1.211),
                    ("lat2-a", 1.3),
                    ("lat2-e", 1.291)
                ],
                4
            ),
            Outcome::Fails
        );
    }
}
