//! What is written, read back.

use std::fs;
use std::sync::Arc;

use grok1::checkpoint::Synthetic;
use grok1::convert::{Conversion, Recipe};
use grok1::{
    Blob, Checkpoint, Control, DType, Layout, Matrix, MemoryFolder, MemorySource, ModelConfig, Scales,
    Tokenizer, checkpoint, quant,
};

use crate::gguf::{self, Gguf, Tensor};
use crate::models::{exact, fixtures, logits, open};
use crate::oracle::{Distance, Tensors};
use crate::random::Random;
use crate::scratch::Scratch;
use crate::{recipe, tiny, to_gguf};

/// Distance of the logits of the model at `path` from the truth of the trained one, over all prompts in the project.
fn distance(path: &std::path::Path) -> Distance {
    let (model, truth) = (open(path, exact()), Tensors::open(fixtures().join("tiny.safetensors")));
    let mut distance = Distance::default();
    for prompt in (0..100).map(|n| format!("p{n}")).filter(|prompt| truth.has(&format!("{prompt}.ids"))) {
        let rows = logits(&model, &truth.u32(&format!("{prompt}.ids")));
        let expected = truth.f32(&format!("{prompt}.truth_logits"));
        rows.iter().zip(expected.chunks_exact(2048)).for_each(|(row, truth)| distance.add(row, truth));
    }
    distance
}

#[test]
fn forms_that_hold_the_weights_meet_the_limits_of_exact_logits() {
    let scratch = Scratch::new("lossless");
    let int8_with_its_head = recipe("q8_0").except("token_embd=f32").unwrap();
    for (name, recipe) in [("f32", recipe("f32")), ("int8", int8_with_its_head)] {
        let path = scratch.path(&format!("{name}.gguf"));
        to_gguf(&tiny(), recipe, &path);
        let distance = distance(&path);
        assert!(distance.relative_rms() <= 2e-5 && distance.max_abs() <= 1e-3, "{name}: {distance:?}");
    }
}

#[test]
fn forms_of_16_bits_meet_the_limits_of_bf16_activations() {
    let scratch = Scratch::new("halves");
    for name in ["f16", "bf16"] {
        let path = scratch.path(&format!("{name}.gguf"));
        to_gguf(&tiny(), recipe(name), &path);
        let distance = distance(&path);
        eprintln!("{name}: {:.5}", distance.relative_rms());
        assert!(
            distance.relative_rms() <= 0.00395 && distance.mean_kl() <= 0.000_157,
            "{name}: {distance:?}"
        );
    }
    let folder = scratch.path("tiny-hf");
    Conversion::to_safetensors(&tiny()).run(&folder, &Control::new()).unwrap();
    let distance = distance(&folder);
    assert!(distance.relative_rms() <= 0.00395 && distance.mean_kl() <= 0.000_157, "{distance:?}");
}

fn bytes(blob: &Blob) -> Vec<u8> {
    let mut bytes = vec![0; blob.len() as usize];
    blob.read_at(0, &mut bytes).unwrap();
    bytes
}

/// All matrices of the layers.
fn matrices(checkpoint: &Checkpoint) -> impl Iterator<Item = &Matrix> {
    checkpoint.layers.iter().flat_map(|layer| {
        let attention = [&layer.query, &layer.key, &layer.value, &layer.output];
        attention.into_iter().chain(&layer.gate).chain(&layer.up).chain(&layer.down)
    })
}

#[test]
fn int8_becomes_q8_0_with_the_very_values_and_scales() {
    let (scratch, tiny) = (Scratch::new("int8"), tiny());
    let path = scratch.path("tiny.gguf");
    let report = to_gguf(&tiny, recipe("q8_0"), &path);
    let written = checkpoint::open(&path, None).unwrap();
    let mut blocks = 0;
    for (from, to) in matrices(&tiny).zip(matrices(&written)) {
        assert_eq!((from.inputs, from.outputs), (to.inputs, to.outputs), "{}", to.name);
        assert_eq!((to.dtype, to.layout), (DType::Q8_0, Layout::OutIn), "{}", to.name);
        let (codes, scales) = (bytes(&from.data), from.scales.as_ref().unwrap());
        let mut factors = vec![0.0; scales.data.len() as usize / 2];
        quant::dequantise(scales.dtype, &bytes(&scales.data), &mut factors).unwrap();
        let mut found = vec![0.0; to.inputs * to.outputs];
        quant::dequantise(DType::Q8_0, &bytes(&to.data), &mut found).unwrap();
        for (place, found) in found.iter().enumerate() {
            let (output, input) = (place / to.inputs, place % to.inputs);
            let code = f32::from(codes[input * to.outputs + output].cast_signed());
            let expected = code * factors[input / scales.inputs * to.outputs + output];
            assert_eq!(*found, expected, "{}, {output}, {input}", to.name);
        }
        blocks += found.len() as u64 / 32;
    }
    assert_eq!((report.int8.blocks, report.int8.inexact, report.int8.worst), (blocks, 0, 0.0));
}

