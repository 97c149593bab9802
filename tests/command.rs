//! The `grok1` command as a shell script meets it: stdout, stderr, exit codes, signals and pipes.
#![cfg(feature = "cli")]

mod support {
    pub(crate) mod oracle;
    pub(crate) mod xai;
}

use std::fs;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use grok1::{Control, Entry, KvType, Model, ModelOptions, Precision, Sampler, Want};
use serde_json::Value;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny");
const TOKENIZER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny/tokenizer.model");

/// A small model of random weights, with as many tokens as [`TOKENIZER`] has pieces.
const SYNTHETIC: &str =
    "layers=2,type=q4_k,width=256,heads=8,kv_heads=2,head_dim=32,ffn=512,vocab=2048,context=512";

fn grok1(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grok1"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    grok1(args).output().unwrap()
}

/// Runs with these bytes on stdin.
fn feed(args: &[&str], input: &[u8]) -> Output {
    let mut command = grok1(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// What a successful run says on stdout; it says nothing on stderr.
fn stdout(output: Output) -> String {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.is_empty(), "{}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn json(output: Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

/// A folder of the test's own, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("command-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::write(self.0.join(name), bytes).unwrap();
        self.path(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn generate_prints_what_the_library_generates_and_nothing_else() {
    let model = Model::open(TINY).unwrap();
    let mut session = model.session().unwrap();
    let mut sampler = Sampler::new().temperature(0.7).top_p(0.95).seed(7);
    let expected: String = session
        .generate("To be, or not to be", &mut sampler)
        .max_tokens(40)
        .map(|piece| piece.unwrap().text().to_owned())
        .collect();
    let args = ["generate", TINY, "To be, or not to be", "--max-tokens", "40", "--seed", "7"];
    assert_eq!(stdout(run(&args)), expected);
    let other = ["generate", TINY, "To be, or not to be", "--max-tokens", "40", "--seed", "8"];
    assert_ne!(stdout(run(&other)), expected);
}

#[test]
fn a_prompt_comes_from_the_argument_a_file_or_stdin() {
    let scratch = Scratch::new("prompt");
    let file = scratch.file("prompt.txt", "The king\n");
    fn greedy<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["generate", TINY, "--greedy", "--max-tokens", "8"], more].concat()
    }
    let expected = stdout(run(&greedy(&["The king"])));
    assert_eq!(expected, " of Israel, and the king of Israel");
    assert_eq!(stdout(run(&greedy(&["--file", &file]))), expected);
    assert_eq!(stdout(feed(&greedy(&[]), b"The king\n")), expected);
    assert_eq!(stdout(feed(&greedy(&["-"]), b"The king")), expected);
    assert_eq!(stdout(run(&greedy(&["--echo", "The king"]))), format!("The king{expected}"));
}

#[test]
fn generate_as_json_gives_tokens_text_and_log_probabilities() {
    let args = ["generate", TINY, "The king", "--greedy", "--max-tokens", "3", "--json"];
    let text = stdout(run(&args));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: String = lines.iter().map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!((lines.len(), texts.as_str()), (3, " of Israel,"));
    assert!(lines.iter().all(|line| line["token"].is_u64() && line["logprob"].as_f64().unwrap() < 0.0));
    assert_eq!((&lines[1]["finish"], &lines[2]["finish"]), (&Value::Null, &Value::from("max_tokens")));
}

#[test]
fn generation_ends_before_a_stop_string() {
    let args = ["generate", TINY, "The king", "--greedy", "--stop", ", and", "--stop", "never"];
    assert_eq!(stdout(run(&args)), " of Israel");
}

#[test]
fn stats_are_lines_on_stderr_with_the_number_first() {
    let output = run(&["generate", TINY, "The king", "--max-tokens", "20", "--seed", "3", "--stats"]);
    assert!(output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = stderr.lines().collect();
    let number = |line: &str, name: &str, unit: &str| -> f64 {
        let rest = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).unwrap();
        rest.strip_suffix(unit).unwrap().trim_end().parse().unwrap()
    };
    assert!(lines[0].starts_with("device: cpu ("), "{stderr}");
    assert!(number(lines[1], "prefill", "tok/s") > 0.0);
    assert!(number(lines[2], "decode", "tok/s") > 0.0);
    assert_eq!(number(lines[3], "read", "bytes per token"), 4_392_960.0);
    assert!(lines[4].starts_with("bandwidth: ") && lines[4].contains(" % of "), "{stderr}");
    assert_eq!(lines[5..], ["seed: 3"]);
}

#[test]
fn score_gives_the_log_probabilities_and_logits_of_the_library() {
    let scratch = Scratch::new("score");
    let ids: Vec<u32> = (0..40).map(|index| 300 + 31 * index).collect();
    let (tokens, npy) =
        (scratch.file("ids.json", serde_json::to_vec(&ids).unwrap()), scratch.path("out.npy"));
    let args =
        ["score", TINY, "--tokens", &tokens, "--logits", &npy, "--precision", "exact", "--kv-type", "f32"];
    let scores = json(run(&args));

    let options = ModelOptions::new().precision(Precision::Exact).kv_type(KvType::F32);
    let model = Model::open_with(TINY, options, &Control::new()).unwrap();
    let expected = model.session().unwrap().score(&ids, &Control::new()).unwrap();
    let logprobs: Vec<Option<f32>> = serde_json::from_value(scores["logprobs"].clone()).unwrap();
    assert_eq!(logprobs, expected);
    let nll = -expected.iter().flatten().map(|&logprob| f64::from(logprob)).sum::<f64>() / 39.0;
    assert_eq!(scores["tokens"], 40);
    assert!((scores["nll"].as_f64().unwrap() - nll).abs() < 1e-12);
    assert!((scores["perplexity"].as_f64().unwrap() - nll.exp()).abs() < 1e-9 * nll.exp());

    let mut logits = Vec::new();
    let mut sink = |_: usize, row: &[f32]| {
        logits.extend(row.iter().flat_map(|logit| logit.to_le_bytes()));
        ControlFlow::Continue(())
    };
    let mut session = model.session().unwrap();
    model.run(&mut [Entry::new(&mut session, &ids).want(Want::All(&mut sink))], &Control::new()).unwrap();
    let bytes = fs::read(&npy).unwrap();
    let (header, elements) = bytes.split_at(bytes.len() - logits.len());
    assert!(header.starts_with(b"\x93NUMPY\x01\x00"));
    assert_eq!(usize::from(u16::from_le_bytes([header[8], header[9]])), header.len() - 10);
    assert_eq!(header.len() % 64, 0);
    let dictionary = String::from_utf8(header[10..].to_vec()).unwrap();
    assert_eq!(dictionary.trim_end(), "{'descr': '<f4', 'fortran_order': False, 'shape': (40, 2048), }");
    assert!(dictionary.ends_with(" \n") && elements == logits);
    assert_eq!(scratch.names().len(), 2);
}

#[test]
fn one_token_has_a_score_of_nothing() {
    let scratch = Scratch::new("one");
    let scores = json(run(&["score", TINY, "--tokens", &scratch.file("ids.json", "[5]")]));
    assert_eq!(scores.to_string(), r#"{"logprobs":[null],"nll":null,"perplexity":null,"tokens":1}"#);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_leaves_no_file() {
    let scratch = Scratch::new("full");
    let (tokens, npy) = (scratch.file("ids.json", "[5, 6, 7, 8]"), scratch.path("out.npy"));
    // A limit on the size of files stands in for the end of the disk.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_grok1")])
        .args(["score", TINY, "--tokens", &tokens, "--logits", &npy])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.starts_with(&format!("grok1: cannot write {npy}: ")), "{stderr}");
    assert!(output.stdout.is_empty());
    assert_eq!(scratch.names(), ["ids.json"]);
}

#[test]
fn tokenize_takes_a_model_or_a_tokenizer_and_a_text_or_stdin() {
    const IDS: &str = "{\"ids\":[590,368,2001,604,408,358,368]}\n";
    assert_eq!(stdout(run(&["tokenize", TINY, "To be, or not to be"])), "590 368 2001 604 408 358 368\n");
    assert_eq!(stdout(run(&["tokenize", TINY, "To be, or not to be", "--json"])), IDS);
    assert_eq!(stdout(run(&["tokenize", "--tokenizer", TOKENIZER, "To be, or not to be", "--json"])), IDS);
    for from in [&["tokenize", TINY][..], &["tokenize", "--tokenizer", TOKENIZER]] {
        let args = [from, &["--stdin", "--json"]].concat();
        assert_eq!(stdout(feed(&args, b"To be, or not to be")), IDS);
        assert_ne!(stdout(feed(&args, b"To be, or not to be\n")), IDS);
    }
    // As sentencepiece does: one U+FFFD for each byte that is not UTF-8.
    let args = ["tokenize", TINY, "--stdin"];
    assert_eq!(stdout(feed(&args, b"a\xff\xfeb")), stdout(feed(&args, "a\u{fffd}\u{fffd}b".as_bytes())));
}

#[test]
fn inspect_lists_format_hyperparameters_and_tensors() {
    let report = json(run(&["inspect", TINY, "--json"]));
    assert_eq!((&report["format"], &report["parameters"]), (&Value::from("xai"), &Value::from(7_483_648)));
    assert_eq!((&report["config"]["layers"], &report["config"]["eos"]), (&Value::from(4), &Value::from(2)));
    assert_eq!(report["config"]["attention_scale"].to_string(), "0.17677669");
    assert_eq!(report["tokenizer_pieces"], 2048);
    let tensors = report["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 50);
    assert_eq!(tensors[3]["name"], "transformer/decoder_layer_0/moe/linear_1");
    assert_eq!(tensors[3]["dtype"], "i8");
    assert_eq!(tensors[3]["shape"].to_string(), "[8,256,256]");
    assert_eq!(tensors[3]["scales"].to_string(), "[8,1,256]");
    assert_eq!(tensors[3]["bytes"], 8 * 256 * 256 + 2 * 8 * 256);
    assert!(tensors[3]["file"].as_str().unwrap().ends_with("ckpt-0/tensor00003_000"));

    let text = stdout(run(&["inspect", TINY]));
    assert!(text.starts_with("format: xai\n") && text.contains("\nlayers: 4\n"), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("tensor")).count(), 50);
}

#[cfg(target_os = "linux")]
#[test]
fn inspect_understands_a_full_size_checkpoint_at_once_in_little_memory() {
    let scratch = Scratch::new("full-size");
    for (name, image) in support::xai::files(&grok1::ModelConfig::grok1(), 8) {
        image.write_sparse(&scratch.0.join(name)).unwrap();
    }
    // The limit on addresses is stricter than one on memory: 50 MB.
    let start = std::time::Instant::now();
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 256 && ulimit -v 50000 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_grok1")])
        .args(["inspect", &scratch.path(""), "--json"])
        .output()
        .unwrap();
    let elapsed = start.elapsed();
    let report = json(output);
    assert_eq!(report["parameters"], 315_684_820_992_u64);
    assert_eq!(report["config"]["layers"], 64);
    assert_eq!(report["tensors"].as_array().unwrap().len(), 770);
    assert!(elapsed.as_secs_f64() < 1.0, "{elapsed:?}");
}

#[test]
fn random_weights_take_the_place_of_a_model() {
    let report = json(run(&["inspect", "--synthetic", "type=i8", "--json"]));
    assert_eq!(
        (&report["format"], &report["parameters"]),
        (&"synthetic".into(), &315_684_820_992_u64.into())
    );
    assert_eq!(report["tokenizer_pieces"], Value::Null);

    let args = ["bench", "--synthetic", SYNTHETIC, "--prompt-tokens", "8", "--tokens", "2", "--runs", "1"];
    assert!(stdout(run(&args)).contains("\ndecode "));
    let scratch = Scratch::new("synthetic");
    let ids = scratch.file("ids.json", "[5, 6, 7, 8]");
    let scores = json(run(&["score", "--synthetic", SYNTHETIC, "--tokens", &ids]));
    assert!(scores["perplexity"].as_f64().unwrap() > 100.0);
    let args =
        ["generate", "--synthetic", SYNTHETIC, "--tokenizer", TOKENIZER, "--max-tokens", "3", "--json"];
    assert_eq!(stdout(feed(&args, b"To be")).lines().count(), 3);
}

#[test]
fn plan_says_what_lies_where_and_how_fast_that_can_be() {
    let args = "plan --synthetic type=i8 --device 2xh100 --device big:200GiB:1.5TB/s --context 64 --sessions 2 --json";
    let plan = json(run(&args.split(' ').collect::<Vec<_>>()));
    assert_eq!((&plan["format"], &plan["bytes"]), (&"synthetic".into(), &318_239_694_848_u64.into()));
    assert_eq!((&plan["fits"], &plan["left_over_bytes"]), (&true.into(), &0.into()));
    assert_eq!(
        plan["shares"][0].to_string(),
        r#"{"bytes":3221225472,"component":"embedding","dtype":"f32"}"#
    );
    assert_eq!((&plan["kv_type"], &plan["kv_bytes_per_session"]), (&"bf16".into(), &(16 << 20).into()));
    let places = plan["places"].as_array().unwrap();
    let layers: Vec<_> = places.iter().map(|place| place["layers"].to_string()).collect();
    assert_eq!(layers, ["[0,15]", "[15,31]", "[31,64]"]);
    assert_eq!(
        (&places[2]["memory_bytes"], &places[2]["bandwidth"]),
        (&(200_u64 << 30).into(), &1_500_000_000_000_u64.into())
    );
    assert!(plan["layer_split"]["empty"].as_f64() > plan["layer_split"]["full"].as_f64());
    assert_eq!(plan["tensor_parallel"], Value::Null);

    // Without devices, what there is here; the bandwidth is not guessed.
    let plan = json(run(&["plan", TINY, "--json"]));
    assert_eq!((&plan["places"][0]["host"], &plan["layer_split"]), (&true.into(), &Value::Null));
    let plan = json(run(&["plan", TINY, "--json", "--measure"]));
    assert!(plan["layer_split"]["full"].as_f64().unwrap() > 0.0);

    let text = stdout(run(&["plan", "--synthetic", "type=q4_k", "--device", "h200", "--nodes", "2"]));
    for line in [
        "\nweights: 177.59 GB\n",
        "\n  experts   q4_k     173.95 GB\n",
        "\nnode 0, h200 (141.00 GB, 4800.0 GB/s): embedding, layers 0 to 49; ",
        "\nbetween nodes: 24.58 kB per token, 1 x 2.0 us at 12.5 GB/s\n",
        "\nceiling: 101.8 tok/s, ",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(stdout(run(&["plan", "--help"])).contains("\n  mi300x "));
}

#[test]
fn devices_names_the_processor_and_why_there_is_nothing_else() {
    let report = json(run(&["devices", "--json"]));
    assert!(report["cpu"]["threads"].as_u64().unwrap() >= 1);
    let sets = report["cpu"]["instruction_sets"].as_array().unwrap();
    assert_eq!(sets.last().unwrap(), "scalar");
    for (runtime, is_built) in [("cuda", cfg!(feature = "cuda")), ("hip", cfg!(feature = "hip"))] {
        let (devices, error) =
            (report[runtime]["devices"].as_array().unwrap(), report[runtime]["error"].as_str());
        assert_eq!(devices.is_empty(), error.is_some());
        assert_eq!(error.is_some_and(|error| error.starts_with("not built in: ")), !is_built, "{runtime}");
    }
    assert!(stdout(run(&["devices"])).contains("\ncuda"));
}

#[test]
fn a_model_runs_on_the_device_that_is_asked_for_or_not_at_all() {
    for device in ["cpu", "auto"] {
        let args = ["generate", TINY, "The king", "--greedy", "--max-tokens", "2", "--device", device];
        let output = run(&args);
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        // One line tells which it was.
        assert_eq!(
            stderr.starts_with("device: ") && stderr.lines().count() == 1,
            device == "auto",
            "{stderr}"
        );
        assert_eq!(stdout, " of Israel");
    }
    for (device, is_built) in [("cuda:1000", cfg!(feature = "cuda")), ("hip:1000", cfg!(feature = "hip"))] {
        let output = run(&["generate", TINY, "a", "--device", device]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        // There is no driver, or there are not so many devices.
        assert!([Some(4), Some(2)].contains(&output.status.code()), "{stderr}");
        assert_eq!(stderr.starts_with("grok1: not built in: "), !is_built, "{stderr}");
        assert_eq!(stderr.find('\n'), Some(stderr.len() - 1), "{stderr}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn bench_measures_each_case_beside_the_limits() {
    let args =
        "--prompt-tokens 16 --tokens 4 --batch 1,3 --context 0,5 --runs 2 --threads 1 --isa scalar --json";
    let report = json(run(&["bench", TINY].into_iter().chain(args.split(' ')).collect::<Vec<_>>()));
    assert_eq!((&report["kv_type"], &report["bytes_per_token"]), (&"bf16".into(), &4_392_960.into()));
    let [model] = report["models"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert_eq!(
        (&model["device"], &model["precision"]),
        (&"cpu (scalar, 1 threads)".into(), &"standard".into())
    );
    let number = |value: &Value| value.as_f64().unwrap();
    let peak = &model["peaks"][0];
    assert!(number(&report["bandwidth"]["min"]) > 0.0 && number(&peak["median"]) > 0.0, "{report}");

    let cases = model["cases"].as_array().unwrap();
    let named = |case: &Value| {
        let counts = ["tokens", "sessions", "context"].map(|name| case[name].as_u64().unwrap());
        (case["phase"].as_str().unwrap().to_owned(), counts)
    };
    let expected = [
        ("prefill", [16, 1, 0]),
        ("decode", [4, 1, 0]),
        ("decode", [4, 3, 0]),
        ("decode", [4, 1, 5]),
        ("decode", [4, 3, 5]),
    ];
    assert_eq!(cases.iter().map(named).collect::<Vec<_>>(), expected.map(|(name, of)| (name.to_owned(), of)));
    for case in cases {
        let rates = case["all"].as_array().unwrap().iter().map(|run| number(&run["rate"]));
        assert_eq!(rates.clone().count(), 2);
        assert_eq!(number(&case["min"]), rates.fold(f64::INFINITY, f64::min));
        let stages = case["stages"].as_object().unwrap();
        assert!(stages.len() == 6 && stages.values().all(|seconds| number(seconds) > 0.0), "{case}");
    }
    // One session reads what a token needs, and keys and values; three read more, but not three times as much.
    let bytes = |case: usize| cases[case]["bytes_per_step"].as_u64().unwrap();
    let one = 4_392_960..4_500_000;
    assert!(one.contains(&bytes(1)) && (bytes(1) + 1..3 * one.start).contains(&bytes(2)), "{report}");
    assert!(bytes(3) > bytes(1));
}

#[test]
fn an_error_is_one_line_and_an_exit_code() {
    let scratch = Scratch::new("errors");
    let long = "a ".repeat(600);
    let ids = |name: &str, text: &str| scratch.file(name, text);
    let missing = scratch.path("missing");
    let no_tokens = ids("none.json", "[]");
    let no_array = ids("object.json", "{\"ids\": [1]}");
    let cut = ids("cut.json", "[1, 2");
    let negative = ids("negative.json", "[1, -2]");
    let beyond = ids("beyond.json", "[1, 2048]");
    let too_many = ids("long.json", &serde_json::to_string(&vec![5; 513]).unwrap());
    let fine = ids("fine.json", "[1, 2]");
    let nowhere = scratch.path("no/out.npy");
    let table: &[(&[&str], i32, &str)] = &[
        (&["generate", TINY, "--foo"], 2, "unexpected argument '--foo' found"),
        (&["generate"], 2, "required arguments were not provided: <MODEL>"),
        (
            &["inspect", TINY, "--synthetic", "layers=1"],
            2,
            "'[MODEL]' cannot be used with '--synthetic <SPEC>'",
        ),
        (&["inspect", "--synthetic", "layer=1"], 2, "there is no \"layer\"; keys are layers, width, heads, "),
        (
            &["inspect", "--synthetic", "vocab=1152921504606846976"],
            2,
            "config: vocab is 1152921504606846976, ",
        ),
        (&["generate", "--synthetic", SYNTHETIC], 2, "has no tokenizer; give one with --tokenizer"),
        (&["nonsense"], 2, "unrecognized subcommand 'nonsense'"),
        (&["generate", TINY, ""], 2, "the prompt is empty"),
        (&["generate", TINY], 2, "the prompt is empty"),
        (&["generate", TINY, "a", "--temperature", "-1"], 2, "temperature is -1, expected a finite number"),
        (&["generate", TINY, "a", "--greedy", "--top-p", "0.5"], 2, "'--greedy' cannot be used with"),
        (&["generate", TINY, "a", "--stop", ""], 2, "'--stop <TEXT>'"),
        (&["generate", TINY, "a", "--precision", "best"], 2, "possible values: exact, standard"),
        (&["generate", TINY, "a", "--context", "1000"], 2, "exceeds the trained 512"),
        (&["generate", &missing, "a"], 3, "missing does not exist"),
        (&["generate", TOKENIZER, "a"], 3, "is not a checkpoint"),
        (&["generate", TINY, "--file", &missing], 3, "cannot read"),
        (&["generate", TINY, "a", "--tokenizer", &missing], 3, "cannot read"),
        (&["generate", TINY, "a", "--tokenizer", &fine], 3, "fine.json"),
        (&["generate", TINY, &long], 5, "do not fit into a context of 512"),
        (&["score", TINY, "--tokens", &missing], 3, "missing: "),
        (&["score", TINY, "--tokens", &no_array], 3, "object.json is not a JSON array of token ids: "),
        (&["score", TINY, "--tokens", &cut], 3, "cut.json is not a JSON array of token ids: EOF"),
        (&["score", TINY, "--tokens", &negative], 3, "negative.json is not a JSON array of token ids: "),
        (&["score", TINY, "--tokens", &no_tokens], 2, "no tokens to run"),
        (&["score", TINY, "--tokens", &beyond], 2, "token 2048 is not below the vocabulary's 2048"),
        (&["score", TINY, "--tokens", &too_many], 5, "513 tokens after 0 do not fit into a context of 512"),
        (&["score", TINY, "--tokens", &fine, "--logits", &nowhere], 4, "cannot write"),
        (&["score", TINY, "--tokens", &fine, "--logits", "/"], 2, "/ exists and is not a regular file"),
        (&["tokenize"], 2, "no MODEL and no --tokenizer"),
        (&["tokenize", TINY], 2, "no TEXT and no --stdin"),
        (&["tokenize", TINY, "a", "--stdin"], 2, "both a TEXT and --stdin"),
        (&["tokenize", "--tokenizer", TOKENIZER, TINY, "a"], 2, "both a MODEL and --tokenizer"),
        (&["tokenize", "--tokenizer", &fine, "a"], 3, "fine.json"),
        (&["inspect", &missing], 3, "missing does not exist"),
        (&["bench", TINY, "--runs", "0"], 2, "--runs"),
        (&["bench", TINY, "--batch", "1,0"], 2, "--batch"),
        (&["bench", TINY, "--isa", "mmx"], 2, "\"mmx\" is not one of this processor's instruction sets: "),
        (
            &["generate", TINY, "a", "--device", "gpu"],
            2,
            "\"gpu\" is no device: expected cpu, cpu:0, cuda:0, hip:0 ",
        ),
        (&["bench", TINY, "--device", "cuda:x"], 2, "\"cuda:x\" is no device: "),
        (&["plan", &missing], 3, "missing does not exist"),
        (&["plan", TINY, "--device", "h101"], 2, "\"h101\" is not one of m2-ultra, "),
        (&["plan", TINY, "--device", "a:80"], 2, "\"80\" is not a size such as 80GB or 1.5TiB"),
        (&["plan", TINY, "--host", "1GB:1GB"], 2, "\"1GB\" is not a bandwidth such as 800GB/s or 2.5TB/s"),
        (&["plan", TINY, "--link", "fast"], 2, "\"fast\" is not a bandwidth such as 800GB/s or 2.5TB/s"),
        (&["plan", TINY, "--nodes", "0"], 2, "--nodes"),
        (
            &["plan", TINY, "--device", "h100", "--measure"],
            2,
            "the memory of this machine is not in the plan",
        ),
    ];
    for (args, code, message) in table {
        let output = run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {stderr}");
        assert!(stderr.starts_with("grok1: ") && stderr.contains(message), "{args:?}: {stderr}");
        assert_eq!(stderr.find('\n'), Some(stderr.len() - 1), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_model_without_a_tokenizer_is_told_how_to_get_one() {
    let scratch = Scratch::new("no-tokenizer");
    for entry in fs::read_dir(Path::new(TINY).join("ckpt-0")).unwrap() {
        let path = entry.unwrap().path();
        fs::hard_link(&path, scratch.0.join(path.file_name().unwrap()))
            .or_else(|_| fs::copy(&path, scratch.0.join(path.file_name().unwrap())).map(|_| ()))
            .unwrap();
    }
    fs::copy(Path::new(TINY).join("config.json"), scratch.0.join("config.json")).unwrap();
    let model = scratch.path("");
    for args in [["generate", &model, "a"], ["tokenize", &model, "a"]] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(2));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.ends_with("has no tokenizer; give one with --tokenizer\n"), "{stderr}");
    }
    let given = ["generate", &model, "The king", "--tokenizer", TOKENIZER, "--greedy", "--max-tokens", "2"];
    assert_eq!(stdout(run(&given)), " of Israel");
}

#[test]
fn help_and_version_are_asked_for_and_no_arguments_are_wrong_usage() {
    let help = stdout(run(&["--help"]));
    assert!(help.contains("Exit codes:") && help.contains("generate"));
    assert!(stdout(run(&["--version"])).starts_with("grok1 "));
    let nothing = run(&[]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(nothing.stdout.is_empty());
}

/// A generation that takes longer than any test.
#[cfg(unix)]
fn endless() -> std::process::Child {
    let args = "--ignore-eos --max-tokens 1000000 --context 1000000 --beyond-trained-length --seed 1";
    let args: Vec<&str> = ["generate", TINY, "The king"].into_iter().chain(args.split(' ')).collect();
    grok1(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_generation_at_once_and_keeps_its_text() {
    let mut child = endless();
    let mut out = child.stdout.take().unwrap();
    let mut text = vec![0; 100];
    out.read_exact(&mut text).unwrap();
    let start = std::time::Instant::now();
    // SAFETY: a signal to our own child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) }, 0);
    out.read_to_end(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(start.elapsed().as_secs_f64() < 1.0, "{:?}", start.elapsed());
    assert_eq!((output.status.code(), output.stderr), (Some(130), Vec::new()));
    assert!(String::from_utf8(text).unwrap().starts_with(" "));
}

#[cfg(unix)]
#[test]
fn a_closed_stdout_ends_a_generation_quietly() {
    let mut child = endless();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 10]).unwrap();
    drop(out);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_stdout_is_an_error() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = grok1(&["inspect", TINY]).stdout(full).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr.starts_with("grok1: cannot write to stdout: "), "{stderr}");
}

#[test]
fn score_meets_the_perplexity_of_the_reference_results() {
    let Some(oracle) = support::oracle::oracle() else { return };
    let tensors = support::oracle::Tensors::open(oracle.join("goldens/perplexity.safetensors"));
    let (ids, truth) = (tensors.u32("ids"), tensors.f32("truth_nll"));
    let scratch = Scratch::new("perplexity");
    for (window, (ids, truth)) in ids.chunks(512).zip(truth.chunks(511)).take(2).enumerate() {
        let tokens = scratch.file("ids.json", serde_json::to_vec(ids).unwrap());
        let truth = truth.iter().map(|&nll| f64::from(nll)).sum::<f64>() / 511.0;
        for (more, bound) in [(&["--precision", "exact", "--kv-type", "f32"][..], 1e-4), (&[], 5e-3)] {
            let scores = json(run(&[&["score", TINY, "--tokens", &tokens], more].concat()));
            let error = (scores["nll"].as_f64().unwrap() - truth).abs();
            assert!(error < bound, "window {window}: {error:.1e}");
        }
    }
}
