//! With the feature `capi`: makes the C header from `src/capi`, and names the shared library by the version of its ABI.
//!
//! The header goes to the build's output. `GROK1_WRITE_HEADER=1 cargo build --features capi` writes it to `include/grok1.h` as well,
//! which is committed, and which a test compares with what is generated.

#[cfg(feature = "capi")]
#[path = "src/capi/abi.rs"]
#[expect(unreachable_pub, reason = "public in the library")]
mod abi;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "capi")]
    capi::build();
}

#[cfg(feature = "capi")]
mod capi {
    use std::env;
    use std::path::{Path, PathBuf};

    const WRITE: &str = "GROK1_WRITE_HEADER";

    pub(crate) fn build() {
        println!("cargo::rerun-if-changed=src/capi");
        println!("cargo::rerun-if-env-changed={WRITE}");
        if let Err(reason) = write_header() {
            println!(
                "cargo::warning=grok1.h was not generated, the committed one is what there is: {reason}"
            );
        }
        if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
            let abi = crate::abi::GROK1_ABI_VERSION;
            // For cdylibs only would be said with another word, which Cargo warns of where a package names no cdylib. Executables
            // take no notice.
            println!("cargo::rustc-link-arg=-Wl,-soname,libgrok1.so.{abi}");
        }
    }

    fn write_header() -> Result<(), String> {
        let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(|error| error.to_string())?);
        let out = PathBuf::from(env::var("OUT_DIR").map_err(|error| error.to_string())?);
        let mut config = cbindgen::Config::from_file(root.join("src/capi/cbindgen.toml"))?;
        config.after_includes = Some(format!("{}{}", versions(), config.after_includes.unwrap_or_default()));
        let bindings = cbindgen::Builder::new()
            .with_config(config)
            .with_src(root.join("src/capi/mod.rs"))
            .generate()
            .map_err(|error| error.to_string())?;
        let write = |path: &Path| {
            let mut header = Vec::new();
            bindings.write(&mut header);
            let same = std::fs::read(path).is_ok_and(|found| found == header);
            if same { Ok(()) } else { std::fs::write(path, header).map_err(|error| error.to_string()) }
        };
        write(&out.join("grok1.h"))?;
        if env::var_os(WRITE).is_some() { write(&root.join("include/grok1.h")) } else { Ok(()) }
    }

    /// The version macros.
    fn versions() -> String {
        let [major, minor, patch, version] = [
            env!("CARGO_PKG_VERSION_MAJOR"),
            env!("CARGO_PKG_VERSION_MINOR"),
            env!("CARGO_PKG_VERSION_PATCH"),
            env!("CARGO_PKG_VERSION"),
        ];
        format!(
            "
/** Version of the library that this header belongs to. */
#define GROK1_VERSION_MAJOR {major}
#define GROK1_VERSION_MINOR {minor}
#define GROK1_VERSION_PATCH {patch}
/** The version in one number, for comparisons. */
#define GROK1_VERSION_NUMBER (GROK1_VERSION_MAJOR * 1000000 + GROK1_VERSION_MINOR * 1000 + GROK1_VERSION_PATCH)
/** The version as text. */
#define GROK1_VERSION_STRING \"{version}\"
"
        )
    }
}
