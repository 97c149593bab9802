//! Text to tokens and back, at once and as a stream. Uses the ground only.
//!
//! [`Tokenizer`] is made from a [`Vocabulary`](crate::Vocabulary), whichever file that came from. It encodes and decodes exactly as
//! sentencepiece does for models of the BPE type that leave text as it is. [`TextStream`] decodes tokens as they come.

mod bpe;
mod decode;
mod pieces;
mod prefix;
mod stop;
mod stream;
mod tokenizer;

pub use stream::TextStream;
pub use tokenizer::{Tokenizer, TokenizerError};
