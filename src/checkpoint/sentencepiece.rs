//! SentencePiece's `tokenizer.model` as a [`Vocabulary`]. Uses the ground only.
//!
//! Read is what sentencepiece's `sentencepiece_model.proto` calls `ModelProto`. Models of the BPE type that leave text as it is are
//! supported, which is what Grok-1's is; whatever would change the text or the way it is split is refused by name. What a
//! vocabulary must be in itself, whichever file it came from, [`Tokenizer::new`](crate::text::Tokenizer::new) checks.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use super::protobuf::{Field, Message, put_bytes, put_float, put_number};
use crate::error::{Classify, ErrorKind};
use crate::vocab::{PieceKind, VocabEntry, Vocabulary};

pub use super::protobuf::WireError;

/// A SentencePiece model that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {defect}")]
#[non_exhaustive]
pub struct SentencePieceError {
    /// The file.
    pub file: String,
    /// What is wrong with it.
    pub defect: SentencePieceDefect,
}

/// What is wrong with a SentencePiece model.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SentencePieceDefect {
    /// Not a protocol buffer message, or a damaged one.
    #[error("not a whole SentencePiece model: {0}")]
    Wire(WireError),
    /// There is nothing in it.
    #[error("not a SentencePiece model: no pieces")]
    NoPieces,
    /// A piece without text.
    #[error("piece {index} is empty")]
    EmptyPiece {
        /// Its token id.
        index: usize,
    },
    /// A text that is not UTF-8.
    #[error("{what} is not UTF-8 from its byte {valid} on")]
    Utf8 {
        /// Which text.
        what: String,
        /// How many of its bytes are.
        valid: usize,
    },
    /// A piece of a type that does not exist.
    #[error("piece {index} has type {found}, expected 1 to 6")]
    PieceType {
        /// Its token id.
        index: usize,
        /// Its type.
        found: u64,
    },
    /// More than one piece for what cannot be written.
    #[error("pieces {first} and {second} both have the type unknown")]
    Unknowns {
        /// The first one.
        first: usize,
        /// The second one.
        second: usize,
    },
    /// Byte pieces and byte fallback need each other.
    #[error("byte_fallback is {byte_fallback} with {found} byte pieces, expected {expected}")]
    BytePieces {
        /// Whether the model says that it writes bytes.
        byte_fallback: bool,
        /// How many byte pieces it has.
        found: usize,
        /// How many it must have.
        expected: usize,
    },
    /// The model works in a way that is not built.
    #[error("{what} is {found}, supported is {supported}")]
    Unsupported {
        /// The setting.
        what: &'static str,
        /// Its value.
        found: String,
        /// The value it must have.
        supported: &'static str,
    },
}

impl From<WireError> for SentencePieceDefect {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl Classify for SentencePieceError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Format
    }
}

/// The vocabulary in the bytes of a `tokenizer.model` that messages call `name`.
///
/// `unk` is the piece of the type unknown; `bos`, `eos` and `pad` are the control pieces with the names that the model gives
/// them, as sentencepiece itself takes them.
pub fn vocabulary(name: &str, bytes: &[u8]) -> Result<Vocabulary, SentencePieceError> {
    model(bytes).map_err(|defect| SentencePieceError { file: name.to_owned(), defect })
}

