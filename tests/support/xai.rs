//! Writes checkpoints in xAI's format, as Python's pickle (protocol 4) and numpy do, to the byte.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use grok1::{DType, ModelConfig};

/// Bytes objects from this size on stand outside frames.
const FRAME_TARGET: u64 = 1 << 16;

/// FRAME and the length of the frame.
const FRAME_HEADER: u64 = 9;

/// The int8 matrices of a layer come with one row of scales or, where the reference cuts their rows, several.
const ROW_CUT: [usize; 2] = [1, 4];

/// An array to write; without `data` it is full of zeros.
#[derive(Clone)]
pub(crate) struct Array {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<u64>,
    pub(crate) data: Option<Vec<u8>>,
}

impl Array {
    pub(crate) fn zeros(dtype: DType, shape: &[u64]) -> Self {
        Self { dtype, shape: shape.to_vec(), data: None }
    }

    fn bytes(&self) -> u64 {
        self.dtype.block_bytes() * self.shape.iter().product::<u64>()
    }
}

/// A file as runs of bytes and holes.
pub(crate) struct Image {
    parts: Vec<Part>,
    /// Where the payloads start.
    pub(crate) payloads: Vec<u64>,
}

enum Part {
    Bytes(Vec<u8>),
    Zeros(u64),
}

impl Image {
    pub(crate) fn len(&self) -> u64 {
        self.parts.iter().map(Part::len).sum()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for part in &self.parts {
            match part {
                Part::Bytes(bytes) => out.extend_from_slice(bytes),
                Part::Zeros(count) => out.resize(out.len() + *count as usize, 0),
            }
        }
        out
    }

    /// Writes the file with holes for its zeros.
    pub(crate) fn write_sparse(&self, path: &Path) -> std::io::Result<()> {
        let mut file = File::create(path)?;
        for part in &self.parts {
            match part {
                Part::Bytes(bytes) => file.write_all(bytes)?,
                Part::Zeros(count) => _ = file.seek(SeekFrom::Current(*count as i64))?,
            }
        }
        file.set_len(self.len())
    }
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeros(count) => *count,
        }
    }
}

/// A pickled `numpy.ndarray`.
pub(crate) fn plain(array: &Array) -> Image {
    let mut pickle = Pickle::new();
    pickle.array(array);
    pickle.finish()
}

/// A pickled `QuantizedWeight8bit`.
pub(crate) fn quantised(weight: &Array, scales: &Array) -> Image {
    let mut pickle = Pickle::new();
    pickle.global("__main__", "QuantizedWeight8bit");
    pickle.op(b")\x81\x94}\x94("); // EMPTY_TUPLE NEWOBJ MEMOIZE EMPTY_DICT MEMOIZE MARK
    pickle.memoised += 2;
    for (name, array) in [("weight", weight), ("scales", scales)] {
        pickle.text(name);
        pickle.array(array);
    }
    pickle.op(b"ub"); // SETITEMS BUILD
    pickle.finish()
}

/// All files of a checkpoint full of zeros; the row-cut matrices have `groups` rows of scales.
pub(crate) fn files(config: &ModelConfig, groups: usize) -> Vec<(String, Image)> {
    let mut files = vec![
        plain(&Array::zeros(DType::F32, &[config.vocab as u64, config.width as u64])),
        plain(&Array::zeros(DType::F32, &[config.width as u64])),
    ];
    for _ in 0..config.layers {
        files.extend((0..12).map(|slot| layer_file(config, groups, slot)));
    }
    files.into_iter().enumerate().map(|(index, image)| (format!("tensor{index:05}_000"), image)).collect()
}

fn layer_file(config: &ModelConfig, groups: usize, slot: usize) -> Image {
    let (width, ffn) = (config.width as u64, config.ffn_width as u64);
    let (query, kv) = (config.query_width() as u64, config.kv_width() as u64);
    let experts = config.experts as u64;
    let rows = if ROW_CUT.contains(&slot) { groups as u64 } else { 1 };
    let matrix = |batch: &[u64], inputs: u64, outputs: u64| {
        let shape = |rows| [batch, &[rows, outputs]].concat();
        let weight = Array::zeros(DType::I8, &shape(inputs));
        quantised(&weight, &Array::zeros(DType::BF16, &shape(rows)))
    };
    match slot {
        0 | 2 => matrix(&[experts], width, ffn),
        1 => matrix(&[experts], ffn, width),
        3 | 6 => matrix(&[], width, kv),
        4 => matrix(&[], query, width),
        5 => matrix(&[], width, query),
        11 => plain(&Array::zeros(DType::F32, &[width, experts])),
        _ => plain(&Array::zeros(DType::F32, &[width])),
    }
}

