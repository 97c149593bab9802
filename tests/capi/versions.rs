//! Versions and features.

use std::ffi::CStr;

use grok1::capi::*;

use super::c::{Link, library, run_c, tool};

#[test]
fn the_header_and_the_library_say_the_same_version() {
    let code = r#"
#include "grok1.h"
#include <stdio.h>
int main(void) {
    printf("%d.%d.%d %s %d %d\n", GROK1_VERSION_MAJOR, GROK1_VERSION_MINOR, GROK1_VERSION_PATCH, GROK1_VERSION_STRING,
           GROK1_VERSION_NUMBER, GROK1_ABI_VERSION);
    printf("%s %s %u %u\n", grok1_version(), grok1_version(), grok1_version_number(), grok1_abi_version());
    return 0;
}
"#;
    let [major, minor, patch] =
        [env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"), env!("CARGO_PKG_VERSION_PATCH")]
            .map(|number| number.parse::<u32>().unwrap());
    let (version, number) = (env!("CARGO_PKG_VERSION"), major * 1_000_000 + minor * 1_000 + patch);
    for link in [Link::Shared, Link::Static] {
        let Some(printed) = run_c("versions", code, link, &[]) else { return };
        let expected = format!("{version} {version} {number} {GROK1_ABI_VERSION}");
        assert_eq!(printed.lines().collect::<Vec<_>>(), [expected.as_str(), expected.as_str()]);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_shared_library_is_named_by_its_abi() {
    let shared = library().join("libgrok1.so");
    let Some(dynamic) = tool("readelf", &["-d".as_ref(), shared.as_os_str()]) else { return };
    assert!(dynamic.contains(&format!("soname: [libgrok1.so.{GROK1_ABI_VERSION}]")), "{dynamic}");
}

#[test]
fn features_are_known_by_name() {
    // SAFETY: NUL-terminated names.
    let has = |name: &CStr| unsafe { grok1_has(name.as_ptr()) };
    assert!(has(c"unwind"));
    assert_eq!(has(c"fd"), cfg!(unix));
    assert!(!has(c"no such feature"));
    let sets = grok1::backend::cpu::Cpu::instruction_sets();
    assert_eq!(has(c"avx2"), sets.contains(&"avx2"));
}

#[test]
fn every_status_has_a_name_of_its_own_and_unknown_ones_are_unknown() {
    // SAFETY: names live as long as the process.
    let name = |status| unsafe { CStr::from_ptr(grok1_status_name(grok1_status(status))) }.to_str().unwrap();
    let known: Vec<_> = (0..1000).map(name).filter(|name| *name != "unknown").collect();
    let distinct: std::collections::BTreeSet<_> = known.iter().collect();
    assert_eq!(known.len(), 16);
    assert_eq!(distinct.len(), known.len());
    assert_eq!(name(-1), "unknown");
}
