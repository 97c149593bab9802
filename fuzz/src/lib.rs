//! What holds for any bytes that a parser is given: each claim is a fuzz target, and a test of the crate for the seeds.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use grok1::checkpoint::pickle::{self, Content};
use grok1::checkpoint::{self, sentencepiece};
use grok1::{
    Checkpoint, Control, Matrix, MemoryFolder, MemorySource, Model, ModelConfig, ModelOptions, PieceKind,
    Sampler, Session, SessionOptions, TextStream, Tokenizer,
};
use xxhash_rust::xxh3::xxh3_64;

/// What is read from a `config.json` is valid, and its widths can be computed. Tells whether it was read.
pub fn config(bytes: &[u8]) -> bool {
    let config = str::from_utf8(bytes).ok().and_then(|text| ModelConfig::from_json(text).ok());
    if let Some(config) = &config {
        assert!(config.query_width() > 0 && config.kv_width() > 0);
        assert_eq!(config.clone().validate().as_ref().ok(), Some(config));
    }
    config.is_some()
}

/// A GGUF file that opens has valid hyperparameters, and each of its tensors and weights has the bytes that its type and shape ask
/// for, all of them different bytes of the file. Tells whether it opened.
pub fn gguf(bytes: &[u8]) -> bool {
    let mut folder = MemoryFolder::default();
    folder.insert("model.gguf", bytes);
    let Ok(opened) = checkpoint::open_file(&folder, "model.gguf", None) else { return false };
    assert_sound(&opened);
    let stored: u64 = opened.tensors.iter().map(|tensor| tensor.bytes).sum();
    assert!(stored == opened.bytes() && stored < bytes.len() as u64);
    if let Some(Ok(tokenizer)) = opened.vocabulary.map(Tokenizer::new) {
        assert!(tokenizer.encode("a text").iter().all(|&id| (id as usize) < tokenizer.len()));
    }
    true
}

