//! Weights on their way to a device. Uses `device`, `values` and `tensor`.
//!
//! Several threads fill a ring of pinned memory, the caller's submits the copies, and an event tells when a part of the ring is free
//! again. Matrices that are packed wait on the device for that, while the next is copied. Bytes are read, not looked at where they are
//! mapped: a mapping costs a fault for every few pages, which are looked at once; and a failing disk is an error, not a signal. Random
//! weights take no way: the device makes them.

use std::collections::BTreeMap;
use std::iter::Enumerate;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::slot::Slot;
use crate::backend::gpu::kernels::{THREADS, TILE_INPUTS, TILE_OUTPUTS};
use crate::backend::gpu::{
    Buffer, Device, DevicePointer, Event, Function, GpuError, Launch, Runtime, Stream,
};
use crate::backend::{BackendError, values};
use crate::control::{Control, Task};
use crate::error::Result;
use crate::source::Formula;
use crate::tensor::{Matrix, Vector};

/// Threads that read, unless there are fewer CPUs. One copies 8 to 10 GB/s out of the page cache, and a link of PCIe 5 takes 55; a disk
/// is at its best with several reads under way.
const READERS: usize = 8;

/// Bytes that are read and copied at a time: a thousand times what a copy costs to begin.
const BLOCK: usize = 8 << 20;

/// Blocks of the ring: as many to read into as to copy from.
const BLOCKS: usize = 2 * READERS;

