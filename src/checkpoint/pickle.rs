//! Reads where the arrays of a pickled tensor lie, without running the pickle. Uses `source` and `tensor`.
//!
//! A pickle is a program for a small stack machine that may name any Python function. This machine knows the opcodes and the
//! five globals of xAI's checkpoints and refuses everything else. It keeps numbers, short strings and *ranges* of the file: the
//! bytes of an array are stepped over, never read.
//!
//! Values are immutable. Python fills an object in place after memoising it; here the filled object replaces it on the
//! stack and the memo keeps the empty one. No checkpoint refers back to such an object, and a file that does is refused.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::io;
use std::ops::Range;
use std::rc::Rc;

use crate::error::{Classify, ErrorKind};
use crate::source::Source;
use crate::tensor::DType;

/// Opcodes a file may have; a published one has 131. Each adds at most one value to the stack and one to the memo,
/// so this bounds memory, nesting and time.
pub const MAX_OPCODES: usize = 512;

/// Bytes read at once: more than any header of a checkpoint takes.
const WINDOW: u64 = 512;

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A `numpy.ndarray`.
    Plain(Array),
    /// A `QuantizedWeight8bit`.
    Quantised {
        /// The weights.
        weight: Array,
        /// What they are multiplied by.
        scales: Array,
    },
}

/// A stored array, in C order and little-endian. Its payload lies inside the file and is as long as type and shape say.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Type of its elements.
    pub dtype: DType,
    /// Its shape, slowest axis first; no axis is empty.
    pub shape: Vec<u64>,
    /// Where its bytes lie in the file.
    pub payload: Range<u64>,
}

/// Why a file is not a pickled tensor. `offset` is the byte of the file where reading stopped: the opcode at fault, or the
/// place where bytes are missing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// The source could not be read.
    #[error("byte {offset}: reading failed")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file ends too early, or a length in it is a lie.
    #[error("byte {offset}: {wanted} bytes should follow, but the file ends at byte {len}")]
    PastEnd {
        /// Where they should start.
        offset: u64,
        /// How many.
        wanted: u64,
        /// Length of the file.
        len: u64,
    },
    /// An opcode that no checkpoint needs.
    #[error("byte {offset}: opcode {found:#04x} is not allowed")]
    Opcode {
        /// Where.
        offset: u64,
        /// The opcode.
        found: u8,
    },
    /// A function or class that no checkpoint needs.
    #[error("byte {offset}: global {found:?} is not allowed")]
    Global {
        /// Where.
        offset: u64,
        /// Module and name.
        found: String,
    },
    /// More than [`MAX_OPCODES`].
    #[error("byte {offset}: more than {MAX_OPCODES} opcodes")]
    TooLong {
        /// Where the first one too many stands.
        offset: u64,
    },
    /// A value that has no place here.
    #[error("byte {offset}: found {found}, expected {expected}")]
    Unexpected {
        /// Where.
        offset: u64,
        /// The value.
        found: String,
        /// What belongs here.
        expected: &'static str,
    },
    /// The payload has another length than type and shape ask for.
    #[error("byte {offset}: found {found} bytes, expected {expected} for {dtype} {shape:?}")]
    Payload {
        /// Where the payload starts.
        offset: u64,
        /// Its length.
        found: u64,
        /// Its length by type and shape.
        expected: u64,
        /// Type of the elements.
        dtype: DType,
        /// Shape of the array.
        shape: Vec<u64>,
    },
    /// The file goes on after the pickle has ended.
    #[error("byte {offset}: found {found} bytes after the end of the pickle")]
    Trailing {
        /// Where they start.
        offset: u64,
        /// How many.
        found: u64,
    },
}

impl Classify for PickleError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } => ErrorKind::Resource,
            _ => ErrorKind::Format,
        }
    }
}

/// Reads the headers of the tensor in `source`.
///
/// Takes two or three reads of at most 512 bytes, whatever the size of the tensor, and about as much memory.
///
/// # Errors
/// [`PickleError`] with the place in the file.
pub fn read(source: &dyn Source) -> Result<Content, PickleError> {
    let mut machine = Machine {
        input: Input { source, len: source.len(), position: 0, window: Vec::new(), window_start: 0 },
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
    };
    machine.protocol()?;
    for _ in 0..MAX_OPCODES {
        if let Some(content) = machine.step()? {
            return Ok(content);
        }
    }
    Err(PickleError::TooLong { offset: machine.input.position })
}

