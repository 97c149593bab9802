//! Running tokens of several sequences through a model, all or nothing. Uses `backend` and `kv`.

use std::ops::ControlFlow;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use super::ModelError;
use super::kv::{Growth, KvPool, KvSequence};
use super::runner::Runner;
use crate::backend::{Asked, Batch, Candidates, KvPart, Observer, PAGE, PageId, Row, Sequence, grow};
use crate::config::ModelConfig;
use crate::control::{Cancelled, Control, Task};
use crate::error::Result;
use crate::softmax::MAX_VOCAB;

/// Rows whose logits are computed together: bounds their memory, and reads the head's weights once for all of them.
pub(super) const HEAD_ROWS: usize = 32;

/// Receives one row of values with the row's index among the tokens that were run; may stop the call.
pub(crate) type RowSink<'a> = dyn FnMut(usize, &[f32]) -> ControlFlow<()> + 'a;

/// What is wanted of a job's tokens.
pub(crate) enum Output<'a> {
    Nothing,
    /// Logits of the last token, put here before the job is committed.
    Last(&'a mut Vec<f32>), // [vocab]
    /// Of the last token, either candidates that [suffice](Job::suffices) and no logits, or logits.
    Candidates {
        asked: Asked,
        candidates: &'a mut Candidates,
        logits: &'a mut Vec<f32>, // [vocab] or empty
    },
    /// Logits of every token; the last one's also as with `Last`.
    All {
        sink: &'a mut RowSink<'a>,
        last: &'a mut Vec<f32>,
    },
    /// Hidden states of every token, after the last norm.
    Hidden(&'a mut RowSink<'a>),
}

/// The parts of a [`Job`].
pub(crate) struct Parts<'a> {
    pub(crate) kv: &'a mut KvSequence,
    /// Positions the sequence may have.
    pub(crate) context: usize,
    pub(crate) tokens: &'a [u32],
    pub(crate) output: Output<'a>,
}

/// Tokens to run on a sequence. A trait, so that callers hand in their own type without a list of parts being made per token.
pub(crate) trait Job {
    fn parts(&mut self) -> Parts<'_>;

    /// Whether these are enough for who wanted [`Output::Candidates`].
    fn suffices(&self, candidates: &Candidates) -> bool;

    /// The whole run succeeded: the tokens are part of the sequence, and what was put into [`Output::Last`] counts.
    fn commit(&mut self);

    /// The run failed: everything is to be as before it.
    fn roll_back(&mut self);
}

/// Jobs that are rolled back unless the run succeeds: also when a callback of the host panics.
struct Attempt<'a, J: Job> {
    jobs: &'a mut [J],
    succeeded: bool,
}

impl<J: Job> Drop for Attempt<'_, J> {
    fn drop(&mut self) {
        for job in self.jobs.iter_mut() {
            if self.succeeded {
                job.commit();
            } else {
                job.roll_back();
            }
        }
    }
}

/// A loaded model and the one place where it is run.
pub(crate) struct Engine {
    config: ModelConfig,
    batch_rows: usize,
    device: String,
    /// The thread whose turn it is.
    turn: Mutex<Option<ThreadId>>,
    freed: Condvar,
    work: Mutex<Work>,
}

/// What a run works with: kept from run to run.
struct Work {
    runner: Box<dyn Runner>,
    rows: Vec<Row>,
    sequences: Vec<Sequence>,
    pages: Vec<PageId>,
    /// Rows of the current batch whose output is wanted, and whose they are.
    wanted: Vec<(u32, Target)>,
    output_rows: Vec<u32>,
    output: Vec<f32>,            // [HEAD_ROWS, vocab or width]
    candidates: Vec<Candidates>, // [HEAD_ROWS]
}

/// What is computed of a row.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Logits,
    Candidates,
    Hidden,
}

/// The next token to put into a batch.
#[derive(Clone, Copy, Default)]
struct Cursor {
    job: usize,
    token: usize,
}

#[derive(Clone, Copy)]
struct Target {
    job: usize,
    token: usize,
    kind: Kind,
}

