//! Checks of lines and tokens: width, opening words, and what must not stand in the code.

use super::source::RustFile;
use super::{Finding, Source};

/// Columns of a line of Rust; a line that holds a URL may be longer, since it cannot be broken.
pub const COLUMNS_MAX: usize = 100;

/// Lines wider than [`COLUMNS_MAX`].
pub fn wide_lines(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is("rs")) {
        for (index, line) in source.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX && !line.contains("://") {
                let what = format!("{columns} columns, at most {COLUMNS_MAX} are allowed");
                findings.push(Finding::at(&source.path, index + 1, what));
            }
        }
    }
    findings
}

/// Rust files that do not begin with `//!`.
pub fn missing_openings(sources: &[Source]) -> Vec<Finding> {
    let rust = sources.iter().filter(|source| source.is("rs"));
    rust.filter(|source| !source.text.starts_with("//! "))
        .map(|source| Finding::at(&source.path, 1, "does not begin with `//!`: what is it for?"))
        .collect()
}

/// Leftovers of debugging and of work not done, in test code too.
pub fn leftovers(files: &[RustFile]) -> Vec<Finding> {
    // Spelt in two parts, or this file would find itself.
    let marker = ["FIX", "ME"].concat();
    let mut findings = Vec::new();
    for file in files {
        for pair in file.tokens().windows(2) {
            let [(word, line), (next, _)] = pair else {
                continue;
            };
            if next == "!" && matches!(word.as_str(), "dbg" | "todo" | "unimplemented") {
                findings.push(Finding::at(&file.path, *line, format!("`{word}!` was left")));
            }
        }
        for (index, line) in file.text.lines().enumerate() {
            if line.contains(&marker) {
                let what = format!("{marker}: do it, or write an issue");
                findings.push(Finding::at(&file.path, index + 1, what));
            }
        }
    }
    findings
}

/// `.unwrap()` outside tests: `expect` says why it holds.
pub fn bare_unwraps(files: &[RustFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        for call in file.tokens().windows(4) {
            let words = [0, 1, 2, 3].map(|index| call[index].0.as_str());
            let line = call[1].1;
            if words == [".", "unwrap", "(", ")"] && !file.is_test_line(line) {
                let what = "`unwrap()`: return the error, or say with `expect` why it holds";
                findings.push(Finding::at(&file.path, line, what));
            }
        }
    }
    findings
}

/// Paths that exist on one machine only.
pub fn machine_paths(sources: &[Source]) -> Vec<Finding> {
    // Spelt in two parts, or this file would find itself.
    let forbidden = [["/wo", "rk/"], ["/ro", "ot/"], ["/ho", "me/"], ["/Us", "ers/"]];
    let mut findings = Vec::new();
    for source in sources {
        for (index, line) in source.text.lines().enumerate() {
            for path in forbidden.map(|parts| parts.concat()) {
                // `crates/root/x` is a relative path that merely contains the letters.
                let starts = line.match_indices(&path).any(|(at, _)| {
                    !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '.')
                });
                if starts {
                    let what = format!("`{path}…` exists on one machine only");
                    findings.push(Finding::at(&source.path, index + 1, what));
                }
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> [RustFile; 1] {
        [RustFile::parse(&Source::new("txn/src/a.rs", text)).unwrap()]
    }

    #[test]
    fn a_wide_line_is_found_and_a_url_is_not() {
        let wide = format!("//! {}", "ä".repeat(97));
        let url = format!("//! https://example.org/{}", "x".repeat(97));
        assert_eq!(wide_lines(&[Source::new("a.rs", &wide)]).len(), 1);
        assert!(wide_lines(&[Source::new("a.rs", &url)]).is_empty());
        assert!(wide_lines(&[Source::new("a.md", &wide)]).is_empty());
    }

    #[test]
    fn a_file_without_an_opening_is_found() {
        assert_eq!(missing_openings(&[Source::new("a.rs", "use x;")]).len(), 1);
        assert!(missing_openings(&[Source::new("a.rs", "//! What for.")]).is_empty());
    }

    #[test]
    fn leftovers_are_found_but_not_in_comments_and_strings() {
        let marker = ["FIX", "ME"].concat();
        assert_eq!(leftovers(&file("fn a() { todo!() }")).len(), 1);
        assert_eq!(leftovers(&file("fn a() { b(dbg!(1)); }")).len(), 1);
        assert_eq!(leftovers(&file(&format!("// {marker} later"))).len(), 1);
        assert!(leftovers(&file("// todo!()\nfn a() { \"dbg!\"; }")).is_empty());
    }

    #[test]
    fn unwrap_is_found_in_code_and_macros_but_not_in_tests() {
        assert_eq!(bare_unwraps(&file("fn a() { b().unwrap(); }")).len(), 1);
        assert_eq!(bare_unwraps(&file("fn a() { assert!(b.unwrap()); }")).len(), 1);
        assert!(bare_unwraps(&file("fn a() { b.unwrap_or(1); }")).is_empty());
        assert!(bare_unwraps(&file("/// x.unwrap()\nfn a() {}")).is_empty());
        assert!(bare_unwraps(&file("#[cfg(test)]\nmod t { fn a() { b.unwrap(); } }")).is_empty());
        let test = Source::new("txn/tests/all/a.rs", "fn a() { b.unwrap(); }");
        assert!(bare_unwraps(&[RustFile::parse(&test).unwrap()]).is_empty());
    }

    #[test]
    fn a_path_of_one_machine_is_found() {
        let path = ["see /ro", "ot/x"].concat();
        assert_eq!(machine_paths(&[Source::new("a.md", &path)]).len(), 1);
        let inside = ["a/ro", "ot/x"].concat();
        assert!(machine_paths(&[Source::new("a.md", &inside)]).is_empty());
    }
}
