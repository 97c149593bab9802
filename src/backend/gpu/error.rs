//! What can go wrong between this crate and a device. Uses the ground and `version`.

use super::Version;
use crate::error::{Classify, ErrorKind};

/// An error of a GPU runtime, or why there is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// This crate was compiled without the runtime.
    #[error("not built in: this program was compiled without the feature `{feature}`")]
    NotBuilt {
        /// The feature.
        feature: &'static str,
    },
    /// None of a library's names could be loaded.
    #[error("no {what}: tried {}{}; {install}", tried.join(", "), also(folders))]
    NoLibrary {
        /// What was looked for.
        what: &'static str,
        /// Names, in order; with the loader's reason where a file is there and cannot be loaded.
        tried: Vec<String>,
        /// Folders that were looked in, beside those of the system's loader.
        folders: &'static [&'static str],
        /// What to install.
        install: &'static str,
    },
    /// A library without a function that it should have.
    #[error("{library} has no {symbol}: too old, or not what its name says")]
    MissingSymbol {
        /// The library's name.
        library: String,
        /// The function's name.
        symbol: String,
    },
    /// A driver that is older than what this crate needs.
    #[error("the {runtime} driver is of version {found}, expected {expected} or newer")]
    OldDriver {
        /// `cuda` or `hip`.
        runtime: &'static str,
        /// What the driver says.
        found: Version,
        /// What is needed.
        expected: Version,
    },
    /// A driver without devices.
    #[error("the {runtime} driver finds no device")]
    NoDevice {
        /// `cuda` or `hip`.
        runtime: &'static str,
    },
    /// The number of a device that is not there.
    #[error("no device {runtime}:{ordinal}: there are {count}")]
    NoSuchDevice {
        /// `cuda` or `hip`.
        runtime: &'static str,
        /// Its number.
        ordinal: usize,
        /// Devices there are.
        count: usize,
    },
    /// A device, or a name, that there is no compiler for.
    #[error("{found:?} is not an architecture that {compiler} compiles for: {}", known.join(", "))]
    UnknownArchitecture {
        /// Its name.
        found: String,
        /// Who would have to know it.
        compiler: String,
        /// The names that are known.
        known: Vec<String>,
    },
    /// A compiler that makes code which the driver is too old for.
    #[error("{compiler} makes code for drivers of CUDA {found}, and this one is of {expected}")]
    NewCompiler {
        /// The compiler.
        compiler: String,
        /// Its version.
        found: Version,
        /// The driver's version.
        expected: Version,
    },
    /// Kernels that do not compile.
    #[error("{compiler} does not compile {program} for {architecture}: {log}")]
    Compile {
        /// The compiler.
        compiler: String,
        /// The program's name.
        program: String,
        /// The target.
        architecture: String,
        /// What the compiler said.
        log: String,
    },
    /// A program, or one of its options, with a zero byte in it.
    #[error("{what} has a zero byte")]
    Nul {
        /// What has.
        what: &'static str,
    },
    /// Code without a kernel that it should have.
    #[error("the device code has no kernel {name}")]
    NoKernel {
        /// The kernel's name.
        name: String,
        /// What the driver said.
        #[source]
        source: DriverError,
    },
    /// A kernel whose blocks want more shared memory than the device gives one.
    #[error("{kernel} wants {bytes} bytes of shared memory, and blocks get {most}")]
    SharedMemory {
        /// Its name.
        kernel: String,
        /// Bytes that a block wants.
        bytes: u32,
        /// Bytes that it gets at most.
        most: u32,
    },
    /// The device has no room.
    #[error("out of device memory: {bytes} bytes for {what}, {free} are free, {} missing", missing(*bytes, *free))]
    OutOfMemory {
        /// What it was for.
        what: &'static str,
        /// Bytes asked for.
        bytes: usize,
        /// Bytes free when they were asked for.
        free: usize,
    },
    /// The system pins no more memory for copies.
    #[error("cannot pin {bytes} bytes of host memory")]
    Pin {
        /// Bytes asked for.
        bytes: usize,
        /// What the driver said.
        #[source]
        source: DriverError,
    },
    /// A copy that leaves its buffer.
    #[error("bytes {at}..{at}+{bytes} of a buffer of {of}")]
    Range {
        /// Where the bytes begin.
        at: usize,
        /// How many.
        bytes: usize,
        /// The buffer's.
        of: usize,
    },
    /// A model that is beyond what the kernels are made for.
    #[error("{found} {what}, and the kernels take {most}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// Objects of two devices in one call.
    #[error("objects of different devices in one call")]
    OtherDevice,
    /// A kernel that did not start.
    #[error(
        "cannot launch {kernel} with grid {grid:?}, block {block:?} and {shared_bytes} bytes of shared memory"
    )]
    Launch {
        /// Its name.
        kernel: String,
        /// Blocks.
        grid: [u32; 3],
        /// Threads of a block.
        block: [u32; 3],
        /// Dynamic shared memory of a block.
        shared_bytes: u32,
        /// What the driver said.
        #[source]
        source: DriverError,
    },
    /// A product of a shape that the vendor's library cannot do.
    #[error("{library} has no algorithm for the product of {rows} rows with {outputs} x {inputs} weights")]
    NoAlgorithm {
        /// The library.
        library: &'static str,
        /// Rows of activations.
        rows: usize,
        /// Outputs.
        outputs: usize,
        /// Inputs.
        inputs: usize,
    },
    /// Work that was queued earlier has failed on the device, as whatever call comes next is told; the device is of no more use to this
    /// process.
    #[error("work that was queued earlier has failed on the device")]
    Failed(#[source] DriverError),
    /// Any other call that the driver, or a library of its vendor, refused.
    #[error(transparent)]
    Driver(DriverError),
}