/// The right to run; others wait.
struct Turn<'a>(&'a Engine);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.turn.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.0.freed.notify_one();
    }
}

impl Engine {
    pub(crate) fn new(config: ModelConfig, batch_rows: usize, runner: Box<dyn Runner>) -> Self {
        let device = runner.name();
        let work = Work {
            runner,
            rows: Vec::new(),
            sequences: Vec::new(),
            pages: Vec::new(),
            wanted: Vec::new(),
            output_rows: Vec::new(),
            output: Vec::new(),
            candidates: Vec::new(),
        };
        Self {
            config,
            batch_rows,
            device,
            turn: Mutex::default(),
            freed: Condvar::new(),
            work: Mutex::new(work),
        }
    }

    /// Waits for the turn, at most until cancelled.
    fn turn(&self, control: &Control) -> Result<Turn<'_>> {
        let me = std::thread::current().id();
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(holder) = *turn {
            if holder == me {
                return Err(ModelError::Reentrant.into());
            }
            control.check()?;
            let wait = self.freed.wait_timeout(turn, Duration::from_millis(10));
            turn = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        *turn = Some(me);
        Ok(Turn(self))
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        // Whatever a panic left behind is overwritten by the next run.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What computes.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// Runs all jobs; on error no sequence has moved.
    pub(crate) fn run<J: Job>(
        &self,
        pool: &std::sync::Arc<KvPool>,
        jobs: &mut [J],
        control: &Control,
        observer: Option<&mut dyn Observer>,
    ) -> Result<()> {
        let mut attempt = Attempt { jobs, succeeded: false };
        for (entry, job) in attempt.jobs.iter_mut().enumerate() {
            self.check(pool, entry, &job.parts())?;
        }
        control.check()?;
        let _turn = self.turn(control)?;
        let mut work = self.work();
        work.reserve(attempt.jobs)?;
        work.run(self, attempt.jobs, control, observer)?;
        attempt.succeeded = true;
        Ok(())
    }

    fn check(&self, pool: &std::sync::Arc<KvPool>, entry: usize, job: &Parts<'_>) -> Result<(), ModelError> {
        let (tokens, position, context) = (job.tokens.len(), job.kv.len(), job.context);
        if !job.kv.belongs_to(pool) {
            return Err(ModelError::OtherModel { entry });
        }
        if tokens == 0 {
            return Err(ModelError::NoTokens { entry });
        }
        let vocab = self.config.vocab;
        if let Some(&token) = job.tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(ModelError::Token { entry, token, vocab });
        }
        if tokens > context - position {
            return Err(ModelError::ContextFull { entry, tokens, position, context });
        }
        Ok(())
    }

    /// Visits keys and values of all positions of a sequence, in the canonical order `[layer, key then value, position, kv head,
    /// dim]`, some positions at a time. Others may run between two visits.
    pub(crate) fn read_kv(
        &self,
        kv: &KvSequence,
        value_bytes: usize,
        control: &Control,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let position_bytes = self.config.kv_width() * value_bytes;
        let mut buffer = vec![0; PAGE * position_bytes];
        for (layer, part) in self.kv_parts() {
            for (index, &page) in kv.pages().iter().enumerate() {
                let positions = PAGE.min(kv.len().saturating_sub(index * PAGE));
                control.check()?;
                let turn = self.turn(control)?;
                self.work().runner.read_page(page, layer, part, &mut buffer)?;
                drop(turn);
                each(&buffer[..positions * position_bytes])?;
            }
        }
        Ok(())
    }

    /// Fills a new sequence of `len` positions with what [`read_kv`](Self::read_kv) visited.
    pub(crate) fn write_kv(
        &self,
        kv: &mut KvSequence,
        len: usize,
        value_bytes: usize,
        control: &Control,
        next: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let turn = self.turn(control)?;
        self.work().grow(0, kv, len)?;
        drop(turn);
        let position_bytes = self.config.kv_width() * value_bytes;
        let mut buffer = vec![0; PAGE * position_bytes];
        for (layer, part) in self.kv_parts() {
            for (index, &page) in kv.pages().iter().enumerate() {
                let positions = PAGE.min(len.saturating_sub(index * PAGE));
                control.check()?;
                next(&mut buffer[..positions * position_bytes])?;
                let _turn = self.turn(control)?;
                self.work().runner.write_page(page, layer, part, &buffer)?;
            }
        }
        kv.commit(len);
        Ok(())
    }

