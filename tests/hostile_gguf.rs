//! Damaged and hostile GGUF files, and those of other models: each gives one precise error, and nothing panics or grows.

use grok1::checkpoint::{self, Checkpoint, CheckpointError};
use grok1::{Classify, Error, ErrorKind, MemoryFolder, ModelConfig, Tokenizer};
use support::gguf::{self, Data, Gguf, Tensor, Value};

mod support {
    pub(crate) mod gguf;
}

/// A model of one small layer.
fn config() -> ModelConfig {
    let mut config = ModelConfig::grok1();
    config.layers = 1;
    config.width = 32;
    config.heads = 2;
    config.kv_heads = 1;
    config.head_dim = 16;
    config.experts = 2;
    config.ffn_width = 64;
    config.vocab = 4;
    config.context = 64;
    config
}

fn good() -> Gguf {
    let mut file = gguf::keys(&config());
    let tensors = gguf::tensors(&config()).into_iter();
    file.tensors.extend(tensors.map(|(name, dimensions)| {
        let elements = dimensions.iter().product::<usize>() as u64;
        Tensor { data: Data::Zeros(4 * elements), ..Tensor::f32(name, &dimensions, &[]) }
    }));
    file.set("tokenizer.ggml.model", "llama");
    file.set("tokenizer.ggml.tokens", gguf::texts(["[PAD]", "[BOS]", "[EOS]", "[UNK]"]));
    file.set("tokenizer.ggml.scores", gguf::floats([0.0; 4]));
    file.set("tokenizer.ggml.token_type", gguf::ints([3, 3, 3, 2]));
    file
}

fn open(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let mut folder = MemoryFolder::default();
    folder.insert("m.gguf", bytes);
    checkpoint::open_file(&folder, "m.gguf", None)
}

struct Case {
    name: &'static str,
    harm: fn(&mut Gguf),
    message: &'static str,
}

const fn case(name: &'static str, harm: fn(&mut Gguf), message: &'static str) -> Case {
    Case { name, harm, message }
}

