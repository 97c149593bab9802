//! [`TextStream`]: text from tokens as they come. Uses [`Tokenizer`].

use std::sync::Arc;

use super::decode::Decoder;
use super::stop::StopStrings;
use super::tokenizer::{Tokenizer, TokenizerError};

/// Turns tokens into text one by one.
///
/// Every [`push`](Self::push) gives the text that has become certain: whole characters, without what may still turn out to be
/// part of a stop string. All these texts and the one of [`finish`](Self::finish) are together what
/// [`Tokenizer::decode`] makes of all tokens, up to the first stop string.
///
/// ```
/// # fn main() -> grok1::Result<()> {
/// # use std::sync::Arc;
/// # let bytes = std::fs::read("assets/tiny/tokenizer.model").unwrap();
/// # let vocabulary = grok1::checkpoint::sentencepiece::vocabulary("tokenizer.model", &bytes)?;
/// # let tokenizer = Arc::new(grok1::Tokenizer::new(vocabulary)?);
/// let mut stream = grok1::TextStream::new(tokenizer.clone()).stop(["\n\n"])?;
/// let mut text = String::new();
/// for id in tokenizer.encode("One 🙂.\n\nTwo.") {
///     text += stream.push(id)?;
/// }
/// text += stream.finish();
/// assert_eq!(text, "One 🙂.");
/// assert_eq!(stream.stopped(), Some(0));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    decoder: Decoder,
    stops: StopStrings,
    stopped: Option<usize>,
    /// What the last call gave out, then what is held back.
    text: String,
    /// Bytes of `text` that the last call gave out.
    given: usize,
}

impl TextStream {
    /// A stream whose first token starts a text: like [`Tokenizer::decode`] it drops the space that encoding puts there.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let decoder = tokenizer.decoder();
        Self::with(tokenizer, decoder)
    }

    /// A stream whose first token goes on where a text ended, as generated tokens do: its space stays.
    #[must_use]
    pub fn continuing(tokenizer: Arc<Tokenizer>) -> Self {
        Self::with(tokenizer, Decoder::new(false))
    }

    fn with(tokenizer: Arc<Tokenizer>, decoder: Decoder) -> Self {
        Self {
            tokenizer,
            decoder,
            stops: StopStrings::default(),
            stopped: None,
            text: String::new(),
            given: 0,
        }
    }

    /// Adds strings that end the text. They are looked for in the text, wherever tokens begin and end; none may be empty.
    ///
    /// The one that is complete first counts, and of those that end at the same place the longest.
    pub fn stop<S: AsRef<str>>(
        mut self,
        strings: impl IntoIterator<Item = S>,
    ) -> Result<Self, TokenizerError> {
        for string in strings {
            if string.as_ref().is_empty() {
                return Err(TokenizerError::EmptyStop { index: self.stops.len() });
            }
            self.stops.add(string.as_ref());
        }
        Ok(self)
    }

    /// The text that token `id` makes certain, often none. After a stop string there is none any more.
    pub fn push(&mut self, id: u32) -> Result<&str, TokenizerError> {
        let held = self.forget_given();
        self.tokenizer.push(&mut self.decoder, id, &mut self.text)?;
        self.look(held);
        Ok(&self.text[..self.given])
    }

    /// The text that was held back, when no more tokens come: U+FFFD for each byte of an incomplete character. A token pushed
    /// afterwards goes on behind that text.
    pub fn finish(&mut self) -> &str {
        let held = self.forget_given();
        self.decoder.finish(&mut self.text);
        self.look(held);
        self.stops.reset();
        self.given = self.text.len();
        &self.text
    }

    /// The stop string that ended the text, by its place among those given, from 0.
    #[must_use]
    pub fn stopped(&self) -> Option<usize> {
        self.stopped
    }

    /// Drops what the last call gave out; returns how many bytes are held back.
    fn forget_given(&mut self) -> usize {
        self.text.drain(..self.given);
        self.given = 0;
        self.text.len()
    }

    /// Decides what can be given out after text was added behind the first `held` bytes.
    fn look(&mut self, held: usize) {
        if self.stopped.is_some() {
            self.text.clear();
        } else if let Some(found) = self.stops.find(&self.text[held..]) {
            self.stopped = Some(found.index);
            self.text.truncate(self.text.len() - found.from_end);
            self.given = self.text.len();
        } else {
            self.given = self.text.len() - self.stops.pending();
        }
    }
}
