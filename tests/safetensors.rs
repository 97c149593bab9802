//! safetensors files are opened as what they are, under the names of each port, in one file or several, in each type.

use std::collections::BTreeMap;
use std::fs;

use grok1::backend::scalar::Scalar;
use grok1::checkpoint::{self, Format};
use grok1::quant::dequantise;
use grok1::{
    Checkpoint, Control, DType, Error, MemoryFolder, MemorySource, Model, ModelConfig, ModelOptions,
    Precision, Source, Threads, WeightStorage,
};
use serde_json::{Value, json};
use support::models::{any_batch, exact, logits, tiny_path};
use support::random::Random;
use support::safetensors::{self, File, NAMINGS, Naming, Tensor};

mod support {
    pub(crate) mod models;
    pub(crate) mod random;
    pub(crate) mod safetensors;
}

/// A model of two small layers.
fn config() -> ModelConfig {
    let mut config = ModelConfig::grok1();
    config.layers = 2;
    config.width = 24;
    config.heads = 4;
    config.kv_heads = 2;
    config.head_dim = 10;
    config.experts = 3;
    config.ffn_width = 40;
    config.vocab = 32;
    config.context = 64;
    config
}

/// Random weights under the names of a port, the same for each.
fn small(naming: Naming, dtype: &str) -> File {
    let mut random = Random(7);
    File::of(safetensors::tensors(&config(), naming).into_iter().map(|(name, shape)| {
        let values: Vec<_> = (0..shape.iter().product()).map(|_: usize| random.float(-1.0, 1.0)).collect();
        Tensor::of(name, dtype, &shape, &values)
    }))
}

/// A folder of these files beside the port's `config.json`.
fn folder(naming: Naming, files: &[(String, File)]) -> MemoryFolder {
    let mut folder = MemoryFolder::default();
    folder.insert("config.json", safetensors::config(&config(), naming).to_string().into_bytes());
    for (name, file) in files {
        folder.insert(name, file.bytes());
    }
    folder
}

fn alone(naming: Naming, file: &File) -> MemoryFolder {
    folder(naming, &[("model.safetensors".to_owned(), file.clone())])
}

fn open(folder: &MemoryFolder) -> Checkpoint {
    try_open(folder).unwrap_or_else(|message| panic!("{message}"))
}

fn try_open(folder: &MemoryFolder) -> Result<Checkpoint, String> {
    checkpoint::open_folder(folder, None, None).map_err(|error| Error::from(error).chain())
}

const TOKENS: [u32; 7] = [3, 1, 4, 1, 5, 9, 2];

/// What a model says to some tokens, on the processor and by definition.
fn all_logits(checkpoint: &Checkpoint) -> [Vec<Vec<f32>>; 2] {
    let scalar = Scalar::new(checkpoint.config.clone(), Precision::Exact);
    let models = [
        Model::load(checkpoint.clone(), exact(), &Control::new()).unwrap(),
        Model::load_on(scalar, checkpoint.clone(), exact(), &Control::new()).unwrap(),
    ];
    models.map(|model| logits(&model, &TOKENS))
}