#[test]
fn blocks_across_two_scales_are_counted_with_how_far_off_they_are() {
    let (scratch, mut tiny) = (Scratch::new("across"), tiny());
    // Scales for 16 inputs each, of the sizes 1 and 2 in turns: no block has one scale.
    let key = &mut tiny.layers[0].key;
    let factors: Vec<_> =
        (0..key.inputs / 16).flat_map(|group| vec![1.0 + (group % 2) as f32; key.outputs]).collect();
    let data: Vec<_> = factors.iter().flat_map(|x| x.to_le_bytes()).collect();
    let data = Blob::new(Arc::new(MemorySource::new("scales", data)), 0..4 * factors.len() as u64).unwrap();
    key.scales = Some(Scales { dtype: DType::F32, layout: Layout::InOut, inputs: 16, outputs: 1, data });
    let blocks = (key.inputs * key.outputs / 32) as u64;
    let report = to_gguf(&tiny, recipe("q8_0"), &scratch.path("tiny.gguf"));
    assert!(report.int8.inexact > blocks / 2 && report.int8.inexact <= blocks, "{report:?}");
    // Half a step of a block whose largest weight is 2 * 128, in units of the smaller scale.
    assert!((0.4..=1.02).contains(&report.int8.worst), "{report:?}");
}

#[test]
fn every_recipe_gives_a_file_that_opens_and_verifies() {
    let (scratch, tiny) = (Scratch::new("recipes"), tiny());
    for name in Recipe::names() {
        let path = scratch.path(&format!("{name}.gguf"));
        let conversion = Conversion::to_gguf(&tiny, recipe(name));
        let report = conversion.run(&path, &Control::new()).unwrap();
        assert_eq!(report.bytes, fs::metadata(&path).unwrap().len(), "{name}");
        let verified = conversion.verify(&path, &Control::new()).unwrap();
        let worst = verified.errors.iter().map(|(_, error)| *error).fold(0.0, f64::max);
        assert!(worst < 0.35, "{name}: {worst}");
        let written = checkpoint::open(&path, None).unwrap();
        assert_eq!(written.config, tiny.config, "{name}");
        assert_eq!(written.layers[0].router.dtype, DType::F32, "{name}");
    }
}

#[test]
fn mixes_give_each_matrix_the_type_of_the_table() {
    let (scratch, tiny) = (Scratch::new("mixes"), tiny());
    let path = scratch.path("tiny.gguf");
    to_gguf(&tiny, recipe("q4_k_m"), &path);
    let written = checkpoint::open(&path, None).unwrap();
    let layer = &written.layers[0];
    let found = [&layer.query, &layer.key, &layer.value, &layer.output, &layer.gate[0], &layer.up[7]];
    let expected = [DType::Q4K, DType::Q8_0, DType::Q8_0, DType::Q5K, DType::Q4K, DType::Q4K];
    assert_eq!(found.map(|matrix| matrix.dtype), expected);
    // A tied embedding is an output projection; half of the layers have more bits.
    assert_eq!(written.head.embedding.dtype, DType::Q6K);
    let downs: Vec<_> = written.layers.iter().map(|layer| layer.down[0].dtype).collect();
    assert_eq!(downs, [DType::Q4K, DType::Q4K, DType::Q6K, DType::Q6K]);
}

