//! The examples in C, C++ and Python give the text that Rust gives.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use grok1::Sampler;

use crate::scratch::Scratch;
use crate::tools::{Turns, have, prefix, root, run, tiny};

const PROMPT: &str = "To be, or not to be";

fn turns() -> Turns {
    Turns::new(Sampler::new().temperature(0.7).top_p(0.95).seed(42))
}

/// What `generate` and its like print.
fn generated() -> String {
    format!("{PROMPT}{}\n", turns().next(PROMPT, 100, &[]))
}

/// Builds the project in `examples/cmake`, and hands its programs on.
fn with_cmake(name: &str, library: &str, check: impl FnOnce(&Scratch)) {
    if !have(&["cmake", "cc", "g++"]) {
        return;
    }
    let scratch = Scratch::new(name);
    run(Command::new("cmake")
        .arg("-S")
        .arg(root().join("examples/cmake"))
        .arg("-B")
        .arg(&scratch.0)
        .arg(format!("-DCMAKE_PREFIX_PATH={}", prefix().display()))
        .arg(format!("-DGROK1_STATIC={library}")));
    run(Command::new("cmake").arg("--build").arg(&scratch.0));
    check(&scratch);
}

fn both_programs(scratch: &Scratch) {
    let printed = run(Command::new(scratch.path("generate")).arg(tiny()).arg(PROMPT));
    assert_eq!(printed, generated());

    let mut turns = turns();
    let mut expected = String::new();
    for line in ["The king", "My lord", "/reset", "To be"] {
        expected.push_str("> ");
        if line == "/reset" {
            turns.reset();
        } else {
            expected.push_str(&turns.next(line, 200, &["\n"]));
            expected.push('\n');
        }
    }
    expected.push_str("> ");
    let mut chat = Command::new(scratch.path("chat"))
        .arg(tiny())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) = (chat.stdin.take().unwrap(), chat.stdout.take().unwrap());
    let mut printed = [0; 2];
    output.read_exact(&mut printed).unwrap();
    // Ctrl-C stops a generation, and here there is none.
    run(Command::new("kill").args(["-INT", &chat.id().to_string()]));
    input.write_all(b"The king\nMy lord\n/reset\nTo be\n/quit\n").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(chat.wait().unwrap().success());
    assert_eq!(format!("> {rest}"), expected);
}

#[test]
fn a_cmake_project_embeds_the_shared_library() {
    with_cmake("cmake-shared", "OFF", both_programs);
}

#[test]
fn a_cmake_project_embeds_the_static_library() {
    with_cmake("cmake-static", "ON", both_programs);
}

#[test]
fn a_failure_is_told_and_is_the_exit_status() {
    with_cmake("cmake-failure", "OFF", |scratch| {
        for (program, said) in [("generate", "format: "), ("chat", "")] {
            let output = Command::new(scratch.path(program)).arg("no/such/model").output().unwrap();
            assert_eq!(output.status.code(), Some(1));
            assert_eq!(
                String::from_utf8(output.stderr).unwrap(),
                format!("{said}no/such/model does not exist\n")
            );
        }
    });
}

/// Python with the library and the binding at hand.
fn python() -> Command {
    let mut command = Command::new("python3");
    command.env("GROK1_LIBRARY", prefix().join("lib/libgrok1.so"));
    command.env("PYTHONPATH", root().join("examples/python")).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[test]
fn a_binding_for_python_needs_no_compiler() {
    if have(&["python3", "cc"]) {
        let script = root().join("examples/python/grok1.py");
        assert_eq!(run(python().arg(&script).arg(tiny()).arg(PROMPT)), generated());
        let output = python().arg(&script).args(["no/such/model", PROMPT]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "format: no/such/model does not exist\n");
    }
}

#[test]
fn it_tokenises_cancels_and_raises() {
    if have(&["python3", "cc"]) {
        run(python().arg(root().join("tests/hosts/binding.py")).arg(tiny()));
    }
}
