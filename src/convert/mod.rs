//! One form of a model into another: GGUF of any type, or bf16 safetensors. Uses `checkpoint`, `quant` and the ground.
//!
//! Tensors go through memory piece by piece, so that a model of 318 GB is converted in 512 MiB and 16 more for each thread. Work that
//! was interrupted goes on where it was; the same input and the same recipe give the same bytes however often it was, and on any number
//! of threads.
//!
//! # What a form costs
//!
//! For the trained model in the repository, whose perplexity on 20,440 held-out tokens is 45.166 as published (`scripts/perplexity.py`,
//! [`Precision::Standard`](crate::Precision::Standard)):
//!
//! | type or mix | bits per weight | perplexity | lost per token, nats |
//! |---|---|---|---|
//! | `f32` | 32.00 | 45.163 | -0.0001 |
//! | `f16` | 16.03 | 45.160 | -0.0001 |
//! | `bf16` | 16.03 | 45.165 | -0.0000 |
//! | `q8_0` | 8.54 | 45.164 | -0.0000 |
//! | `q6_k` | 6.61 | 45.261 | +0.0021 |
//! | `q5_1` | 6.04 | 45.270 | +0.0023 |
//! | `q5_k_m` | 5.82 | 45.235 | +0.0015 |
//! | `q5_k` | 5.54 | 45.317 | +0.0033 |
//! | `q5_0` | 5.54 | 45.294 | +0.0028 |
//! | `q4_k_m` | 5.08 | 45.232 | +0.0015 |
//! | `q4_1` | 5.05 | 45.475 | +0.0068 |
//! | `q4_k` | 4.55 | 45.446 | +0.0062 |
//! | `q4_0` | 4.55 | 45.383 | +0.0048 |
//! | `iq4_nl` | 4.55 | 45.408 | +0.0053 |
//! | `iq4_xs` | 4.30 | 45.381 | +0.0047 |
//! | `q3_k_m` | 4.16 | 45.546 | +0.0084 |
//! | `q3_k` | 3.49 | 46.917 | +0.0380 |
//! | `q2_k` | 3.38 | 46.149 | +0.0215 |
//! | `q2_k_pure` | 2.67 | 52.637 | +0.1531 |
//!
//! `q2_k` is the mix, `q2_k_pure` the type; mixes keep the output and attention in more bits, which is why they cost less than the type
//! they are mostly made of. Differences below 0.002 are within the noise of so small a model.
//!
//! Errors of Gaussian weights, and of the trained model's, relative to their size (root mean squares); beside each, in units of
//! llama.cpp's for the same type without an importance matrix (`scripts/quant-error.py`):
//!
//! | type | Gaussian | of llama.cpp's | trained | of llama.cpp's |
//! |---|---|---|---|---|
//! | `q8_0` | 0.0053 | 0.999 | 0.0048 | 0.999 |
//! | `q6_k` | 0.0166 | 0.932 | 0.0164 | 0.933 |
//! | `q5_1` | 0.0333 | 0.880 | 0.0330 | 0.879 |
//! | `q5_k` | 0.0347 | 0.961 | 0.0344 | 0.961 |
//! | `q5_0` | 0.0400 | 0.938 | 0.0396 | 0.937 |
//! | `q4_1` | 0.0691 | 0.884 | 0.0686 | 0.884 |
//! | `q4_k` | 0.0699 | 0.980 | 0.0694 | 0.981 |
//! | `q4_0` | 0.0809 | 0.942 | 0.0802 | 0.941 |
//! | `iq4_nl` | 0.0734 | 0.964 | 0.0730 | 0.964 |
//! | `iq4_xs` | 0.0741 | 0.966 | 0.0737 | 0.966 |
//! | `q3_k` | 0.1436 | 0.952 | 0.1425 | 0.952 |
//! | `q2_k_pure` | 0.2599 | 0.876 | 0.2598 | 0.876 |

mod error;
mod gguf;
mod identity;
mod journal;
mod output;
mod pipeline;
mod recipe;
mod roles;
mod rows;
mod safetensors;
mod space;
mod verify;
mod work;

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::{fmt, thread};

pub use self::error::{ConvertError, Unwritable};
use self::output::{Output, Tensor};
pub use self::recipe::Recipe;
pub use self::rows::Int8Fidelity;
pub use self::verify::Verified;
use self::verify::Written;
use self::work::{Place, Work};
use crate::checkpoint::Checkpoint;
use crate::control::{Cancelled, Control, Task};
use crate::error::Result;
use crate::threads::{Pool, Threads};

