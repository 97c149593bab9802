//! The keys and values in front of a file's tensors. Uses `input`.
//!
//! Values stay where they were read; what is asked for is understood when it is asked for, so nothing is known of keys that nobody
//! needs but that they are whole.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::BTreeMap;
use std::ops::Range;

use super::GgufError;
use super::input::Input;
use super::write::Value;

/// Arrays may stand in arrays this deep; no known writer nests them at all.
pub(super) const MAX_DEPTH: usize = 4;

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    /// By its number in a file, with its name and the bytes it takes if that is always the same.
    const TABLE: [(Self, &'static str, Option<u64>); 13] = [
        (Self::U8, "a u8", Some(1)),
        (Self::I8, "an i8", Some(1)),
        (Self::U16, "a u16", Some(2)),
        (Self::I16, "an i16", Some(2)),
        (Self::U32, "a u32", Some(4)),
        (Self::I32, "an i32", Some(4)),
        (Self::F32, "an f32", Some(4)),
        (Self::Bool, "a bool", Some(1)),
        (Self::String, "a string", None),
        (Self::Array, "an array", None),
        (Self::U64, "a u64", Some(8)),
        (Self::I64, "an i64", Some(8)),
        (Self::F64, "an f64", Some(8)),
    ];

    fn read(input: &mut Input<'_>, key: &str) -> Result<Self, GgufError> {
        let (offset, found) = (input.position(), input.u32()?);
        match Self::TABLE.get(found as usize) {
            Some((kind, ..)) => Ok(*kind),
            None => Err(GgufError::ValueType { offset, key: key.to_owned(), found }),
        }
    }

    /// Its number in a file.
    fn number(self) -> u32 {
        Self::TABLE.iter().zip(0..).find(|((kind, ..), _)| *kind == self).map_or(0, |(_, number)| number)
    }

    fn row(self) -> Option<&'static (Self, &'static str, Option<u64>)> {
        Self::TABLE.iter().find(|(kind, ..)| *kind == self)
    }

    fn name(self) -> &'static str {
        self.row().map_or("", |(_, name, _)| name)
    }

    fn size(self) -> Option<u64> {
        self.row().and_then(|(.., size)| *size)
    }
}

/// Where a value stands.
#[derive(Clone, Debug)]
struct Place {
    kind: Kind,
    /// Type and number of an array's elements.
    elements: Option<(Kind, u64)>,
    /// Where the bytes of the number, of the text or of the elements stand.
    bytes: Range<usize>,
}

impl Place {
    fn read(input: &mut Input<'_>, key: &str, kind: Kind, depth: usize) -> Result<Self, GgufError> {
        let mut elements = None;
        let bytes = match kind {
            Kind::String => {
                let len = input.u64()?;
                input.skip(len)?
            }
            Kind::Array => {
                let offset = input.position();
                let (kind, count) = (Kind::read(input, key)?, input.u64()?);
                elements = Some((kind, count));
                let start = input.position() as usize;
                match kind.size() {
                    Some(size) => _ = input.skip(count.saturating_mul(size))?,
                    None if depth == MAX_DEPTH => {
                        return Err(GgufError::Depth { offset, key: key.to_owned() });
                    }
                    // Each takes bytes of the file, however large the count is.
                    None => (0..count)
                        .try_for_each(|_| Self::read(input, key, kind, depth.saturating_add(1)).map(drop))?,
                }
                start..input.position() as usize
            }
            fixed => input.skip(fixed.size().unwrap_or(0))?,
        };
        Ok(Self { kind, elements, bytes })
    }

    /// What it is, for messages.
    fn describe(&self) -> String {
        match self.elements {
            Some((kind, count)) => format!("an array of {count}, each {}", kind.name()),
            None => self.kind.name().to_owned(),
        }
    }
}

/// All keys of a file and their values.
pub(super) struct Metadata {
    values: BTreeMap<String, Place>,
    /// The start of the file, which the values lie in.
    bytes: Vec<u8>,
}

/// Reads `count` keys and where their values are.
pub(super) fn read(input: &mut Input<'_>, count: u64) -> Result<Keys, GgufError> {
    let mut values = BTreeMap::new();
    for _ in 0..count {
        let key = input.name()?;
        let kind = Kind::read(input, &key)?;
        let value = Place::read(input, &key, kind, 0)?;
        if values.contains_key(&key) {
            return Err(GgufError::Duplicate { what: "key", name: key });
        }
        values.insert(key, value);
    }
    Ok(Keys(values))
}

/// Keys, and where their values are in the bytes that were read.
pub(super) struct Keys(BTreeMap<String, Place>);

impl Keys {
    /// With the start of the file, which they were read from.
    pub(super) fn with(self, bytes: Vec<u8>) -> Metadata {
        Metadata { values: self.0, bytes }
    }
}

impl Metadata {
    /// Every key with its value as a file holds it.
    pub(super) fn stored(&self) -> impl Iterator<Item = (&str, Value)> {
        self.values.iter().filter_map(|(key, place)| {
            let bytes = self.bytes.get(place.bytes.clone())?;
            let start = match (place.kind, place.elements) {
                (Kind::Array, Some((kind, count))) => {
                    [&kind.number().to_le_bytes()[..], &count.to_le_bytes()].concat()
                }
                (Kind::String, _) => (bytes.len() as u64).to_le_bytes().to_vec(),
                _ => Vec::new(),
            };
            Some((&**key, Value::stored(place.kind.number(), &[&start, bytes].concat())))
        })
    }