/// Tells all cases that are not as they should be at once.
fn assert_messages(cases: &[Case]) {
    let mut wrong = String::new();
    for Case { name, harm, message } in cases {
        let mut file = good();
        harm(&mut file);
        match open(&file.bytes()) {
            Ok(_) => wrong += &format!("\n{name}: opens"),
            Err(error) => {
                let (kind, chain) = (error.kind(), Error::from(error).chain());
                let found = chain.strip_prefix("cannot use m.gguf: ").unwrap_or(&chain);
                if (kind, found) != (ErrorKind::Format, message) {
                    wrong += &format!("\n{name}: {kind:?} {found}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_good_file_opens() {
    let checkpoint = open(&good().bytes()).unwrap();
    assert_eq!(checkpoint.config, config());
    Tokenizer::new(checkpoint.vocabulary.unwrap()).unwrap();
}

#[test]
fn each_kind_of_damage_to_the_header_has_its_message() {
    assert_messages(HEADER);
}

#[test]
fn each_kind_of_damage_to_the_first_bytes_has_its_message() {
    let start = |rest: &[u8]| [&b"GGUF\x03\0\0\0"[..], &[0; 8], &1_u64.to_le_bytes(), rest].concat();
    let other = "m.gguf is not a checkpoint: found another file, expected a GGUF or safetensors file, or a folder \
                 with either or with files tensor00000_000 to tensorNNNNN_000";
    let other = other.replace("m.gguf", "memory/m.gguf");
    let end = "bytes should follow, but the file ends at byte";
    let cases: &[(&[u8], String)] = &[
        (b"", other.clone()),
        (b"GGU", other.clone()),
        (b"ggjt\x03\0\0\0", other),
        (b"GGUF", format!("byte 4: 4 {end} 4")),
        (b"GGUF\x03\0\0\0\0", format!("byte 8: 8 {end} 9")),
        (
            &start(&(1_u64 << 63).to_le_bytes()),
            "byte 24: a name of 9223372036854775808 bytes, expected at most 1024".to_owned(),
        ),
        (&start(&gguf::string(b"a\xffb")), "byte 24: the name a\\xffb is not UTF-8".to_owned()),
        (&start(&gguf::string(b"key")), format!("byte 35: 4 {end} 35")),
    ];
    for (bytes, message) in cases {
        let chain = Error::from(open(bytes).unwrap_err()).chain();
        assert_eq!(chain.strip_prefix("cannot use m.gguf: ").unwrap_or(&chain), message);
    }
}

#[test]
fn each_kind_of_damage_to_a_tensor_has_its_message() {
    assert_messages(TENSORS);
}

#[test]
fn each_value_that_cannot_be_has_its_message() {
    assert_messages(VALUES);
}

#[test]
fn what_another_model_needs_is_refused_by_its_name() {
    assert_messages(OTHERS);
}

/// Sets a key that nobody asks for, so that only reading it can fail.
fn other(file: &mut Gguf, value: Value) {
    file.keys.insert(0, ("other".to_owned(), value));
}

/// A file that ends after this value.
fn only(value: Value) -> Gguf {
    Gguf { keys: vec![("other".to_owned(), value)], alignment: 1, ..Gguf::new() }
}

/// Arrays in arrays.
fn nested(depth: usize) -> Value {
    let mut array = gguf::array(gguf::U32, 0, &[]);
    for _ in 0..depth {
        array = gguf::array(gguf::ARRAY, 1, &array.1);
    }
    array
}

const HEADER: &[Case] = &[
    case("version 1", |file| file.version = 1, "version 1, expected 2 or 3"),
    case("a later version", |file| file.version = 4, "version 4, expected 2 or 3"),
    case(
        "big-endian",
        |file| file.version = 3_u32.swap_bytes(),
        "numbers are big-endian, expected little-endian",
    ),
    case(
        "more keys than there are bytes",
        |file| *file = Gguf { counts: [Some(0), Some(u64::MAX)], alignment: 1, ..Gguf::new() },
        "byte 24: 8 bytes should follow, but the file ends at byte 24",
    ),
    case(
        "more tensors than there are bytes",
        |file| {
            file.counts[0] = Some(u64::MAX);
            file.tensors.clear();
            file.alignment = 1;
        },
        "byte 1079: 8 bytes should follow, but the file ends at byte 1079",
    ),
    case(
        "a key of many bytes",
        |file| file.keys.insert(0, ("k".repeat(1025), 1.into())),
        "byte 24: a name of 1025 bytes, expected at most 1024",
    ),
    case(
        "a text of 2^63 bytes",
        |file| *file = only(Value(gguf::STRING, (1_u64 << 63).to_le_bytes().to_vec())),
        "byte 49: 9223372036854775808 bytes should follow, but the file ends at byte 49",
    ),
    case(
        "a text of 2^64 - 1 bytes",
        |file| *file = only(Value(gguf::STRING, vec![0xff; 8])),
        "byte 49: 18446744073709551615 bytes should follow, but the file ends at byte 49",
    ),
    case(
        "an array of 2^63 numbers",
        |file| *file = only(gguf::array(10, 1 << 63, &[])),
        "byte 53: 18446744073709551615 bytes should follow, but the file ends at byte 53",
    ),
    case(
        "an array of 2^63 texts",
        |file| *file = only(gguf::array(gguf::STRING, 1 << 63, &[])),
        "byte 53: 8 bytes should follow, but the file ends at byte 53",
    ),
    case(
        "an array of 2^63 arrays",
        |file| *file = only(gguf::array(gguf::ARRAY, 1 << 63, &[])),
        "byte 53: 4 bytes should follow, but the file ends at byte 53",
    ),
    case(
        "a type that does not exist",
        |file| other(file, Value(13, vec![])),
        "byte 37: the value of \"other\" has type 13, expected 0 to 12",
    ),
    case(
        "an array of a type that does not exist",
        |file| other(file, gguf::array(99, 0, &[])),
        "byte 41: the value of \"other\" has type 99, expected 0 to 12",
    ),
    case(
        "arrays nested too deep",
        |file| other(file, nested(5)),
        "byte 89: the value of \"other\" has arrays nested more than 4 deep",
    ),
    case(
        "a key that is there twice",
        |file| file.keys.push(("grok.block_count".to_owned(), 1.into())),
        "key \"grok.block_count\" stands there twice",
    ),
    case(
        "a header without end",
        |file| other(file, gguf::array(0, 33 << 20, &vec![0; 33 << 20])),
        "byte 53: the header goes on beyond 33554432 bytes",
    ),
];

const TENSORS: &[Case] = &[
    case(
        "a tensor that is there twice",
        |file| {
            let copy = file.tensor("output_norm.weight").clone();
            file.tensors.push(copy);
        },
        "tensor \"output_norm.weight\" stands there twice",
    ),
    case(
        "no dimensions",
        |file| file.tensor("output_norm.weight").dimensions.clear(),
        "tensor \"output_norm.weight\": found 0 dimensions, expected 1 to 4",
    ),
    case(
        "too many dimensions",
        |file| file.tensor("output_norm.weight").dimensions = vec![1; 5],
        "tensor \"output_norm.weight\": found 5 dimensions, expected 1 to 4",
    ),
    case(
        "2^64 elements",
        |file| file.tensor("output_norm.weight").dimensions = vec![1 << 32; 2],
        "tensor \"output_norm.weight\": found f32 of dimensions [4294967296, 4294967296], expected less than 2^64 bytes",
    ),
    case(
        "2^64 bytes",
        |file| file.tensor("output_norm.weight").dimensions = vec![1 << 62],
        "tensor \"output_norm.weight\": found f32 of dimensions [4611686018427387904], expected less than 2^64 bytes",
    ),
    case(
        "no elements",
        |file| file.tensor("output_norm.weight").dimensions = vec![32, 0],
        "tensor \"output_norm.weight\": found dimensions [32, 0], expected [32] by the file's keys",
    ),
    case(
        "a type that was removed",
        |file| file.tensor("output_norm.weight").kind = 4,
        "tensor \"output_norm.weight\": found GGML type 4, expected a supported type",
    ),
    case(
        "a type that does not exist",
        |file| file.tensor("output_norm.weight").kind = u32::MAX,
        "tensor \"output_norm.weight\": found GGML type 4294967295, expected a supported type",
    ),
    case(
        "rows of less than a block",
        |file| {
            file.tensor("token_embd.weight").kind = 12;
        },
        "tensor \"token_embd.weight\": found q4_k in rows of 32, expected a multiple of 256",
    ),
    case(
        "misaligned",
        |file| file.tensor("output_norm.weight").offset = Some(16),
        "tensor \"output_norm.weight\": found offset 16, expected a multiple of 32",
    ),
    case(
        "past the end",
        |file| file.tensor("output_norm.weight").offset = Some(1 << 20),
        "tensor \"output_norm.weight\": found 128 bytes at offset 1048576 of the data at byte 1952, expected all of them before the file's end at byte 64800",
    ),
    case(
        "just past the end",
        |file| file.tensor("blk.0.layer_output_norm.weight").dimensions = vec![33],
        "tensor \"blk.0.layer_output_norm.weight\": found 132 bytes at offset 62720 of the data at byte 1952, expected all of them before the file's end at byte 64800",
    ),
    case(
        "at an offset near 2^64",
        |file| file.tensor("output_norm.weight").offset = Some(u64::MAX - 31),
        "tensor \"output_norm.weight\": found 128 bytes at offset 18446744073709551584 of the data at byte 1952, expected all of them before the file's end at byte 64800",
    ),
    case(
        "over another one",
        |file| file.tensor("output_norm.weight").offset = Some(32),
        "tensor \"output_norm.weight\": found bytes 1984..2112, expected none of \"token_embd.weight\"'s 1952..2464",
    ),
    case(
        "missing",
        |file| drop(file.remove("blk.0.attn_k.weight")),
        "there is no tensor \"blk.0.attn_k.weight\"",
    ),
    case(
        "experts missing",
        |file| drop(file.remove("blk.0.ffn_up_exps.weight")),
        "there is no tensor \"blk.0.ffn_up_exps.weight\"",
    ),
    case(
        "the last norm missing",
        |file| drop(file.remove("blk.0.layer_output_norm.weight")),
        "there is no tensor \"blk.0.layer_output_norm.weight\"",
    ),
    case(
        "the embedding missing",
        |file| drop(file.remove("token_embd.weight")),
        "there is no tensor \"token_embd.weight\"",
    ),
    case(
        "one expert missing",
        |file| {
            file.remove("blk.0.ffn_up_exps.weight");
            file.tensors.push(Tensor::f32("blk.0.ffn_up.0.weight", &[32, 64], &[0.0; 32 * 64]));
        },
        "there is no tensor \"blk.0.ffn_up.1.weight\"",
    ),
    case(
        "a layer too many",
        |file| file.set("grok.block_count", 2),
        "there is no tensor \"blk.1.attn_q.weight\"",
    ),
    case(
        "unknown",
        |file| file.tensors.push(Tensor::f32("blk.0.attn_q.bias", &[1], &[0.0])),
        "tensor \"blk.0.attn_q.bias\" has no place in the model",
    ),
    case(
        "both names of the last norm",
        |file| file.tensors.push(Tensor::f32("blk.0.post_ffw_norm.weight", &[1], &[0.0])),
        "tensor \"blk.0.post_ffw_norm.weight\" has no place in the model",
    ),
    case(
        "of another shape",
        |file| file.tensor("blk.0.attn_k.weight").dimensions = vec![16, 32],
        "tensor \"blk.0.attn_k.weight\": found dimensions [16, 32], expected [32, 16] by the file's keys",
    ),
    case(
        "an output projection of another shape",
        |file| file.tensors.push(Tensor::f32("output.weight", &[1], &[0.0])),
        "tensor \"output.weight\": found dimensions [1], expected [32, 4] by the file's keys",
    ),
    case(
        "of more dimensions",
        |file| file.tensor("output_norm.weight").dimensions = vec![16, 2],
        "tensor \"output_norm.weight\": found dimensions [16, 2], expected [32] by the file's keys",
    ),
    case(
        "experts of another number",
        |file| file.set("grok.expert_count", 4),
        "tensor \"blk.0.ffn_gate_inp.weight\": found dimensions [32, 2], expected [32, 4] by the file's keys",
    ),
];

const VALUES: &[Case] = &[
    case(
        "no architecture",
        |file| file.unset("general.architecture"),
        "general.architecture is missing, expected \"grok\"",
    ),
    case(
        "an architecture that is no text",
        |file| file.set("general.architecture", 7),
        "general.architecture is a u32, expected a text in UTF-8",
    ),
    case(
        "an architecture that is not UTF-8",
        |file| file.set("general.architecture", Value(gguf::STRING, gguf::string(&[0xff]))),
        "general.architecture is a string of other bytes, expected a text in UTF-8",
    ),
    case(
        "no layers",
        |file| file.unset("grok.block_count"),
        "grok.block_count is missing, expected a whole number",
    ),
    case(
        "no norm epsilon",
        |file| file.unset("grok.attention.layer_norm_rms_epsilon"),
        "grok.attention.layer_norm_rms_epsilon is missing, expected an f32",
    ),
    case(
        "negative layers",
        |file| file.set("grok.block_count", Value(gguf::I32, vec![0xff; 4])),
        "grok.block_count is negative, expected a whole number",
    ),
    case(
        "layers with a fraction",
        |file| file.set("grok.block_count", 1.0_f32),
        "grok.block_count is an f32, expected a whole number",
    ),
    case(
        "2^64 - 1 layers",
        |file| file.set("grok.block_count", Value(10, vec![0xff; 8])),
        "config: layers is 18446744073709551615, expected a positive size in range",
    ),
    case(
        "heads layer by layer",
        |file| file.set("grok.attention.head_count", gguf::ints([2])),
        "grok.attention.head_count is an array of 1, each an i32, expected a whole number",
    ),
    case(
        "no experts",
        |file| file.set("grok.expert_count", 0),
        "config: experts is 0, expected a positive size in range",
    ),
    case(
        "a scale that is no number",
        |file| file.set("grok.embedding_scale", f32::NAN),
        "config: embedding_scale is NaN, expected a positive finite number",
    ),
    case(
        "a cap that is no number",
        |file| file.set("grok.final_logit_softcapping", f32::NAN),
        "config: output_cap is NaN, expected a positive finite number",
    ),
    case(
        "a router cap of another type",
        |file| file.set("grok.router_logit_softcapping", "30"),
        "grok.router_logit_softcapping is a string, expected an f32",
    ),
    case(
        "an alignment of 0",
        |file| file.set("general.alignment", 0),
        "general.alignment is 0, expected a power of two",
    ),
    case(
        "an alignment of 3",
        |file| file.set("general.alignment", 3),
        "general.alignment is 3, expected a power of two",
    ),
    case(
        "an alignment of 2^63",
        |file| file.set("general.alignment", Value(10, (1_u64 << 63).to_le_bytes().to_vec())),
        "tensor \"token_embd.weight\": found 512 bytes at offset 0 of the data at byte 9223372036854775808, expected all of them before the file's end at byte 64832",
    ),
    case(
        "another vocabulary",
        |file| file.set("grok.vocab_size", 5),
        "grok.vocab_size is 5, expected 4, the rows of token_embd.weight",
    ),
    case(
        "heads of another size",
        |file| file.set("grok.attention.value_length", 8),
        "grok.attention.value_length is 8, expected the size of a head, 16",
    ),
    case(
        "part of a head rotated",
        |file| file.set("grok.rope.dimension_count", 8),
        "grok.rope.dimension_count is 8, expected the size of a head, 16",
    ),
    case(
        "a token beyond 32 bits",
        |file| file.set("tokenizer.ggml.eos_token_id", Value(10, vec![0xff; 8])),
        "tokenizer.ggml.eos_token_id is 18446744073709551615, expected a token",
    ),
    case(
        "no tokens",
        |file| file.unset("tokenizer.ggml.tokens"),
        "tokenizer.ggml.tokens is missing, expected an array of strings",
    ),
    case(
        "no scores",
        |file| file.unset("tokenizer.ggml.scores"),
        "tokenizer.ggml.scores is missing, expected an array of f32",
    ),
    case(
        "no types",
        |file| file.unset("tokenizer.ggml.token_type"),
        "tokenizer.ggml.token_type is missing, expected an array of i32",
    ),
    case(
        "tokens that are no texts",
        |file| file.set("tokenizer.ggml.tokens", gguf::ints([1; 4])),
        "tokenizer.ggml.tokens is an array of 4, each an i32, expected an array of strings",
    ),
    case(
        "scores that are no array",
        |file| file.set("tokenizer.ggml.scores", 1.0_f32),
        "tokenizer.ggml.scores is an f32, expected an array of f32",
    ),
    case(
        "too few scores",
        |file| file.set("tokenizer.ggml.scores", gguf::floats([0.0; 3])),
        "tokenizer.ggml.scores is an array of 3, expected an array of 4, as tokenizer.ggml.tokens is",
    ),
    case(
        "too many types",
        |file| file.set("tokenizer.ggml.token_type", gguf::ints([1; 5])),
        "tokenizer.ggml.token_type is an array of 5, expected an array of 4, as tokenizer.ggml.tokens is",
    ),
    case(
        "a type that does not exist",
        |file| file.set("tokenizer.ggml.token_type", gguf::ints([3, 3, -1, 2])),
        "tokenizer.ggml.token_type is -1 for token 2, expected 1 to 6",
    ),
    case(
        "a token that is not UTF-8",
        |file| {
            let tokens: Vec<_> = [&b"a"[..], b"b", b"\xc3(", b"d"].map(gguf::string).concat();
            file.set("tokenizer.ggml.tokens", gguf::array(gguf::STRING, 4, &tokens));
        },
        "tokenizer.ggml.tokens is \"\\xc3(\" for token 2, expected UTF-8",
    ),
    case(
        "a prefix that is neither true nor false",
        |file| file.set("tokenizer.ggml.add_space_prefix", Value(7, vec![2])),
        "tokenizer.ggml.add_space_prefix is a bool of 2, expected true or false",
    ),
];

const OTHERS: &[Case] = &[
    case(
        "another architecture",
        |file| file.set("general.architecture", "llama"),
        "architecture \"llama\" is not supported",
    ),
    case(
        "a dense feed-forward",
        |file| file.tensors.push(Tensor::f32("blk.0.ffn_gate.weight", &[1], &[0.0])),
        "a dense feed-forward beside the experts (blk.0.ffn_gate.weight) is not supported",
    ),
    case("YaRN", |file| file.set("grok.rope.scaling.type", "yarn"), "rope scaling \"yarn\" is not supported"),
    case(
        "scaled positions",
        |file| file.set("grok.rope.scaling.factor", 16.0_f32),
        "rope scaling by 16 is not supported",
    ),
    case(
        "scaled positions, by the older key",
        |file| file.set("grok.rope.scale_linear", 2.0_f32),
        "rope scaling by 2 is not supported",
    ),
    case(
        "attention temperature",
        |file| file.set("grok.attention.temperature_length", 1024),
        "attention temperature beyond 1024 positions is not supported",
    ),
    case(
        "scaled experts",
        |file| file.set("grok.expert_weights_scale", 2.5_f32),
        "a scale of 2.5 on experts is not supported",
    ),
    case(
        "a tokenizer of byte pairs",
        |file| file.set("tokenizer.ggml.model", "gpt2"),
        "tokenizer model \"gpt2\" is not supported",
    ),
    case(
        "a tokenizer that removes spaces",
        |file| file.set("tokenizer.ggml.remove_extra_whitespaces", true),
        "a tokenizer that removes spaces is not supported",
    ),
];

/// Grok-2 as llama.cpp converts it: what it needs first is named.
#[test]
fn grok_2_is_refused() {
    let mut file = good();
    file.set("grok.expert_feed_forward_length", 64);
    file.set("grok.feed_forward_length", 128);
    file.set("grok.final_logit_softcapping", 50.0_f32);
    file.set("grok.rope.scaling.type", "yarn");
    file.set("grok.rope.scaling.factor", 16.0_f32);
    file.set("grok.attention.temperature_length", 1024);
    file.set("tokenizer.ggml.model", "gpt2");
    for (role, dimensions) in [("gate", [32, 128]), ("up", [32, 128]), ("down", [128, 32])] {
        let name = format!("blk.0.ffn_{role}.weight");
        file.tensors.push(Tensor::f32(name, &dimensions, &[0.0; 32 * 128]));
    }
    file.tensors.push(Tensor::f32("output.weight", &[32, 4], &[0.0; 32 * 4]));
    let message = |file: &Gguf| Error::from(open(&file.bytes()).unwrap_err()).chain();
    assert_eq!(message(&file), "cannot use m.gguf: rope scaling \"yarn\" is not supported");
    file.unset("grok.rope.scaling.type");
    file.unset("grok.rope.scaling.factor");
    file.unset("grok.attention.temperature_length");
    file.set("tokenizer.ggml.model", "llama");
    assert_eq!(
        message(&file),
        "cannot use m.gguf: a dense feed-forward beside the experts (blk.0.ffn_down.weight) is not supported"
    );
}

#[test]
fn a_file_that_is_cut_off_is_refused_wherever_it_is() {
    let whole = good().bytes();
    for end in (0..4096).step_by(3).chain([whole.len() - 1]) {
        let error = open(&whole[..end]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Format, "{end}");
    }
}

#[test]
fn any_byte_of_a_header_may_be_wrong() {
    let whole = good().bytes();
    for at in 0..2048 {
        for bits in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= bits;
            // It may open or not.
            let _ = open(&bytes);
        }
    }
}