/// What is copied into a buffer.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    /// A matrix's elements, as they are stored.
    Elements(&'a Matrix),
    /// What they are multiplied by, as f32.
    Scales(&'a Matrix), // [outputs / shared, inputs / shared], rounded up
    /// A matrix's weights, as f32.
    Weights(&'a Matrix), // [outputs, inputs]
    /// A vector's elements, as f32.
    Vector(&'a Vector), // [len]
}

impl<'a> Content<'a> {
    /// How the device makes its bytes, if it can.
    fn formula(self) -> Option<Formula<'a>> {
        match self {
            Self::Elements(matrix) => matrix.data.formula(),
            _ => None,
        }
    }

    /// Bytes on the device.
    pub(super) fn bytes(self) -> usize {
        let numbers = match self {
            Self::Elements(matrix) => return matrix.data.len() as usize,
            Self::Scales(matrix) => {
                let counts = matrix.scales.as_ref().map(|s| s.counts(matrix.inputs, matrix.outputs));
                counts.map_or(0, |[inputs, outputs]| inputs * outputs)
            }
            Self::Weights(matrix) => matrix.inputs * matrix.outputs,
            Self::Vector(vector) => vector.len,
        };
        numbers * size_of::<f32>()
    }

    /// Some of its bytes, from `at` on. Numbers are converted for each block anew: they are seldom more than one.
    fn read(self, at: usize, out: &mut [u8], control: &Control) -> Result<()> {
        let numbers = match self {
            Self::Elements(matrix) => {
                let unreadable = |source| BackendError::Read { tensor: matrix.name.clone(), source };
                return Ok(matrix.data.read_at(at as u64, out).map_err(unreadable)?);
            }
            Self::Scales(matrix) => {
                values::factors(matrix, control)?.map_or_else(Vec::new, |factors| factors.values().to_vec())
            }
            Self::Weights(matrix) => values::matrix(matrix, control)?,
            Self::Vector(vector) => values::vector(vector, control)?,
        };
        let numbers = numbers.get(at / size_of::<f32>()..).unwrap_or_default();
        out.as_chunks_mut().0.iter_mut().zip(numbers).for_each(|(out, x)| *out = x.to_le_bytes());
        Ok(())
    }
}

/// A buffer, or a part of one, that is to be filled.
pub(super) struct Transfer<'a, R: Runtime> {
    pub(super) content: Content<'a>,
    pub(super) to: Arc<Buffer<R>>,
    pub(super) at: usize,
    /// What puts it there, if it is not there as it is copied.
    pub(super) pack: Option<Arc<Pack<R>>>,
}

/// How a matrix as it is stored becomes a packed one.
pub(super) struct Pack<R: Runtime> {
    pub(super) kernel: Function<R>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl<R: Runtime> Pack<R> {
    fn launch(&self, stream: &Stream<R>, to: DevicePointer, from: DevicePointer) -> Result<(), GpuError> {
        let grid = [self.inputs / TILE_INPUTS, self.outputs / TILE_OUTPUTS, 1].map(|blocks| blocks as u32);
        let launch = Launch { grid, block: [THREADS as u32, 1, 1], shared_bytes: 0 };
        let [inputs, outputs] = [self.inputs, self.outputs].map(|size| size as i32);
        let arguments = [(&to).into(), (&from).into(), (&inputs).into(), (&outputs).into()];
        // SAFETY: one holds the stored matrix, the other has room for the packed one.
        unsafe { stream.launch(&self.kernel, launch, arguments) }
    }
}

/// A part of a transfer: bytes of its content.
type Block<'a, R> = (&'a Transfer<'a, R>, Range<usize>);

fn blocks<'a, R: Runtime>(transfers: &'a [Transfer<'a, R>]) -> impl Iterator<Item = Block<'a, R>> {
    let read = transfers.iter().filter(|transfer| transfer.content.formula().is_none());
    read.flat_map(|transfer| {
        let bytes = transfer.content.bytes();
        (0..bytes).step_by(BLOCK).map(move |start| (transfer, start..bytes.min(start + BLOCK)))
    })
}

/// Where a stored matrix waits on the device to be packed.
struct Staging<R: Runtime> {
    stored: Option<Buffer<R>>,
    /// When it is all there.
    copied: Event<R>,
    /// When it is no longer needed.
    packed: Event<R>,
}

impl<R: Runtime> Staging<R> {
    fn new(device: &Device<R>) -> Result<Self, GpuError> {
        Ok(Self { stored: None, copied: device.event()?, packed: device.event()? })
    }
}

/// A block with its number, in a slot; or why it is not. The payload of a panic is passed on.
type Filled<R> = (usize, thread::Result<Result<Slot<R>>>);

/// The ring, and what follows it. It is there while weights are loaded: pinned memory is taken from everybody else.
pub(super) struct Loader<R: Runtime> {
    copies: Stream<R>,
    packs: Stream<R>,
    /// [`Kernel::Generate`](crate::backend::gpu::kernels::Kernel::Generate).
    generate: Function<R>,
    readers: usize,
    ring: Vec<Slot<R>>, // of BLOCK bytes each
    /// One is copied to while the other is packed.
    staging: [Staging<R>; 2],
}

impl<R: Runtime> Loader<R> {
    pub(super) fn new(device: &Device<R>, generate: Function<R>) -> Result<Self> {
        let ring = (0..BLOCKS).map(|_| Slot::new(device, BLOCK)).collect::<Result<_, _>>()?;
        let readers = thread::available_parallelism().map_or(1, usize::from).min(READERS);
        let (copies, packs) = (device.stream()?, device.stream()?);
        let staging = [Staging::new(device)?, Staging::new(device)?];
        Ok(Self { copies, packs, generate, readers, ring, staging })
    }

    /// Copies all of them. The last copies may still be under way afterwards.
    ///
    /// After an error the loader is of no more use.
    ///
    /// # Errors
    /// Unreadable bytes and numbers that are not finite, the device's; [`Cancelled`](crate::Cancelled).
    pub(super) fn run(
        &mut self,
        device: &Device<R>,
        transfers: &[Transfer<'_, R>],
        control: &Control,
    ) -> Result<()> {
        self.stage(device, transfers)?;
        let total: usize = transfers.iter().map(|transfer| transfer.content.bytes()).sum();
        let mut done = 0;
        let mut progress = |bytes: usize| {
            done += bytes;
            control.report(Task::Load, done as u64, total as u64);
        };
        self.make(device, transfers, control, &mut progress)?;
        let (give, free) = channel();
        let (filled, arrivals) = channel();
        // Nobody has hung up.
        self.ring.drain(..).for_each(|slot| _ = give.send(slot));
        let work = Mutex::new((blocks(transfers).enumerate(), free));
        thread::scope(|scope| {
            for started in 0..self.readers.min(blocks(transfers).count()) {
                let (work, filled) = (&work, filled.clone());
                let reader = thread::Builder::new().name(format!("grok1-load-{started}"));
                match reader.spawn_scoped(scope, move || fill(work, &filled, control)) {
                    Err(error) if started == 0 => return Err(BackendError::Threads(error).into()),
                    // Those that there are do it.
                    Err(_) => break,
                    Ok(_) => {}
                }
            }
            drop(filled);
            self.submit(transfers, give, &arrivals, control, &mut progress)
        })?;
        let (_, free) = work.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.ring.extend(free.try_iter());
        Ok(())
    }

    /// What `stream` is given from now on sees all that was copied.
    pub(super) fn precede(&self, stream: &Stream<R>) -> Result<(), GpuError> {
        if let Some(last) = self.ring.last() {
            stream.wait(last.copied())?;
        }
        self.staging.iter().try_for_each(|staging| stream.wait(&staging.packed))
    }

    /// Makes room for the largest matrix that is packed.
    fn stage(&mut self, device: &Device<R>, transfers: &[Transfer<'_, R>]) -> Result<(), GpuError> {
        let packed = transfers.iter().filter(|transfer| transfer.pack.is_some());
        let bytes = packed.map(|transfer| transfer.content.bytes()).max().unwrap_or(0);
        for staging in &mut self.staging {
            if staging.stored.as_ref().map_or(0, Buffer::len) < bytes {
                staging.stored = None;
                staging.stored = Some(device.allocate(bytes, "weights to be packed")?);
            }
        }
        Ok(())
    }

    /// Makes on the device what needs no reading.
    fn make(
        &self,
        device: &Device<R>,
        transfers: &[Transfer<'_, R>],
        control: &Control,
        progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let [staging, _] = &self.staging;
        for transfer in transfers {
            let Some(Formula { key, masks }) = transfer.content.formula() else { continue };
            control.check()?;
            let words: Vec<u8> = masks.as_flattened().iter().flat_map(|word| word.to_le_bytes()).collect();
            let table = device.allocate(words.len(), "random weights")?;
            self.packs.write(&table, 0, &words)?;
            let own = transfer.to.pointer().offset(transfer.at);
            let to = match (&transfer.pack, &staging.stored) {
                (Some(_), Some(stored)) => stored.pointer(),
                _ => own,
            };
            let bytes = transfer.content.bytes();
            let (count, period) = ((bytes / size_of::<u64>()) as u64, masks.len() as u32);
            let grid = [count.div_ceil(THREADS as u64) as u32, 1, 1];
            let launch = Launch { grid, block: [THREADS as u32, 1, 1], shared_bytes: 0 };
            let masks = table.pointer();
            let arguments = [(&to).into(), (&masks).into(), (&key).into(), (&count).into(), (&period).into()];
            // SAFETY: one has room for the matrix as it is stored, the other holds all masks, until this has run.
            unsafe { self.packs.launch(&self.generate, launch, arguments) }?;
            if let Some(pack) = &transfer.pack {
                pack.launch(&self.packs, own, to)?;
            }
            self.packs.record(&staging.packed)?;
            progress(bytes);
        }
        Ok(())
    }

    /// Queues a copy of every block, in order. Readers stop when this ends, since it drops what they wait for.
    fn submit(
        &self,
        transfers: &[Transfer<'_, R>],
        give: Sender<Slot<R>>,
        arrivals: &Receiver<Filled<R>>,
        control: &Control,
        progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let mut packed = 0;
        let mut early = BTreeMap::new();
        for (index, (transfer, range)) in blocks(transfers).enumerate() {
            control.check()?;
            let filled = loop {
                if let Some(filled) = early.remove(&index) {
                    break filled;
                }
                // They send every block before they hang up.
                let gone = |_| BackendError::Pool { done: index, parts: blocks(transfers).count() };
                let (index, filled) = arrivals.recv().map_err(gone)?;
                early.insert(index, filled);
            };
            let mut slot = filled.unwrap_or_else(|panic| resume_unwind(panic))?;
            let staging = &self.staging[packed % self.staging.len()];
            let (to, at) = match (&transfer.pack, &staging.stored) {
                (Some(_), Some(stored)) => (stored, range.start),
                _ => (&*transfer.to, transfer.at + range.start),
            };
            if transfer.pack.is_some() && range.start == 0 {
                self.copies.wait(&staging.packed)?;
            }
            slot.send(&self.copies, to, at, range.len())?;
            if let Some(pack) = transfer.pack.as_ref().filter(|_| range.end == transfer.content.bytes()) {
                self.copies.record(&staging.copied)?;
                self.packs.wait(&staging.copied)?;
                pack.launch(&self.packs, transfer.to.pointer().offset(transfer.at), to.pointer())?;
                self.packs.record(&staging.packed)?;
                packed += 1;
            }
            // Readers that have nothing left to read need no slot.
            _ = give.send(slot);
            progress(range.len());
        }
        Ok(())
    }
}

/// What readers share: the blocks that are left, and slots to read them into. Both are taken together, so that there is always a slot
/// for the block that is submitted next.
type Work<I, R> = Mutex<(Enumerate<I>, Receiver<Slot<R>>)>;

/// Reads blocks until none is left, or nobody wants them.
fn fill<'a, R: Runtime, I: Iterator<Item = Block<'a, R>>>(
    work: &Work<I, R>,
    filled: &Sender<Filled<R>>,
    control: &Control,
) {
    let next = || {
        let (blocks, free) = &mut *work.lock().unwrap_or_else(PoisonError::into_inner);
        Some((blocks.next()?, free.recv().ok()?))
    };
    while let Some(((index, (transfer, range)), mut slot)) = next() {
        let read = || {
            transfer.content.read(range.start, &mut slot.free()?[..range.len()], control)?;
            Ok(slot)
        };
        if filled.send((index, catch_unwind(AssertUnwindSafe(read)))).is_err() {
            return;
        }
    }
}
