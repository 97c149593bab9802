//! Products by the vendors' libraries: the tables as they are, on stand-ins that check what they are given.

use std::fs;
use std::path::PathBuf;

use grok1::Layout;
use grok1::backend::gpu::{Blas, Buffer, Device, Gemm, GpuError, Runtime, Stream};
use half::bf16;

use crate::device::{Scratch, open};
#[cfg(feature = "cuda")]
use crate::stand_in::on;
use crate::stand_in::{RUNTIMES, StandIns, again, runtime, stderr};

/// A matrix of small numbers, of which products are exact: rows of `stride` elements, and `length` of them that count.
struct Matrix {
    values: Vec<f32>, // [rows, stride]
    stride: usize,
}

impl Matrix {
    fn new(seed: usize, [rows, length]: [usize; 2], gap: usize) -> Self {
        let stride = length + gap;
        let values = (0..rows * stride).map(|i| ((i * 7 + seed * 5) % 13) as f32 - 6.0).collect();
        Self { values, stride }
    }

    fn at(&self, row: usize, column: usize) -> f32 {
        self.values[row * self.stride + column]
    }

    /// On the device as bf16, after `before` bytes.
    fn narrow<R: Runtime>(&self, device: &Device<R>, stream: &Stream<R>, before: usize) -> Buffer<R> {
        let bytes: Vec<u8> = self.values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        upload(device, stream, &bytes, before)
    }
}

fn upload<R: Runtime>(device: &Device<R>, stream: &Stream<R>, bytes: &[u8], before: usize) -> Buffer<R> {
    let buffer = device.allocate(before + bytes.len(), "a test").unwrap();
    stream.write(&buffer, before, bytes).unwrap();
    buffer
}

/// A shape whose rows have gaps between them.
fn shape(layout: Layout, accumulate: bool) -> Gemm {
    let dense = Gemm::new(7, 10, 24, layout);
    let (out_stride, x_stride) = (dense.out_stride + 3, dense.x_stride + 8);
    Gemm { out_stride, x_stride, weights_stride: dense.weights_stride + 2, accumulate, ..dense }
}

#[test]
fn products_are_those_of_the_definition() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let stream = device.stream().unwrap();
        let mut blas = Blas::load(&device).unwrap();
        for layout in [Layout::OutIn, Layout::InOut] {
            for accumulate in [false, true] {
                let shape = shape(layout, accumulate);
                let Gemm { rows, outputs, inputs, .. } = shape;
                let x = Matrix::new(1, [rows, inputs], shape.x_stride - inputs);
                let weights = match layout {
                    Layout::InOut => Matrix::new(2, [inputs, outputs], shape.weights_stride - outputs),
                    _ => Matrix::new(2, [outputs, inputs], shape.weights_stride - inputs),
                };
                let before = Matrix::new(3, [rows, outputs], shape.out_stride - outputs);
                let mut expected = before.values.clone();
                for row in 0..rows {
                    for output in 0..outputs {
                        let product = (0..inputs).map(|input| {
                            let weight = match layout {
                                Layout::InOut => weights.at(input, output),
                                _ => weights.at(output, input),
                            };
                            x.at(row, input) * weight
                        });
                        let old = if accumulate { before.at(row, output) } else { 0.0 };
                        expected[row * before.stride + output] = old + product.sum::<f32>();
                    }
                }
                let bytes: Vec<u8> = before.values.iter().flat_map(|x| x.to_le_bytes()).collect();
                let out = upload(&device, &stream, &bytes, 4);
                let (x, weights) = (x.narrow(&device, &stream, 16), weights.narrow(&device, &stream, 2));
                blas.gemm(&stream, (&out, 4), (&x, 16), (&weights, 2), &shape).unwrap();
                let mut received = vec![0; bytes.len()];
                stream.read(&out, 4, &mut received).unwrap();
                let received: Vec<_> =
                    received.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
                assert_eq!(received, expected, "{shape:?}");
            }
        }
    }
    on_each_runtime!(claim);
}

