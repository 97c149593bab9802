//! Versions, and what this library can do. Uses `error` and `pointer`.

use std::ffi::{CStr, c_char};

use super::abi::GROK1_ABI_VERSION;
use super::error::quiet;
use super::pointer;
use crate::backend::cpu::Cpu;

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"",
};

/// The library's version, as `GROK1_VERSION_STRING` of the header that belongs to it. Lives as long as the process.
#[unsafe(no_mangle)]
pub extern "C" fn grok1_version() -> *const c_char {
    VERSION.as_ptr()
}

/// The library's version, as `GROK1_VERSION_NUMBER` of the header that belongs to it.
#[unsafe(no_mangle)]
pub extern "C" fn grok1_version_number() -> u32 {
    const fn number(part: &str) -> u32 {
        match u32::from_str_radix(part, 10) {
            Ok(number) => number,
            Err(_) => 0,
        }
    }
    const MAJOR: u32 = number(env!("CARGO_PKG_VERSION_MAJOR"));
    const MINOR: u32 = number(env!("CARGO_PKG_VERSION_MINOR"));
    const PATCH: u32 = number(env!("CARGO_PKG_VERSION_PATCH"));
    MAJOR * 1_000_000 + MINOR * 1_000 + PATCH
}

/// The library's `GROK1_ABI_VERSION`. A program whose header says another must not go on.
#[unsafe(no_mangle)]
pub extern "C" fn grok1_abi_version() -> u32 {
    GROK1_ABI_VERSION
}

/// Whether the library, on this machine, has a feature: an instruction set it has kernels for ("avx2", "avx512", "neon"), "cuda" and
/// "hip" (code for such GPUs, whether or not there is one), "fd" (opening models by file descriptor), "unwind" (defects become
/// `GROK1_ERR_PANIC`; without it they end the process). False for names that it does not know, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_has(feature: *const c_char) -> bool {
    // SAFETY: as the header asks.
    quiet(false, || match unsafe { pointer::word("feature", feature) } {
        Ok("unwind") => cfg!(panic = "unwind"),
        Ok("fd") => cfg!(unix),
        Ok("cuda") => cfg!(feature = "cuda"),
        Ok("hip") => cfg!(feature = "hip"),
        Ok(name) => Cpu::instruction_sets().contains(&name),
        Err(_) => false,
    })
}
