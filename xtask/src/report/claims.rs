//! The paper's claims, judged by our own figures and, beside them, by the paper's. One is this project's: it is about rows
//! that the paper does not have, and says so.
//!
//! A claim is a set of comparisons between rows of one column. It holds in a column if every comparison does, does not if
//! one fails, and is open while cells are missing. Comparisons of rows that a table does not have are no part of it there.

use crate::measure::Measure;
use crate::table::Table;

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
    /// Lower, or at most the right one's tolerance above.
    AtMost,
    /// At most the tolerance of the right one apart.
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
        "LAQ < DoReFa: loss-aware beats plain levels of as many bits",
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
        "approximate ≈ exact, with 3 bits and more too (not a claim of the paper)",
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

/// Judges every claim in every column of a table. `ours` and `papers` give the figure of a row in a column, if there is one.
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

/// What the verdicts mean, as a sentence under the claims.
pub(crate) fn explanation(measure: &Measure) -> String {
    format!(
        "Mean test figures of finished cells of the same column and preset; ≤, ≈ and \"match\" allow {}. Cells cut short \
         say how the methods compare at that budget, not at the paper's.",
        measure.tolerance_text
    )
}

/// "lat-e 1.402 < twn 1.450"
pub(crate) fn judged_text(judged: &Judged, measure: &Measure) -> String {
    let (left, relation, right) = judged.comparison;
    format!(
        "{left} {} {} {right} {}",
        measure.figure(judged.left),
        relation.sign(),
        measure.figure(judged.right)
    )
}

/// The verdict by the paper's figures, with those comparisons that they do not bear; a dash where the paper has none.
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
    use crate::measure::CROSS_ENTROPY;
    use crate::{Selection, TableName};

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

    /// What the paper's own figures say about its claims, column by column: + holds, - does not hold, ? has no figures.
    #[test]
    fn the_papers_figures_bear_most_of_its_claims() {
        for (table, expected) in [
            (
                TableName::Table1,
                ["++++", "-+++", "+-++", "--+-", "++++", "????", "++++"],
            ),
            (
                TableName::Table2,
                ["+++", "+++", "+--", "+++", "+++", "???", "-++"],
            ),
        ] {
            let selection = Selection {
                table,
                preset: "paper".into(),
                rows: Vec::new(),
                columns: Vec::new(),
                seeds: 1,
                out: None,
            };
            let table = Table::load(&crate::root(), &selection).expect("the table");
            let (_, columns, _) = table.choose(&selection).expect("the paper's columns");
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
            assert_eq!(found, expected, "{}", table.id);
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