/// A model to be written in another form.
///
/// ```no_run
/// use grok1::{Control, checkpoint};
/// use grok1::convert::{Conversion, Recipe};
///
/// let checkpoint = checkpoint::open("checkpoints/ckpt-0", None)?;
/// let conversion = Conversion::to_gguf(&checkpoint, Recipe::named("q4_k_m")?).split_at(40 << 30);
/// let report = conversion.run("grok-1-q4_k_m.gguf", &Control::new())?;
/// println!("{} bytes in {} files", report.bytes, report.files.len());
/// # Ok::<(), grok1::Error>(())
/// ```
#[derive(Clone)]
pub struct Conversion<'a> {
    checkpoint: &'a Checkpoint,
    target: Target,
    split: Option<u64>,
    threads: usize,
    pool: Option<Arc<dyn Pool>>,
}

#[derive(Clone, Debug)]
enum Target {
    Gguf(Recipe),
    Safetensors,
}

/// What was written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The files of tensors, the first of which opens the model.
    pub files: Vec<PathBuf>,
    /// Tensors in them.
    pub tensors: usize,
    /// Tensors that an earlier run, which was interrupted, had written.
    pub resumed: usize,
    /// Bytes of all files of tensors.
    pub bytes: u64,
    /// How much of int8 weights was kept as it is.
    pub int8: Int8Fidelity,
}

impl<'a> Conversion<'a> {
    /// To GGUF (version 3, little-endian) with names that llama.cpp reads: a file, or several that are split as gguf-split does.
    ///
    /// Int8 weights of xAI's checkpoint become Q8_0 with their own values and scales, see [`Report::int8`].
    #[must_use]
    pub fn to_gguf(checkpoint: &'a Checkpoint, recipe: Recipe) -> Self {
        Self { checkpoint, target: Target::Gguf(recipe), split: None, threads: 0, pool: None }
    }

