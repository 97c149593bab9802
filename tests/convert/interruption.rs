//! The command is killed, and the disk is full.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use grok1::checkpoint;

use crate::models::tiny_path;
use crate::random::Random;
use crate::scratch::Scratch;

fn convert(out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grok1"));
    command.arg("convert").arg(tiny_path()).arg(out).args(["--threads", "2"]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Every file below a folder, with its path in it, sorted.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Kills the conversion to `name` at random moments, `times` times; then lets it end.
fn assert_survives(name: &str, more: &[&str], times: u64) {
    let (whole, killed) = (Scratch::new(&format!("whole-{name}")), Scratch::new(&format!("killed-{name}")));
    let began = Instant::now();
    assert!(convert(&whole.path(name), more).status().unwrap().success());
    let took = began.elapsed();
    let expected = files(&whole.0);
    let mut random = Random(times);
    for _ in 0..times {
        let mut child = convert(&killed.path(name), more).spawn().unwrap();
        // From the start of the process to somewhat beyond its end.
        std::thread::sleep(took.mul_f32(random.float(0.0, 1.1)));
        child.kill().unwrap();
        child.wait().unwrap();
        let there = files(&killed.0);
        for (path, bytes) in &there {
            let file = killed.path(path);
            if checkpoint::open(&file, None).is_ok() {
                let is_whole = expected.iter().any(|(_, expected)| bytes == expected);
                assert!(is_whole, "{path} opens and is not whole");
            }
        }
        let folders = [killed.path(name), killed.path(&format!("{name}.partial")).join("files")];
        if folders.iter().any(|folder| folder.is_dir() && checkpoint::open(folder, None).is_ok()) {
            let all = |expected: &(String, Vec<u8>)| there.iter().any(|(_, bytes)| *bytes == expected.1);
            assert!(expected.iter().all(all), "a folder opens and is not whole");
        }
        if !there.is_empty() && !killed.path(&format!("{name}.partial")).exists() {
            fs::remove_dir_all(&killed.0).unwrap();
            fs::create_dir(&killed.0).unwrap();
        }
    }
    let output = convert(&killed.path(name), more).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() || stderr.ends_with("exists already\n"), "{stderr}");
    assert!(files(&killed.0) == expected, "the same bytes");
}

#[test]
fn a_conversion_to_one_file_may_be_killed_at_any_moment() {
    assert_survives("tiny.gguf", &["--type", "q4_k_m"], 20);
}

#[test]
fn a_conversion_to_a_set_of_files_may_be_killed_at_any_moment() {
    assert_survives("set.gguf", &["--type", "q8_0", "--split-max-size", "1M"], 10);
}

#[test]
fn a_conversion_to_a_folder_may_be_killed_at_any_moment() {
    assert_survives("tiny-hf", &["--split-max-size", "5M"], 10);
}

#[test]
fn more_files_than_may_be_open_are_written_all_the_same() {
    let scratch = Scratch::new("many");
    let script = "ulimit -n 40; exec \"$0\" convert \"$1\" \"$2\" --type q8_0 --split-max-size 10K --threads 2 --verify";
    let output = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_grok1")])
        .arg(tiny_path())
        .arg(scratch.path("tiny.gguf"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(scratch.names().len() > 40);
}

#[test]
fn an_output_that_is_there_can_be_verified_again() {
    let scratch = Scratch::new("verify");
    let out = scratch.path("tiny.gguf");
    for _ in 0..2 {
        let output = convert(&out, &["--type", "q6_k", "--verify"]).stdout(Stdio::piped()).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && stdout.contains("bytes compared, all as they should be"),
            "{stdout}"
        );
    }
    let output = convert(&out, &["--type", "q5_k", "--verify"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "another model");
}

#[test]
fn a_file_that_cannot_grow_is_one_line_on_stderr_and_can_be_gone_on_with() {
    let scratch = Scratch::new("full");
    let out = scratch.path("tiny.gguf");
    // No file may have more than a megabyte, as if the disk were full there.
    let program = env!("CARGO_BIN_EXE_grok1");
    let script = "trap '' XFSZ; ulimit -f 1024; exec \"$0\" convert \"$1\" \"$2\" --type f32";
    let output = Command::new("bash")
        .args(["-c", script, program])
        .arg(tiny_path())
        .arg(&out)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.starts_with("grok1: cannot write ") && stderr.lines().count() == 1, "{stderr}");
    assert!(!out.exists());
    assert!(convert(&out, &["--type", "f32"]).status().unwrap().success());
    checkpoint::open(&out, None).unwrap();
}
