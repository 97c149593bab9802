//! The wire format of protocol buffers, read in place and written. Uses nothing.
//!
//! Nothing is allocated and no length is believed before it is checked, so any bytes at all may be given.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

/// The fields of one message that have not been read yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    rest: &'a [u8],
    /// Where `rest` starts in the file.
    at: usize,
}

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    /// Its number in the message's schema.
    pub(super) number: u64,
    value: Value<'a>,
    /// Where it starts in the file.
    at: usize,
}

#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Varint(u64),
    Fixed64,
    Bytes(Message<'a>),
    Fixed32([u8; 4]),
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The file ends inside a field.
    #[error("the field at byte {at} is cut off")]
    Truncated {
        /// Where the field starts.
        at: usize,
    },
    /// A length says more than there is.
    #[error("field {field} at byte {at} is said to be {length} bytes long, {left} remain")]
    Length {
        /// Where the field starts.
        at: usize,
        /// Its number.
        field: u64,
        /// The length as stored.
        length: u64,
        /// The bytes that are there.
        left: usize,
    },
    /// A variable-length number beyond 64 bits.
    #[error("the number in the field at byte {at} has more than 64 bits")]
    Varint {
        /// Where the field starts.
        at: usize,
    },
    /// A field number or a wire type that does not exist or that no current writer uses.
    #[error("byte {at} starts field {field} of wire type {wire_type}, which does not exist")]
    Key {
        /// Where the field starts.
        at: usize,
        /// Its number.
        field: u64,
        /// Its wire type.
        wire_type: u64,
    },
    /// A field of another type than its schema says.
    #[error("field {field} at byte {at} is not {expected}")]
    Type {
        /// Where the field starts.
        at: usize,
        /// Its number.
        field: u64,
        /// What it should be.
        expected: &'static str,
    },
}

impl<'a> Message<'a> {
    /// The message that fills a whole file.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, at: 0 }
    }

    /// The next field, `None` at the end. Not to be called again after an error.
    pub(super) fn next_field(&mut self) -> Result<Option<Field<'a>>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let at = self.at;
        let key = self.varint(at)?;
        let (number, wire_type) = (key >> 3, key & 7);
        let value = match (number, wire_type) {
            (1.., 0) => Value::Varint(self.varint(at)?),
            (1.., 1) => self.take(8).map(|_| Value::Fixed64).ok_or(WireError::Truncated { at })?,
            (1.., 2) => {
                let (length, left) = (self.varint(at)?, self.rest.len());
                let bytes = usize::try_from(length).ok().and_then(|length| self.take(length));
                Value::Bytes(bytes.ok_or(WireError::Length { at, field: number, length, left })?)
            }
            (1.., 5) => {
                let bytes = self.take(4).and_then(|bytes| bytes.rest.try_into().ok());
                Value::Fixed32(bytes.ok_or(WireError::Truncated { at })?)
            }
            _ => return Err(WireError::Key { at, field: number, wire_type }),
        };
        Ok(Some(Field { number, value, at }))
    }

    fn take(&mut self, length: usize) -> Option<Message<'a>> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        let taken = Message { rest: taken, at: self.at };
        *self = Message { rest, at: self.at.saturating_add(length) };
        Some(taken)
    }

    /// A number of the field that starts at `field_at`: seven bits a byte, lowest first.
    fn varint(&mut self, field_at: usize) -> Result<u64, WireError> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.take(1).and_then(|byte| byte.rest.first());
            let byte = u64::from(*byte.ok_or(WireError::Truncated { at: field_at })?);
            let bits = byte & 0x7f;
            let shifted = bits.unbounded_shl(shift);
            if shifted.unbounded_shr(shift) != bits {
                break;
            }
            value |= shifted;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Varint { at: field_at })
    }
}

impl<'a> Field<'a> {
    /// The value of a whole number, an enum or a bool.
    pub(super) fn varint(&self) -> Result<u64, WireError> {
        match self.value {
            Value::Varint(value) => Ok(value),
            _ => Err(self.is_not("a number")),
        }
    }

    /// The value of a float.
    pub(super) fn float(&self) -> Result<f32, WireError> {
        match self.value {
            Value::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err(self.is_not("a float")),
        }
    }

    /// The value of a string or of bytes.
    pub(super) fn bytes(&self) -> Result<&'a [u8], WireError> {
        match self.value {
            Value::Bytes(message) => Ok(message.rest),
            _ => Err(self.is_not("a string")),
        }
    }

    /// The value of a message.
    pub(super) fn message(&self) -> Result<Message<'a>, WireError> {
        match self.value {
            Value::Bytes(message) => Ok(message),
            _ => Err(self.is_not("a message")),
        }
    }

    fn is_not(&self, expected: &'static str) -> WireError {
        WireError::Type { at: self.at, field: self.number, expected }
    }
}

/// Appends a whole number, an enum or a bool.
pub(super) fn put_number(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, field << 3);
    put_varint(out, value);
}

/// Appends a float.
pub(super) fn put_float(out: &mut Vec<u8>, field: u64, value: f32) {
    put_varint(out, field << 3 | 5);
    out.extend(value.to_le_bytes());
}

/// Appends a string, bytes or a message.
pub(super) fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Seven bits a byte, lowest first.
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(bytes: &[u8]) -> Result<Option<Field<'_>>, WireError> {
        Message::new(bytes).next_field()
    }

    #[test]
    fn a_number_uses_up_to_ten_bytes_and_64_bits() {
        assert_eq!(first(&[0x08, 0xac, 0x02]).unwrap().unwrap().varint(), Ok(300));
        let minus_one = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(first(&minus_one).unwrap().unwrap().varint(), Ok(u64::MAX));
        let mut bits_65 = minus_one;
        bits_65[10] = 0x03;
        assert_eq!(first(&bits_65).unwrap_err(), WireError::Varint { at: 0 });
        assert_eq!(first(&[0xff; 12]).unwrap_err(), WireError::Varint { at: 0 });
    }

    #[test]
    fn positions_in_nested_messages_count_from_the_start_of_the_file() {
        let mut outer = Message::new(&[0x0a, 0x03, 0x12, 0x01, b'x', 0x08]);
        let mut inner = outer.next_field().unwrap().unwrap().message().unwrap();
        let field = inner.next_field().unwrap().unwrap();
        assert_eq!((field.number, field.bytes()), (2, Ok(&b"x"[..])));
        assert_eq!(field.varint(), Err(WireError::Type { at: 2, field: 2, expected: "a number" }));
        assert!(inner.next_field().unwrap().is_none());
        assert_eq!(outer.next_field().unwrap_err(), WireError::Truncated { at: 5 });
    }
}
