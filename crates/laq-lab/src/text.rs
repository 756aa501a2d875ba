//! Plain text for terminals: tables, durations, wrapped lines.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// The most characters of a name in a table.
const LONGEST_NAME: usize = 64;

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

/// A name of a file for a table: its control characters escaped, which a terminal might obey, and the middle of a long
/// one left out.
#[must_use]
pub fn shown(name: &str) -> String {
    let name = escaped(name);
    let length = name.chars().count();
    if length <= LONGEST_NAME {
        return name;
    }
    let start = name.chars().take(LONGEST_NAME / 2);
    let end = name
        .chars()
        .skip(length - (LONGEST_NAME - LONGEST_NAME / 2 - 1));
    start.chain(['…']).chain(end).collect()
}

/// `text` with its control characters escaped, except ends of lines.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() && character != '\n' {
            true => escaped.extend(character.escape_default()),
            false => escaped.push(character),
        }
    }
    escaped
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
    fn names_are_shown_short_and_without_control_characters() {
        assert_eq!(shown("blocks.0.größe"), "blocks.0.größe");
        assert_eq!(shown("a\u{1b}[2Jb\tc"), "a\\u{1b}[2Jb\\tc");
        let long = format!("begin{}end", "x".repeat(70_000));
        let name = shown(&long);
        assert_eq!(name.chars().count(), LONGEST_NAME);
        assert!(name.starts_with("beginxx") && name.ends_with("xxend") && name.contains('…'));
        let fits = "y".repeat(LONGEST_NAME);
        assert_eq!(shown(&fits), fits);
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
