//! Activations of the current batch, on the device. Uses `device`.

use super::attention::Plan;
use super::forward::Graphs;
use super::slot::Slot;
use crate::backend::gpu::{Buffer, Device, DevicePointer, Event, GpuError, Pinned, Runtime, Stream};

/// Device memory that grows to what the largest batch needs.
pub(super) struct Room<R: Runtime>(Option<Buffer<R>>);

impl<R: Runtime> Room<R> {
    pub(super) fn make(&mut self, device: &Device<R>, bytes: usize) -> Result<(), GpuError> {
        if self.0.as_ref().is_none_or(|buffer| buffer.len() < bytes) {
            // Given back first: what it holds is of an earlier batch.
            self.0 = None;
            self.0 = Some(device.allocate(bytes, "activations")?);
        }
        Ok(())
    }

    pub(super) fn buffer(&self) -> Option<&Buffer<R>> {
        self.0.as_ref()
    }

    pub(super) fn pointer(&self) -> DevicePointer {
        self.0.as_ref().map_or(DevicePointer(0), Buffer::pointer)
    }
}

impl<R: Runtime> Default for Room<R> {
    fn default() -> Self {
        Self(None)
    }
}

/// Numbers of the host's that a batch needs on the device.
pub(super) struct Staged<R: Runtime> {
    room: Room<R>,
    /// What is on its way.
    sent: Option<Slot<R>>,
}

