//! A C compiler, the library it links, and what the header declares.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The committed header.
pub(crate) const HEADER: &str = include_str!("../../include/grok1.h");

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder for what a test writes.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn run(program: impl AsRef<OsStr>, arguments: &[&OsStr]) -> Option<Output> {
    match Command::new(&program).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: no {}", program.as_ref().display());
            None
        }
        Err(error) => panic!("{}: {error}", program.as_ref().display()),
    }
}

/// What a tool prints; `None` without the tool.
pub(crate) fn tool(program: &str, arguments: &[&OsStr]) -> Option<String> {
    let output = run(program, arguments)?;
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Compiles with all warnings being errors; false without the compiler.
#[must_use]
pub(crate) fn compile(compiler: &str, arguments: &[&OsStr]) -> bool {
    let warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"].map(OsStr::new);
    let include = root().join("include");
    let mut all = warnings.to_vec();
    all.extend(["-I".as_ref(), include.as_os_str()]);
    all.extend(arguments);
    let Some(output) = run(compiler, &all) else { return false };
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    true
}

/// The folder of `libgrok1.so` and `libgrok1.a`, made once by the documented command, with what only tests call.
pub(crate) fn library() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // In the folder of the tests themselves, where their dependencies are.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let arguments =
            "rustc --locked --offline --lib --features capi,testing --crate-type cdylib,staticlib";
        let status = Command::new(env!("CARGO"))
            .current_dir(root())
            .args(arguments.split(' '))
            .arg("--target-dir")
            .arg(target)
            // The models are tiny: to compile for speed takes five times as long and saves nothing.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "0")
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
        target.join("debug")
    })
}

/// How a program gets the library.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Link {
    Shared,
    Static,
}

/// Compiles a C program against the library and runs it; returns what it prints, `None` without a compiler.
pub(crate) fn run_c(name: &str, source: &str, link: Link, arguments: &[&OsStr]) -> Option<String> {
    let folder = scratch(name);
    let (code, program) = (folder.join("program.c"), folder.join(format!("{link:?}")));
    std::fs::write(&code, source).unwrap();
    let library = library();
    let linked = match link {
        // By its own name, as the linker's -l and the loader find it.
        Link::Shared => {
            let soname = folder.join("libgrok1.so.0");
            let _ = std::fs::remove_file(&soname);
            std::fs::copy(library.join("libgrok1.so"), &soname).unwrap();
            soname
        }
        Link::Static => library.join("libgrok1.a"),
    };
    let rpath = format!("-Wl,-rpath,{}", folder.display());
    let mut all: Vec<&OsStr> = vec!["-std=c11".as_ref(), "-g".as_ref(), code.as_os_str(), linked.as_os_str()];
    all.extend([rpath.as_ref(), "-o".as_ref(), program.as_os_str()]);
    all.extend(["-lpthread", "-lm", "-ldl"].map(OsStr::new));
    if !compile("cc", &all) {
        return None;
    }
    let output = run(&program, arguments).unwrap();
    let (printed, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} {link:?}: {}\n{printed}{errors}", output.status);
    Some(printed.into_owned())
}

/// A function of the header.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) result: String,
    /// Declarations of its parameters.
    pub(crate) parameters: Vec<String>,
}

impl Function {
    /// Whether a parameter can be NULL: a pointer, or a callback.
    pub(crate) fn is_pointer(parameter: &str) -> bool {
        parameter.contains('*') || parameter.contains("_fn ")
    }
}

/// The functions that the header declares.
pub(crate) fn functions() -> Vec<Function> {
    let code = without_comments(HEADER);
    let declarations = code.split("GROK1_API").skip(4); // the macro's definitions come first
    let functions = declarations.map(|rest| {
        let declaration = rest.split(';').next().unwrap().replace("GROK1_NODISCARD", "");
        let (before, parameters) = declaration.split_once('(').unwrap();
        let start = before.rfind("grok1_").unwrap();
        let parameters = parameters.trim().trim_end_matches(')');
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        Function {
            name: before[start..].trim().to_owned(),
            result: words(&before[..start]),
            parameters: parameters.split(',').map(words).filter(|parameter| parameter != "void").collect(),
        }
    });
    functions.collect()
}

/// The structs that the header defines, and their fields.
pub(crate) fn structs() -> Vec<(String, Vec<String>)> {
    let code = without_comments(HEADER);
    let definitions = code.split("typedef struct ").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once(|c: char| !c.is_alphanumeric() && c != '_')?;
        let (fields, _) = rest.strip_prefix('{')?.split_once('}')?;
        let fields = fields.split(';').map(str::trim).filter(|field| !field.is_empty());
        let name_of =
            |field: &str| field.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned();
        Some((name.to_owned(), fields.map(name_of).collect()))
    });
    definitions.collect()
}

fn without_comments(code: &str) -> String {
    let mut parts = code.split("/*");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |code, part| code + part.split_once("*/").unwrap().1)
}

/// Compares with a committed list, or writes it if asked to.
pub(crate) fn assert_golden(name: &str, found: &str) {
    let path = root().join("tests/capi/golden").join(name);
    if std::env::var_os("GROK1_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let missing: Vec<_> =
        expected.lines().filter(|line| !found.lines().any(|other| other == *line)).collect();
    let new: Vec<_> = found.lines().filter(|line| !expected.lines().any(|other| other == *line)).collect();
    let needed = if missing.is_empty() { "the minor version" } else { "GROK1_ABI_VERSION" };
    assert!(
        missing.is_empty() && new.is_empty(),
        "{name}: gone or moved {missing:#?}, new {new:#?}; {needed} has to move, then GROK1_WRITE_GOLDEN=1 records it"
    );
}
