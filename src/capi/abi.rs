//! The version of the ABI, which the build script reads too.

/// Version of the binary interface that the header describes. It moves when a program built with an older header can no longer
/// run with a newer library, and with it the shared library's name. While it is 0 layouts may still change with any release.
pub const GROK1_ABI_VERSION: u32 = 0;
