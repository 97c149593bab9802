//! Everything that is done with raw pointers from C. Uses `error`.
//!
//! What all these functions ask of their callers, the entry points, is what the header asks of its own: a pointer is NULL or points
//! to what its type and the length beside it say, valid for the call, and a handle is one that was made here and not freed. NULL,
//! lengths and alignment are checked; the rest cannot be.

use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use super::error::{Failure, quiet};
use super::status::*;

/// Gives a handle away; [`free`] takes it back.
pub(super) fn new<T>(value: T) -> *mut T {
    Arc::into_raw(Arc::new(value)).cast_mut()
}

/// Takes a handle back. What a running call uses lives until that ends.
///
/// # Safety
/// `handle` is NULL or from [`new`], and was not freed.
pub(super) unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        // SAFETY: as this function asks.
        quiet((), || drop(unsafe { Arc::from_raw(handle) }));
    }
}

/// A reference of this call's own to what a handle stands for.
///
/// # Safety
/// `handle` is NULL or from [`new`], and was not freed.
pub(super) unsafe fn get<T>(name: &str, handle: *const T) -> Result<Arc<T>, Failure> {
    // SAFETY: as this function asks.
    unsafe { optional(handle) }.ok_or_else(|| Failure::null(name))
}

/// As [`get`], with NULL for none.
///
/// # Safety
/// `handle` is NULL or from [`new`], and was not freed.
pub(super) unsafe fn optional<T>(handle: *const T) -> Option<Arc<T>> {
    if handle.is_null() {
        return None;
    }
    // SAFETY: as this function asks; the count is raised for the reference that is made.
    unsafe {
        Arc::increment_strong_count(handle);
        Some(Arc::from_raw(handle))
    }
}

/// Takes what one call may use at a time.
pub(super) fn lock<'a, T>(name: &str, mutex: &'a Mutex<T>) -> Result<MutexGuard<'a, T>, Failure> {
    match mutex.try_lock() {
        Ok(guard) => Ok(guard),
        Err(TryLockError::WouldBlock) => Err(in_use(name)),
        Err(TryLockError::Poisoned(_)) => {
            let message = format!("{name} took part in a call that a defect stopped; it can only be freed");
            Err(Failure::new(GROK1_ERR_POISONED, message))
        }
    }
}

/// As [`lock`], also after a defect: to look at what is left.
pub(super) fn lock_even_poisoned<'a, T>(
    name: &str,
    mutex: &'a Mutex<T>,
) -> Result<MutexGuard<'a, T>, Failure> {
    match mutex.try_lock() {
        Ok(guard) => Ok(guard),
        Err(TryLockError::WouldBlock) => Err(in_use(name)),
        Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
    }
}

fn in_use(name: &str) -> Failure {
    Failure::new(GROK1_ERR_BUSY, format!("{name} is in use by another call"))
}

/// An output, set to zero or NULL at once: a failed call leaves nothing to free.
///
/// # Safety
/// `out` is NULL or may be written; all bits zero are a `T`.
pub(super) unsafe fn output<T>(name: &str, out: *mut T) -> Result<NonNull<T>, Failure> {
    let out = NonNull::new(out).ok_or_else(|| Failure::null(name))?;
    aligned(name, out.as_ptr())?;
    // SAFETY: as this function asks.
    unsafe { out.write_bytes(0, 1) };
    Ok(out)
}

fn aligned<T>(name: &str, pointer: *const T) -> Result<(), Failure> {
    if pointer.is_aligned() { Ok(()) } else { Err(Failure::argument(format!("{name} is not aligned"))) }
}

/// `len` values from `pointer`, which may be NULL if there are none.
///
/// # Safety
/// `pointer` is NULL or has `len` values that nobody changes for `'a`.
pub(super) unsafe fn slice<'a, T>(name: &str, pointer: *const T, len: usize) -> Result<&'a [T], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(Failure::null(name));
    }
    aligned(name, pointer)?;
    if len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Failure::argument(format!("{name} cannot have a length of {len}")));
    }
    // SAFETY: not NULL, aligned, no longer than a slice may be; the rest as this function asks.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// Room for `len` values, which need not be anything yet.
