//! Generating text: one token after the other, until something ends it. Uses `model`, `text` and `sample`.

use super::{Entry, Session, SessionError, Want};
use crate::control::Control;
use crate::error::Result;
use crate::model::ModelError;
use crate::sample::{Alternative, Sampled, Sampler};
use crate::text::TextStream;

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Finish {
    /// The model ended its text.
    EndOfText,
    /// A stop string was complete; its number among those given.
    Stop(usize),
    /// As many tokens as asked for.
    MaxTokens,
    /// The session's context is full.
    ContextFull,
}

/// One generated token and the text it made certain.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    sampled: Sampled,
    text: String,
    finish: Option<Finish>,
}

impl Piece {
    /// The token.
    #[must_use]
    pub fn token(&self) -> u32 {
        self.sampled.token
    }

    /// The text that became certain with it: whole characters, nothing that may still turn out to be a stop string. Often empty,
    /// and always for a model without a tokenizer.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Natural logarithm of the token's probability under the model; `None` if the sampler was told to leave it out.
    #[must_use]
    pub fn logprob(&self) -> Option<f32> {
        self.sampled.logprob
    }

    /// The model's most likely tokens here, best first, as many as the sampler was asked for.
    #[must_use]
    pub fn alternatives(&self) -> &[Alternative] {
        &self.sampled.alternatives
    }

    /// Why the generation ended, if this is its last piece.
    #[must_use]
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }
}

/// A generation under way, without its session: what a server or an async host holds between runs.
///
/// After each run of the session, [`accept`](Self::accept) samples a token, pushes it to the session and returns it; the next run
/// then needs no tokens of its own.
///
/// ```
/// use grok1::{Control, Entry, Generation, Model, Sampler, Want};
///
/// let model = Model::open("assets/tiny")?;
/// let mut session = model.session()?;
/// let mut sampler = Sampler::new().greedy();
/// let mut generation = Generation::new().max_tokens(5);
/// let prompt = model.tokenizer()?.encode("The king");
/// let entry = Entry::new(&mut session, &prompt).want(Want::Sample(&sampler));
/// model.run(&mut [entry], &Control::new())?;
/// while let Some(piece) = generation.accept(&mut session, &mut sampler)? {
///     print!("{}", piece.text());
///     if piece.finish().is_none() {
///         let entry = Entry::new(&mut session, &[]).want(Want::Sample(&sampler));
///         model.run(&mut [entry], &Control::new())?;
///     }
/// }
/// # Ok::<(), grok1::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Generation {
    max_tokens: Option<usize>,
    stop: Vec<String>,
    ignore_end: bool,
    tokens: usize,
    /// Made with the first token.
    stream: Option<TextStream>,
    finish: Option<Finish>,
}

impl Generation {
    /// Goes on until the end-of-text token or a full context.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends after this many tokens.
    #[must_use]
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = Some(tokens);
        self
    }

    /// Ends before any of these strings, wherever in the text it appears. None may be empty.
    #[must_use]
    pub fn stop<S: Into<String>>(mut self, strings: impl IntoIterator<Item = S>) -> Self {
        self.stop.extend(strings.into_iter().map(Into::into));
        self
    }

    /// Goes on after the end-of-text token.
    #[must_use]
    pub fn ignore_end_of_text(mut self, ignore: bool) -> Self {
        self.ignore_end = ignore;
        self
    }

    /// Tokens accepted so far.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Why it ended, if it has.
    #[must_use]
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// Samples the next token from the session's logits and pushes it to the session; `None` once the generation has ended.
    ///
    /// # Errors
    /// [`SessionError::NoLogits`], [`ModelError::NoTokenizer`] with stop strings, and the sampler's. Nothing was changed then.
    pub fn accept(&mut self, session: &mut Session, sampler: &mut Sampler) -> Result<Option<Piece>> {
        if self.finish.is_none() && self.max_tokens == Some(0) {
            self.finish = Some(Finish::MaxTokens);
        }
        if self.finish.is_some() {
            return Ok(None);
        }
        if !session.is_ready() {
            return Err(SessionError::NoLogits.into());
        }
        if self.stream.is_none() {
            self.stream = self.open_stream(session)?;
        }
        let candidates = session.candidates().filter(|candidates| sampler.is_served_by(candidates));
        let sampled = match candidates.and_then(|candidates| sampler.choose(candidates)) {
            Some(sampled) => sampled,
            None => {
                let logits = session.logits().ok_or(SessionError::NoLogits)?;
                sampler.sample(logits, session.tokens())?
            }
        };
        self.tokens += 1;
        let mut text = String::new();
        if sampled.token == session.model().config().eos && !self.ignore_end {
            self.finish = Some(Finish::EndOfText);
        } else {
            if let Some(stream) = &mut self.stream {
                text.push_str(stream.push(sampled.token)?);
                self.finish = stream.stopped().map(Finish::Stop);
            }
            if self.finish.is_none() && self.max_tokens == Some(self.tokens) {
                self.finish = Some(Finish::MaxTokens);
            }
        }
        session.push(sampled.token);
        if self.finish.is_none() && session.tokens().len() > session.context() {
            self.finish = Some(Finish::ContextFull);
        }
        if let (Some(stream), Some(_)) = (&mut self.stream, self.finish) {
            text.push_str(stream.finish());
        }
        Ok(Some(Piece { sampled, text, finish: self.finish }))
    }

    /// Runs what waits in the session, if it has no logits, and [accepts](Self::accept) a token; `None` once the generation has ended.
    ///
    /// # Errors
    /// Those of [`Model::run`](crate::Model::run) and of [`accept`](Self::accept); calling it again goes on.
    pub fn next(
        &mut self,
        session: &mut Session,
        sampler: &mut Sampler,
        control: &Control,
    ) -> Result<Option<Piece>> {
        if self.finish.is_none() && !session.is_ready() {
            session.run_for(sampler, &[], control)?;
        }
        self.accept(session, sampler)
    }

    /// Text that goes on where the session's ends; a session of control tokens only has no text yet.
    fn open_stream(&self, session: &Session) -> Result<Option<TextStream>> {
        let Ok(tokenizer) = session.model().tokenizer() else {
            return if self.stop.is_empty() { Ok(None) } else { Err(ModelError::NoTokenizer.into()) };
        };
        let silent = |&id: &u32| tokenizer.token_bytes(id).is_none_or(|bytes| bytes.is_empty());
        let stream = if session.tokens().iter().all(silent) {
            TextStream::new(tokenizer.clone())
        } else {
            TextStream::continuing(tokenizer.clone())
        };
        Ok(Some(stream.stop(&self.stop)?))
    }
}

