//! Tokenizers, and text from tokens as they come. Uses `pointer`.

use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::{Arc, Mutex, OnceLock};

use super::error::{Failure, grok1_error, guard, quiet};
use super::generation::{grok1_text, texts};
use super::pointer::{self, Versioned, c_string};
use super::status::grok1_status;
use crate::{PieceKind, TextStream, Tokenizer, checkpoint};

/// Turns text into tokens and back, exactly as sentencepiece does. No begin- or end-of-sequence token is ever added.
///
/// Lifetime: until `grok1_tokenizer_free`; it shares what it needs with its model. Threads: immutable, may be used from any.
#[derive(Debug)]
pub struct grok1_tokenizer {
    tokenizer: Arc<Tokenizer>,
    /// The pieces for C, made when one is first asked for.
    pieces: OnceLock<Vec<CString>>, // [vocab]
}

impl grok1_tokenizer {
    pub(super) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, pieces: OnceLock::new() }
    }
}

/// No token, where one could be.
///
/// cbindgen:ignore
pub const GROK1_NO_TOKEN: u32 = u32::MAX;

/// Ordinary text.
pub const GROK1_TOKEN_NORMAL: i32 = 1;
/// Stands for what the vocabulary cannot write.
pub const GROK1_TOKEN_UNKNOWN: i32 = 2;
/// Never made from text, and invisible in it: `[EOS]`.
pub const GROK1_TOKEN_CONTROL: i32 = 3;
/// Recognised as a whole inside text.
pub const GROK1_TOKEN_USER_DEFINED: i32 = 4;
/// Present but not used.
pub const GROK1_TOKEN_UNUSED: i32 = 5;
/// One raw byte.
pub const GROK1_TOKEN_BYTE: i32 = 6;

/// Reads a SentencePiece `tokenizer.model`.
///
/// Returns `GROK1_ERR_FORMAT` if it is missing or none that Grok-1's kind of tokenizer can use, `GROK1_ERR_RESOURCE` if it cannot be read.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_tokenizer_open(
    path: *const c_char,
    tokenizer: *mut *mut grok1_tokenizer,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("tokenizer", tokenizer)?;
            let vocabulary = checkpoint::tokenizer(pointer::path("path", path)?)?;
            out.write(pointer::new(grok1_tokenizer::new(Arc::new(Tokenizer::new(vocabulary)?))));
            Ok(())
        })
    }
}

/// Encodes text of `len` bytes: the form that is called twice. `continuation` is 0 for text that begins a sequence; other text goes on
/// where text ended, and gets no space in front.
///
/// Returns `GROK1_ERR_UTF8`, and `GROK1_ERR_BUFFER` if the tokens do not fit.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_tokenizer_encode(
    tokenizer: *const grok1_tokenizer,
    text: *const c_char,
    len: usize,
    continuation: i32,
    tokens: *mut u32,
    capacity: usize,
    needed: *mut usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let buffer = pointer::buffer("tokens", tokens, capacity, needed)?;
            let handle = pointer::get("tokenizer", tokenizer)?;
            let text = pointer::text("text", text, len)?;
            buffer.put(&match continuation {
                0 => handle.tokenizer.encode(text),
                _ => handle.tokenizer.encode_continuation(text),
            })
        })
    }
}

/// Decodes `count` tokens that begin a text, to UTF-8 without NUL at its end: the form that is called twice. A byte that belongs to no
/// character becomes U+FFFD. For tokens as they come there is `grok1_text_stream`.
///
/// Returns `GROK1_ERR_ARGUMENT` for a token that is not there, `GROK1_ERR_BUFFER` if the text does not fit.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_tokenizer_decode(
    tokenizer: *const grok1_tokenizer,
    tokens: *const u32,
    count: usize,
    text: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let buffer = pointer::buffer("text", text.cast::<u8>(), capacity, needed)?;
            let handle = pointer::get("tokenizer", tokenizer)?;
            let tokens = pointer::slice("tokens", tokens, count)?;
            buffer.put(handle.tokenizer.decode(tokens)?.as_bytes())
        })
    }
}

