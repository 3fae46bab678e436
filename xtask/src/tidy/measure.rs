//! The size of what runs as root: code lines and unsafe blocks, against the budgets of ARCHITECTURE.md.
//!
//! The rule for a code line: a physical line that is neither blank nor only comment, outside items under
//! `#[cfg(test)]` and outside test-only files. Multi-line strings count, because someone must read them. What stands
//! behind the features `gateway` and `setup` is not compiled into the setuid program and does not count; modules behind
//! them are whole files, and the setuid program may not switch them on.

use super::Finding;
use super::files::TextFile;
use super::lexer;

/// The setuid program's own crates.
const CLOSURE: [&str; 4] = [
    "crates/shifter/src/",
    "crates/shifter-runtime/src/",
    "crates/shifter-core/src/",
    "crates/shifter-sys/src/",
];
const SYS: &str = "crates/shifter-sys/src/";
const CLOSURE_BUDGET: usize = 4800;
const SYS_BUDGET: usize = 1440;
const UNSAFE_BUDGET: usize = 40;
const TESTS: &str = "#[cfg(test)]";
/// `#[cfg(feature = "gateway")]` and `"setup"` as masked source has them: no other feature has a name so long.
const GATED: [&str; 2] = ["#[cfg(feature = xxxxxxxxx)]", "#[cfg(feature = xxxxxxx)]"];

/// Where unsafe code may stand: prefixes of paths. Nothing else may contain the keyword.
const UNSAFE_ADDRESSES: [&str; 5] = [
    SYS,
    "crates/shifter-munge/src/sys.rs",
    "crates/shifter-slurm/src/ffi.rs",
    "tests/src/harness/namespace.rs",
    "bench/",
];

/// What was counted, and what is too much.
pub(super) struct Sizes {
    pub(super) closure_lines: usize,
    pub(super) sys_lines: usize,
    pub(super) unsafe_blocks: usize,
    pub(super) findings: Vec<Finding>,
}

/// Counts the closure, and looks for unsafe code everywhere.
pub(super) fn check(files: &[TextFile]) -> Sizes {
    let mut sizes = Sizes { closure_lines: 0, sys_lines: 0, unsafe_blocks: 0, findings: Vec::new() };
    for manifest in files.iter().filter(|file| file.path.ends_with("Cargo.toml")) {
        if manifest.path == "crates/shifter/Cargo.toml" && manifest.text.contains("features") {
            let message = "the setuid program is built without the features gateway and setup";
            sizes.findings.push(Finding::error(&manifest.path, 0, message));
        }
    }
    let gated: Vec<String> = files.iter().filter(|file| file.is_rust()).flat_map(gated_modules).collect();
    for file in files.iter().filter(|file| file.is_rust()) {
        let masked = lexer::mask(&file.text);
        if !UNSAFE_ADDRESSES.iter().any(|address| file.path.starts_with(address)) {
            for at in unsafe_keywords(&masked) {
                let line = masked[..at].matches('\n').count() + 1;
                sizes.findings.push(Finding::error(
                    &file.path,
                    line,
                    "unsafe code has one address: move it behind a safe function of shifter-sys",
                ));
            }
        }
        let in_closure = CLOSURE.iter().any(|place| file.path.starts_with(place));
        if file.is_test_only() || !in_closure || gated.iter().any(|path| file.path.starts_with(path)) {
            continue;
        }
        let product = GATED.iter().fold(without(TESTS, &masked), |text, gate| without(gate, &text));
        let lines = product.lines().filter(|line| !line.trim().is_empty()).count();
        sizes.closure_lines += lines;
        if file.path.starts_with(SYS) {
            sizes.sys_lines += lines;
        }
        sizes.unsafe_blocks += unsafe_keywords(&product)
            .filter(|at| product[at + "unsafe".len()..].trim_start().starts_with('{'))
            .count();
    }
    let budgets = [
        ("crates/shifter", sizes.closure_lines, CLOSURE_BUDGET, "code lines in the setuid closure"),
        ("crates/shifter-sys", sizes.sys_lines, SYS_BUDGET, "code lines in shifter-sys"),
        ("crates/shifter-sys", sizes.unsafe_blocks, UNSAFE_BUDGET, "unsafe blocks in the setuid closure"),
    ];
    for (path, seen, budget, what) in budgets {
        if seen > budget {
            let message =
                format!("{seen} {what}, and the budget is {budget}: make it smaller, not the budget larger");
            sizes.findings.push(Finding::error(path, 0, message));
        }
    }
    sizes
}

