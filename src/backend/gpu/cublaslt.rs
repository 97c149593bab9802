//! cuBLASLt, NVIDIA's library for products of matrices, by a table of the functions that are needed. Uses `blas` and `library`.
//!
//! It takes matrices column by column, so that our rows are its columns: it computes `out^T = weights * x^T`.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::{fmt, ptr};

use cudarc::driver::sys::CUstream_st;

use super::blas::{BlasLibrary, Gemm, Operands};
use super::library::{Library, StatusName, Wanted, functions, refused, unchecked};
use super::{DevicePointer, DriverError, GpuError, Handle, Properties};
use crate::tensor::Layout;

const WANTED: Wanted = Wanted {
    what: "cuBLASLt",
    folders: &["/usr/local/cuda/lib64", "/usr/local/cuda-13/lib64", "/usr/local/cuda-12/lib64"],
    install: "install cuBLAS, which is part of the CUDA toolkit and of the Python package nvidia-cublas, \
              where the system's loader finds it",
};

/// The first version of the library that has all of this, which is the first of the driver too.
const OLDEST: u32 = 12;

/// Numbers of `cublasLt.h`, `cublas_api.h` and `library_types.h`, the same in CUDA 12 and 13.
mod constant {
    use std::ffi::c_int;

    pub(super) const F32: c_int = 0;
    pub(super) const BF16: c_int = 14;
    pub(super) const COMPUTE_F32: c_int = 68;
    pub(super) const OPERATION_TRANSPOSE_A: c_int = 3;
    pub(super) const TRANSPOSED: c_int = 1;
    pub(super) const PREFER_WORKSPACE_BYTES: c_int = 1;
    /// Of `A`; `B`, `C` and `D` follow.
    pub(super) const PREFER_ALIGNMENT_A: c_int = 5;
    pub(super) const NOT_SUPPORTED: c_int = 15;
}

type Pointer = *mut c_void;

functions! { unchecked!
    struct Table {
        cublasLtCreate(*mut Pointer);
        cublasLtDestroy(Pointer);
        cublasLtMatmulDescCreate(*mut Pointer, c_int, c_int);
        cublasLtMatmulDescSetAttribute(Pointer, c_int, *const c_void, usize);
        cublasLtMatmulDescDestroy(Pointer);
        cublasLtMatrixLayoutCreate(*mut Pointer, c_int, u64, u64, i64);
        cublasLtMatrixLayoutDestroy(Pointer);
        cublasLtMatmulPreferenceCreate(*mut Pointer);
        cublasLtMatmulPreferenceSetAttribute(Pointer, c_int, *const c_void, usize);
        cublasLtMatmulPreferenceDestroy(Pointer);
        cublasLtMatmulAlgoGetHeuristic(
            Pointer,
            Pointer, // of the operation
            Pointer, Pointer, Pointer, Pointer, // of A, B, C and D
            Pointer, // the preference
            c_int,
            *mut Choice,
            *mut c_int,
        );
        cublasLtMatmul(
            Pointer,
            Pointer, // of the operation
            *const f32,
            *const c_void, Pointer, // A
            *const c_void, Pointer, // B
            *const f32,
            *const c_void, Pointer, // C
            *mut c_void, Pointer, // D
            *const Algorithm,
            *mut c_void, usize, // the workspace
            *mut CUstream_st,
        );
    }
}

/// `cublasLtMatmulAlgo_t`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Algorithm([u64; 8]);

/// `cublasLtMatmulHeuristicResult_t`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Choice {
    algorithm: Algorithm,
    workspace: usize,
    status: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

const _: () = assert!(size_of::<Choice>() == 96);

/// What an algorithm is chosen by: the shape, and how `out`, `x` and the weights are aligned.
type Key = (Gemm, [u32; 3]);

/// Choices that are kept: of a prompt's last chunks and of experts' groups there are many shapes that never come again.
const KEPT: usize = 1024;

/// The library, open for a device.
pub struct CublasLt {
    table: Table,
    status_name: StatusName,
    handle: Handle<c_void>,
    workspace: (DevicePointer, usize),
    plans: HashMap<Key, Plan>,
    library: Library,
}

impl fmt::Debug for CublasLt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CublasLt").field(&self.library).finish()
    }
}

/// How products of a shape are computed.
struct Plan {
    operation: Descriptor,
    weights: Descriptor,
    x: Descriptor,
    out: Descriptor,
    algorithm: Algorithm,
}

/// Something of the library's that lies in host memory.
struct Descriptor {
    handle: Handle<c_void>,
    destroy: unsafe extern "C" fn(Pointer) -> c_int,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once. Nothing can be done about a failure, and nothing follows from one.
        unsafe { (self.destroy)(self.handle.0) };
    }
}

/// Calls a function of the table. Its descriptors are live; all else are numbers, places for results, and what
/// [`BlasLibrary`]'s caller vouches for.
macro_rules! call {
    ($self:ident, $function:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: as said above.
        $self.check(stringify!($function), unsafe { ($self.table.$function)($($argument),*) })
    };
}

impl CublasLt {
    fn check(&self, call: &'static str, code: c_int) -> Result<(), DriverError> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the library's function for this.
        Err(unsafe { refused(self.status_name, call, code) })
    }

    /// A matrix of so many rows, each a column of the library's.
    fn matrix(
        &self,
        dtype: c_int,
        [rows, length]: [usize; 2],
        stride: usize,
    ) -> Result<Descriptor, DriverError> {
        let mut handle = ptr::null_mut();
        // No number of elements in memory exceeds an i64.
        call!(
            self,
            cublasLtMatrixLayoutCreate(&raw mut handle, dtype, length as u64, rows as u64, stride as i64)
        )?;
        Ok(Descriptor { handle: Handle(handle), destroy: self.table.cublasLtMatrixLayoutDestroy })
    }

