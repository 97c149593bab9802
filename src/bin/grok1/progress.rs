//! Progress bars: only for what takes long, and only when stderr is a terminal.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use grok1::{Control, Progress, Task};
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt;

/// Work that is done sooner shows nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// A control that Ctrl-C cancels and that shows progress.
pub(crate) fn control() -> Control {
    let display = Mutex::new(Display::Idle);
    interrupt::control().progress(move |progress| {
        display.lock().unwrap_or_else(PoisonError::into_inner).show(progress);
    })
}

/// What is on the terminal.
enum Display {
    Idle,
    /// Nothing yet: the work began only then.
    Waiting(Instant),
    /// A bar, which disappears when it is dropped. Indicatif draws it only on a terminal.
    Bar(ProgressBar),
}

impl Display {
    fn show(&mut self, progress: Progress) {
        if progress.done >= progress.total {
            *self = Self::Idle;
            return;
        }
        match self {
            Self::Idle => *self = Self::Waiting(Instant::now()),
            Self::Waiting(since) if since.elapsed() < PATIENCE => {}
            Self::Waiting(_) => *self = Self::Bar(bar(progress)),
            Self::Bar(bar) => bar.set_position(progress.done),
        }
    }
}

fn bar(progress: Progress) -> ProgressBar {
    let template = match progress.task {
        Task::Load => "loading {wide_bar} {bytes}/{total_bytes} {eta}",
        Task::Convert => "converting {wide_bar} {bytes}/{total_bytes} {eta}",
        Task::Verify => "comparing {wide_bar} {bytes}/{total_bytes} {eta}",
        _ => "running {wide_bar} {percent}% {eta}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(progress.total).with_style(style).with_position(progress.done)
}
