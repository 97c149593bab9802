//! What is installed.

use std::fs;
use std::process::Command;

use grok1::capi::GROK1_ABI_VERSION;

use crate::scratch::Scratch;
use crate::tools::{have, pkg_config, prefix, root, run};

#[test]
fn the_package_has_both_libraries_the_headers_and_what_finds_them() {
    if !have(&["cc"]) {
        return;
    }
    let files = [
        "include/grok1.h",
        "include/grok1.hpp",
        "lib/libgrok1.a",
        "lib/libgrok1.so",
        "lib/pkgconfig/grok1.pc",
        "share/cmake/grok1/grok1-config.cmake",
        "share/cmake/grok1/grok1-config-version.cmake",
    ];
    for file in files {
        assert!(prefix().join(file).is_file(), "{file}");
    }
    let name = format!("libgrok1.so.{GROK1_ABI_VERSION}");
    assert_eq!(fs::read_link(prefix().join("lib/libgrok1.so")).unwrap().to_str(), Some(name.as_str()));
    assert_eq!(pkg_config("Version"), [env!("CARGO_PKG_VERSION")]);
}

#[test]
fn a_static_link_needs_what_rustc_says_of_any_static_library() {
    if !have(&["cc"]) {
        return;
    }
    let scratch = Scratch::new("native-static-libs");
    let (code, library) = (scratch.path("empty.rs"), scratch.path("libempty.a"));
    fs::write(&code, "").unwrap();
    let output = Command::new("rustc")
        .args(["--crate-type", "staticlib", "--print", "native-static-libs", "-o"])
        .args([&library, &code])
        .output()
        .unwrap();
    let notes = String::from_utf8(output.stderr).unwrap();
    let line = notes.lines().find_map(|line| line.strip_prefix("note: native-static-libs: ")).unwrap();
    assert_eq!(pkg_config("Libs.private").join(" "), line);
}

#[test]
fn pkg_config_understands_it() {
    if !have(&["cc", "pkg-config"]) {
        return;
    }
    let asked = |option: &str| {
        let folder = prefix().join("lib/pkgconfig");
        let answer = run(Command::new("pkg-config").args([option, "grok1"]).env("PKG_CONFIG_PATH", folder));
        answer.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(asked("--modversion"), pkg_config("Version"));
    assert_eq!(asked("--cflags"), pkg_config("Cflags"));
    assert_eq!(asked("--libs"), pkg_config("Libs"));
}

#[test]
fn cargo_c_names_the_library_by_its_abi_too() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, library) = manifest.split_once("[package.metadata.capi.library]").unwrap();
    let version = library.lines().find_map(|line| line.strip_prefix("version = \"")).unwrap();
    assert_eq!(version.split('.').next(), Some(GROK1_ABI_VERSION.to_string().as_str()));
    assert!(library.contains("version_suffix_components = 1"));
}
