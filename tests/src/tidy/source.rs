//! What the checks want to know of a Rust file: its functions, its tests, which lines are test
//! code, and its tokens without comments and strings.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::{Finding, Source};

/// A function with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Modules, type and name, joined by `::`.
    pub name: String,
    /// First line.
    pub line: usize,
    /// Lines from the signature to the closing brace.
    pub lines: usize,
    /// Whether it exists only for tests.
    pub in_test: bool,
}

/// A parsed Rust file.
#[derive(Debug)]
pub struct RustFile {
    /// Path from the root of the repository.
    pub path: String,
    /// Content.
    pub text: String,
    /// Functions with a body, in order.
    pub functions: Vec<Function>,
    /// Full names of the tests in it, as `folder of the crate::module::name`.
    pub tests: Vec<String>,
    /// Modules in other files that exist only for tests, as paths without `.rs`.
    test_modules: Vec<String>,
    test_lines: Vec<RangeInclusive<usize>>,
    /// Whether the whole file is test code.
    pub is_test: bool,
}

impl RustFile {
    /// Parses one file; the finding says where it is no Rust.
    pub fn parse(source: &Source) -> Result<RustFile, Finding> {
        let syntax = syn::parse_file(&source.text).map_err(|error| {
            let line = error.span().start().line;
            Finding::at(&source.path, line, format!("does not parse: {error}"))
        })?;
        let mut collector = Collector {
            modules: module_path(&source.path),
            test_depth: 0,
            file: RustFile {
                path: source.path.clone(),
                text: source.text.clone(),
                functions: Vec::new(),
                tests: Vec::new(),
                test_modules: Vec::new(),
                test_lines: Vec::new(),
                is_test: is_test_path(&source.path),
            },
        };
        collector.visit_file(&syntax);
        Ok(collector.file)
    }

    /// Whether a line, counted from 1, is test code.
    pub fn is_test_line(&self, line: usize) -> bool {
        self.is_test || self.test_lines.iter().any(|range| range.contains(&line))
    }

    /// How many lines are not test code.
    pub fn production_lines(&self) -> usize {
        (1..=self.text.lines().count()).filter(|line| !self.is_test_line(*line)).count()
    }

    /// The tokens, flattened: delimiters are punctuation; comments are gone.
    pub fn tokens(&self) -> Vec<(String, usize)> {
        let mut out = Vec::new();
        if let Ok(stream) = self.text.parse::<TokenStream>() {
            flatten(stream, &mut out);
        }
        out
    }
}

/// Parses every Rust file, and marks those that belong to a module only tests have.
pub fn rust_files(sources: &[Source]) -> Result<Vec<RustFile>, Finding> {
    let rust = sources.iter().filter(|source| source.is("rs"));
    let mut files = rust.map(RustFile::parse).collect::<Result<Vec<_>, _>>()?;
    let modules: BTreeSet<String> =
        files.iter().flat_map(|file| file.test_modules.iter().cloned()).collect();
    for file in &mut files {
        let stem = file.path.trim_end_matches(".rs");
        let in_test_module = |module: &String| {
            stem.strip_prefix(module.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        file.is_test |= modules.iter().any(in_test_module);
    }
    Ok(files)
}

/// Files of integration tests and benchmarks: in a folder of that name below a crate.
fn is_test_path(path: &str) -> bool {
    path.split('/').skip(1).any(|part| part == "tests" || part == "benches")
}

/// The crate's folder and the modules that a path stands for.
fn module_path(path: &str) -> Vec<String> {
    let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    let mut modules = vec![parts[0].to_owned()];
    let below = match parts.get(1) {
        // `tests/one/main.rs` and `tests/one.rs` are the root of a test binary.
        Some(&"tests" | &"benches") => parts.get(3..).unwrap_or_default(),
        _ => parts.get(2..).unwrap_or_default(),
    };
    let is_module = |part: &&&str| !matches!(**part, "lib" | "main" | "mod");
    modules.extend(below.iter().filter(is_module).map(|part| (*part).to_owned()));
    modules
}

fn flatten(stream: TokenStream, out: &mut Vec<(String, usize)>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                out.push((open.to_owned(), line));
                flatten(group.stream(), out);
                out.push((close.to_owned(), group.span_close().start().line));
            }
            TokenTree::Literal(_) => out.push(("\"\"".to_owned(), line)),
            other => out.push((other.to_string(), line)),
        }
    }
}

struct Collector {
    modules: Vec<String>,
    test_depth: usize,
    file: RustFile,
}

impl Collector {
    fn in_test(&self) -> bool {
        self.test_depth > 0 || self.file.is_test
    }

    /// Runs `inside` one name deeper, and inside a test if the attributes say so.
    fn within(
        &mut self,
        name: Option<String>,
        attrs: &[syn::Attribute],
        span: Span,
        inside: impl FnOnce(&mut Collector),
    ) {
        let is_test = attrs.iter().any(is_test_attribute);
        if is_test {
            let first = attrs.first().map_or(span, |attr| attr.span()).start().line;
            self.file.test_lines.push(first..=span.end().line);
            self.test_depth += 1;
        }
        let depth = self.modules.len();
        self.modules.extend(name);
        inside(self);
        self.modules.truncate(depth);
        self.test_depth -= usize::from(is_test);
    }

