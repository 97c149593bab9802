//! How a caller watches and stops a long call. Uses `error`.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Outcome};

/// A flag that stops long calls; clones share it.
///
/// Setting it is one relaxed atomic store: allowed from any thread and from a signal handler.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every call that looks at this flag to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Takes the request back, so that the flag can be used again.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where a long call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is being counted.
    pub task: Task,
    /// Units done so far.
    pub done: u64,
    /// Units in all.
    pub total: u64,
}

/// What a [`Progress`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Task {
    /// Loading weights; the unit is bytes.
    Load,
    /// Running tokens; the unit is one token through one layer.
    Run,
    /// Converting weights; the unit is a byte of what is written.
    Convert,
    /// Comparing what was written with what it was made of; the unit is a byte of what is compared.
    Verify,
}

type Report = dyn Fn(Progress) + Send + Sync;

/// Goes into every long call: may cancel it and hears of its progress. The default does neither.
#[derive(Clone, Default)]
pub struct Control {
    cancels: Vec<Cancel>,
    progress: Option<Arc<Report>>,
}

/// Why a call stopped early.
#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

impl Control {
    /// Neither cancels nor reports.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops when `cancel` is set, or any other given before: that of the request, and that of the whole program.
    #[must_use]
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancels.push(cancel.clone());
        self
    }

    /// Calls `report` on the calling thread, between stages of the work.
    #[must_use]
    pub fn progress(mut self, report: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(report));
        self
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancels.iter().any(Cancel::is_set)
    }

    /// An error of kind [`Outcome::Cancelled`] once a stop was asked for.
    pub fn check(&self) -> Result<(), Error> {
        if self.is_cancelled() { Err(Cancelled.into()) } else { Ok(()) }
    }

    /// For a part of the work, `range` of `total`: what is reported of the part is passed on as of the whole.
    pub(crate) fn part(&self, range: Range<u64>, total: u64) -> Self {
        let progress = self.progress.clone().map(|report| {
            let len = range.end.saturating_sub(range.start);
            let whole = move |part: Progress| {
                let share = u128::from(len) * u128::from(part.done) / u128::from(part.total.max(1));
                let done = range.start.saturating_add(u64::try_from(share).unwrap_or(len).min(len));
                report(Progress { task: part.task, done, total });
            };
            Arc::new(whole) as Arc<Report>
        });
        Self { cancels: self.cancels.clone(), progress }
    }

    /// Tells the caller how far the work is.
    pub fn report(&self, task: Task, done: u64, total: u64) {
        if let Some(report) = &self.progress {
            report(Progress { task, done, total });
        }
    }
}

impl crate::error::Classify for Cancelled {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Outcome(Outcome::Cancelled)
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("cancels", &self.cancels)
            .field("progress", &self.progress.is_some())
            .finish()
    }
}