/// Where the keyword stands, not names that contain it.
fn unsafe_keywords(masked: &str) -> impl Iterator<Item = usize> + '_ {
    let is_name = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    masked.match_indices("unsafe").map(|(at, _)| at).filter(move |at| {
        let bytes = masked.as_bytes();
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        !is_name(before) && !is_name(bytes.get(at + "unsafe".len()))
    })
}

/// Masked source without the items under an attribute.
fn without(attribute: &str, masked: &str) -> String {
    let mut kept = String::new();
    let mut from = 0;
    for item in lexer::items_under(attribute, masked) {
        kept.push_str(&masked[from..item.start]);
        from = item.end;
    }
    kept.push_str(&masked[from..]);
    kept
}

/// Beginnings of the paths of the modules that a file declares behind the feature.
fn gated_modules(file: &TextFile) -> Vec<String> {
    let masked = lexer::mask(&file.text);
    let stem = file.path.trim_end_matches(".rs");
    let place = stem.strip_suffix("lib").map_or_else(|| format!("{stem}/"), str::to_owned);
    let items = GATED.iter().flat_map(|gate| lexer::items_under(gate, &masked));
    let names = items.filter_map(|item| {
        let (_, name) = masked[item].trim_end_matches(';').rsplit_once("mod ")?;
        name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()).then(|| name.to_owned())
    });
    names.flat_map(|name| [format!("{place}{name}.rs"), format!("{place}{name}/")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> TextFile {
        TextFile { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn comments_blanks_and_tests_are_no_code_lines() {
        let text = "//! doc\n\nfn a() {\n    // why\n    b(); // x\n}\n\n#[cfg(test)]\nmod tests {\n    fn c() {}\n}\n";
        let files = [
            file("crates/shifter-sys/src/lib.rs", text),
            file("crates/shifter-core/src/lib.rs", text),
            file("crates/shifter-core/src/tests.rs", text),
            file("crates/shifter-api/src/lib.rs", text),
        ];
        let sizes = check(&files);
        assert_eq!((sizes.closure_lines, sizes.sys_lines), (6, 3));
    }

    #[test]
    fn what_only_the_gateway_compiles_is_not_counted_and_never_switched_on() {
        let gate = "#[cfg(feature = \"gateway\")]\n";
        let text =
            format!("{gate}mod write;\n{gate}pub mod names;\nfn a() {{}}\n{gate}fn b() {{\n    c();\n}}\n");
        let files = [
            file("crates/shifter-core/src/lib.rs", &text),
            file("crates/shifter-core/src/names.rs", "fn a() {}\n"),
            file("crates/shifter-core/src/names/more.rs", "fn a() {}\n"),
            file("crates/shifter-core/src/json.rs", &text),
            file("crates/shifter-core/src/json/write.rs", "fn a() {}\n"),
            file("crates/shifter-core/src/write.rs", "fn a() {}\n"),
            file("crates/shifter-core/src/other.rs", "fn a() {}\n"),
        ];
        assert_eq!(check(&files).closure_lines, 3);
        let manifest = |path| file(path, "shifter-core = { features = [\"gateway\"] }\n");
        assert_eq!(check(&[manifest("crates/shifter/Cargo.toml")]).findings.len(), 1);
        assert_eq!(check(&[manifest("crates/shifter-api/Cargo.toml")]).findings.len(), 0);
    }

    #[test]
    fn unsafe_is_counted_at_its_address_and_refused_elsewhere() {
        let text = "fn a() {\n    unsafe { b() }\n}\nunsafe fn c() {}\n// unsafe\n#![deny(unsafe_code)]\n";
        let sizes =
            check(&[file("crates/shifter-sys/src/a.rs", text), file("crates/shifter-api/src/a.rs", text)]);
        assert_eq!(sizes.unsafe_blocks, 1);
        let lines: Vec<_> =
            sizes.findings.iter().map(|finding| (finding.path.as_str(), finding.line)).collect();
        assert_eq!(lines, [("crates/shifter-api/src/a.rs", 2), ("crates/shifter-api/src/a.rs", 4)]);
    }

    #[test]
    fn a_budget_that_is_passed_is_an_error_with_both_numbers() {
        let long = "a();\n".repeat(SYS_BUDGET + 1);
        let sizes = check(&[file("crates/shifter-sys/src/a.rs", &long)]);
        assert_eq!(sizes.findings.len(), 1);
        assert!(sizes.findings[0].message.contains("1441") && sizes.findings[0].message.contains("1440"));
    }
}
