//! GGUF files are opened as what they are, in one file or several, with any of the names their tensors have had.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use grok1::backend::scalar::Scalar;
use grok1::checkpoint::{self, Format, sentencepiece};
use grok1::{
    Blob, Checkpoint, Control, DType, Layout, Matrix, MemoryFolder, Model, ModelConfig, Precision, Tokenizer,
    Vocabulary, WeightStorage,
};
use serde_json::Value;
use support::gguf::{self, Gguf, Tensor};
use support::models::{exact, logits, tiny, tiny_path};
use support::oracle::{Distance, json, oracle};
use support::random::Random;

mod support {
    pub(crate) mod gguf;
    pub(crate) mod models;
    pub(crate) mod oracle;
    pub(crate) mod random;
}

/// A model of two small layers.
fn config() -> ModelConfig {
    let mut config = ModelConfig::grok1();
    config.layers = 2;
    config.width = 8;
    config.heads = 2;
    config.kv_heads = 1;
    config.head_dim = 6;
    config.experts = 3;
    config.ffn_width = 16;
    config.vocab = 32;
    config.context = 64;
    config
}

/// A file of random f32 weights.
fn small() -> Gguf {
    let mut random = Random(7);
    let mut file = gguf::keys(&config());
    file.tensors.extend(gguf::tensors(&config()).into_iter().map(|(name, dimensions)| {
        let values: Vec<_> =
            (0..dimensions.iter().product()).map(|_: usize| random.float(-1.0, 1.0)).collect();
        Tensor::f32(name, &dimensions, &values)
    }));
    file
}

/// Opens `opened` among files in memory.
fn open_among(files: &[(String, Vec<u8>)], opened: &str) -> Checkpoint {
    try_open_among(files, opened).unwrap_or_else(|message| panic!("{message}"))
}

fn try_open_among(files: &[(String, Vec<u8>)], opened: &str) -> Result<Checkpoint, String> {
    let mut folder = MemoryFolder::default();
    for (name, bytes) in files {
        folder.insert(name, &**bytes);
    }
    checkpoint::open_file(&folder, opened, None).map_err(|error| grok1::Error::from(error).chain())
}

fn open(file: &Gguf) -> Checkpoint {
    open_among(&[("model.gguf".to_owned(), file.bytes())], "model.gguf")
}

fn bytes(blob: &Blob) -> Vec<u8> {
    let mut bytes = vec![0; blob.len() as usize];
    blob.read_at(0, &mut bytes).unwrap();
    bytes
}

/// The bytes of every weight, in the order of the roles.
fn weights(checkpoint: &Checkpoint) -> Vec<Vec<u8>> {
    let mut all = vec![bytes(&checkpoint.head.embedding.data), bytes(&checkpoint.head.norm.data)];
    for layer in &checkpoint.layers {
        let norms =
            [&layer.attention_norm, &layer.post_attention_norm, &layer.moe_norm, &layer.post_moe_norm];
        all.extend(norms.map(|norm| bytes(&norm.data)));
        let alone = [&layer.query, &layer.key, &layer.value, &layer.output, &layer.router];
        let matrices = alone.into_iter().chain(&layer.gate).chain(&layer.up).chain(&layer.down);
        all.extend(matrices.map(|matrix| bytes(&matrix.data)));
    }
    all
}

/// Whether two files hold the same model, whatever they call its tensors.
fn assert_same(found: &Checkpoint, expected: &Checkpoint) {
    assert_eq!(found.config, expected.config);
    assert!(weights(found) == weights(expected));
}

fn tiny_vocabulary() -> Vocabulary {
    let bytes = fs::read(tiny_path().join("tokenizer.model")).unwrap();
    sentencepiece::vocabulary("tokenizer.model", &bytes).unwrap()
}

