//! Builds the stand-ins with g++, and starts this program again on them.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, id};
use std::sync::OnceLock;

/// Those that this program has code for.
pub(crate) const RUNTIMES: &[&str] = &[
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "hip")]
    "hip",
];

/// Set in the process that a claim is checked in, to the name of its runtime.
pub(crate) const RUNTIME: &str = "STANDIN_RUNTIME";

/// Checks a generic claim on each runtime's stand-in, with some settings of `tests/gpu/standin/driver.h`.
macro_rules! on_each_runtime {
    ($claim:ident $(, $name:literal = $value:literal)*) => {
        match crate::stand_in::runtime().as_deref() {
            #[cfg(feature = "cuda")]
            Some("cuda") => $claim::<grok1::backend::gpu::Cuda>(),
            #[cfg(feature = "hip")]
            Some("hip") => $claim::<grok1::backend::gpu::Hip>(),
            _ => {
                for runtime in crate::stand_in::RUNTIMES {
                    crate::stand_in::succeeds(test_name!(), runtime, &[$(($name, $value)),*]);
                }
            }
        }
    };
}

/// The name of the test that this stands in, as the harness knows it.
macro_rules! test_name {
    () => {{
        fn here() {}
        crate::stand_in::name_of(std::any::type_name_of_val(&here))
    }};
}

/// Of `gpu_runtime::memory::a_claim::here`, `memory::a_claim`.
pub(crate) fn name_of(here: &'static str) -> &'static str {
    let name = here.strip_suffix("::here").unwrap();
    name.split_once("::").unwrap().1
}

/// The runtime whose claims are to be checked in this process, if any are.
pub(crate) fn runtime() -> Option<String> {
    env::var(RUNTIME).ok()
}

/// The real driver to check claims on instead.
fn real() -> Option<String> {
    env::var("GROK1_GPU").ok()
}

/// Where the stand-ins are.
pub(crate) struct StandIns {
    folder: PathBuf,
}

impl StandIns {
    /// Builds them, unless that was done before; `None`, which is told, without g++ and where the real driver is wanted.
    pub(crate) fn get() -> Option<&'static Self> {
        if real().is_some() {
            eprintln!("skipped: not of a real driver");
            return None;
        }
        static BUILT: OnceLock<Option<StandIns>> = OnceLock::new();
        let built = BUILT.get_or_init(Self::build);
        if built.is_none() {
            eprintln!("skipped: no g++");
        }
        built.as_ref()
    }

    /// The folder with a driver's libraries: `cuda`, `nvrtc`, `hip`; or with those for products of matrices: `blas`.
    pub(crate) fn path(&self, of: &str) -> PathBuf {
        self.folder.join(of)
    }

    fn build() -> Option<Self> {
        Command::new("g++").arg("--version").output().ok()?;
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gpu");
        let mut digest = DefaultHasher::new();
        for name in ["simt.h", "simt.cpp", "standin/driver.h", "standin/compiler.h", "standin/blas.h"]
            .into_iter()
            .chain(LIBRARIES.map(|(source, _)| source))
        {
            fs::read(sources.join(name)).unwrap().hash(&mut digest);
        }
        let root = tmp();
        let folder = root.join(format!("stand-ins-{:016x}", digest.finish()));
        if !folder.exists() {
            // Whole, or not there.
            let unfinished = root.join(format!("stand-ins-{}", id()));
            build_into(&sources, &unfinished);
            if fs::rename(&unfinished, &folder).is_err() {
                fs::remove_dir_all(&unfinished).unwrap();
            }
        }
        Some(Self { folder })
    }
}

const LIBRARIES: [(&str, &str); 5] = [
    ("standin/cuda.cpp", "cuda/libcuda.so.1"),
    ("standin/nvrtc.cpp", "nvrtc/libnvrtc.so.13"),
    // The first of AMD's names that is looked for.
    ("standin/hip.cpp", "hip/libamdhip64.so.7"),
    ("standin/cublaslt.cpp", "blas/libcublasLt.so.13"),
    ("standin/rocblas.cpp", "blas/librocblas.so.5"),
];

