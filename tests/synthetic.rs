//! Models of random weights: the same bytes however they are read, of every type, and fit to be run.

mod support {
    pub(crate) mod models;
    pub(crate) mod random;
}

use std::time::Instant;

use grok1::backend::{Observer, Routing};
use grok1::checkpoint::{self, Checkpoint, Format, Synthetic, SyntheticError};
use grok1::quant::dequantise;
use grok1::{
    Control, DType, Entry, ErrorKind, Layout, Matrix, Model, ModelConfig, ModelError, ModelOptions, Want,
};
use half::bf16;
use support::models::run_all;
use support::random::Random;
use xxhash_rust::xxh3::xxh3_64;

/// Rows of whole super-blocks, and otherwise small.
const SMALL: &str = "layers=3,width=256,heads=8,kv_heads=2,head_dim=32,ffn=512,vocab=1024,context=512";

fn small(dtype: DType) -> Synthetic {
    format!("{SMALL},type={dtype}").parse().unwrap()
}

fn checkpoint(options: &Synthetic) -> Checkpoint {
    checkpoint::synthetic(options).unwrap()
}

fn matrices(checkpoint: &Checkpoint) -> Vec<&Matrix> {
    let layers = checkpoint.layers.iter().flat_map(|layer| {
        let alone = [&layer.query, &layer.key, &layer.value, &layer.output, &layer.router];
        alone.into_iter().chain(&layer.gate).chain(&layer.up).chain(&layer.down)
    });
    [&checkpoint.head.embedding].into_iter().chain(layers).collect()
}

fn bytes(matrix: &Matrix) -> Vec<u8> {
    let mut bytes = vec![0; matrix.data.len() as usize];
    matrix.data.read_at(0, &mut bytes).unwrap();
    bytes
}

/// The elements as they are stored, with their scales.
fn values(matrix: &Matrix) -> Vec<f32> {
    let mut values = vec![0.0; matrix.inputs * matrix.outputs];
    dequantise(matrix.dtype, &bytes(matrix), &mut values).unwrap();
    if let Some(scales) = &matrix.scales {
        assert_eq!(matrix.layout, Layout::InOut);
        let mut factors = vec![0; scales.data.len() as usize];
        scales.data.read_at(0, &mut factors).unwrap();
        for (index, value) in values.iter_mut().enumerate() {
            let (input, output) = (index / matrix.outputs, index % matrix.outputs);
            let place = 2 * (input / (scales.inputs) * matrix.outputs + output);
            *value *= bf16::from_le_bytes([factors[place], factors[place + 1]]).to_f32();
        }
    }
    values
}

#[test]
fn ranges_are_the_same_bytes_in_whatever_cuts_they_are_read() {
    let mut random = Random(1);
    for dtype in DType::ALL {
        let checkpoint = checkpoint(&small(dtype));
        let matrix = &checkpoint.layers[1].gate[3];
        let whole = bytes(matrix);
        let mut cut = vec![0; whole.len()];
        let mut rest = &mut cut[..];
        let mut at = 0;
        while !rest.is_empty() {
            let bound = if random.below(4) == 0 { 20_000 } else { 20 };
            let (part, after) = rest.split_at_mut(rest.len().min(random.below(bound)));
            matrix.data.read_at(at, part).unwrap();
            at += part.len() as u64;
            rest = after;
        }
        assert!(cut == whole, "{dtype}");
        assert!(matrix.data.read_at(whole.len() as u64 - 1, &mut [0; 2]).is_err());
        assert!(matrix.data.read_at(u64::MAX, &mut [0; 2]).is_err());
        assert_eq!(matrix.data.slice().unwrap(), None);
    }
}