/// The bytes that a token adds to text, which for a byte may be a part of a character, and for control tokens are none: the form that is
/// called twice.
///
/// Returns `GROK1_ERR_ARGUMENT` for a token that is not there, `GROK1_ERR_BUFFER` if the bytes do not fit.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_tokenizer_token_bytes(
    tokenizer: *const grok1_tokenizer,
    token: u32,
    bytes: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let buffer = pointer::buffer("bytes", bytes.cast::<u8>(), capacity, needed)?;
            let handle = pointer::get("tokenizer", tokenizer)?;
            let bytes = handle.tokenizer.token_bytes(token).ok_or_else(|| {
                let count = handle.tokenizer.len();
                Failure::argument(format!("token {token} is outside the vocabulary of {count}"))
            })?;
            buffer.put(&bytes)
        })
    }
}

/// The piece of a token as stored, NUL-terminated: U+2581 stands for a space, bytes are written `<0x0A>`. NULL if there is no such token,
/// and for NULL. Lives as long as the tokenizer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_tokenizer_piece(
    tokenizer: *const grok1_tokenizer,
    token: u32,
) -> *const c_char {
    // SAFETY: as the header asks.
    quiet(ptr::null(), || unsafe {
        let Some(handle) = pointer::optional(tokenizer) else { return ptr::null() };
        let pieces = handle.pieces.get_or_init(|| {
            let ids = 0..handle.tokenizer.len() as u32;
            ids.map(|id| c_string(handle.tokenizer.piece(id).unwrap_or_default())).collect()
        });
        pieces.get(token as usize).map_or(ptr::null(), |piece| piece.as_ptr())
    })
}

/// What a token is for: `GROK1_TOKEN_...`; 0 if there is no such token, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_tokenizer_kind(tokenizer: *const grok1_tokenizer, token: u32) -> i32 {
    // SAFETY: as the header asks.
    quiet(0, || unsafe {
        let kind = pointer::optional(tokenizer).and_then(|handle| handle.tokenizer.kind(token));
        kind.map_or(0, |kind| match kind {
            PieceKind::Normal => GROK1_TOKEN_NORMAL,
            PieceKind::Unknown => GROK1_TOKEN_UNKNOWN,
            PieceKind::Control => GROK1_TOKEN_CONTROL,
            PieceKind::UserDefined => GROK1_TOKEN_USER_DEFINED,
            PieceKind::Unused => GROK1_TOKEN_UNUSED,
            PieceKind::Byte => GROK1_TOKEN_BYTE,
        })
    })
}

/// The token of a piece as stored, of `len` bytes, special ones (`[EOS]`) included; `GROK1_NO_TOKEN` if there is none, if it is not UTF-8,
/// and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_tokenizer_find(
    tokenizer: *const grok1_tokenizer,
    piece: *const c_char,
    len: usize,
) -> u32 {
    // SAFETY: as the header asks.
    quiet(GROK1_NO_TOKEN, || unsafe {
        let handle = pointer::optional(tokenizer);
        let piece = pointer::text("piece", piece, len).ok();
        handle.zip(piece).and_then(|(handle, piece)| handle.tokenizer.id_of(piece)).unwrap_or(GROK1_NO_TOKEN)
    })
}

/// A tokenizer, in short. Tokens that it does not have are `GROK1_NO_TOKEN`.
///
/// Lifetime and threads: it is the caller's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_tokenizer_info {
    /// The bytes that the caller said it has.
    pub struct_size: usize,
    /// Number of tokens.
    pub tokens: usize,
    /// The token for what nothing else can write.
    pub unk: u32,
    /// The begin-of-sequence token.
    pub bos: u32,
    /// The end-of-sequence token.
    pub eos: u32,
    /// The padding token.
    pub pad: u32,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_tokenizer_info {}

/// Fills `info`, which has `size` bytes (`sizeof *info`).
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_tokenizer_get_info(
    tokenizer: *const grok1_tokenizer,
    info: *mut grok1_tokenizer_info,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("info", info, size)?;
            let handle = pointer::get("tokenizer", tokenizer)?;
            let tokenizer = &handle.tokenizer;
            let [unk, bos, eos, pad] = [tokenizer.unk(), tokenizer.bos(), tokenizer.eos(), tokenizer.pad()]
                .map(|token| token.unwrap_or(GROK1_NO_TOKEN));
            out.put(grok1_tokenizer_info { struct_size: size, tokens: tokenizer.len(), unk, bos, eos, pad });
            Ok(())
        })
    }
}

