//! Damaged and hostile checkpoints: each gives one precise error, and nothing panics or grows.

use std::collections::BTreeMap;

use grok1::checkpoint::pickle::{self, Content};
use grok1::checkpoint::{self, Checkpoint, CheckpointError};
use grok1::{Classify, DType, Error, ErrorKind, MemoryFolder, MemorySource, ModelConfig};

mod support {
    pub(crate) mod random;
    pub(crate) mod xai;
}
use support::random::Random;
use support::xai::{self, Array};

type Files = BTreeMap<String, Vec<u8>>;

const EMBEDDING: &str = "tensor00000_000";
const NORM: &str = "tensor00001_000";
const GATE: &str = "tensor00002_000";
const KEY: &str = "tensor00005_000";
const OUTPUT: &str = "tensor00006_000";

/// A model of one small layer, in two row groups where rows are grouped.
fn config() -> ModelConfig {
    let mut config = ModelConfig::grok1();
    config.layers = 1;
    config.width = 8;
    config.heads = 2;
    config.kv_heads = 1;
    config.head_dim = 6;
    config.experts = 2;
    config.ffn_width = 16;
    config.vocab = 32;
    config.context = 64;
    config
}

const CONFIG: &str = r#"{"emb_size": 8, "key_size": 6, "num_q_heads": 2, "num_kv_heads": 1, "num_layers": 1, "vocab_size": 32,
    "sequence_len": 64, "ffn_size": 16, "num_experts": 2, "attn_output_multiplier": 0.40824829,
    "embedding_multiplier_scale": 2.8284271, "output_multiplier_scale": 0.57735027}"#;

fn good() -> Files {
    let tensors = xai::files(&config(), 2).into_iter().map(|(name, image)| (name, image.bytes()));
    tensors.chain([("config.json".to_owned(), CONFIG.as_bytes().to_vec())]).collect()
}

fn open(files: &Files) -> Result<Checkpoint, CheckpointError> {
    let mut folder = MemoryFolder::default();
    for (name, bytes) in files {
        folder.insert(name, &**bytes);
    }
    checkpoint::open_folder(&folder, None, None)
}

/// Replaces the only place of `name` where `old` stands.
fn replace(files: &mut Files, name: &str, old: &[u8], new: &[u8]) {
    let bytes = files.get_mut(name).unwrap();
    let places: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(old)).collect();
    let [at] = places[..] else { panic!("{name}: {old:x?} stands at {places:?}") };
    bytes.splice(at..at + old.len(), new.iter().copied());
}

fn put(files: &mut Files, name: &str, image: &xai::Image) {
    files.insert(name.to_owned(), image.bytes());
}

/// Makes the norm a pickle of these opcodes.
fn put_program(files: &mut Files, opcodes: &[&[u8]]) {
    files.insert(NORM.to_owned(), [b"\x80\x04", &*opcodes.concat()].concat());
}

fn set_config(files: &mut Files, old: &str, new: &str) {
    replace(files, "config.json", old.as_bytes(), new.as_bytes());
}

fn put_config(files: &mut Files, text: &[u8]) {
    files.insert("config.json".to_owned(), text.to_vec());
}

fn floats(shape: &[u64]) -> xai::Image {
    xai::plain(&Array::zeros(DType::F32, shape))
}

fn quantised(weight: (DType, &[u64]), scales: (DType, &[u64])) -> xai::Image {
    xai::quantised(&Array::zeros(weight.0, weight.1), &Array::zeros(scales.0, scales.1))
}

struct Case {
    name: &'static str,
    harm: fn(&mut Files),
    message: &'static str,
}

const fn case(name: &'static str, harm: fn(&mut Files), message: &'static str) -> Case {
    Case { name, harm, message }
}

#[test]
fn the_good_files_open() {
    let checkpoint = open(&good()).unwrap();
    assert_eq!(checkpoint.layers[0].output.scales.as_ref().unwrap().inputs, 6);
}

#[test]
fn each_kind_of_damage_to_a_tensor_has_its_message() {
    assert_messages(PICKLES, "cannot understand tensor00001_000 (language_model/rms_norm): ");
}

#[test]
fn each_kind_of_damage_to_a_checkpoint_has_its_message() {
    assert_messages(CHECKPOINTS, "");
}