#[test]
fn seeds_and_tensors_tell_bytes_apart_and_nothing_else_does() {
    let all = |options: &Synthetic| -> Vec<Vec<u8>> {
        matrices(&checkpoint(options)).into_iter().map(bytes).collect()
    };
    let options = small(DType::Q6K);
    let first = all(&options);
    assert!(first == all(&options.clone()));
    let other = all(&options.clone().seed(1));
    assert!(first.iter().zip(&other).all(|(a, b)| a.len() == b.len() && a != b));
    for (index, a) in first.iter().enumerate() {
        assert!(first[..index].iter().all(|b| a != b));
    }
    // A deeper model begins with the same layers.
    assert!(all(&options.layers(4)).starts_with(&first));
}

#[test]
fn a_seed_gives_the_same_bytes_on_every_machine() {
    let key = |dtype: &DType| bytes(&checkpoint(&small(*dtype)).layers[0].key);
    let all: Vec<u8> = DType::ALL.iter().flat_map(key).collect();
    assert_eq!(xxh3_64(&all), 0xf3f6_8b51_e4d5_c71c);
}

#[test]
fn weights_have_about_the_size_that_keeps_that_of_activations() {
    for dtype in DType::ALL {
        let checkpoint = checkpoint(&small(dtype));
        let layer = &checkpoint.layers[0];
        let alone = [&checkpoint.head.embedding, &layer.key, &layer.output, &layer.router];
        for matrix in alone.into_iter().chain(&layer.up).chain(&layer.down) {
            let values = values(matrix);
            let count = values.len() as f64;
            let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
            let rms = (values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / count).sqrt();
            let wanted = 1.0 / (matrix.inputs as f64).sqrt();
            // Those of numbers that stand by themselves lie in a quarter of an octave.
            let bound = if matrix.dtype.block() == 1 { 0.2 } else { 0.05 };
            assert!(
                (rms / wanted - 1.0).abs() < bound,
                "{} of {}: {rms}, {wanted}",
                matrix.name,
                matrix.dtype
            );
            // A block's elements may lean to one side, not those of many blocks.
            assert!(
                count < 1e5 || mean.abs() < 0.04 * wanted,
                "{} of {}: mean {mean}",
                matrix.name,
                matrix.dtype
            );
        }
        for norm in [&checkpoint.head.norm, &layer.moe_norm] {
            let (mut bytes, mut values) = (vec![0; 4 * norm.len], vec![0.0; norm.len]);
            norm.data.read_at(0, &mut bytes).unwrap();
            dequantise(norm.dtype, &bytes, &mut values).unwrap();
            assert!(values.iter().all(|x| (1.0..1.25).contains(x)));
        }
    }
}

/// Counts how often each expert of each layer is chosen.
struct Chosen(Vec<[usize; 8]>);

impl Observer for Chosen {
    fn routing(&mut self, layer: usize, routing: &Routing<'_>) {
        routing.experts.iter().for_each(|&expert| self.0[layer][expert as usize] += 1);
    }
}

fn load(options: &Synthetic) -> Model {
    Model::load(checkpoint(options), ModelOptions::new(), &Control::new()).unwrap()
}

#[test]
fn models_of_every_type_run_and_use_all_their_experts() {
    let tokens = Random(2).tokens(200, 1024);
    for dtype in DType::ALL {
        let model = load(&small(dtype));
        let mut session = model.session().unwrap();
        let mut chosen = Chosen(vec![[0; 8]; 3]);
        let entry = Entry::new(&mut session, &tokens).want(Want::Last);
        model.observe(&mut [entry], &Control::new(), &mut chosen).unwrap();
        let logits = session.logits().unwrap();
        let rms = (logits.iter().map(|x| x * x).sum::<f32>() / logits.len() as f32).sqrt();
        assert!(logits.iter().all(|x| x.is_finite()) && (0.2..5.0).contains(&rms), "{dtype}: {rms}");
        for counts in chosen.0 {
            // 50 each, on average.
            assert!(counts.iter().all(|count| (20..100).contains(count)), "{dtype}: {counts:?}");
        }
    }
}

