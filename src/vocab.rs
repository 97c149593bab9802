//! A tokenizer's vocabulary as data, whichever file it came from. Uses nothing.

/// One entry of a [`Vocabulary`]; its index is the token id.
#[derive(Clone, Debug, PartialEq)]
pub struct VocabEntry {
    /// The piece as stored: U+2581 stands for a space, bytes are written `<0x0A>`.
    pub text: String,
    /// Merge priority: among mergeable pairs the one with the highest score goes first.
    pub score: f32,
    /// What the piece is for.
    pub kind: PieceKind,
}

/// What a piece is for (SentencePiece's `ModelProto.SentencePiece.Type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PieceKind {
    /// Ordinary text, made by merging.
    Normal,
    /// Stands for what the vocabulary cannot write.
    Unknown,
    /// Never produced from text and invisible in decoded text (`[BOS]`, `[EOS]`, `[PAD]`).
    Control,
    /// Recognised as a whole inside ordinary text, never merged.
    UserDefined,
    /// Present but not used.
    Unused,
    /// One raw byte, for text without a piece of its own.
    Byte,
}

impl PieceKind {
    /// The kinds by the numbers that sentencepiece and GGUF share, from 1.
    const NUMBERED: [Self; 6] =
        [Self::Normal, Self::Unknown, Self::Control, Self::UserDefined, Self::Unused, Self::Byte];

    /// The kind with this number; `None` beyond 1 to 6.
    pub(crate) fn of_number(number: u64) -> Option<Self> {
        Self::NUMBERED.into_iter().find(|kind| kind.number() == number)
    }

    /// Its number.
    pub(crate) fn number(self) -> u64 {
        Self::NUMBERED.into_iter().zip(1..).find(|(kind, _)| *kind == self).map_or(0, |(_, number)| number)
    }
}

/// Everything a SentencePiece-BPE tokenizer needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    /// The pieces, by token id.
    pub entries: Vec<VocabEntry>,
    /// Whether encoding puts one U+2581 in front of the text.
    pub add_dummy_prefix: bool,
    /// The piece for text that nothing else can write.
    pub unk: Option<u32>,
    /// Begin-of-sequence token; Grok-1 is run without it.
    pub bos: Option<u32>,
    /// End-of-sequence token.
    pub eos: Option<u32>,
    /// Padding token.
    pub pad: Option<u32>,
    /// What [`unk`](Self::unk) decodes to.
    pub unk_surface: String,
}