/// A product of shape [`Gemm::new(3, 5, 4)`](Gemm::new) on buffers that hold just that.
fn small<R: Runtime>(device: &Device<R>, blas: &mut Blas<R>, shape: &Gemm) -> Result<(), GpuError> {
    let stream = device.stream()?;
    let [out, x, weights] = [3 * 5 * 4, 3 * 4 * 2, 5 * 4 * 2].map(|bytes| device.allocate(bytes, "a test"));
    let (out, x, weights) = (out?, x?, weights?);
    stream.fill(&x, 0, x.len(), 0)?;
    stream.fill(&weights, 0, weights.len(), 0)?;
    blas.gemm(&stream, (&out, 0), (&x, 0), (&weights, 0), shape)?;
    stream.synchronize()
}

#[test]
fn a_matrix_that_leaves_its_buffer_is_refused() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let mut blas = Blas::load(&device).unwrap();
        let fits = Gemm::new(3, 5, 4, Layout::OutIn);
        small(&device, &mut blas, &fits).unwrap();
        for wrong in [
            Gemm { rows: 4, ..fits },
            Gemm { out_stride: 6, ..fits },
            Gemm { x_stride: 5, ..fits },
            Gemm { weights_stride: 5, ..fits },
            Gemm { rows: usize::MAX, ..fits },
            // Rows that overlap.
            Gemm { out_stride: 4, ..fits },
            Gemm { x_stride: 3, ..fits },
        ] {
            let error = small(&device, &mut blas, &wrong).unwrap_err();
            assert!(matches!(error, GpuError::Range { .. }), "{wrong:?}: {error:?}");
        }
        // No rows, no work.
        small(&device, &mut blas, &Gemm { rows: 0, ..fits }).unwrap();
    }
    on_each_runtime!(claim);
}

#[cfg(feature = "cuda")]
#[test]
fn cublaslt_chooses_an_algorithm_once_for_each_shape() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let mut blas = Blas::load(&device).unwrap();
        let shape = Gemm::new(3, 5, 4, Layout::OutIn);
        for shape in [shape, shape, Gemm { rows: 2, ..shape }, shape, Gemm { accumulate: true, ..shape }] {
            small(&device, &mut blas, &shape).unwrap();
        }
    }
    if runtime().is_some() {
        return on_each_runtime!(claim);
    }
    let Some(output) = on(test_name!(), "cuda", &[]) else { return };
    assert!(output.status.success(), "{}", stderr(&output));
    if std::env::var("GROK1_GPU").is_err() {
        assert_eq!(stderr(&output).matches("choosing an algorithm").count(), 3, "{}", stderr(&output));
    }
}

/// Multiplies, and prints what comes of it.
#[test]
fn try_a_product() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let shape = Gemm::new(3, 5, 4, Layout::OutIn);
        match Blas::load(&device).and_then(|mut blas| small(&device, &mut blas, &shape)) {
            Ok(()) => println!("\nit works"),
            Err(error) => println!("\n{error}"),
        }
    }
    if runtime().is_some() {
        on_each_runtime!(claim);
    }
}

