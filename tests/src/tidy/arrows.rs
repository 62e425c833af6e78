//! Checks of the crates' dependencies: the arrows of the design go one way.

use super::{Finding, Source};

/// What a crate may and may not depend on.
struct Arrow {
    crate_folder: &'static str,
    /// Crates of this workspace it may use.
    may_use: &'static [&'static str],
    /// Libraries it knows nothing of, outside its tests.
    knows_nothing_of: &'static [&'static str],
}

/// `cli`, `tests` and `benches` wire things together and may use anything.
const ARROWS: [Arrow; 5] = [
    Arrow {
        crate_folder: "proto",
        may_use: &[],
        knows_nothing_of: &["rocksdb", "raft", "raft-engine", "datafusion", "pgwire"],
    },
    Arrow {
        crate_folder: "txn",
        may_use: &["proto"],
        knows_nothing_of: &["rocksdb", "raft", "raft-engine", "tonic", "tokio", "datafusion"],
    },
    Arrow {
        crate_folder: "planner",
        may_use: &["txn", "proto"],
        knows_nothing_of: &["tonic", "rocksdb", "raft", "raft-engine", "pgwire"],
    },
    Arrow {
        crate_folder: "shard",
        may_use: &["txn", "proto"],
        knows_nothing_of: &["datafusion", "sqlparser", "pgwire"],
    },
    Arrow {
        crate_folder: "gateway",
        may_use: &["planner", "txn", "proto"],
        knows_nothing_of: &["rocksdb", "raft", "raft-engine"],
    },
];

/// Dependencies that point the wrong way.
pub fn wrong_arrows(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for arrow in &ARROWS {
        let path = format!("{}/Cargo.toml", arrow.crate_folder);
        let Some(source) = sources.iter().find(|source| source.path == path) else {
            findings.push(Finding::at(&path, 0, "is missing"));
            continue;
        };
        let manifest: toml::Table = match source.text.parse() {
            Ok(manifest) => manifest,
            Err(error) => {
                findings.push(Finding::at(&path, 0, format!("does not parse: {error}")));
                continue;
            }
        };
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let names = manifest.get(section).and_then(toml::Value::as_table);
            for name in names.into_iter().flat_map(toml::Table::keys) {
                if let Some(what) = arrow.objection(section, name) {
                    findings.push(Finding::at(&path, 0, what));
                }
            }
        }
    }
    findings
}

impl Arrow {
    fn objection(&self, section: &str, name: &str) -> Option<String> {
        if let Some(own) = name.strip_prefix("quorate-") {
            let wrong = !self.may_use.contains(&own);
            return wrong.then(|| format!("{} must not use {own}", self.crate_folder));
        }
        let wrong = section == "dependencies" && self.knows_nothing_of.contains(&name);
        wrong.then(|| format!("{} must know nothing of {name}", self.crate_folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(folder: &str, manifest: &str) -> Vec<String> {
        let mut sources: Vec<_> = ARROWS
            .iter()
            .filter(|arrow| arrow.crate_folder != folder)
            .map(|arrow| Source::new(&format!("{}/Cargo.toml", arrow.crate_folder), ""))
            .collect();
        sources.push(Source::new(&format!("{folder}/Cargo.toml"), manifest));
        wrong_arrows(&sources).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn an_arrow_against_the_design_is_found() {
        let shard = "[dependencies]\nquorate-planner.workspace = true";
        assert_eq!(findings("shard", shard), ["shard must not use planner"]);
        let dev = "[dev-dependencies]\nquorate-gateway.workspace = true";
        assert_eq!(findings("planner", dev), ["planner must not use gateway"]);
        let gateway = "[dependencies]\nquorate-planner.workspace = true\nbytes = \"1\"";
        assert!(findings("gateway", gateway).is_empty());
    }

    #[test]
    fn a_library_that_a_crate_must_not_know_is_found() {
        assert_eq!(
            findings("txn", "[dependencies]\ntokio = \"1\""),
            ["txn must know nothing of tokio"]
        );
        assert!(findings("txn", "[dev-dependencies]\ntokio = \"1\"").is_empty());
    }
}
