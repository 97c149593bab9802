//! Damaged and hostile safetensors files, indexes and configurations, and those of other models: each gives one precise error, and
//! nothing panics or grows.

use std::time::{Duration, Instant};

use grok1::checkpoint::{self, Checkpoint, CheckpointError};
use grok1::{Classify, Control, Error, ErrorKind, MemoryFolder, Model, ModelConfig, ModelOptions};
use serde_json::{Value, json};
use support::safetensors::{self, File, Naming, Tensor};

mod support {
    pub(crate) mod safetensors;
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

/// A folder of it in two files.
struct Files {
    first: File,
    second: File,
    config: Value,
    index: Value,
    /// Whatever else there is, or takes the place of the above.
    others: Vec<(&'static str, Vec<u8>)>,
}

const NAMES: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
const INDEX: &str = "model.safetensors.index.json";
const EMBEDDING: &str = "model.embed_tokens.weight";
const QUERY: &str = "model.layers.0.attn.q_proj.weight";
const UP: &str = "model.layers.0.moe_block.experts.1.linear_v.weight";

fn good() -> Files {
    let tensors = safetensors::tensors(&config(), Naming::Hpcai).into_iter();
    let mut tensors: Vec<_> = tensors
        .map(|(name, shape)| Tensor::new(name, "F32", &shape, vec![0; 4 * shape.iter().product::<usize>()]))
        .collect();
    let second = File::of(tensors.split_off(9));
    let first = File::of(tensors);
    let named = [(NAMES[0].to_owned(), first.clone()), (NAMES[1].to_owned(), second.clone())];
    let index = safetensors::index(&named);
    Files { first, second, config: safetensors::config(&config(), Naming::Hpcai), index, others: Vec::new() }
}

impl Files {
    /// Makes fp8 of the query projection, with these scales.
    fn fp8(&mut self, scales: &[Tensor]) {
        *self.first.tensor(QUERY) = Tensor::new(QUERY, "F8_E4M3", &[32, 32], vec![0; 32 * 32]);
        for scale in scales {
            self.index["weight_map"][&scale.name] = json!(NAMES[1]);
            self.second.tensors.push(scale.clone());
        }
    }

    /// Takes everything of the first file's header but `header`.
    fn header(&mut self, header: impl Into<Vec<u8>>) {
        self.first.header = Some(header.into());
    }

