//! Prints results the way psql does: aligned, expanded, unaligned, CSV.

use std::fmt::Write as _;
use unicode_width::UnicodeWidthStr;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Columns under each other.
    #[default]
    Aligned,
    /// Values with a bar between them.
    Unaligned,
    /// Comma-separated values.
    Csv,
}

/// All choices about printing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// The format.
    pub format: Format,
    /// No heads and feet.
    pub tuples_only: bool,
    /// A line for each value instead of each row.
    pub expanded: bool,
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Whether its values are numbers, which are aligned to the right.
    pub numeric: bool,
}

/// A row; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// A result with what stands above and below it.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Stands above it.
    pub title: Option<String>,
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Row>,
    /// Stands below it instead of the number of rows; empty for nothing at all.
    pub footer: Option<String>,
}

impl Table {
    /// The printed table.
    pub fn show(&self, style: Style) -> String {
        match (style.format, style.expanded) {
            (Format::Csv, false) => self.csv(style),
            (Format::Csv, true) => self.csv_expanded(),
            (Format::Unaligned, false) => self.unaligned(style),
            (Format::Unaligned, true) => self.unaligned_expanded(style),
            (Format::Aligned, false) => self.aligned(style),
            (Format::Aligned, true) => self.aligned_expanded(style),
        }
    }

    fn row_count(&self) -> String {
        match self.rows.len() {
            1 => "(1 row)".to_owned(),
            count => format!("({count} rows)"),
        }
    }

    fn write_foot(&self, out: &mut String) {
        match self.footer.as_deref() {
            Some("") => {}
            Some(footer) => writeln!(out, "{footer}").expect(TO_STRING),
            None => writeln!(out, "{}", self.row_count()).expect(TO_STRING),
        }
    }

    fn names(&self) -> Vec<&str> {
        self.columns.iter().map(|column| column.name.as_str()).collect()
    }

    fn aligned(&self, style: Style) -> String {
        let mut out = String::new();
        let mut widths: Vec<usize> = self.names().iter().map(|name| width(name)).collect();
        for row in &self.rows {
            for (width_max, cell) in widths.iter_mut().zip(row) {
                *width_max = (*width_max).max(width(text(cell)));
            }
        }
        if !style.tuples_only {
            let total = widths.iter().map(|width| width + 3).sum::<usize>().saturating_sub(1);
            if let Some(title) = &self.title {
                let indent = total.saturating_sub(width(title)) / 2;
                writeln!(out, "{}{title}", " ".repeat(indent)).expect(TO_STRING);
            }
            let heads = self.columns.iter().zip(&widths);
            let heads: Vec<String> = heads
                .map(|(column, width)| format!(" {} ", centre(&column.name, *width)))
                .collect();
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
            if self.columns.is_empty() {
                out.push_str("--\n");
            } else {
                writeln!(out, "{}\n{}", heads.join("|"), rules.join("+")).expect(TO_STRING);
            }
        }
        for row in self.rows.iter().filter(|row| !row.is_empty()) {
            self.aligned_row(&mut out, row, &widths);
        }
        if !style.tuples_only {
            self.write_foot(&mut out);
        }
        out.push('\n');
        out
    }

    /// A row, which has as many lines as its highest cell; `+` marks that a cell goes on.
    fn aligned_row(&self, out: &mut String, row: &Row, widths: &[usize]) {
        let cells: Vec<Vec<&str>> = row.iter().map(|cell| lines(text(cell))).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(1);
        let last = cells.len().saturating_sub(1);
        for line in 0..height {
            for (index, cell) in cells.iter().enumerate() {
                let is_last = index == last;
                let bar = if index == 0 { " " } else { "| " };
                let Some(part) = cell.get(line) else {
                    let pad = if is_last { 0 } else { widths[index] + 1 };
                    write!(out, "{bar}{}", " ".repeat(pad)).expect(TO_STRING);
                    continue;
                };
                let goes_on = line + 1 < cell.len();
                let end = match (goes_on, is_last) {
                    (true, _) => "+",
                    (false, false) => " ",
                    (false, true) => "",
                };
                let pad = " ".repeat(widths[index].saturating_sub(part.width()));
                let numeric = self.columns.get(index).is_some_and(|column| column.numeric);
                match (numeric, is_last && !goes_on) {
                    (true, _) => write!(out, "{bar}{pad}{part}{end}"),
                    (false, true) => write!(out, "{bar}{part}{end}"),
                    (false, false) => write!(out, "{bar}{part}{pad}{end}"),
                }
                .expect(TO_STRING);
            }
            out.push('\n');
        }
    }

    fn aligned_expanded(&self, style: Style) -> String {
        let mut out = String::new();
        if self.rows.is_empty() {
            if !style.tuples_only {
                self.write_foot(&mut out);
            }
            out.push('\n');
            return out;
        }
        if let (Some(title), false) = (&self.title, style.tuples_only) {
            writeln!(out, "{title}").expect(TO_STRING);
        }
        let name_width = self.names().iter().map(|name| width(name)).max().unwrap_or(0);
        let cells = self.rows.iter().flatten();
        let cell_width = cells.map(|cell| width(text(cell))).max().unwrap_or(0);
        for (number, row) in (1..).zip(&self.rows) {
            if style.tuples_only && number > 1 {
                let rule = format!("{}+{}", "-".repeat(name_width + 1), "-".repeat(cell_width + 1));
                writeln!(out, "{rule}").expect(TO_STRING);
            } else if !style.tuples_only {
                writeln!(out, "{}", record_head(number, name_width, cell_width)).expect(TO_STRING);
            }
            for (name, cell) in self.names().iter().zip(row) {
                expanded_cell(&mut out, name, text(cell), name_width, cell_width);
            }
        }
        out.push('\n');
        out
    }

