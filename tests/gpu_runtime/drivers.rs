//! Drivers that are not there, not whole, or too old: a precise error each, and never a panic.

use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::slice;

use grok1::backend::gpu::{CompileOptions, GpuError, Program, Runtime, compile};

use crate::device::Scratch;
use crate::stand_in::{RUNTIMES, StandIns, again, runtime, stderr};

/// Loads, opens and compiles, and prints what comes of it.
#[test]
fn try_everything() {
    fn attempt<R: Runtime>() -> Result<(), GpuError> {
        let runtime = std::sync::Arc::new(R::load()?);
        let device = grok1::backend::gpu::Device::open(&runtime, ordinal())?;
        let name = &device.properties().architecture;
        let source = env::var("SOURCE").unwrap_or_default();
        let code =
            compile(&*runtime, &Program::new("empty.cu", &source), name, &CompileOptions::new().no_cache())?;
        device.load(code)?;
        let (stream, buffer) = (device.stream()?, device.allocate(10, "a test")?);
        stream.capture(|| stream.fill(&buffer, 0, 10, 1))?;
        stream.synchronize()
    }

    fn ordinal() -> usize {
        env::var("ORDINAL").map_or(0, |ordinal| ordinal.parse().unwrap())
    }

    fn claim<R: Runtime>() {
        match attempt::<R>() {
            Ok(()) => println!("\nit works"),
            Err(error) => println!("\n{error}"),
        }
    }
    if runtime().is_some() {
        on_each_runtime!(claim);
    }
}

/// What [`try_everything`] prints with these libraries; `None`, which is told, where it cannot be tried.
fn outcome(runtime: &str, libraries: &[PathBuf], settings: &[(&str, &str)]) -> Option<String> {
    if env::var("GROK1_GPU").is_ok() || StandIns::get().is_none() {
        eprintln!("skipped: not on stand-ins");
        return None;
    }
    let mut command = again("drivers::try_everything", runtime, libraries);
    let output: Output = command.envs(settings.iter().copied()).output().unwrap();
    assert!(output.status.success(), "a panic:\n{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    // Between the harness's own lines.
    Some(text.lines().skip_while(|line| !line.starts_with("test ")).nth(1).unwrap().to_owned())
}

/// On the stand-ins as they are.
fn with(runtime: &str, settings: &[(&str, &str)]) -> Option<String> {
    let stand_ins = StandIns::get()?;
    outcome(runtime, &[runtime, "nvrtc"].map(|of| stand_ins.path(of)), settings)
}

/// The library of a runtime's driver.
fn driver(runtime: &str) -> &'static str {
    if runtime == "cuda" { "libcuda.so.1" } else { "libamdhip64.so.7" }
}

#[test]
fn on_the_stand_ins_it_works() {
    for runtime in RUNTIMES {
        assert_eq!(with(runtime, &[]).as_deref().unwrap_or("it works"), "it works");
    }
}

#[test]
fn no_library_tells_its_names_and_what_to_install() {
    let scratch = Scratch::new("nothing");
    for runtime in RUNTIMES {
        // SAFETY: nothing is called; a driver's initialisers may run.
        if unsafe { libloading::Library::new(driver(runtime)) }.is_ok() {
            eprintln!("skipped: this machine has a driver");
            continue;
        }
        let Some(text) = outcome(runtime, slice::from_ref(&scratch.0), &[]) else { return };
        let expected = match *runtime {
            "cuda" => "no CUDA driver: tried libcuda.so.1; install NVIDIA's driver",
            _ => {
                "no HIP driver: tried libgalaxyhip.so.5, libgalaxyhip.so, libamdhip64.so.7, libamdhip64.so.6, \
                 libamdhip64.so.5, libamdhip64.so, in /opt/dtk/lib, /opt/dtk/hip/lib, /opt/rocm/lib too; \
                 install AMD's ROCm or Hygon's DTK"
            }
        };
        assert_eq!(text, expected);
    }
}

#[test]
fn a_library_that_cannot_be_loaded_tells_why() {
    let scratch = Scratch::new("broken");
    for runtime in RUNTIMES {
        let name = driver(runtime);
        fs::write(scratch.0.join(name), "no library").unwrap();
        let Some(text) = outcome(runtime, slice::from_ref(&scratch.0), &[]) else { return };
        assert!(text.contains(&format!("{name} (")), "{text}");
    }
}

/// The names of the functions that a library exports for us, of a prefix.
fn exports(library: &Path, prefix: &str) -> Vec<String> {
    let mut nm = Command::new("nm");
    nm.args(["--dynamic", "--defined-only", "--format=just-symbols"]).arg(library);
    let output = nm.output().unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    let ours = |name: &&str| name.starts_with(prefix) && *name != "cuGetExportTable";
    names.lines().filter(ours).map(str::to_owned).collect()
}