    fn function(&mut self, attrs: &[syn::Attribute], sig: &syn::Signature, block: &syn::Block) {
        let line = sig.span().start().line;
        let lines = block.span().end().line + 1 - line;
        let mut name = self.modules[1..].to_vec();
        name.push(sig.ident.to_string());
        let in_test = self.in_test() || attrs.iter().any(is_test_attribute);
        self.file.functions.push(Function { name: name.join("::"), line, lines, in_test });
        if attrs.iter().any(|attr| last_segment(attr) == "test") {
            self.test(sig.ident.to_string());
        }
    }

    fn test(&mut self, name: String) {
        let mut full = self.modules.clone();
        full.push(name);
        self.file.tests.push(full.join("::"));
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        if item.content.is_none() && item.attrs.iter().any(is_test_attribute) {
            let folder = module_folder(&self.file.path);
            self.file.test_modules.push(format!("{folder}/{name}"));
        }
        self.within(Some(name), &item.attrs, item.span(), |this| {
            visit::visit_item_mod(this, item);
        });
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let name = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        };
        self.within(name, &item.attrs, item.span(), |this| visit::visit_item_impl(this, item));
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        let name = Some(item.ident.to_string());
        self.within(name, &item.attrs, item.span(), |this| visit::visit_item_trait(this, item));
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.attrs, &item.sig, &item.block);
        self.within(None, &item.attrs, item.span(), |this| visit::visit_item_fn(this, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.attrs, &item.sig, &item.block);
        self.within(None, &item.attrs, item.span(), |this| visit::visit_impl_item_fn(this, item));
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.attrs, &item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        // `proptest! { #[test] fn name(…) { … } }`: the functions it makes are tests.
        if item.path.segments.last().is_some_and(|last| last.ident == "proptest") {
            let mut tokens = Vec::new();
            flatten(item.tokens.clone(), &mut tokens);
            for pair in tokens.windows(2) {
                if pair[0].0 == "fn" {
                    self.test(pair[1].0.clone());
                }
            }
        }
    }
}

/// The folder where the modules that a file declares lie.
fn module_folder(path: &str) -> String {
    let stem = path.trim_end_matches(".rs");
    let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
    if matches!(name, "lib" | "main" | "mod") { folder.to_owned() } else { stem.to_owned() }
}

fn last_segment(attr: &syn::Attribute) -> String {
    attr.path().segments.last().map(|last| last.ident.to_string()).unwrap_or_default()
}

/// `#[test]`, `#[tokio::test]`, `#[cfg(test)]`, `#[cfg(all(test, …))]`; not `#[cfg(not(test))]`.
fn is_test_attribute(attr: &syn::Attribute) -> bool {
    match last_segment(attr).as_str() {
        "test" => true,
        "cfg" => {
            let Ok(list) = attr.meta.require_list() else {
                return false;
            };
            let mut tokens = Vec::new();
            flatten(list.tokens.clone(), &mut tokens);
            let has = |word: &str| tokens.iter().any(|(token, _)| token == word);
            has("test") && !has("not") && !has("any")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "//! x\n\
        fn a() {\n}\n\
        impl B { fn c(&self) {\n1;\n2;\n} }\n\
        #[cfg(test)]\nmod tests {\n    #[test]\n    fn d() {}\n}\n\
        #[cfg(test)]\nmod golden;\n";

    #[test]
    fn functions_tests_and_test_lines_are_told_apart() {
        let file = RustFile::parse(&Source::new("txn/src/clock/hlc.rs", TEXT)).unwrap();
        let names: Vec<_> = file.functions.iter().map(|f| (&*f.name, f.lines, f.in_test)).collect();
        assert_eq!(
            names,
            [
                ("clock::hlc::a", 2, false),
                ("clock::hlc::B::c", 4, false),
                ("clock::hlc::tests::d", 1, true)
            ]
        );
        assert_eq!(file.tests, ["txn::clock::hlc::tests::d"]);
        assert!(!file.is_test_line(7) && file.is_test_line(8) && file.is_test_line(12));
        assert_eq!(file.production_lines(), 7);
    }

    #[test]
    fn a_module_declared_for_tests_only_makes_its_file_test_code() {
        let sources = [
            Source::new("txn/src/clock.rs", "#[cfg(test)]\nmod golden;\n"),
            Source::new("txn/src/clock/golden.rs", "fn x() {}"),
            Source::new("txn/src/clock/golden_rule.rs", "fn x() {}"),
        ];
        let files = rust_files(&sources).unwrap();
        assert_eq!(files.iter().map(|file| file.is_test).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn tests_that_a_macro_makes_have_names_too() {
        let text = "proptest! { #[test] fn any_key_decodes(k in 0..9) { } }";
        let file = RustFile::parse(&Source::new("planner/tests/all/keys.rs", text)).unwrap();
        assert_eq!(file.tests, ["planner::keys::any_key_decodes"]);
        assert!(file.is_test);
    }

    #[test]
    fn what_does_not_parse_is_a_finding() {
        assert!(RustFile::parse(&Source::new("a/src/b.rs", "fn (")).is_err());
    }
}