/// The opcodes of protocol 4 that checkpoints are written with, by the names Python's `pickletools` gives them.
mod opcode {
    pub(super) const PROTO: u8 = 0x80;
    pub(super) const FRAME: u8 = 0x95;
    pub(super) const STOP: u8 = b'.';
    pub(super) const MARK: u8 = b'(';
    pub(super) const MEMOIZE: u8 = 0x94;
    pub(super) const BINGET: u8 = b'h';
    pub(super) const LONG_BINGET: u8 = b'j';
    pub(super) const NONE: u8 = b'N';
    pub(super) const NEWTRUE: u8 = 0x88;
    pub(super) const NEWFALSE: u8 = 0x89;
    pub(super) const BININT: u8 = b'J';
    pub(super) const BININT1: u8 = b'K';
    pub(super) const BININT2: u8 = b'M';
    pub(super) const SHORT_BINUNICODE: u8 = 0x8c;
    pub(super) const SHORT_BINBYTES: u8 = b'C';
    pub(super) const BINBYTES: u8 = b'B';
    pub(super) const BINBYTES8: u8 = 0x8e;
    pub(super) const EMPTY_TUPLE: u8 = b')';
    pub(super) const TUPLE1: u8 = 0x85;
    pub(super) const TUPLE2: u8 = 0x86;
    pub(super) const TUPLE3: u8 = 0x87;
    pub(super) const TUPLE: u8 = b't';
    pub(super) const EMPTY_DICT: u8 = b'}';
    pub(super) const SETITEMS: u8 = b'u';
    pub(super) const STACK_GLOBAL: u8 = 0x93;
    pub(super) const NEWOBJ: u8 = 0x81;
    pub(super) const REDUCE: u8 = b'R';
    pub(super) const BUILD: u8 = b'b';
}

/// The functions and classes that a checkpoint may name.
#[derive(Clone, Copy, Debug)]
enum Global {
    QuantizedWeight8bit,
    Reconstruct,
    NdArray,
    DType,
    BFloat16,
}

#[derive(Clone, Debug)]
enum Value {
    None,
    Bool(bool),
    Int(i32),
    Text(Rc<str>),
    /// A byte string, by its place in the file.
    Bytes(Range<u64>),
    Tuple(Rc<[Value]>),
    /// Keys and values in turn.
    Dict(Rc<[Value]>),
    Global(Global),
    DType(DType),
    /// What `_reconstruct` returns: an array before BUILD.
    EmptyArray,
    Array(Rc<Array>),
    /// A `QuantizedWeight8bit` before BUILD.
    EmptyQuantised,
    Quantised(Rc<[Array; 2]>), // weight, scales
}

impl Value {
    /// For messages; never long, and one level deep.
    fn describe(&self) -> String {
        match self {
            Self::Tuple(items) if items.len() <= 8 => {
                let items: Vec<String> = items.iter().map(Self::describe_item).collect();
                format!("({})", items.join(", "))
            }
            other => other.describe_item(),
        }
    }

    fn describe_item(&self) -> String {
        match self {
            Self::None => "None".to_owned(),
            Self::Bool(true) => "True".to_owned(),
            Self::Bool(false) => "False".to_owned(),
            Self::Int(number) => number.to_string(),
            Self::Text(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
            Self::Bytes(range) => format!("{} bytes", range.end.saturating_sub(range.start)),
            Self::Tuple(items) => format!("a tuple of {}", items.len()),
            Self::Dict(items) => format!("a dict of {}", items.len().div_ceil(2)),
            Self::Global(global) => format!("the global {global:?}"),
            Self::DType(dtype) => format!("the dtype {dtype}"),
            Self::EmptyArray | Self::EmptyQuantised => "an object without contents".to_owned(),
            Self::Array(array) => format!("an array {} {:?}", array.dtype, array.shape),
            Self::Quantised(_) => "a quantised weight".to_owned(),
        }
    }
}

struct Machine<'a> {
    input: Input<'a>,
    /// Where the opcode being run stands.
    at: u64,
    stack: Vec<Value>,
    /// Stack heights at the open MARKs.
    marks: Vec<usize>,
    memo: Vec<Value>,
}