struct Pickle {
    image: Image,
    frame: Vec<u8>,
    memo: BTreeMap<String, u8>,
    memoised: u8,
}

impl Pickle {
    fn new() -> Self {
        let image = Image { parts: vec![Part::Bytes(b"\x80\x04".to_vec())], payloads: Vec::new() };
        Self { image, frame: Vec::new(), memo: BTreeMap::new(), memoised: 0 }
    }

    fn end_frame(&mut self) {
        let frame = std::mem::take(&mut self.frame);
        let header = [&b"\x95"[..], &(frame.len() as u64).to_le_bytes()].concat();
        self.image.parts.push(Part::Bytes([header, frame].concat()));
    }

    fn finish(mut self) -> Image {
        self.op(b".");
        self.end_frame();
        self.image
    }

    fn op(&mut self, opcodes: &[u8]) {
        self.frame.extend_from_slice(opcodes);
    }

    fn memoise(&mut self) {
        self.op(b"\x94");
        self.memoised += 1;
    }

    /// What `write` makes, or a reference to it if it was made before under `key`.
    fn once(&mut self, key: String, write: impl FnOnce(&mut Self)) {
        if let Some(&index) = self.memo.get(&key) {
            self.op(&[b'h', index]);
        } else {
            write(self);
            self.memo.insert(key, self.memoised);
            self.memoise();
        }
    }

    fn text(&mut self, text: &str) {
        self.once(format!("{text:?}"), |pickle| {
            pickle.op(&[0x8c, text.len() as u8]);
            pickle.op(text.as_bytes());
        });
    }

    fn global(&mut self, module: &str, name: &str) {
        self.once(format!("{module}.{name}"), |pickle| {
            pickle.text(module);
            pickle.text(name);
            pickle.op(b"\x93");
        });
    }

    fn int(&mut self, number: u64) {
        match number {
            0..=0xff => self.op(&[b'K', number as u8]),
            0x100..=0xffff => self.op(&[b'M', number as u8, (number >> 8) as u8]),
            _ => {
                self.op(b"J");
                self.op(&(number as u32).to_le_bytes());
            }
        }
    }

    fn array(&mut self, array: &Array) {
        self.global("numpy.core.multiarray", "_reconstruct");
        self.global("numpy", "ndarray");
        self.op(b"K\x00\x85"); // (0,)
        self.memoise();
        self.once("b'b'".to_owned(), |pickle| pickle.op(b"C\x01b"));
        self.op(b"\x87"); // TUPLE3
        self.memoise();
        self.op(b"R"); // REDUCE
        self.memoise();
        self.op(b"(K\x01"); // MARK, version 1
        for &axis in &array.shape {
            self.int(axis);
        }
        self.op(&[0x84 + array.shape.len() as u8]); // TUPLE1 to TUPLE3
        self.memoise();
        self.dtype(array.dtype);
        self.op(b"\x89"); // not in Fortran order
        self.payload(array);
        self.op(b"t"); // TUPLE
        self.memoise();
        self.op(b"b"); // BUILD
    }

    fn dtype(&mut self, dtype: DType) {
        self.global("numpy", "dtype");
        match dtype {
            DType::I8 => self.text("i1"),
            DType::F32 => self.text("f4"),
            _ => self.global("ml_dtypes", "bfloat16"),
        }
        self.op(b"\x89\x88\x87"); // (.., False, True)
        self.memoise();
        self.op(b"R");
        self.memoise();
        self.op(b"(K\x03");
        self.text(if dtype == DType::I8 { "|" } else { "<" });
        self.op(b"NNN");
        match dtype {
            DType::BF16 => self.op(b"K\x02K\x02K\x40"),
            _ => self.op(b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"),
        }
        self.op(b"t");
        self.memoise();
        self.op(b"b");
    }

    fn payload(&mut self, array: &Array) {
        let bytes = array.bytes();
        let header = match bytes {
            0..=0xff => vec![b'C', bytes as u8],
            _ => [&b"B"[..], &(bytes as u32).to_le_bytes()].concat(),
        };
        let small = bytes < FRAME_TARGET;
        if small {
            self.op(&header);
            self.image.payloads.push(self.image.len() + FRAME_HEADER + self.frame.len() as u64);
            self.frame.extend(array.data.clone().unwrap_or_else(|| vec![0; bytes as usize]));
        } else {
            self.end_frame();
            self.image.parts.push(Part::Bytes(header));
            self.image.payloads.push(self.image.len());
            self.image.parts.push(array.data.clone().map_or(Part::Zeros(bytes), Part::Bytes));
        }
        self.memoise();
    }
}