#[test]
fn experts_stay_in_use_through_64_layers() {
    let model = load(&small(DType::Iq2Xs).layers(64));
    let mut session = model.session().unwrap();
    let mut chosen = Chosen(vec![[0; 8]; 64]);
    let tokens = Random(3).tokens(200, 1024);
    model.observe(&mut [Entry::new(&mut session, &tokens)], &Control::new(), &mut chosen).unwrap();
    for (layer, counts) in chosen.0.iter().enumerate() {
        assert!(counts.iter().all(|&count| count > 10), "layer {layer}: {counts:?}");
    }
}

#[test]
fn grok_1_opens_at_once_with_the_sizes_of_its_release() {
    let start = Instant::now();
    let grok1 = checkpoint(&Synthetic::new());
    let elapsed = start.elapsed();
    assert!(elapsed.as_secs_f64() < 0.1, "{elapsed:?}");
    assert_eq!((grok1.format, grok1.config.clone()), (Format::Synthetic, ModelConfig::grok1()));
    let parameters: u64 = grok1.tensors.iter().map(|tensor| tensor.shape.iter().product::<u64>()).sum();
    assert_eq!(parameters, 315_684_820_992);
    // Elements of one byte, four for those of embedding, router and norms, and two for each scale.
    let floats = 805_306_368 + 3_145_728 + 1_579_008;
    assert_eq!(grok1.bytes(), parameters + 3 * floats + 2 * 62_390_272);
    assert_eq!(grok1.tensors.iter().map(|tensor| tensor.bytes).sum::<u64>(), grok1.bytes());
    let layer = &grok1.layers[63];
    let groups = |matrix: &Matrix| matrix.inputs / matrix.scales.as_ref().unwrap().inputs;
    let column_cut = [&layer.query, &layer.key, &layer.value, &layer.gate[0], &layer.up[7]];
    assert!(column_cut.into_iter().all(|matrix| groups(matrix) == 1));
    assert!([&layer.output, &layer.down[7]].into_iter().all(|matrix| groups(matrix) == 8));
}

#[test]
fn fingerprints_tell_random_models_apart() {
    let print = |options: &Synthetic| checkpoint(options).fingerprint(&Control::new()).unwrap();
    let options = small(DType::Q8_0);
    let first = print(&options);
    assert_eq!(first, print(&options));
    let others = [options.clone().seed(1), options.clone().layers(2), options.dtype(DType::Q5_0)];
    assert!(others.iter().all(|other| print(other) != first));
}

#[test]
fn ids_work_without_a_vocabulary_and_text_does_not() {
    let model = load(&small(DType::I8));
    let mut session = model.session().unwrap();
    assert_eq!(run_all(&mut session, &[5, 6, 7]).len(), 3);
    let error = model.tokenizer().unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(ModelError::NoTokenizer)));
}

#[test]
fn models_that_cannot_be_are_refused() {
    let refused = |spec: &str| checkpoint::synthetic(&spec.parse().unwrap()).unwrap_err();
    for (spec, message) in [
        (
            "type=q4_k,width=6145",
            "token_embd.weight: 6145 inputs are not whole blocks of 256, which q4_k needs",
        ),
        (
            "type=q4_0,heads=1,kv_heads=1,head_dim=10,width=64",
            "blk.0.attn_output.weight: 10 inputs are not whole blocks of 32, which q4_0 needs",
        ),
        ("ffn=100", "blk.0.ffn_down_exps.weight: 100 inputs are not whole row groups of 8, which i8 needs"),
        ("head_type=i8", "the embedding cannot be i8"),
        (
            "vocab=1152921504606846976",
            "config: vocab is 1152921504606846976, expected a positive size in range",
        ),
        ("layers=0", "config: layers is 0, expected a positive size in range"),
        ("heads=7", "config: heads is 7, expected a multiple of kv_heads"),
        (
            "layers=4096,width=16777216,ffn=16777216,experts=256",
            "the model would have more than 1152921504606846976 bytes",
        ),
    ] {
        let error = refused(spec);
        assert_eq!(error.to_string(), message);
        assert_eq!(grok1::Error::from(error).kind(), ErrorKind::Argument);
    }
    assert!(matches!(refused("ffn=100"), SyntheticError::Rows { row: 100, .. }));
}
