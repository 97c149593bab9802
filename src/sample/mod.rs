//! From logits to a token. Uses the ground only.
//!
//! One [`Sampler`] belongs to one sequence. Each step it goes through the model's logits in a fixed order: logit bias,
//! allowed tokens, penalties, the host's filter; then, unless it is greedy, temperature, top-k, top-p, min-p and the draw.
//!
//! The same logits, history, settings and seed give the same token on every platform: probabilities are 64-bit integers
//! made from f64 arithmetic of our own (the ground's `softmax`), so no sum depends on its order, and the draw comes from a generator keyed
//! by seed and number of the draw (`random`). Equal logits stand in the order of their ids.

mod adjust;
mod draw;
mod error;
mod filtered;
mod peak;
mod random;
mod sampler;
mod settings;
mod state;

pub use error::SampleError;
pub use sampler::Sampler;

/// What [`Sampler::sample`] chose.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sampled {
    /// The chosen token.
    pub token: u32,
    /// Its [log-probability](Alternative::logprob); `None` if [switched off](Sampler::logprobs).
    pub logprob: Option<f32>,
    /// The model's most likely tokens, best first: as many as [asked for](Sampler::alternatives), fewer if the model excludes
    /// the rest. The chosen token need not be among them.
    pub alternatives: Vec<Alternative>,
}

/// A token the model could go on with.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Alternative {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability under the model itself: the softmax of the logits as they came, before any setting
    /// of the sampler.
    pub logprob: f32,
}