///
/// # Safety
/// `pointer` is NULL or has room for `len` values that nobody else uses for `'a`.
pub(super) unsafe fn array<'a, T>(
    name: &str,
    pointer: *mut T,
    len: usize,
) -> Result<&'a mut [MaybeUninit<T>], Failure> {
    // SAFETY: as this function asks; the same checks.
    unsafe {
        let values = slice(name, pointer.cast_const().cast::<MaybeUninit<T>>(), len)?;
        Ok(match values {
            [] => &mut [],
            _ => std::slice::from_raw_parts_mut(pointer.cast(), len),
        })
    }
}

/// UTF-8 of `len` bytes; NUL is a byte like others.
///
/// # Safety
/// As [`slice`].
pub(super) unsafe fn text<'a>(name: &str, text: *const c_char, len: usize) -> Result<&'a str, Failure> {
    // SAFETY: as this function asks.
    utf8(name, unsafe { slice(name, text.cast::<u8>(), len)? })
}

/// NUL-terminated UTF-8: names.
///
/// # Safety
/// `name` is NULL or ends with NUL, and nobody changes it for `'a`.
pub(super) unsafe fn word<'a>(name: &str, word: *const c_char) -> Result<&'a str, Failure> {
    // SAFETY: as this function asks.
    utf8(name, unsafe { bytes(name, word)? })
}

/// A path: NUL-terminated bytes of the operating system's; UTF-8 where it has no bytes.
///
/// # Safety
/// As [`word`].
pub(super) unsafe fn path(name: &str, path: *const c_char) -> Result<PathBuf, Failure> {
    // SAFETY: as this function asks.
    let bytes = unsafe { bytes(name, path)? };
    #[cfg(unix)]
    return Ok(PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes)));
    #[cfg(not(unix))]
    Ok(utf8(name, bytes)?.into())
}

/// As [`path`], with NULL for none.
///
/// # Safety
/// As [`word`].
pub(super) unsafe fn optional_path(name: &str, path: *const c_char) -> Result<Option<PathBuf>, Failure> {
    // SAFETY: as this function asks.
    if path.is_null() { Ok(None) } else { unsafe { self::path(name, path) }.map(Some) }
}

/// # Safety
/// As [`word`].
unsafe fn bytes<'a>(name: &str, text: *const c_char) -> Result<&'a [u8], Failure> {
    if text.is_null() {
        return Err(Failure::null(name));
    }
    // SAFETY: as this function asks.
    Ok(unsafe { CStr::from_ptr(text) }.to_bytes())
}

fn utf8<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, Failure> {
    str::from_utf8(bytes).map_err(|error| {
        let offset = error.valid_up_to();
        Failure::new(GROK1_ERR_UTF8, format!("{name} is not UTF-8 at byte {offset}"))
    })
}

/// Text of ours for C.
pub(super) fn c_string(text: &str) -> CString {
    // Without NUL it is always one.
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

/// A path of ours for C.
pub(super) fn c_path(path: &Path) -> CString {
    #[cfg(unix)]
    return CString::new(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())).unwrap_or_default();
    #[cfg(not(unix))]
    c_string(&path.display().to_string())
}

/// The caller's buffer of the form that is called twice.
pub(super) struct Buffer<T> {
    values: *mut T,
    capacity: usize,
    needed: NonNull<usize>,
}

/// # Safety
/// `values` is NULL or has room for `capacity`; `needed` is NULL or may be written.
pub(super) unsafe fn buffer<T>(
    name: &str,
    values: *mut T,
    capacity: usize,
    needed: *mut usize,
) -> Result<Buffer<T>, Failure> {
    // SAFETY: as this function asks.
    let needed = unsafe { output("needed", needed)? };
    if values.is_null() && capacity > 0 {
        return Err(Failure::null(name));
    }
    aligned(name, values)?;
    Ok(Buffer { values, capacity, needed })
}

