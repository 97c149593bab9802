//! Code on disk, to be compiled once per program, architecture and compiler. Uses nothing.
//!
//! A folder per program and architecture, named by what the code depends on; in it a file per compiler. Files are written under
//! another name and renamed, so that one is whole or not there; what was damaged since is found by its checksum and made anew.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::Program;

/// In front of code, with the form's number; its checksum follows.
const MAGIC: [u8; 8] = *b"g1code\0\x01";

/// Where code is kept.
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub(super) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The user's, by the rules of XDG; `None` for a user without a home.
    pub(super) fn of_user() -> Option<Self> {
        let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(Self::at(caches.join("grok1").join("kernels")))
    }

    /// Where code of `program` for `architecture` is kept, which its compiler is given more `options` for.
    pub(super) fn entry(&self, program: &Program<'_>, architecture: &str, options: &[&str]) -> Entry {
        let mut digest = Xxh3::new();
        // Each text with its length, so that no two programs are the same bytes.
        let mut add = |text: &str| {
            digest.update(&(text.len() as u64).to_le_bytes());
            digest.update(text.as_bytes());
        };
        let Program { name, source, headers, options: own } = *program;
        [architecture, name, source].into_iter().for_each(&mut add);
        add(&format!("{} {}", headers.len(), own.len()));
        headers.iter().flat_map(|&(name, header)| [name, header]).for_each(&mut add);
        own.iter().chain(options).copied().for_each(&mut add);
        // It becomes part of a name.
        let readable: String =
            architecture.chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect();
        Entry { folder: self.folder.join(format!("{readable}-{:032x}", digest.digest128())) }
    }
}

/// The code of a program for an architecture, by any compiler.
pub(super) struct Entry {
    folder: PathBuf,
}

impl Entry {
    fn path(&self, compiler: &str) -> PathBuf {
        self.folder.join(compiler)
    }

    /// What a compiler made, if that is there and whole.
    pub(super) fn read(&self, compiler: &str) -> Option<Vec<u8>> {
        read(&self.path(compiler))
    }

    /// What any compiler made, the last one first.
    pub(super) fn read_any(&self) -> Option<Vec<u8>> {
        let mut files: Vec<_> = fs::read_dir(&self.folder)
            .ok()?
            .filter_map(|entry| {
                let entry = entry.ok()?;
                Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
            })
            .filter(|(_, path)| path.extension().is_none_or(|extension| extension != TEMPORARY))
            .collect();
        files.sort_unstable();
        files.iter().rev().find_map(|(_, path)| read(path))
    }

    /// Keeps what a compiler made. A failure is logged: it costs time, nothing else.
    pub(super) fn write(&self, compiler: &str, code: &[u8]) {
        let path = self.path(compiler);
        if let Err(error) = self.try_write(&path, code) {
            log::warn!("cannot keep compiled kernels as {}: {error}", path.display());
        }
    }

    fn try_write(&self, path: &Path, code: &[u8]) -> io::Result<()> {
        static WRITTEN: AtomicUsize = AtomicUsize::new(0);

        fs::create_dir_all(&self.folder)?;
        let mut name = path.as_os_str().to_owned();
        name.push(OsString::from(format!(
            ".{}-{}.{TEMPORARY}",
            process::id(),
            WRITTEN.fetch_add(1, Relaxed)
        )));
        let temporary = PathBuf::from(name);
        let bytes = [&MAGIC[..], &xxh3_64(code).to_le_bytes(), code].concat();
        let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

/// The ending of files under way.
const TEMPORARY: &str = "tmp";

/// The code in a file, unless there is none or it is not what was written.
fn read(path: &Path) -> Option<Vec<u8>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                log::warn!("cannot read compiled kernels from {}: {error}", path.display());
            }
            return None;
        }
    };
    let code = bytes
        .strip_prefix(&MAGIC)
        .and_then(|rest| rest.split_first_chunk())
        .filter(|(sum, code)| u64::from_le_bytes(**sum) == xxh3_64(code))
        .map(|(_, code)| code.to_vec());
    if code.is_none() {
        log::warn!("{} is damaged: compiling again", path.display());
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache of the test's own, removed in the end.
    struct Scratch(Cache);

    impl Scratch {
        fn new(name: &str) -> Self {
            let folder = env::temp_dir().join(format!("grok1-cache-{name}-{}", process::id()));
            Self(Cache::at(folder))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0.folder);
        }
    }

    const PROGRAM: Program<'_> = Program::new("a.cu", "source");

    #[test]
    fn code_is_found_by_all_that_it_depends_on() {
        let scratch = Scratch::new("key");
        let entry = scratch.0.entry(&PROGRAM, "sm_90", &[]);
        entry.write("one", b"code");
        assert_eq!(scratch.0.entry(&PROGRAM, "sm_90", &[]).read("one").unwrap(), b"code");
        assert_eq!(entry.read("two"), None);
        assert_eq!(scratch.0.entry(&PROGRAM, "sm_90", &["-O3"]).read("one"), None);
        let headers = [("b.h", "header")];
        for (program, architecture) in [
            (PROGRAM, "sm_80"),
            (Program { source: "other", ..PROGRAM }, "sm_90"),
            (PROGRAM.options(&["-DA"]), "sm_90"),
            (PROGRAM.headers(&headers), "sm_90"),
            (PROGRAM.options(&["b.h", "header"]), "sm_90"),
        ] {
            assert_eq!(scratch.0.entry(&program, architecture, &[]).read("one"), None, "{program:?}");
        }
    }

    #[test]
    fn a_damaged_file_is_no_code_and_is_replaced() {
        let scratch = Scratch::new("damage");
        let entry = scratch.0.entry(&PROGRAM, "gfx906", &[]);
        entry.write("one", b"some code");
        let path = entry.path("one");
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert_eq!(entry.read("one"), None, "{len} bytes");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(&path, flipped).unwrap();
            assert_eq!(entry.read("one"), None, "byte {at}");
        }
        entry.write("one", b"some code");
        assert_eq!(entry.read("one").unwrap(), b"some code");
    }

    #[test]
    fn without_a_compiler_any_whole_code_will_do() {
        let scratch = Scratch::new("any");
        let entry = scratch.0.entry(&PROGRAM, "sm_90", &[]);
        assert_eq!(entry.read_any(), None);
        entry.write("one", b"code");
        fs::write(entry.folder.join("two"), b"damaged").unwrap();
        fs::write(entry.folder.join("three.1-0.tmp"), b"under way").unwrap();
        assert_eq!(entry.read_any().unwrap(), b"code");
    }

    #[test]
    fn nothing_is_left_of_a_write_that_failed() {
        let scratch = Scratch::new("failed");
        let entry = scratch.0.entry(&PROGRAM, "sm_90", &[]);
        // A folder is where the file should be.
        fs::create_dir_all(entry.path("one").join("in the way")).unwrap();
        entry.write("one", b"code");
        assert_eq!(fs::read_dir(&entry.folder).unwrap().count(), 1);
    }
}