    fn folder(&self) -> MemoryFolder {
        let mut folder = MemoryFolder::default();
        folder.insert("config.json", self.config.to_string().into_bytes());
        folder.insert(INDEX, self.index.to_string().into_bytes());
        folder.insert(NAMES[0], self.first.bytes());
        folder.insert(NAMES[1], self.second.bytes());
        for (name, bytes) in &self.others {
            folder.insert(*name, &**bytes);
        }
        folder
    }
}

fn open(folder: &MemoryFolder) -> Result<Checkpoint, CheckpointError> {
    checkpoint::open_folder(folder, None, None)
}

type Case = (&'static str, fn(&mut Files), &'static str);

/// Tells all cases that are not as they should be at once.
fn assert_messages(cases: &[Case]) {
    let mut wrong = String::new();
    for (name, harm, message) in cases {
        let mut files = good();
        harm(&mut files);
        match open(&files.folder()) {
            Ok(_) => wrong += &format!("\n{name}: opens"),
            Err(error) => {
                let (kind, chain) = (error.kind(), Error::from(error).chain());
                let found =
                    chain.strip_prefix("cannot use model-00001-of-00002.safetensors: ").unwrap_or(&chain);
                if (kind, found) != (ErrorKind::Format, message) {
                    wrong += &format!("\n{name}: {kind:?} {found}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_good_files_open() {
    let checkpoint = open(&good().folder()).unwrap();
    assert_eq!(checkpoint.config, config());
    assert!(checkpoint.vocabulary.is_none());
}

#[test]
fn each_kind_of_damage_to_a_header_has_its_message() {
    assert_messages(HEADER);
}

const HEADER: &[Case] = &[
    ("nothing", |f| f.others.push((NAMES[0], vec![])), "has 0 bytes, expected the 8 of the header's length"),
    (
        "seven bytes",
        |f| f.others.push((NAMES[0], vec![0; 7])),
        "has 7 bytes, expected the 8 of the header's length",
    ),
    (
        "a length beyond the file",
        |f| f.others.push((NAMES[0], 9_u64.to_le_bytes().to_vec())),
        "9 bytes of header should follow the length, but the file has 8 bytes",
    ),
    (
        "the longest length",
        |f| f.first.length = Some(u64::MAX),
        "a header of 18446744073709551615 bytes, expected at most 100000000",
    ),
    (
        "a length that is too long",
        |f| f.first.length = Some(100_000_001),
        "a header of 100000001 bytes, expected at most 100000000",
    ),
    (
        "no header",
        |f| f.first.length = Some(0),
        "its header is not valid: EOF while parsing a value at line 1 column 0",
    ),
    (
        "half a header",
        |f| f.first.length = Some(40),
        "its header is not valid: EOF while parsing a string at line 1 column 40",
    ),
    (
        "no UTF-8",
        |f| f.header(b"{\"a\xff\":{}}"),
        "its header is not valid: invalid unicode code point at line 1 column 4",
    ),
    (
        "a list",
        |f| f.header(b"[]"),
        "its header is not valid: invalid type: sequence, expected an object with a member for each tensor at line 1 column 0",
    ),
    (
        "more behind it",
        |f| f.header(b"{} {}"),
        "its header is not valid: trailing characters at line 1 column 4",
    ),
    (
        "a tensor of nothing",
        |f| f.header(b"{\"a\":null}"),
        "its header is not valid: invalid type: null, expected struct Entry at line 1 column 9",
    ),
    (
        "a tensor without a place",
        |f| f.header(br#"{"a":{"dtype":"F32","shape":[]}}"#),
        "its header is not valid: missing field `data_offsets` at line 1 column 31",
    ),
    (
        "a tensor with two places",
        |f| f.header(br#"{"a":{"data_offsets":[0,4],"data_offsets":[0,4]}}"#),
        "its header is not valid: duplicate field `data_offsets` at line 1 column 41",
    ),
    (
        "three offsets",
        |f| f.header(br#"{"a":{"data_offsets":[0,4,8]}}"#),
        "its header is not valid: trailing characters at line 1 column 27",
    ),
    (
        "a negative size",
        |f| f.header(br#"{"a":{"shape":[-1]}}"#),
        "its header is not valid: invalid value: integer `-1`, expected u64 at line 1 column 17",
    ),
    (
        "a fraction as a size",
        |f| f.header(br#"{"a":{"shape":[1.5]}}"#),
        "its header is not valid: invalid type: floating point `1.5`, expected u64 at line 1 column 18",
    ),
    (
        "a size beyond 64 bits",
        |f| f.header(br#"{"a":{"shape":[18446744073709551616]}}"#),
        "its header is not valid: invalid type: floating point `1.8446744073709552e+19`, expected u64 at line 1 column 35",
    ),
    (
        "a size beyond all numbers",
        |f| f.header(br#"{"a":{"shape":[1e999999999]}}"#),
        "its header is not valid: number out of range at line 1 column 26",
    ),
    (
        "nine axes",
        |f| f.header(br#"{"a":{"shape":[1,1,1,1,1,1,1,1,1,1]}}"#),
        "its header is not valid: invalid length 9, expected a list of at most 8 sizes at line 1 column 33",
    ),
    (
        "a long name",
        |f| f.first.tensors[0].name = "x".repeat(1025),
        "a tensor's name of 1025 bytes, expected at most 1024",
    ),
    (
        "a name twice",
        |f| f.first.tensors[1] = f.first.tensors[0].clone(),
        "tensor \"model.embed_tokens.weight\" is there twice",
    ),
];

#[test]
fn each_kind_of_damage_to_a_tensor_has_its_message() {
    assert_messages(TENSORS);
}

const TENSORS: &[Case] = &[
    (
        "an unknown type",
        |f| f.first.tensor(EMBEDDING).dtype = "I64".to_owned(),
        "tensor \"model.embed_tokens.weight\": found I64, expected F32, F16, BF16 or F8_E4M3",
    ),
    (
        "another fp8",
        |f| f.first.tensor(EMBEDDING).dtype = "F8_E4M3FNUZ".to_owned(),
        "tensor \"model.embed_tokens.weight\": found F8_E4M3FNUZ, expected F32, F16, BF16 or F8_E4M3",
    ),
    (
        "a type without an end",
        |f| f.first.tensor(EMBEDDING).dtype = "F".repeat(1 << 20),
        "tensor \"model.embed_tokens.weight\": found FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF, expected F32, F16, BF16 or F8_E4M3",
    ),
    (
        "elements beyond 64 bits",
        |f| f.first.tensor(EMBEDDING).shape = vec![1 << 32, 1 << 32],
        "tensor \"model.embed_tokens.weight\": found f32 [4294967296, 4294967296], expected less than 2^64 bytes",
    ),
    (
        "bytes beyond 64 bits",
        |f| f.first.tensor(EMBEDDING).shape = vec![1 << 31, 1 << 31],
        "tensor \"model.embed_tokens.weight\": found f32 [2147483648, 2147483648], expected less than 2^64 bytes",
    ),
    (
        "more bytes than the shape has",
        |f| f.first.tensor(EMBEDDING).shape = vec![4, 31],
        "tensor \"model.embed_tokens.weight\": found 512 bytes, expected 496 for f32 [4, 31]",
    ),
    (
        "the end before the start",
        |f| f.first.tensor(EMBEDDING).offsets = Some([512, 0]),
        "tensor \"model.embed_tokens.weight\": found bytes 512..0, expected a part of the 9344 bytes of data",
    ),
    (
        "an end beyond the file",
        |f| f.first.tensor(EMBEDDING).offsets = Some([9344, 9856]),
        "tensor \"model.embed_tokens.weight\": found bytes 9344..9856, expected a part of the 9344 bytes of data",
    ),
    (
        "an end near 2^64",
        |f| f.first.tensor(EMBEDDING).offsets = Some([0, u64::MAX]),
        "tensor \"model.embed_tokens.weight\": found bytes 0..18446744073709551615, expected a part of the 9344 bytes of data",
    ),
    (
        "shared bytes",
        |f| f.first.tensor("model.norm.scale").offsets = Some([511, 639]),
        "tensor \"model.norm.scale\": found bytes 511..639, expected none of \"model.embed_tokens.weight\"'s, which end at 512",
    ),
    (
        "the same bytes",
        |f| f.first.tensor("model.layers.0.post_attn_norm.scale").offsets = Some([512, 640]),
        "tensor \"model.norm.scale\": found bytes 512..640, expected none of \"model.layers.0.post_attn_norm.scale\"'s, which end at 640",
    ),
    (
        "an empty tensor inside another",
        |f| f.first.tensors.push(Tensor { offsets: Some([4, 4]), ..Tensor::new("x", "F32", &[0], vec![]) }),
        "tensor \"x\": found bytes 4..4, expected none of \"model.embed_tokens.weight\"'s, which end at 512",
    ),
    (
        "bytes between tensors",
        |f| f.first.tensors.insert(1, Tensor::new("x", "F32", &[0], vec![0; 4])),
        "tensor \"x\": found 4 bytes, expected 0 for f32 [0]",
    ),
    (
        "a hole",
        |f| {
            let embedding = f.first.tensor(EMBEDDING);
            (embedding.shape, embedding.offsets) = (vec![4, 31], Some([0, 496]));
        },
        "bytes 496..512 of the data are no tensor's",
    ),
    (
        "bytes behind the last tensor",
        |f| {
            let mut file = f.first.bytes();
            file.push(0);
            f.others.push((NAMES[0], file));
        },
        "bytes 9344..9345 of the data are no tensor's",
    ),
    (
        "a file cut short",
        |f| {
            let mut file = f.first.bytes();
            file.pop();
            f.others.push((NAMES[0], file));
        },
        "tensor \"model.layers.0.attn.v_proj.weight\": found bytes 7296..9344, expected a part of the 9343 bytes of data",
    ),
];

#[test]
fn what_is_no_safetensors_to_its_crate_is_none_here() {
    let accepted = |file: &[u8]| ::safetensors::SafeTensors::deserialize(file).is_ok();
    let mut stricter = Vec::new();
    for (name, harm, _) in HEADER.iter().chain(TENSORS) {
        let mut files = good();
        harm(&mut files);
        let replaced = files.others.iter().find(|(name, _)| *name == NAMES[0]);
        let file = replaced.map_or_else(|| files.first.bytes(), |(_, bytes)| bytes.clone());
        if accepted(&file) {
            stricter.push(*name);
        }
    }
    assert!(accepted(&good().first.bytes()));
    assert_eq!(stricter, ["a long name"]);
}

#[test]
fn each_kind_of_damage_to_an_index_has_its_message() {
    assert_messages(INDEXES);
}

const INDEXES: &[Case] = &[
    (
        "no JSON",
        |f| f.others.push((INDEX, b"weights".to_vec())),
        "cannot use model.safetensors.index.json: it is not a valid index: expected value at line 1 column 1",
    ),
    (
        "no map",
        |f| f.index = json!({ "metadata": {} }),
        "cannot use model.safetensors.index.json: it is not a valid index: missing field `weight_map` at line 1 column 15",
    ),
    (
        "numbers for files",
        |f| f.index = json!({ "weight_map": { "a": 1 } }),
        "cannot use model.safetensors.index.json: it is not a valid index: invalid type: integer `1`, expected a string at line 1 column 20",
    ),
    (
        "a file above",
        |f| f.index["weight_map"][EMBEDDING] = json!("../x.safetensors"),
        "cannot use model.safetensors.index.json: names the file \"../x.safetensors\", expected one in the same folder",
    ),
    (
        "a file in a folder",
        |f| f.index["weight_map"][EMBEDDING] = json!("a/x.safetensors"),
        "cannot use model.safetensors.index.json: names the file \"a/x.safetensors\", expected one in the same folder",
    ),
    (
        "a file anywhere",
        |f| f.index["weight_map"][EMBEDDING] = json!("/etc/x.safetensors"),
        "cannot use model.safetensors.index.json: names the file \"/etc/x.safetensors\", expected one in the same folder",
    ),
    (
        "another system's file",
        |f| f.index["weight_map"][EMBEDDING] = json!("..\\x.safetensors"),
        "cannot use model.safetensors.index.json: names the file \"..\\\\x.safetensors\", expected one in the same folder",
    ),
    (
        "the folder above",
        |f| f.index["weight_map"][EMBEDDING] = json!(".."),
        "cannot use model.safetensors.index.json: names the file \"..\", expected one in the same folder",
    ),
    (
        "the folder itself",
        |f| f.index["weight_map"][EMBEDDING] = json!("./"),
        "cannot use model.safetensors.index.json: names the file \"./\", expected one in the same folder",
    ),
    (
        "no name",
        |f| f.index["weight_map"][EMBEDDING] = json!(""),
        "cannot use model.safetensors.index.json: names the file \"\", expected one in the same folder",
    ),
    (
        "a missing file",
        |f| f.index["weight_map"][EMBEDDING] = json!("x.safetensors"),
        "cannot use model.safetensors.index.json: its file x.safetensors is missing",
    ),
    (
        "another kind of file",
        |f| {
            f.others.push(("a.txt", vec![b' '; 16]));
            f.index["weight_map"][EMBEDDING] = json!("a.txt");
        },
        "cannot use a.txt: a header of 2314885530818453536 bytes, expected at most 100000000",
    ),
    (
        "a tensor in the other file",
        |f| f.index["weight_map"][EMBEDDING] = json!(NAMES[1]),
        "cannot use model.safetensors.index.json: tensor \"model.embed_tokens.weight\" is in model-00001-of-00002.safetensors, expected model-00002-of-00002.safetensors by the index",
    ),
    (
        "a tensor that is nowhere",
        |f| drop(f.second.remove(UP)),
        "cannot use model.safetensors.index.json: tensor \"model.layers.0.moe_block.experts.1.linear_v.weight\" is in none of the files, expected model-00002-of-00002.safetensors by the index",
    ),
    (
        "a tensor it does not know",
        |f| drop(f.index["weight_map"].as_object_mut().unwrap().remove(UP)),
        "cannot use model.safetensors.index.json: tensor \"model.layers.0.moe_block.experts.1.linear_v.weight\" is in model-00002-of-00002.safetensors, expected none by the index",
    ),
    (
        "a tensor twice in it",
        |f| f.others.push((INDEX, br#"{"weight_map":{"a":"x","b":"x","a":"y"}}"#.to_vec())),
        "cannot use model.safetensors.index.json: tensor \"a\" is there twice",
    ),
    (
        "two of them",
        |f| f.others.push(("model.fp16.safetensors.index.json", b"{}".to_vec())),
        "memory: found model.fp16.safetensors.index.json and model.safetensors.index.json, expected one index, or the path of one",
    ),
    (
        "parts for several devices",
        |f| f.index["weight_map"][EMBEDDING] = json!("pytorch_model-00001-TP-003.safetensors"),
        "cannot use model.safetensors.index.json: a model cut for tensor parallelism (pytorch_model-00001-TP-003.safetensors) is not supported",
    ),
    (
        "far too long",
        |f| f.others.push((INDEX, vec![b' '; (32 << 20) + 1])),
        "cannot use model.safetensors.index.json: an index of 33554433 bytes, expected at most 33554432",
    ),
];

#[test]
fn files_without_an_index_must_fit_together() {
    let message = |folder: &MemoryFolder| Error::from(open(folder).unwrap_err()).chain();
    let mut folder = good().folder();
    folder.remove(INDEX);
    open(&folder).unwrap();
    folder.insert("model-copy.safetensors", good().second.bytes());
    assert_eq!(
        message(&folder),
        "cannot use model-copy.safetensors: tensor \"model.layers.0.attn.o_proj.weight\" is there twice"
    );
    folder.remove("model-copy.safetensors");
    folder.insert("x-TP-common.safetensors", good().second.bytes());
    assert_eq!(
        message(&folder),
        "cannot use memory: a model cut for tensor parallelism (x-TP-common.safetensors) is not supported"
    );
    folder.remove("x-TP-common.safetensors");
    folder.remove(NAMES[1]);
    let error = checkpoint::open_file(&folder, NAMES[0], None).unwrap_err();
    assert_eq!(
        Error::from(error).chain(),
        format!("cannot use memory/{}: its file {} is missing", NAMES[0], NAMES[1])
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    for name in ["model.safetensors", NAMES[0], INDEX] {
        let error = checkpoint::open_file(&MemoryFolder::default(), name, None).unwrap_err();
        assert_eq!(Error::from(error).chain(), format!("cannot read memory/{name}: entity not found"));
    }
}

#[test]
fn each_tensor_that_does_not_fit_the_model_has_its_message() {
    assert_messages(WEIGHTS);
}

/// Takes a tensor out of the files and the index.
fn remove(files: &mut Files, name: &str) {
    files.index["weight_map"].as_object_mut().unwrap().remove(name).unwrap();
    let file = if files.first.tensors.iter().any(|tensor| tensor.name == name) {
        &mut files.first
    } else {
        &mut files.second
    };
    file.remove(name);
}

/// Puts a tensor into the first file and the index.
fn add(files: &mut Files, tensor: Tensor) {
    files.index["weight_map"][&tensor.name] = json!(NAMES[0]);
    files.first.tensors.push(tensor);
}

fn scale(ending: &str, shape: &[usize]) -> Tensor {
    Tensor::of(format!("{QUERY}{ending}"), "F32", shape, &vec![1.0; shape.iter().product()])
}

const WEIGHTS: &[Case] = &[
    (
        "no query projection",
        |f| remove(f, QUERY),
        "cannot use memory: there is no tensor \"model.layers.0.attn.q_proj.weight\", nor one of its other names",
    ),
    (
        "an expert short",
        |f| remove(f, UP),
        "cannot use memory: there is no tensor \"model.layers.0.moe_block.experts.1.linear_v.weight\", nor one of its other names",
    ),
    (
        "a projection twice, under two names",
        |f| add(f, Tensor::new("model.layers.0.self_attn.q_proj.weight", "F32", &[1], vec![0; 4])),
        "tensor \"model.layers.0.self_attn.q_proj.weight\" has no place in the model",
    ),
    (
        "a layer too many",
        |f| add(f, Tensor::new("model.layers.1.attn.q_proj.weight", "F32", &[1], vec![0; 4])),
        "tensor \"model.layers.1.attn.q_proj.weight\" has no place in the model",
    ),
    (
        "a bias",
        |f| add(f, Tensor::new("model.layers.0.attn.q_proj.bias", "F32", &[1], vec![0; 4])),
        "tensor \"model.layers.0.attn.q_proj.bias\" has no place in the model",
    ),
    (
        "a dense feed-forward",
        |f| add(f, Tensor::new("model.layers.0.mlp.gate_proj.weight", "F32", &[1], vec![0; 4])),
        "a dense feed-forward beside the experts (model.layers.0.mlp.gate_proj.weight) is not supported",
    ),
    (
        "a transposed matrix",
        |f| f.first.tensor(EMBEDDING).shape = vec![32, 4],
        "tensor \"model.embed_tokens.weight\": found shape [32, 4], expected [4, 32] according to config.json",
    ),
    (
        "a matrix in a row",
        |f| f.first.tensor(QUERY).shape = vec![1024],
        "tensor \"model.layers.0.attn.q_proj.weight\": found shape [1024], expected [32, 32] according to config.json",
    ),
    (
        "a norm in a matrix",
        |f| f.first.tensor("model.norm.scale").shape = vec![1, 32],
        "tensor \"model.norm.scale\": found shape [1, 32], expected [32] according to config.json",
    ),
    (
        "another size than the configuration's",
        |f| f.config["intermediate_size"] = json!(48),
        "cannot use model-00002-of-00002.safetensors: tensor \"model.layers.0.moe_block.experts.0.linear.weight\": found shape [64, 32], expected [48, 32] according to config.json",
    ),
    (
        "fp8 without a scale",
        |f| f.fp8(&[]),
        "there is no tensor \"model.layers.0.attn.q_proj.weight_scale\" or \"model.layers.0.attn.q_proj.weight_scale_inv\" for the fp8 tensor \"model.layers.0.attn.q_proj.weight\"",
    ),
    (
        "fp8 with two scales",
        |f| f.fp8(&[scale("_scale", &[1]), scale("_scale_inv", &[1])]),
        "cannot use model-00002-of-00002.safetensors: tensor \"model.layers.0.attn.q_proj.weight_scale_inv\" has no place in the model",
    ),
    (
        "scales for inputs",
        |f| f.fp8(&[scale("_scale", &[1, 32])]),
        "cannot use model-00002-of-00002.safetensors: tensor \"model.layers.0.attn.q_proj.weight_scale\": found f32 [1, 32], expected scales of shape [1], [32, 1] or [1, 1] that are not fp8",
    ),
    (
        "no scales at all",
        |f| f.fp8(&[scale("_scale", &[0])]),
        "cannot use model-00002-of-00002.safetensors: tensor \"model.layers.0.attn.q_proj.weight_scale\": found f32 [0], expected scales of shape [1], [32, 1] or [1, 1] that are not fp8",
    ),
    (
        "scales in fp8",
        |f| {
            let name = format!("{QUERY}_scale");
            f.fp8(&[
                Tensor::new(&name, "F8_E4M3", &[1], vec![0]),
                Tensor::of(format!("{name}_scale"), "F32", &[1], &[1.0]),
            ]);
        },
        "cannot use model-00002-of-00002.safetensors: tensor \"model.layers.0.attn.q_proj.weight_scale\": found f8_e4m3 [1], expected scales of shape [1], [32, 1] or [1, 1] that are not fp8",
    ),
    (
        "scales of what is not fp8",
        |f| add(f, scale("_scale", &[1])),
        "tensor \"model.layers.0.attn.q_proj.weight_scale\" has no place in the model",
    ),
    (
        "a norm in fp8",
        |f| {
            *f.first.tensor("model.norm.scale") =
                Tensor::new("model.norm.scale", "F8_E4M3", &[32], vec![0; 32]);
            add(f, Tensor::of("model.norm.scale_scale", "F32", &[1], &[1.0]));
        },
        "tensor \"model.norm.scale\": found f8_e4m3, expected a norm that is not fp8",
    ),
];

#[test]
fn each_configuration_of_another_model_has_its_message() {
    assert_messages(CONFIGS);
}

const CONFIGS: &[Case] = &[
    (
        "no JSON",
        |f| f.others.push(("config.json", b"model".to_vec())),
        "cannot use config.json: config is not valid: expected value at line 1 column 1",
    ),
    (
        "no UTF-8",
        |f| f.others.push(("config.json", b"\xff".to_vec())),
        "cannot read config.json: invalid utf-8 sequence of 1 bytes from index 0",
    ),
    (
        "far too long",
        |f| f.others.push(("config.json", vec![b' '; (1 << 20) + 1])),
        "config.json has 1048577 bytes, expected at most 1048576",
    ),
    (
        "no width",
        |f| drop(f.config.as_object_mut().unwrap().remove("hidden_size")),
        "cannot use config.json: config is not valid: missing field `hidden_size` at line 1 column 576",
    ),
    (
        "no experts",
        |f| drop(f.config.as_object_mut().unwrap().remove("num_experts")),
        "cannot use config.json: config: num_experts is missing, expected num_experts or num_local_experts",
    ),
    (
        "no heads",
        |f| f.config["num_attention_heads"] = json!(0),
        "cannot use config.json: config: heads is 0, expected a positive size in range",
    ),
    (
        "too many layers",
        |f| f.config["num_hidden_layers"] = json!(u64::MAX),
        "cannot use config.json: config: layers is 18446744073709551615, expected a positive size in range",
    ),
    (
        "a number beyond f32",
        |f| f.config["rope_theta"] = json!(1e300),
        "cannot use config.json: config: rope_base is inf, expected a positive finite number",
    ),
    (
        "empty tiles",
        |f| f.config["quantization_config"] = json!({ "weight_block_size": [0, 128] }),
        "cannot use config.json: config: weight_block_size is [0, 128], expected positive sizes",
    ),
    (
        "SiLU",
        |f| f.config["hidden_act"] = json!("silu"),
        "cannot use config.json: config: activation \"silu\" is not supported",
    ),
    (
        "another architecture",
        |f| f.config["architectures"] = json!(["MixtralForCausalLM"]),
        "cannot use config.json: config: architecture \"MixtralForCausalLM\" is not supported",
    ),
    (
        "another type of model",
        |f| (f.config["architectures"], f.config["model_type"]) = (Value::Null, json!("mixtral")),
        "cannot use config.json: config: model type \"mixtral\" is not supported",
    ),
    (
        "scaled positions",
        |f| f.config["rope_scaling"] = json!({ "type": "yarn", "factor": 16.0 }),
        "cannot use config.json: config: rope_scaling is not supported",
    ),
    (
        "positions of a newer kind",
        |f| f.config["rope_parameters"] = json!({ "rope_theta": 5.0 }),
        "cannot use config.json: config: rope_parameters is not supported",
    ),
    (
        "Grok-2's positions",
        |f| f.config["rope_type"] = json!("original"),
        "cannot use config.json: config: rope type \"original\" is not supported",
    ),
    (
        "a window",
        |f| f.config["sliding_window"] = json!(4096),
        "cannot use config.json: config: a sliding window of 4096 positions is not supported",
    ),
    (
        "temperature",
        |f| f.config["attn_temperature_len"] = json!(1024),
        "cannot use config.json: config: attention temperature beyond 1024 positions is not supported",
    ),
    (
        "Grok-2",
        |f| {
            let grok2 = json!({
                "architectures": ["Grok1ForCausalLM"],
                "model_type": "git",
                "moe_intermediate_size": 16384,
                "residual_moe": true,
                "rope_type": "original",
                "scaling_factor": 16.0,
                "attn_temperature_len": 1024,
                "sliding_window_size": -1,
                "final_logit_softcapping": 50,
            });
            f.config.as_object_mut().unwrap().extend(grok2.as_object().unwrap().clone());
        },
        "cannot use config.json: config: a dense feed-forward beside the experts (residual_moe) is not supported",
    ),
];

#[test]
fn a_model_of_another_size_than_grok_1_needs_its_configuration() {
    let mut folder = good().folder();
    folder.remove("config.json");
    let chain = Error::from(open(&folder).unwrap_err()).chain();
    let expected = "memory has no config.json, in it or beside it, and is not Grok-1: cannot use \
                    model-00001-of-00002.safetensors: tensor \"model.embed_tokens.weight\": found shape [4, 32], \
                    expected [131072, 6144] according to Grok-1's release";
    assert_eq!(chain, expected);
}

#[test]
fn scales_that_are_not_numbers_are_refused_when_loaded() {
    for (value, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let mut files = good();
        let scales: Vec<f32> = (0..32).map(|row| if row == 3 { value } else { 1.0 }).collect();
        files.fp8(&[Tensor::of(format!("{QUERY}_scale"), "F32", &[32, 1], &scales)]);
        let checkpoint = open(&files.folder()).unwrap();
        let error = Model::load(checkpoint, ModelOptions::new().threads(1), &Control::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Format);
        assert_eq!(error.chain(), format!("{QUERY}: scale 3 is {text}, expected a finite number"));
    }
}

#[test]
fn json_that_goes_deep_or_on_and_on_is_refused_at_once() {
    let deep = |open: &str| open.repeat(20_000_000 / open.len());
    let headers = [
        deep("["),
        deep("{\"a\":"),
        format!("{{\"__metadata__\":{}", deep("[")),
        format!("{{\"a\":{{\"dtype\":{}", deep("{\"a\":")),
        format!("{{\"a\":{{\"shape\":{}", deep("[")),
        format!("{{\"a\":{{\"shape\":[{}", deep("1,")),
        format!("{{\"a\":{{\"more\":{}", deep("[")),
    ];
    let start = Instant::now();
    for text in headers {
        let mut files = good();
        files.header(text.clone());
        assert_refused(&files);
        let mut files = good();
        files.others.push((INDEX, text.into_bytes()));
        assert_refused(&files);
    }
    for open in ["[", "{\"a\":"] {
        let text = open.repeat((1 << 20) / open.len());
        let mut files = good();
        files.others.push(("config.json", format!("{{\"rope_scaling\":{text}").into_bytes()));
        assert_refused(&files);
    }
    // The longest header there may be.
    let mut files = good();
    files.header(vec![b'['; 100_000_000]);
    assert_refused(&files);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

fn assert_refused(files: &Files) {
    assert_eq!(open(&files.folder()).unwrap_err().kind(), ErrorKind::Format);
}
