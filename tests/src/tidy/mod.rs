//! Checks that keep the code as `make verify` promises it: each is a function from sources to
//! findings, with a test beside it that makes it fire.
//!
//! Nothing here writes. What is over a limit today stands in `tests/tidy_allow.txt` with its
//! figure; an entry that is no longer needed, or whose figure is too high, is a finding too, so
//! that the list only shrinks.

pub mod arrows;
pub mod documents;
pub mod lengths;
pub mod rules;
pub mod source;
pub mod text;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// One text file of the repository.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path from the root of the repository, with `/`.
    pub path: String,
    /// Content.
    pub text: String,
}

impl Source {
    /// A source that exists only in a test.
    pub fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    /// Whether the path ends with this extension.
    pub fn is(&self, extension: &str) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, found)| found == extension)
    }
}

/// Something to put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Path from the root of the repository.
    pub path: String,
    /// Line, counted from 1; 0 if the whole file is meant.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl Finding {
    /// A finding at a line of a source.
    pub fn at(path: &str, line: usize, what: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("the tests crate lies in a folder of the repository").to_owned()
}

/// Every text file of the repository, sorted by path; build output and hidden folders excepted.
pub fn sources(root: &Path) -> io::Result<Vec<Source>> {
    let mut found = Vec::new();
    walk(root, root, &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<Source>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "target" || name == "Cargo.lock" || (name.starts_with('.') && name != ".ci") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(root, &entry.path(), found)?;
            continue;
        }
        let path = entry.path();
        let relative = path.strip_prefix(root).map_err(io::Error::other)?;
        // A file that is no text has no style.
        if let Ok(text) = std::fs::read_to_string(&path) {
            found.push(Source { path: relative.to_string_lossy().into_owned(), text });
        }
    }
    Ok(())
}

/// Panics with every finding, if there are any.
pub fn assert_none(findings: &[Finding]) {
    let said: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", said.len(), said.join("\n"));
}

/// `tests/tidy_allow.txt`: what is over a limit today.
#[derive(Debug, Default)]
pub struct Allowed {
    /// (kind, subject, figure).
    entries: Vec<(String, String, usize)>,
}

/// Where the allow-list lies.
pub const ALLOWED_PATH: &str = "tests/tidy_allow.txt";

impl Allowed {
    /// Reads the list: one `kind subject figure` a line, `#` starts a comment.
    pub fn parse(text: &str) -> Result<Allowed, Finding> {
        let mut entries = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let [kind, subject, figure] = words.as_slice() else {
                return Err(Finding::at(ALLOWED_PATH, index + 1, "not `kind subject figure`"));
            };
            let figure = figure
                .parse()
                .map_err(|_| Finding::at(ALLOWED_PATH, index + 1, "the figure is no number"))?;
            entries.push(((*kind).to_owned(), (*subject).to_owned(), figure));
        }
        Ok(Allowed { entries })
    }

    /// Compares what is over the limit (subject, line, figure) with what the list allows.
    pub fn judge(
        &self,
        kind: &str,
        limit: usize,
        over: &[(String, usize, usize)],
        path_of: impl Fn(&str) -> String,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        let entries: Vec<_> = self.entries.iter().filter(|(found, ..)| found == kind).collect();
        for (subject, line, figure) in over {
            let allowed = entries.iter().find(|(_, name, _)| name == subject);
            let allowed = allowed.map_or(limit, |(_, _, figure)| *figure);
            if *figure > allowed {
                let what = format!("{kind}: {subject} has {figure}, at most {allowed} is allowed");
                findings.push(Finding::at(&path_of(subject), *line, what));
            }
        }
        for (_, subject, allowed) in entries {
            let figure = over.iter().find(|(name, ..)| name == subject).map(|(_, _, now)| *now);
            let what = match figure {
                None => format!("{kind} {subject} is not needed any more: remove the entry"),
                Some(now) if now < *allowed => format!("{kind} {subject} is {now} now: say so"),
                Some(_) => continue,
            };
            findings.push(Finding::at(ALLOWED_PATH, 0, what));
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(list: &str, over: &[(&str, usize)]) -> Vec<String> {
        let over: Vec<_> = over.iter().map(|(name, now)| ((*name).to_owned(), 1, *now)).collect();
        let allowed = Allowed::parse(list).unwrap();
        let findings = allowed.judge("file-length", 10, &over, str::to_owned);
        findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn what_is_over_the_limit_is_found_unless_listed() {
        assert_eq!(judged("", &[("a.rs", 11)]).len(), 1);
        assert!(judged("file-length a.rs 11", &[("a.rs", 11)]).is_empty());
        assert_eq!(judged("file-length a.rs 11", &[("a.rs", 12)]).len(), 1);
    }

    #[test]
    fn the_list_only_shrinks() {
        assert_eq!(judged("file-length a.rs 11", &[]).len(), 1);
        assert_eq!(judged("file-length a.rs 15 # why", &[("a.rs", 12)]).len(), 1);
    }

    #[test]
    fn a_malformed_list_is_refused() {
        assert!(Allowed::parse("file-length a.rs").is_err());
        assert!(Allowed::parse("file-length a.rs many").is_err());
    }

    #[test]
    fn the_repository_is_found_and_build_output_is_not() {
        let sources = sources(&root()).unwrap();
        assert!(sources.iter().any(|source| source.path == "Makefile"));
        assert!(sources.iter().any(|source| source.path == "tests/src/tidy/mod.rs"));
        assert!(!sources.iter().any(|source| source.path.starts_with("target/")));
    }
}
