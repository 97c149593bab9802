//! A plan for programs.

use grok1::plan::Ceiling;
use grok1::{Checkpoint, Plan};
use serde::Serialize;

/// What `--json` prints. Sizes are bytes, rates per second.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    location: &'a str,
    format: &'static str,
    bytes: u64,
    bytes_per_token: u64,
    shares: Vec<ShareReport>,
    context: usize,
    kv_type: &'static str,
    kv_bytes_per_token: u64,
    kv_bytes_per_session: u64,
    sessions: usize,
    scratch_bytes: u64,
    fits: bool,
    left_over_bytes: u64,
    places: Vec<PlaceReport<'a>>,
    hidden_bytes: u64,
    hops: usize,
    link: u64,
    layer_split: Option<CeilingReport>,
    tensor_parallel: Option<CeilingReport>,
}

#[derive(Serialize)]
struct ShareReport {
    component: &'static str,
    dtype: &'static str,
    bytes: u64,
}

#[derive(Serialize)]
struct PlaceReport<'a> {
    device: &'a str,
    node: usize,
    host: bool,
    memory_bytes: u64,
    bandwidth: Option<u64>,
    embedding: bool,
    /// The first and the one after the last.
    layers: [usize; 2],
    head: bool,
    weights_bytes: u64,
    kv_bytes: u64,
    scratch_bytes: u64,
    weights_bytes_per_token: u64,
}

/// Tokens per second with an empty and with a full context.
#[derive(Serialize)]
struct CeilingReport {
    empty: f64,
    full: f64,
}

impl<'a> Report<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint, plan: &'a Plan) -> Self {
        let ceiling = |ceiling: &Ceiling| CeilingReport { empty: ceiling.empty, full: ceiling.full };
        let shares = plan.shares.iter().map(|share| ShareReport {
            component: share.component.name(),
            dtype: share.dtype.name(),
            bytes: share.bytes,
        });
        let places = plan.places.iter().map(|place| PlaceReport {
            device: &place.device.name,
            node: place.node,
            host: place.host,
            memory_bytes: place.device.memory,
            bandwidth: place.device.bandwidth,
            embedding: place.embedding,
            layers: [place.layers.start, place.layers.end],
            head: place.head,
            weights_bytes: place.weights,
            kv_bytes: place.kv,
            scratch_bytes: place.scratch,
            weights_bytes_per_token: place.weights_per_token,
        });
        Self {
            location: &checkpoint.location,
            format: checkpoint.format.name(),
            bytes: plan.weights,
            bytes_per_token: plan.weights_per_token,
            shares: shares.collect(),
            context: plan.context,
            kv_type: plan.kv_type.name(),
            kv_bytes_per_token: plan.kv_per_token,
            kv_bytes_per_session: plan.kv_per_session,
            sessions: plan.sessions,
            scratch_bytes: plan.scratch,
            fits: plan.fits(),
            left_over_bytes: plan.left_over,
            places: places.collect(),
            hidden_bytes: plan.hidden,
            hops: plan.hops,
            link: plan.link,
            layer_split: plan.layer_split.as_ref().map(ceiling),
            tensor_parallel: plan.tensor_parallel.as_ref().map(ceiling),
        }
    }
}
