//! What the stand-ins find: each of these makes a mistake on purpose, and is caught.

use grok1::backend::gpu::{DevicePointer, GpuError, Launch, Runtime};

use crate::device::{THREADS, kernels, open};
use crate::stand_in::{is_caught, runtime};

/// Makes the mistake in a process of its own, which has to end with these words.
macro_rules! caught {
    ($mistake:ident, $words:literal) => {
        match runtime() {
            Some(_) => on_each_runtime!($mistake),
            None => is_caught(test_name!(), $words),
        }
    };
}

#[test]
fn fresh_memory_is_poison() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let mut received = [0; 4];
        let buffer = device.allocate(4, "a test").unwrap();
        device.stream().unwrap().read(&buffer, 0, &mut received).unwrap();
        assert!(f32::from_le_bytes(received).is_nan());
    }
    if std::env::var("GROK1_GPU").is_err() {
        on_each_runtime!(claim);
    }
}

#[test]
fn the_host_cannot_touch_device_memory() {
    fn mistake<R: Runtime>() {
        let device = open::<R>();
        let buffer = device.allocate(4, "a test").unwrap();
        // SAFETY: none, on purpose.
        let value = unsafe { (buffer.pointer().0 as *const u8).read_volatile() };
        println!("{value}");
    }
    caught!(mistake, "stand-in: the host touches device memory");
}

#[test]
fn what_was_not_waited_for_is_not_there() {
    fn mistake<R: Runtime>() {
        let device = open::<R>();
        let (stream, buffer) = (device.stream().unwrap(), device.allocate(4, "a test").unwrap());
        let mut received = device.pinned(4).unwrap();
        stream.fill(&buffer, 0, 4, 7).unwrap();
        // SAFETY: none, on purpose: it is read below.
        unsafe { stream.queue_read(&buffer, 0, &mut received) }.unwrap();
        assert_eq!(*received, [7; 4], "not waited for");
    }
    caught!(mistake, "not waited for");
}

#[test]
fn an_argument_of_the_hosts_is_refused() {
    fn mistake<R: Runtime>() {
        let device = open::<R>();
        let (stream, module) = (device.stream().unwrap(), kernels(&device));
        let width = [0; 64];
        let pointer = DevicePointer(width.as_ptr() as u64);
        let warp = module.function("warp", 0).unwrap();
        // SAFETY: none, on purpose.
        unsafe { stream.launch(&warp, Launch::linear(1, THREADS), [(&pointer).into()]) }.unwrap();
        stream.synchronize().unwrap();
    }
    caught!(mistake, "stand-in: argument 0 of warp is an address of the host");
}

#[test]
fn an_argument_that_was_freed_is_refused() {
    fn mistake<R: Runtime>() {
        let device = open::<R>();
        let (stream, module) = (device.stream().unwrap(), kernels(&device));
        let pointer = device.allocate(4, "a test").unwrap().pointer();
        let warp = module.function("warp", 0).unwrap();
        // SAFETY: none, on purpose.
        unsafe { stream.launch(&warp, Launch::linear(1, THREADS), [(&pointer).into()]) }.unwrap();
        stream.synchronize().unwrap();
    }
    caught!(mistake, "stand-in: argument 0 of warp is an address of device memory that is not allocated");
}

#[test]
fn a_kernel_that_leaves_its_buffer_is_stopped() {
    fn mistake<R: Runtime>() {
        let device = open::<R>();
        let (stream, module) = (device.stream().unwrap(), kernels(&device));
        let buffer = device.allocate(256 * 4, "a test").unwrap();
        let add = module.function("add", 0).unwrap();
        let pointer = buffer.pointer();
        // SAFETY: none, on purpose: the buffer has 256 elements.
        unsafe {
            let [to, a, b] = [&pointer; 3].map(Into::into);
            stream.launch(&add, Launch::linear(5, THREADS), [to, a, b, (&257).into()]).unwrap();
        }
        stream.synchronize().unwrap();
    }
    caught!(mistake, "stand-in: access to device memory that is not allocated");
}

#[test]
fn pinned_memory_that_is_gone_is_not_copied() {
    fn mistake<R: Runtime>() {
        let runtime = R::load().unwrap();
        let context = runtime.retain(0).unwrap();
        // SAFETY: but for the mistake, handles are used as they should be.
        unsafe {
            runtime.bind(context).unwrap();
            let stream = runtime.create_stream().unwrap();
            let (pinned, memory) = (runtime.allocate_pinned(100).unwrap(), runtime.allocate(100).unwrap());
            runtime.copy_to_device(memory, pinned, 100, stream).unwrap();
            runtime.free_pinned(pinned).unwrap();
            runtime.synchronize_stream(stream).unwrap();
        }
    }
    caught!(mistake, "stand-in: access to pinned memory that was given back");
}

#[test]
fn a_copy_outside_any_buffer_is_refused() {
    fn claim<R: Runtime>() {
        let runtime = R::load().unwrap();
        let context = runtime.retain(0).unwrap();
        // SAFETY: but for the mistake, handles are used as they should be.
        unsafe {
            runtime.bind(context).unwrap();
            let stream = runtime.create_stream().unwrap();
            let memory = runtime.allocate(100).unwrap();
            let bytes = [0; 101];
            assert_eq!(runtime.copy_to_device(memory, bytes.as_ptr(), 101, stream).unwrap_err().code, 1);
            assert_eq!(runtime.fill(memory.offset(1), 0, 100, stream).unwrap_err().code, 1);
            runtime.copy_to_device(memory, bytes.as_ptr(), 100, stream).unwrap();
            runtime.synchronize_stream(stream).unwrap();
        }
    }
    if std::env::var("GROK1_GPU").is_err() {
        on_each_runtime!(claim);
    }
}

#[test]
fn a_kernel_that_fails_is_told_by_the_next_wait_and_no_later_kernel_is_blamed() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let (stream, module) = (device.stream().unwrap(), kernels(&device));
        let values = device.allocate(4 * THREADS as usize, "a test").unwrap();
        let [uneven, warp] = ["uneven_barrier", "warp"].map(|name| module.function(name, 0).unwrap());
        let launch = |kernel| {
            // SAFETY: the argument is that of both.
            unsafe { stream.launch(kernel, Launch::linear(1, THREADS), [(&values.pointer()).into()]) }
        };
        launch(&uneven).unwrap();
        let errors = [stream.synchronize(), device.synchronize(), launch(&warp)].map(Result::unwrap_err);
        for error in errors {
            assert!(matches!(&error, GpuError::Failed(error) if error.code == 719), "{error:?}");
            assert_eq!(error.to_string(), "work that was queued earlier has failed on the device");
        }
    }
    if std::env::var("GROK1_GPU").is_err() {
        on_each_runtime!(claim);
    }
}
