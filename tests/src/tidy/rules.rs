//! The check of `docs/rules.md`: every rule of the protocol has one row, the files it names exist,
//! and so do the tests that fail without it.
//!
//! A rule without a test stands in the allow-list as `rule-test <rule> 1`.

use super::documents::{KnownTests, quoted_tests};
use super::{Allowed, Finding, Source};

/// The page.
pub const RULES_PATH: &str = "docs/rules.md";

/// Letters of the rules, and how many there are of each.
const RULES: [(char, usize); 6] = [('T', 4), ('L', 7), ('P', 14), ('R', 6), ('S', 6), ('X', 3)];

/// Rows that are missing, double, or name what does not exist.
pub fn rules(sources: &[Source], known: &KnownTests, allowed: &Allowed) -> Vec<Finding> {
    let Some(page) = sources.iter().find(|source| source.path == RULES_PATH) else {
        return vec![Finding::at(RULES_PATH, 0, "is missing")];
    };
    let mut findings = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    let mut untested = Vec::new();
    for (index, line) in page.text.lines().enumerate() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [rule, _, kept_in, tests] = cells.as_slice() else {
            continue;
        };
        if !all_rules().any(|known| known == *rule) {
            continue;
        }
        if seen.iter().any(|earlier| earlier == rule) {
            findings.push(Finding::at(RULES_PATH, index + 1, format!("{rule} has two rows")));
        }
        seen.push((*rule).to_owned());
        for path in kept_in.split('`').skip(1).step_by(2) {
            let inside = format!("{path}/");
            if !sources.iter().any(|s| s.path == path || s.path.starts_with(&inside)) {
                let what = format!("{rule} is kept in `{path}`, which does not exist");
                findings.push(Finding::at(RULES_PATH, index + 1, what));
            }
        }
        for name in quoted_tests(tests).filter(|name| !known.has(name)) {
            let what = format!("{rule} names the test `{name}`, which does not exist");
            findings.push(Finding::at(RULES_PATH, index + 1, what));
        }
        if quoted_tests(tests).next().is_none() {
            untested.push(((*rule).to_owned(), index + 1, 1));
        }
    }
    for rule in all_rules().filter(|rule| !seen.contains(rule)) {
        findings.push(Finding::at(RULES_PATH, 0, format!("{rule} has no row")));
    }
    findings.extend(allowed.judge("rule-test", 0, &untested, |_| RULES_PATH.to_owned()));
    findings
}

fn all_rules() -> impl Iterator<Item = String> {
    RULES.iter().flat_map(|(letter, count)| (1..=*count).map(move |n| format!("{letter}{n}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page on which every rule has this row, and a row more.
    fn findings(kept_in: &str, tests: &str, more: &str) -> Vec<Finding> {
        let rows = all_rules().map(|rule| format!("| {rule} | says | {kept_in} | {tests} |\n"));
        let page = rows.collect::<String>() + more;
        let sources = [Source::new(RULES_PATH, &page), Source::new("txn/src/a.rs", "")];
        let known = KnownTests::new(&[], &sources);
        rules(&sources, &known, &Allowed::default())
    }

    #[test]
    fn rows_that_name_what_exists_are_fine() {
        assert_eq!(findings("`txn/src/a.rs`", "`test:txn/src/a.rs`", ""), []);
        assert_eq!(findings("`txn/src`", "`test:txn/src/a.rs`", ""), []);
    }

    #[test]
    fn a_file_or_a_test_that_does_not_exist_is_found() {
        assert_eq!(findings("`txn/src/b.rs`", "`test:txn/src/a.rs`", "").len(), 40);
        assert_eq!(findings("`txn/src/a.rs`", "`test:txn::gone`", "").len(), 40);
        assert_eq!(findings("`txn/src/a.rs`", "none yet", "").len(), 40);
    }

    #[test]
    fn a_double_row_and_a_missing_row_are_found() {
        let double = "| T1 | says | `txn/src/a.rs` | `test:txn/src/a.rs` |";
        assert_eq!(findings("`txn/src/a.rs`", "`test:txn/src/a.rs`", double).len(), 1);
        let empty = [Source::new(RULES_PATH, "")];
        let known = KnownTests::default();
        assert_eq!(rules(&empty, &known, &Allowed::default()).len(), 40);
        assert_eq!(rules(&[], &known, &Allowed::default()).len(), 1);
    }
}
