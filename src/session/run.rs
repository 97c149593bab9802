//! [`Model::run`]: the core call that everything else is thin over. Uses `model` and `sample`.

use std::fmt;
use std::ops::ControlFlow;

use super::{LastRow, Session};
use crate::backend::{Candidates, Observer};
use crate::control::Control;
use crate::error::Result;
use crate::model::{Job, Model, Output, Parts};
use crate::sample::Sampler;

/// What a run is asked for.
#[non_exhaustive]
pub enum Want<'a> {
    /// Only keys and values.
    Nothing,
    /// The last token's logits, in [`Session::logits`].
    Last,
    /// What this sampler needs to choose the token that comes next, for [`Generation::accept`](crate::Generation::accept) with it as it
    /// is: the same tokens as by [`Last`](Self::Last), but a device may hand over its best few logits instead of all of them.
    /// [`Session::logits`] has to compute them again then.
    Sample(&'a Sampler),
    /// Every token's logits, `[vocab]`, one after the other with the token's index among those that were run; the last one's
    /// also in [`Session::logits`]. `Break` cancels the run.
    All(&'a mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>),
    /// Every token's hidden state after the last norm, `[width]`, in the same way.
    Hidden(&'a mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>),
}

/// Tokens to run on a session.
///
/// Tokens that wait in the session run first; the indices that [`Want::All`] sees count them too.
pub struct Entry<'a> {
    session: &'a mut Session,
    tokens: &'a [u32],
    want: Want<'a>,
}

impl<'a> Entry<'a> {
    /// Runs `tokens` (none, if some wait in the session) and wants the last one's logits.
    #[must_use]
    pub fn new(session: &'a mut Session, tokens: &'a [u32]) -> Self {
        Self { session, tokens, want: Want::Last }
    }

    /// Wants something else.
    #[must_use]
    pub fn want(mut self, want: Want<'a>) -> Self {
        self.want = want;
        self
    }
}

impl Job for Entry<'_> {
    fn parts(&mut self) -> Parts<'_> {
        let Session { kv, context, tokens, staged, .. } = &mut *self.session;
        let LastRow { logits, candidates } = staged;
        let tokens = &tokens[kv.len()..];
        let output = match &mut self.want {
            Want::Nothing => Output::Nothing,
            Want::Last => Output::Last(logits),
            Want::Sample(sampler) => match sampler.asks() {
                Some(asked) => Output::Candidates { asked, candidates, logits },
                None => Output::Last(logits),
            },
            Want::All(sink) => Output::All { sink, last: logits },
            Want::Hidden(sink) => Output::Hidden(sink),
        };
        Parts { kv, context: *context, tokens, output }
    }

    fn suffices(&self, candidates: &Candidates) -> bool {
        matches!(self.want, Want::Sample(sampler) if sampler.is_served_by(candidates))
    }

    fn commit(&mut self) {
        let session = &mut *self.session;
        session.kv.commit(session.tokens.len() - session.kv.len());
        session.has_last = matches!(self.want, Want::Last | Want::Sample(_) | Want::All(_));
        session.again.take();
        if session.has_last {
            std::mem::swap(&mut session.last, &mut session.staged);
        }
    }

    fn roll_back(&mut self) {
        let session = &mut *self.session;
        session.tokens.truncate(session.tokens.len() - self.tokens.len());
        session.kv.truncate(session.kv.len());
    }
}

impl Model {
    /// Runs tokens of any number of sessions together: prompts, single tokens and verification of drafts alike.
    ///
    /// All or nothing: room for every entry is found first, and after an error, a cancellation included, every session is as it
    /// was. Calls from several threads take turns; one that waits can be cancelled too. Sinks, observers and progress callbacks run
    /// within the turn: they must not run, save or restore sessions of the same model.
    ///
    /// ```
    /// use grok1::{Control, Entry, Model};
    ///
    /// let model = Model::open("assets/tiny")?;
    /// let tokenizer = model.tokenizer()?;
    /// let (mut a, mut b) = (model.session()?, model.session()?);
    /// let prompts = [tokenizer.encode("KING HENRY."), tokenizer.encode("In the beginning")];
    /// model.run(&mut [Entry::new(&mut a, &prompts[0]), Entry::new(&mut b, &prompts[1])], &Control::new())?;
    /// assert_eq!(a.logits().unwrap().len(), model.config().vocab);
    /// # Ok::<(), grok1::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ModelError`](crate::ModelError): no tokens, a token or a session that is not the model's, a full context, no KV pages
    /// left. [`Cancelled`](crate::Cancelled). The backend's own.
    pub fn run(&self, entries: &mut [Entry<'_>], control: &Control) -> Result<()> {
        self.run_watched(entries, control, None)
    }

    /// As [`run`](Self::run), with an observer that sees routing and hidden states.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn observe(
        &self,
        entries: &mut [Entry<'_>],
        control: &Control,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        self.run_watched(entries, control, Some(observer))
    }

    fn run_watched(
        &self,
        entries: &mut [Entry<'_>],
        control: &Control,
        observer: Option<&mut dyn Observer>,
    ) -> Result<()> {
        for entry in entries.iter_mut() {
            entry.session.tokens.extend_from_slice(entry.tokens);
        }
        self.engine().run(self.kv_pool(), entries, control, observer)
    }
}

impl fmt::Debug for Want<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Last => "Last",
            Self::Sample(_) => "Sample",
            Self::All(_) => "All",
            Self::Hidden(_) => "Hidden",
        })
    }
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("session", &self.session)
            .field("tokens", &self.tokens.len())
            .field("want", &self.want)
            .finish()
    }
}