#[test]
fn the_vocabulary_goes_along_in_either_form() {
    let (scratch, tiny) = (Scratch::new("vocabulary"), tiny());
    let expected = Tokenizer::new(tiny.vocabulary.clone().unwrap()).unwrap();
    let file = scratch.path("tiny.gguf");
    to_gguf(&tiny, recipe("q8_0"), &file);
    // Through a vocabulary that was in a GGUF file.
    let folder = scratch.path("tiny-hf");
    let from_gguf = checkpoint::open(&file, None).unwrap();
    Conversion::to_safetensors(&from_gguf).run(&folder, &Control::new()).unwrap();
    for path in [file, folder] {
        let found = Tokenizer::new(checkpoint::open(&path, None).unwrap().vocabulary.unwrap()).unwrap();
        for text in ["To be, or not to be", "naïve café 你好\n\t x", " ", "[EOS] 🙂"] {
            assert_eq!(found.encode(text), expected.encode(text), "{}: {text:?}", path.display());
        }
    }
}

#[test]
fn safetensors_hold_what_gguf_holds() {
    let (scratch, tiny) = (Scratch::new("round"), tiny());
    let (direct, around) = (scratch.path("direct.gguf"), scratch.path("around.gguf"));
    to_gguf(&tiny, recipe("bf16"), &direct);
    let folder = scratch.path("tiny-hf");
    Conversion::to_safetensors(&tiny).split_at(4_000_000).run(&folder, &Control::new()).unwrap();
    to_gguf(&checkpoint::open(&folder, None).unwrap(), recipe("bf16"), &around);
    assert!(fs::read(direct).unwrap() == fs::read(around).unwrap());
}

/// A model whose rows no block divides, with keys of its own.
fn odd() -> (ModelConfig, Gguf) {
    let mut config = ModelConfig::grok1();
    config.layers = 2;
    config.width = 40;
    config.heads = 3;
    config.kv_heads = 1;
    config.head_dim = 32;
    config.experts = 3;
    config.ffn_width = 64;
    config.vocab = 32;
    config.context = 64;
    let mut random = Random(7);
    let mut file = gguf::keys(&config);
    file.set("general.name", "Odd");
    file.set("general.quantized_by", "a test");
    file.set("general.file_type", 99);
    file.set("tokenizer.chat_template", "{{ x }}");
    file.set("grok.some.list", gguf::ints([1, -2, 3]));
    file.tensors.extend(gguf::tensors(&config).into_iter().map(|(name, dimensions)| {
        let values: Vec<_> =
            (0..dimensions.iter().product()).map(|_: usize| random.float(-1.0, 1.0)).collect();
        Tensor::f32(name, &dimensions, &values)
    }));
    (config, file)
}

fn open_in_memory(name: &str, bytes: &[u8]) -> Checkpoint {
    let mut folder = MemoryFolder::default();
    folder.insert(name, bytes);
    checkpoint::open_file(&folder, name, None).unwrap()
}

#[test]
fn keys_that_nobody_knows_go_along() {
    let scratch = Scratch::new("keys");
    let (config, file) = odd();
    let path = scratch.path("odd.gguf");
    to_gguf(&open_in_memory("odd.gguf", &file.bytes()), recipe("f16"), &path);
    let written = fs::read(&path).unwrap();
    let holds = |part: &[u8]| written.windows(part.len()).any(|window| window == part);
    for (key, value) in &file.keys {
        let entry = [&gguf::string(key.as_bytes())[..], &value.0.to_le_bytes(), &value.1].concat();
        assert_eq!(holds(&entry), key != "general.file_type", "{key}");
    }
    assert_eq!(open_in_memory("odd.gguf", &written).config, config);
}

#[test]
fn what_a_host_changed_is_written_and_not_what_the_file_said() {
    let scratch = Scratch::new("host-changed");
    let mut checkpoint = open_in_memory("odd.gguf", &odd().1.bytes());
    (checkpoint.config.context, checkpoint.config.rope_base, checkpoint.config.eos) = (99, 5e5, 7);
    let path = scratch.path("odd.gguf");
    to_gguf(&checkpoint, recipe("f16"), &path);
    assert_eq!(checkpoint::open(&path, None).unwrap().config, checkpoint.config);
}

/// A small model of random weights of `dtype`.
fn synthetic(dtype: DType) -> Checkpoint {
    let mut config = ModelConfig::grok1();
    (config.layers, config.width, config.heads, config.kv_heads, config.head_dim) = (1, 256, 4, 2, 64);
    (config.experts, config.ffn_width, config.vocab, config.context) = (3, 256, 64, 64);
    let options = Synthetic::new().config(config).dtype(dtype).head_dtype(DType::F32);
    checkpoint::synthetic(&options).unwrap()
}

