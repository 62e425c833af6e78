//! Checks of the pages in Markdown: their links lead somewhere, the tests they quote exist.
//!
//! A page quotes a test as `test:` and its full name in backticks, the crate's folder first, as
//! `txn::clock::tests::name`; or the path of a golden script from the root of the repository.

use std::collections::BTreeSet;
use std::path::Path;

use super::source::RustFile;
use super::{Finding, Source};

/// Relative links whose target does not exist.
pub fn broken_links(sources: &[Source], exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is("md")) {
        let folder = source.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (index, line) in prose_lines(&source.text) {
            for target in link_targets(line) {
                let target = target.split('#').next().unwrap_or_default();
                if target.is_empty() || target.contains(':') {
                    continue;
                }
                let path = normal(&format!("{folder}/{target}"));
                if path.as_deref().is_none_or(|path| !exists(path)) {
                    let what = format!("the link to `{target}` leads nowhere");
                    findings.push(Finding::at(&source.path, index + 1, what));
                }
            }
        }
    }
    findings
}

/// Tests that pages quote and that do not exist.
pub fn unknown_tests(sources: &[Source], known: &KnownTests) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is("md")) {
        for (index, line) in source.text.lines().enumerate() {
            for name in quoted_tests(line) {
                if !known.has(name) {
                    let what = format!("there is no test `{name}`");
                    findings.push(Finding::at(&source.path, index + 1, what));
                }
            }
        }
    }
    findings
}

/// The tests of the workspace: functions by full name, golden scripts by path.
#[derive(Debug, Default)]
pub struct KnownTests {
    names: BTreeSet<String>,
    paths: BTreeSet<String>,
}

impl KnownTests {
    /// Collects them.
    pub fn new(files: &[RustFile], sources: &[Source]) -> KnownTests {
        KnownTests {
            names: files.iter().flat_map(|file| file.tests.iter().cloned()).collect(),
            paths: sources.iter().map(|source| source.path.clone()).collect(),
        }
    }

    /// Whether there is such a test.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name) || (name.contains('/') && self.paths.contains(name))
    }
}

/// Whether a path from the root exists.
pub fn exists_below(root: &Path) -> impl Fn(&str) -> bool {
    let root = root.to_owned();
    move |path| root.join(path).exists()
}

/// What stands between `test:` and the closing backtick, where anything does.
pub fn quoted_tests(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter_map(|quoted| quoted.strip_prefix("test:")).filter(|name| !name.is_empty())
}

/// Lines outside fenced code.
fn prose_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next())
}

/// Resolves `.` and `..`; `None` if it leads out of the repository.
fn normal(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            other => parts.push(other),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_nothing_is_found() {
        let page = |text: &str| [Source::new("docs/a.md", text)];
        let exists = |path: &str| path == "docs/b.md" || path == "README.md";
        assert_eq!(broken_links(&page("see [c](c.md)"), exists).len(), 1);
        assert_eq!(broken_links(&page("out [c](../../README.md)"), exists).len(), 1);
        assert!(broken_links(&page("[b](b.md#x), [r](../README.md)"), exists).is_empty());
        assert!(broken_links(&page("[x](https://example.org), [y](#z)"), exists).is_empty());
        assert!(broken_links(&page("```\na[i](j)\n```"), exists).is_empty());
    }

    #[test]
    fn a_quoted_test_that_does_not_exist_is_found() {
        let file = Source::new("txn/src/a.rs", "#[test]\nfn works() {}");
        let files = [RustFile::parse(&file).unwrap()];
        let known = KnownTests::new(&files, &[Source::new("txn/src/scripts/one", "")]);
        let quoted = |text: &str| unknown_tests(&[Source::new("docs/a.md", text)], &known).len();
        assert_eq!(quoted("`test:txn::a::works`, `test:txn/src/scripts/one`"), 0);
        assert_eq!(quoted("`test:txn::a::gone`"), 1);
        assert_eq!(quoted("`test:works`"), 1);
        assert_eq!(quoted("`test:txn/src/scripts/two`"), 1);
    }
}
