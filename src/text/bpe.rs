//! Splits text into pieces by merging, as SentencePiece's BPE does. Uses [`Pieces`].
//!
//! Every character starts as a symbol. Of all neighbours whose joined text is a piece, the pair whose piece has the highest
//! score is joined, the leftmost of equals, until no pair is left. User-defined pieces are symbols from the start and join
//! nothing. A queue of pairs and a linked list of symbols make that `n log n` for any text.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use super::decode::SPACE;
use super::pieces::{Pieces, writes_text};
use super::prefix::PrefixSet;
use crate::vocab::{PieceKind, VocabEntry};

/// The order of merges of a vocabulary.
#[derive(Debug)]
pub(super) struct Bpe {
    /// A lower rank is merged first, equal scores have equal ranks; [`NEVER`] for pieces that merging does not make.
    ranks: Vec<u32>, // [pieces]
    user_defined: PrefixSet,
    /// Whether each word can be split on its own: a U+2581 is only at the start of a piece. Not with unused pieces, which are
    /// taken apart in the way that came last in the whole text.
    words_apart: bool,
}

const NEVER: u32 = u32::MAX;

/// A stretch of the text and its neighbours.
struct Symbol {
    start: usize,
    previous: usize, // NONE at the first
    next: usize,     // NONE at the last
    len: u32,        // 0 once it is part of the symbol before
    user_defined: bool,
}

const NONE: usize = usize::MAX;

/// Two neighbours that could be joined; ordered as they would be.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Merge {
    rank: u32,
    left: usize,
    len: u32, // of both together: tells whether one has changed since
}

impl Bpe {
    /// The order given by the scores of `entries`, none of which is NaN.
    pub(super) fn new(entries: &[VocabEntry], pieces: &Pieces) -> Self {
        let mut by_score: Vec<usize> =
            (0..entries.len()).filter(|&id| writes_text(entries[id].kind)).collect();
        by_score.sort_by(|&a, &b| order(entries[b].score, entries[a].score));
        let mut ranks = vec![NEVER; entries.len()];
        let (mut rank, mut before) = (0, f32::INFINITY);
        for id in by_score {
            rank += u32::from(entries[id].score != before);
            before = entries[id].score;
            ranks[id] = rank;
        }
        let user_defined = pieces.iter().filter(|(_, _, kind)| *kind == PieceKind::UserDefined);
        Self {
            ranks,
            user_defined: PrefixSet::new(pieces, user_defined.map(|(id, _, _)| id)),
            words_apart: entries.iter().all(|entry| {
                entry.kind != PieceKind::Unused && !entry.text.trim_start_matches(SPACE).contains(SPACE)
            }),
        }
    }

    /// Gives `emit` the parts of `text` from left to right. Those that are not pieces are single characters.
    pub(super) fn split<'t>(&self, pieces: &Pieces, text: &'t str, mut emit: impl FnMut(&'t str)) {
        let mut merging = Merging { bpe: self, pieces, text, symbols: Vec::new(), unused: HashMap::new() };
        let mut queue = BinaryHeap::new();
        let mut parts = Vec::new();
        let mut start = 0;
        while start < text.len() {
            let end = start + self.stretch(&text[start..]);
            merging.load(start..end);
            queue.extend((1..merging.symbols.len()).filter_map(|right| merging.pair(right - 1, right)));
            while let Some(Reverse(merge)) = queue.pop() {
                if merging.join(&merge) {
                    let Symbol { previous, next, .. } = merging.symbols[merge.left];
                    queue.extend(merging.pair(previous, merge.left));
                    queue.extend(merging.pair(merge.left, next));
                }
            }
            for symbol in merging.symbols.iter().filter(|symbol| symbol.len > 0) {
                parts.push(&text[symbol.start..symbol.end()]);
                while let Some(part) = parts.pop() {
                    match merging.unused.get(part) {
                        Some(&left) => parts.extend([&part[left..], &part[..left]]),
                        None => emit(part),
                    }
                }
            }
            start = end;
        }
    }

    /// How many bytes at the start of `text` can be split without looking at the rest: a word, if they are apart.
    fn stretch(&self, text: &str) -> usize {
        let word = text.trim_start_matches(SPACE);
        match word.find(SPACE) {
            Some(end) if self.words_apart => text.len() - word.len() + end,
            _ => text.len(),
        }
    }
}

/// A text on its way to pieces.
struct Merging<'a, 't> {
    bpe: &'a Bpe,
    pieces: &'a Pieces,
    text: &'t str,
    symbols: Vec<Symbol>,
    /// Unused pieces take part in merges but are taken apart in the end: where each was put together last.
    unused: HashMap<&'t str, usize>,
}

impl Merging<'_, '_> {
    /// Starts over with the symbols of a stretch of the text.
    fn load(&mut self, stretch: Range<usize>) {
        self.symbols.clear();
        let mut start = stretch.start;
        while let Some(character) = self.text[start..stretch.end].chars().next() {
            let index = self.symbols.len();
            let whole = self.bpe.user_defined.longest(self.pieces, &self.text[start..stretch.end]);
            let len = whole.unwrap_or(character.len_utf8());
            self.symbols.push(Symbol {
                start,
                previous: index.wrapping_sub(1),
                next: index + 1,
                len: len as u32, // no piece is longer, see `Pieces`
                user_defined: whole.is_some(),
            });
            start += len;
        }
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
    }

    /// The merge of two neighbours, if there are two and it makes a piece.
    fn pair(&mut self, left: usize, right: usize) -> Option<Reverse<Merge>> {
        let (first, second) = (self.symbols.get(left)?, self.symbols.get(right)?);
        if first.user_defined || second.user_defined {
            return None;
        }
        let joined = &self.text[first.start..second.end()];
        let (id, kind) = self.pieces.find(joined)?;
        let rank = self.bpe.ranks[id as usize];
        if rank == NEVER {
            return None;
        }
        if kind == PieceKind::Unused {
            self.unused.insert(joined, first.len as usize);
        }
        Some(Reverse(Merge { rank, left, len: first.len + second.len }))
    }

    /// Joins two neighbours, unless one of them was joined with another since the merge was found.
    fn join(&mut self, merge: &Merge) -> bool {
        let Symbol { len, next: right, .. } = self.symbols[merge.left];
        let Some(&Symbol { len: right_len, next, .. }) = self.symbols.get(right) else { return false };
        // Symbols only grow, so an equal sum means the same two.
        if len == 0 || len + right_len != merge.len {
            return false;
        }
        self.symbols[merge.left].len = merge.len;
        self.symbols[merge.left].next = next;
        self.symbols[right].len = 0;
        if let Some(after) = self.symbols.get_mut(next) {
            after.previous = merge.left;
        }
        true
    }
}

impl Symbol {
    fn end(&self) -> usize {
        self.start + self.len as usize
    }
}

/// The order of two scores, neither of which is NaN; both zeros are equal.
fn order(a: f32, b: f32) -> std::cmp::Ordering {
    (a + 0.0).total_cmp(&(b + 0.0))
}
