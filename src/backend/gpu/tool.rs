//! The vendors' compilers as programs of their own, for where their libraries are not. Uses `error`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, id};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{env, fs, io};

use super::{Program, Version};

/// A program to look for, and how it is told what to do.
pub(super) struct Wanted {
    pub(super) name: &'static str,
    /// A variable with the folder above the one that it is in.
    pub(super) root: &'static str,
    /// Folders that it is in where neither `PATH` nor the variable has it.
    pub(super) folders: &'static [&'static str],
    /// What its version follows.
    pub(super) version: &'static str,
    /// Makes code for a device, of one file.
    pub(super) arguments: &'static [&'static str],
    /// What the architecture's name follows.
    pub(super) architecture: &'static str,
    /// The end of a file's name by which it knows the language.
    pub(super) extension: &'static str,
}

/// A compiler that was found.
pub(super) struct Tool {
    wanted: &'static Wanted,
    path: PathBuf,
}

impl Tool {
    /// The first that tells its version.
    pub(super) fn find(wanted: &'static Wanted) -> Option<(Self, Version)> {
        let path = env::var_os("PATH").unwrap_or_default();
        let root = env::var_os(wanted.root).map(|root| Path::new(&root).join("bin"));
        let folders = env::split_paths(&path).chain(root).chain(wanted.folders.iter().map(PathBuf::from));
        folders.map(|folder| Self { wanted, path: folder.join(wanted.name) }).find_map(|tool| {
            let told = tool.run(&["--version"]).ok()?;
            let (_, version) = told.split_once(wanted.version)?;
            let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
            Some((tool, Version::new(numbers.next()??, numbers.next()??)))
        })
    }

    /// What it says when it is asked something, in lines.
    #[cfg(feature = "cuda")]
    pub(super) fn list(&self, question: &str) -> Vec<String> {
        self.run(&[question]).unwrap_or_default().lines().map(|line| line.trim().to_owned()).collect()
    }

    /// The code of a program, or what the compiler says about it.
    pub(super) fn compile(
        &self,
        program: &Program<'_>,
        options: &[&str],
        architecture: &str,
    ) -> Result<Vec<u8>, String> {
        let folder = Folder::new().map_err(|error| format!("no place for temporary files: {error}"))?;
        let unwritable = |error| format!("cannot write a temporary file: {error}");
        for (name, text) in program.headers {
            if Path::new(name).file_name() != Some(name.as_ref()) {
                return Err(format!("{name:?} is no name of a file"));
            }
            fs::write(folder.0.join(name), text).map_err(unwritable)?;
        }
        let source = folder.0.join("program").with_extension(self.wanted.extension);
        // The compiler's messages are to have the program's own name.
        let text = format!("#line 1 {:?}\n{}", program.name, program.source);
        fs::write(&source, text).map_err(unwritable)?;
        let code = folder.0.join("code");
        let architecture = format!("{}{architecture}", self.wanted.architecture);
        let mut command = Command::new(&self.path);
        command.args(self.wanted.arguments).args(options).args(program.options).arg(architecture);
        command.arg("-I").arg(&folder.0).arg("-o").arg(&code).arg(&source);
        run(command)?;
        fs::read(&code).map_err(|error| format!("no code: {error}"))
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.path);
        command.args(arguments);
        run(command)
    }
}

/// What a program prints, or what it says if it fails.
fn run(mut command: Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("cannot run it: {error}"))?;
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    let said = [text(&output.stdout), text(&output.stderr)];
    match output.status.success() {
        true => Ok(said.concat()),
        false if said.iter().all(String::is_empty) => Err(output.status.to_string()),
        false => Err(said.join("\n").trim().to_owned()),
    }
}

/// A folder that nobody else may look into, removed with all that is in it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        loop {
            let path = env::temp_dir().join(format!("grok1-{}-{}", id(), NEXT.fetch_add(1, Relaxed)));
            match builder.create(&path) {
                // Left behind by another process of this number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => return created.map(|()| Self(path)),
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            log::warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}
