//! The weights of a model by role, whichever file they lie in. Uses `tensor`.

use crate::tensor::{Matrix, Vector};

/// The embedding, the last norm and the output projection.
#[derive(Clone, Debug)]
pub struct Head {
    /// Embedding rows.
    pub embedding: Matrix, // [vocab, width], OutIn
    /// Scale of the norm before the output projection.
    pub norm: Vector, // [width]
    /// Output projection; without one it is the embedding.
    pub output: Option<Matrix>, // width -> vocab
}

/// One decoder layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Norm before attention.
    pub attention_norm: Vector, // [width]
    /// Query projection; outputs are ordered head by head.
    pub query: Matrix, // width -> heads * head_dim
    /// Key projection.
    pub key: Matrix, // width -> kv_heads * head_dim
    /// Value projection.
    pub value: Matrix, // width -> kv_heads * head_dim
    /// Attention output projection.
    pub output: Matrix, // heads * head_dim -> width
    /// Norm of the attention's output, inside the residual branch.
    pub post_attention_norm: Vector, // [width]
    /// Norm before router and experts.
    pub moe_norm: Vector, // [width]
    /// Router.
    pub router: Matrix, // width -> experts
    /// Expert projections that GELU is applied to.
    pub gate: Vec<Matrix>, // [experts], width -> ffn_width
    /// Expert projections that multiply the activated gate.
    pub up: Vec<Matrix>, // [experts], width -> ffn_width
    /// Expert projections back to the residual stream.
    pub down: Vec<Matrix>, // [experts], ffn_width -> width
    /// Norm of the experts' weighted sum, inside the residual branch.
    pub post_moe_norm: Vector, // [width]
}

impl Head {
    /// Bytes of its weights.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.embedding.bytes() + self.norm.data.len() + self.output.as_ref().map_or(0, Matrix::bytes)
    }

    /// Bytes of its weights that one token reads: all of the output projection, and a row of an embedding that is not that too.
    #[must_use]
    pub fn bytes_per_token(&self) -> u64 {
        let row = || self.embedding.bytes() / self.embedding.outputs.max(1) as u64;
        let matrices = self.output.as_ref().map_or(self.embedding.bytes(), |output| output.bytes() + row());
        matrices + self.norm.data.len()
    }
}

impl Layer {
    /// Bytes of its weights.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let matrices = [&self.query, &self.key, &self.value, &self.output, &self.router];
        let norms = [&self.attention_norm, &self.post_attention_norm, &self.moe_norm, &self.post_moe_norm];
        matrices.iter().map(|matrix| matrix.bytes()).sum::<u64>()
            + norms.iter().map(|norm| norm.data.len()).sum::<u64>()
            + self.expert_bytes()
    }

    /// Bytes of its weights that one token reads: everything but the experts it is not sent to.
    #[must_use]
    pub fn bytes_per_token(&self, selected_experts: usize) -> u64 {
        let experts = self.gate.len();
        let skipped = experts.saturating_sub(selected_experts) as u64;
        self.bytes() - self.expert_bytes() / experts.max(1) as u64 * skipped
    }

    /// Bytes of all its experts.
    #[must_use]
    pub fn expert_bytes(&self) -> u64 {
        [&self.gate, &self.up, &self.down].into_iter().flatten().map(Matrix::bytes).sum()
    }
}