    fn kv_parts(&self) -> impl Iterator<Item = (usize, KvPart)> {
        (0..self.config.layers).flat_map(|layer| [(layer, KvPart::Key), (layer, KvPart::Value)])
    }

    /// Gives the memory of unused pages back.
    pub(crate) fn trim(&self, pool: &KvPool, control: &Control) -> Result<()> {
        // Pages are taken only by those whose turn it is.
        let _turn = self.turn(control)?;
        let mut work = self.work();
        pool.free().into_iter().for_each(|page| work.runner.free_page(page));
        Ok(())
    }
}

impl Work {
    /// Makes every page that the jobs will write to.
    fn reserve<J: Job>(&mut self, jobs: &mut [J]) -> Result<()> {
        jobs.iter_mut().enumerate().try_for_each(|(entry, job)| {
            let parts = job.parts();
            self.grow(entry, parts.kv, parts.tokens.len())
        })
    }

    /// Makes pages for `tokens` more positions.
    fn grow(&mut self, entry: usize, kv: &mut KvSequence, tokens: usize) -> Result<()> {
        let growth = kv.grow(entry, tokens)?;
        let made = self.make(kv, &growth);
        kv.settle(growth, made.is_ok());
        made
    }

    fn make(&mut self, kv: &KvSequence, growth: &Growth) -> Result<()> {
        for &page in &kv.pages()[growth.new.clone()] {
            self.runner.allocate_page(page)?;
        }
        if let Some(copy) = &growth.copy {
            self.runner.allocate_page(copy.to)?;
            self.runner.copy_page(copy.from, copy.to)?;
        }
        Ok(())
    }