/// The bytes of a `tokenizer.model` with this vocabulary.
///
/// Reading them gives the same vocabulary again. What sentencepiece knows beside it, how the model was trained for instance, is not
/// in a [`Vocabulary`] and so not in the bytes.
#[must_use]
pub fn to_bytes(vocabulary: &Vocabulary) -> Vec<u8> {
    let Vocabulary { entries, add_dummy_prefix, unk, bos, eos, pad, unk_surface } = vocabulary;
    let mut out = Vec::new();
    for entry in entries {
        let mut piece = Vec::new();
        put_bytes(&mut piece, 1, entry.text.as_bytes());
        put_float(&mut piece, 2, entry.score);
        put_number(&mut piece, 3, entry.kind.number());
        put_bytes(&mut out, 1, &piece);
    }

    let mut trainer = Vec::new();
    put_number(&mut trainer, 3, BPE);
    put_number(&mut trainer, 4, entries.len() as u64);
    put_number(&mut trainer, 35, entries.iter().any(|entry| entry.kind == PieceKind::Byte).into());
    for (field, id) in [(40, unk), (41, bos), (42, eos), (43, pad)] {
        // -1, for none, is written in 64 bits.
        put_number(&mut trainer, field, id.map_or(u64::MAX, u64::from));
    }
    put_bytes(&mut trainer, 44, unk_surface.as_bytes());
    for (field, id) in [(45, unk), (46, bos), (47, eos), (48, pad)] {
        if let Some(entry) = id.and_then(|id| entries.get(id as usize)) {
            put_bytes(&mut trainer, field, entry.text.as_bytes());
        }
    }
    put_bytes(&mut out, 2, &trainer);

    let mut normalizer = Vec::new();
    put_bytes(&mut normalizer, 1, b"identity");
    put_number(&mut normalizer, 3, (*add_dummy_prefix).into());
    put_number(&mut normalizer, 4, 0);
    put_number(&mut normalizer, 5, 1);
    put_bytes(&mut out, 3, &normalizer);
    out
}

/// `TrainerSpec.ModelType` of byte-pair encoding.
const BPE: u64 = 2;

fn model(bytes: &[u8]) -> Result<Vocabulary, SentencePieceDefect> {
    let mut entries = Vec::new();
    let mut trainer = Trainer::default();
    let mut normalizer = Normalizer::default();
    let mut denormalizer = Normalizer::default();
    let mut message = Message::new(bytes);
    while let Some(field) = message.next_field()? {
        match field.number {
            1 => entries.push(piece(entries.len(), field.message()?)?),
            2 => trainer.read(field.message()?)?,
            3 => normalizer.read(field.message()?)?,
            5 => denormalizer.read(field.message()?)?,
            _ => {}
        }
    }
    if entries.is_empty() {
        return Err(SentencePieceDefect::NoPieces);
    }
    trainer.check()?;
    normalizer.check()?;
    denormalizer.check_charsmap("denormalizer")?;

    let ids = |kind| entries.iter().enumerate().filter(move |(_, entry)| entry.kind == kind);
    let byte_fallback = trainer.byte_fallback;
    let (found, expected) = (ids(PieceKind::Byte).count(), if byte_fallback { 256 } else { 0 });
    if found != expected {
        return Err(SentencePieceDefect::BytePieces { byte_fallback, found, expected });
    }
    let mut unknowns = ids(PieceKind::Unknown).map(|(index, _)| index);
    let unk = unknowns.next();
    if let (Some(first), Some(second)) = (unk, unknowns.next()) {
        return Err(SentencePieceDefect::Unknowns { first, second });
    }
    let control = |name: &str| {
        ids(PieceKind::Control).find(|(_, entry)| entry.text == name).and_then(|(index, _)| id(index))
    };
    Ok(Vocabulary {
        add_dummy_prefix: normalizer.add_dummy_prefix,
        unk: unk.and_then(id),
        bos: control(&trainer.bos_piece),
        eos: control(&trainer.eos_piece),
        pad: control(&trainer.pad_piece),
        unk_surface: trainer.unk_surface,
        entries,
    })
}

fn id(index: usize) -> Option<u32> {
    u32::try_from(index).ok()
}

