//! Tokens to text, one at a time. Uses [`Pieces`](super::pieces::Pieces).

use crate::vocab::PieceKind;

/// U+2581, which stands for a space inside pieces.
pub(super) const SPACE: char = '\u{2581}';

/// What of the tokens so far matters for the text of the next one.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    /// No text has come yet, so a U+2581 would be the one that encoding put there.
    at_start: bool,
    /// Bytes that may be the start of a character.
    partial: [u8; 4],
    partial_len: usize,
}

impl Decoder {
    /// `at_start`: whether to drop a U+2581 from the start of the text.
    pub(super) fn new(at_start: bool) -> Self {
        Self { at_start, partial: [0; 4], partial_len: 0 }
    }

    /// Appends the text that `piece` completes; `unk_surface` is the text of unknown pieces.
    pub(super) fn push(&mut self, piece: &str, kind: PieceKind, unk_surface: &str, out: &mut String) {
        if let (PieceKind::Byte, Some(byte)) = (kind, byte_of(piece)) {
            return self.push_byte(byte, out);
        }
        self.finish(out);
        match kind {
            PieceKind::Control => {}
            PieceKind::Unknown => self.append(unk_surface, out),
            _ => {
                let after_space = if self.at_start { piece.strip_prefix(SPACE) } else { None };
                self.at_start = false;
                for (index, part) in after_space.unwrap_or(piece).split(SPACE).enumerate() {
                    out.extend((index > 0).then_some(' '));
                    out.push_str(part);
                }
            }
        }
    }

    /// Appends what is left when no more tokens come: U+FFFD for each byte of an incomplete character.
    pub(super) fn finish(&mut self, out: &mut String) {
        self.replace(self.partial_len, out);
    }

    fn push_byte(&mut self, byte: u8, out: &mut String) {
        self.partial[self.partial_len] = byte; // at most three wait, a fourth completes or breaks the character
        self.partial_len += 1;
        while self.partial_len > 0 {
            let partial = self.partial;
            match str::from_utf8(&partial[..self.partial_len]) {
                Ok(character) => {
                    self.partial_len = 0;
                    self.append(character, out);
                }
                Err(error) => match error.error_len() {
                    Some(invalid) => self.replace(invalid, out),
                    None => break,
                },
            }
        }
    }

    /// Gives up on the first `invalid` bytes: one U+FFFD for each of them, as sentencepiece does.
    fn replace(&mut self, invalid: usize, out: &mut String) {
        for _ in 0..invalid {
            self.append("\u{fffd}", out);
        }
        self.partial.copy_within(invalid..self.partial_len, 0);
        self.partial_len -= invalid;
    }

    fn append(&mut self, text: &str, out: &mut String) {
        self.at_start &= text.is_empty();
        out.push_str(text);
    }
}

/// The byte that a byte piece such as `<0x0A>` stands for.
pub(super) fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let upper = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'));
    if digits.len() == 2 && upper { u8::from_str_radix(digits, 16).ok() } else { None }
}