impl<R: Runtime> Staged<R> {
    /// Queues a copy of `bytes` bytes, which `write` puts down.
    pub(super) fn send(
        &mut self,
        device: &Device<R>,
        stream: &Stream<R>,
        bytes: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(), GpuError> {
        // Room for twice as many: buffers that seldom move keep captured graphs of use.
        if self.room.buffer().is_none_or(|buffer| buffer.len() < bytes) {
            self.room.make(device, bytes.next_power_of_two())?;
        }
        if self.sent.as_ref().is_none_or(|slot| slot.len() < bytes) {
            self.sent = None;
            self.sent = Some(Slot::new(device, bytes.next_power_of_two())?);
        }
        let (Some(slot), Some(buffer)) = (&mut self.sent, self.room.buffer()) else {
            return Ok(());
        };
        write(&mut slot.free()?[..bytes]);
        slot.send(stream, buffer, 0, bytes)
    }

    pub(super) fn pointer(&self) -> DevicePointer {
        self.room.pointer()
    }
}

impl<R: Runtime> Default for Staged<R> {
    fn default() -> Self {
        Self { room: Room::default(), sent: None }
    }
}

/// Puts numbers down as the device reads them.
pub(super) fn write_i32(out: &mut [u8], numbers: impl IntoIterator<Item = i32>) {
    out.chunks_exact_mut(4).zip(numbers).for_each(|(out, number)| out.copy_from_slice(&number.to_le_bytes()));
}

/// Buffers that grow to the largest batch seen and are then reused.
#[expect(missing_debug_implementations, reason = "opaque: reached only through the trait")]
pub struct Scratch<R: Runtime> {
    pub(super) rows: usize,
    /// Tokens, positions, and where the pages of each row's sequence begin.
    pub(super) batch: Staged<R>, // i32 [3, rows]
    /// Addresses of the batch's pages.
    pub(super) pages: Staged<R>, // u64 [pages]
    pub(super) plan: Plan,
    /// First row and number of rows of tiles.
    pub(super) tiles: Staged<R>, // i32 [tiles, 2]
    /// Rows whose outputs are wanted.
    pub(super) output_rows: Staged<R>, // i32 [rows]
    /// Cosine and sine of each angle at the first positions.
    pub(super) rotary: Room<R>, // [rotary_len, head_dim / 2, 2]
    pub(super) rotary_len: usize,
    pub(super) hidden: Room<R>,        // [rows, width]
    pub(super) normed: Room<R>,        // [rows, width]
    pub(super) query: Room<R>,         // [rows, heads, head_dim]
    pub(super) key: Room<R>,           // [rows, kv_heads, head_dim]
    pub(super) value: Room<R>,         // [rows, kv_heads, head_dim]
    pub(super) narrow: Room<R>,        // bf16 [rows, width] or [rows, heads, head_dim]
    pub(super) row_sums: Room<R>,      // [rows, width / 32] and the like
    pub(super) sums: Room<R>,          // [rows at a time, heads, spans, head_dim]
    pub(super) stats: Room<R>,         // [rows at a time, heads, spans, 2]
    pub(super) attended: Room<R>,      // [rows, heads, head_dim]
    pub(super) branch: Room<R>,        // [rows, width]
    pub(super) probabilities: Room<R>, // [rows, experts]
    pub(super) selection: Room<R>,     // i32 [rows, selected]
    pub(super) gates: Room<R>,         // [rows, selected]
    pub(super) group_experts: Room<R>, // i32 [groups]
    pub(super) group_starts: Room<R>,  // i32 [groups + 1]
    pub(super) group_pairs: Room<R>,   // i32 [pairs]
    pub(super) gate: Room<R>,          // [pairs, ffn_width]
    pub(super) up: Room<R>,            // [pairs, ffn_width]
    pub(super) activated: Room<R>,     // [pairs, ffn_width], bf16 where matrix instructions make it
    pub(super) down: Room<R>,          // [pairs, width]
    pub(super) sorted: Room<R>,        // [pairs, width], in the order of their experts
    pub(super) slab: Room<R>,          // bf16 [outputs, inputs] or [inputs, outputs] of some outputs
    pub(super) outputs: Room<R>,       // [rows, vocab or width]
    /// What differences of logits are multiplied by.
    pub(super) scales: Staged<R>, // f64 [rows, 2]
    /// The best tokens of blocks of logits, and in the end the totals.
    pub(super) ranks: [Room<R>; 2], // u64 [rows, blocks, candidates]
    pub(super) graphs: Graphs<R>,
    /// When the last layers that were queued are done.
    pub(super) queued: Vec<Event<R>>,
    /// What came back.
    pub(super) returned: Option<Pinned<R>>,
}

impl<R: Runtime> Default for Scratch<R> {
    fn default() -> Self {
        Self {
            rows: 0,
            batch: Staged::default(),
            pages: Staged::default(),
            plan: Plan::default(),
            tiles: Staged::default(),
            output_rows: Staged::default(),
            rotary: Room::default(),
            rotary_len: 0,
            hidden: Room::default(),
            normed: Room::default(),
            query: Room::default(),
            key: Room::default(),
            value: Room::default(),
            narrow: Room::default(),
            row_sums: Room::default(),
            sums: Room::default(),
            stats: Room::default(),
            attended: Room::default(),
            branch: Room::default(),
            probabilities: Room::default(),
            selection: Room::default(),
            gates: Room::default(),
            group_experts: Room::default(),
            group_starts: Room::default(),
            group_pairs: Room::default(),
            gate: Room::default(),
            up: Room::default(),
            activated: Room::default(),
            down: Room::default(),
            sorted: Room::default(),
            slab: Room::default(),
            outputs: Room::default(),
            scales: Staged::default(),
            ranks: <[Room<R>; 2]>::default(),
            graphs: Graphs::default(),
            queued: Vec::new(),
            returned: None,
        }
    }
}

impl<R: Runtime> Scratch<R> {
    /// Where all buffers are that layers read or write, and how long.
    pub(super) fn places(&self) -> impl Iterator<Item = (u64, usize)> {
        let staged = [&self.batch, &self.pages, &self.tiles].map(|staged| &staged.room);
        let rooms = [
            &self.rotary,
            &self.hidden,
            &self.normed,
            &self.query,
            &self.key,
            &self.value,
            &self.narrow,
            &self.row_sums,
            &self.sums,
            &self.stats,
            &self.attended,
            &self.branch,
            &self.probabilities,
            &self.selection,
            &self.gates,
            &self.group_experts,
            &self.group_starts,
            &self.group_pairs,
            &self.gate,
            &self.up,
            &self.activated,
            &self.down,
        ];
        let place = |room: &Room<R>| (room.pointer().0, room.buffer().map_or(0, Buffer::len));
        staged.into_iter().chain(rooms).map(place)
    }
}
