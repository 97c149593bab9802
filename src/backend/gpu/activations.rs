//! Bytes that the activations of a batch take on a device, before there are any. Uses the ground and `kernels`.

use super::kernels::SPAN;
use crate::backend::PAGE;
use crate::config::ModelConfig;

/// Bytes of the spans of attention that are kept until they are merged, unless those of one row are more: bounds the rows that attend at
/// a time.
pub(crate) const SPAN_BYTES: usize = 64 << 20;

/// What activations are made for.
pub(crate) struct Activations<'a> {
    pub(crate) config: &'a ModelConfig,
    /// Rows of a batch.
    pub(crate) rows: usize,
    /// Of these rows, so many whose outputs are wanted at a time.
    pub(crate) output_rows: usize,
    /// Pages of a batch's sequences.
    pub(crate) pages: usize,
    /// Whether gate and up of some layer differ in format: their products are then kept apart.
    pub(crate) apart: bool,
}

impl Activations<'_> {
    /// All of them together, whichever kernels a batch takes. Saturates.
    pub(crate) fn bytes(&self) -> u64 {
        let Self { config, rows, output_rows, pages, apart } = *self;
        let ModelConfig {
            width, heads, head_dim, vocab, context, experts, selected_experts, ffn_width, ..
        } = *config;
        let (query, kv, pairs) =
            (config.query_width(), config.kv_width(), rows.saturating_mul(selected_experts));
        // Numbers of 4 bytes.
        let of =
            |counts: &[usize]| counts.iter().fold(4, |bytes: u64, &count| bytes.saturating_mul(count as u64));
        // Of the host's, with room for twice as many.
        let staged = |counts: &[usize]| of(counts).checked_next_power_of_two().unwrap_or(u64::MAX);
        let (wide, spans) = (width.max(query), (context / SPAN + 1).next_power_of_two());
        let row_spans = of(&[heads, spans, head_dim]);
        let spans_at_a_time = of(&[rows, heads, spans, head_dim]).min(row_spans.max(SPAN_BYTES as u64));
        [
            // Tokens, positions and first pages; addresses of pages; tiles of attention; rows whose outputs are wanted.
            staged(&[3, rows]),
            staged(&[2, pages]),
            staged(&[2, rows]),
            staged(&[output_rows]),
            // Angles: tables grow to twice their length.
            of(&[2, context.saturating_add(PAGE), head_dim]),
            // Hidden, branch; normed, which outputs are too.
            of(&[2, rows, width]),
            of(&[rows.max(output_rows), width]),
            // Queries and attended values; keys and values.
            of(&[2, rows, query]),
            of(&[2, rows, kv]),
            // Activations as matrix instructions take them: bf16, and sums of 32.
            of(&[rows.max(output_rows), wide.div_ceil(2)]),
            of(&[rows.max(output_rows), wide.div_ceil(32)]).max(of(&[pairs, ffn_width.div_ceil(32)])),
            // Spans of attention, with two numbers for each.
            spans_at_a_time,
            spans_at_a_time / (head_dim as u64 / 2).max(1),
            // The router's decisions; rows by expert.
            of(&[rows, experts]),
            of(&[2, pairs]),
            of(&[2, experts.min(pairs)]),
            of(&[pairs.saturating_add(1)]),
            // Activated values and what becomes of them; gate and up, where one kernel does not do both.
            of(&[pairs, ffn_width]),
            of(&[pairs, width]),
            if apart { of(&[2, pairs, ffn_width]) } else { 0 },
            // Logits, or hidden states.
            of(&[output_rows, vocab.max(width)]),
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}
