//! The paper's claims, checked against our figures and against the paper's. One claim is this
//! project's own, about rows that the paper does not have.
//!
//! A claim is a set of comparisons between rows of one column. In a column it holds if every
//! comparison holds, fails if one fails, and is open while cells are missing. Comparisons with rows
//! that a table does not have are left out.

use crate::measure::Measure;
use crate::table::Table;

/// A claim with one verdict for each column.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) title: &'static str,
    /// (column, by our figures, by the paper's figures)
    pub(crate) columns: Vec<(String, Verdict, Verdict)>,
}

/// The result for one column.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    /// The comparisons for which both figures exist.
    pub(crate) judged: Vec<Judged>,
    /// The number of all comparisons.
    pub(crate) comparisons: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outcome {
    Holds,
    Fails,
    Open,
}

/// One comparison with its figures.
#[derive(Debug)]
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
    /// Lower than the right figure plus its tolerance.
    AtMost,
    /// Within the tolerance of the right figure.
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
        "LAQ < DoReFa: loss-aware beats plain quantization at equal bits",
        &[
            ("laq-linear-3", Below, "dorefa-3"),
            ("laq-log-3", Below, "dorefa-3"),
            ("laq-linear-4", Below, "dorefa-4"),
            ("laq-log-4", Below, "dorefa-4"),
        ],
    ),
    (
        "LAB ≤ BWN < BinaryConnect: the same at 1 bit",
        &[("lab", AtMost, "bwn"), ("bwn", Below, "binary-connect")],
    ),
    (
        "approximate ≈ exact",
        &[("lat-a", Near, "lat-e"), ("lat2-a", Near, "lat2-e")],
    ),
    (
        "approximate ≈ exact, at 3 and 4 bits (not a claim of the paper)",
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

/// Checks every claim in every column of a table. `ours` and `papers` return the figure of a row in
/// a column, if there is one.
pub(crate) fn judge(
    table: &Table,
    columns: &[String],
    ours: impl Fn(&str, usize) -> Option<f64>,
    papers: impl Fn(&str, usize) -> Option<f64>,
) -> Vec<Claim> {
    let tolerance = table.measure.tolerance;
    let has = |name: &str| table.rows.iter().any(|row| row == name);
    CLAIMS
        .iter()
        .filter_map(|&(title, comparisons)| {
            let comparisons: Vec<Comparison> = comparisons
                .iter()
                .copied()
                .filter(|&(left, _, right)| has(left) && has(right))
                .collect();
            let judged = |(index, column): (usize, &String)| {
                (
                    column.clone(),
                    verdict(&comparisons, tolerance, |row| ours(row, index)),
                    verdict(&comparisons, tolerance, |row| papers(row, index)),
                )
            };
            (!comparisons.is_empty()).then(|| Claim {
                title,
                columns: columns.iter().enumerate().map(judged).collect(),
            })
        })
        .collect()
}

fn verdict(
    comparisons: &[Comparison],
    tolerance: fn(f64) -> f64,
    figure: impl Fn(&str) -> Option<f64>,
) -> Verdict {
    let judged: Vec<Judged> = comparisons
        .iter()
        .filter_map(|&comparison| {
            let (left, right) = (figure(comparison.0)?, figure(comparison.2)?);
            let holds = match comparison.1 {
                Below => left < right,
                AtMost => left <= right + tolerance(right),
                Near => (left - right).abs() <= tolerance(right),
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

impl Verdict {
    /// The comparisons that do not hold.
    pub(crate) fn failing(&self) -> impl Iterator<Item = &Judged> {
        self.judged.iter().filter(|judged| !judged.holds)
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

/// The explanation shown with the claims.
pub(crate) fn explanation(measure: &Measure) -> String {
    format!(
        "Mean test figures of finished cells of the same column and preset. The tolerance of ≤, ≈ and \"match\" is {}. Cells \
         cut short compare the methods at their budget, not at the paper's.",
        measure.tolerance_text
    )
}

/// Such as `lat-e 1.402 < twn 1.450`.
pub(crate) fn judged_text(judged: &Judged, measure: &Measure) -> String {
    let (left, relation, right) = judged.comparison;
    format!(
        "{left} {} {} {right} {}",
        measure.figure(judged.left),
        relation.sign(),
        measure.figure(judged.right)
    )
}

/// The verdict by the paper's figures, with the comparisons that fail; a dash where the paper has
/// no figures.
pub(crate) fn papers_text(verdict: &Verdict, measure: &Measure) -> String {
    let failing: Vec<String> = verdict
        .failing()
        .map(|judged| format!("{} ✗", judged_text(judged, measure)))
        .collect();
    match failing.as_slice() {
        _ if verdict.judged.is_empty() => "–".into(),
        [] => verdict.outcome.text().into(),
        failing => format!("{}: {}", verdict.outcome.text(), failing.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configs::Configs;
    use crate::measure::CROSS_ENTROPY;
    use crate::table::TableId;

    fn outcome(figures: &[(&str, f64)], claim: usize) -> Outcome {
        let figure = |row: &str| {
            figures
                .iter()
                .find(|(name, _)| *name == row)
                .map(|(_, value)| *value)
        };
        verdict(CLAIMS[claim].1, CROSS_ENTROPY.tolerance, figure).outcome
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

    /// The claims by the figures of the paper, per column: + holds, - does not hold, ? no figures.
    #[test]
    fn the_papers_figures_support_most_of_its_claims() {
        for (table, expected) in [
            (
                TableId::Table1,
                ["++++", "-+++", "+-++", "--+-", "++++", "????", "++++"],
            ),
            (
                TableId::Table2,
                ["+++", "+++", "+--", "+++", "+++", "???", "-++"],
            ),
        ] {
            let configs = Configs::embedded().expect("the configurations");
            let table = Table::load(configs, table).expect("the table");
            let columns: Vec<String> = table
                .columns
                .iter()
                .filter(|name| table.has_column(name))
                .cloned()
                .collect();
            let papers = |row: &str, column: usize| table.paper(row, &columns[column]);
            let found: Vec<String> = judge(&table, &columns, papers, papers)
                .iter()
                .map(|claim| {
                    let sign = |(_, _, papers): &(_, _, Verdict)| match papers.outcome {
                        Outcome::Holds => '+',
                        Outcome::Fails => '-',
                        Outcome::Open => '?',
                    };
                    claim.columns.iter().map(sign).collect()
                })
                .collect();
            assert_eq!(found, expected, "{:?}", table.id);
        }
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
