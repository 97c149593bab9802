//! What the shared library exports.

use std::collections::BTreeSet;

use super::c::{assert_golden, functions, library, tool};

#[test]
fn the_library_exports_what_the_header_declares_and_nothing_else() {
    let declared: BTreeSet<String> = functions().into_iter().map(|function| function.name).collect();
    assert_golden("symbols.txt", &declared.iter().map(|name| format!("{name}\n")).collect::<String>());
    let shared = library().join("libgrok1.so");
    let Some(listed) = tool("nm", &["-D".as_ref(), "--defined-only".as_ref(), shared.as_os_str()]) else {
        return;
    };
    let names = listed.lines().filter_map(|line| line.split_whitespace().nth(2)).map(str::to_owned);
    let mut exported: BTreeSet<String> = names.collect();
    assert!(exported.remove("grok1_testing_panic"));
    assert_eq!(exported, declared);
}
