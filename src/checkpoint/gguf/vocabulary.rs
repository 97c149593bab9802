//! The vocabulary that a file brings along. Uses `metadata`.
//!
//! What a vocabulary must be in itself [`Tokenizer::new`](crate::Tokenizer::new) checks.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use super::GgufError;
use super::metadata::Metadata;
use crate::config::ModelConfig;
use crate::vocab::{PieceKind, VocabEntry, Vocabulary};

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const KINDS: &str = "tokenizer.ggml.token_type";

/// The file's vocabulary, `None` if it has none. `config` knows the special tokens.
///
/// Whether llama.cpp should put tokens around a text (`add_bos_token`) is not asked: Grok-1 runs without them.
pub(super) fn vocabulary(metadata: &Metadata, config: &ModelConfig) -> Result<Option<Vocabulary>, GgufError> {
    match metadata.text(MODEL)? {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some("llama") => {}
        Some(other) => return Err(GgufError::Unsupported { feature: format!("tokenizer model {other:?}") }),
    }
    let key = "tokenizer.ggml.remove_extra_whitespaces";
    if metadata.bool(key)? == Some(true) {
        return Err(GgufError::Unsupported { feature: "a tokenizer that removes spaces".to_owned() });
    }
    let missing = |key, expected| move || GgufError::value(key, "missing", expected);
    let texts = metadata.texts(TOKENS)?.ok_or_else(missing(TOKENS, "an array of strings"))?;
    let scores = metadata.floats(SCORES)?.ok_or_else(missing(SCORES, "an array of f32"))?;
    let kinds = metadata.words(KINDS)?.ok_or_else(missing(KINDS, "an array of i32"))?;
    let count = texts.len();
    for (key, found) in [(SCORES, scores.len()), (KINDS, kinds.len())] {
        if found != count {
            let expected = format!("an array of {count}, as {TOKENS} is");
            return Err(GgufError::value(key, format!("an array of {found}"), expected));
        }
    }
    let entries = texts.zip(scores).zip(kinds).enumerate().map(|(id, ((text, score), kind))| {
        let text = str::from_utf8(text).map_err(|_| {
            let found = format!("\"{}\" for token {id}", text.escape_ascii());
            GgufError::value(TOKENS, found, "UTF-8")
        })?;
        let kind = PieceKind::of_number(kind.into()).ok_or_else(|| {
            GgufError::value(KINDS, format!("{} for token {id}", kind.cast_signed()), "1 to 6")
        })?;
        Ok(VocabEntry { text: text.to_owned(), score, kind })
    });
    let entries = entries.collect::<Result<Vec<_>, GgufError>>()?;

    let unk = metadata.token("tokenizer.ggml.unknown_token_id")?.or_else(|| {
        let place = entries.iter().position(|entry| entry.kind == PieceKind::Unknown);
        place.and_then(|id| u32::try_from(id).ok())
    });
    // GGUF has no key for what it decodes to. With Grok-1's tokenizer it is what the piece is called.
    let unk_surface = unk.and_then(|id| entries.get(id as usize)).map_or("", |entry| &entry.text).to_owned();
    Ok(Some(Vocabulary {
        entries,
        add_dummy_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
        unk,
        bos: Some(config.bos),
        eos: Some(config.eos),
        pad: Some(config.pad),
        unk_surface,
    }))
}
