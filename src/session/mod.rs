//! One sequence: its tokens, its keys and values, and what is generated from it. Uses `model`, `text` and `sample`.

mod error;
mod generation;
mod run;
mod state;

use std::fmt;
use std::ops::ControlFlow;
use std::sync::OnceLock;

use crate::backend::Candidates;
use crate::control::Control;
use crate::error::Result;
use crate::model::{KvSequence, Model, ModelError};

pub use self::error::SessionError;
pub use self::generation::{Finish, Generate, Generation, Piece, Prompt};
pub use self::run::{Entry, Want};

/// One sequence of a model. Owned: it keeps its model alive, may be stored and moved to other threads, and is used by one thread
/// at a time.
///
/// A session remembers its tokens. Those that have been run have keys and values and count as [`position`](Self::position);
/// tokens [`push`](Self::push)ed since then run first the next time. [`Generation`] pushes what it samples, so that no token is
/// lost between one call and the next.
///
/// ```
/// use grok1::{Model, Sampler};
///
/// let model = Model::open("assets/tiny")?;
/// let mut session = model.session()?;
/// let mut sampler = Sampler::new().temperature(0.7).seed(42);
/// for piece in session.generate("To be, or not to be", &mut sampler).max_tokens(8) {
///     print!("{}", piece?.text());
/// }
/// # Ok::<(), grok1::Error>(())
/// ```
pub struct Session {
    model: Model,
    kv: KvSequence,
    context: usize,
    tokens: Vec<u32>, // the first `kv.len()` have been run
    /// Meaningful if `has_last`.
    last: LastRow,
    has_last: bool,
    /// Logits that were asked for where the last row has none.
    again: OnceLock<Vec<f32>>, // [vocab]
    /// The last row of a run that may still fail.
    staged: LastRow,
}

/// What is known of the token that comes next.
#[derive(Clone, Default)]
struct LastRow {
    logits: Vec<f32>, // [vocab], or empty if the candidates are what is known
    candidates: Candidates,
}

/// How a session is made.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    context: Option<usize>,
    beyond_trained_length: bool,
}

impl SessionOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Positions the session may have; by default as many as the model was trained for.
    #[must_use]
    pub fn context(mut self, positions: usize) -> Self {
        self.context = Some(positions);
        self
    }

    /// Allows a [`context`](Self::context) longer than the model was trained for. What comes out there is untested.
    #[must_use]
    pub fn beyond_trained_length(mut self, allowed: bool) -> Self {
        self.beyond_trained_length = allowed;
        self
    }
}

impl Model {
    /// A new, empty session.
    ///
    /// # Errors
    /// None with the default options; see [`session_with`](Self::session_with).
    pub fn session(&self) -> Result<Session> {
        self.session_with(&SessionOptions::new())
    }

    /// A new, empty session.
    ///
    /// # Errors
    /// [`ModelError::BeyondTrained`], or a context of 0 or of more than 2^31 positions.
    pub fn session_with(&self, options: &SessionOptions) -> Result<Session> {
        let trained = self.config().context;
        let context = options.context.unwrap_or(trained);
        if context == 0 || context > 1 << 31 {
            let expected = "1 to 2147483648";
            return Err(ModelError::Option { option: "context", found: context, expected }.into());
        }
        if context > trained && !options.beyond_trained_length {
            return Err(ModelError::BeyondTrained { asked: context, trained }.into());
        }
        Ok(Session {
            model: self.clone(),
            kv: KvSequence::new(self.kv_pool().clone()),
            context,
            tokens: Vec::new(),
            last: LastRow::default(),
            has_last: false,
            again: OnceLock::new(),
            staged: LastRow::default(),
        })
    }
}

impl Session {
    /// The model it belongs to.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Tokens that have been run.
    #[must_use]
    pub fn position(&self) -> usize {
        self.kv.len()
    }

    /// Tokens that can be run in all.
    #[must_use]
    pub fn context(&self) -> usize {
        self.context
    }

    /// All tokens, those that wait to be run included.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Logits of the last token, `[vocab]`, if the last run asked for them and no token has been pushed since.
    ///
    /// After a run for [`Want::Sample`], as those of [`generate`](Self::generate) are, they may still be on a device or gone: the token is
    /// then run once more, on a fork. `None` should that fail, which is logged.
    #[must_use]
    pub fn logits(&self) -> Option<&[f32]> {
        if !self.is_ready() {
            return None;
        }
        if self.last.logits.is_empty() { self.logits_again() } else { Some(&self.last.logits) }
    }

