//! The table of `docs/isolation.md`, compared with what the scripts showed.

use std::collections::BTreeMap;

use super::script::{LEVELS, Script, Verdict};

/// The heading of the first column.
const HEADING: &str = "| anomaly |";

/// What a page says of each anomaly at each level.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// Of Quorate.
    pub quorate: BTreeMap<(String, String), Verdict>,
    /// Of PostgreSQL: the same but where the page says otherwise.
    pub postgres: BTreeMap<(String, String), Verdict>,
}

impl Table {
    /// Finds the table: its first column names the anomaly (up to a comma), the last three are the
    /// levels.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(page: &str) -> Result<Table, String> {
        let mut lines = page.lines().skip_while(|line| !line.starts_with(HEADING));
        let heading = cells(lines.next().ok_or("there is no table of anomalies")?);
        let levels: Vec<String> = heading.iter().skip(1).map(|name| name.to_lowercase()).collect();
        if levels != LEVELS {
            return Err(format!("the columns are {levels:?}, not {LEVELS:?}"));
        }
        let mut table = Table { quorate: BTreeMap::new(), postgres: BTreeMap::new() };
        for line in lines.skip(1).take_while(|line| line.starts_with('|')) {
            let row = cells(line);
            let [name, verdicts @ ..] = row.as_slice() else { continue };
            let anomaly = name.split(',').next().unwrap_or_default();
            for (level, cell) in LEVELS.iter().zip(verdicts) {
                let (quorate, postgres) = verdicts_of(cell)
                    .ok_or_else(|| format!("{anomaly}, {level}: `{cell}` is no verdict"))?;
                let key = (anomaly.to_owned(), (*level).to_owned());
                table.quorate.insert(key.clone(), quorate);
                table.postgres.insert(key, postgres);
            }
        }
        Ok(table)
    }
}

/// The cells of a row, without code marks and emphasis.
fn cells(line: &str) -> Vec<String> {
    let cells = line.trim().trim_matches('|').split('|');
    cells.map(|cell| cell.replace(['`', '*'], "").trim().to_owned()).collect()
}

/// `permitted`, or `prevented (PostgreSQL: permitted)`.
fn verdicts_of(cell: &str) -> Option<(Verdict, Verdict)> {
    let of = |word: &str| match word {
        "prevented" => Some(Verdict::Prevented),
        "permitted" => Some(Verdict::Permitted),
        _ => None,
    };
    match cell.split_once(" (PostgreSQL: ") {
        None => of(cell).map(|both| (both, both)),
        Some((ours, theirs)) => Some((of(ours)?, of(theirs.strip_suffix(')')?)?)),
    }
}

/// Reasons that scripts give for what is permitted and that the page does not give.
pub fn reasons_missing(page: &str, scripts: &[Script]) -> Vec<String> {
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let page = flat(page);
    let mut missing: Vec<String> = scripts.iter().flat_map(Script::reasons).collect();
    missing.retain(|reason| !page.contains(&flat(reason)));
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "Text.

| anomaly | `READ COMMITTED` | `REPEATABLE READ` | `SERIALIZABLE` |
|---|---|---|---|
| G0, dirty write | prevented | prevented | **permitted** |
| P4, lost update | prevented (PostgreSQL: permitted) | prevented | prevented |

| more | |
";

    #[test]
    fn the_table_is_found_and_read() {
        let table = Table::parse(PAGE).unwrap();
        let key = |anomaly: &str, level: &str| (anomaly.to_owned(), level.to_owned());
        assert_eq!(table.quorate.len(), 6);
        assert_eq!(table.quorate[&key("G0", "serializable")], Verdict::Permitted);
        assert_eq!(table.quorate[&key("P4", "read committed")], Verdict::Prevented);
        assert_eq!(table.postgres[&key("P4", "read committed")], Verdict::Permitted);
    }

    #[test]
    fn a_table_that_says_something_else_is_refused() {
        assert!(Table::parse("no table").is_err());
        assert!(Table::parse(&PAGE.replace("SERIALIZABLE", "CHAOS")).is_err());
        assert!(Table::parse(&PAGE.replace("**permitted**", "maybe")).is_err());
    }

    #[test]
    fn a_reason_may_be_broken_over_lines() {
        let text = "anomaly: X\nscenario: x\nseen: T1 commits\nlevel: serializable\nverdict:\n  \
                    permitted because it may be\n";
        let scripts = [super::super::parse("x.txt", text).unwrap()];
        assert_eq!(reasons_missing("since it may\nbe", &scripts), Vec::<String>::new());
        assert_eq!(reasons_missing("nothing", &scripts), ["it may be"]);
    }
}
