//! Which layer lies on which device, and how fast that can be. Uses `checkpoint` and `devices`.

use std::ops::Range;

use super::{Ceiling, Device};
use crate::checkpoint::Checkpoint;

/// A device, or the memory of a host, and what lies there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Place {
    /// The device.
    pub device: Device,
    /// The machine it is in, from 0.
    pub node: usize,
    /// Whether it is a host's processor and memory.
    pub host: bool,
    /// Whether the embedding lies there.
    pub embedding: bool,
    /// The layers that lie there, with their keys and values.
    pub layers: Range<usize>,
    /// Whether the last norm and the output projection lie there. If that is the embedding, and lies elsewhere, they are a copy.
    pub head: bool,
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of the keys and values of all sessions.
    pub kv: u64,
    /// Bytes of activations.
    pub scratch: u64,
    /// Bytes of weights that one token reads.
    pub weights_per_token: u64,
    /// Bytes of keys and values that the last token of a full session reads.
    pub kv_read: u64,
}

impl Place {
    fn new(device: &Device, node: usize, host: bool) -> Self {
        Self {
            device: device.clone(),
            node,
            host,
            embedding: false,
            layers: 0..0,
            head: false,
            weights: 0,
            kv: 0,
            scratch: 0,
            weights_per_token: 0,
            kv_read: 0,
        }
    }

    /// Whether anything lies there.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.embedding || self.head || !self.layers.is_empty()
    }

    /// Bytes that are taken.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        [self.kv, self.scratch].into_iter().fold(self.weights, u64::saturating_add)
    }

    /// Takes a piece, if there is room for it.
    fn take(&mut self, pieces: &Pieces, role: Role) -> bool {
        let piece = pieces.piece(role, self.embedding);
        let scratch = if self.is_used() { 0 } else { pieces.scratch };
        let mut added = [piece.weights, piece.kv, scratch].into_iter();
        let after = added.try_fold(self.bytes(), u64::checked_add);
        if after.is_none_or(|after| after > self.device.memory) {
            return false;
        }
        match role {
            Role::Embedding => self.embedding = true,
            Role::Layer(layer) if self.layers.is_empty() => self.layers = layer..layer + 1,
            Role::Layer(layer) => self.layers.end = layer + 1,
            Role::Head => self.head = true,
        }
        // Together they are less than the memory, and what is read is part of them.
        self.weights += piece.weights;
        self.kv += piece.kv;
        self.scratch += scratch;
        self.weights_per_token += piece.weights_per_token;
        self.kv_read = self.kv_read.saturating_add(piece.kv_read);
        true
    }
}

/// What a piece is, in the order in which they are placed.
#[derive(Clone, Copy)]
enum Role {
    Embedding,
    Layer(usize),
    Head,
}

/// What is placed as a whole. All in bytes.
#[derive(Clone, Copy)]
struct Piece {
    weights: u64,
    weights_per_token: u64,
    /// Of all sessions.
    kv: u64,
    /// Of one.
    kv_read: u64,
}

/// A model as the pieces that are placed one after the other.
pub(super) struct Pieces {
    embedding: Piece,
    layers: Vec<Piece>,
    /// The last norm and the output projection.
    head: Piece,
    /// The same where the embedding lies, if that is the output projection.
    head_beside_embedding: Piece,
    scratch: u64,
}

impl Pieces {
    pub(super) fn new(checkpoint: &Checkpoint, kv_per_layer: u64, sessions: usize, scratch: u64) -> Self {
        let head = &checkpoint.head;
        let embedding = head.embedding.bytes();
        let without_kv = |weights, weights_per_token| Piece { weights, weights_per_token, kv: 0, kv_read: 0 };
        let row = embedding / head.embedding.outputs.max(1) as u64;
        let selected = checkpoint.config.selected_experts;
        let layers = checkpoint.layers.iter().map(|layer| Piece {
            weights: layer.bytes(),
            weights_per_token: layer.bytes_per_token(selected),
            kv: kv_per_layer.saturating_mul(sessions as u64),
            kv_read: kv_per_layer,
        });
        let norm = head.norm.data.len();
        let output = head.output.as_ref().map_or(embedding, |output| output.bytes());
        // A row of the embedding that is read besides is counted where it is not part of the projection.
        let (own_row, beside) = if head.output.is_some() { (row, output) } else { (0, 0) };
        Self {
            embedding: without_kv(embedding, own_row),
            layers: layers.collect(),
            head: without_kv(norm + output, norm + output),
            head_beside_embedding: without_kv(norm + beside, norm + output),
            scratch,
        }
    }

