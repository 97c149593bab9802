//! Tensors through memory, piece by piece: one thread reads ahead while all others turn what was read into what is to be written.
//! Uses `output` and `rows`.
//!
//! Memory is bounded whatever the size of the model: two pieces that were read, [`PIECE`] bytes each, and for each thread a slab of
//! [`SLAB`] elements, as f32 and as written.

use std::ops::Range;
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::ConvertError;
use super::output::{Output, Tensor};
use super::rows::{Deviation, Int8Fidelity, Loaded, Scratch};
use crate::control::{Control, Task};
use crate::error::{Error, Result};
use crate::quant::{self, Factors};
use crate::tensor::{Blob, DType, Layout, Matrix};
use crate::threads::Pool;

/// Bytes read at once, unless a single row has more.
const PIECE: usize = 256 << 20;

/// Elements that a thread turns at once, unless a single row has more.
const SLAB: usize = 1 << 20;

/// Outputs whose int8 weights share lines of the cache.
const LINE: usize = 32;

/// What becomes of the bytes that are made.
pub(super) trait Sink: Sync {
    /// Takes `bytes`, which belong at `offset` of file `file`. Called from any thread, in any order.
    fn put(&self, file: usize, offset: u64, bytes: &[u8]) -> Result<(), ConvertError>;

    /// Whether it wants to know how far they are from the input.
    fn measures(&self) -> bool {
        false
    }

    /// Hears how far bytes of a type are from the input.
    fn deviates(&self, _dtype: DType, _deviation: Deviation) {}
}

/// Outputs of one matrix of a tensor, which are read together.
struct Piece<'a> {
    /// The tensor's number.
    tensor: usize,
    matrix: &'a Matrix,
    outputs: Range<usize>,
    /// Where in the file the first of them belongs.
    offset: u64,
    /// Whether it completes the tensor.
    is_last: bool,
}

/// A piece, read.
struct Read<'a> {
    piece: Piece<'a>,
    data: Vec<u8>,
    factors: Option<Factors>,
}

/// Makes the tensors of `output` whose numbers are `wanted`, in order, and tells `done` of each and of how faithful it is.
pub(super) fn run(
    output: &Output,
    wanted: &[usize],
    task: Task,
    pool: &dyn Pool,
    sink: &dyn Sink,
    control: &Control,
    done: &mut dyn FnMut(usize, Int8Fidelity) -> Result<()>,
) -> Result<()> {
    let total = output.tensors.iter().map(Tensor::bytes).sum();
    let left: u64 = wanted.iter().map(|&number| output.tensors[number].bytes()).sum();
    let mut written = total - left;
    let scratches = Mutex::new(Vec::new());
    let (full_sender, full) = mpsc::sync_channel::<Result<Read<'_>>>(0);
    let (empty_sender, empty) = mpsc::channel();
    thread::scope(|scope| {
        let reader = move || {
            let pieces = wanted.iter().flat_map(|&number| pieces(number, &output.tensors[number]));
            for piece in pieces {
                // The other end ends first after an error.
                let buffer = empty.try_recv().unwrap_or_default();
                let read = read(piece, buffer, control);
                let is_over = read.is_err();
                if full_sender.send(read).is_err() || is_over {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("grok1-read".to_owned())
            .spawn_scoped(scope, reader)
            .map_err(|source| ConvertError::Threads { source })?;
        let mut fidelity = Int8Fidelity::default();
        control.report(task, written, total);
        for read in full {
            let Read { piece, data, factors } = read?;
            let tensor = &output.tensors[piece.tensor];
            let loaded = Loaded {
                matrix: piece.matrix,
                outputs: piece.outputs.clone(),
                data: &data,
                factors: factors.as_ref(),
            };
            fidelity.add(turn(&loaded, tensor, piece.offset, pool, &scratches, sink, control)?);
            written += tensor.row_bytes * piece.outputs.len() as u64;
            // Gone if the reader has read everything.
            let _ = empty_sender.send(data);
            if piece.is_last {
                done(piece.tensor, std::mem::take(&mut fidelity))?;
            }
            control.report(task, written, total);
        }
        Ok(())
    })
}

/// The pieces of a tensor.
fn pieces(number: usize, tensor: &Tensor) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut offset = tensor.start;
    for matrix in &tensor.matrices {
        let row = (matrix.data.len() / matrix.outputs as u64).max(1);
        let rows = usize::try_from(PIECE as u64 / row).unwrap_or(usize::MAX).max(1);
        let mut start = 0;
        while start < matrix.outputs {
            let outputs = start..matrix.outputs.min(start.saturating_add(rows));
            start = outputs.end;
            let bytes = tensor.row_bytes * outputs.len() as u64;
            pieces.push(Piece { tensor: number, matrix, outputs, offset, is_last: false });
            offset += bytes;
        }
    }
    if let Some(last) = pieces.last_mut() {
        last.is_last = true;
    }
    pieces
}

/// Reads a piece into `buffer`.
fn read<'a>(piece: Piece<'a>, mut buffer: Vec<u8>, control: &Control) -> Result<Read<'a>> {
    let matrix = piece.matrix;
    let len = matrix.data.len();
    let row = len / matrix.outputs as u64;
    let [start, end] = [piece.outputs.start, piece.outputs.end].map(|output| output as u64 * row);
    // No more than a piece, or a row.
    buffer.resize((end - start) as usize, 0);
    if matrix.layout == Layout::OutIn || piece.outputs.len() == matrix.outputs {
        fill(matrix, &matrix.data, start, &mut buffer, control)?;
    } else {
        let stride = len / matrix.inputs as u64;
        let element = stride / matrix.outputs as u64;
        let run = piece.outputs.len() * element as usize;
        for (input, out) in (0..).zip(buffer.chunks_exact_mut(run)) {
            fill(matrix, &matrix.data, input * stride + piece.outputs.start as u64 * element, out, control)?;
        }
    }
    let factors = match &matrix.scales {
        None => None,
        Some(scales) => {
            let mut stored = vec![0; scales.data.len() as usize];
            fill(matrix, &scales.data, 0, &mut stored, control)?;
            let mut numbers = vec![0.0; stored.len() / scales.dtype.block_bytes() as usize];
            quant::dequantise(scales.dtype, &stored, &mut numbers)
                .map_err(|source| ConvertError::Elements { tensor: matrix.name.clone(), source })?;
            Some(Factors::new(matrix, scales, numbers))
        }
    };
    Ok(Read { piece, data: buffer, factors })
}

