//! `grok1.hpp`.

use std::path::Path;
use std::process::Command;

use grok1::Sampler;

use crate::scratch::Scratch;
use crate::tools::{Link, Turns, arguments, build, have, root, run, valgrind};

/// Warnings that hosts have on beside the usual ones.
const WARNINGS: [&str; 2] = ["-Wshadow", "-Wconversion"];

#[test]
fn it_compiles_in_both_standards_with_and_without_exceptions() {
    if !have(&["g++"]) {
        return;
    }
    for standard in ["-std=c++17", "-std=c++20"] {
        for options in [&[][..], &["-fno-exceptions", "-fno-rtti"]] {
            run(Command::new("g++")
                .args([standard, "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
                .args(WARNINGS)
                .args(options)
                .arg("-I")
                .arg(root().join("include"))
                .arg(root().join("tests/hosts/other.cpp")));
        }
    }
}

/// A program of two files that uses everything; what it asserts stands there.
fn everything(standard: &str, link: Link, run_in: impl Fn(&Path, &[&std::ffi::OsStr]) -> String) {
    let scratch = Scratch::new(&format!("cpp-{link:?}"));
    let program = scratch.path("every");
    build("g++", &[standard, WARNINGS[0], WARNINGS[1]], &["every.cpp", "other.cpp"], link, &program);
    let printed = run_in(&program, &arguments(&scratch).each_ref().map(|path: &_| Path::as_os_str(path)));
    let text = Turns::new(Sampler::new().greedy()).next("The king", 12, &[]);
    assert_eq!(printed, format!("The king{text}\n"));
}

#[test]
fn everything_in_it_works_with_the_shared_library() {
    if have(&["g++"]) {
        everything("-std=c++20", Link::Shared, |program, arguments| {
            run(Command::new(program).args(arguments))
        });
    }
}

#[test]
fn everything_in_it_runs_clean_with_the_static_library() {
    if have(&["g++", "valgrind"]) {
        everything("-std=c++17", Link::Static, valgrind);
    }
}