fn assert_messages(cases: &[Case], start: &str) {
    let mut wrong = Vec::new();
    for case in cases {
        let mut files = good();
        (case.harm)(&mut files);
        let error = open(&files).expect_err(case.name);
        assert_eq!(error.kind(), ErrorKind::Format, "{}", case.name);
        let message = Error::from(error).chain();
        if message.strip_prefix(start) != Some(case.message) {
            wrong
                .push(format!("{}\n    found    {message}\n    expected {start}{}", case.name, case.message));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong with the pickle of one tensor; the file and the tensor stand before each message.
const PICKLES: &[Case] = &[
    // Lengths.
    case(
        "an empty file",
        |files| files.get_mut(NORM).unwrap().clear(),
        "byte 0: 2 bytes should follow, but the file ends at byte 0",
    ),
    case(
        "a file cut in the header",
        |files| files.get_mut(NORM).unwrap().truncate(60),
        "byte 11: 168 bytes should follow, but the file ends at byte 60",
    ),
    case(
        "a file without its last byte",
        |files| _ = files.get_mut(NORM).unwrap().pop(),
        "byte 11: 168 bytes should follow, but the file ends at byte 178",
    ),
    case(
        "bytes after the end",
        |files| files.get_mut(NORM).unwrap().extend_from_slice(b"more"),
        "byte 179: found 4 bytes after the end of the pickle",
    ),
    case(
        "a payload past the end",
        |files| replace(files, NORM, b"\x89C\x20", b"\x89B\xff\xff\xff\xff"),
        "byte 145: 4294967295 bytes should follow, but the file ends at byte 182",
    ),
    case(
        "a payload of nearly 2^64 bytes",
        |files| replace(files, NORM, b"\x89C\x20", b"\x89\x8e\xff\xff\xff\xff\xff\xff\xff\xff"),
        "byte 149: 18446744073709551615 bytes should follow, but the file ends at byte 186",
    ),
    case(
        "a frame of nearly 2^64 bytes",
        |files| files.get_mut(NORM).unwrap()[3..11].fill(0xff),
        "byte 11: 18446744073709551615 bytes should follow, but the file ends at byte 179",
    ),
    case(
        "a payload shorter than its shape",
        |files| replace(files, NORM, b"(K\x01K\x08", b"(K\x01K\x09"),
        "byte 142: found 32 bytes, expected 36 for f32 [9]",
    ),
    case(
        "a shape whose product is beyond 2^64",
        |files| {
            let axes = [b"(K\x01", &b"J\xff\xff\xff\x7f".repeat(3)[..], b"\x87"].concat();
            replace(files, NORM, b"(K\x01K\x08\x85", &axes);
        },
        "byte 190: found the shape (2147483647, 2147483647, 2147483647), expected fewer than 2^64 bytes",
    ),
    case(
        "a negative axis",
        |files| replace(files, NORM, b"(K\x01K\x08", b"(K\x01J\xf8\xff\xff\xff"),
        "byte 180: found an axis of -8, expected a positive length",
    ),
    case(
        "an empty axis",
        |files| replace(files, NORM, b"(K\x01K\x08", b"(K\x01K\x00"),
        "byte 177: found an axis of 0, expected a positive length",
    ),
    // What a pickle may say.
    case(
        "another protocol",
        |files| files.get_mut(NORM).unwrap()[1] = 2,
        "byte 0: found pickle protocol 2, expected protocol 4",
    ),
    case(
        "no pickle",
        |files| _ = files.insert(NORM.to_owned(), b"GGUF....".to_vec()),
        "byte 0: found 0x47 0x47, expected 0x80 0x04, a pickle of protocol 4",
    ),
    case(
        "a global that runs programs",
        |files| put_program(files, &[b"\x8c\x02os\x8c\x06system\x93\x8c\x07echo hi\x85R."]),
        "byte 14: global \"os.system\" is not allowed",
    ),
    case(
        "a builtin",
        |files| put_program(files, &[b"\x8c\x08builtins\x8c\x04eval\x93."]),
        "byte 18: global \"builtins.eval\" is not allowed",
    ),
    case(
        "an attribute of an allowed module",
        |files| put_program(files, &[b"\x8c\x05numpy\x8c\x04load\x93."]),
        "byte 15: global \"numpy.load\" is not allowed",
    ),
    case(
        "a global named by a number",
        |files| put_program(files, &[b"\x8c\x05numpyK\x01\x93."]),
        "byte 11: found \"numpy\" and 1, expected the names of a module and of a global",
    ),
    case(
        "opcode GLOBAL",
        |files| put_program(files, &[b"cos\nsystem\n."]),
        "byte 2: opcode 0x63 is not allowed",
    ),
    case(
        "opcode INST",
        |files| put_program(files, &[b"(ios\nsystem\n."]),
        "byte 3: opcode 0x69 is not allowed",
    ),
    case("opcode EXT1", |files| put_program(files, &[b"\x82\x01."]), "byte 2: opcode 0x82 is not allowed"),
    case("opcode PERSID", |files| put_program(files, &[b"Pid\n."]), "byte 2: opcode 0x50 is not allowed"),
    case(
        "opcode LONG4",
        |files| put_program(files, &[b"\x8b\xff\xff\xff\x7f."]),
        "byte 2: opcode 0x8b is not allowed",
    ),
    case(
        "opcode PROTO again",
        |files| put_program(files, &[b"\x80\x04N."]),
        "byte 2: opcode 0x80 is not allowed",
    ),
    case(
        "a call of an array",
        |files| put_program(files, &[b"\x8c\x05numpy\x8c\x07ndarray\x93K\x01\x85R."]),
        "byte 22: found NdArray called with (1), expected a call that makes an array, a dtype or a quantised weight",
    ),
    case(
        "a call of a number",
        |files| put_program(files, &[b"K\x01)R."]),
        "byte 5: found 1 and (), expected a global and its arguments",
    ),
    case(
        "state for a number",
        |files| put_program(files, &[b"K\x01)b."]),
        "byte 5: found 1 with the state (), expected a dtype, an array or a quantised weight with its state",
    ),
    case(
        "items for a tuple",
        |files| put_program(files, &[b")(NNu."]),
        "byte 6: found (), expected an empty dict",
    ),
    case(
        "text that is not UTF-8",
        |files| put_program(files, &[b"\x8c\x01\xff."]),
        "byte 2: found a string of other bytes, expected UTF-8",
    ),
    case(
        "an empty stack",
        |files| put_program(files, &[b"\x85."]),
        "byte 2: found an empty stack, expected a value",
    ),
    case(
        "a value below the mark",
        |files| put_program(files, &[b"K\x01(\x85."]),
        "byte 5: found an empty stack, expected a value",
    ),
    case(
        "a tuple without a mark",
        |files| put_program(files, &[b"K\x01t."]),
        "byte 4: found no mark, expected a mark",
    ),
    case(
        "a memo entry not made",
        |files| put_program(files, &[b"h\x00."]),
        "byte 2: found a reference to memo entry 0 of 0, expected an entry made before",
    ),
    case(
        "a far memo entry",
        |files| put_program(files, &[b"Nj\xff\xff\xff\xff."]),
        "byte 3: found a reference to memo entry 4294967295 of 0, expected an entry made before",
    ),
    case(
        "a number alone",
        |files| put_program(files, &[b"K\x01."]),
        "byte 4: found 1, expected an array or a quantised weight",
    ),
    case(
        "two values",
        |files| put_program(files, &[b"NN."]),
        "byte 4: found unused values, expected one value at the end of the pickle",
    ),
    case(
        "an array without contents",
        |files| {
            let array =
                b"\x8c\x15numpy.core.multiarray\x8c\x0c_reconstruct\x93\x8c\x05numpy\x8c\x07ndarray\x93";
            put_program(files, &[array, b"K\x00\x85C\x01b\x87R."]);
        },
        "byte 65: found an object without contents, expected an array or a quantised weight",
    ),
    case(
        "a memo bomb",
        |files| put_program(files, &[b"N", &[0x94; 100_000], b"."]),
        "byte 514: more than 512 opcodes",
    ),
    case(
        "a stack bomb",
        |files| put_program(files, &[&[b'N'; 100_000], b"."]),
        "byte 514: more than 512 opcodes",
    ),
    case(
        "a bomb of nested tuples",
        |files| put_program(files, &[b"N", &[0x85; 100_000], b"."]),
        "byte 514: more than 512 opcodes",
    ),
    case(
        "a bomb of marks",
        |files| put_program(files, &[&[b'('; 100_000], b"."]),
        "byte 514: more than 512 opcodes",
    ),
    case(
        "a bomb of doubled tuples",
        |files| put_program(files, &[b"N", &b"\x94h\x00\x86".repeat(50_000), b"."]),
        "byte 684: more than 512 opcodes",
    ),
    case(
        "a bomb of frames",
        |files| put_program(files, &[&b"\x95\0\0\0\0\0\0\0\0".repeat(10_000), b"."]),
        "byte 4610: more than 512 opcodes",
    ),
    // What arrays may be.
    case(
        "Fortran order",
        |files| replace(files, NORM, b"b\x89C\x20", b"b\x88C\x20"),
        "byte 177: found an array in Fortran order, expected C order",
    ),
    case(
        "big-endian numbers",
        |files| replace(files, NORM, b"\x8c\x01<", b"\x8c\x01>"),
        "byte 138: found byte order \">\", expected \"<\" (little-endian) or \"|\" (single bytes)",
    ),
    case(
        "an unknown dtype",
        |files| replace(files, NORM, b"\x8c\x02f4", b"\x8c\x02O8"),
        "byte 112: found the dtype \"O8\", expected i1, f4 or bfloat16",
    ),
    case(
        "a structured dtype",
        |files| replace(files, NORM, b"<\x94NNN", b"<\x94N)N"),
        "byte 138: found (3, \"<\", None, a tuple of 0, None, -1, -1, 0), expected the state of a plain dtype",
    ),
    case(
        "a dtype of another size",
        |files| replace(files, NORM, b"NNNJ\xff\xff\xff\xff", b"NNNJ\x08\x00\x00\x00"),
        "byte 138: found f32 of 8 bytes, expected the size of the type",
    ),
];

const CHECKPOINTS: &[Case] = &[
    // Files.
    case(
        "a missing file",
        |files| _ = files.remove(GATE),
        "memory: found tensor00003_000 but no tensor00002_000, expected no gaps",
    ),
    case(
        "a missing last file",
        |files| _ = files.remove("tensor00013_000"),
        "memory: found 13 tensor files up to tensor00012_000, expected 2 and 12 for each layer",
    ),
    case(
        "an unexpected index",
        |files| put(files, "tensor00014_000", &floats(&[8])),
        "memory: found 15 tensor files up to tensor00014_000, expected 2 and 12 for each layer",
    ),
    case(
        "an unexpected index far away",
        |files| put(files, "tensor99999_000", &floats(&[8])),
        "memory: found tensor99999_000 but no tensor00014_000, expected no gaps",
    ),
    case(
        "an unexpected shard",
        |files| put(files, "tensor00003_001", &floats(&[8])),
        "memory: found tensor00003_001, expected shard 000 only",
    ),
    case(
        "no tensor files",
        |files| files.retain(|name, _| name == "config.json"),
        "memory is not a checkpoint: found a folder without them, expected a GGUF or safetensors file, or a folder with either or with files tensor00000_000 to tensorNNNNN_000",
    ),
    case(
        "no layers",
        |files| files.retain(|name, _| &**name < GATE),
        "memory: found 2 tensor files up to tensor00001_000, expected 2 and 12 for each layer",
    ),
    // Lengths.
    case(
        "a file cut in the payload",
        |files| files.get_mut(KEY).unwrap().truncate(220),
        "cannot understand tensor00005_000 (transformer/decoder_layer_0/multi_head_attention/key): byte 11: 341 bytes should follow, but the file ends at byte 220",
    ),
    // What arrays may be.
    case(
        "weight and scales under other names",
        |files| replace(files, KEY, b"\x8c\x06weight", b"\x8c\x06values"),
        "cannot understand tensor00005_000 (transformer/decoder_layer_0/multi_head_attention/key): byte 350: found (\"values\", an array i8 [8, 6], \"scales\", an array bf16 [1, 6]), expected arrays named \"weight\" and \"scales\"",
    ),
    // What the model may be.
    case(
        "another shape",
        |files| put(files, NORM, &floats(&[9])),
        "tensor00001_000 (language_model/rms_norm): found f32 [9], expected f32 [8] according to config.json",
    ),
    case(
        "another rank",
        |files| put(files, NORM, &floats(&[8, 1])),
        "tensor00001_000 (language_model/rms_norm): found f32 [8, 1], expected f32 [8] according to config.json",
    ),
    case(
        "another dtype",
        |files| put(files, NORM, &xai::plain(&Array::zeros(DType::BF16, &[8]))),
        "tensor00001_000 (language_model/rms_norm): found bf16 [8], expected f32 [8] according to config.json",
    ),
    case(
        "weights without scales",
        |files| put(files, KEY, &floats(&[8, 6])),
        "tensor00005_000 (transformer/decoder_layer_0/multi_head_attention/key): found f32 [8, 6], expected i8 [8, 6] with bf16 scales [G, 6], G dividing 8, according to config.json",
    ),
    case(
        "scales where none belong",
        |files| put(files, NORM, &quantised((DType::I8, &[8]), (DType::BF16, &[8]))),
        "tensor00001_000 (language_model/rms_norm): found i8 [8] with bf16 scales [8], expected f32 [8] according to config.json",
    ),
    case(
        "f32 scales",
        |files| put(files, KEY, &quantised((DType::I8, &[8, 6]), (DType::F32, &[1, 6]))),
        "tensor00005_000 (transformer/decoder_layer_0/multi_head_attention/key): found i8 [8, 6] with f32 scales [1, 6], expected i8 [8, 6] with bf16 scales [G, 6], G dividing 8, according to config.json",
    ),
    case(
        "row groups that do not divide the rows",
        |files| put(files, OUTPUT, &quantised((DType::I8, &[12, 8]), (DType::BF16, &[5, 8]))),
        "tensor00006_000 (transformer/decoder_layer_0/multi_head_attention/linear): found i8 [12, 8] with bf16 scales [5, 8], expected i8 [12, 8] with bf16 scales [G, 8], G dividing 12, according to config.json",
    ),
    case(
        "scales of another width",
        |files| put(files, GATE, &quantised((DType::I8, &[2, 8, 16]), (DType::BF16, &[2, 1, 8]))),
        "tensor00002_000 (transformer/decoder_layer_0/moe/linear): found i8 [2, 8, 16] with bf16 scales [2, 1, 8], expected i8 [2, 8, 16] with bf16 scales [2, G, 16], G dividing 8, according to config.json",
    ),
    // Hyperparameters.
    case(
        "no config",
        |files| _ = files.remove("config.json"),
        "memory has no config.json, in it or beside it, and is not Grok-1: memory: found 1 layers in 14 tensor files, expected 64 layers according to Grok-1's release",
    ),
    case(
        "a config of another width",
        |files| set_config(files, "\"emb_size\": 8", "\"emb_size\": 16"),
        "tensor00000_000 (language_model/in_out_embed): found f32 [32, 8], expected f32 [32, 16] according to config.json",
    ),
    case(
        "a config with more layers",
        |files| set_config(files, "\"num_layers\": 1", "\"num_layers\": 2"),
        "memory: found 1 layers in 14 tensor files, expected 2 layers according to config.json",
    ),
    case(
        "a config with more experts",
        |files| set_config(files, "\"num_experts\": 2", "\"num_experts\": 4"),
        "tensor00013_000 (transformer/decoder_layer_0/router): found f32 [8, 2], expected f32 [8, 4] according to config.json",
    ),
    case(
        "a config without layers",
        |files| set_config(files, "\"num_layers\": 1", "\"num_layers\": 0"),
        "cannot use config.json: config: layers is 0, expected a positive size in range",
    ),
    case(
        "a config of nearly 2^64 layers",
        |files| set_config(files, "\"num_layers\": 1", "\"num_layers\": 18446744073709551615"),
        "cannot use config.json: config: layers is 18446744073709551615, expected a positive size in range",
    ),
    case(
        "a config of 2^64 layers",
        |files| set_config(files, "\"num_layers\": 1", "\"num_layers\": 18446744073709551616"),
        "cannot use config.json: config is not valid: invalid type: floating point `1.8446744073709552e+19`, expected usize at line 1 column 102",
    ),
    case(
        "a config with a negative number",
        |files| set_config(files, "\"vocab_size\": 32", "\"vocab_size\": -32"),
        "cannot use config.json: config is not valid: invalid value: integer `-32`, expected usize at line 1 column 102",
    ),
    case(
        "a config with an infinite scale",
        |files| set_config(files, "2.8284271", "1e39"),
        "cannot use config.json: config: embedding_scale is inf, expected a positive finite number",
    ),
    case(
        "a config that is no JSON",
        |files| put_config(files, b"emb_size: 8"),
        "cannot use config.json: config is not valid: expected value at line 1 column 1",
    ),
    case(
        "a config that is no text",
        |files| put_config(files, b"{\xff}"),
        "cannot read config.json: invalid utf-8 sequence of 1 bytes from index 1",
    ),
    case(
        "a config of nothing but brackets",
        |files| put_config(files, &b"[".repeat(10_000)),
        "cannot use config.json: config is not valid: invalid type: sequence, expected usize at line 1 column 1",
    ),
    case(
        "a config of 2 MB",
        |files| put_config(files, &b" ".repeat(2_000_000)),
        "config.json has 2000000 bytes, expected at most 1048576",
    ),
];

#[test]
fn a_folder_that_names_a_file_twice_is_refused() {
    struct Twice(MemoryFolder);
    impl grok1::Folder for Twice {
        fn name(&self) -> String {
            "twice".to_owned()
        }
        fn names(&self) -> std::io::Result<Vec<String>> {
            Ok([self.0.names()?, vec![NORM.to_owned()]].concat())
        }
        fn open(&self, name: &str) -> std::io::Result<std::sync::Arc<dyn grok1::Source>> {
            self.0.open(name)
        }
    }
    let mut folder = MemoryFolder::default();
    for (name, bytes) in good() {
        folder.insert(name, bytes);
    }
    let error = checkpoint::open_folder(&Twice(folder), None, None).unwrap_err();
    assert_eq!(error.to_string(), "twice: found tensor00001_000 twice, expected each tensor once");
}

#[test]
fn what_is_no_checkpoint_is_told_apart_from_what_is_not_there() {
    let root = env!("CARGO_MANIFEST_DIR");
    let message = |path: &str| checkpoint::open(path, None).unwrap_err().to_string().replace(root, "");
    assert_eq!(message(&format!("{root}/nowhere")), "/nowhere does not exist");
    let expected = "expected a GGUF or safetensors file, or a folder with either or with files tensor00000_000 to tensorNNNNN_000";
    assert_eq!(
        message(&format!("{root}/Cargo.toml")),
        format!("/Cargo.toml is not a checkpoint: found another file, {expected}")
    );
    assert_eq!(
        message(&format!("{root}/src")),
        format!("/src is not a checkpoint: found a folder without them, {expected}")
    );
}

#[test]
fn the_spellings_that_newer_writers_use_are_understood() {
    let mut files = good();
    replace(&mut files, NORM, b"\x8c\x15numpy.core.multiarray", b"\x8c\x16numpy._core.multiarray");
    replace(&mut files, EMBEDDING, b"\x89B\x00\x04\x00\x00", b"\x89\x8e\x00\x04\x00\x00\x00\x00\x00\x00");
    replace(&mut files, EMBEDDING, b"h\x03\x8c", b"j\x03\x00\x00\x00\x8c");
    // The frame no longer ends with the file, which readers need not notice.
    open(&files).unwrap();
}

#[test]
fn any_number_of_row_groups_that_divides_the_rows_is_understood() {
    for groups in [1, 2, 3, 4, 6, 12] {
        let mut files = good();
        put(&mut files, OUTPUT, &quantised((DType::I8, &[12, 8]), (DType::BF16, &[groups, 8])));
        let scales = open(&files).unwrap().layers[0].output.scales.clone().unwrap();
        assert_eq!((scales.inputs as u64, scales.data.len()), (12 / groups, groups * 8 * 2));
    }
}

/// Whatever is read without an error describes bytes that exist.
fn assert_sound(content: &Content, len: u64) {
    let arrays = match content {
        Content::Plain(array) => vec![array],
        Content::Quantised { weight, scales } => vec![weight, scales],
    };
    for array in arrays {
        assert!(array.payload.end <= len);
        let bytes = array.shape.iter().product::<u64>() * array.dtype.block_bytes();
        assert_eq!(array.payload.end - array.payload.start, bytes);
    }
}

#[test]
fn random_damage_never_panics() {
    let good = good();
    let mut numbers = Random(1);
    let mut random = |below| numbers.below(below);
    let opcodes = b"\x80\x95.(\x94hjN\x88\x89JKM\x8cCB\x8e)\x85\x86\x87t}u\x93\x81Rb";
    for _ in 0..20_000 {
        let mut bytes = good[[NORM, KEY][random(2)]].clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at] = opcodes[random(opcodes.len())],
                2 => _ = bytes.remove(at),
                _ => bytes.insert(at, opcodes[random(opcodes.len())]),
            }
        }
        let len = bytes.len() as u64;
        if let Ok(content) = pickle::read(&MemorySource::new("damaged", bytes)) {
            assert_sound(&content, len);
        }
    }
}