/// Frees a tokenizer. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_tokenizer_free(tokenizer: *mut grok1_tokenizer) {
    // SAFETY: as the header asks.
    unsafe { pointer::free(tokenizer) }
}

/// Text from tokens as they come: whole characters, and nothing that may still turn out to be a stop string. Generations have their own.
///
/// Lifetime: until `grok1_text_stream_free`; it keeps its tokenizer alive. Threads: one at a time, a second one gets `GROK1_ERR_BUSY`.
#[derive(Debug)]
pub struct grok1_text_stream {
    stream: Mutex<TextStream>,
}

/// What a text stream has not met.
///
/// cbindgen:ignore
pub const GROK1_NO_STOP: usize = usize::MAX;

/// Makes a text stream that ends at any of the `n_stop` strings of `stop`. `continuation` is 0 for tokens that begin a text; others go on
/// where text ended, and keep their space.
///
/// Returns `GROK1_ERR_UTF8`, and `GROK1_ERR_ARGUMENT` for an empty stop string.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_text_stream_new(
    tokenizer: *const grok1_tokenizer,
    continuation: i32,
    stop: *const grok1_text,
    n_stop: usize,
    stream: *mut *mut grok1_text_stream,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("stream", stream)?;
            let tokenizer = Arc::clone(&pointer::get("tokenizer", tokenizer)?.tokenizer);
            let stop = texts("stop", stop, n_stop)?;
            let made = match continuation {
                0 => TextStream::new(tokenizer),
                _ => TextStream::continuing(tokenizer),
            };
            out.write(pointer::new(grok1_text_stream { stream: Mutex::new(made.stop(stop)?) }));
            Ok(())
        })
    }
}

/// Takes a token and gives the text that it makes certain, often none, in `*text`, which has `*len` bytes and stays until the stream is
/// used again. After a stop string there is none any more.
///
/// Returns `GROK1_ERR_ARGUMENT` for a token that is not there.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_text_stream_push(
    stream: *mut grok1_text_stream,
    token: u32,
    text: *mut *const c_char,
    len: *mut usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe { give(stream, text, len, error, |stream| Ok(stream.push(token)?)) }
}

/// Gives the text that was held back, when no more tokens come, as `grok1_text_stream_push` does: U+FFFD for each byte of an incomplete
/// character.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_text_stream_finish(
    stream: *mut grok1_text_stream,
    text: *mut *const c_char,
    len: *mut usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe { give(stream, text, len, error, |stream| Ok(stream.finish())) }
}

/// Gives text that a stream makes.
///
/// # Safety
/// As the header asks of its arguments.
unsafe fn give(
    stream: *mut grok1_text_stream,
    text: *mut *const c_char,
    len: *mut usize,
    error: *mut *mut grok1_error,
    make: impl FnOnce(&mut TextStream) -> Result<&str, Failure>,
) -> grok1_status {
    // SAFETY: as this function asks.
    unsafe {
        guard(error, || {
            let text_out = pointer::output("text", text);
            let len_out = pointer::output("len", len)?;
            let text_out = text_out?;
            let handle = pointer::get("stream", stream)?;
            let mut stream = pointer::lock("stream", &handle.stream)?;
            let made = make(&mut stream)?;
            text_out.write(made.as_ptr().cast());
            len_out.write(made.len());
            Ok(())
        })
    }
}

/// The stop string that ended the text, by its place among those given, from 0; `GROK1_NO_STOP` if none did, while another call uses the
/// stream, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_text_stream_stopped(stream: *const grok1_text_stream) -> usize {
    // SAFETY: as the header asks.
    quiet(GROK1_NO_STOP, || unsafe {
        let Some(handle) = pointer::optional(stream) else { return GROK1_NO_STOP };
        let stopped = pointer::lock("stream", &handle.stream).ok().and_then(|stream| stream.stopped());
        stopped.unwrap_or(GROK1_NO_STOP)
    })
}

/// Frees a text stream. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_text_stream_free(stream: *mut grok1_text_stream) {
    // SAFETY: as the header asks.
    unsafe { pointer::free(stream) }
}
