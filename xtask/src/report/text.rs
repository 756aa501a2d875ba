//! The report on the terminal: aligned plain text, one wide table where it fits and one table a column where it does not.

use std::ops::Range;

use super::claims::{Claim, Outcome, Verdict, explanation, judged_text};
use super::{Column, NOT_IN_PAPER, Report, letter};
use crate::measure::Measure;

/// Wider tables are shown column by column.
const WIDTH: usize = 120;

/// Table, notes and claims.
pub(super) fn render(report: &Report) -> String {
    let mut text = format!(
        "{} · {} · preset {}\n\n",
        report.title, report.caption, report.preset
    );
    let wide = table(
        report,
        &report.columns.iter().enumerate().collect::<Vec<_>>(),
    );
    if wide.lines().map(width).max() <= Some(WIDTH) {
        text += &wide;
    } else {
        let tables: Vec<String> = report
            .columns
            .iter()
            .enumerate()
            .map(|column| table(report, &[column]))
            .collect();
        text += &tables.join("\n");
    }
    text += "\n";
    for line in report
        .source()
        .into_iter()
        .chain(report.spread())
        .chain(report.columns.iter().filter_map(|c| c.note.clone()))
    {
        text += &wrap(&line, "  ");
    }
    for (index, note) in report.notes.iter().enumerate() {
        text += &wrap(&format!("{}  {note}", letter(index)), "     ");
    }

    text += "\nThe paper's claims, by our figures\n";
    text += &claims(&report.claims, report.measure);
    text += &wrap(&explanation(report.measure), "  ");
    text += &format!("\n{}\n", report.made);
    text
}

/// A table of some columns: two lines of heading, then a line a row.
fn table(report: &Report, columns: &[(usize, &Column)]) -> String {
    let mut lines = vec![vec!["".into()]];
    let headings = |column: &Column| {
        if column.is_papers {
            &["ours", "", "paper", "difference"][..]
        } else {
            &["ours", ""]
        }
    };
    for &(_, column) in columns {
        lines[0].extend(
            headings(column)
                .iter()
                .map(|heading| (*heading).to_string()),
        );
    }
    let (papers, others) = report.blocks();
    for row in papers.iter().chain(others) {
        let mut line = vec![row.name.clone()];
        for &(index, column) in columns {
            let entry = &row.entries[index];
            line.extend([entry.ours_text(report.measure), entry.marks()]);
            if column.is_papers {
                line.extend(entry.paper_texts(report.measure));
            }
        }
        lines.push(line);
    }
    // The name of a column stands over its fields; a name that is longer widens the last of them.
    let mut widths = widths(&lines);
    let mut names = format!("{:1$}", "", widths[0]);
    let mut first = 1;
    for &(_, column) in columns {
        let fields = first..first + headings(column).len();
        let wide: usize = widths[fields.clone()].iter().sum::<usize>() + GAP * (fields.len() - 1);
        widths[fields.end - 1] += width(&column.name).saturating_sub(wide);
        names += &format!(
            "{:GAP$}{:2$}",
            "",
            column.name,
            wide.max(width(&column.name))
        );
        first = fields.end;
    }
    let marks = |index: usize| lines[0][index].is_empty();
    let mut body: Vec<String> = lines
        .iter()
        .map(|line| line_text(line, &widths, |index| !marks(index)))
        .collect();
    if !others.is_empty() {
        body.insert(1 + papers.len(), format!("{NOT_IN_PAPER}\n"));
    }
    format!("{}\n{}", names.trim_end(), body.concat())
}

