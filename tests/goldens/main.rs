//! The forward pass against the float64 truth and xAI's own program: with the part of the reference results that is in the
//! project, and with all of them where they are at hand.

mod layers;
mod logits;
mod text;

#[path = "../support/models.rs"]
mod models;
#[path = "../support/oracle.rs"]
mod oracle;

use std::path::PathBuf;

use models::{fixtures, tiny_path};
use oracle::{Tensors, oracle};

/// A model and the truth's results for it.
struct Golden {
    name: String,
    model: PathBuf,
    truth: Tensors,
}

impl Golden {
    fn new(name: &str, model: PathBuf, truth: PathBuf) -> Self {
        Self { name: name.to_owned(), model, truth: Tensors::open(truth) }
    }

    /// Its prompts, shortest first.
    fn prompts(&self) -> Vec<String> {
        let ids = |name: &String| format!("{name}.ids");
        let mut names: Vec<String> =
            (0..100).map(|n| format!("p{n}")).filter(|name| self.truth.has(&ids(name))).collect();
        names.sort_by_key(|name| self.truth.shape(&ids(name)));
        names
    }
}

/// The trained model, with 1, 2 and 8 row groups.
fn trained() -> Vec<Golden> {
    let mut goldens = vec![Golden::new("tiny (fixture)", tiny_path(), fixtures().join("tiny.safetensors"))];
    if let Some(oracle) = oracle() {
        let file = |name| oracle.join("goldens").join(format!("{name}.safetensors"));
        goldens.extend(
            ["tiny", "tiny_g2", "tiny_g8"].map(|name| Golden::new(name, oracle.join(name), file(name))),
        );
    }
    goldens
}

/// Random models with odd shapes.
fn random() -> Vec<Golden> {
    let golden = |root: PathBuf, name: &str| {
        let model = root.join(name);
        Golden::new(name, model.clone(), model.join("goldens.safetensors"))
    };
    let mut goldens = vec![golden(fixtures(), "r2_onelayer_odd")];
    if let Some(oracle) = oracle() {
        goldens.extend(["r1_gqa2_vocab515", "r3_groups8"].map(|name| golden(oracle.join("random"), name)));
    }
    goldens
}