#[test]
fn a_driver_without_any_one_function_is_refused_by_the_functions_name() {
    for runtime in RUNTIMES {
        let Some(stand_ins) = StandIns::get() else { return };
        let scratch = Scratch::new(&format!("missing-{runtime}"));
        let whole = fs::read(stand_ins.path(runtime).join(driver(runtime))).unwrap();
        let prefix = if *runtime == "cuda" { "cu" } else { "hip" };
        let names = exports(&stand_ins.path(runtime).join(driver(runtime)), prefix);
        assert!(names.len() > 35, "{names:?}");
        if *runtime == "cuda" {
            symlink("libcuda.so.1", scratch.0.join("libcuda.so")).unwrap();
        }
        for name in &names {
            // The loader finds it by its hash, and then finds that it is another.
            let mut library = whole.clone();
            let text = [b"\0", name.as_bytes(), b"\0"].concat();
            let at = library.windows(text.len()).position(|bytes| bytes == text).unwrap();
            library[at + 1] = b'x';
            // Not written over: it may still be mapped.
            let path = scratch.0.join(driver(runtime));
            let _ = fs::remove_file(&path);
            fs::write(&path, library).unwrap();

            let Some(text) = outcome(runtime, &[scratch.0.clone(), stand_ins.path("nvrtc")], &[]) else {
                return;
            };
            let expected = if name.starts_with("hiprtc") {
                "no hipRTC: tried libhiprtc.so.7, "
            } else if *runtime == "hip" && (name.contains("Graph") || name.contains("Capture")) {
                "hipStreamBeginCapture: hipErrorNotSupported (801)"
            } else {
                &format!("{} has no {name}: too old, or not what its name says", driver(runtime))
            };
            assert!(text.starts_with(expected), "{name}: {text}");
        }
    }
}

#[test]
fn an_old_driver_tells_both_versions() {
    for (runtime, version, expected) in [
        ("cuda", "11080", "the cuda driver is of version 11.8, expected 12.0 or newer"),
        ("hip", "40321000", "the hip driver is of version 4.3, expected 5.0 or newer"),
    ] {
        if RUNTIMES.contains(&runtime) {
            assert_eq!(
                with(runtime, &[("STANDIN_VERSION", version)]).as_deref().unwrap_or(expected),
                expected
            );
        }
    }
}

#[test]
fn no_device_and_no_such_device_are_told_apart() {
    for runtime in RUNTIMES {
        let Some(text) = with(runtime, &[("STANDIN_DEVICES", "0")]) else { return };
        assert_eq!(text, format!("the {runtime} driver finds no device"));
        let text = with(runtime, &[("ORDINAL", "3")]).unwrap();
        assert_eq!(text, format!("no device {runtime}:3: there are 1"));
    }
}

#[test]
fn a_status_that_no_header_has_is_told_by_its_number() {
    for runtime in RUNTIMES {
        let Some(text) = with(runtime, &[("STANDIN_STATUS", "9999")]) else { return };
        let expected = match *runtime {
            "cuda" => "cuStreamSynchronize: unknown status (9999)",
            _ => "hipStreamSynchronize: hipErrorUnknown (9999)",
        };
        assert_eq!(text, expected);
    }
}

#[cfg(feature = "cuda")]
#[test]
fn nvrtc_is_of_the_drivers_major_version_or_before() {
    let Some(stand_ins) = StandIns::get() else { return };
    let libraries = ["cuda", "nvrtc"].map(|of| stand_ins.path(of));
    let install =
        "install NVRTC, which is part of the CUDA toolkit and of the Python package nvidia-cuda-nvrtc";
    let Some(text) = outcome("cuda", &libraries[..1], &[]) else { return };
    assert!(text.starts_with("no NVRTC: tried libnvrtc.so.13, libnvrtc.so.12, in "), "{text}");
    assert!(text.contains(install), "{text}");
    // One that the driver is too old for is not even looked for.
    let text = outcome("cuda", &libraries, &[("STANDIN_VERSION", "12040")]).unwrap();
    assert!(text.starts_with("no NVRTC: tried libnvrtc.so.12, in "), "{text}");
    // Whatever its name says.
    let scratch = Scratch::new("nvrtc");
    symlink(stand_ins.path("nvrtc/libnvrtc.so.13"), scratch.0.join("libnvrtc.so.12")).unwrap();
    let libraries = [stand_ins.path("cuda"), scratch.0.clone()];
    let text = outcome("cuda", &libraries, &[("STANDIN_VERSION", "12040")]).unwrap();
    assert_eq!(text, "NVRTC 13.0 makes code for drivers of CUDA 13.0, and this one is of 12.4");
    let text = outcome("cuda", &libraries, &[("STANDIN_VERSION", "12040"), ("STANDIN_NVRTC", "12")]).unwrap();
    assert_eq!(text, "it works");
}

