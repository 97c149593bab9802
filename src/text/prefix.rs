//! The longest of a set of pieces that a text starts with. Uses [`Pieces`].

use super::pieces::Pieces;

/// A set of pieces, in the order of their texts.
#[derive(Debug)]
pub(super) struct PrefixSet {
    sorted: Vec<u32>,
    /// Whether a piece starts with this byte: settles nearly every text.
    starts: [bool; 256],
}

impl PrefixSet {
    /// The pieces with these ids.
    pub(super) fn new(pieces: &Pieces, ids: impl Iterator<Item = u32>) -> Self {
        let mut sorted: Vec<u32> = ids.collect();
        sorted.sort_by_key(|&id| pieces.get(id).map(|(text, _)| text));
        let mut starts = [false; 256];
        for first in sorted.iter().filter_map(|&id| pieces.get(id)?.0.bytes().next()) {
            starts[usize::from(first)] = true;
        }
        Self { sorted, starts }
    }

    /// How many bytes of `text` the longest piece covers that it starts with.
    pub(super) fn longest(&self, pieces: &Pieces, text: &str) -> Option<usize> {
        if !text.bytes().next().is_some_and(|first| self.starts[usize::from(first)]) {
            return None;
        }
        let piece = |id: u32| pieces.get(id).map_or("", |(text, _)| text);
        let mut longest = None;
        let mut alike = &self.sorted[..]; // those that share the bytes looked at with `text`
        for (depth, byte) in text.bytes().enumerate() {
            let next = |id: &u32| piece(*id).as_bytes().get(depth).copied(); // none sorts first
            alike = &alike[alike.partition_point(|id| next(id) < Some(byte))..];
            alike = &alike[..alike.partition_point(|id| next(id) == Some(byte))];
            match alike.first() {
                None => break,
                Some(&id) if piece(id).len() == depth + 1 => longest = Some(depth + 1),
                Some(_) => {}
            }
        }
        longest
    }
}
