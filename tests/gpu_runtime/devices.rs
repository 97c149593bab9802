//! What is found.

use grok1::backend::gpu::{self, Runtime};

use crate::device::open;
use crate::stand_in::{RUNTIMES, StandIns, again, stderr};

#[test]
fn a_device_says_what_it_is() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let properties = device.properties();
        let architecture = if R::NAME == "cuda" { "sm_90" } else { "gfx906" };
        assert_eq!(
            (properties.name.as_str(), properties.architecture.as_str()),
            ("stand-in 0", architecture)
        );
        let warp: u32 = std::env::var("STANDIN_WARP").unwrap().parse().unwrap();
        assert_eq!((properties.warp, properties.compute_units, properties.memory), (warp, 4, 4 << 30));
        assert_eq!(properties.driver.to_string(), if R::NAME == "cuda" { "13.0" } else { "5.2" });
        assert!(properties.graphs && properties.shared_memory >= 64 << 10);
    }
    if std::env::var("GROK1_GPU").is_err() {
        on_each_runtime!(claim, "STANDIN_WARP" = "32");
        on_each_runtime!(claim, "STANDIN_WARP" = "64");
    }
}

#[test]
fn every_device_of_every_runtime_is_found() {
    let Some(stand_ins) = StandIns::get() else { return };
    if crate::stand_in::runtime().is_none() {
        let mut command = again(test_name!(), "all", &["cuda", "hip"].map(|of| stand_ins.path(of)));
        let output = command.env("STANDIN_DEVICES", "3").output().unwrap();
        return assert!(output.status.success(), "{}", stderr(&output));
    }
    let found = gpu::devices();
    assert_eq!(found.iter().map(|found| found.runtime).collect::<Vec<_>>(), ["cuda", "hip"]);
    for found in found {
        if !RUNTIMES.contains(&found.runtime) {
            assert!(found.devices.unwrap_err().to_string().contains("without the feature"));
            continue;
        }
        for (index, device) in found.devices.unwrap().iter().enumerate() {
            assert_eq!(
                (device.ordinal, device.properties.name.clone()),
                (index, format!("stand-in {index}"))
            );
            assert_eq!(device.memory.as_ref().unwrap().free, 4 << 30);
        }
    }
}

#[cfg(feature = "cli")]
#[test]
fn the_command_lists_them() {
    let Some(stand_ins) = StandIns::get() else { return };
    let grok1 = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_grok1"));
        let libraries = std::env::join_paths(["cuda", "hip"].map(|of| stand_ins.path(of))).unwrap();
        let output = command.args(arguments).env("LD_LIBRARY_PATH", libraries).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let (text, json) = (grok1(&["devices"]), grok1(&["devices", "--json"]));
    for runtime in RUNTIMES {
        let architecture = if *runtime == "cuda" { "sm_90" } else { "gfx906" };
        assert!(text.contains(&format!("\n{runtime}:0: stand-in 0 ({architecture})\n  driver: ")), "{text}");
        assert!(json.contains(&format!("\"architecture\":\"{architecture}\"")), "{json}");
    }
    assert!(text.contains("\n  memory: 4.3 GB, 4.3 GB free\n"), "{text}");
}