/// What [`try_a_product`] prints, with the library in a folder; `None`, which is told, where it cannot be tried.
fn outcome(runtime: &str, folder: Option<PathBuf>, settings: &[(&str, &str)]) -> Option<String> {
    let Some(stand_ins) = StandIns::get().filter(|_| std::env::var("GROK1_GPU").is_err()) else {
        eprintln!("skipped: not on stand-ins");
        return None;
    };
    let libraries: Vec<_> = [stand_ins.path(runtime)].into_iter().chain(folder).collect();
    let mut command = again("blas::try_a_product", runtime, &libraries);
    let output = command.envs(settings.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    // Between the harness's own lines.
    Some(text.lines().skip_while(|line| !line.starts_with("test ")).nth(1).unwrap().to_owned())
}

#[test]
fn what_the_library_refuses_is_told_with_its_status() {
    for runtime in RUNTIMES {
        let Some(stand_ins) = StandIns::get() else { return };
        let with = |settings: &[_]| outcome(runtime, Some(stand_ins.path("blas")), settings);
        let cuda = *runtime == "cuda";
        let Some(text) = with(&[]) else { return };
        assert_eq!(text, "it works");
        let text = with(&[("STANDIN_BLAS_STATUS", if cuda { "13" } else { "4" })]).unwrap();
        let expected = if cuda {
            "cublasLtMatmul: CUBLAS_STATUS_EXECUTION_FAILED (13)"
        } else {
            "rocblas_gemm_ex: rocblas_status_invalid_size (4)"
        };
        assert_eq!(text, expected);
        let text = with(&[("STANDIN_BLAS_STATUS", "9999")]).unwrap();
        let expected = if cuda {
            "cublasLtMatmul: unrecognized status (9999)"
        } else {
            "rocblas_gemm_ex: <undefined rocblas_status value> (9999)"
        };
        assert_eq!(text, expected);
        if cuda {
            let text = with(&[("STANDIN_BLAS_ALGORITHMS", "0")]).unwrap();
            assert_eq!(text, "cuBLASLt has no algorithm for the product of 3 rows with 5 x 4 weights");
        }
        // Memory for its partial sums comes first.
        let text = with(&[("STANDIN_MEMORY", "1000000")]).unwrap();
        let expected = "out of device memory: 33554432 bytes for the workspace of BLAS, 1000000 are free, 32554432 missing";
        assert_eq!(text, expected);
    }
}

/// The file of a runtime's library, and two of the functions in it.
fn library(runtime: &str) -> (&'static str, [&'static str; 2]) {
    if runtime == "cuda" {
        ("libcublasLt.so.13", ["cublasLtMatmulAlgoGetHeuristic", "cublasLtGetStatusName"])
    } else {
        ("librocblas.so.5", ["rocblas_gemm_ex", "rocblas_status_to_string"])
    }
}

#[test]
fn no_library_tells_its_names_and_what_to_install() {
    for runtime in RUNTIMES {
        let (file, _) = library(runtime);
        // SAFETY: nothing is called; a library's initialisers may run.
        if unsafe { libloading::Library::new(file) }.is_ok() {
            eprintln!("skipped: this machine has {file}");
            continue;
        }
        let Some(text) = outcome(runtime, None, &[]) else { return };
        let expected = match *runtime {
            "cuda" => [
                "no cuBLASLt: tried libcublasLt.so.13, libcublasLt.so.12, in /usr/local/cuda/lib64, ",
                " too; install cuBLAS, which is part of the CUDA toolkit",
            ],
            _ => [
                "no rocBLAS: tried librocblas.so.5, librocblas.so.4, librocblas.so.3, librocblas.so.0, librocblas.so, in ",
                " too; install rocBLAS, which is part of ROCm and of DTK",
            ],
        };
        assert!(text.starts_with(expected[0]) && text.contains(expected[1]), "{text}");
    }
}

#[test]
fn a_library_without_a_function_is_refused_by_the_functions_name() {
    for runtime in RUNTIMES {
        let Some(stand_ins) = StandIns::get() else { return };
        let (file, names) = library(runtime);
        let whole = fs::read(stand_ins.path("blas").join(file)).unwrap();
        for name in names {
            let scratch = Scratch::new(&format!("blas-without-{name}"));
            // The loader finds it by its hash, and then finds that it is another.
            let mut library = whole.clone();
            let text = [b"\0", name.as_bytes(), b"\0"].concat();
            let at = library.windows(text.len()).position(|bytes| bytes == text).unwrap();
            library[at + 1] = b'x';
            fs::write(scratch.0.join(file), library).unwrap();
            let Some(text) = outcome(runtime, Some(scratch.0.clone()), &[]) else { return };
            assert_eq!(text, format!("{file} has no {name}: too old, or not what its name says"));
        }
    }
}
