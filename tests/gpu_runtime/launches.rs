//! Kernels, streams, events and graphs.

use std::thread;

use grok1::backend::gpu::{Buffer, Device, DevicePointer, GpuError, Launch, Parameter, Runtime, Stream};

use crate::device::{THREADS, kernels, open};

/// Numbers on the device.
fn upload<R: Runtime>(device: &Device<R>, stream: &Stream<R>, values: &[f32]) -> Buffer<R> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let buffer = device.allocate(bytes.len(), "a test").unwrap();
    stream.write(&buffer, 0, &bytes).unwrap();
    buffer
}

fn download<R: Runtime>(stream: &Stream<R>, buffer: &Buffer<R>) -> Vec<f32> {
    let mut bytes = vec![0; buffer.len()];
    stream.read(buffer, 0, &mut bytes).unwrap();
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn count_up(count: usize) -> Vec<f32> {
    (0..count).map(|i| i as f32).collect()
}

#[test]
fn a_kernel_runs_on_every_element() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let (stream, module) = (device.stream().unwrap(), kernels(&device));
        let add = module.function("add", 0).unwrap();
        let numbers = count_up(1000);
        let [a, b] = [&numbers, &numbers].map(|numbers| upload(&device, &stream, numbers));
        let sum = upload(&device, &stream, &vec![-1.0; 1001]);
        let launch = Launch::linear(1000_u32.div_ceil(THREADS), THREADS);
        let arguments = [&sum, &a, &b].map(Buffer::pointer);
        // SAFETY: the arguments are those of `add`; the buffers have 1000 elements and live until the stream is waited for.
        unsafe {
            let [sum, a, b] = arguments.each_ref().map(Into::into);
            stream.launch(&add, launch, [sum, a, b, (&1000).into()]).unwrap();
        }
        let received = download(&stream, &sum);
        assert!(received[..1000].iter().enumerate().all(|(i, &sum)| sum == 2.0 * i as f32));
        assert_eq!(received[1000], -1.0);
    }
    on_each_runtime!(claim);
    on_each_runtime!(claim, "STANDIN_WARP" = "64");
    on_each_runtime!(claim, "STANDIN_ORDER" = "1");
}

/// As `kernels.cu` has it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Line {
    x: DevicePointer,
    slope: f32,
    offset: f32,
}

// SAFETY: the struct of the same name there has these fields, without gaps.
unsafe impl Parameter for Line {}

#[test]
fn arguments_may_be_of_any_size_and_structs() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let (stream, module) = (device.stream().unwrap(), kernels(&device));
        let on_line = module.function("on_line", 0).unwrap();
        let x = upload(&device, &stream, &count_up(100));
        let y = upload(&device, &stream, &[0.0; 70]);
        let line = Line { x: x.pointer(), slope: 3.0, offset: 0.5 };
        let (to, first, count) = (y.pointer(), 30_i64, 70_u32);
        let launch = Launch::linear(1, THREADS);
        // SAFETY: the arguments are those of `on_line`, which reads 30 to 99 and writes 70; the buffers live until the read below.
        unsafe {
            let arguments = [(&to).into(), (&line).into(), (&first).into(), (&count).into()];
            stream.launch(&on_line, launch, arguments).unwrap();
        }
        let expected: Vec<_> = (30..100).map(|x| 3.0 * x as f32 + 0.5).collect();
        assert_eq!(download(&stream, &y), expected);
    }
    on_each_runtime!(claim);
}

#[test]
fn a_kernel_has_the_shared_memory_that_it_was_found_with() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let (stream, module) = (device.stream().unwrap(), kernels(&device));
        let most = device.properties().shared_memory;
        let count = most / 4;
        let values = upload(&device, &stream, &count_up(count as usize));
        let run = |allowed, shared_bytes| {
            let reverse = module.function("reverse", allowed).unwrap();
            let launch = Launch { shared_bytes, ..Launch::linear(1, THREADS) };
            // SAFETY: the arguments are those of `reverse`; the buffer lives until the read below.
            unsafe { stream.launch(&reverse, launch, [(&values.pointer()).into(), (&count).into()]) }
        };
        run(most, most).unwrap();
        let received = download(&stream, &values);
        assert!(received.iter().rev().enumerate().all(|(i, &value)| value == i as f32));
        let error = run(most, most + 4096).unwrap_err();
        let start = format!("cannot launch reverse with grid [1, 1, 1], block [{THREADS}, 1, 1] and ");
        assert!(error.to_string().starts_with(&start), "{error}");
    }
    on_each_runtime!(claim);
}