impl<T: Copy> Buffer<T> {
    /// Says how many `values` there are, and writes them if they were asked for and all have room.
    pub(super) fn put(self, values: &[T]) -> Result<(), Failure> {
        // SAFETY: `buffer`'s caller said that it may be written.
        unsafe { self.needed.write(values.len()) };
        if self.values.is_null() {
            return Ok(()); // a question only
        }
        if values.len() > self.capacity {
            let (needed, capacity) = (values.len(), self.capacity);
            return Err(Failure::new(
                GROK1_ERR_BUFFER,
                format!("{needed} do not fit into a buffer of {capacity}"),
            ));
        }
        // SAFETY: there is room for `capacity`, which is not less; what we own is not the caller's buffer.
        unsafe { self.values.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        Ok(())
    }
}

/// A public struct that begins with its size: fields are only ever added at the end.
///
/// # Safety
/// `repr(C)`, its first field is `struct_size: usize`, and any bits are a valid value.
pub(super) unsafe trait Versioned: Copy {
    /// The size that shipped first; a struct that has grown since says it itself.
    const FIRST: usize = size_of::<Self>();
}

/// Reads options. NULL is all defaults; in an older, shorter struct fields that it does not have keep their defaults; a newer, longer
/// one may have nothing but zero there.
///
/// # Safety
/// `pointer` is NULL or begins with its size and has as many bytes.
pub(super) unsafe fn options<T: Versioned + Default>(name: &str, pointer: *const T) -> Result<T, Failure> {
    if pointer.is_null() {
        return Ok(T::default());
    }
    aligned(name, pointer)?;
    // SAFETY: aligned; the rest as this function asks.
    unsafe {
        let size = pointer.cast::<usize>().read();
        element(name, pointer.cast(), size)
    }
}

/// Reads a struct of `size` bytes, as [`options`] does.
///
/// # Safety
/// There are `size` bytes at `pointer`.
pub(super) unsafe fn element<T: Versioned + Default>(
    name: &str,
    pointer: *const c_void,
    size: usize,
) -> Result<T, Failure> {
    check_size::<T>(name, size)?;
    let known = size.min(size_of::<T>());
    // SAFETY: as this function asks; `T` may be made of any bits.
    unsafe {
        let bytes = slice(name, pointer.cast::<u8>(), size)?;
        if bytes.get(known..).unwrap_or_default().iter().any(|&byte| byte != 0) {
            let message = format!(
                "{name} has {size} bytes and sets what this version, which knows {known}, does not have"
            );
            return Err(Failure::new(GROK1_ERR_ABI, message));
        }
        let mut value = T::default();
        (&raw mut value).cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), known);
        Ok(value)
    }
}

/// Reads an array of structs that all have the size of the first.
///
/// # Safety
/// `pointer` is NULL or has `count` structs, each beginning with its size and having as many bytes.
pub(super) unsafe fn elements<T: Versioned + Default>(
    name: &str,
    pointer: *const T,
    count: usize,
) -> Result<Vec<T>, Failure> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if pointer.is_null() {
        return Err(Failure::null(name));
    }
    aligned(name, pointer)?;
    // SAFETY: aligned; the rest as this function asks.
    let size = unsafe { pointer.cast::<usize>().read() };
    let elements = (0..count).map(|index| {
        // SAFETY: as this function asks.
        let element = unsafe { pointer.byte_add(index * size) };
        // SAFETY: as this function asks.
        let own_size = unsafe { element.cast::<usize>().read_unaligned() };
        if own_size != size {
            return Err(Failure::argument(format!("{name} have sizes of {size} and {own_size}")));
        }
        // SAFETY: as this function asks.
        unsafe { self::element(name, element.cast(), size) }
    });
    elements.collect()
}

/// There is no number `index` of so many.
pub(super) fn beyond(index: usize, count: usize) -> Failure {
    Failure::argument(format!("index is {index}, expected less than {count}"))
}

/// A field that has no meaning yet.
pub(super) fn reserved(name: &str, value: i32) -> Result<(), Failure> {
    if value == 0 {
        return Ok(());
    }
    Err(Failure::new(GROK1_ERR_ABI, format!("{name} sets a field that is reserved, to {value}")))
}

fn check_size<T: Versioned>(name: &str, size: usize) -> Result<(), Failure> {
    if size >= T::FIRST && size <= isize::MAX as usize {
        return Ok(());
    }
    let first = T::FIRST;
    Err(Failure::argument(format!(
        "{name} has a size of {size}, expected {first} or more: was it initialised?"
    )))
}

