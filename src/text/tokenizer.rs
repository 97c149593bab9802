//! [`Tokenizer`]: text to token ids and back. Uses the ground and the rest of this room.

use std::borrow::Cow;
use std::fmt;

use super::bpe::Bpe;
use super::decode::{Decoder, SPACE, byte_of};
use super::pieces::{Pieces, PiecesError, writes_text};
use crate::error::{Classify, ErrorKind};
use crate::vocab::{PieceKind, Vocabulary};

/// Turns text into token ids and back, exactly as sentencepiece does.
///
/// Text is neither normalised nor trimmed. No begin- or end-of-sequence token is ever added: Grok-1 runs without them.
/// User-defined pieces (`<|separator|>`) are recognised inside text, control pieces (`[EOS]`) are not.
///
/// Sentencepiece puts a space in front of what it encodes and drops one from the start of what it decodes. A text that goes on
/// where another ended is therefore encoded with [`encode_continuation`](Self::encode_continuation), and tokens that go on where
/// others ended are decoded with [`TextStream::continuing`](super::TextStream::continuing).
///
/// ```
/// # fn main() -> grok1::Result<()> {
/// let bytes = std::fs::read("assets/tiny/tokenizer.model").unwrap();
/// let vocabulary = grok1::checkpoint::sentencepiece::vocabulary("tokenizer.model", &bytes)?;
/// let tokenizer = grok1::Tokenizer::new(vocabulary)?;
///
/// let ids = tokenizer.encode("To be, or not to be");
/// assert_eq!(tokenizer.decode(&ids)?, "To be, or not to be");
/// # Ok(())
/// # }
/// ```
pub struct Tokenizer {
    pieces: Pieces,
    bpe: Bpe,
    /// The pieces of the 256 bytes, if the vocabulary has them.
    bytes: Option<Box<[u32; 256]>>,
    add_dummy_prefix: bool,
    unk: Option<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    unk_surface: String,
}

/// Why a vocabulary, a token id or a stop string cannot be used.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// No such token.
    #[error("token {id} is outside the vocabulary of {vocabulary}")]
    Token {
        /// The token.
        id: u32,
        /// Tokens that there are.
        vocabulary: usize,
    },
    /// A stop string without text, which would stop everything.
    #[error("stop string {index} is empty")]
    EmptyStop {
        /// Its place among the stop strings, from 0.
        index: usize,
    },
    /// There are no pieces.
    #[error("vocabulary: no pieces")]
    NoPieces,
    /// Too much for 32-bit ids and positions.
    #[error("vocabulary: {pieces} pieces are too large, expected less than 4 GiB")]
    TooLarge {
        /// How many pieces.
        pieces: usize,
    },
    /// A piece without text.
    #[error("vocabulary: piece {id} is empty")]
    EmptyPiece {
        /// The piece.
        id: usize,
    },
    /// A score that has no place in an order.
    #[error("vocabulary: the score of piece {id} is not a number")]
    Score {
        /// The piece.
        id: usize,
    },
    /// Two pieces with the same text.
    #[error("vocabulary: pieces {first} and {second} are both {text:?}")]
    Duplicate {
        /// The first one.
        first: u32,
        /// The second one.
        second: u32,
        /// Their text.
        text: String,
    },
    /// A byte piece that names no byte.
    #[error("vocabulary: byte piece {id} is {text:?}, expected <0x00> to <0xFF>")]
    BytePiece {
        /// The piece.
        id: u32,
        /// Its text.
        text: String,
    },
    /// Some bytes have a piece and this one has none.
    #[error("vocabulary: there is no piece for byte {byte:#04X}, but for others")]
    MissingByte {
        /// The byte.
        byte: u8,
    },
    /// A text could not always be written.
    #[error("vocabulary: neither byte pieces nor an unknown piece")]
    NoFallback,
    /// A special token that does not exist.
    #[error("vocabulary: {name} is token {id}, there are {vocabulary}")]
    Special {
        /// What it is for.
        name: &'static str,
        /// Its id.
        id: u32,
        /// Tokens that there are.
        vocabulary: usize,
    },
}

impl Classify for TokenizerError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Token { .. } | Self::EmptyStop { .. } => ErrorKind::Argument,
            _ => ErrorKind::Format,
        }
    }
}

impl Tokenizer {
    /// The tokenizer of a vocabulary.
    ///
    /// The vocabulary must be one that writes any text in exactly one way: no empty or repeated pieces, scores that are numbers,
    /// and byte pieces for all 256 bytes or an unknown piece.
    pub fn new(vocabulary: Vocabulary) -> Result<Self, TokenizerError> {
        let Vocabulary { entries, add_dummy_prefix, unk, bos, eos, pad, unk_surface } = vocabulary;
        if entries.is_empty() {
            return Err(TokenizerError::NoPieces);
        }
        if let Some(id) = entries.iter().position(|entry| entry.text.is_empty()) {
            return Err(TokenizerError::EmptyPiece { id });
        }
        if let Some(id) = entries.iter().position(|entry| entry.score.is_nan()) {
            return Err(TokenizerError::Score { id });
        }
        for (name, id) in [("unk", unk), ("bos", bos), ("eos", eos), ("pad", pad)] {
            if let Some(id) = id.filter(|&id| id as usize >= entries.len()) {
                return Err(TokenizerError::Special { name, id, vocabulary: entries.len() });
            }
        }
        let pieces = Pieces::new(&entries).map_err(|error| match error {
            PiecesError::TooLarge => TokenizerError::TooLarge { pieces: entries.len() },
            PiecesError::Duplicate { first, second } => {
                TokenizerError::Duplicate { first, second, text: entries[first as usize].text.clone() }
            }
        })?;
        let bytes = byte_pieces(&pieces)?;
        if bytes.is_none() && unk.is_none() {
            return Err(TokenizerError::NoFallback);
        }
        let bpe = Bpe::new(&entries, &pieces);
        Ok(Self { pieces, bpe, bytes, add_dummy_prefix, unk, bos, eos, pad, unk_surface })
    }