    /// Gives the pieces to the devices in order, each as many as it holds: the embedding, the layers, the head. Hosts take what is left,
    /// each after the devices of its node. Also tells how many bytes have no place.
    pub(super) fn place(&self, devices: &[Device], host: Option<&Device>, nodes: usize) -> (Vec<Place>, u64) {
        let places = |host: Option<&Device>| {
            let node = |node| {
                let devices = devices.iter().map(move |device| Place::new(device, node, false));
                devices.chain(host.map(|host| Place::new(host, node, true)))
            };
            (0..nodes).flat_map(node).collect::<Vec<_>>()
        };
        let (on_devices, left_over) = self.fill(places(None));
        match host {
            Some(host) if left_over > 0 => self.fill(places(Some(host))),
            _ => (on_devices, left_over),
        }
    }

    fn fill(&self, mut places: Vec<Place>) -> (Vec<Place>, u64) {
        let (mut current, mut left_over) = (0, 0_u64);
        // Whether what has no place would lie with the embedding.
        let mut beside = false;
        let layers = (0..self.layers.len()).map(Role::Layer);
        for role in [Role::Embedding].into_iter().chain(layers).chain([Role::Head]) {
            // Never back to a place that was full: layers stay in order.
            match places[current..].iter_mut().position(|place| place.take(self, role)) {
                Some(full) => current += full,
                None => {
                    let last = places.get(current);
                    beside |= matches!(role, Role::Embedding) || last.is_some_and(|place| place.embedding);
                    let piece = self.piece(role, beside);
                    left_over = [piece.weights, piece.kv].into_iter().fold(left_over, u64::saturating_add);
                    current = places.len();
                }
            }
        }
        (places, left_over)
    }

    /// A piece for a place with or without the embedding.
    fn piece(&self, role: Role, embedding: bool) -> Piece {
        match role {
            Role::Embedding => self.embedding,
            Role::Layer(layer) => self.layers[layer],
            Role::Head if embedding => self.head_beside_embedding,
            Role::Head => self.head,
        }
    }

    /// The ceiling of matrices cut into equal parts over `devices`.
    pub(super) fn tensor_parallel(
        &self,
        devices: &[Device],
        weights_read: u64,
        kv_read: u64,
    ) -> Option<Ceiling> {
        let count = devices.len() as u64;
        if count < 2 {
            return None;
        }
        let layers = self.layers.iter().flat_map(|layer| [layer.weights, layer.kv]);
        let rest = [self.embedding.weights, self.head_beside_embedding.weights];
        let part =
            layers.chain(rest).fold(0, u64::saturating_add).div_ceil(count).saturating_add(self.scratch);
        let slowest = devices.iter().map(|device| device.bandwidth).min()??;
        let seconds = |bytes: u64| bytes as f64 / (count as f64 * slowest as f64);
        let fits = devices.iter().all(|device| part <= device.memory);
        fits.then(|| Ceiling::of(seconds(weights_read), seconds(weights_read.saturating_add(kv_read))))?
    }
}

impl Ceiling {
    /// Of the seconds that a token takes.
    fn of(empty: f64, full: f64) -> Option<Self> {
        let ceiling = Self { empty: empty.recip(), full: full.recip() };
        (ceiling.empty.is_finite() && ceiling.full.is_finite()).then_some(ceiling)
    }
}

/// The ceiling of places that work one after the other, with `transfer` seconds between nodes.
pub(super) fn layer_split(places: &[Place], left_over: u64, transfer: f64) -> Option<Ceiling> {
    if left_over > 0 {
        return None;
    }
    let (mut empty, mut full) = (transfer, transfer);
    for place in places.iter().filter(|place| place.is_used()) {
        let bandwidth = place.device.bandwidth? as f64;
        empty += place.weights_per_token as f64 / bandwidth;
        full += place.weights_per_token.saturating_add(place.kv_read) as f64 / bandwidth;
    }
    Ceiling::of(empty, full)
}