/// What a vendor's compiler does, as far as it is used, by the host's.
const TOOL: &str = r#"#!/bin/sh
case $1 in
--version) echo "HIP version: 5.7.31921, release 12.4, V12.4.131"; exit ;;
--list-gpu-code) printf 'sm_80\nsm_90\n'; exit ;;
esac
while [ $# -gt 0 ]; do
    case $1 in
    -I) headers=$2; shift ;;
    -o) code=$2; shift ;;
    -include) shift ;;
    -*) ;;
    *) source=$1 ;;
    esac
    shift
done
exec g++ -std=c++17 -O1 -fPIC -shared -fvisibility=hidden -w -I "$STANDIN_SHIM" -include simt.h -I "$headers" \
    -x c++ "$source" -x none "$STANDIN_SHIM/simt.o" -o "$code"
"#;

#[test]
fn without_the_compilers_library_its_program_is_run() {
    for (runtime, name, root, title) in
        [("cuda", "nvcc", "CUDA_PATH", "nvcc 12.4"), ("hip", "hipcc", "ROCM_PATH", "hipcc 5.7")]
    {
        let Some(stand_ins) = StandIns::get().filter(|_| RUNTIMES.contains(&runtime)) else { continue };
        let scratch = Scratch::new(&format!("tool-{name}"));
        let (bin, libraries) = (scratch.0.join("bin"), scratch.0.join("lib"));
        [&bin, &libraries].iter().for_each(|folder| fs::create_dir(folder).unwrap());
        // With nothing of hipRTC in it.
        let mut library = fs::read(stand_ins.path(runtime).join(driver(runtime))).unwrap();
        let text = b"\0hiprtcCompileProgram\0";
        if let Some(at) = library.windows(text.len()).position(|bytes| bytes == text) {
            library[at + 1] = b'x';
        }
        fs::write(libraries.join(driver(runtime)), library).unwrap();
        symlink("libcuda.so.1", libraries.join("libcuda.so")).unwrap();
        let with = |settings: &[(&str, &str)]| {
            let root = (root, scratch.0.to_str().unwrap());
            outcome(runtime, slice::from_ref(&libraries), &[&[root], settings].concat()).unwrap()
        };
        let missing = with(&[]);
        assert!(
            missing.starts_with("no ") && missing.contains(&format!(", or {name} in PATH, ")),
            "{missing}"
        );
        fs::write(bin.join(name), TOOL).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(with(&[]), "it works");
        let broken = with(&[("SOURCE", "#error words")]);
        let start = format!("{title} does not compile empty.cu for ");
        assert!(
            broken.starts_with(&start) && broken.contains("empty.cu:1:2: error: #error words"),
            "{broken}"
        );
        if runtime == "cuda" {
            // It is a tool of the driver's major version or before, too.
            let text = fs::read_to_string(bin.join(name)).unwrap().replace("12.4", "14.0");
            fs::write(bin.join(name), text).unwrap();
            assert_eq!(with(&[]), "nvcc 14.0 makes code for drivers of CUDA 14.0, and this one is of 13.0");
        }
    }
}

#[test]
fn a_compiler_is_looked_for_once() {
    fn claim<R: Runtime>() {
        let runtime = R::load().unwrap();
        let [one, two] = [(); 2].map(|()| runtime.compiler(None).unwrap());
        assert!(std::sync::Arc::ptr_eq(&one, &two));
    }
    on_each_runtime!(claim);
}

#[cfg(feature = "hip")]
#[test]
fn dtk_goes_before_rocm_compiles_for_its_own_and_has_no_graphs() {
    fn claim<R: Runtime>() {
        let runtime = R::load().unwrap();
        assert!(!runtime.properties(0).unwrap().graphs);
        assert_eq!(runtime.properties(0).unwrap().architecture, "gfx928");
        let compiler = runtime.compiler(None).unwrap();
        compiler.compile(&Program::new("empty.cu", ""), "gfx928").unwrap();
        assert!(compiler.compile(&Program::new("empty.cu", ""), "gfx942").is_err());
    }
    if runtime().is_some() {
        return on_each_runtime!(claim);
    }
    let Some(stand_ins) = StandIns::get() else { return };
    let mut command = again(test_name!(), "hip", &["hip", "dtk"].map(|of| stand_ins.path(of)));
    let output = command.env("STANDIN_ARCHITECTURE", "gfx928:sramecc+:xnack-").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}