    /// The tokens of a text on its own.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.tokens(text, self.add_dummy_prefix)
    }

    /// The tokens of a text that is appended to another one: no space is put in front of it.
    #[must_use]
    pub fn encode_continuation(&self, text: &str) -> Vec<u32> {
        self.tokens(text, false)
    }

    /// The tokens of a text whose bytes need not be UTF-8: every byte that belongs to no character counts as one U+FFFD.
    #[must_use]
    pub fn encode_lossy(&self, bytes: &[u8]) -> Vec<u32> {
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
        }
        self.encode(&text)
    }

    fn tokens(&self, text: &str, space_in_front: bool) -> Vec<u32> {
        if text.is_empty() {
            return Vec::new();
        }
        let mut escaped = String::with_capacity(text.len() + text.len() / 2);
        escaped.extend(space_in_front.then_some(SPACE));
        for (index, part) in text.split(' ').enumerate() {
            escaped.extend((index > 0).then_some(SPACE));
            escaped.push_str(part);
        }

        let mut ids = Vec::with_capacity(text.len() / 2);
        let mut after_unknown = false;
        self.bpe.split(&self.pieces, &escaped, |part| {
            let known = self.pieces.find(part).filter(|(_, kind)| writes_text(*kind));
            match (known, &self.bytes) {
                (Some((id, _)), _) => ids.push(id),
                (None, Some(bytes)) => ids.extend(part.bytes().map(|byte| bytes[usize::from(byte)])),
                // A run of unknown characters is one token.
                (None, None) => ids.extend(self.unk.filter(|_| !after_unknown)),
            }
            after_unknown = known.is_none();
        });
        ids
    }

    /// The text of tokens that start a text. Control tokens have none; a byte that belongs to no character becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let mut text = String::with_capacity(4 * ids.len());
        let mut decoder = self.decoder();
        for &id in ids {
            self.push(&mut decoder, id, &mut text)?;
        }
        decoder.finish(&mut text);
        Ok(text)
    }

    /// The decoder for tokens that start a text.
    pub(super) fn decoder(&self) -> Decoder {
        Decoder::new(self.add_dummy_prefix)
    }

    /// Appends the text that token `id` completes.
    pub(super) fn push(
        &self,
        decoder: &mut Decoder,
        id: u32,
        out: &mut String,
    ) -> Result<(), TokenizerError> {
        let (piece, kind) =
            self.pieces.get(id).ok_or(TokenizerError::Token { id, vocabulary: self.len() })?;
        decoder.push(piece, kind, &self.unk_surface, out);
        Ok(())
    }

    /// Number of tokens.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a tokenizer is never empty")]
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The piece as stored: U+2581 stands for a space, bytes are written `<0x0A>`. `None` if there is no such token.
    #[must_use]
    pub fn piece(&self, id: u32) -> Option<&str> {
        self.pieces.get(id).map(|(piece, _)| piece)
    }

    /// What a token is for. `None` if there is no such token.
    #[must_use]
    pub fn kind(&self, id: u32) -> Option<PieceKind> {
        self.pieces.get(id).map(|(_, kind)| kind)
    }

    /// The token of a piece as stored, special ones (`[EOS]`, `<|separator|>`, `<0x0A>`) included.
    #[must_use]
    pub fn id_of(&self, piece: &str) -> Option<u32> {
        self.pieces.find(piece).map(|(id, _)| id)
    }

    /// What a token adds to the text, which for a byte may be a part of a character: the piece with spaces for U+2581, the byte,
    /// nothing for control tokens. `None` if there is no such token.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        let (piece, kind) = self.pieces.get(id)?;
        Some(match kind {
            PieceKind::Byte => byte_of(piece).map_or(Cow::default(), |byte| Cow::Owned(vec![byte])),
            PieceKind::Control => Cow::default(),
            PieceKind::Unknown => Cow::Borrowed(self.unk_surface.as_bytes()),
            _ if piece.contains(SPACE) => Cow::Owned(piece.replace(SPACE, " ").into_bytes()),
            _ => Cow::Borrowed(piece.as_bytes()),
        })
    }

    /// The control tokens and the user-defined ones, by id.
    pub fn special_tokens(&self) -> impl Iterator<Item = (u32, &str, PieceKind)> {
        self.pieces.iter().filter(|(_, _, kind)| matches!(kind, PieceKind::Control | PieceKind::UserDefined))
    }

    /// The token for what nothing else can write.
    #[must_use]
    pub fn unk(&self) -> Option<u32> {
        self.unk
    }

    /// The begin-of-sequence token.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-sequence token.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The padding token.
    #[must_use]
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// The pieces of the 256 bytes; all of them or none.
fn byte_pieces(pieces: &Pieces) -> Result<Option<Box<[u32; 256]>>, TokenizerError> {
    let mut found = [None; 256];
    for (id, text, _) in pieces.iter().filter(|(_, _, kind)| *kind == PieceKind::Byte) {
        let byte = byte_of(text).ok_or_else(|| TokenizerError::BytePiece { id, text: text.to_owned() })?;
        found[usize::from(byte)] = Some(id);
    }
    if found.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut ids = Box::new([0; 256]);
    for ((byte, id), found) in (0..=u8::MAX).zip(ids.iter_mut()).zip(found) {
        *id = found.ok_or(TokenizerError::MissingByte { byte })?;
    }
    Ok(Some(ids))
}