/// A safetensors file that opens has valid hyperparameters, and each of its tensors and weights has the bytes that its type and shape
/// ask for, all of them different bytes of the file. Tells whether it opened.
///
/// The first line is its `config.json`, the second its index if it is not empty, and the rest the file.
pub fn safetensors(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(3, |&byte| byte == b'\n');
    let (Some(config), Some(index), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let mut folder = MemoryFolder::default();
    folder.insert("config.json", config);
    folder.insert("model.safetensors", file);
    if !index.is_empty() {
        folder.insert("model.safetensors.index.json", index);
    }
    let Ok(opened) = checkpoint::open_folder(&folder, None, None) else { return false };
    assert_sound(&opened);
    // An output projection that is tied may be stored as well.
    let stored: u64 = opened.tensors.iter().map(|tensor| tensor.bytes).sum();
    assert!(opened.bytes() <= stored && stored < file.len() as u64);
    true
}

/// Hyperparameters are valid, and tensors and weights have their bytes.
fn assert_sound(opened: &Checkpoint) {
    assert_eq!(opened.config.clone().validate().as_ref().ok(), Some(&opened.config));
    for tensor in &opened.tensors {
        let elements = tensor.dtype.bytes_of(tensor.shape.iter().product());
        assert!(elements == Some(tensor.bytes) || tensor.scales.is_some() && elements < Some(tensor.bytes));
    }
    let check = |matrix: &Matrix| {
        let Matrix { inputs, outputs, dtype, data, scales, .. } = matrix;
        assert_eq!(dtype.bytes_of(*inputs as u64 * *outputs as u64), Some(data.len()));
        assert!(data.slice().is_ok_and(|shown| shown.is_some()));
        if let Some(scales) = scales {
            let count: usize = scales.counts(*inputs, *outputs).into_iter().product();
            assert_eq!(scales.dtype.bytes_of(count as u64), Some(scales.data.len()));
        }
    };
    check(&opened.head.embedding);
    opened.head.output.iter().for_each(check);
    for layer in &opened.layers {
        let alone = [&layer.query, &layer.key, &layer.value, &layer.output, &layer.router];
        alone.into_iter().chain(&layer.gate).chain(&layer.up).chain(&layer.down).for_each(check);
    }
}

/// The arrays that are read from a pickle lie inside the file and have the length of their shapes. Tells whether any were read.
pub fn pickle(bytes: &[u8]) -> bool {
    let arrays = match pickle::read(&MemorySource::new("tensor", bytes)) {
        Ok(Content::Plain(array)) => vec![array],
        Ok(Content::Quantised { weight, scales }) => vec![weight, scales],
        Err(_) => vec![],
    };
    for array in &arrays {
        let payload = bytes.get(array.payload.start as usize..array.payload.end as usize);
        let size = array.shape.iter().product::<u64>() * array.dtype.block_bytes();
        assert_eq!(payload.map(|payload| payload.len() as u64), Some(size));
    }
    !arrays.is_empty()
}

/// A tokenizer that is read from a `tokenizer.model` writes any text in tokens that exist, its stream gives what its decoder gives,
/// and with byte pieces the text comes back. Tells whether one was read.
pub fn tokenizer(bytes: &[u8]) -> bool {
    let vocabulary = sentencepiece::vocabulary("tokenizer.model", bytes).ok();
    let Some(tokenizer) = vocabulary.and_then(|vocabulary| Tokenizer::new(vocabulary).ok()) else {
        return false;
    };
    let tokenizer = Arc::new(tokenizer);

    // The model's own bytes as text: rich in its pieces. Without spaces, whose piece a vocabulary may lack.
    let text = String::from_utf8_lossy(bytes).replace([' ', '\u{2581}'], "");
    let written = tokenizer.encode_continuation(&text);
    let decoded = tokenizer.decode(&written).expect("tokens that exist");
    if tokenizer.id_of("<0x00>").and_then(|id| tokenizer.kind(id)) == Some(PieceKind::Byte) {
        assert_eq!(decoded, text);
    }

    let all: Vec<u32> = (0..tokenizer.len() as u32).chain(tokenizer.encode(&text)).collect();
    let mut stream = TextStream::new(tokenizer.clone());
    let mut streamed = String::new();
    for &id in &all {
        streamed += stream.push(id).expect("a token that exists");
    }
    streamed += stream.finish();
    assert_eq!(Some(streamed), tokenizer.decode(&all).ok());
    true
}

/// A session that is restored runs, and saves to bytes that stay the same however often they are restored and saved. Tells
/// whether one was restored.
///
/// Fingerprint and checksum, which no fuzzer guesses, are put right first.
pub fn session(bytes: &[u8]) -> bool {
    static MODEL: LazyLock<Model> = LazyLock::new(|| {
        let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        let tiny = folders.find_map(|folder| Some(folder.join("assets/tiny")).filter(|tiny| tiny.is_dir()));
        let options = ModelOptions::new().threads(1);
        Model::open_with(tiny.expect("assets/tiny"), options, &Control::new()).expect("the tiny model")
    });
    static FINGERPRINT: LazyLock<Vec<u8>> =
        LazyLock::new(|| saved(&MODEL.session().expect("an empty session"), None)[FINGERPRINT_AT].to_vec());

    let Some(end) = bytes.len().checked_sub(8).filter(|&end| end >= FINGERPRINT_AT.end) else {
        return false;
    };
    let mut bytes = bytes.to_vec();
    bytes[FINGERPRINT_AT].copy_from_slice(&FINGERPRINT);
    let checksum = xxh3_64(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_le_bytes());

    let Ok((session, sampler)) = MODEL.restore(&mut &*bytes, &SessionOptions::new(), &Control::new()) else {
        return false;
    };
    let first = saved(&session, sampler.as_ref());
    let (mut session, sampler) =
        MODEL.restore(&mut &*first, &SessionOptions::new(), &Control::new()).expect("a saved session");
    assert_eq!(saved(&session, sampler.as_ref()), first);
    if session.tokens().len() - session.position() < 8 {
        // A full context is an error; anything else must go through.
        let room = session.tokens().len() < session.context();
        assert_eq!(session.feed(&[1], &Control::new()).is_ok(), room);
    }
    true
}

/// Where a saved session has the fingerprint of its model.
const FINGERPRINT_AT: Range<usize> = 16..32;

fn saved(session: &Session, sampler: Option<&Sampler>) -> Vec<u8> {
    let mut bytes = Vec::new();
    session.save(&mut bytes, sampler, &Control::new()).expect("memory to write to");
    bytes
}