    fn operation(&self, layout: Layout) -> Result<Descriptor, DriverError> {
        let mut handle = ptr::null_mut();
        let (compute, scale) = (constant::COMPUTE_F32, constant::F32);
        call!(self, cublasLtMatmulDescCreate(&raw mut handle, compute, scale))?;
        let operation = Descriptor { handle: Handle(handle), destroy: self.table.cublasLtMatmulDescDestroy };
        if layout == Layout::OutIn {
            let (which, value) = (constant::OPERATION_TRANSPOSE_A, constant::TRANSPOSED);
            let value = (&raw const value).cast();
            call!(self, cublasLtMatmulDescSetAttribute(handle, which, value, size_of::<c_int>()))?;
        }
        Ok(operation)
    }

    /// What the library is told about memory, for its choice.
    fn preference(&self, [out, x, weights]: [u32; 3]) -> Result<Descriptor, DriverError> {
        let mut handle = ptr::null_mut();
        call!(self, cublasLtMatmulPreferenceCreate(&raw mut handle))?;
        let preference =
            Descriptor { handle: Handle(handle), destroy: self.table.cublasLtMatmulPreferenceDestroy };
        let (which, bytes) = (constant::PREFER_WORKSPACE_BYTES, &raw const self.workspace.1);
        call!(self, cublasLtMatmulPreferenceSetAttribute(handle, which, bytes.cast(), size_of::<usize>()))?;
        for (which, bytes) in (constant::PREFER_ALIGNMENT_A..).zip([weights, x, out, out]) {
            let bytes = (&raw const bytes).cast();
            call!(self, cublasLtMatmulPreferenceSetAttribute(handle, which, bytes, size_of::<u32>()))?;
        }
        Ok(preference)
    }

    fn plan(&self, (shape, alignments): &Key) -> Result<Plan, GpuError> {
        let Gemm { rows, outputs, inputs, layout, .. } = *shape;
        let operation = self.operation(layout)?;
        let weights = self.matrix(constant::BF16, shape.weights(), shape.weights_stride)?;
        let x = self.matrix(constant::BF16, [rows, inputs], shape.x_stride)?;
        let out = self.matrix(constant::F32, [rows, outputs], shape.out_stride)?;
        let preference = self.preference(*alignments)?;
        let (mut choice, mut count) = (Choice::default(), 0);
        let chosen = call!(
            self,
            cublasLtMatmulAlgoGetHeuristic(
                self.handle.0,
                operation.handle.0,
                weights.handle.0,
                x.handle.0,
                out.handle.0,
                out.handle.0,
                preference.handle.0,
                1,
                &raw mut choice,
                &raw mut count,
            )
        );
        match chosen {
            Err(error) if error.code != constant::NOT_SUPPORTED => Err(error.into()),
            Ok(()) if count > 0 && choice.status == 0 => {
                Ok(Plan { operation, weights, x, out, algorithm: choice.algorithm })
            }
            _ => Err(GpuError::NoAlgorithm { library: WANTED.what, rows, outputs, inputs }),
        }
    }
}

/// The largest power of two, up to what allocations have, that an address is a multiple of.
fn alignment(pointer: DevicePointer) -> u32 {
    1 << pointer.0.trailing_zeros().min(8)
}

impl BlasLibrary for CublasLt {
    type Stream = Handle<CUstream_st>;

    unsafe fn open(device: &Properties, workspace: (DevicePointer, usize)) -> Result<Self, GpuError> {
        let versions = (OLDEST..=device.driver.major).rev();
        let names: Vec<_> = versions.map(|version| format!("libcublasLt.so.{version}")).collect();
        // SAFETY: the library's initialisers may be run; the types are those of `cublasLt.h`.
        let (library, table, status_name) = unsafe {
            let library = Library::open(WANTED, &names)?;
            let table = Table::resolve(&library)?;
            let status_name = library.function(c"cublasLtGetStatusName")?;
            (library, table, status_name)
        };
        let handle = Handle(ptr::null_mut());
        let mut new = Self { table, status_name, handle, workspace, plans: HashMap::new(), library };
        let mut handle = ptr::null_mut();
        call!(new, cublasLtCreate(&raw mut handle))?;
        new.handle = Handle(handle);
        Ok(new)
    }

    unsafe fn gemm(
        &mut self,
        stream: Self::Stream,
        operands: Operands,
        shape: &Gemm,
    ) -> Result<(), GpuError> {
        let Operands { out, x, weights } = operands;
        let key = (*shape, [out, x, weights].map(alignment));
        if !self.plans.contains_key(&key) {
            let plan = self.plan(&key)?;
            if self.plans.len() == KEPT {
                self.plans.clear();
            }
            self.plans.insert(key, plan);
        }
        let Some(plan) = self.plans.get(&key) else { return Ok(()) };
        let (product, sum) = (1.0, if shape.accumulate { 1.0 } else { 0.0 });
        let [out, x, weights, workspace] = [out, x, weights, self.workspace.0].map(DevicePointer::as_ptr);
        call!(
            self,
            cublasLtMatmul(
                self.handle.0,
                plan.operation.handle.0,
                &raw const product,
                weights,
                plan.weights.handle.0,
                x,
                plan.x.handle.0,
                &raw const sum,
                out,
                plan.out.handle.0,
                out,
                plan.out.handle.0,
                &raw const plan.algorithm,
                workspace,
                self.workspace.1,
                stream.0,
            )
        )?;
        Ok(())
    }

    unsafe fn close(&mut self) -> Result<(), DriverError> {
        self.plans.clear();
        call!(self, cublasLtDestroy(self.handle.0))
    }
}
