//! What the command itself can find wrong, and how any error ends it: one line on stderr and an exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use grok1::{Classify, Error, ErrorKind, Outcome};

/// For `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  2    wrong usage: an argument, a token, a setting
  3    a file is missing, damaged or not what it should be
  4    memory, a device or the operating system refused
  5    the tokens do not fit into the context
  70   a defect of this program
  130  ended by Ctrl-C";

const USAGE: u8 = 2;

/// An error of the command, beside the library's own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// Arguments that do not go together.
    #[error("{0}")]
    Usage(&'static str),
    /// The model has no tokenizer, and none was given.
    #[error("{model} has no tokenizer; give one with --tokenizer")]
    NoTokenizer { model: String },
    /// A file, or stdin, cannot be read.
    #[error("cannot read {name}")]
    Read {
        name: String,
        #[source]
        source: io::Error,
    },
    /// A file that should hold token ids does not.
    #[error("{name} is not a JSON array of token ids")]
    Ids {
        name: String,
        #[source]
        source: serde_json::Error,
    },
    /// The model gave a token a probability that is no number.
    #[error("the log-probability of token {index} is {found}")]
    NotFinite { index: usize, found: f32 },
    /// A file cannot be written.
    #[error("cannot write {name}")]
    Write {
        name: String,
        #[source]
        source: io::Error,
    },
    /// A file would take the place of something that is no file.
    #[error("{name} exists and is not a regular file")]
    NotAFile { name: String },
    /// Stdout cannot be written.
    #[error("cannot write to stdout")]
    Stdout(#[source] io::Error),
    /// The operating system gave no memory to measure.
    #[error("no memory to measure")]
    Memory(#[source] io::Error),
    /// An instruction set that this processor does not have, or that there is none of.
    #[error("{found:?} is not one of this processor's instruction sets: {available}")]
    InstructionSet { found: String, available: String },
    /// The operating system gave no threads.
    #[error("cannot start threads")]
    Threads(#[source] io::Error),
}

impl Classify for CommandError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Usage(_)
            | Self::NoTokenizer { .. }
            | Self::NotAFile { .. }
            | Self::InstructionSet { .. } => ErrorKind::Argument,
            Self::Read { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::InvalidInput => {
                    ErrorKind::Format
                }
                _ => ErrorKind::Resource,
            },
            Self::Ids { .. } | Self::NotFinite { .. } => ErrorKind::Format,
            Self::Write { .. } | Self::Stdout(_) | Self::Memory(_) | Self::Threads(_) => ErrorKind::Resource,
        }
    }
}

/// Ends the command after `error`. Ctrl-C and a reader that has seen enough need no message.
pub(crate) fn report(error: &Error) -> ExitCode {
    if let Some(CommandError::Stdout(cause)) = error.downcast_ref()
        && cause.kind() == io::ErrorKind::BrokenPipe
    {
        return ExitCode::SUCCESS;
    }
    if !error.is_cancelled() {
        complain(&error.chain());
    }
    ExitCode::from(match error.kind() {
        ErrorKind::Argument => USAGE,
        ErrorKind::Format => 3,
        ErrorKind::Resource => 4,
        ErrorKind::Outcome(Outcome::Cancelled) => 130,
        ErrorKind::Outcome(_) => 5,
        _ => 70,
    })
}

/// Ends the command when the arguments were not understood, or help or version was asked for.
pub(crate) fn report_usage(stopped: &clap::Error) -> ExitCode {
    let asked_for = !stopped.use_stderr();
    if asked_for || stopped.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Nothing is left to be done about a stream that cannot be written.
        let _ = stopped.print();
        return if asked_for { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
    }
    // What is wrong is the first paragraph; hints and usage follow.
    let text = stopped.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    complain(&format!("{} (try --help)", line.strip_prefix("error: ").unwrap_or(&line)));
    ExitCode::from(USAGE)
}

/// One line on stderr, whatever the message contains.
fn complain(message: &str) {
    // Nothing is left to be done about a stderr that cannot be written.
    let _ = writeln!(io::stderr(), "grok1: {}", message.replace('\n', " "));
}
