//! Checks of length: files and functions that grew past what one reads in one go.

use super::source::RustFile;
use super::{Allowed, Finding};

/// Lines of a file that are not test code.
pub const FILE_LINES_MAX: usize = 800;

/// Lines of a function outside tests.
pub const FUNCTION_LINES_MAX: usize = 70;

/// Files longer than [`FILE_LINES_MAX`] that the list does not allow.
pub fn long_files(files: &[RustFile], allowed: &Allowed) -> Vec<Finding> {
    let lengths = files.iter().map(|file| (file.path.clone(), 0, file.production_lines()));
    let over: Vec<_> = lengths.filter(|(_, _, lines)| *lines > FILE_LINES_MAX).collect();
    allowed.judge("file-length", FILE_LINES_MAX, &over, str::to_owned)
}

/// Functions longer than [`FUNCTION_LINES_MAX`] that the list does not allow.
///
/// Their subject in the list is `path!module::name`.
pub fn long_functions(files: &[RustFile], allowed: &Allowed) -> Vec<Finding> {
    let mut over = Vec::new();
    for file in files {
        for function in &file.functions {
            if function.lines > FUNCTION_LINES_MAX && !function.in_test && !file.is_test {
                let subject = format!("{}!{}", file.path, function.name);
                over.push((subject, function.line, function.lines));
            }
        }
    }
    let path_of = |subject: &str| subject.split('!').next().unwrap_or_default().to_owned();
    allowed.judge("function-length", FUNCTION_LINES_MAX, &over, path_of)
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::*;

    fn file(path: &str, text: &str) -> [RustFile; 1] {
        [RustFile::parse(&Source::new(path, text)).unwrap()]
    }

    fn function_of(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "a();\n".repeat(lines - 2))
    }

    #[test]
    fn a_long_file_is_found_and_its_tests_do_not_count() {
        let allowed = Allowed::default();
        let long = "// x\n".repeat(FILE_LINES_MAX + 1);
        assert_eq!(long_files(&file("txn/src/a.rs", &long), &allowed).len(), 1);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert!(long_files(&file("txn/src/a.rs", &tests), &allowed).is_empty());
    }

    #[test]
    fn a_long_function_is_found_unless_it_is_a_test_or_listed() {
        let allowed = Allowed::default();
        let text = function_of(FUNCTION_LINES_MAX + 1);
        assert_eq!(long_functions(&file("txn/src/a.rs", &text), &allowed).len(), 1);
        assert!(long_functions(&file("txn/tests/a.rs", &text), &allowed).is_empty());
        assert!(
            long_functions(&file("txn/src/a.rs", &function_of(FUNCTION_LINES_MAX)), &allowed)
                .is_empty()
        );
        let listed = Allowed::parse("function-length txn/src/a.rs!a::long 71").unwrap();
        assert!(long_functions(&file("txn/src/a.rs", &text), &listed).is_empty());
    }
}