#[test]
fn a_file_opens_with_its_hyperparameters_and_weights_by_role() {
    let file = small();
    let checkpoint = open(&file);
    assert_eq!((checkpoint.format, checkpoint.format.name()), (Format::Gguf, "gguf"));
    assert_eq!(checkpoint.location, "model.gguf");
    assert_eq!(checkpoint.config, config());
    assert!(checkpoint.vocabulary.is_none());

    let stored = |name: &str| match &file.clone().tensor(name).data {
        gguf::Data::Bytes(bytes) => bytes.clone(),
        gguf::Data::Zeros(_) => unreachable!(),
    };
    let layer = &checkpoint.layers[1];
    let cases = [
        (&layer.query, "blk.1.attn_q.weight", 8, 12),
        (&layer.key, "blk.1.attn_k.weight", 8, 6),
        (&layer.value, "blk.1.attn_v.weight", 8, 6),
        (&layer.output, "blk.1.attn_output.weight", 12, 8),
        (&layer.router, "blk.1.ffn_gate_inp.weight", 8, 3),
        (&checkpoint.head.embedding, "token_embd.weight", 8, 32),
    ];
    for (matrix, name, inputs, outputs) in cases {
        let Matrix { dtype, layout, scales, .. } = matrix;
        assert_eq!((*dtype, *layout, scales.is_none()), (DType::F32, Layout::OutIn, true));
        assert_eq!((&*matrix.name, matrix.inputs, matrix.outputs), (name, inputs, outputs));
        assert_eq!(bytes(&matrix.data), stored(name));
    }
    let experts = [(&layer.gate, "gate", 8, 16), (&layer.up, "up", 8, 16), (&layer.down, "down", 16, 8)];
    for (matrices, role, inputs, outputs) in experts {
        let name = format!("blk.1.ffn_{role}_exps.weight");
        let whole = stored(&name);
        assert_eq!(matrices.len(), 3);
        for (expert, matrix) in matrices.iter().enumerate() {
            assert_eq!(matrix.name, format!("{name}[{expert}]"));
            assert_eq!((matrix.inputs, matrix.outputs), (inputs, outputs));
            assert_eq!(bytes(&matrix.data), &whole[expert * 512..][..512]);
        }
    }
    let norms = [
        (&layer.attention_norm, "blk.1.attn_norm.weight"),
        (&layer.post_attention_norm, "blk.1.attn_output_norm.weight"),
        (&layer.moe_norm, "blk.1.ffn_norm.weight"),
        (&layer.post_moe_norm, "blk.1.layer_output_norm.weight"),
        (&checkpoint.head.norm, "output_norm.weight"),
    ];
    for (norm, name) in norms {
        assert_eq!((&*norm.name, norm.len, bytes(&norm.data)), (name, 8, stored(name)));
    }

    let info = &checkpoint.tensors[10];
    assert_eq!((&*info.name, &*info.file), ("blk.0.ffn_gate_exps.weight", "model.gguf"));
    assert_eq!((info.dtype, &*info.shape, info.bytes), (DType::F32, &[3, 16, 8][..], 4 * 3 * 16 * 8));
    assert_eq!(checkpoint.tensors.len(), 26);
}

#[test]
fn weights_are_shown_where_they_lie() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("small-{}.gguf", std::process::id()));
    let file = small().bytes();
    fs::write(&path, &file).unwrap();
    let checkpoint = checkpoint::open(&path, None).unwrap();
    assert_eq!(checkpoint.location, path.display().to_string());
    let last = checkpoint.layers[1].post_moe_norm.data.slice().unwrap().unwrap();
    assert!(file.ends_with(last));
    fs::remove_file(&path).unwrap();
}

#[test]
fn version_2_reads_as_version_3() {
    let expected = open(&small());
    assert_same(&open(&Gguf { version: 2, ..small() }), &expected);
}

#[test]
fn tensors_are_found_at_any_alignment() {
    let expected = open(&small());
    for alignment in [1, 8, 4096] {
        let mut file = Gguf { alignment, ..small() };
        file.set("general.alignment", alignment as u32);
        assert_same(&open(&file), &expected);
    }
}

#[test]
fn numbers_may_be_of_any_width() {
    let mut file = small();
    file.set("grok.block_count", gguf::Value(10, 2_u64.to_le_bytes().to_vec()));
    file.set("grok.expert_count", gguf::Value(1, vec![3]));
    file.set("grok.rope.freq_base", gguf::Value(12, 10_000_f64.to_le_bytes().to_vec()));
    assert_same(&open(&file), &open(&small()));
}