/// `ModelProto.SentencePiece`, the piece with token id `index`.
fn piece(index: usize, mut message: Message<'_>) -> Result<VocabEntry, SentencePieceDefect> {
    let mut entry = VocabEntry { text: String::new(), score: 0.0, kind: PieceKind::Normal };
    while let Some(field) = message.next_field()? {
        match field.number {
            1 => entry.text = text(&field, || format!("piece {index}"))?,
            2 => entry.score = field.float()?,
            3 => {
                let found = field.varint()?;
                entry.kind =
                    PieceKind::of_number(found).ok_or(SentencePieceDefect::PieceType { index, found })?;
            }
            _ => {}
        }
    }
    if entry.text.is_empty() {
        return Err(SentencePieceDefect::EmptyPiece { index });
    }
    Ok(entry)
}

/// What of `TrainerSpec` matters after training.
struct Trainer {
    model_type: u64,
    whitespace_as_suffix: bool,
    byte_fallback: bool,
    unk_surface: String,
    bos_piece: String,
    eos_piece: String,
    pad_piece: String,
}

impl Default for Trainer {
    fn default() -> Self {
        Self {
            model_type: 1,
            whitespace_as_suffix: false,
            byte_fallback: false,
            unk_surface: " \u{2047} ".into(),
            bos_piece: "<s>".into(),
            eos_piece: "</s>".into(),
            pad_piece: "<pad>".into(),
        }
    }
}