    fn run<J: Job>(
        &mut self,
        engine: &Engine,
        jobs: &mut [J],
        control: &Control,
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<()> {
        let layers = engine.config.layers as u64;
        let tokens: usize = jobs.iter_mut().map(|job| job.parts().tokens.len()).sum();
        let total = tokens as u64 * layers;
        let mut done = 0;
        let mut next = Cursor::default();
        while next.job < jobs.len() {
            next = self.fill(engine, jobs, next);
            let Self { runner, rows, sequences, pages, .. } = self;
            let batch = Batch::new(rows, sequences, pages, control)?;
            let step = rows.len() as u64;
            // Not `map`: the borrow must be a new one for each batch.
            let watching: Option<&mut dyn Observer> = match &mut observer {
                Some(observer) => Some(&mut **observer),
                None => None,
            };
            runner.forward(&batch, watching, &mut || {
                done += step;
                control.report(Task::Run, done, total);
                control.check()
            })?;
            self.deliver(&engine.config, jobs, control)?;
        }
        Ok(())
    }

    /// Puts the next tokens into the batch; returns where the following one begins.
    fn fill<J: Job>(&mut self, engine: &Engine, jobs: &mut [J], mut next: Cursor) -> Cursor {
        let batch_rows = engine.batch_rows;
        let finds_candidates = self.runner.keeps_logits() && engine.config.vocab <= MAX_VOCAB;
        self.rows.clear();
        self.sequences.clear();
        self.pages.clear();
        self.wanted.clear();
        while next.job < jobs.len() && self.rows.len() < batch_rows {
            let parts = jobs[next.job].parts();
            let count = (parts.tokens.len() - next.token).min(batch_rows - self.rows.len());
            let (first_row, first_page) = (self.rows.len(), self.pages.len());
            let tokens = parts.tokens[next.token..next.token + count].iter();
            let position = parts.kv.len() + next.token;
            self.rows.extend(
                tokens.zip(position..).map(|(&token, position)| Row { token, position: position as u32 }),
            );
            self.pages.extend_from_slice(&parts.kv.pages()[..(position + count).div_ceil(PAGE)]);
            self.sequences
                .push(Sequence { rows: first_row..self.rows.len(), pages: first_page..self.pages.len() });
            // The job's very last token, if it is here.
            let last = (parts.tokens.len() - 1 - next.token).min(count);
            let (first, kind) = match parts.output {
                Output::Nothing => (count, Kind::Logits),
                Output::Candidates { .. } if finds_candidates => (last, Kind::Candidates),
                Output::Last(_) | Output::Candidates { .. } => (last, Kind::Logits),
                Output::All { .. } => (0, Kind::Logits),
                Output::Hidden(_) => (0, Kind::Hidden),
            };
            self.wanted.extend((first..count).map(|offset| {
                let target = Target { job: next.job, token: next.token + offset, kind };
                ((first_row + offset) as u32, target)
            }));
            next.token += count;
            if next.token == parts.tokens.len() {
                next = Cursor { job: next.job + 1, token: 0 };
            }
        }
        next
    }

    /// Computes the wanted outputs of the batch and hands them over.
    fn deliver<J: Job>(&mut self, config: &ModelConfig, jobs: &mut [J], control: &Control) -> Result<()> {
        let Self { runner, rows, sequences, pages, wanted, output_rows, output, candidates } = self;
        let batch = Batch::new(rows, sequences, pages, control)?;
        for group in wanted.chunk_by(|a, b| a.1.kind == b.1.kind) {
            for block in group.chunks(HEAD_ROWS) {
                control.check()?;
                output_rows.clear();
                output_rows.extend(block.iter().map(|(row, _)| row));
                let (width, count) = match block[0].1.kind {
                    Kind::Logits => (config.vocab, block.len()),
                    Kind::Candidates => (config.vocab, 1),
                    Kind::Hidden => (config.width, block.len()),
                };
                grow(output, count * width, "logits")?;
                let values = &mut output[..count * width];
                match block[0].1.kind {
                    Kind::Logits => runner.head(&batch, output_rows, values)?,
                    Kind::Hidden => runner.normed(&batch, output_rows, values)?,
                    Kind::Candidates => {
                        grow(candidates, block.len(), "candidates")?;
                        let found = &mut candidates[..block.len()];
                        for ((_, target), found) in block.iter().zip(&mut *found) {
                            if let Output::Candidates { asked, .. } = jobs[target.job].parts().output {
                                found.asked = asked;
                            }
                        }
                        runner.candidates(&batch, output_rows, values, found)?;
                        control.check()?;
                        hand_over(&mut **runner, &batch, block, jobs, found, values)?;
                        continue;
                    }
                }
                control.check()?;
                for ((_, target), values) in block.iter().zip(values.chunks_exact(width)) {
                    let parts = jobs[target.job].parts();
                    let is_last = target.token + 1 == parts.tokens.len();
                    let flow = match parts.output {
                        Output::Nothing => ControlFlow::Continue(()),
                        Output::Last(last) | Output::Candidates { logits: last, .. } => {
                            values.clone_into(last);
                            ControlFlow::Continue(())
                        }
                        Output::All { sink, last } => {
                            if is_last {
                                values.clone_into(last);
                            }
                            sink(target.token, values)
                        }
                        Output::Hidden(sink) => sink(target.token, values),
                    };
                    if flow.is_break() {
                        return Err(Cancelled.into());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Gives jobs their candidates, or all logits of the row where these do not suffice.
fn hand_over<J: Job>(
    runner: &mut dyn Runner,
    batch: &Batch<'_>,
    rows: &[(u32, Target)],
    jobs: &mut [J],
    found: &mut [Candidates],
    values: &mut [f32], // [vocab]
) -> Result<()> {
    for (index, ((row, target), found)) in rows.iter().zip(found).enumerate() {
        let job = &mut jobs[target.job];
        let suffices = job.suffices(found);
        if let Output::Candidates { candidates, logits, .. } = job.parts().output {
            if suffices {
                std::mem::swap(candidates, found);
                logits.clear();
            } else {
                runner.logits_of_candidates(batch, (index, *row), values)?;
                values.clone_into(logits);
            }
        }
    }
    Ok(())
}