/// The largest difference relative to the largest logit.
fn distance(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    let pairs = || found.iter().flatten().zip(expected.iter().flatten());
    let largest = pairs().map(|(_, b)| b.abs()).fold(0.0, f32::max);
    pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

#[test]
fn the_names_of_every_port_are_the_same_model() {
    let expected = all_logits(&open(&alone(Naming::Hpcai, &small(Naming::Hpcai, "F32"))));
    assert!(expected[0].iter().flatten().all(|logit| logit.is_finite()));
    assert!(distance(&expected[0], &expected[1]) < 1e-5);
    for naming in NAMINGS {
        let checkpoint = open(&alone(naming, &small(naming, "F32")));
        assert_eq!(checkpoint.format, Format::Safetensors);
        assert_eq!(checkpoint.config, config(), "{naming:?}");
        assert_eq!(all_logits(&checkpoint), expected, "{naming:?}");
    }
}

#[test]
fn weights_are_views_of_the_file_with_the_names_they_have_in_it() {
    let file = small(Naming::Keyfan, "BF16");
    let checkpoint = open(&alone(Naming::Keyfan, &file));
    let down = &checkpoint.layers[1].down[2];
    assert_eq!(down.name, "transformer.decoder_layer.1.moe.2.linear_1.weight");
    assert_eq!((down.dtype, down.inputs, down.outputs), (DType::BF16, 40, 24));
    let stored = file.tensors.iter().find(|tensor| tensor.name == down.name).unwrap();
    assert_eq!(down.data.slice().unwrap().unwrap(), stored.data);

    let listed: Vec<_> = checkpoint.tensors.iter().map(|tensor| (&tensor.name, &tensor.shape)).collect();
    let written: Vec<_> = file.tensors.iter().map(|tensor| (&tensor.name, &tensor.shape)).collect();
    assert_eq!(listed, written);
    assert_eq!(checkpoint.bytes(), checkpoint.tensors.iter().map(|tensor| tensor.bytes).sum::<u64>());
}

#[test]
fn a_file_that_the_safetensors_crate_writes_is_the_same_model() {
    let file = small(Naming::Hpcai, "F32");
    let views: Vec<_> = file
        .tensors
        .iter()
        .map(|tensor| {
            let shape = tensor.shape.iter().map(|&axis| axis as usize).collect();
            let view = ::safetensors::tensor::TensorView::new(::safetensors::Dtype::F32, shape, &tensor.data);
            (&*tensor.name, view.unwrap())
        })
        .collect();
    let mut folder = alone(Naming::Hpcai, &file);
    let expected = all_logits(&open(&folder));
    folder.insert("model.safetensors", ::safetensors::serialize(views, None).unwrap());
    assert_eq!(all_logits(&open(&folder)), expected);
    // And it reads what the tests write.
    assert_eq!(::safetensors::SafeTensors::deserialize(&file.bytes()).unwrap().len(), file.tensors.len());
}

/// `count` files of about as many tensors each, named as the ports do.
fn shards(file: &File, count: usize) -> Vec<(String, File)> {
    let each = file.tensors.len().div_ceil(count);
    let shards = file.tensors.chunks(each).zip(1..);
    shards
        .map(|(tensors, number)| {
            let name = format!("model-{number:05}-of-{count:05}.safetensors");
            (name, File::of(tensors.iter().cloned()))
        })
        .collect()
}

const INDEX: &str = "model.safetensors.index.json";

fn with_index(mut folder: MemoryFolder, index: &Value) -> MemoryFolder {
    folder.insert(INDEX, index.to_string().into_bytes());
    folder
}

#[test]
fn a_model_in_several_files_opens_by_its_folder_its_index_and_any_of_them() {
    let whole = small(Naming::Sglang, "F32");
    let shards = shards(&whole, 3);
    let without_index = folder(Naming::Sglang, &shards);
    let folder = with_index(without_index.clone(), &safetensors::index(&shards));
    let open_file = |folder: &MemoryFolder, name: &str| checkpoint::open_file(folder, name, None).unwrap();
    let opened = [
        open(&without_index),
        open(&folder),
        open_file(&folder, INDEX),
        open_file(&folder, "model-00002-of-00003.safetensors"),
        open_file(&without_index, "model-00003-of-00003.safetensors"),
        open_file(&alone(Naming::Sglang, &whole), "model.safetensors"),
    ];
    let expected = all_logits(&opened[5]);
    let fingerprint = opened[5].fingerprint(&Control::new()).unwrap();
    for checkpoint in &opened {
        assert_eq!(all_logits(checkpoint), expected);
        assert_eq!(checkpoint.fingerprint(&Control::new()).unwrap(), fingerprint);
        assert_eq!(checkpoint.tensors.len(), whole.tensors.len());
    }
}

#[test]
fn files_that_the_index_does_not_name_are_left_alone() {
    let shards = shards(&small(Naming::Hpcai, "F32"), 2);
    let mut folder = with_index(folder(Naming::Hpcai, &shards), &safetensors::index(&shards));
    folder.insert("consolidated.safetensors", *b"another copy");
    assert_eq!(open(&folder).layers.len(), 2);
}

#[test]
fn a_folder_on_disk_opens_with_the_tokenizer_in_it_or_beside_it() {
    let outer = std::env::temp_dir().join(format!("grok1-safetensors-{}", std::process::id()));
    let inner = outer.join("model");
    fs::create_dir_all(&inner).unwrap();
    let file = small(Naming::Hpcai, "BF16");
    fs::write(inner.join("config.json"), safetensors::config(&config(), Naming::Hpcai).to_string()).unwrap();
    fs::write(inner.join("model.safetensors"), file.bytes()).unwrap();
    fs::write(inner.join("tokenizer.json"), "{}").unwrap();
    let pieces = |tokenizer| {
        let checkpoint = checkpoint::open(&inner, tokenizer).unwrap();
        checkpoint.vocabulary.map(|vocabulary| vocabulary.entries.len())
    };
    let tokenizer = tiny_path().join("tokenizer.model");
    assert_eq!((pieces(None), pieces(Some(&tokenizer))), (None, Some(2048)));
    fs::copy(&tokenizer, outer.join("tokenizer.model")).unwrap();
    assert_eq!(pieces(None), Some(2048));
    fs::rename(outer.join("tokenizer.model"), inner.join("tokenizer.model")).unwrap();
    assert_eq!(pieces(None), Some(2048));
    let by_file = checkpoint::open(inner.join("model.safetensors"), None).unwrap();
    assert_eq!(by_file.vocabulary.unwrap().entries.len(), 2048);
    fs::remove_dir_all(&outer).unwrap();
}

#[test]
fn an_output_projection_is_used_only_if_the_file_unties_it() {
    let tied = small(Naming::Hpcai, "F32");
    let expected = all_logits(&open(&alone(Naming::Hpcai, &tied)));
    let mut stored = tied.clone();
    let mut output = Tensor { name: "lm_head.weight".to_owned(), ..stored.tensors[0].clone() };
    output.data.as_chunks_mut().0.iter_mut().for_each(|x| *x = (2.0 * f32::from_le_bytes(*x)).to_le_bytes());
    stored.tensors.push(output);
    let mut folder = alone(Naming::Hpcai, &stored);
    let copy = open(&folder);
    assert!(copy.head.output.is_none());
    assert_eq!(copy.tensors.len(), stored.tensors.len());
    assert_eq!(all_logits(&copy), expected);

    let mut config = safetensors::config(&config(), Naming::Hpcai);
    config["tie_word_embeddings"] = json!(false);
    folder.insert("config.json", config.to_string().into_bytes());
    let doubled = expected.map(|rows| rows.iter().map(|row| row.iter().map(|x| 2.0 * x).collect()).collect());
    let doubled: [Vec<Vec<f32>>; 2] = doubled;
    assert_eq!(all_logits(&open(&folder)), doubled);
    folder.insert("model.safetensors", tied.bytes());
    assert_eq!(
        try_open(&folder).unwrap_err(),
        "cannot use memory: there is no tensor \"lm_head.weight\", nor one of its other names"
    );
}

#[test]
fn types_mix_and_round_as_they_should() {
    let expected = all_logits(&open(&alone(Naming::Hpcai, &small(Naming::Hpcai, "F32"))));
    for (dtype, bound) in [("F16", 0.02), ("BF16", 0.1)] {
        let mut file = small(Naming::Hpcai, dtype);
        for (tensor, exact) in file.tensors.iter_mut().zip(small(Naming::Hpcai, "F32").tensors) {
            if tensor.name.ends_with(".scale") || tensor.name.ends_with("gate.weight") {
                *tensor = exact;
            }
        }
        let found = all_logits(&open(&alone(Naming::Hpcai, &file)));
        for (found, expected) in found.iter().zip(&expected) {
            let distance = distance(found, expected);
            assert!(distance > 0.0 && distance < bound, "{dtype}: {distance}");
        }
    }
}

/// A model whose matrices are fp8 with scales of this type and shape, and the same numbers in f32.
fn fp8(dtype: &str, grain: Grain) -> [File; 2] {
    let mut random = Random(11);
    let mut files = [File::default(), File::default()];
    for tensor in small(Naming::Hpcai, "F32").tensors {
        let [fp8, f32] = &mut files;
        if !tensor.name.contains("proj") && !tensor.name.contains("linear") {
            fp8.tensors.push(tensor.clone());
            f32.tensors.push(tensor);
            continue;
        }
        let [outputs, inputs] = [tensor.shape[0] as usize, tensor.shape[1] as usize];
        let (ending, shape, [tile_outputs, tile_inputs]) = match grain {
            Grain::Tensor(axes) => ("_scale", vec![1; axes], [outputs, inputs]),
            Grain::Output(axes) => ("_scale", [vec![outputs], vec![1; axes - 1]].concat(), [1, inputs]),
            Grain::Tile(outs, ins) => {
                ("_scale_inv", vec![outputs.div_ceil(outs), inputs.div_ceil(ins)], [outs, ins])
            }
        };
        let scales: Vec<f32> = (0..shape.iter().product())
            .map(|_: usize| half::bf16::from_f32(random.float(0.001, 0.004)).to_f32())
            .collect();
        // Any code but those of NaN.
        let codes: Vec<u8> =
            (0..outputs * inputs).map(|_| random.below(127) as u8 | (random.below(2) as u8) << 7).collect();
        let mut values = vec![0.0; codes.len()];
        dequantise(DType::F8E4M3, &codes, &mut values).unwrap();
        let columns = inputs.div_ceil(tile_inputs);
        for (place, value) in values.iter_mut().enumerate() {
            *value *= scales[place / inputs / tile_outputs * columns + place % inputs / tile_inputs];
        }
        f32.tensors.push(Tensor::of(&tensor.name, "F32", &[outputs, inputs], &values));
        fp8.tensors.push(Tensor::of(format!("{}{ending}", tensor.name), dtype, &shape, &scales));
        fp8.tensors.push(Tensor::new(tensor.name, "F8_E4M3", &[outputs, inputs], codes));
    }
    files
}

#[derive(Clone, Copy, Debug)]
enum Grain {
    /// One scale, with so many axes.
    Tensor(usize),
    /// One for each output, with so many axes.
    Output(usize),
    /// One for each tile of so many outputs and inputs.
    Tile(usize, usize),
}

#[test]
fn fp8_with_scales_of_each_shape_is_the_same_as_its_numbers_in_f32() {
    let cases = [
        ("F32", Grain::Tensor(0)),
        ("F32", Grain::Tensor(1)),
        ("BF16", Grain::Tensor(2)),
        ("F32", Grain::Output(1)),
        ("BF16", Grain::Output(2)),
        ("F32", Grain::Tile(128, 128)),
        ("F32", Grain::Tile(16, 7)),
    ];
    for (dtype, grain) in cases {
        let [fp8, f32] = fp8(dtype, grain).map(|file| alone(Naming::Hpcai, &file));
        let mut fp8 = fp8;
        if let Grain::Tile(outputs, inputs) = grain {
            let mut config = safetensors::config(&config(), Naming::Hpcai);
            let quantisation = json!({ "quant_method": "fp8", "weight_block_size": [outputs, inputs] });
            config["quantization_config"] = quantisation;
            fp8.insert("config.json", config.to_string().into_bytes());
        }
        let checkpoint = open(&fp8);
        assert_eq!(checkpoint.layers[0].query.dtype, DType::F8E4M3);
        let expected = all_logits(&open(&f32));
        for (found, expected) in all_logits(&checkpoint).iter().zip(&expected) {
            assert!(distance(found, expected) < 1e-5, "{dtype} {grain:?}: {}", distance(found, expected));
        }
    }
}

#[test]
fn fp8_gives_the_same_bits_in_any_batch_on_any_number_of_threads_mapped_or_not() {
    let [fp8, _] = fp8("F32", Grain::Tile(16, 7));
    let mut folder = alone(Naming::Hpcai, &fp8);
    let mut config = safetensors::config(&config(), Naming::Hpcai);
    config["quantization_config"] = json!({ "weight_block_size": [16, 7] });
    folder.insert("config.json", config.to_string().into_bytes());
    let run = |options: ModelOptions, rows| {
        let options = options.batch_rows(rows);
        logits(&Model::load(open(&folder), options, &Control::new()).unwrap(), &TOKENS)
    };
    let expected = run(any_batch().threads(1), 64);
    for rows in [1, 2, 3] {
        assert_eq!(run(any_batch().threads(2), rows), expected, "{rows} rows");
    }
    let pool = std::sync::Arc::new(Threads::new(3).unwrap());
    assert_eq!(run(any_batch().pool(pool).weights(WeightStorage::Owned), 64), expected);
}

#[test]
fn scales_of_activations_and_of_the_cache_are_not_used() {
    let [mut file, _] = fp8("F32", Grain::Tensor(1));
    let expected = open(&alone(Naming::Hpcai, &file));
    for name in ["attn.q_proj.input_scale", "attn.k_scale", "attn.v_scale", "attn.rotary_emb.inv_freq"] {
        file.tensors.push(Tensor::of(format!("model.layers.0.{name}"), "F32", &[1], &[0.5]));
    }
    let found = open(&alone(Naming::Hpcai, &file));
    assert_eq!(all_logits(&found), all_logits(&expected));
    assert_eq!(found.tensors, expected.tensors);
}

#[test]
fn scales_are_listed_with_their_weight() {
    let [file, _] = fp8("BF16", Grain::Output(2));
    let checkpoint = open(&alone(Naming::Hpcai, &file));
    assert_eq!(checkpoint.tensors.len(), small(Naming::Hpcai, "F32").tensors.len());
    let listed: BTreeMap<_, _> =
        checkpoint.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let query = listed["model.layers.1.attn.q_proj.weight"];
    assert_eq!((query.bytes, query.scales.as_deref()), (40 * 24 + 2 * 40, Some(&[40, 1][..])));
    assert_eq!(checkpoint.bytes(), checkpoint.tensors.iter().map(|tensor| tensor.bytes).sum::<u64>());
}

#[test]
fn configurations_differ_from_port_to_port() {
    let file = small(Naming::Keyfan, "F32");
    let read = |edit: &dyn Fn(&mut Value)| {
        let mut json = safetensors::config(&config(), Naming::Keyfan);
        edit(&mut json);
        let mut folder = alone(Naming::Keyfan, &file);
        folder.insert("config.json", json.to_string().into_bytes());
        open(&folder).config
    };
    let remove = |json: &mut Value, name: &str| drop(json.as_object_mut().unwrap().remove(name).unwrap());
    type Edit<'a> = (&'a dyn Fn(&mut Value), &'a dyn Fn(&mut ModelConfig));
    let edits: &[Edit<'_>] = &[
        (&|json| remove(json, "rope_theta"), &|_| {}),
        (&|json| json["rope_theta"] = json!(500_000.0), &|config| config.rope_base = 500_000.0),
        (&|json| remove(json, "rms_norm_eps"), &|_| {}),
        (&|json| remove(json, "embedding_multiplier_scale"), &|_| {}),
        (&|json| json["output_multiplier_scale"] = json!(0.5), &|config| config.output_scale = 0.5),
        (&|json| json["attn_output_multiplier"] = json!(0.25), &|config| config.attention_scale = 0.25),
        (&|json| json["max_attn_value"] = json!(20.0), &|config| config.attention_cap = Some(20.0)),
        (&|json| json["attn_logit_softcapping"] = json!(0), &|config| config.attention_cap = None),
        (&|json| json["router_logit_softcapping"] = json!(30.0), &|config| config.router_cap = Some(30.0)),
        (&|json| json["final_logit_softcapping"] = json!(50.0), &|config| config.output_cap = Some(50.0)),
        (&|json| json["moe_router_renormalize"] = json!(true), &|config| config.renormalise_gates = true),
        (&|json| json["hidden_act"] = json!("gelu_pytorch_tanh"), &|_| {}),
        (&|json| remove(json, "hidden_act"), &|_| {}),
        (&|json| remove(json, "architectures"), &|_| {}),
        (&|json| json["moe_intermediate_size"] = json!(40), &|_| {}),
        (&|json| json["num_experts_per_tok"] = json!(3), &|config| config.selected_experts = 3),
        (&|json| json["sliding_window"] = json!(-1), &|_| {}),
        (&|json| json["eos_token_id"] = json!(null), &|_| {}),
        (&|json| json["max_position_embeddings"] = json!(128), &|config| config.context = 128),
    ];
    for (number, (edit, expected)) in edits.iter().enumerate() {
        let mut config = config();
        expected(&mut config);
        assert_eq!(read(edit), config, "edit {number}");
    }
}

#[test]
fn a_head_is_as_wide_as_its_share_of_the_model_unless_the_file_says_otherwise() {
    let mut other = config();
    (other.heads, other.kv_heads, other.head_dim) = (4, 4, 6);
    let mut random = Random(3);
    let tensors = safetensors::tensors(&other, Naming::Hpcai).into_iter().map(|(name, shape)| {
        let values: Vec<_> = (0..shape.iter().product()).map(|_: usize| random.float(-1.0, 1.0)).collect();
        Tensor::of(name, "F32", &shape, &values)
    });
    let mut folder = alone(Naming::Hpcai, &File::of(tensors));
    let mut json = safetensors::config(&other, Naming::Hpcai);
    let entries = json.as_object_mut().unwrap();
    entries.remove("head_dim").unwrap();
    entries.remove("num_key_value_heads").unwrap();
    folder.insert("config.json", json.to_string().into_bytes());
    assert_eq!(open(&folder).config, other);
}

#[test]
fn sources_that_show_nothing_are_read() {
    /// A host's storage.
    struct Remote(MemorySource);

    impl Source for Remote {
        fn name(&self) -> String {
            self.0.name()
        }

        fn len(&self) -> u64 {
            self.0.len()
        }

        fn read_at(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
            self.0.read_at(offset, out)
        }

        fn slice(&self, _: std::ops::Range<u64>) -> std::io::Result<Option<&[u8]>> {
            Ok(None)
        }
    }

    struct Bucket(MemoryFolder);

    impl grok1::Folder for Bucket {
        fn name(&self) -> String {
            "bucket".to_owned()
        }

        fn names(&self) -> std::io::Result<Vec<String>> {
            self.0.names()
        }

        fn open(&self, name: &str) -> std::io::Result<std::sync::Arc<dyn Source>> {
            let source = self.0.open(name)?;
            let mut bytes = vec![0; source.len() as usize];
            source.read_at(0, &mut bytes)?;
            Ok(std::sync::Arc::new(Remote(MemorySource::new(name, bytes))))
        }
    }

    let folder = alone(Naming::Keyfan, &small(Naming::Keyfan, "F32"));
    let remote = checkpoint::open_folder(&Bucket(folder.clone()), None, None).unwrap();
    assert_eq!(all_logits(&remote), all_logits(&open(&folder)));
}