impl Machine<'_> {
    fn protocol(&mut self) -> Result<(), PickleError> {
        match self.input.array()? {
            [opcode::PROTO, 4] => Ok(()),
            [opcode::PROTO, other] => Err(self.unexpected(format!("pickle protocol {other}"), "protocol 4")),
            [a, b] => Err(self.unexpected(format!("{a:#04x} {b:#04x}"), "0x80 0x04, a pickle of protocol 4")),
        }
    }

    /// Runs one opcode; the content, if it was the last.
    fn step(&mut self) -> Result<Option<Content>, PickleError> {
        self.at = self.input.position;
        let [opcode] = self.input.array()?;
        let value = match opcode {
            opcode::STOP => return self.stop().map(Some),
            opcode::FRAME => {
                // Frames only group what follows for faster reading.
                let length = u64::from_le_bytes(self.input.array()?);
                self.input.end_of(length)?;
                return Ok(None);
            }
            opcode::MARK => {
                self.marks.push(self.stack.len());
                return Ok(None);
            }
            opcode::MEMOIZE => {
                let top = self.pop()?;
                self.memo.push(top.clone());
                top
            }
            opcode::BINGET => {
                let [index] = self.input.array()?;
                self.recall(u32::from(index))?
            }
            opcode::LONG_BINGET => {
                let index = u32::from_le_bytes(self.input.array()?);
                self.recall(index)?
            }
            opcode::NONE => Value::None,
            opcode::NEWTRUE => Value::Bool(true),
            opcode::NEWFALSE => Value::Bool(false),
            opcode::BININT => Value::Int(i32::from_le_bytes(self.input.array()?)),
            opcode::BININT1 => Value::Int(u8::from_le_bytes(self.input.array()?).into()),
            opcode::BININT2 => Value::Int(u16::from_le_bytes(self.input.array()?).into()),
            opcode::SHORT_BINUNICODE => self.text()?,
            opcode::SHORT_BINBYTES => {
                let [length] = self.input.array()?;
                Value::Bytes(self.input.skip(u64::from(length))?)
            }
            opcode::BINBYTES => {
                let length = u32::from_le_bytes(self.input.array()?);
                Value::Bytes(self.input.skip(u64::from(length))?)
            }
            opcode::BINBYTES8 => {
                let length = u64::from_le_bytes(self.input.array()?);
                Value::Bytes(self.input.skip(length)?)
            }
            opcode::EMPTY_TUPLE => Value::Tuple(Rc::new([])),
            opcode::TUPLE1 => Value::Tuple(Rc::new([self.pop()?])),
            opcode::TUPLE2 => {
                let [b, a] = [self.pop()?, self.pop()?];
                Value::Tuple(Rc::new([a, b]))
            }
            opcode::TUPLE3 => {
                let [c, b, a] = [self.pop()?, self.pop()?, self.pop()?];
                Value::Tuple(Rc::new([a, b, c]))
            }
            opcode::TUPLE => Value::Tuple(self.pop_to_mark()?),
            opcode::EMPTY_DICT => Value::Dict(Rc::new([])),
            opcode::SETITEMS => {
                let items = self.pop_to_mark()?;
                match self.pop()? {
                    Value::Dict(old) if old.is_empty() => Value::Dict(items),
                    other => return Err(self.unexpected(other.describe(), "an empty dict")),
                }
            }
            opcode::STACK_GLOBAL => {
                let [name, module] = [self.pop()?, self.pop()?];
                self.global(&module, &name)?
            }
            opcode::NEWOBJ | opcode::REDUCE => {
                let [arguments, callable] = [self.pop()?, self.pop()?];
                self.call(opcode, &callable, &arguments)?
            }
            opcode::BUILD => {
                let [state, object] = [self.pop()?, self.pop()?];
                self.build(&object, &state)?
            }
            found => return Err(PickleError::Opcode { offset: self.at, found }),
        };
        self.stack.push(value);
        Ok(None)
    }

    fn stop(&mut self) -> Result<Content, PickleError> {
        let result = self.pop()?;
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return Err(self.unexpected("unused values".to_owned(), "one value at the end of the pickle"));
        }
        let content = match result {
            Value::Array(array) => Content::Plain(Rc::unwrap_or_clone(array)),
            Value::Quantised(pair) => {
                let [weight, scales] = Rc::unwrap_or_clone(pair);
                Content::Quantised { weight, scales }
            }
            other => return Err(self.unexpected(other.describe(), "an array or a quantised weight")),
        };
        match self.input.len.saturating_sub(self.input.position) {
            0 => Ok(content),
            found => Err(PickleError::Trailing { offset: self.input.position, found }),
        }
    }

    fn pop(&mut self) -> Result<Value, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.pop() {
            Some(value) if self.stack.len() >= floor => Ok(value),
            _ => Err(self.unexpected("an empty stack".to_owned(), "a value")),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Rc<[Value]>, PickleError> {
        match self.marks.pop() {
            Some(height) if height <= self.stack.len() => Ok(self.stack.drain(height..).collect()),
            _ => Err(self.unexpected("no mark".to_owned(), "a mark")),
        }
    }

    fn recall(&self, index: u32) -> Result<Value, PickleError> {
        let value = usize::try_from(index).ok().and_then(|index| self.memo.get(index));
        value.cloned().ok_or_else(|| {
            let found = format!("a reference to memo entry {index} of {}", self.memo.len());
            self.unexpected(found, "an entry made before")
        })
    }

    fn text(&mut self) -> Result<Value, PickleError> {
        let [length] = self.input.array()?;
        let mut bytes = vec![0; usize::from(length)];
        self.input.read(&mut bytes)?;
        match str::from_utf8(&bytes) {
            Ok(text) => Ok(Value::Text(text.into())),
            Err(_) => Err(self.unexpected("a string of other bytes".to_owned(), "UTF-8")),
        }
    }

    fn global(&self, module: &Value, name: &Value) -> Result<Value, PickleError> {
        let (Value::Text(module), Value::Text(name)) = (module, name) else {
            let found = format!("{} and {}", module.describe(), name.describe());
            return Err(self.unexpected(found, "the names of a module and of a global"));
        };
        Ok(Value::Global(match (&**module, &**name) {
            ("__main__", "QuantizedWeight8bit") => Global::QuantizedWeight8bit,
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Global::Reconstruct,
            ("numpy", "ndarray") => Global::NdArray,
            ("numpy", "dtype") => Global::DType,
            ("ml_dtypes", "bfloat16") => Global::BFloat16,
            _ => return Err(PickleError::Global { offset: self.at, found: format!("{module}.{name}") }),
        }))
    }

    /// The three calls that checkpoints consist of, understood instead of made.
    fn call(&self, opcode: u8, callable: &Value, arguments: &Value) -> Result<Value, PickleError> {
        let (Value::Global(global), Value::Tuple(items)) = (callable, arguments) else {
            let found = format!("{} and {}", callable.describe(), arguments.describe());
            return Err(self.unexpected(found, "a global and its arguments"));
        };
        match (opcode, global, &**items) {
            (opcode::NEWOBJ, Global::QuantizedWeight8bit, []) => Ok(Value::EmptyQuantised),
            (
                opcode::REDUCE,
                Global::Reconstruct,
                [Value::Global(Global::NdArray), Value::Tuple(shape), Value::Bytes(_)],
            ) if matches!(**shape, [Value::Int(0)]) => Ok(Value::EmptyArray),
            (opcode::REDUCE, Global::DType, [name, Value::Bool(false), Value::Bool(true)]) => match name {
                Value::Text(name) if &**name == "i1" => Ok(Value::DType(DType::I8)),
                Value::Text(name) if &**name == "f4" => Ok(Value::DType(DType::F32)),
                Value::Global(Global::BFloat16) => Ok(Value::DType(DType::BF16)),
                other => {
                    Err(self.unexpected(format!("the dtype {}", other.describe()), "i1, f4 or bfloat16"))
                }
            },
            _ => {
                let found = format!("{global:?} called with {}", arguments.describe());
                Err(self.unexpected(found, "a call that makes an array, a dtype or a quantised weight"))
            }
        }
    }

    fn build(&self, object: &Value, state: &Value) -> Result<Value, PickleError> {
        match (object, state) {
            (Value::DType(dtype), Value::Tuple(state)) => self.dtype(*dtype, state),
            (Value::EmptyArray, Value::Tuple(state)) => self.array(state),
            (Value::EmptyQuantised, Value::Dict(state)) => self.quantised(state),
            _ => {
                let found = format!("{} with the state {}", object.describe(), state.describe());
                Err(self.unexpected(found, "a dtype, an array or a quantised weight with its state"))
            }
        }
    }

    /// State of a dtype: version, byte order, no sub-dtype, no names, no fields, size, alignment, flags.
    fn dtype(&self, dtype: DType, state: &[Value]) -> Result<Value, PickleError> {
        let [Value::Int(3), order, Value::None, Value::None, Value::None, Value::Int(size), _, _] = state
        else {
            let found = Value::Tuple(state.into()).describe();
            return Err(self.unexpected(found, "the state of a plain dtype"));
        };
        if !matches!(order, Value::Text(order) if matches!(&**order, "<" | "|")) {
            let found = format!("byte order {}", order.describe());
            return Err(self.unexpected(found, "\"<\" (little-endian) or \"|\" (single bytes)"));
        }
        // Built-in types leave their size out.
        if *size != -1 && u64::try_from(*size) != Ok(dtype.block_bytes()) {
            return Err(self.unexpected(format!("{dtype} of {size} bytes"), "the size of the type"));
        }
        Ok(Value::DType(dtype))
    }

    /// State of an array: version, shape, dtype, whether in Fortran order, bytes.
    fn array(&self, state: &[Value]) -> Result<Value, PickleError> {
        let [
            Value::Int(1),
            Value::Tuple(axes),
            Value::DType(dtype),
            Value::Bool(fortran),
            Value::Bytes(payload),
        ] = state
        else {
            let found = Value::Tuple(state.into()).describe();
            return Err(self.unexpected(found, "the state of an array: (1, shape, dtype, False, bytes)"));
        };
        if *fortran {
            return Err(self.unexpected("an array in Fortran order".to_owned(), "C order"));
        }
        let mut shape = Vec::with_capacity(axes.len());
        for axis in axes.iter() {
            match axis {
                Value::Int(length @ 1..) => shape.push(u64::from(length.unsigned_abs())),
                other => {
                    let found = format!("an axis of {}", other.describe());
                    return Err(self.unexpected(found, "a positive length"));
                }
            }
        }
        let elements = shape.iter().try_fold(1_u64, |product, &axis| product.checked_mul(axis));
        let Some(expected) = elements.and_then(|elements| dtype.bytes_of(elements)) else {
            let found = Value::Tuple(Rc::clone(axes)).describe();
            return Err(self.unexpected(format!("the shape {found}"), "fewer than 2^64 bytes"));
        };
        let found = payload.end.saturating_sub(payload.start);
        if found != expected {
            return Err(PickleError::Payload {
                offset: payload.start,
                found,
                expected,
                dtype: *dtype,
                shape,
            });
        }
        Ok(Value::Array(Rc::new(Array { dtype: *dtype, shape, payload: payload.clone() })))
    }

    fn quantised(&self, state: &[Value]) -> Result<Value, PickleError> {
        match state {
            [Value::Text(first), Value::Array(weight), Value::Text(second), Value::Array(scales)]
                if &**first == "weight" && &**second == "scales" =>
            {
                let pair = [Array::clone(weight), Array::clone(scales)];
                Ok(Value::Quantised(Rc::new(pair)))
            }
            _ => {
                let found = Value::Tuple(state.into()).describe();
                Err(self.unexpected(found, "arrays named \"weight\" and \"scales\""))
            }
        }
    }

    fn unexpected(&self, found: String, expected: &'static str) -> PickleError {
        PickleError::Unexpected { offset: self.at, found, expected }
    }
}

