//! Buffers, pinned memory, copies.

use std::sync::Arc;
use std::thread;

use grok1::backend::gpu::{Device, GpuError, Runtime};

use crate::device::open;

/// Bytes that differ.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 7 + i / 256) as u8).collect()
}

#[test]
fn bytes_go_there_and_back() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let (stream, buffer) = (device.stream().unwrap(), device.allocate(1000, "a test").unwrap());
        let sent = bytes(1000);
        stream.write(&buffer, 0, &sent).unwrap();
        stream.write(&buffer, 100, &sent[..50]).unwrap();
        let mut received = vec![0; 200];
        stream.read(&buffer, 50, &mut received).unwrap();
        assert_eq!(received[..50], sent[50..100]);
        assert_eq!(received[50..100], sent[..50]);
        assert_eq!(received[100..], sent[150..250]);
        stream.read(&buffer, 1000, &mut []).unwrap();
    }
    on_each_runtime!(claim);
}

#[test]
fn buffers_are_copied_and_filled_on_the_device() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let stream = device.stream().unwrap();
        let [from, mut to] = [300, 400].map(|bytes| device.allocate(bytes, "a test").unwrap());
        let sent = bytes(300);
        stream.write(&from, 0, &sent).unwrap();
        stream.fill(&to, 0, 400, 9).unwrap();
        stream.copy(&mut to, 20, &from, 10, 100).unwrap();
        let mut received = vec![0; 400];
        stream.read(&to, 0, &mut received).unwrap();
        assert_eq!(received[20..120], sent[10..110]);
        assert!(received[..20].iter().chain(&received[120..]).all(|&byte| byte == 9));
    }
    on_each_runtime!(claim);
}

#[test]
fn pinned_memory_is_zeroed_and_copied_while_the_host_goes_on() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let (stream, buffer) = (device.stream().unwrap(), device.allocate(5000, "a test").unwrap());
        let [mut from, mut to] = [(); 2].map(|()| device.pinned(5000).unwrap());
        assert!(from.iter().all(|&byte| byte == 0));
        from.copy_from_slice(&bytes(5000));
        // SAFETY: neither is touched before the stream was waited for.
        unsafe {
            stream.queue_write(&buffer, 0, &from).unwrap();
            stream.queue_read(&buffer, 0, &mut to).unwrap();
        }
        stream.synchronize().unwrap();
        assert!(*from == *to);
    }
    on_each_runtime!(claim);
}

#[test]
fn a_copy_that_leaves_its_buffer_is_refused() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let (stream, mut buffer) = (device.stream().unwrap(), device.allocate(100, "a test").unwrap());
        let other = device.allocate(50, "a test").unwrap();
        for (at, bytes) in [(1, 100), (101, 0), (usize::MAX, 2)] {
            let errors = [
                stream.write(&buffer, at, &vec![0; bytes]),
                stream.read(&buffer, at, &mut vec![0; bytes]),
                stream.fill(&buffer, at, bytes, 0),
                stream.copy(&mut buffer, at, &other, 0, bytes),
            ];
            for error in errors {
                assert!(matches!(error, Err(GpuError::Range { .. })), "{at}, {bytes}: {error:?}");
            }
        }
        assert!(matches!(stream.copy(&mut buffer, 0, &other, 0, 51), Err(GpuError::Range { of: 50, .. })));
    }
    on_each_runtime!(claim);
}

#[test]
fn out_of_memory_tells_how_much_is_missing_and_leaves_nothing_behind() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        assert_eq!(device.memory().unwrap().total, 1 << 20);
        let load = || (0..20).map(|_| device.allocate(100_000, "layers")).collect::<Result<Vec<_>, _>>();
        let error = load().unwrap_err();
        assert_eq!(error.missing_bytes(), Some(100_000 - 48_576));
        assert_eq!(
            error.to_string(),
            "out of device memory: 100000 bytes for layers, 48576 are free, 51424 missing"
        );
        assert_eq!(device.memory().unwrap().free, 1 << 20);
        assert_eq!(device.allocate(1 << 20, "all").unwrap().len(), 1 << 20);
    }
    if std::env::var("GROK1_GPU").is_err() {
        on_each_runtime!(claim, "STANDIN_MEMORY" = "1048576");
    }
}

#[test]
fn things_of_a_device_are_used_and_dropped_by_any_thread() {
    fn claim<R: Runtime>() {
        let device = open::<R>();
        let (stream, buffer) = (device.stream().unwrap(), device.allocate(10, "a test").unwrap());
        let event = device.event().unwrap();
        drop(device);
        let worker = thread::spawn(move || {
            stream.write(&buffer, 0, &[3; 10]).unwrap();
            stream.record(&event).unwrap();
            event.synchronize().unwrap();
            let mut received = [0; 10];
            stream.read(&buffer, 0, &mut received).unwrap();
            received
        });
        assert_eq!(worker.join().unwrap(), [3; 10]);
    }
    on_each_runtime!(claim);
}

#[test]
fn things_of_different_devices_do_not_mix() {
    fn claim<R: Runtime>() {
        let runtime = Arc::new(R::load().unwrap());
        assert_eq!(runtime.devices(), 2);
        let [one, two] = [0, 1].map(|ordinal| Device::open(&runtime, ordinal).unwrap());
        let stream = one.stream().unwrap();
        let [ours, other] = [&one, &two].map(|device| device.allocate(1000, "a test").unwrap());
        assert_eq!(one.memory().unwrap().free, two.memory().unwrap().free);
        stream.write(&ours, 0, &[1]).unwrap();
        assert!(matches!(stream.write(&other, 0, &[1]), Err(GpuError::OtherDevice)));
        assert!(matches!(stream.record(&two.event().unwrap()), Err(GpuError::OtherDevice)));
    }
    if std::env::var("GROK1_GPU").is_err() {
        on_each_runtime!(claim, "STANDIN_DEVICES" = "2");
    }
}
