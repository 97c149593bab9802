//! Compilers and other programs, the installed package, and what a generation must give.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use grok1::{Model, Sampler, Session};

use crate::scratch::Scratch;

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn tiny() -> PathBuf {
    root().join("assets/tiny")
}

/// Whether all these programs are there. Where checks are run for a change they must be.
#[must_use]
pub(crate) fn have(programs: &[&str]) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let there = |program: &str| env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let missing = programs.iter().find(|program| !there(program));
    if let Some(program) = missing {
        assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "no {program}");
        eprintln!("skipped: no {program}");
    }
    missing.is_none()
}

/// Runs a program to success, and returns what it prints.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (printed, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{printed}{errors}", output.status);
    printed.into_owned()
}

/// The folder that the library is installed in, once for all tests.
pub(crate) fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hosts");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        run(Command::new(root().join("scripts/install-c"))
            .args([prefix.as_os_str(), "--offline".as_ref()])
            .env("PROFILE", "dev")
            .env("CARGO_TARGET_DIR", target)
            .env_remove("DESTDIR"));
        prefix
    })
}

/// A line of the installed `grok1.pc`, its variables filled in.
pub(crate) fn pkg_config(field: &str) -> Vec<String> {
    let file = std::fs::read_to_string(prefix().join("lib/pkgconfig/grok1.pc")).unwrap();
    let variables = file.lines().filter_map(|line| line.split_once('='));
    let value = file.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": ")).unwrap();
    let mut value = value.to_owned();
    for (name, content) in variables.collect::<Vec<_>>().into_iter().rev() {
        value = value.replace(&format!("${{{name}}}"), content);
    }
    value.split_whitespace().map(str::to_owned).collect()
}

/// How a program gets the library.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Link {
    Shared,
    Static,
}

impl Link {
    /// What `grok1.pc` says to the compiler, and nothing else.
    pub(crate) fn arguments(self) -> Vec<String> {
        match self {
            Self::Shared => {
                let mut all = pkg_config("Libs");
                all.push(format!("-Wl,-rpath,{}", prefix().join("lib").display()));
                all
            }
            Self::Static => {
                let mut all = vec![prefix().join("lib/libgrok1.a").display().to_string()];
                all.extend(pkg_config("Libs.private"));
                all
            }
        }
    }
}

/// Compiles and links a program of these files, in which any warning is an error.
pub(crate) fn build(compiler: &str, options: &[&str], files: &[&str], link: Link, program: &Path) {
    let files = files.iter().map(|file| root().join("tests/hosts").join(file));
    run(Command::new(compiler)
        .args(["-g", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
        .args(options)
        .args(files)
        .args(pkg_config("Cflags"))
        .args(link.arguments())
        .arg("-o")
        .arg(program));
}

/// Runs a program under valgrind, to which a leak is an error.
pub(crate) fn valgrind(program: &Path, arguments: &[&OsStr]) -> String {
    run(Command::new("valgrind")
        .args(["--quiet", "--error-exitcode=9", "--leak-check=full"])
        .args(["--show-leak-kinds=definite,indirect", "--errors-for-leak-kinds=definite,indirect"])
        .arg(program)
        .args(arguments))
}

/// What the `every` programs are called with.
pub(crate) fn arguments(scratch: &Scratch) -> [PathBuf; 3] {
    [tiny(), tiny().join("tokenizer.model"), scratch.0.clone()]
}

/// Turns of a session, by the Rust API: the text that follows each prompt.
pub(crate) struct Turns {
    session: Session,
    sampler: Sampler,
}

impl Turns {
    pub(crate) fn new(sampler: Sampler) -> Self {
        Self { session: Model::open(tiny()).unwrap().session().unwrap(), sampler }
    }

    pub(crate) fn next(&mut self, prompt: &str, max_tokens: usize, stop: &[&str]) -> String {
        let pieces = self.session.generate(prompt, &mut self.sampler).max_tokens(max_tokens);
        pieces.stop(stop.iter().copied()).map(|piece| piece.unwrap().text().to_owned()).collect()
    }

    pub(crate) fn reset(&mut self) {
        self.session.truncate(0);
    }
}