fn build_into(sources: &Path, folder: &Path) {
    let compile = |arguments: &[&str], source: &str, to: &str| {
        let to = folder.join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let mut command = Command::new("g++");
        command.args(["-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]).args(arguments);
        let output = command.arg(sources.join(source)).arg("-o").arg(to).output().unwrap();
        assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for (source, library) in LIBRARIES {
        compile(&["-std=c++20", "-shared"], source, library);
    }
    compile(&["-std=c++17", "-c"], "simt.cpp", "shim/simt.o");
    fs::copy(sources.join("simt.h"), folder.join("shim/simt.h")).unwrap();
    // cudarc looks for the name without a number first.
    symlink("libcuda.so.1", folder.join("cuda/libcuda.so")).unwrap();
    fs::create_dir(folder.join("dtk")).unwrap();
    symlink("../hip/libamdhip64.so.7", folder.join("dtk/libgalaxyhip.so.5")).unwrap();
}

/// This program, for the test of this name alone, with these libraries before all others.
pub(crate) fn again(test: &str, runtime: &str, libraries: &[PathBuf]) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.env(RUNTIME, runtime).env("LD_LIBRARY_PATH", env::join_paths(libraries).unwrap());
    if real().is_none()
        && let Some(stand_ins) = StandIns::get()
    {
        command.env("STANDIN_SHIM", stand_ins.path("shim"));
    }
    command
}

/// The same, on the stand-ins of a runtime or on the real driver; `None` where it cannot be.
pub(crate) fn on(test: &str, runtime: &str, settings: &[(&str, &str)]) -> Option<Output> {
    let mut command = match real() {
        Some(real) if real == runtime => {
            let mut command = again(test, runtime, &[]);
            // Where the driver and its compiler are is the caller's to say.
            match env::var_os("LD_LIBRARY_PATH") {
                Some(path) => command.env("LD_LIBRARY_PATH", path),
                None => command.env_remove("LD_LIBRARY_PATH"),
            };
            command
        }
        Some(_) => return None,
        None => {
            let stand_ins = StandIns::get()?;
            again(test, runtime, &[runtime, "nvrtc", "blas"].map(|of| stand_ins.path(of)))
        }
    };
    // One runtime for each size of warps, unless a test says otherwise.
    command.env("STANDIN_WARP", if runtime == "hip" { "64" } else { "32" });
    Some(command.envs(settings.iter().copied()).output().unwrap())
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Passes if the test passes in a process on that runtime.
pub(crate) fn succeeds(test: &str, runtime: &str, settings: &[(&str, &str)]) {
    let Some(output) = on(test, runtime, settings) else { return };
    assert!(output.status.success(), "{test} on {runtime} with {settings:?}:\n{}", stderr(&output));
    let ran = String::from_utf8_lossy(&output.stdout).contains("test result: ok. 1 passed");
    assert!(ran, "{test} is no test:\n{}", String::from_utf8_lossy(&output.stdout));
}

/// Passes if the mistake of a test ends its process, with a message that has these words.
#[allow(dead_code, reason = "not every test plants mistakes")]
pub(crate) fn is_caught(test: &str, words: &str) {
    for runtime in RUNTIMES {
        if real().is_some() {
            eprintln!("skipped: real drivers do not catch this");
            continue;
        }
        let Some(output) = on(test, runtime, &[]) else { continue };
        assert!(!output.status.success(), "{test} on {runtime}: nothing was caught");
        assert!(stderr(&output).contains(words), "{test} on {runtime}:\n{}", stderr(&output));
    }
}

/// Where code is kept for other processes: beside the stand-ins that made it, since what they make depends on them.
pub(crate) fn cache() -> PathBuf {
    match env::var("STANDIN_SHIM") {
        Ok(shim) => Path::new(&shim).with_file_name("cache"),
        Err(_) => tmp().join("gpu-kernels"),
    }
}

/// Where tests keep files: as Cargo told when they were built, unless whoever runs them elsewhere tells it in the same variable.
pub(crate) fn tmp() -> PathBuf {
    let told = env::var_os("CARGO_TARGET_TMPDIR");
    told.map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
}