    fn unaligned(&self, style: Style) -> String {
        let mut out = String::new();
        if !style.tuples_only {
            if let Some(title) = &self.title {
                writeln!(out, "{title}").expect(TO_STRING);
            }
            writeln!(out, "{}", self.names().join("|")).expect(TO_STRING);
        }
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(text).collect();
            writeln!(out, "{}", cells.join("|")).expect(TO_STRING);
        }
        if !style.tuples_only {
            self.write_foot(&mut out);
        }
        out
    }

    fn unaligned_expanded(&self, style: Style) -> String {
        let mut out = String::new();
        if self.rows.is_empty() && !style.tuples_only {
            self.write_foot(&mut out);
        }
        for (index, row) in self.rows.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            for (name, cell) in self.names().iter().zip(row) {
                writeln!(out, "{name}|{}", text(cell)).expect(TO_STRING);
            }
        }
        out
    }

    fn csv(&self, style: Style) -> String {
        let mut out = String::new();
        let mut line = |cells: Vec<&str>| {
            let cells: Vec<String> = cells.into_iter().map(csv_cell).collect();
            writeln!(out, "{}", cells.join(",")).expect(TO_STRING);
        };
        if !style.tuples_only {
            line(self.names());
        }
        for row in &self.rows {
            line(row.iter().map(text).collect());
        }
        out
    }

    fn csv_expanded(&self) -> String {
        let mut out = String::new();
        for row in &self.rows {
            for (name, cell) in self.names().into_iter().zip(row) {
                writeln!(out, "{},{}", csv_cell(name), csv_cell(text(cell))).expect(TO_STRING);
            }
        }
        out
    }
}

const TO_STRING: &str = "writing to a string succeeds";

fn text(cell: &Option<String>) -> &str {
    cell.as_deref().unwrap_or("")
}

fn lines(text: &str) -> Vec<&str> {
    text.split('\n').collect()
}

/// Columns of the widest line.
fn width(text: &str) -> usize {
    text.split('\n').map(UnicodeWidthStr::width).max().unwrap_or(0)
}

fn centre(text: &str, width_wanted: usize) -> String {
    let room = width_wanted.saturating_sub(width(text));
    format!("{}{text}{}", " ".repeat(room / 2), " ".repeat(room - room / 2))
}

/// `-[ RECORD 1 ]-+----`: the crossing is left out where the label covers it.
fn record_head(number: usize, name_width: usize, cell_width: usize) -> String {
    let label = format!("-[ RECORD {number} ]");
    let mut rule = format!("{}+{}", "-".repeat(name_width + 1), "-".repeat(cell_width + 1));
    if rule.len() > label.len() {
        rule.replace_range(..label.len(), &label);
        rule
    } else {
        label
    }
}

fn expanded_cell(out: &mut String, name: &str, cell: &str, name_width: usize, cell_width: usize) {
    let parts = lines(cell);
    for (index, part) in parts.iter().enumerate() {
        let name = if index == 0 { name } else { "" };
        let name_pad = " ".repeat(name_width.saturating_sub(name.width()));
        let goes_on = index + 1 < parts.len();
        let pad = if goes_on { cell_width.saturating_sub(part.width()) } else { 0 };
        let end = if goes_on { "+" } else { "" };
        writeln!(out, "{name}{name_pad} | {part}{}{end}", " ".repeat(pad)).expect(TO_STRING);
    }
}

fn csv_cell(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) || text == "\\." {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let column = |name: &str, numeric| Column { name: name.to_owned(), numeric };
        let cell = |text: &str| Some(text.to_owned());
        Table {
            columns: vec![column("id", true), column("name", false)],
            rows: vec![vec![cell("1"), cell("a,\"b\"")], vec![cell("100"), None]],
            ..Table::default()
        }
    }

    #[test]
    fn aligned_like_psql() {
        let expected = " id  | name  \n-----+-------\n   1 | a,\"b\"\n 100 | \n(2 rows)\n\n";
        assert_eq!(table().show(Style::default()), expected);
        let style = Style { tuples_only: true, ..Style::default() };
        assert_eq!(table().show(style), "   1 | a,\"b\"\n 100 | \n\n");
    }

    #[test]
    fn wide_characters_and_lines_keep_columns_straight() {
        let mut table = table();
        table.rows = vec![
            vec![Some("1".to_owned()), Some("日本\nx".to_owned())],
            vec![Some("2\n33".to_owned()), Some("abc".to_owned())],
        ];
        let expected =
            " id | name \n----+------\n  1 | 日本+\n    | x\n  2+| abc\n 33 | \n(2 rows)\n\n";
        assert_eq!(table.show(Style::default()), expected);
    }

    #[test]
    fn expanded_like_psql() {
        let style = Style { expanded: true, ..Style::default() };
        let expected = "-[ RECORD 1 ]\nid   | 1\nname | a,\"b\"\n\
                        -[ RECORD 2 ]\nid   | 100\nname | \n\n";
        assert_eq!(table().show(style), expected);
        assert_eq!(record_head(1, 14, 3), "-[ RECORD 1 ]--+----");
        assert_eq!(record_head(1, 3, 20), format!("-[ RECORD 1 ]{}", "-".repeat(13)));
    }

    #[test]
    fn unaligned_and_csv() {
        let style = |format| Style { format, ..Style::default() };
        let expected = "id|name\n1|a,\"b\"\n100|\n(2 rows)\n";
        assert_eq!(table().show(style(Format::Unaligned)), expected);
        assert_eq!(table().show(style(Format::Csv)), "id,name\n1,\"a,\"\"b\"\"\"\n100,\n");
    }
}