    /// A whole number that is not negative, of whatever integer type.
    pub(super) fn integer(&self, key: &str) -> Result<Option<u64>, GgufError> {
        let expected = "a whole number";
        self.get(key, expected, |kind, bytes| match kind {
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => unsigned(bytes),
            Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64 => unsigned(bytes).filter(|_| !negative(bytes)),
            _ => None,
        })
    }

    /// A token id.
    pub(super) fn token(&self, key: &str) -> Result<Option<u32>, GgufError> {
        let id = |found: u64| u32::try_from(found).map_err(|_| GgufError::value(key, found, "a token"));
        self.integer(key)?.map(id).transpose()
    }

    /// A number with a fraction.
    pub(super) fn float(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.get(key, "an f32", |kind, bytes| match kind {
            Kind::F32 => bytes.try_into().ok().map(f32::from_le_bytes),
            Kind::F64 => bytes.try_into().ok().map(|bytes| f64::from_le_bytes(bytes) as f32),
            _ => None,
        })
    }

    /// Yes or no.
    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.get(key, "true or false", |kind, bytes| match (kind, bytes) {
            (Kind::Bool, [0]) => Some(false),
            (Kind::Bool, [1]) => Some(true),
            _ => None,
        })
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.get(key, "a text in UTF-8", |kind, bytes| match kind {
            Kind::String => str::from_utf8(bytes).ok(),
            _ => None,
        })
    }

    /// The bytes of an array of texts, one after the other.
    pub(super) fn texts(&self, key: &str) -> Result<Option<impl ExactSizeIterator<Item = &[u8]>>, GgufError> {
        let found = self.array(key, "an array of strings", |kind| kind == Kind::String)?;
        Ok(found.map(|(count, bytes)| Texts { left: count, bytes }))
    }

    /// An array of f32.
    pub(super) fn floats(&self, key: &str) -> Result<Option<impl ExactSizeIterator<Item = f32>>, GgufError> {
        let found = self.array(key, "an array of f32", |kind| kind == Kind::F32)?;
        let chunks = found.map(|(_, bytes)| bytes.as_chunks().0);
        Ok(chunks.map(|chunks| chunks.iter().map(|chunk| f32::from_le_bytes(*chunk))))
    }

    /// An array of i32 or u32, as the 32 bits they have.
    pub(super) fn words(&self, key: &str) -> Result<Option<impl ExactSizeIterator<Item = u32>>, GgufError> {
        let word = |kind| matches!(kind, Kind::I32 | Kind::U32);
        let found = self.array(key, "an array of i32", word)?;
        let chunks = found.map(|(_, bytes)| bytes.as_chunks().0);
        Ok(chunks.map(|chunks| chunks.iter().map(|chunk| u32::from_le_bytes(*chunk))))
    }

    /// What `understand` makes of the value of `key`, which has to be `expected`; `None` if there is no such key.
    fn get<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        understand: impl FnOnce(Kind, &'a [u8]) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let understood = self.bytes.get(value.bytes.clone()).and_then(|bytes| understand(value.kind, bytes));
        match understood {
            Some(understood) => Ok(Some(understood)),
            None => Err(self.unfit(key, value, expected)),
        }
    }

    /// Number and bytes of the elements of an array whose type `fits`.
    fn array(
        &self,
        key: &str,
        expected: &str,
        fits: impl FnOnce(Kind) -> bool,
    ) -> Result<Option<(usize, &[u8])>, GgufError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        if let Some((kind, count)) = value.elements
            && fits(kind)
            && let Some(bytes) = self.bytes.get(value.bytes.clone())
            && let Ok(count) = usize::try_from(count)
        {
            return Ok(Some((count, bytes)));
        }
        Err(self.unfit(key, value, expected))
    }

    fn unfit(&self, key: &str, value: &Place, expected: &str) -> GgufError {
        let bytes = self.bytes.get(value.bytes.clone()).unwrap_or_default();
        let found = match (value.kind, bytes) {
            (Kind::Bool, [byte]) => format!("a bool of {byte}"),
            (Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64, bytes) if negative(bytes) => "negative".to_owned(),
            (Kind::String, bytes) if str::from_utf8(bytes).is_err() => "a string of other bytes".to_owned(),
            _ => value.describe(),
        };
        GgufError::Value { key: key.to_owned(), found, expected: expected.to_owned() }
    }
}

/// A little-endian number of up to 64 bits.
fn unsigned(bytes: &[u8]) -> Option<u64> {
    let mut number = [0; 8];
    number.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(u64::from_le_bytes(number))
}

/// Whether a little-endian number has its sign set.
fn negative(bytes: &[u8]) -> bool {
    bytes.last().is_some_and(|byte| byte & 0x80 != 0)
}

/// The strings of an array, which is known to be whole.
struct Texts<'a> {
    left: usize,
    bytes: &'a [u8],
}

impl<'a> Iterator for Texts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let (len, rest) = self.bytes.split_first_chunk()?;
        let (text, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        self.bytes = rest;
        Some(text)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Texts<'_> {}
