//! Models in another form are the same models, and what interrupts a conversion does no harm.

mod forms;
#[cfg(all(feature = "cli", unix))]
mod interruption;
mod perplexity;
mod refusal;
mod resumption;

#[path = "../support/gguf.rs"]
mod gguf;
#[path = "../support/models.rs"]
mod models;
#[path = "../support/oracle.rs"]
mod oracle;
#[path = "../support/random.rs"]
mod random;
#[path = "../support/scratch.rs"]
mod scratch;

use std::path::Path;

use grok1::convert::{Conversion, Recipe, Report};
use grok1::{Checkpoint, Control, checkpoint};

/// The trained model.
fn tiny() -> Checkpoint {
    checkpoint::open(models::tiny_path(), None).unwrap()
}

fn recipe(name: &str) -> Recipe {
    Recipe::named(name).unwrap()
}

/// Writes `checkpoint` as GGUF.
fn to_gguf(checkpoint: &Checkpoint, recipe: Recipe, path: &Path) -> Report {
    Conversion::to_gguf(checkpoint, recipe).run(path, &Control::new()).unwrap()
}
