//! The pieces of a vocabulary, found by id and by text. Uses the ground only.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use crate::vocab::{PieceKind, VocabEntry};

/// All pieces: their text in one string, and an open-addressing hash table of ids over it.
///
/// The hash is keyed at random, so that no vocabulary can be written to make it slow.
pub(super) struct Pieces {
    text: String,
    ends: Vec<u32>,        // [pieces], where each ends in `text`
    kinds: Vec<PieceKind>, // [pieces]
    slots: Vec<Slot>,      // a power of two, at least twice the pieces
    hasher: RandomState,
}

/// A place of the hash table; `id` is [`FREE`] in an unused one.
#[derive(Clone, Copy)]
struct Slot {
    id: u32,
    /// Other bits of the hash than the ones that chose the slot: tells most wrong pieces apart without touching their text.
    tag: u32,
}

const FREE: u32 = u32::MAX;

/// Why entries cannot be held.
#[derive(Debug)]
pub(super) enum PiecesError {
    /// Their ids or positions do not fit into 32 bits.
    TooLarge,
    /// Two have the same text.
    Duplicate { first: u32, second: u32 },
}

impl Pieces {
    pub(super) fn new(entries: &[VocabEntry]) -> Result<Self, PiecesError> {
        let bytes = entries.iter().map(|entry| entry.text.len()).sum::<usize>();
        if bytes.max(entries.len()) >= FREE as usize {
            return Err(PiecesError::TooLarge);
        }
        let mut pieces = Self {
            text: String::with_capacity(bytes),
            ends: Vec::with_capacity(entries.len()),
            kinds: entries.iter().map(|entry| entry.kind).collect(),
            slots: vec![Slot { id: FREE, tag: 0 }; (2 * entries.len()).next_power_of_two()],
            hasher: RandomState::new(),
        };
        for (id, entry) in (0..).zip(entries) {
            pieces.text.push_str(&entry.text);
            pieces.ends.push(pieces.text.len() as u32);
            let (slot, tag) = pieces.slot(&entry.text);
            match pieces.slots[slot].id {
                FREE => pieces.slots[slot] = Slot { id, tag },
                first => return Err(PiecesError::Duplicate { first, second: id }),
            }
        }
        Ok(pieces)
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The piece with this id.
    pub(super) fn get(&self, id: u32) -> Option<(&str, PieceKind)> {
        let index = id as usize;
        let end = *self.ends.get(index)? as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        Some((&self.text[start..end], self.kinds[index]))
    }

    /// The piece with this text.
    pub(super) fn find(&self, text: &str) -> Option<(u32, PieceKind)> {
        let (slot, _) = self.slot(text);
        match self.slots[slot].id {
            FREE => None,
            id => Some((id, self.kinds[id as usize])),
        }
    }

    /// All pieces, by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str, PieceKind)> {
        (0..).map_while(|id| self.get(id).map(|(text, kind)| (id, text, kind)))
    }

    /// The slot that holds `text`, or the free one where it belongs, and its tag.
    fn slot(&self, text: &str) -> (usize, u32) {
        let hash = self.hasher.hash_one(text);
        let (mask, tag) = (self.slots.len() - 1, (hash >> 32) as u32);
        let mut slot = hash as usize & mask;
        loop {
            let Slot { id, tag: other } = self.slots[slot];
            if id == FREE || other == tag && self.get(id).is_some_and(|(piece, _)| piece == text) {
                return (slot, tag);
            }
            slot = (slot + 1) & mask;
        }
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pieces", self.len())
    }
}

/// Whether text is written with pieces of this kind: found whole or made by merging.
pub(super) fn writes_text(kind: PieceKind) -> bool {
    matches!(kind, PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused)
}