#[test]
fn keys_that_nobody_needs_are_stepped_over() {
    let mut file = small();
    let inner = [&gguf::STRING.to_le_bytes()[..], &1_u64.to_le_bytes(), &gguf::string(b"\xff")].concat();
    file.set("other.nested", gguf::array(gguf::ARRAY, 2, &[inner.clone(), inner].concat()));
    file.set("other.bytes", gguf::Value(gguf::STRING, gguf::string(&[0xff; 100_000])));
    file.set("other.none", gguf::array(12, 0, &[]));
    file.set("other.doubles", gguf::array(12, 3, &[7; 24]));
    file.keys.rotate_right(4);
    assert_same(&open(&file), &open(&small()));
}

#[test]
fn a_file_without_the_newer_keys_has_grok_1s_values() {
    let mut file = small();
    for key in [
        "attention.key_length",
        "attention.value_length",
        "rope.dimension_count",
        "rope.freq_base",
        "vocab_size",
        "embedding_scale",
        "logit_scale",
        "attention.output_scale",
        "attn_logit_softcapping",
        "router_logit_softcapping",
    ] {
        file.unset(&format!("grok.{key}"));
    }
    // Without a size of their own, heads share the model's width.
    for (name, dimensions) in
        [("attn_q", [8, 8]), ("attn_k", [8, 4]), ("attn_v", [8, 4]), ("attn_output", [8, 8])]
    {
        for layer in 0..2 {
            let name = format!("blk.{layer}.{name}.weight");
            *file.tensor(&name) = Tensor::f32(&name, &dimensions, &vec![0.5; dimensions[0] * dimensions[1]]);
        }
    }
    let mut expected = config();
    expected.head_dim = 4;
    assert_eq!(open(&file).config, expected);
    let grok1 = ModelConfig::grok1();
    assert_eq!(
        (expected.embedding_scale, expected.output_scale, expected.attention_scale, expected.attention_cap),
        (grok1.embedding_scale, grok1.output_scale, grok1.attention_scale, Some(30.0))
    );
}

#[test]
fn keys_that_are_there_are_obeyed() {
    let mut file = small();
    file.set("grok.embedding_scale", 16.0_f32);
    file.set("grok.logit_scale", 0.25_f32);
    file.set("grok.attention.output_scale", 0.5_f32);
    file.set("grok.attn_logit_softcapping", 0.0_f32);
    file.set("grok.final_logit_softcapping", 50.0_f32);
    file.set("grok.rope.freq_base", 5000.0_f32);
    file.set("grok.rope.scaling.type", "none");
    file.set("grok.feed_forward_length", 99);
    file.set("grok.expert_feed_forward_length", 16);
    file.set("tokenizer.ggml.bos_token_id", 4);
    file.set("tokenizer.ggml.eos_token_id", 5);
    file.set("tokenizer.ggml.padding_token_id", 6);
    let mut expected = config();
    expected.embedding_scale = 16.0;
    expected.output_scale = 0.25;
    expected.attention_scale = 0.5;
    expected.attention_cap = None;
    expected.output_cap = Some(50.0);
    expected.rope_base = 5000.0;
    (expected.bos, expected.eos, expected.pad) = (4, 5, 6);
    assert_eq!(open(&file).config, expected);
}

/// Cuts a tensor into rows with names of their own.
fn cut(file: &mut Gguf, name: &str, parts: &[(String, Vec<usize>)]) {
    let gguf::Data::Bytes(data) = file.remove(name).data else { unreachable!() };
    let mut rest = &*data;
    for (name, dimensions) in parts {
        let (part, after) = rest.split_at(4 * dimensions.iter().product::<usize>());
        let data = gguf::Data::Bytes(part.to_vec());
        file.tensors.push(Tensor { data, ..Tensor::f32(name, dimensions, &[]) });
        rest = after;
    }
    assert!(rest.is_empty());
}

