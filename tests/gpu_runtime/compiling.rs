//! Compiling at first use, and the cache.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use grok1::backend::gpu::{CompileOptions, GpuError, Program, Runtime, compile};

use crate::device::{Scratch, open, options};
use crate::stand_in::{RUNTIMES, on, stderr};

const KERNELS: &str = include_str!("kernels.cu");

/// Compiles with the folder in `CACHE` as cache, and prints what comes of it.
#[test]
fn once() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let options = options(&device);
        let options = options.each_ref().map(String::as_str);
        let program = Program::new("kernels.cu", KERNELS).options(&options);
        let to = CompileOptions::new().cache(env::var("CACHE").unwrap());
        let to = if env::var("NO_COMPILER").is_ok() { to.compiler("libnothing.so") } else { to };
        match compile(&**device.runtime(), &program, &device.properties().architecture, &to) {
            Ok(code) => assert!(device.load(code).unwrap().function("add", 0).is_ok()),
            Err(error) => panic!("{error}"),
        }
    }
    if env::var("CACHE").is_ok() {
        on_each_runtime!(claim);
    }
}

/// How often the compiler ran, in a process that compiles once and must succeed.
fn compilations(output: &Output) -> usize {
    assert!(output.status.success(), "{}", stderr(output));
    stderr(output).matches("stand-in: compiling").count()
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_program_is_compiled_once_and_again_when_its_code_was_damaged() {
    if env::var("GROK1_GPU").is_ok() {
        return eprintln!("skipped: real compilers are not counted");
    }
    for runtime in RUNTIMES {
        let scratch = Scratch::new(&format!("cache-{runtime}"));
        let cache = scratch.0.join("not").join("there yet");
        let cache_text = cache.to_str().unwrap();
        let run = |more: &[(&str, &str)]| {
            on("compiling::once", runtime, &[&[("CACHE", cache_text)], more].concat())
        };
        let Some(first) = run(&[]) else { return };
        assert_eq!(compilations(&first), 1);
        let kept = files(&cache);
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert_eq!(compilations(&run(&[]).unwrap()), 0);

        // Other warps are another program.
        let other = if *runtime == "hip" { "32" } else { "64" };
        assert_eq!(compilations(&run(&[("STANDIN_WARP", other)]).unwrap()), 1);
        assert_eq!(files(&cache).len(), 2);

        // Without a compiler, what is kept will do.
        assert_eq!(compilations(&run(&[("NO_COMPILER", "")]).unwrap()), 0);

        let whole = fs::read(&kept[0]).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for damaged in [&b""[..], &whole[..whole.len() - 1], &flipped, b"not code"] {
            fs::write(&kept[0], damaged).unwrap();
            assert_eq!(compilations(&run(&[]).unwrap()), 1);
            assert!(fs::read(&kept[0]).unwrap().len() >= whole.len() / 2);
            assert_eq!(compilations(&run(&[]).unwrap()), 0);
        }
        fs::write(&kept[0], b"not code").unwrap();
        let failed = run(&[("NO_COMPILER", "")]).unwrap();
        assert!(
            !failed.status.success() && stderr(&failed).contains("tried libnothing.so"),
            "{}",
            stderr(&failed)
        );
    }
}

#[test]
fn a_cache_that_cannot_be_written_costs_only_time() {
    if env::var("GROK1_GPU").is_ok() {
        return eprintln!("skipped: real compilers are not counted");
    }
    for runtime in RUNTIMES {
        let scratch = Scratch::new(&format!("no-cache-{runtime}"));
        let file = scratch.0.join("file");
        fs::write(&file, "in the way").unwrap();
        for _ in 0..2 {
            let Some(output) = on("compiling::once", runtime, &[("CACHE", file.to_str().unwrap())]) else {
                return;
            };
            assert_eq!(compilations(&output), 1);
        }
    }
}

#[test]
fn the_users_cache_is_where_xdg_says() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let options = options(&device);
        let options = options.each_ref().map(String::as_str);
        let program = Program::new("kernels.cu", KERNELS).options(&options);
        let architecture = &device.properties().architecture;
        compile(&**device.runtime(), &program, architecture, &CompileOptions::new()).unwrap();
    }
    let scratch = Scratch::new("xdg");
    let folder = scratch.0.join("xdg").display().to_string();
    match crate::stand_in::runtime() {
        Some(_) => on_each_runtime!(claim),
        None => {
            for (home, below) in [(false, "grok1/kernels"), (true, ".cache/grok1/kernels")] {
                for runtime in RUNTIMES {
                    let _ = fs::remove_dir_all(&folder);
                    let settings = if home {
                        [("XDG_CACHE_HOME", "not/absolute"), ("HOME", &folder)]
                    } else {
                        [("XDG_CACHE_HOME", folder.as_str()), ("HOME", "not/absolute")]
                    };
                    let Some(output) = on(test_name!(), runtime, &settings) else { continue };
                    assert!(output.status.success(), "{}", stderr(&output));
                    assert_eq!(files(&Path::new(&folder).join(below)).len(), 1);
                }
            }
        }
    }
}

#[test]
fn what_does_not_compile_is_an_error_with_the_compilers_words() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let program = Program::new("broken.cu", "#include \"words.h\"\nint broken = WORD;\n");
        let headers = [("words.h", "#define WORD undeclared")];
        let program = program.headers(&headers);
        let to = CompileOptions::new().no_cache();
        let architecture = &device.properties().architecture;
        let error = compile(&**device.runtime(), &program, architecture, &to).unwrap_err();
        let GpuError::Compile { log, .. } = &error else { panic!("{error:?}") };
        assert!(log.contains("broken.cu") && log.contains("undeclared"), "{log}");
        let program = Program::new("a.cu", "a\0b");
        let error = compile(&**device.runtime(), &program, architecture, &to).unwrap_err();
        assert_eq!(error.to_string(), "a program has a zero byte");
    }
    on_each_runtime!(claim);
}

#[test]
fn an_architecture_that_the_compiler_does_not_know_never_gets_to_it() {
    fn claim<R: Runtime>() {
        let compiler = R::load().unwrap().compiler(None).unwrap();
        for name in ["", "gfx999", "gfx928", "sm_1", "sm_90b", "gfx906:xnack-", "--help"] {
            let error = compiler.compile(&Program::new("a.cu", ""), name).unwrap_err();
            assert!(matches!(error, GpuError::UnknownArchitecture { .. }), "{error:?}");
            assert!(error.to_string().starts_with(&format!("{name:?} is not an architecture that ")));
        }
    }
    on_each_runtime!(claim);
}
