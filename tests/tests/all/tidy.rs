//! The tidy checks, on this repository.

use quorate_tests::tidy::documents::KnownTests;
use quorate_tests::tidy::source::{RustFile, rust_files};
use quorate_tests::tidy::{
    ALLOWED_PATH, Allowed, Source, arrows, assert_none, documents, lengths, root, rules, sources,
    text,
};

fn all() -> Vec<Source> {
    sources(&root()).expect("the repository can be read")
}

fn rust(sources: &[Source]) -> Vec<RustFile> {
    rust_files(sources).unwrap_or_else(|finding| panic!("{finding}"))
}

fn allowed() -> Allowed {
    let text = std::fs::read_to_string(root().join(ALLOWED_PATH)).expect("the list can be read");
    Allowed::parse(&text).unwrap_or_else(|finding| panic!("{finding}"))
}

#[test]
fn lines_fit_in_100_columns() {
    assert_none(&text::wide_lines(&all()));
}

#[test]
fn files_begin_with_what_they_are_for() {
    assert_none(&text::missing_openings(&all()));
}

#[test]
fn nothing_is_left_over() {
    assert_none(&text::leftovers(&rust(&all())));
}

#[test]
fn no_bare_unwrap_outside_tests() {
    assert_none(&text::bare_unwraps(&rust(&all())));
}

#[test]
fn no_path_of_one_machine() {
    assert_none(&text::machine_paths(&all()));
}

#[test]
fn files_are_at_most_800_lines() {
    assert_none(&lengths::long_files(&rust(&all()), &allowed()));
}

#[test]
fn functions_are_at_most_70_lines() {
    assert_none(&lengths::long_functions(&rust(&all()), &allowed()));
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    assert_none(&documents::broken_links(&all(), documents::exists_below(&root())));
}

#[test]
fn tests_quoted_in_the_documents_exist() {
    let sources = all();
    let known = KnownTests::new(&rust(&sources), &sources);
    assert_none(&documents::unknown_tests(&sources, &known));
}

#[test]
fn dependencies_follow_the_design() {
    assert_none(&arrows::wrong_arrows(&all()));
}

#[test]
fn every_rule_of_the_protocol_has_its_row() {
    let sources = all();
    let known = KnownTests::new(&rust(&sources), &sources);
    assert_none(&rules::rules(&sources, &known, &allowed()));
}