    /// To a folder for Hugging Face's tools: bf16 safetensors, `config.json` and, if there is a vocabulary, `tokenizer.model`.
    ///
    /// Files have at most 10 GB unless [`split_at`](Self::split_at) says otherwise. Norms and routers stay f32.
    #[must_use]
    pub fn to_safetensors(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint, target: Target::Safetensors, split: Some(10_000_000_000), threads: 0, pool: None }
    }

    /// Cuts the tensors into files of at most `bytes` each. A tensor that is larger gets a file of its own.
    #[must_use]
    pub fn split_at(mut self, bytes: u64) -> Self {
        self.split = Some(bytes);
        self
    }

    /// Threads that compute, the calling one included; 0, the default, means one per available core.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Computes on the host's threads.
    #[must_use]
    pub fn pool(mut self, pool: Arc<dyn Pool>) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Writes the model to `path`: a file, the first part of the names of several, or a folder.
    ///
    /// Nothing of that name may be there. What is not whole yet stands in `{path}.partial`; if that is left over from the same work,
    /// tensors that it has are not made again: the same version, recipe and input, which is known by its
    /// [`fingerprint`](Checkpoint::fingerprint) and the lengths and times of its files. What is left over from other work is not
    /// removed. After an error, [`Cancelled`] included, calling this again goes on.
    ///
    /// Memory, besides the checkpoint's headers: 512 MiB, and 16 MiB for each thread; more where one row has over a million weights,
    /// or where scales are as many as weights.
    ///
    /// # Errors
    /// [`ConvertError`], [`Cancelled`], or what reading the checkpoint gives.
    pub fn run(&self, path: impl AsRef<Path>, control: &Control) -> Result<Report> {
        let place = Place::new(path.as_ref())?;
        let output = self.output(place.name())?;
        let pool = self.threads_to_use()?;
        let id = identity::identity(&output, self.checkpoint, control)?;
        let mut work = Work::begin(&place, &output, id)?;
        let mut int8 = Int8Fidelity::default();
        work.done().values().for_each(|fidelity| int8.add(*fidelity));
        let resumed = work.done().len();
        log::info!(
            "{}: converting {}, {resumed} of {} tensors done earlier",
            path.as_ref().display(),
            self.checkpoint.location,
            output.tensors.len()
        );
        let wanted = work.missing();

        let (files, mut committer) = work.parts();
        let (sender, finished) = mpsc::channel();
        thread::scope(|scope| {
            // Waiting for the disk is left to a thread of its own, while the others go on.
            let commit = move || {
                while let Ok(first) = finished.recv() {
                    committer.commit(&[first].into_iter().chain(finished.try_iter()).collect::<Vec<_>>())?;
                }
                Ok::<_, ConvertError>(())
            };
            let commit = thread::Builder::new()
                .name("grok1-sync".to_owned())
                .spawn_scoped(scope, commit)
                .map_err(|source| ConvertError::Threads { source })?;
            let mut done = |number, fidelity| {
                int8.add(fidelity);
                // Closed after an error, which is the thread's to tell.
                sender.send((number, fidelity)).map_err(|_| Cancelled.into())
            };
            let made = pipeline::run(&output, &wanted, Task::Convert, &*pool, &files, control, &mut done);
            drop(sender);
            match commit.join() {
                Ok(committed) => committed.map_err(Into::into).and(made),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })?;
        work.finish()?;
        log::info!("{}: done", path.as_ref().display());
        Ok(Report {
            files: files_in(&place, &output),
            tensors: output.tensors.len(),
            resumed,
            bytes: output.files.iter().map(|file| file.len).sum(),
            int8,
        })
    }

    /// Whether all files of the output stand at `path`, whatever is in them.
    ///
    /// # Errors
    /// As [`run`](Self::run), before anything is written.
    pub fn is_there(&self, path: impl AsRef<Path>) -> Result<bool> {
        let place = Place::new(path.as_ref())?;
        let output = self.output(place.name())?;
        Ok(files_in(&place, &output).iter().all(|file| file.exists()))
    }

    /// Makes everything again and compares it with what stands at `path`; says how far the weights are from the input's.
    ///
    /// # Errors
    /// [`ConvertError::Differs`], what opening a model gives, and what [`run`](Self::run) gives.
    pub fn verify(&self, path: impl AsRef<Path>, control: &Control) -> Result<Verified> {
        let place = Place::new(path.as_ref())?;
        let output = self.output(place.name())?;
        let written = Written::open(&output, &place.folder(&output))?;
        let all: Vec<_> = (0..output.tensors.len()).collect();
        let pool = self.threads_to_use()?;
        pipeline::run(&output, &all, Task::Verify, &*pool, &written, control, &mut |_, _| Ok(()))?;
        // That it is a model is what the files are for.
        let first = if output.is_folder {
            Some(place.folder(&output))
        } else {
            files_in(&place, &output).into_iter().next()
        };
        first.map(|first| crate::checkpoint::open(first, None)).transpose()?;
        let bytes = output.tensors.iter().map(Tensor::bytes).sum();
        Ok(Verified { bytes, errors: written.errors() })
    }

    /// What is to be written as `name`.
    fn output(&self, name: &str) -> Result<Output> {
        self.checkpoint.check()?;
        let expected = self.checkpoint.config.vocab;
        if let Some(vocabulary) = &self.checkpoint.vocabulary
            && vocabulary.entries.len() != expected
        {
            return Err(ConvertError::Vocabulary { found: vocabulary.entries.len(), expected }.into());
        }
        Ok(match &self.target {
            Target::Gguf(recipe) => gguf::output(self.checkpoint, recipe, name, self.split)?,
            Target::Safetensors => safetensors::output(self.checkpoint, self.split)?,
        })
    }

    fn threads_to_use(&self) -> Result<Arc<dyn Pool>, ConvertError> {
        match &self.pool {
            Some(pool) => Ok(Arc::clone(pool)),
            None => match Threads::new(self.threads) {
                Ok(threads) => Ok(Arc::new(threads)),
                Err(source) => Err(ConvertError::Threads { source }),
            },
        }
    }
}

/// The files of tensors, where they stand when they are whole.
fn files_in(place: &Place, output: &Output) -> Vec<PathBuf> {
    let folder = place.folder(output);
    output.files.iter().map(|file| folder.join(&file.name)).collect()
}

impl fmt::Debug for Conversion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversion")
            .field("from", &self.checkpoint.location)
            .field("target", &self.target)
            .field("split", &self.split)
            .field("threads", &self.threads)
            .field("pool", &self.pool.is_some())
            .finish()
    }
}