fn too_much_shared<R: Runtime>() {
    let device = open::<R>();
    let (module, most) = (kernels(&device), device.properties().shared_memory);
    // Every kernel has 1000 bytes of its own.
    module.function("reverse", most - 1000).unwrap();
    let error = module.function("reverse", most - 999).unwrap_err();
    assert_eq!(error.to_string(), "reverse wants 65537 bytes of shared memory, and blocks get 65536");
    assert!(matches!(error, GpuError::SharedMemory { .. }), "{error:?}");
}

#[test]
fn a_kernel_that_wants_more_shared_memory_than_a_block_gets_is_an_error() {
    if std::env::var("GROK1_GPU").is_err() {
        on_each_runtime!(too_much_shared, "STANDIN_SHARED" = "65536", "STANDIN_OWN" = "1000");
    }
}

#[test]
fn a_launch_that_no_device_can_do_is_an_error_with_the_kernels_name() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let (stream, module) = (device.stream().unwrap(), kernels(&device));
        let warp = module.function("warp", 0).unwrap();
        let buffer = device.allocate(4, "a test").unwrap();
        for launch in [Launch::linear(0, THREADS), Launch::linear(1, 0), Launch::linear(1, 4096)] {
            // SAFETY: the argument is that of `warp`.
            let error = unsafe { stream.launch(&warp, launch, [(&buffer.pointer()).into()]) }.unwrap_err();
            assert!(matches!(&error, GpuError::Launch { kernel, .. } if kernel == "warp"), "{error:?}");
        }
        let error = module.function("wrap", 0).unwrap_err();
        assert_eq!(error.to_string(), "the device code has no kernel wrap");
        assert!(matches!(module.function("a\0b", 0), Err(GpuError::Nul { .. })));
    }
    on_each_runtime!(claim);
}

#[test]
fn code_is_compiled_for_the_width_of_the_devices_warps() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let (stream, module) = (device.stream().unwrap(), kernels(&device));
        let warp = module.function("warp", 0).unwrap();
        let width = device.allocate(4, "a test").unwrap();
        // SAFETY: the argument is that of `warp`.
        unsafe { stream.launch(&warp, Launch::linear(1, THREADS), [(&width.pointer()).into()]) }.unwrap();
        let mut received = [0; 4];
        stream.read(&width, 0, &mut received).unwrap();
        assert_eq!(u32::from_le_bytes(received), device.properties().warp);
    }
    on_each_runtime!(claim, "STANDIN_WARP" = "32");
    on_each_runtime!(claim, "STANDIN_WARP" = "64");
}

#[test]
fn a_stream_waits_for_an_event_of_another() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let [first, second] = [(); 2].map(|()| device.stream().unwrap());
        let event = device.event().unwrap();
        let [from, mut to] = [100, 100].map(|bytes| device.allocate(bytes, "a test").unwrap());
        first.fill(&from, 0, 100, 5).unwrap();
        first.record(&event).unwrap();
        second.wait(&event).unwrap();
        second.copy(&mut to, 0, &from, 0, 100).unwrap();
        let mut received = [0; 100];
        second.read(&to, 0, &mut received).unwrap();
        assert_eq!(received, [5; 100]);
    }
    on_each_runtime!(claim);
}