/// Writes defaults, and no more than the `size` bytes that the caller has.
///
/// # Safety
/// `pointer` is NULL or has room for `size` bytes.
pub(super) unsafe fn init<T: Versioned + Default>(pointer: *mut T, size: usize) {
    // SAFETY: as this function asks.
    quiet((), || unsafe {
        if !pointer.is_null() && pointer.is_aligned() && size >= size_of::<usize>() {
            pointer.cast::<u8>().write_bytes(0, size);
            SizedOutput { out: pointer, size }.put(T::default());
        }
    });
}

/// A struct for the caller, of the size that it has there.
pub(super) struct SizedOutput<T> {
    out: *mut T,
    size: usize,
}

/// As [`output`], for a struct of `size` bytes.
///
/// # Safety
/// `out` is NULL or has room for `size` bytes.
pub(super) unsafe fn sized_output<T: Versioned>(
    name: &str,
    out: *mut T,
    size: usize,
) -> Result<SizedOutput<T>, Failure> {
    if out.is_null() {
        return Err(Failure::null(name));
    }
    aligned(name, out)?;
    check_size::<T>(name, size)?;
    // SAFETY: as this function asks.
    unsafe { out.cast::<u8>().write_bytes(0, size) };
    Ok(SizedOutput { out, size })
}

impl<T: Versioned> SizedOutput<T> {
    /// Writes as much of `value` as the caller has room for, and the size it has there.
    pub(super) fn put(&self, value: T) {
        // SAFETY: `sized_output`'s caller said that there is room for `size` bytes, and every struct begins with its own.
        unsafe {
            let bytes = (&raw const value).cast::<u8>();
            self.out.cast::<u8>().copy_from_nonoverlapping(bytes, self.size.min(size_of::<T>()));
            self.out.cast::<usize>().write(self.size);
        }
    }
}

/// The host's own pointer, which its callbacks get back.
#[derive(Clone, Copy, Debug)]
pub(super) struct User(pub(super) *mut c_void);

// SAFETY: it is only ever handed back to callbacks, which the header says may come from other threads where they may.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A struct that shipped with its first two fields, and has grown by a third.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Grown {
        struct_size: usize,
        first: u64,
        added: u64,
    }

    // SAFETY: `repr(C)`, its size first, then numbers.
    unsafe impl Versioned for Grown {
        const FIRST: usize = std::mem::offset_of!(Grown, added);
    }

    impl Default for Grown {
        fn default() -> Self {
            Self { struct_size: size_of::<Self>(), first: 1, added: 2 }
        }
    }

    #[test]
    fn an_older_struct_keeps_the_default_of_what_it_does_not_have() {
        let older = [16_u64, 7];
        // SAFETY: a struct of 16 bytes.
        let read = unsafe { options::<Grown>("options", older.as_ptr().cast()) };
        assert_eq!(read.ok(), Some(Grown { struct_size: 16, first: 7, added: 2 }));
    }

    #[test]
    fn a_struct_smaller_than_the_first_is_refused() {
        let smaller = [8_u64, 7];
        // SAFETY: a struct that says it has 8 bytes.
        let read = unsafe { options::<Grown>("options", smaller.as_ptr().cast()) };
        assert!(read.is_err_and(|failure| failure.is(GROK1_ERR_ARGUMENT)));
    }

    #[test]
    fn an_older_caller_gets_what_it_has_room_for() {
        let mut older = [9_u64; 3];
        // SAFETY: room for 16 of 24 bytes.
        unsafe {
            let Ok(out) = sized_output::<Grown>("info", older.as_mut_ptr().cast(), 16) else { panic!() };
            out.put(Grown { struct_size: 0, first: 5, added: 6 });
        }
        assert_eq!(older, [16, 5, 9]);
    }

    #[test]
    fn a_length_that_no_slice_has_is_refused() {
        let value = 0_u64;
        // SAFETY: refused before anything is read.
        assert!(unsafe { slice("values", &raw const value, usize::MAX / 4) }.is_err());
        // SAFETY: as above.
        assert!(unsafe { slice("values", (&raw const value).wrapping_byte_add(1), 1) }.is_err());
    }

    #[test]
    fn wrong_utf8_is_told_by_its_place() {
        let bytes = [b'a', 0xc3, b'b'];
        // SAFETY: three bytes.
        let Err(failure) = (unsafe { text("text", bytes.as_ptr().cast(), 3) }) else { panic!() };
        assert!(failure.is(GROK1_ERR_UTF8));
    }
}
