//! What holds for any bytes that a parser is given: each claim is a fuzz target, and a test of the crate for the seeds.

use std::sync::Arc;

use grok1::checkpoint::pickle::{self, Content};
use grok1::checkpoint::sentencepiece;
use grok1::{MemorySource, ModelConfig, PieceKind, TextStream, Tokenizer};

/// What is read from a `config.json` is valid, and its widths can be computed. Tells whether it was read.
pub fn config(bytes: &[u8]) -> bool {
    let config = str::from_utf8(bytes).ok().and_then(|text| ModelConfig::from_json(text).ok());
    if let Some(config) = &config {
        assert!(config.query_width() > 0 && config.kv_width() > 0);
        assert_eq!(config.clone().validate().as_ref().ok(), Some(config));
    }
    config.is_some()
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
        let size = array.shape.iter().product::<u64>() * array.dtype.size();
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