#[test]
fn experts_may_be_tensors_of_their_own() {
    let mut file = small();
    for layer in 0..2 {
        for (role, dimensions) in [("gate", vec![8, 16]), ("up", vec![8, 16]), ("down", vec![16, 8])] {
            let name = |expert| format!("blk.{layer}.ffn_{role}.{expert}.weight");
            let parts = [0, 1, 2].map(|expert| (name(expert), dimensions.clone()));
            cut(&mut file, &format!("blk.{layer}.ffn_{role}_exps.weight"), &parts);
        }
    }
    let found = open(&file);
    assert_eq!(found.layers[1].down[2].name, "blk.1.ffn_down.2.weight");
    assert_same(&found, &open(&small()));
}

#[test]
fn query_key_and_value_may_be_one_tensor() {
    let mut file = small();
    let parts = ["q", "k", "v"].map(|role| file.remove(&format!("blk.1.attn_{role}.weight")));
    let data = parts.map(|tensor| match tensor.data {
        gguf::Data::Bytes(bytes) => bytes,
        gguf::Data::Zeros(_) => unreachable!(),
    });
    let data = gguf::Data::Bytes(data.concat());
    file.tensors.push(Tensor { data, ..Tensor::f32("blk.1.attn_qkv.weight", &[8, 24], &[]) });
    let found = open(&file);
    assert_eq!(found.layers[1].value.name, "blk.1.attn_qkv.weight[value]");
    assert_same(&found, &open(&small()));
}

#[test]
fn the_last_norm_has_two_names() {
    let mut file = small();
    file.tensor("blk.1.layer_output_norm.weight").name = "blk.1.post_ffw_norm.weight".to_owned();
    assert_same(&open(&file), &open(&small()));
}

#[test]
fn dimensions_of_one_need_not_be_written() {
    let mut file = small();
    file.tensor("output_norm.weight").dimensions = vec![8, 1, 1, 1];
    assert_same(&open(&file), &open(&small()));
}

fn split(count: usize) -> Vec<(String, Vec<u8>)> {
    let files = small().split(count).into_iter().zip(1..);
    files.map(|(file, number)| (format!("small-{number:05}-of-{count:05}.gguf"), file.bytes())).collect()
}

#[test]
fn a_set_opens_by_any_of_its_files() {
    let expected = open(&small());
    let files = split(3);
    for (name, _) in &files {
        let found = open_among(&files, name);
        assert_same(&found, &expected);
        assert_eq!(found.location, "small-00001-of-00003.gguf");
        assert_eq!(found.tensors.len(), 26);
        assert_eq!(found.tensors[25].file, "small-00003-of-00003.gguf");
    }
    // A file of tensors only, and one without any.
    assert_same(&open_among(&split(26), "small-00007-of-00026.gguf"), &expected);
    assert_same(&open_among(&split(1), "small-00001-of-00001.gguf"), &expected);
}

/// Cuts a file at these places.
fn pieces(cuts: &[usize], name: fn(usize, usize) -> String) -> Vec<(String, Vec<u8>)> {
    let whole = small().bytes();
    let ends = [cuts, &[whole.len()]].concat();
    let count = ends.len();
    let starts = [&[0], cuts].concat();
    let parts = starts.into_iter().zip(ends).map(|(start, end)| whole[start..end].to_vec());
    parts.zip(1..).map(|(part, number)| (name(number, count), part)).collect()
}

#[test]
fn pieces_of_a_file_open_as_they_are() {
    let expected = open(&small());
    let name = |number, count| format!("small.gguf.part{number}of{count}");
    let length = small().bytes().len();
    let last = length - 40; // within the last expert's matrix but one row
    for cuts in [&[100, 1000][..], &[length / 2], &[5], &[last], &[]] {
        let files = pieces(cuts, name);
        for (opened, _) in &files {
            assert_same(&open_among(&files, opened), &expected);
        }
    }
    // What a cut goes through can be read but not shown.
    let found = open_among(&pieces(&[last], name), "small.gguf.part1of2");
    let layer = &found.layers[1];
    assert!(layer.post_moe_norm.data.slice().unwrap().is_some());
    assert!(layer.down[2].data.slice().unwrap().is_none());
    assert!(layer.down[1].data.slice().unwrap().is_some());
    assert_eq!(found.location, "small.gguf.part1of2 and 1 more");
}

