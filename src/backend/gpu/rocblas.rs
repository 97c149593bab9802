//! rocBLAS, AMD's library for products of matrices, and Hygon's of the same name, by a table of the functions that are needed. Uses
//! `blas` and `library`.
//!
//! It takes matrices column by column, so that our rows are its columns: it computes `out^T = weights * x^T`.

use std::ffi::{c_int, c_void};
use std::{fmt, ptr};

use super::blas::{BlasLibrary, Gemm, Operands};
use super::library::{Library, StatusName, Wanted, functions, refused, unchecked};
use super::{DevicePointer, DriverError, GpuError, Handle, Properties};
use crate::tensor::Layout;

/// DTK's has AMD's name, and the number of the release that it came from.
const NAMES: &[&str] =
    &["librocblas.so.5", "librocblas.so.4", "librocblas.so.3", "librocblas.so.0", "librocblas.so"];

const WANTED: Wanted = Wanted {
    what: "rocBLAS",
    folders: &["/opt/dtk/lib", "/opt/dtk/rocblas/lib", "/opt/rocm/lib"],
    install: "install rocBLAS, which is part of ROCm and of DTK, where the system's loader finds it",
};

/// Numbers of `rocblas-types.h`, the same since ROCm 3.
mod constant {
    use std::ffi::c_int;

    pub(super) const F32: c_int = 151;
    pub(super) const BF16: c_int = 168;
    pub(super) const AS_IT_IS: c_int = 111;
    pub(super) const TRANSPOSED: c_int = 112;
    pub(super) const STANDARD_ALGORITHM: c_int = 0;
    /// Done, and could have been faster with more memory.
    pub(super) const DEGRADED: c_int = 7;
}

type Pointer = *mut c_void;

functions! { unchecked!
    struct Table {
        rocblas_create_handle(*mut Pointer);
        rocblas_destroy_handle(Pointer);
        rocblas_set_stream(Pointer, *mut c_void);
        rocblas_set_workspace(Pointer, *mut c_void, usize);
        rocblas_gemm_ex(
            Pointer,
            c_int, c_int, // operations on A and B
            c_int, c_int, c_int, // rows of D, columns of D, length of a sum
            *const f32,
            *const c_void, c_int, c_int, // A, its type, its leading dimension
            *const c_void, c_int, c_int, // B
            *const f32,
            *const c_void, c_int, c_int, // C
            *mut c_void, c_int, c_int, // D
            c_int, // type of the sums
            c_int, i32, u32, // algorithm, its number, flags
        );
    }
}

/// The library, open for a device.
pub struct RocBlas {
    table: Table,
    status_name: StatusName,
    handle: Handle<c_void>,
    library: Library,
}

impl fmt::Debug for RocBlas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RocBlas").field(&self.library).finish()
    }
}

/// Calls a function of the table. Its arguments are numbers, places for results, and what [`BlasLibrary`]'s caller vouches for.
macro_rules! call {
    ($self:ident, $function:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: as said above.
        $self.check(stringify!($function), unsafe { ($self.table.$function)($($argument),*) })
    };
}

impl RocBlas {
    fn check(&self, call: &'static str, code: c_int) -> Result<(), DriverError> {
        if code == 0 || code == constant::DEGRADED {
            return Ok(());
        }
        // SAFETY: the library's function for this.
        Err(unsafe { refused(self.status_name, call, code) })
    }
}

impl BlasLibrary for RocBlas {
    type Stream = Handle<c_void>;

    unsafe fn open(
        _device: &Properties,
        (workspace, bytes): (DevicePointer, usize),
    ) -> Result<Self, GpuError> {
        // SAFETY: the library's initialisers may be run; the types are those of its headers.
        let (library, table, status_name) = unsafe {
            let library = Library::open(WANTED, NAMES)?;
            let table = Table::resolve(&library)?;
            let status_name = library.function(c"rocblas_status_to_string")?;
            (library, table, status_name)
        };
        let mut new = Self { table, status_name, handle: Handle(ptr::null_mut()), library };
        let mut handle = ptr::null_mut();
        call!(new, rocblas_create_handle(&raw mut handle))?;
        new.handle = Handle(handle);
        if let Err(error) = call!(new, rocblas_set_workspace(handle, workspace.as_ptr(), bytes)) {
            call!(new, rocblas_destroy_handle(handle))?;
            return Err(error.into());
        }
        Ok(new)
    }

    unsafe fn gemm(
        &mut self,
        stream: Self::Stream,
        operands: Operands,
        shape: &Gemm,
    ) -> Result<(), GpuError> {
        let Gemm { rows, outputs, inputs, layout, out_stride, x_stride, weights_stride, accumulate } = *shape;
        let numbers = [rows, outputs, inputs, out_stride, x_stride, weights_stride].map(c_int::try_from);
        let [Ok(m), Ok(n), Ok(k), Ok(out_stride), Ok(x_stride), Ok(weights_stride)] = numbers else {
            return Err(GpuError::NoAlgorithm { library: WANTED.what, rows, outputs, inputs });
        };
        let operation = if layout == Layout::OutIn { constant::TRANSPOSED } else { constant::AS_IT_IS };
        let (product, sum) = (1.0, if accumulate { 1.0 } else { 0.0 });
        let [out, x, weights] = [operands.out, operands.x, operands.weights].map(DevicePointer::as_ptr);
        call!(self, rocblas_set_stream(self.handle.0, stream.0))?;
        call!(
            self,
            rocblas_gemm_ex(
                self.handle.0,
                operation,
                constant::AS_IT_IS,
                n,
                m,
                k,
                &raw const product,
                weights,
                constant::BF16,
                weights_stride,
                x,
                constant::BF16,
                x_stride,
                &raw const sum,
                out,
                constant::F32,
                out_stride,
                out,
                constant::F32,
                out_stride,
                constant::F32,
                constant::STANDARD_ALGORITHM,
                0,
                0,
            )
        )?;
        Ok(())
    }

    unsafe fn close(&mut self) -> Result<(), DriverError> {
        call!(self, rocblas_destroy_handle(self.handle.0))
    }
}