    /// Whether the last run left what the next token is chosen from, and no token has been pushed since.
    pub(crate) fn is_ready(&self) -> bool {
        self.has_last && self.tokens.len() == self.kv.len()
    }

    /// The best tokens of the last row, if these are what is known of it.
    fn candidates(&self) -> Option<&Candidates> {
        (self.is_ready() && self.last.logits.is_empty()).then_some(&self.last.candidates)
    }

    /// Logits of the last token by running it again.
    fn logits_again(&self) -> Option<&[f32]> {
        if self.again.get().is_none() {
            let mut fork = self.fork();
            fork.truncate(self.kv.len().saturating_sub(1));
            match fork.feed(&self.tokens[fork.tokens.len()..], &Control::new()) {
                Ok(logits) => _ = self.again.set(logits.to_vec()),
                Err(reason) => log::warn!("logits of the last token: {reason}"),
            }
        }
        self.again.get().map(Vec::as_slice)
    }

    /// Appends a token without running it: the next run begins with it.
    ///
    /// Whether it exists in the vocabulary is checked then.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Appends text without running it. Text that begins a session is encoded as SentencePiece does; later text goes on where the
    /// session's ends.
    ///
    /// # Errors
    /// [`ModelError::NoTokenizer`].
    pub fn push_text(&mut self, text: &str) -> Result<()> {
        let tokens = self.encode(text)?;
        self.tokens.extend(tokens);
        Ok(())
    }

    /// The tokens of text that comes after the session's.
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let tokenizer = self.model.tokenizer()?;
        Ok(if self.tokens.is_empty() { tokenizer.encode(text) } else { tokenizer.encode_continuation(text) })
    }

    /// Runs `tokens` and returns the logits of the last one, `[vocab]`.
    ///
    /// Long inputs go through in batches; `control` may cancel between and within them, and hears of the progress. All or
    /// nothing: after an error the session is as it was.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn feed(&mut self, tokens: &[u32], control: &Control) -> Result<&[f32]> {
        let model = self.model.clone();
        model.run(&mut [Entry::new(self, tokens)], control)?;
        Ok(&self.last.logits)
    }

    /// Runs `tokens` and returns the natural logarithm of each one's probability after all that came before it. The first one's is
    /// `None` unless the session has [`logits`](Self::logits), or tokens that wait, to predict it from.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn score(&mut self, tokens: &[u32], control: &Control) -> Result<Vec<Option<f32>>> {
        let waiting = self.tokens.len() - self.kv.len();
        let mut scores = Vec::with_capacity(tokens.len());
        if waiting == 0
            && let Some(&first) = tokens.first()
        {
            scores.push(self.logits().map(|logits| log_probability(logits, first)));
        }
        // Row `waiting + i` is the one of `tokens[i]`, and the row before it predicts that token.
        let mut rows = |row: usize, logits: &[f32]| {
            if let Some(&token) = (row + 1).checked_sub(waiting).and_then(|index| tokens.get(index)) {
                scores.push(Some(log_probability(logits, token)));
            }
            ControlFlow::Continue(())
        };
        let model = self.model.clone();
        model.run(&mut [Entry::new(self, tokens).want(Want::All(&mut rows))], control)?;
        Ok(scores)
    }

    /// Forgets all tokens from number `len` on.
    pub fn truncate(&mut self, len: usize) {
        if len < self.tokens.len() {
            self.tokens.truncate(len);
            self.has_last &= len >= self.kv.len();
            self.kv.truncate(len);
        }
    }

    /// A session with the same past. Keys and values are shared until one of the two goes on.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            model: self.model.clone(),
            kv: self.kv.fork(),
            context: self.context,
            tokens: self.tokens.clone(),
            last: self.last.clone(),
            has_last: self.has_last,
            again: self.again.clone(),
            staged: LastRow::default(),
        }
    }
}

/// Natural logarithm of a token's probability under the softmax of `logits` (`[vocab]`): what [`Session::score`] returns, for
/// sinks of [`Want::All`]. NaN if a logit is, or for a token beyond the vocabulary.
#[must_use]
pub fn log_probability(logits: &[f32], token: u32) -> f32 {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |a, &b| if a > b { a } else { b });
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    let logit = logits.get(token as usize).copied().unwrap_or(f32::NAN);
    (f64::from(logit - largest) - sum.ln()) as f32
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("position", &self.position())
            .field("waiting", &(self.tokens.len() - self.position()))
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}