#[test]
fn the_numbers_of_pieces_may_be_padded() {
    let expected = open(&small());
    let cuts: Vec<_> = (1..12).map(|piece| 64 * piece).collect();
    for name in [
        |number, count| format!("small.gguf.part{number}of{count}"),
        |number, count| format!("small.gguf.part{number:02}of{count}"),
    ] {
        let files = pieces(&cuts, name);
        for opened in [&files[0].0, &files[8].0, &files[9].0, &files[11].0] {
            assert_same(&open_among(&files, opened), &expected);
        }
    }
}

#[test]
fn a_set_that_does_not_hold_together_is_told_by_its_files() {
    let message = |files: &[(String, Vec<u8>)], opened: &str| try_open_among(files, opened).unwrap_err();
    let mut files = split(3);
    files.remove(1);
    assert_eq!(
        message(&files, "small-00003-of-00003.gguf"),
        "cannot use memory/small-00003-of-00003.gguf: its part small-00002-of-00003.gguf is missing"
    );
    let mut files = pieces(&[100, 200], |number, count| format!("a.part{number}of{count}"));
    files.remove(0);
    assert_eq!(message(&files, "a.part2of3"), "cannot use memory/a.part2of3: its part a.part1of3 is missing");

    let mut files = split(3);
    files[1].1 = files[2].1.clone();
    assert_eq!(
        message(&files, "small-00001-of-00003.gguf"),
        "cannot use small-00002-of-00003.gguf: split.no is 2, expected 1 by the name of the file"
    );
    let mut files = split(3);
    files[2].1 = split(4)[2].1.clone();
    assert_eq!(
        message(&files, "small-00001-of-00003.gguf"),
        "cannot use small-00003-of-00003.gguf: split.count is 4, expected 3 by the name of the file"
    );
    let renamed = [("small.gguf".to_owned(), split(3).remove(0).1)];
    assert_eq!(
        message(&renamed, "small.gguf"),
        "cannot use small.gguf: split.count is 3, expected 1 by the name of the file"
    );
    let mut first = small().split(2);
    first[0].tensors.pop();
    let files: Vec<_> = first
        .iter()
        .zip(1..)
        .map(|(file, number)| (format!("x-{number:05}-of-00002.gguf"), file.bytes()))
        .collect();
    assert_eq!(
        message(&files, "x-00002-of-00002.gguf"),
        "cannot use x-00001-of-00002.gguf: split.tensors.count is 26, expected 25, as many as there are"
    );
    let mut twice = small().split(2);
    let tensor = twice[0].tensors[0].clone();
    twice[1].tensors[0] = tensor;
    let files: Vec<_> = twice
        .iter()
        .zip(1..)
        .map(|(file, number)| (format!("x-{number:05}-of-00002.gguf"), file.bytes()))
        .collect();
    assert_eq!(
        message(&files, "x-00001-of-00002.gguf"),
        "cannot use x-00002-of-00002.gguf: tensor \"token_embd.weight\" stands there twice"
    );
    let other = [("a.part1of2".to_owned(), b"not a model".to_vec())];
    assert_eq!(
        message(&other, "a.part1of2"),
        "memory/a.part1of2 is not a checkpoint: found another file, expected a GGUF or safetensors file, or a folder \
         with either or with files tensor00000_000 to tensorNNNNN_000"
    );
}

#[test]
fn the_vocabulary_is_the_one_of_the_tokenizer_model() {
    let vocabulary = tiny_vocabulary();
    let found = open(&small().with_vocabulary(&vocabulary)).vocabulary.unwrap();
    assert!(found == vocabulary);

    let tokenizer = Tokenizer::new(found).unwrap();
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer/tiny_encode.jsonl");
    for line in fs::read_to_string(cases).unwrap().lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let Some(text) = case["text"].as_str() else { continue };
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text), expected, "{text:?}");
        assert_eq!(tokenizer.decode(&expected).unwrap(), case["decoded"].as_str().unwrap());
    }

    let Some(oracle) = oracle() else { return };
    let bytes = fs::read(oracle.join("tokenizer/grok1.tokenizer.model")).unwrap();
    let grok1 = sentencepiece::vocabulary("tokenizer.model", &bytes).unwrap();
    assert!(open(&small().with_vocabulary(&grok1)).vocabulary.unwrap() == grok1);
}