impl Trainer {
    fn read(&mut self, mut message: Message<'_>) -> Result<(), SentencePieceDefect> {
        while let Some(field) = message.next_field()? {
            match field.number {
                3 => self.model_type = field.varint()?,
                24 => self.whitespace_as_suffix = field.varint()? != 0,
                35 => self.byte_fallback = field.varint()? != 0,
                44 => self.unk_surface = text(&field, || "unk_surface".into())?,
                46 => self.bos_piece = text(&field, || "bos_piece".into())?,
                47 => self.eos_piece = text(&field, || "eos_piece".into())?,
                48 => self.pad_piece = text(&field, || "pad_piece".into())?,
                _ => {}
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), SentencePieceDefect> {
        if self.model_type != BPE {
            let found = match self.model_type {
                1 => "unigram".into(),
                3 => "word".into(),
                4 => "char".into(),
                other => other.to_string(),
            };
            return Err(SentencePieceDefect::Unsupported { what: "model_type", found, supported: "bpe" });
        }
        require("treat_whitespace_as_suffix", self.whitespace_as_suffix, false)
    }
}

/// What of `NormalizerSpec` matters when there is no character map.
struct Normalizer {
    name: String,
    charsmap: usize,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

impl Default for Normalizer {
    fn default() -> Self {
        Self {
            name: String::new(),
            charsmap: 0,
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }
}

impl Normalizer {
    fn read(&mut self, mut message: Message<'_>) -> Result<(), SentencePieceDefect> {
        while let Some(field) = message.next_field()? {
            match field.number {
                1 => self.name = text(&field, || "the normalizer's name".into())?,
                2 => self.charsmap = field.bytes()?.len(),
                3 => self.add_dummy_prefix = field.varint()? != 0,
                4 => self.remove_extra_whitespaces = field.varint()? != 0,
                5 => self.escape_whitespaces = field.varint()? != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), SentencePieceDefect> {
        self.check_charsmap("normalizer")?;
        require("remove_extra_whitespaces", self.remove_extra_whitespaces, false)?;
        require("escape_whitespaces", self.escape_whitespaces, true)
    }

    fn check_charsmap(&self, what: &'static str) -> Result<(), SentencePieceDefect> {
        if self.charsmap == 0 {
            return Ok(());
        }
        let found = format!("{:?} with a character map of {} bytes", self.name, self.charsmap);
        Err(SentencePieceDefect::Unsupported { what, found, supported: "identity" })
    }
}

fn require(what: &'static str, found: bool, supported: bool) -> Result<(), SentencePieceDefect> {
    if found == supported {
        return Ok(());
    }
    let supported = if supported { "true" } else { "false" };
    Err(SentencePieceDefect::Unsupported { what, found: found.to_string(), supported })
}

fn text(field: &Field<'_>, what: impl Fn() -> String) -> Result<String, SentencePieceDefect> {
    match str::from_utf8(field.bytes()?) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(SentencePieceDefect::Utf8 { what: what(), valid: error.valid_up_to() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(field: u64, value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put_number(&mut out, field, value);
        out
    }

    fn string(field: u64, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, field, bytes);
        out
    }

    fn piece(text: &[u8], kind: u64) -> Vec<u8> {
        string(1, &[string(1, text), vec![0x15, 0, 0, 0x80, 0x3f], number(3, kind)].concat())
    }

    #[test]
    fn a_vocabulary_is_the_same_when_it_was_written_and_read() {
        let bytes = std::fs::read("assets/tiny/tokenizer.model").unwrap();
        let vocabulary = vocabulary("a", &bytes).unwrap();
        assert_eq!(super::vocabulary("b", &to_bytes(&vocabulary)).unwrap(), vocabulary);
    }

    const UNKNOWN: u64 = 2;
    const CONTROL: u64 = 3;

    /// A model of the pieces `<unk>` and `a`, with more fields behind them.
    fn model(more: &[Vec<u8>]) -> Vec<u8> {
        let settings = [string(2, &number(3, 2)), string(3, &number(4, 0))].concat();
        [piece(b"<unk>", UNKNOWN), piece(b"a", 1), settings, more.concat()].concat()
    }

    fn message(bytes: &[u8]) -> String {
        match vocabulary("t.model", bytes) {
            Ok(vocabulary) => format!("{vocabulary:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn settings_that_are_absent_have_sentencepiece_defaults() {
        let found = vocabulary("t.model", &model(&[piece(b"<s>", CONTROL), piece(b"<pad>", 1)])).unwrap();
        assert_eq!(found.entries.len(), 4);
        assert_eq!(found.entries[1], VocabEntry { text: "a".into(), score: 1.0, kind: PieceKind::Normal });
        assert_eq!((found.unk, found.bos, found.eos, found.pad), (Some(0), Some(2), None, None));
        assert!(found.add_dummy_prefix);
        assert_eq!(found.unk_surface, " \u{2047} ");
    }

    #[test]
    fn settings_are_read() {
        let trainer = [string(44, b"?"), string(46, b"B"), string(47, b"E"), string(48, b"P")].concat();
        let special = [piece(b"P", CONTROL), piece(b"E", CONTROL), piece(b"B", CONTROL)].concat();
        let found =
            vocabulary("t.model", &model(&[special, string(2, &trainer), string(3, &number(3, 0))])).unwrap();
        assert_eq!((found.bos, found.eos, found.pad), (Some(4), Some(3), Some(2)));
        assert!(!found.add_dummy_prefix);
        assert_eq!(found.unk_surface, "?");
    }

    #[test]
    fn a_hostile_or_unsupported_model_gives_a_precise_error() {
        let after = model(&[]).len();
        let not_whole = |what: &str| format!("not a whole SentencePiece model: {what}");
        let cases: &[(Vec<u8>, String)] = &[
            (vec![], "not a SentencePiece model: no pieces".into()),
            (string(2, &number(3, 2)), "not a SentencePiece model: no pieces".into()),
            (
                b"version https://git-lfs.github.com/spec/v1".to_vec(),
                not_whole("byte 0 starts field 14 of wire type 6, which does not exist"),
            ),
            (vec![0x02, 0x00], not_whole("byte 0 starts field 0 of wire type 2, which does not exist")),
            (vec![0x0a], not_whole("the field at byte 0 is cut off")),
            (vec![0x0a, 0x05, 0x0a], not_whole("field 1 at byte 0 is said to be 5 bytes long, 1 remain")),
            (
                [&[0x0a][..], &[0xff; 9], &[0x01], &[0x0a]].concat(),
                not_whole("field 1 at byte 0 is said to be 18446744073709551615 bytes long, 1 remain"),
            ),
            (
                string(1, &[0x0a, 0x09, b'x']),
                not_whole("field 1 at byte 2 is said to be 9 bytes long, 1 remain"),
            ),
            (
                [vec![0x0a], vec![0xff; 10]].concat(),
                not_whole("the number in the field at byte 0 has more than 64 bits"),
            ),
            (string(1, &[0x15, 0, 0]), not_whole("the field at byte 2 is cut off")),
            (number(1, 7), not_whole("field 1 at byte 0 is not a message")),
            (string(1, &number(1, 7)), not_whole("field 1 at byte 2 is not a string")),
            (string(1, &number(2, 7)), not_whole("field 2 at byte 2 is not a float")),
            (
                model(&[string(2, &string(3, b"2"))]),
                not_whole(&format!("field 3 at byte {} is not a number", after + 2)),
            ),
            (model(&[piece(b"", 1)]), "piece 2 is empty".into()),
            (model(&[string(1, &[])]), "piece 2 is empty".into()),
            (model(&[piece(b"ab\xc3(", 1)]), "piece 2 is not UTF-8 from its byte 2 on".into()),
            (model(&[string(2, &string(44, b"\xff"))]), "unk_surface is not UTF-8 from its byte 0 on".into()),
            (model(&[piece(b"x", 0)]), "piece 2 has type 0, expected 1 to 6".into()),
            (model(&[piece(b"x", 7)]), "piece 2 has type 7, expected 1 to 6".into()),
            (model(&[piece(b"?", UNKNOWN)]), "pieces 0 and 2 both have the type unknown".into()),
            (model(&[piece(b"<0x00>", 6)]), "byte_fallback is false with 1 byte pieces, expected 0".into()),
            (
                model(&[string(2, &number(35, 1))]),
                "byte_fallback is true with 0 byte pieces, expected 256".into(),
            ),
            (model(&[string(2, &number(3, 1))]), "model_type is unigram, supported is bpe".into()),
            (model(&[string(2, &number(3, 4))]), "model_type is char, supported is bpe".into()),
            (model(&[string(2, &number(3, 9))]), "model_type is 9, supported is bpe".into()),
            (piece(b"a", 1), "model_type is unigram, supported is bpe".into()),
            (
                model(&[string(2, &number(24, 1))]),
                "treat_whitespace_as_suffix is true, supported is false".into(),
            ),
            (
                model(&[string(3, &[string(1, b"nmt_nfkc"), string(2, &[1, 2, 3])].concat())]),
                "normalizer is \"nmt_nfkc\" with a character map of 3 bytes, supported is identity".into(),
            ),
            (
                model(&[string(5, &string(2, &[1]))]),
                "denormalizer is \"\" with a character map of 1 bytes, supported is identity".into(),
            ),
            (
                model(&[string(3, &number(4, 1))]),
                "remove_extra_whitespaces is true, supported is false".into(),
            ),
            (model(&[string(3, &number(5, 0))]), "escape_whitespaces is false, supported is true".into()),
        ];
        for (bytes, expected) in cases {
            assert_eq!(message(bytes), format!("t.model: {expected}"));
        }
    }

    #[test]
    fn no_cut_and_no_flipped_bit_of_a_real_model_is_a_panic() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny/tokenizer.model");
        let whole = &std::fs::read(path).unwrap()[..];
        let tokenizer = |bytes: &[u8]| vocabulary("t.model", bytes).map(crate::Tokenizer::new);
        assert!(tokenizer(whole).is_ok_and(|tokenizer| tokenizer.is_ok()));
        for end in (0..whole.len()).step_by(7) {
            assert!(tokenizer(&whole[..end]).is_err(), "cut after {end} bytes");
        }
        let mut bytes = whole.to_vec();
        for bit in (0..8 * whole.len()).step_by(101) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(Ok(tokenizer)) = tokenizer(&bytes) {
                let _ = tokenizer.decode(&tokenizer.encode("Romeo, Romeo\n🙂"));
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
