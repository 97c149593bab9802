//! The header by itself.

use std::ffi::OsStr;
use std::path::Path;

use super::c::{HEADER, compile, scratch};

#[test]
fn the_committed_header_is_the_one_that_is_generated() {
    let generated = std::fs::read_to_string(Path::new(env!("OUT_DIR")).join("grok1.h")).unwrap();
    assert!(generated == HEADER, "refresh it with GROK1_WRITE_HEADER=1 cargo build --features capi");
}

#[test]
fn it_stands_alone_and_twice_in_every_standard() {
    let folder = scratch("header");
    let source = "#include \"grok1.h\"\n#include \"grok1.h\"\nint grok1_header_test(void);\n";
    let languages = [
        ("cc", "c", ["-std=c99", "-std=c11", "-std=c17"]),
        ("g++", "cpp", ["-std=c++11", "-std=c++17", "-std=c++20"]),
    ];
    for (compiler, extension, standards) in languages {
        let code = folder.join(format!("alone.{extension}"));
        std::fs::write(&code, source).unwrap();
        for standard in standards {
            let arguments = [standard.as_ref(), "-fsyntax-only".as_ref(), code.as_os_str()];
            if !compile(compiler, &arguments.map(OsStr::new)) {
                return;
            }
        }
    }
}

#[test]
fn every_type_tells_its_lifetime_and_its_threads() {
    for definition in HEADER.split("\n/**").skip(1) {
        let (comment, code) = definition.split_once("*/").unwrap();
        if code.trim_start().starts_with("typedef struct") {
            assert!(comment.contains("Lifetime"), "{code}");
            assert!(comment.to_lowercase().contains("threads"), "{code}");
        }
    }
}