#[test]
fn special_tokens_that_are_not_named_are_grok_1s() {
    let vocabulary = tiny_vocabulary();
    let mut file = small().with_vocabulary(&vocabulary);
    for key in ["unknown_token_id", "bos_token_id", "eos_token_id", "padding_token_id", "add_space_prefix"] {
        file.unset(&format!("tokenizer.ggml.{key}"));
    }
    assert!(open(&file).vocabulary.unwrap() == vocabulary);
}

#[test]
fn a_tokenizer_that_is_given_takes_the_place_of_the_vocabulary() {
    let mut file = small().with_vocabulary(&tiny_vocabulary());
    file.set("tokenizer.ggml.model", "gpt2");
    let mut folder = MemoryFolder::default();
    folder.insert("model.gguf", file.bytes());
    let given = fs::read(tiny_path().join("tokenizer.model")).unwrap();
    let given = grok1::MemorySource::new("given", given);
    let checkpoint = checkpoint::open_file(&folder, "model.gguf", Some(&given)).unwrap();
    assert!(checkpoint.vocabulary.unwrap() == tiny_vocabulary());
}

#[test]
fn a_folder_with_the_files_of_one_model_opens_as_that_model() {
    let (whole, split) = (small().bytes(), small().split(2));
    let folder = |files: &[(&str, &[u8])]| {
        let mut folder = MemoryFolder::default();
        folder.insert("README.md", *b"# A model");
        files.iter().for_each(|(name, bytes)| folder.insert(*name, *bytes));
        checkpoint::open_folder(&folder, None, None).map_err(|error| grok1::Error::from(error).chain())
    };
    let (first, second) = (split[0].bytes(), split[1].bytes());
    let models: [&[(&str, &[u8])]; 4] = [
        &[("x.gguf", &whole)],
        &[("x-00001-of-00002.gguf", &first), ("x-00002-of-00002.gguf", &second)],
        &[("x.gguf.part1of2", &whole[..99]), ("x.gguf.part2of2", &whole[99..])],
        &[
            ("x.gguf.part1of3", &whole[..9]),
            ("x.gguf.part2of3", &whole[9..99]),
            ("x.gguf.part3of3", &whole[99..]),
        ],
    ];
    for files in models {
        assert_eq!(folder(files).unwrap().config, config());
    }
    assert_eq!(
        folder(&[("x.gguf", &whole), ("y.gguf", &whole)]).unwrap_err(),
        "memory: found x.gguf and y.gguf, expected one model, or the path of one"
    );
    assert_eq!(
        folder(&[("x.gguf", b"not a model")]).unwrap_err(),
        "memory is not a checkpoint: found a folder without them, expected a GGUF or safetensors file, or a folder \
         with either or with files tensor00000_000 to tensorNNNNN_000"
    );
}

/// The values of an int8 or f32 matrix, as `[outputs, inputs]`.
fn dequantised(matrix: &Matrix) -> Vec<f32> {
    let Matrix { inputs, outputs, data, .. } = matrix;
    let (inputs, outputs) = (*inputs, *outputs);
    let stored = bytes(data);
    let value: Box<dyn Fn(usize, usize) -> f32> = match &matrix.scales {
        None => {
            let stored: Vec<_> = stored.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
            match matrix.layout {
                Layout::OutIn => return stored,
                _ => Box::new(move |input, output| stored[input * outputs + output]),
            }
        }
        Some(scales) => {
            let (rows, scales) = (scales.inputs, bytes(&scales.data));
            let scales: Vec<_> =
                scales.as_chunks().0.iter().map(|x| half::bf16::from_le_bytes(*x).to_f32()).collect();
            Box::new(move |input, output| {
                let scale = scales[input / rows * outputs + output];
                f32::from(stored[input * outputs + output].cast_signed()) * scale
            })
        }
    };
    (0..outputs)
        .flat_map(|output| (0..inputs).map(move |input| (input, output)))
        .map(|(i, o)| value(i, o))
        .collect()
}