/// The file, read in small windows.
struct Input<'a> {
    source: &'a dyn Source,
    len: u64,
    position: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl Input<'_> {
    /// Where the next `wanted` bytes end, if they all exist.
    fn end_of(&self, wanted: u64) -> Result<u64, PickleError> {
        match self.position.checked_add(wanted) {
            Some(end) if end <= self.len => Ok(end),
            _ => Err(PickleError::PastEnd { offset: self.position, wanted, len: self.len }),
        }
    }

    /// Steps over bytes without reading them.
    fn skip(&mut self, length: u64) -> Result<Range<u64>, PickleError> {
        let end = self.end_of(length)?;
        let range = self.position..end;
        self.position = end;
        Ok(range)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads the next bytes; at most [`WINDOW`] of them.
    fn read(&mut self, out: &mut [u8]) -> Result<(), PickleError> {
        let range = self.skip(out.len() as u64)?;
        if self.in_window(&range).is_none() {
            let length = self.len.saturating_sub(range.start).min(WINDOW);
            self.window.resize(usize::try_from(length).unwrap_or(0), 0);
            self.window_start = range.start;
            self.source
                .read_at(range.start, &mut self.window)
                .map_err(|source| PickleError::Read { offset: range.start, source })?;
        }
        let Some(bytes) = self.in_window(&range) else {
            return Err(PickleError::PastEnd {
                offset: range.start,
                wanted: out.len() as u64,
                len: self.len,
            });
        };
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn in_window(&self, range: &Range<u64>) -> Option<&[u8]> {
        let start = usize::try_from(range.start.checked_sub(self.window_start)?).ok()?;
        let end = usize::try_from(range.end.checked_sub(self.window_start)?).ok()?;
        self.window.get(start..end)
    }
}
