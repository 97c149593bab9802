//! What a model needs and where it would lie, from headers alone. Uses `checkpoint` and `backend`.
//!
//! Decode is a race against memory bandwidth: the bytes that a token reads, over the bytes that memory gives in a second, are the
//! ceiling of its speed. [`Plan`] states both, for one device, several, and several machines.

mod components;
pub(crate) mod device_bytes;
mod devices;
mod placement;
mod units;

use crate::backend::{BATCH_ROWS, KvType, PAGE, activation_bytes};
use crate::checkpoint::Checkpoint;

pub use components::{Component, Share};
pub use devices::{Device, DeviceError, KNOWN_DEVICES, KnownDevice};
use placement::Pieces;
pub use placement::Place;
pub use units::{rate, size};

/// What a model is planned for: one session as long as the model was trained for, in the memory of no device.
///
/// ```
/// use grok1::checkpoint::{Synthetic, synthetic};
/// use grok1::plan::{Device, PlanOptions};
///
/// let grok1 = synthetic(&Synthetic::new())?;
/// let plan = grok1.plan(&PlanOptions::new().devices(Device::parse("8xh100")?));
/// assert!(plan.fits());
/// assert_eq!(plan.layer_split.unwrap().empty as u32, 38); // tokens per second
/// assert_eq!(plan.tensor_parallel.unwrap().empty as u32, 310);
/// # Ok::<(), grok1::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PlanOptions {
    context: Option<usize>,
    sessions: usize,
    kv_type: KvType,
    batch_rows: usize,
    devices: Vec<Device>,
    host: Option<Device>,
    nodes: usize,
    link: u64,
}

impl PlanOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            context: None,
            sessions: 1,
            kv_type: KvType::default(),
            batch_rows: BATCH_ROWS,
            devices: Vec::new(),
            host: None,
            nodes: 1,
            link: 12_500_000_000,
        }
    }

    /// Positions of each session, 1 at least; by default those that the model was trained for.
    #[must_use]
    pub fn context(mut self, positions: usize) -> Self {
        self.context = Some(positions.max(1));
        self
    }

    /// Sessions that are held at once, 1 at least; 1 by default.
    #[must_use]
    pub fn sessions(mut self, sessions: usize) -> Self {
        self.sessions = sessions.max(1);
        self
    }

    /// How keys and values are kept; [`KvType::BF16`] by default.
    #[must_use]
    pub fn kv_type(mut self, kv_type: KvType) -> Self {
        self.kv_type = kv_type;
        self
    }

    /// Tokens that go through the layers together at most, 512 by default, as in
    /// [`ModelOptions`](crate::ModelOptions::batch_rows).
    #[must_use]
    pub fn batch_rows(mut self, rows: usize) -> Self {
        self.batch_rows = rows;
        self
    }

    /// The devices of a node, in the order in which layers are given to them. Adds to those given before.
    #[must_use]
    pub fn devices(mut self, devices: impl IntoIterator<Item = Device>) -> Self {
        self.devices.extend(devices);
        self
    }

    /// The processor and its memory, on every node. Used where there are no devices, or for what they do not hold.
    #[must_use]
    pub fn host(mut self, host: Device) -> Self {
        self.host = Some(host);
        self
    }

    /// Machines that all have these devices, 1 to 1024; 1 by default.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes.clamp(1, 1024);
        self
    }

    /// Bytes per second between two nodes, 1 at least; 12.5 GB/s by default, a link of 100 Gbit/s.
    #[must_use]
    pub fn link(mut self, bytes_per_second: u64) -> Self {
        self.link = bytes_per_second.max(1);
        self
    }
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// What a model needs and where it would lie. All sizes are bytes; those beyond 64 bits saturate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// Weights by component and format, in the order of [`Component`].
    pub shares: Vec<Share>,
    /// All weights as they are stored.
    pub weights: u64,
    /// Weights that one token reads, alone in its batch: the experts it is sent to, and the output projection once.
    pub weights_per_token: u64,
    /// Positions of a session.
    pub context: usize,
    /// How keys and values are kept.
    pub kv_type: KvType,
    /// Keys and values of one token, in all layers. The last token of a full session reads those of all before it.
    pub kv_per_token: u64,
    /// Keys and values of a full session, in whole pages.
    pub kv_per_session: u64,
    /// Sessions that are held at once.
    pub sessions: usize,
    /// An estimate of the activations of a batch, on each device that is used.
    pub scratch: u64,
    /// The devices of all nodes, and their hosts where those are needed; also those that nothing is left for.
    pub places: Vec<Place>,
    /// Weights, keys and values that found no place. A model mapped from files runs all the same, at the speed of the disk.
    pub left_over: u64,
    /// What a hidden state has, which is handed from one node to the next.
    pub hidden: u64,
    /// Times that a token's hidden state goes over the link.
    pub hops: usize,
    /// Bytes per second of the link.
    pub link: u64,
    /// The ceiling with layers cut as in [`places`](Self::places), which work one after the other: their times add up. `None` if not
    /// everything has a place, or a bandwidth is not known.
    pub layer_split: Option<Ceiling>,
    /// The ceiling if every matrix were cut into equal parts over all devices, as many times the slowest of them as there are, with
    /// exchange for free. `None` unless there are several with room for their part and a known bandwidth, on one node.
    pub tensor_parallel: Option<Ceiling>,
}

/// Tokens per second that memory allows one session at most.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Ceiling {
    /// At the beginning: weights alone are read.
    pub empty: f64,
    /// At the end of the context: all keys and values are read too.
    pub full: f64,
}

impl Plan {
    /// Whether everything has a place.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.left_over == 0
    }
}

impl Checkpoint {
    /// What the model needs and where it would lie. Reads nothing.
    #[must_use]
    pub fn plan(&self, options: &PlanOptions) -> Plan {
        let config = &self.config;
        let context = options.context.unwrap_or(config.context);
        let layers = config.layers as u64;
        // Of one position in one layer.
        let kv = [2, config.kv_heads as u64, config.head_dim as u64, options.kv_type.size() as u64];
        let kv = kv.into_iter().fold(1, u64::saturating_mul);
        let positions = (context as u64).div_ceil(PAGE as u64).saturating_mul(PAGE as u64);
        let kv_per_layer = kv.saturating_mul(positions);
        let scratch = activation_bytes(config, options.batch_rows);
        let pieces = Pieces::new(self, kv_per_layer, options.sessions, scratch);
        let (places, left_over) = pieces.place(&options.devices, options.host.as_ref(), options.nodes);

        let hidden = (config.width as u64).saturating_mul(size_of::<f32>() as u64);
        let mut used: Vec<usize> =
            places.iter().filter(|place| place.is_used()).map(|place| place.node).collect();
        used.dedup();
        let hops = used.len().saturating_sub(1);
        let transfer = hidden as f64 * hops as f64 / options.link as f64;
        let kv_per_session = kv_per_layer.saturating_mul(layers);
        let weights_per_token = self.bytes_per_token();
        let single = if options.nodes == 1 { &options.devices[..] } else { &[] };
        Plan {
            shares: components::shares(self),
            weights: self.bytes(),
            weights_per_token,
            context,
            kv_type: options.kv_type,
            kv_per_token: kv.saturating_mul(layers),
            kv_per_session,
            sessions: options.sessions,
            scratch,
            layer_split: placement::layer_split(&places, left_over, transfer),
            tensor_parallel: pieces.tensor_parallel(single, weights_per_token, kv_per_session),
            places,
            left_over,
            hidden,
            hops,
            link: options.link,
        }
    }
}
