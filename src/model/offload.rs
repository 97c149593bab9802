//! Which part of a model a device takes; the processor has the rest. Uses `backend`, `checkpoint`, `engine` and `plan`.

use super::ModelOptions;
use super::engine::HEAD_ROWS;
use crate::backend::gpu::Activations;
#[cfg(any(test, feature = "cuda", feature = "hip"))]
use crate::backend::gpu::GpuError;
use crate::backend::{BATCH_ROWS, page_bytes};
use crate::checkpoint::Checkpoint;
use crate::plan::{PlanOptions, device_bytes};

/// The part of a model that a device has, beside embedding and head: layers in order, first those with everything, then those whose
/// experts stay with the processor, with the router and the norms before and after them. Layers after those stay whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offload {
    /// Layers with everything.
    pub(crate) whole: usize,
    /// Layers after them with attention alone.
    pub(crate) attention: usize,
}

impl Offload {
    /// All of `layers` on the device.
    pub(crate) fn none(layers: usize) -> Self {
        Self { whole: layers, attention: 0 }
    }

    /// What the options say, `layers` being all there are.
    pub(crate) fn asked(options: &ModelOptions, layers: usize) -> Self {
        let on_device = options.gpu_layers.map_or(layers, |asked| asked.min(layers));
        let attention = options.experts_on_cpu.map_or(0, |asked| asked.min(on_device));
        Self { whole: on_device - attention, attention }
    }

    /// Layers whose attention the device computes: those with keys and values there.
    pub(crate) fn on_device(self) -> usize {
        self.whole + self.attention
    }

    /// Times that the residual stream of a row moves between device and processor, of so many layers: there and back, for each layer
    /// whose experts alone are elsewhere, and for all layers that are.
    pub(crate) fn moves(self, layers: usize) -> usize {
        2 * (self.attention + usize::from(self.on_device() < layers))
    }
}

/// Device memory that a plan leaves alone: code, what the driver rounds up to, its own.
const MARGIN: u64 = 256 << 20;

/// Bytes that a part of a model needs on a device: weights as they lie there, the keys and values of one session as long as the model was
/// trained for, or of as many as the options allow, and the activations of a batch, or before there are any what waits to be packed, and
/// a margin.
pub(crate) fn needed(checkpoint: &Checkpoint, options: &ModelOptions, offload: Offload) -> u64 {
    let config = &checkpoint.config;
    let layers = &checkpoint.layers;
    let whole = layers[..offload.whole].iter().map(|layer| device_bytes::layer(layer, true));
    let attention =
        layers[offload.whole..offload.on_device()].iter().map(|layer| device_bytes::layer(layer, false));
    let kv = match options.kv_limit {
        Some(bytes) => bytes,
        None => checkpoint.plan(&PlanOptions::new().kv_type(options.kv_type)).kv_per_session,
    };
    let page = page_bytes(config, options.kv_type).max(1);
    let activations = Activations {
        config,
        rows: options.batch_rows.unwrap_or(BATCH_ROWS),
        output_rows: HEAD_ROWS,
        pages: usize::try_from(kv / page as u64).unwrap_or(usize::MAX),
        apart: layers[..offload.whole].iter().any(device_bytes::has_gate_and_up_apart),
    };
    let kv = u128::from(kv) * offload.on_device() as u128 / layers.len().max(1) as u128;
    let running = u64::try_from(kv).unwrap_or(u64::MAX).saturating_add(activations.bytes());
    let loading = device_bytes::largest_matrix(checkpoint).saturating_mul(2);
    let rest = [device_bytes::head(&checkpoint.head), running.max(loading), MARGIN];
    whole.chain(attention).chain(rest).fold(0, u64::saturating_add)
}

/// The part of a model for a device with `free` bytes: what the options say, or else all of it, or else as many whole layers as there is
/// room for.
///
/// # Errors
/// [`GpuError::OutOfMemory`], before anything is loaded, unless there is room for what they say.
#[cfg(any(test, feature = "cuda", feature = "hip"))]
pub(crate) fn choose(
    checkpoint: &Checkpoint,
    options: &ModelOptions,
    free: usize,
) -> Result<Offload, GpuError> {
    let layers = checkpoint.layers.len();
    let asked = Offload::asked(options, layers);
    let fits = |offload: &Offload| needed(checkpoint, options, *offload) <= free as u64;
    if fits(&asked) {
        return Ok(asked);
    }
    let is_free = options.gpu_layers.is_none() && options.experts_on_cpu.is_none();
    let fewer = (0..layers).rev().map(|whole| Offload { whole, attention: 0 });
    let (what, least) = if is_free {
        if let Some(offload) = fewer.into_iter().find(fits) {
            return Ok(offload);
        }
        ("the model without its layers", Offload { whole: 0, attention: 0 })
    } else {
        ("the layers that were asked for", asked)
    };
    let bytes = usize::try_from(needed(checkpoint, options, least)).unwrap_or(usize::MAX);
    Err(GpuError::OutOfMemory { what, bytes, free })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Synthetic, synthetic};

    #[test]
    fn options_beyond_the_layers_there_are_mean_all_of_them() {
        let asked = |options: ModelOptions| Offload::asked(&options, 4);
        let new = ModelOptions::new;
        assert_eq!(asked(new()), Offload { whole: 4, attention: 0 });
        assert_eq!(asked(new().gpu_layers(9).experts_on_cpu(usize::MAX)), Offload { whole: 0, attention: 4 });
        assert_eq!(asked(new().gpu_layers(3).experts_on_cpu(1)), Offload { whole: 2, attention: 1 });
    }

    #[test]
    fn the_residual_stream_moves_around_experts_and_around_whole_layers() {
        let moves = |whole, attention| Offload { whole, attention }.moves(4);
        assert_eq!([moves(4, 0), moves(3, 0), moves(0, 0), moves(3, 1), moves(1, 2)], [0, 2, 2, 2, 6]);
    }

    #[test]
    fn as_many_layers_go_to_a_device_as_it_has_room_for_unless_they_are_asked_for() {
        let grok1 = synthetic(&Synthetic::new()).unwrap();
        let (options, gib) = (ModelOptions::new(), 1 << 30);
        let room = |gibibytes: usize| choose(&grok1, &options, gibibytes * gib);
        assert_eq!(room(400).unwrap(), Offload::none(64));
        let half = room(160).unwrap();
        assert!((20..40).contains(&half.whole) && half.attention == 0, "{half:?}");
        let more = Offload { whole: half.whole + 1, attention: 0 };
        assert!(needed(&grok1, &options, half) <= 160 << 30 && needed(&grok1, &options, more) > 160 << 30);
        // Experts are nearly all of a layer.
        let attention = options.clone().experts_on_cpu(usize::MAX);
        assert!(choose(&grok1, &attention, 24 * gib).is_ok());
        let asked = options.clone().gpu_layers(64);
        let missing = choose(&grok1, &asked, 160 * gib).unwrap_err().missing_bytes().unwrap();
        assert_eq!(missing as u64, needed(&grok1, &asked, Offload::none(64)) - (160 << 30));
        assert!(room(1).unwrap_err().to_string().contains("the model without its layers"));
    }
}