/// The trained model as a GGUF file of f32.
fn tiny_f32() -> Gguf {
    let checkpoint = checkpoint::open(tiny_path(), None).unwrap();
    let floats = |blob: &Blob| -> Vec<f32> {
        bytes(blob).as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
    };
    let experts = |matrices: &[Matrix]| matrices.iter().flat_map(dequantised).collect();
    let mut values = vec![dequantised(&checkpoint.head.embedding), floats(&checkpoint.head.norm.data)];
    for layer in &checkpoint.layers {
        values.extend([
            floats(&layer.attention_norm.data),
            dequantised(&layer.query),
            dequantised(&layer.key),
            dequantised(&layer.value),
            dequantised(&layer.output),
            floats(&layer.post_attention_norm.data),
            floats(&layer.moe_norm.data),
            dequantised(&layer.router),
            experts(&layer.gate),
            experts(&layer.up),
            experts(&layer.down),
            floats(&layer.post_moe_norm.data),
        ]);
    }
    let config = &checkpoint.config;
    let mut file = gguf::keys(config).with_vocabulary(checkpoint.vocabulary.as_ref().unwrap());
    file.tensors.extend(
        gguf::tensors(config)
            .into_iter()
            .zip(&values)
            .map(|((name, dimensions), values)| Tensor::f32(name, &dimensions, values)),
    );
    file
}

#[test]
fn a_file_of_the_trained_models_values_gives_its_logits() {
    let whole = tiny_f32().bytes();
    let text = "ROMEO: But soft, what light through yonder window breaks?";
    let expected_model = tiny(exact());
    let tokens = expected_model.tokenizer().unwrap().encode(text);
    let expected = logits(&expected_model, &tokens);
    // One file; and three pieces, whose cuts go through matrices.
    let third = whole.len() / 3 + 1;
    let parts =
        whole.chunks(third).zip(1..).map(|(part, n)| (format!("t.part{n}of3"), part.to_vec())).collect();
    for (files, storage) in [
        (vec![("t.gguf".to_owned(), whole.clone())], WeightStorage::Mapped),
        (vec![("t.gguf".to_owned(), whole.clone())], WeightStorage::Owned),
        (parts, WeightStorage::Mapped),
    ] {
        let checkpoint = open_among(&files, &files[0].0);
        let model = Model::load(checkpoint, exact().weights(storage), &Control::new()).unwrap();
        assert_eq!(model.tokenizer().unwrap().encode(text), tokens);
        let mut distance = Distance::default();
        for (found, expected) in logits(&model, &tokens).iter().zip(&expected) {
            distance.add(found, expected);
        }
        assert!(distance.relative_rms() <= 1e-5, "{distance:?}");
    }
}

/// What small models say to some tokens, on the processor and by definition.
fn small_logits(file: &Gguf) -> [Vec<Vec<f32>>; 2] {
    let scalar = Scalar::new(config(), Precision::Exact);
    let models = [
        Model::load(open(file), exact(), &Control::new()).unwrap(),
        Model::load_on(scalar, open(file), exact(), &Control::new()).unwrap(),
    ];
    models.map(|model| logits(&model, &[3, 1, 4, 1, 5]))
}

#[test]
fn an_output_projection_of_its_own_takes_the_place_of_the_embedding() {
    let tied = small();
    let mut file = tied.clone();
    let gguf::Data::Bytes(embedding) = &file.tensor("token_embd.weight").data else { unreachable!() };
    let doubled: Vec<_> =
        embedding.as_chunks().0.iter().map(|value| 2.0 * f32::from_le_bytes(*value)).collect();
    file.tensors.push(Tensor::f32("output.weight", &[8, 32], &doubled));
    for (found, expected) in small_logits(&file).iter().zip(&small_logits(&tied)) {
        let expected: Vec<Vec<f32>> =
            expected.iter().map(|row| row.iter().map(|logit| 2.0 * logit).collect()).collect();
        assert_eq!(found, &expected);
    }

    let (untied, tied) = (open(&file), open(&tied));
    assert_eq!(untied.bytes(), tied.bytes() + 4 * 8 * 32);
    assert_eq!(untied.bytes_per_token(), tied.bytes_per_token() + 4 * 8);
    let fingerprint = |checkpoint: &Checkpoint| checkpoint.fingerprint(&Control::new()).unwrap();
    assert_ne!(fingerprint(&untied), fingerprint(&tied));
}

