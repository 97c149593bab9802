//! What is measured of a model, and how.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use grok1::backend::{Observer, Routing};
use grok1::{Entry, Formula, Model, ModelConfig, Result, Session, SessionOptions, Want};

use super::timed::{Clock, STAGES};
use crate::{interrupt, progress};

/// Steps that are looked into after a case of decoding has warmed up.
const OBSERVED: usize = 8;

/// A thing to measure.
#[derive(Clone, Copy)]
pub(super) enum Case {
    /// A prompt of so many tokens, in a new session.
    Prefill { tokens: usize },
    /// So many tokens in each of some sessions, one of each at a time, after `context` tokens.
    Decode { tokens: usize, sessions: usize, context: usize },
}

impl Case {
    /// Tokens of all sessions together.
    pub(super) fn tokens(self) -> usize {
        match self {
            Self::Prefill { tokens } => tokens,
            Self::Decode { tokens, sessions, .. } => tokens * sessions,
        }
    }

    /// Products and sums of all its tokens with matrices. Attention itself comes to little for contexts of usual length; of a prompt the
    /// head is computed for the last token only.
    pub(super) fn operations(self, config: &ModelConfig) -> f64 {
        let attention = config.width * (2 * config.query_width() + 2 * config.kv_width());
        let experts = 3 * config.selected_experts * config.width * config.ffn_width;
        let (layers, head) = (config.layers * (attention + experts), config.width * config.vocab);
        let heads = match self {
            Self::Prefill { .. } => 1,
            Self::Decode { .. } => self.tokens(),
        };
        2.0 * (self.tokens() as f64 * layers as f64 + heads as f64 * head as f64)
    }
}

/// One run of a case.
pub(super) struct Run {
    pub(super) seconds: f64,
    /// Of these, those of each stage, where that is known.
    pub(super) stages: Option<[f64; STAGES.len()]>,
}

/// A model that is measured, with sessions for its cases.
pub(super) struct Course {
    pub(super) model: Model,
    pub(super) clock: Option<Arc<Clock>>,
    /// Whether all sessions have the same text.
    same_text: bool,
    filled: Vec<(usize, Vec<Session>)>,
}

impl Course {
    pub(super) fn new(model: Model, clock: Option<Arc<Clock>>, same_text: bool) -> Self {
        Self { model, clock, same_text, filled: Vec::new() }
    }

    /// Runs a case once before it counts. Returns the bytes that a step of decoding reads: weights, keys and values.
    pub(super) fn warm_up(&mut self, case: Case) -> Result<Option<u64>> {
        if let Case::Decode { tokens, sessions, context } = case {
            self.fill(context, sessions, tokens)?;
        }
        self.run(case)?;
        match case {
            Case::Prefill { .. } => Ok(None),
            Case::Decode { sessions, context, tokens } => {
                self.step_bytes(context, sessions, tokens).map(Some)
            }
        }
    }

    /// Measures a case.
    pub(super) fn run(&mut self, case: Case) -> Result<Run> {
        match case {
            Case::Prefill { tokens } => {
                let mut session = self.session(tokens)?;
                let prompt = self.tokens(0, 0, tokens);
                self.timed(|| session.feed(&prompt, &progress::control()).map(|_| ()))
            }
            Case::Decode { tokens, sessions, context } => {
                let texts: Vec<_> = (0..sessions).map(|text| self.tokens(text, context, tokens)).collect();
                let mut filled = self.take(context);
                let control = interrupt::control();
                let model = self.model.clone();
                let run = self.timed(|| {
                    (0..tokens).try_for_each(|step| {
                        let texts = texts.iter().map(|text| &text[step..][..1]);
                        let mut entries: Vec<_> = filled
                            .iter_mut()
                            .zip(texts)
                            .map(|(session, next)| Entry::new(session, next))
                            .collect();
                        model.run(&mut entries, &control)
                    })
                });
                self.give_back(context, filled);
                run
            }
        }
    }

    fn timed(&self, work: impl FnOnce() -> Result<()>) -> Result<Run> {
        self.clock.iter().for_each(|clock| {
            clock.take();
        });
        let start = Instant::now();
        work()?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Run { seconds, stages: self.clock.as_ref().map(|clock| clock.take()) })
    }

    fn session(&self, positions: usize) -> Result<Session> {
        // Speed does not care what the model was trained for.
        self.model.session_with(&SessionOptions::new().context(positions).beyond_trained_length(true))
    }

    /// Some tokens of a text: from all over the vocabulary, so that all experts get work, and others in each text unless all are to be one.
    fn tokens(&self, text: usize, start: usize, count: usize) -> Vec<u32> {
        let vocab = self.model.config().vocab as u64;
        let text = if self.same_text { 0 } else { text as u64 };
        (start..start + count).map(|index| (Formula::mix(text, index as u64) % vocab) as u32).collect()
    }

    /// Makes sessions of `context` tokens, with room for more.
    fn fill(&mut self, context: usize, count: usize, tokens: usize) -> Result<()> {
        let mut filled = self.take(context);
        for text in filled.len()..count {
            let mut session = self.session(context + tokens.max(OBSERVED))?;
            if context > 0 {
                let text = self.tokens(text, 0, context);
                self.model
                    .run(&mut [Entry::new(&mut session, &text).want(Want::Nothing)], &progress::control())?;
            }
            filled.push(session);
        }
        self.give_back(context, filled);
        Ok(())
    }

    fn take(&mut self, context: usize) -> Vec<Session> {
        let found = self.filled.iter_mut().find(|(filled, _)| *filled == context);
        found.map(|(_, sessions)| std::mem::take(sessions)).unwrap_or_default()
    }

    /// Puts sessions back as they were before tokens were decoded.
    fn give_back(&mut self, context: usize, mut sessions: Vec<Session>) {
        sessions.iter_mut().for_each(|session| session.truncate(context));
        match self.filled.iter_mut().find(|(filled, _)| *filled == context) {
            Some((_, place)) => *place = sessions,
            None => self.filled.push((context, sessions)),
        }
    }

    /// Bytes that a step reads, on the average over some.
    fn step_bytes(&mut self, context: usize, sessions: usize, tokens: usize) -> Result<u64> {
        struct Active<'a> {
            model: &'a Model,
            bytes: u64,
        }
        impl Observer for Active<'_> {
            fn routing(&mut self, layer: usize, routing: &Routing<'_>) {
                let layer = &self.model.checkpoint().layers[layer];
                let experts = routing.experts.iter().collect::<BTreeSet<_>>().len();
                self.bytes += layer.bytes_per_token(experts);
            }
        }
        let texts: Vec<_> = (0..sessions).map(|text| self.tokens(text, context, OBSERVED)).collect();
        let mut filled = self.take(context);
        let mut active = Active { model: &self.model, bytes: 0 };
        for step in 0..OBSERVED {
            let texts = texts.iter().map(|text| &text[step..][..1]);
            let mut entries: Vec<_> =
                filled.iter_mut().zip(texts).map(|(session, next)| Entry::new(session, next)).collect();
            self.model.observe(&mut entries, &interrupt::control(), &mut active)?;
        }
        let layers = active.bytes / OBSERVED as u64;
        self.give_back(context, filled);
        let config = self.model.config();
        let position = 2 * config.layers * config.kv_width() * self.model.kv_type().size();
        let kv = sessions * position * (context + tokens / 2);
        Ok(self.model.checkpoint().head.bytes_per_token() + layers + kv as u64)
    }
}