#[test]
fn timed_events_tell_the_time_between_them() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let stream = device.stream().unwrap();
        let buffer = device.allocate(1 << 20, "a test").unwrap();
        let [start, end] = [(); 2].map(|()| device.timed_event().unwrap());
        stream.record(&start).unwrap();
        stream.fill(&buffer, 0, 1 << 20, 1).unwrap();
        stream.record(&end).unwrap();
        let milliseconds = end.milliseconds_since(&start).unwrap();
        assert!(milliseconds > 0.0 && milliseconds < 1e4, "{milliseconds}");
        assert!(device.event().unwrap().milliseconds_since(&start).is_err(), "an event without a time");
    }
    on_each_runtime!(claim);
}

#[test]
fn a_graph_repeats_what_was_captured() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let (stream, module) = (device.stream().unwrap(), kernels(&device));
        let add = module.function("add", 0).unwrap();
        let sum = upload(&device, &stream, &[0.0; 100]);
        let one = upload(&device, &stream, &[1.0; 100]);
        let (to, from) = (sum.pointer(), one.pointer());
        let launch = Launch::linear(2, THREADS);
        let add = || {
            // SAFETY: the arguments are those of `add`; the buffers live until the last read.
            unsafe {
                let arguments = [(&to).into(), (&to).into(), (&from).into(), (&100).into()];
                stream.launch(&add, launch, arguments)
            }
        };
        let mut graph = stream.capture(|| add().and_then(|()| add())).unwrap();
        assert_eq!(download(&stream, &sum), [0.0; 100], "captured, and not done");
        for _ in 0..3 {
            // SAFETY: as above.
            unsafe { stream.launch_graph(&mut graph) }.unwrap();
        }
        assert_eq!(download(&stream, &sum), [6.0; 100]);
    }
    on_each_runtime!(claim);
}

#[test]
fn a_graph_that_is_dropped_while_it_is_queued_is_still_done() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let stream = device.stream().unwrap();
        let buffer = device.allocate(10, "a test").unwrap();
        let mut graph = stream.capture(|| stream.fill(&buffer, 0, 10, 8)).unwrap();
        // SAFETY: the buffer outlives it.
        unsafe { stream.launch_graph(&mut graph) }.unwrap();
        drop(graph);
        let mut received = [0; 10];
        stream.read(&buffer, 0, &mut received).unwrap();
        assert_eq!(received, [8; 10]);
    }
    on_each_runtime!(claim);
}

#[test]
fn what_is_dropped_waits_for_its_own_work_and_ends_no_capture_of_others() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let [ours, theirs] = [(); 2].map(|()| device.stream().unwrap());
        let [one, two] = [(); 2].map(|()| device.allocate(10, "a test").unwrap());
        let (pinned, module) = (device.pinned(10).unwrap(), kernels(&device));
        let event = device.event().unwrap();
        ours.record(&event).unwrap();
        let mut graph = ours.capture(|| ours.fill(&one, 0, 10, 8)).unwrap();
        // SAFETY: the buffer outlives it.
        unsafe { ours.launch_graph(&mut graph) }.unwrap();
        let mut things = Some((graph, event, module, pinned, ours));
        let mut captured = theirs
            .capture(|| {
                thread::scope(|scope| drop(scope.spawn(|| drop(things.take())).join()));
                theirs.fill(&two, 0, 10, 9)
            })
            .unwrap();
        // SAFETY: as above.
        unsafe { theirs.launch_graph(&mut captured) }.unwrap();
        for (buffer, expected) in [(&one, 8), (&two, 9)] {
            let mut received = [0; 10];
            theirs.read(buffer, 0, &mut received).unwrap();
            assert_eq!(received, [expected; 10]);
        }
    }
    on_each_runtime!(claim);
}

#[test]
fn after_a_capture_that_failed_the_stream_works_on() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let stream = device.stream().unwrap();
        let buffer = device.allocate(10, "a test").unwrap();
        let error = stream.capture(|| stream.fill(&buffer, 0, 11, 1)).unwrap_err();
        assert!(matches!(error, GpuError::Range { .. }), "{error:?}");
        let error = stream.capture(|| stream.synchronize()).unwrap_err();
        assert!(error.to_string().contains("StreamSynchronize"), "{error}");
        stream.write(&buffer, 0, &[2; 10]).unwrap();
    }
    on_each_runtime!(claim);
}