/// Reads from `offset` of `blob`, and looks up between parts whether it should stop.
fn fill(matrix: &Matrix, blob: &Blob, offset: u64, out: &mut [u8], control: &Control) -> Result<()> {
    const PART: usize = 16 << 20;
    for (part, out) in (0..).zip(out.chunks_mut(PART)) {
        control.check()?;
        blob.read_at(offset + part * PART as u64, out)
            .map_err(|source| ConvertError::Read { name: matrix.name.clone(), source })?;
    }
    Ok(())
}

/// Turns what was read into rows of `tensor`, which begin at `offset` of its file.
fn turn(
    loaded: &Loaded<'_>,
    tensor: &Tensor,
    offset: u64,
    pool: &dyn Pool,
    scratches: &Mutex<Vec<Scratch>>,
    sink: &dyn Sink,
    control: &Control,
) -> Result<Int8Fidelity> {
    let outputs = &loaded.outputs;
    let rows = (SLAB / loaded.matrix.inputs).max(1);
    // Whole lines of the cache where outputs lie together.
    let rows = if rows > LINE { rows - rows % LINE } else { rows };
    let state = Mutex::new((Int8Fidelity::default(), None::<Error>));
    let slab = |index: usize| {
        let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
        if lock().1.is_some() {
            return;
        }
        let first = outputs.start + index * rows;
        let slab = first..outputs.end.min(first + rows);
        let place = offset + tensor.row_bytes * (index * rows) as u64;
        let mut scratch = scratches.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let made = control.check().and_then(|()| {
            let fidelity = loaded.write(slab.clone(), tensor.dtype, &mut scratch)?;
            sink.put(tensor.file, place, &scratch.bytes)?;
            if sink.measures() {
                sink.deviates(tensor.dtype, loaded.deviation(slab, tensor.dtype, &mut scratch)?);
            }
            Ok(fidelity)
        });
        scratches.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        match made {
            Ok(fidelity) => lock().0.add(fidelity),
            Err(error) => _ = lock().1.get_or_insert(error),
        }
    };
    pool.run(outputs.len().div_ceil(rows), &slab);
    match state.into_inner().unwrap_or_else(PoisonError::into_inner) {
        (fidelity, None) => Ok(fidelity),
        (_, Some(error)) => Err(error),
    }
}