/// What a generation begins with.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Prompt<'a> {
    /// Text, appended to the session's as it stands.
    Text(&'a str),
    /// Tokens.
    Tokens(&'a [u32]),
}

impl<'a> From<&'a str> for Prompt<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Prompt<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u32]> for Prompt<'a> {
    fn from(tokens: &'a [u32]) -> Self {
        Self::Tokens(tokens)
    }
}

impl<'a> From<&'a Vec<u32>> for Prompt<'a> {
    fn from(tokens: &'a Vec<u32>) -> Self {
        Self::Tokens(tokens)
    }
}

/// An iterator over the pieces of a generation, from [`Session::generate`]. Ends after the piece that says why, or after an error;
/// the session can be used again either way.
#[derive(Debug)]
pub struct Generate<'a> {
    session: &'a mut Session,
    sampler: &'a mut Sampler,
    generation: Generation,
    control: Control,
    /// Tokens to run before the first piece, or why there are none.
    prompt: Option<Result<Vec<u32>>>,
    failed: bool,
}

impl Session {
    /// Appends a prompt and generates from it.
    ///
    /// A prompt that begins a session is encoded as SentencePiece does; later ones are appended to the text as they stand. An
    /// empty prompt goes on from where the session is.
    pub fn generate<'a, 'p>(
        &'a mut self,
        prompt: impl Into<Prompt<'p>>,
        sampler: &'a mut Sampler,
    ) -> Generate<'a> {
        let prompt = match prompt.into() {
            Prompt::Tokens(tokens) => Ok(tokens.to_vec()),
            Prompt::Text(text) => self.encode(text),
        };
        Generate {
            session: self,
            sampler,
            generation: Generation::new(),
            control: Control::new(),
            prompt: Some(prompt),
            failed: false,
        }
    }
}

impl Session {
    /// Runs `tokens`, for this sampler to go on.
    fn run_for(&mut self, sampler: &Sampler, tokens: &[u32], control: &Control) -> Result<()> {
        let model = self.model.clone();
        model.run(&mut [Entry::new(self, tokens).want(Want::Sample(sampler))], control)
    }
}

impl Generate<'_> {
    /// Ends after this many tokens.
    #[must_use]
    pub fn max_tokens(self, tokens: usize) -> Self {
        self.change(|generation| generation.max_tokens(tokens))
    }

    /// Ends before any of these strings. None may be empty.
    #[must_use]
    pub fn stop<S: Into<String>>(self, strings: impl IntoIterator<Item = S>) -> Self {
        self.change(|generation| generation.stop(strings))
    }

    /// Goes on after the end-of-text token.
    #[must_use]
    pub fn ignore_end_of_text(self, ignore: bool) -> Self {
        self.change(|generation| generation.ignore_end_of_text(ignore))
    }

    /// Lets `control` cancel and hear of the prompt's progress.
    #[must_use]
    pub fn control(mut self, control: &Control) -> Self {
        self.control = control.clone();
        self
    }

    fn change(mut self, change: impl FnOnce(Generation) -> Generation) -> Self {
        self.generation = change(self.generation);
        self
    }

    fn step(&mut self) -> Result<Option<Piece>> {
        if self.generation.finish().is_some() {
            return Ok(None);
        }
        let prompt = self.prompt.take().transpose()?.unwrap_or_default();
        if !prompt.is_empty() {
            self.session.run_for(self.sampler, &prompt, &self.control)?;
        }
        self.generation.next(self.session, self.sampler, &self.control)
    }
}

impl Iterator for Generate<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        if self.failed {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        step.transpose()
    }
}