/// A line a claim and column: the verdict, and left less right of each comparison, with a mark on those that fail. What
/// has no cells to compare yet is only named, at the end.
fn claims(claims: &[Claim], measure: &Measure) -> String {
    let names = claims
        .iter()
        .flat_map(|claim| &claim.columns)
        .map(|(column, ..)| width(column));
    let names = names.max().unwrap_or_default();
    let outcomes =
        [Outcome::Holds, Outcome::Fails, Outcome::Open].map(|outcome| width(outcome.text()));
    let outcomes = outcomes.into_iter().max().unwrap_or_default();
    let mut text = String::new();
    let mut open = Vec::new();
    for claim in claims {
        let judged: Vec<_> = claim
            .columns
            .iter()
            .filter(|(_, ours, _)| !ours.judged.is_empty())
            .collect();
        if judged.is_empty() {
            open.push(claim.title.split(':').next().unwrap_or_default());
            continue;
        }
        text += &format!("{}\n", claim.title);
        for (column, ours, papers) in judged {
            let start = format!("  {column:names$}  {:outcomes$}  ", ours.outcome.text());
            text += &wrap(
                &(start.clone() + &margins(ours, measure) + &papers_fail(papers, measure)),
                &" ".repeat(width(&start)),
            );
        }
    }
    if !open.is_empty() {
        text += &wrap(&format!("Not enough cells for: {}", open.join("; ")), "  ");
    }
    text.replace(FIRM, " ")
}

/// A space at which no line breaks.
const FIRM: &str = "\u{a0}";

/// "lat-e −0.048, lat-a +0.002 (!)"
fn margins(verdict: &Verdict, measure: &Measure) -> String {
    let judged = verdict.judged.iter().map(|judged| {
        let mark = if judged.holds { "" } else { " (!)" };
        format!(
            "{} {}{mark}",
            judged.comparison.0,
            measure.signed(judged.left - judged.right)
        )
        .replace(' ', FIRM)
    });
    let missing = verdict.comparisons - verdict.judged.len();
    let missing = (missing > 0).then(|| format!("{missing} of {} open", verdict.comparisons));
    judged.chain(missing).collect::<Vec<_>>().join(", ")
}

/// "; not by the paper's: bwn 1.31 < binary-connect 1.28", where the paper's own figures do not bear the claim.
fn papers_fail(verdict: &Verdict, measure: &Measure) -> String {
    let failing: Vec<String> = verdict
        .failing()
        .map(|judged| judged_text(judged, measure).replace(' ', FIRM))
        .collect();
    if failing.is_empty() {
        return String::new();
    }
    format!("; not by the paper's: {}", failing.join(", "))
}

const GAP: usize = 2;

/// Lines with their fields under each other; `right` are the fields that end at the same place instead of beginning there.
pub(crate) fn align(lines: &[Vec<String>], right: Range<usize>) -> String {
    let widths = widths(lines);
    lines
        .iter()
        .map(|line| line_text(line, &widths, |index| right.contains(&index)))
        .collect()
}

fn widths(lines: &[Vec<String>]) -> Vec<usize> {
    let fields = lines.iter().map(Vec::len).max().unwrap_or_default();
    (0..fields)
        .map(|index| {
            lines
                .iter()
                .filter_map(|line| line.get(index))
                .map(|field| width(field))
                .max()
                .unwrap_or_default()
        })
        .collect()
}

fn line_text(line: &[String], widths: &[usize], right: impl Fn(usize) -> bool) -> String {
    let fields = line.iter().enumerate().map(|(index, field)| {
        // The first field of every table is a name.
        if index > 0 && right(index) {
            format!("{field:>0$}", widths[index])
        } else {
            format!("{field:0$}", widths.get(index).copied().unwrap_or_default())
        }
    });
    let text = fields.collect::<Vec<_>>().join(&" ".repeat(GAP));
    format!("{}\n", text.trim_end())
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Breaks a line at spaces where it is too long; what follows the first line is indented.
fn wrap(line: &str, indent: &str) -> String {
    let mut text = String::new();
    let mut used = 0;
    for word in line.split_inclusive(' ') {
        if used > width(indent) && used + width(word.trim_end()) > WIDTH {
            text.truncate(text.trim_end().len());
            text += &format!("\n{indent}");
            used = width(indent);
        }
        text += word;
        used += width(word);
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_under_each_other() {
        let lines =
            [["row", "s", "x"], ["lat−a", "10", "y"]].map(|line| line.map(String::from).to_vec());
        assert_eq!(align(&lines, 1..2), "row     s  x\nlat−a  10  y\n");
    }

    #[test]
    fn long_lines_break_at_spaces() {
        let text = wrap(&"word ".repeat(40), "  ");
        assert_eq!(text.split_whitespace().count(), 40);
        assert!(
            text.lines().count() == 2 && text.lines().all(|line| width(line) <= WIDTH),
            "{text}"
        );
    }
}