#[test]
fn every_file_of_the_oracle_opens_with_its_types_and_shapes() {
    let Some(formats) = oracle().map(|oracle| oracle.join("formats")) else { return };
    let goldens = json(formats.join("goldens.json"));
    let tiny = checkpoint::open(tiny_path(), None).unwrap();
    let files: Vec<PathBuf> = fs::read_dir(&formats).unwrap().map(|entry| entry.unwrap().path()).collect();
    let files: Vec<_> = files.iter().filter(|path| path.extension().is_some_and(|e| e == "gguf")).collect();
    assert_eq!(files.len(), 7);
    for path in files {
        let golden = &goldens[path.file_name().unwrap().to_str().unwrap()];
        let found = checkpoint::open(path, None).unwrap();
        let mut config = tiny.config.clone();
        config.layers = golden["layers"].as_u64().unwrap() as usize;
        assert_eq!(found.config, config, "{}", path.display());
        assert!(found.vocabulary == tiny.vocabulary);

        let mut types = BTreeMap::<_, u64>::new();
        for tensor in &found.tensors {
            *types.entry(tensor.dtype.name().to_uppercase()).or_default() += 1;
        }
        let expected: BTreeMap<String, u64> = serde_json::from_value(golden["tensor_types"].clone()).unwrap();
        assert_eq!(types, expected.into_iter().map(|(name, count)| (name.to_uppercase(), count)).collect());

        let mut shapes: Vec<_> = gguf::tensors(&config);
        shapes.sort();
        let mut stored: Vec<_> = found
            .tensors
            .iter()
            .map(|tensor| {
                (tensor.name.clone(), tensor.shape.iter().rev().map(|&size| size as usize).collect())
            })
            .collect();
        stored.sort();
        assert_eq!(stored, shapes);
        // The end of the last tensor is, but for padding, the end of the file.
        let bytes: u64 = found.tensors.iter().map(|tensor| tensor.bytes).sum();
        assert_eq!(bytes, found.bytes());
        assert!(golden["bytes"].as_u64().unwrap().abs_diff(bytes) < 100_000);
    }
}

#[cfg(unix)]
#[test]
fn full_size_grok_1_in_nine_files_opens_and_is_planned_at_once() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nine-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let config = ModelConfig::grok1();
    // As many pieces as Grok-1 has, of the usual length.
    let mut vocabulary = tiny_vocabulary();
    vocabulary.entries.truncate(4);
    vocabulary.entries.extend((4..config.vocab).map(|id| grok1::VocabEntry {
        text: format!("\u{2581}{id}"),
        score: -(id as f32),
        kind: grok1::PieceKind::Normal,
    }));
    let mut file = gguf::keys(&config).with_vocabulary(&vocabulary);
    file.tensors.extend(gguf::tensors(&config).into_iter().map(|(name, dimensions)| {
        let dtype = if dimensions.len() == 1 { DType::F32 } else { DType::Q8_0 };
        gguf::zeros(name, &dimensions, dtype)
    }));
    for (file, number) in file.split(9).into_iter().zip(1..) {
        file.write_sparse(&folder.join(format!("grok-{number:05}-of-00009.gguf"))).unwrap();
    }
    let start = std::time::Instant::now();
    let opened = checkpoint::open(folder.join("grok-00005-of-00009.gguf"), None);
    let plan = opened.as_ref().map(|opened| opened.plan(&grok1::PlanOptions::new()));
    let elapsed = start.elapsed();
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(plan.unwrap().weights / 1_000_000_000, 335);
    let opened = opened.unwrap();
    eprintln!("opened in {elapsed:?}");
    assert_eq!(opened.config, config);
    assert_eq!(opened.vocabulary.unwrap().entries.len(), 131_072);
    assert_eq!(opened.tensors.len(), 2 + 64 * 12);
    assert!(elapsed < std::time::Duration::from_secs(1), "{elapsed:?}");
}
