//! A C program that calls every function.

use std::path::Path;

use grok1::Sampler;

use crate::scratch::Scratch;
use crate::tools::{Link, Turns, arguments, build, have, root, valgrind};

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// The functions that `grok1.h` declares.
fn functions() -> Vec<String> {
    let header = read("include/grok1.h");
    let declarations = header.lines().filter(|line| !line.trim_start().starts_with(['*', '#']));
    let names = declarations.filter_map(|line| {
        let (before, _) = line.split_once('(')?;
        let name = &before[before.rfind("grok1_")?..];
        name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_').then(|| name.to_owned())
    });
    names.collect()
}

#[test]
fn it_leaves_no_function_out_and_neither_does_the_cpp_header() {
    let names = functions();
    assert!(names.len() > 90, "{}", names.len());
    for path in ["tests/hosts/every.c", "include/grok1.hpp"] {
        let code = read(path);
        let words: Vec<&str> = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
        let missing: Vec<_> = names.iter().filter(|name| !words.contains(&name.as_str())).collect();
        assert!(missing.is_empty(), "{path}: {missing:?}");
    }
}

/// No access to memory that is not the program's, and none lost; and the text is Rust's.
fn clean(link: Link) {
    if !have(&["cc", "valgrind"]) {
        return;
    }
    let scratch = Scratch::new(&format!("every-{link:?}"));
    let program = scratch.path("every");
    build("cc", &["-std=gnu11"], &["every.c"], link, &program);
    let printed = valgrind(&program, &arguments(&scratch).each_ref().map(|path: &_| Path::as_os_str(path)));
    let text = Turns::new(Sampler::new().greedy()).next("The king", 12, &[]);
    assert_eq!(printed, format!("The king{text}\n"));
}

#[test]
fn every_function_of_the_shared_library_runs_clean() {
    clean(Link::Shared);
}

#[test]
fn every_function_of_the_static_library_runs_clean() {
    clean(Link::Static);
}