#[test]
fn every_stored_type_can_be_the_input() {
    let scratch = Scratch::new("inputs");
    for dtype in DType::ALL {
        let path = scratch.path(&format!("{dtype}.gguf"));
        let checkpoint = synthetic(dtype);
        let conversion = Conversion::to_gguf(&checkpoint, recipe("q8_0"));
        conversion.run(&path, &Control::new()).unwrap();
        let verified = conversion.verify(&path, &Control::new()).unwrap();
        let worst = verified.errors.iter().map(|(_, error)| *error).fold(0.0, f64::max);
        assert!(worst < 0.01, "{dtype}: {worst}");
    }
}

#[test]
fn scales_of_any_grain_are_in_the_weights_that_are_written() {
    let scratch = Scratch::new("grain");
    let mut checkpoint = synthetic(DType::F8E4M3);
    let key = &mut checkpoint.layers[0].key; // 256 -> 128
    let mut values = vec![0.0; 256 * 128];
    quant::dequantise(DType::F8E4M3, &bytes(&key.data), &mut values).unwrap();
    let numbers: Vec<f32> = (1..=6).map(|n| n as f32 * 0.25).collect();
    let data: Vec<_> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    let data = Blob::new(Arc::new(MemorySource::new("scales", data)), 0..24).unwrap();
    // Two by three tiles, the last of which are cut off.
    key.scales = Some(Scales { dtype: DType::F32, layout: Layout::OutIn, inputs: 100, outputs: 64, data });
    let path = scratch.path("f32.gguf");
    to_gguf(&checkpoint, recipe("f32"), &path);
    let mut found = vec![0.0; 256 * 128];
    let written = checkpoint::open(&path, None).unwrap();
    quant::dequantise(DType::F32, &bytes(&written.layers[0].key.data), &mut found).unwrap();
    for (place, (found, value)) in found.iter().zip(&values).enumerate() {
        let (output, input) = (place / 256, place % 256);
        assert_eq!(*found, value * numbers[output / 64 * 3 + input / 100], "{output}, {input}");
    }
}

#[test]
fn rows_that_blocks_do_not_divide_get_the_type_that_is_documented() {
    let scratch = Scratch::new("fallback");
    let path = scratch.path("odd.gguf");
    to_gguf(&open_in_memory("odd.gguf", &odd().1.bytes()), recipe("q4_k_m"), &path);
    let layer = &checkpoint::open(&path, None).unwrap().layers[0];
    // Rows of 40, 96 and 64.
    let found = [&layer.query, &layer.output, &layer.down[0]].map(|matrix| matrix.dtype);
    assert_eq!(found, [DType::F16, DType::Q5_1, DType::Q5_0]);
}

#[test]
fn a_set_of_files_is_the_same_model_as_one_file() {
    let (scratch, tiny) = (Scratch::new("split"), tiny());
    let (one, set) = (scratch.path("one.gguf"), scratch.path("set.gguf"));
    to_gguf(&tiny, recipe("q4_k_m"), &one);
    let conversion = Conversion::to_gguf(&tiny, recipe("q4_k_m")).split_at(1_000_000);
    let report = conversion.run(&set, &Control::new()).unwrap();
    assert!(report.files.len() > 2 && report.files[0].ends_with("set-00001-of-00006.gguf"), "{report:?}");
    conversion.verify(&set, &Control::new()).unwrap();
    // Any of its files opens it; merged again it is the same file.
    let merged = scratch.path("merged.gguf");
    to_gguf(&checkpoint::open(&report.files[2], None).unwrap(), recipe("q4_k_m"), &merged);
    assert!(fs::read(one).unwrap() == fs::read(merged).unwrap());
}

#[test]
fn weights_that_are_of_the_type_already_are_not_rounded_again() {
    let (scratch, tiny) = (Scratch::new("again"), tiny());
    let (first, second) = (scratch.path("first.gguf"), scratch.path("second.gguf"));
    to_gguf(&tiny, recipe("q3_k_m"), &first);
    to_gguf(&checkpoint::open(&first, None).unwrap(), recipe("q3_k_m"), &second);
    assert!(fs::read(first).unwrap() == fs::read(second).unwrap());
}
