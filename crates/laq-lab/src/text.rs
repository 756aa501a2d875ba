//! Plain text for terminals: tables, durations, wrapped lines.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A table without lines: columns two spaces apart, those for which `right` holds aligned to the
/// right. A field of several lines makes a row of several lines.
#[must_use]
pub fn table<Row>(rows: impl IntoIterator<Item = Row>, right: impl Fn(usize) -> bool) -> String
where
    Row: IntoIterator<Item: Into<comfy_table::Cell>>,
{
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 0 } else { 2 }, 0));
        if right(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

/// Two units of time, such as `3h 20m`, `4m 5s` or `12.3s`; whole minutes from an hour on, whole
/// hours from two days on.
#[must_use]
pub fn duration(seconds: f64) -> String {
    let whole = |unit: f64| Duration::from_secs(((seconds / unit).round() * unit) as u64);
    match seconds {
        ..0.05 => "0s".into(),
        ..59.95 => format!("{seconds:.1}s"),
        ..3600.0 => humantime::format_duration(whole(1.0)).to_string(),
        ..172_800.0 => humantime::format_duration(whole(60.0)).to_string(),
        _ => humantime::format_duration(whole(3600.0)).to_string(),
    }
}

/// Wraps `line` to `width` columns and indents all but the first line.
pub(crate) fn wrap(line: &str, width: usize, indent: &str) -> String {
    let options = textwrap::Options::new(width)
        .subsequent_indent(indent)
        .break_words(false)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::fill(line, options) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["row", "s", "x"], ["lat−a", "10", "y"]];
        assert_eq!(
            table(rows, |index| index == 1),
            "row     s  x\nlat−a  10  y\n"
        );
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [
            (0.0, "0s"),
            (12.34, "12.3s"),
            (59.96, "1m"),
            (245.2, "4m 5s"),
            (3600.0, "1h"),
            (12_000.0, "3h 20m"),
            (172_800.0, "2days"),
            (864_000.0, "10days"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn wrapped_lines_are_indented() {
        let text = wrap(&"word ".repeat(10), 20, "  ");
        assert_eq!(text.split_whitespace().count(), 10);
        assert!(text.lines().all(|line| line.len() <= 20), "{text}");
        assert!(
            text.lines().skip(1).all(|line| line.starts_with("  w")),
            "{text}"
        );
    }
}