impl From<DriverError> for GpuError {
    fn from(error: DriverError) -> Self {
        if error.is_of_earlier_work() { Self::Failed(error) } else { Self::Driver(error) }
    }
}

/// A call that a driver, or a library of its vendor, refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {name} ({code})")]
#[non_exhaustive]
pub struct DriverError {
    /// The driver's function.
    pub call: &'static str,
    /// Its status.
    pub code: i32,
    /// The status's name, as the driver tells it.
    pub name: String,
}

impl DriverError {
    /// For implementers of `Runtime`.
    #[must_use]
    pub fn new(call: &'static str, code: i32, name: impl Into<String>) -> Self {
        Self { call, code, name: name.into() }
    }

    /// Whether memory ran out. HIP took over the numbers of CUDA.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        self.code == 2
    }

    /// Whether it is not the call that failed but work before it: a kernel's address, time, assertion, stack, instruction, alignment, or
    /// the hardware.
    #[must_use]
    pub fn is_of_earlier_work(&self) -> bool {
        is_of_hardware(self.code) || matches!(self.code, 700 | 702 | 710 | 714..=719 | 721)
    }
}

/// Memory, or a link to another device, that cannot be corrected.
fn is_of_hardware(status: i32) -> bool {
    matches!(status, 214 | 220)
}

/// Where else was looked.
fn also(folders: &[&str]) -> String {
    if folders.is_empty() { String::new() } else { format!(", in {} too", folders.join(", ")) }
}

/// How many bytes more would have to be free; at least that many when memory is fragmented.
fn missing(bytes: usize, free: usize) -> usize {
    bytes.saturating_sub(free)
}

impl GpuError {
    /// Bytes that were missing, if memory ran out.
    #[must_use]
    pub fn missing_bytes(&self) -> Option<usize> {
        match self {
            Self::OutOfMemory { bytes, free, .. } => Some(missing(*bytes, *free)),
            _ => None,
        }
    }
}

impl Classify for GpuError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchDevice { .. } | Self::UnknownArchitecture { .. } => ErrorKind::Argument,
            Self::TooMany { .. } => ErrorKind::Format,
            Self::Failed(error) if is_of_hardware(error.code) => ErrorKind::Resource,
            Self::NotBuilt { .. }
            | Self::NoLibrary { .. }
            | Self::MissingSymbol { .. }
            | Self::OldDriver { .. }
            | Self::NewCompiler { .. }
            | Self::NoDevice { .. }
            | Self::SharedMemory { .. }
            | Self::OutOfMemory { .. }
            | Self::Pin { .. }
            | Self::NoAlgorithm { .. }
            | Self::Driver(_) => ErrorKind::Resource,
            Self::Compile { .. }
            | Self::Nul { .. }
            | Self::NoKernel { .. }
            | Self::Range { .. }
            | Self::OtherDevice
            | Self::Launch { .. }
            | Self::Failed(_) => ErrorKind::Bug,
        }
    }
}
