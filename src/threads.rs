//! Regions of parallel work that last microseconds. Uses `machine`.
//!
//! Results never depend on the number of threads: a region consists of parts that are fixed by the shapes of the work, and each
//! part writes what no other part touches.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::machine::Cpus;

/// Runs the parts of a region, on however many threads there are.
///
/// A host with threads of its own may lend them by implementing this.
pub trait Pool: Send + Sync {
    /// How many threads work at once, the caller's included.
    fn width(&self) -> usize;

    /// Calls `part(i)` once for each `i` in `0..parts`, on any thread and in any order, and returns when all have returned.
    ///
    /// A pool that does otherwise makes wrong results, never memory errors.
    fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync));
}

/// How long an idle worker looks for the next region before it goes to sleep.
const SPIN: Duration = Duration::from_micros(100);

/// The crate's own [`Pool`]: workers spin between the regions of one token and sleep when nothing comes.
///
/// Nobody waits for a worker that has not joined: on a busy machine a region ends when its parts are done, not when the last
/// thread got its turn.
///
/// ```
/// use grok1::{Pool, Threads};
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// let threads = Threads::new(3)?;
/// let sum = AtomicU32::new(0);
/// threads.run(10, &|part| {
///     sum.fetch_add(part as u32, Ordering::Relaxed);
/// });
/// assert_eq!(sum.into_inner(), 45);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the length of a region: one at a time.
    turn: Mutex<()>,
}

#[derive(Default)]
struct Shared {
    /// The region that may be joined, null when there is none.
    region: AtomicPtr<Region<'static>>,
    /// The current region's next part, and how many it has.
    next: AtomicUsize,
    parts: AtomicUsize,
    /// Workers that may be looking at a region. Only when this is zero and `region` is null is the region gone for good.
    inside: AtomicUsize,
    /// One flag per worker.
    asleep: Vec<AtomicBool>, // [workers]
    stop: AtomicBool,
}

/// A call of [`Threads::run`], on its caller's stack.
struct Region<'a> {
    part: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Region<'_> {
    /// Does parts until none is left. Never unwinds.
    fn work(&self, next: &AtomicUsize, parts: usize) {
        loop {
            let index = next.fetch_add(1, SeqCst);
            if index >= parts {
                return;
            }
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (self.part)(index))) {
                next.store(parts, SeqCst);
                let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                match *first {
                    None => *first = Some(payload),
                    // Dropping it could panic again.
                    Some(_) => std::mem::forget(payload),
                }
            }
        }
    }
}

/// Threads that one pool may have.
const MAX_WIDTH: usize = 4096;

impl Threads {
    /// `width` threads that work at once: the caller's and `width - 1` workers. Zero means one per core that this thread may use:
    /// affinity and container limits count, and of the processors of one core, which share its arithmetic, one.
    ///
    /// # Errors
    /// The operating system could not start a thread, or there would be more than 4096.
    pub fn new(width: usize) -> io::Result<Self> {
        Self::start(width, Cpus::allowed().as_ref(), |_| Vec::new())
    }

    /// As [`new`](Self::new), and each worker stays on a processor: on cores of their own while there are any, the first core being left
    /// to the caller, who may run anywhere. For machines that run little else. Where the system cannot do that (it can on Linux),
    /// workers run anywhere too.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn pinned(width: usize) -> io::Result<Self> {
        let cpus = Cpus::allowed();
        let place = |index| cpus.as_ref().and_then(|cpus| cpus.place(index));
        Self::start(width, cpus.as_ref(), |index| place(index).into_iter().collect())
    }

    /// As [`new`](Self::new), on the processors of a NUMA node: zero means one per core of it, and each worker stays among them, or on one
    /// of them if `pinned`. The caller may run anywhere.
    ///
    /// # Errors
    /// As [`new`](Self::new); of kind [`NotFound`](io::ErrorKind::NotFound) if this process may use no processor of such a node, or the
    /// system does not say (Linux does).
    pub fn of_node(node: usize, width: usize, pinned: bool) -> io::Result<Self> {
        let Some(cpus) = Cpus::allowed().and_then(|cpus| cpus.of_node(node)) else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no NUMA node {node} with processors that this process may use"),
            ));
        };
        let places =
            |index| if pinned { cpus.place(index).into_iter().collect() } else { cpus.all().collect() };
        Self::start(width, Some(&cpus), places)
    }

    /// Threads each on the processors of `places`; anywhere where that is none.
    fn start(width: usize, cpus: Option<&Cpus>, places: impl Fn(usize) -> Vec<usize>) -> io::Result<Self> {
        let width = match width {
            0 => {
                let available = thread::available_parallelism().map_or(1, usize::from);
                cpus.map_or(available, |cpus| available.min(cpus.cores())).min(MAX_WIDTH)
            }
            1..=MAX_WIDTH => width,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{width} threads, expected at most {MAX_WIDTH}"),
                ));
            }
        };
        let asleep = (1..width).map(|_| AtomicBool::new(false)).collect();
        let shared = Arc::new(Shared { asleep, ..Shared::default() });
        let mut threads = Self { shared, workers: Vec::new(), turn: Mutex::new(()) };
        for index in 0..width - 1 {
            let shared = Arc::clone(&threads.shared);
            let places = places(index + 1);
            let worker = thread::Builder::new().name(format!("grok1-{index}")).spawn(move || {
                keep_on(&places);
                shared.serve(index);
            })?;
            threads.workers.push(worker);
        }
        Ok(threads)
    }
}

/// Keeps the calling thread on these processors, if there are any. A system that refuses is no reason not to work.
#[cfg(target_os = "linux")]
fn keep_on(cpus: &[usize]) {
    if cpus.is_empty() {
        return;
    }
    const BITS: usize = libc::c_ulong::BITS as usize;
    let mut set = [0 as libc::c_ulong; (1 << 16) / BITS]; // more than `Cpus` knows
    for cpu in cpus {
        if let Some(word) = set.get_mut(cpu / BITS) {
            *word |= 1 << (cpu % BITS);
        }
    }
    // SAFETY: the kernel reads so many bytes of the set and changes nothing but where this thread runs.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), set.as_ptr().cast()) };
    if result != 0 {
        log::warn!("a thread cannot be kept on the processors {cpus:?}: {}", io::Error::last_os_error());
    }
}

#[cfg(not(target_os = "linux"))]
fn keep_on(_: &[usize]) {}

impl Pool for Threads {
    fn width(&self) -> usize {
        self.workers.len() + 1
    }

    fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        // A busy pool (another model's region, or a call from within a part) must not block: the caller does the work.
        let turn = match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        let helpers = parts.saturating_sub(1).min(self.workers.len());
        let region = Region { part, panic: Mutex::new(None) };
        if turn.is_none() || helpers == 0 {
            region.work(&AtomicUsize::new(0), parts);
        } else {
            self.shared.next.store(0, SeqCst);
            self.shared.parts.store(parts, SeqCst);
            self.shared.region.store(ptr::from_ref(&region).cast_mut().cast(), SeqCst);
            for (asleep, worker) in self.shared.asleep.iter().zip(&self.workers).take(helpers) {
                if asleep.swap(false, SeqCst) {
                    worker.thread().unpark();
                }
            }
            region.work(&self.shared.next, parts);
            self.shared.region.store(ptr::null_mut(), SeqCst);
            let mut looks = 0_u32;
            while self.shared.inside.load(SeqCst) != 0 {
                looks += 1;
                if looks.is_multiple_of(1024) { thread::yield_now() } else { std::hint::spin_loop() }
            }
        }
        drop(turn);
        if let Some(payload) = region.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }
}

impl Shared {
    /// A worker's life.
    fn serve(&self, index: usize) {
        let mut idle_since = Instant::now();
        while !self.stop.load(SeqCst) {
            if self.join() {
                idle_since = Instant::now();
                continue;
            }
            for _ in 0..64 {
                std::hint::spin_loop();
            }
            if idle_since.elapsed() > SPIN {
                let Some(asleep) = self.asleep.get(index) else { return };
                asleep.store(true, SeqCst);
                // Whoever publishes a region after this look sees the flag and wakes us.
                let nothing =
                    self.region.load(SeqCst).is_null() || self.next.load(SeqCst) >= self.parts.load(SeqCst);
                if nothing && !self.stop.load(SeqCst) {
                    thread::park();
                }
                asleep.store(false, SeqCst);
                idle_since = Instant::now();
            }
        }
    }

    /// Helps with the current region, if there is one with work left.
    fn join(&self) -> bool {
        // Looked at without writing anything that others wait for.
        if self.region.load(SeqCst).is_null() || self.next.load(SeqCst) >= self.parts.load(SeqCst) {
            return false;
        }
        self.inside.fetch_add(1, SeqCst);
        // Looked at again after `inside` was raised: a region found now cannot end before `inside` falls.
        let region = self.region.load(SeqCst);
        let found = !region.is_null();
        if found {
            // SAFETY: the pointer is not null, so its `run` has not yet taken it back; after taking it back `run` waits for
            // `inside` to be zero, and both are sequentially consistent, so the region outlives this use.
            unsafe { &*region }.work(&self.next, self.parts.load(SeqCst));
        }
        self.inside.fetch_sub(1, SeqCst);
        found
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker cannot panic: parts are caught.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("width", &self.width()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_runs_exactly_once() {
        for width in 1..=4 {
            let threads = Threads::new(width).unwrap();
            for parts in [0, 1, 2, 3, 17, 1000] {
                let counts: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                threads.run(parts, &|part| {
                    counts[part].fetch_add(1, SeqCst);
                });
                assert!(counts.iter().all(|count| count.load(SeqCst) == 1));
            }
        }
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let threads = Threads::new(2).unwrap();
        for _ in 0..3 {
            thread::sleep(SPIN * 20);
            let ids = Mutex::new(Vec::new());
            let both = std::sync::Barrier::new(2);
            threads.run(2, &|_| {
                both.wait();
                ids.lock().unwrap().push(thread::current().id());
            });
            let ids = ids.into_inner().unwrap();
            assert_ne!(ids[0], ids[1]);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_stays_usable() {
        let threads = Threads::new(3).unwrap();
        let caught = catch_unwind(AssertUnwindSafe(|| threads.run(10, &|part| assert_ne!(part, 7))));
        assert!(caught.is_err());
        let count = AtomicUsize::new(0);
        threads.run(10, &|_| {
            count.fetch_add(1, SeqCst);
        });
        assert_eq!(count.into_inner(), 10);
    }

    #[test]
    fn a_region_inside_a_region_runs_on_its_caller() {
        let threads = Threads::new(2).unwrap();
        let count = AtomicUsize::new(0);
        threads.run(4, &|_| {
            threads.run(4, &|_| {
                count.fetch_add(1, SeqCst);
            })
        });
        assert_eq!(count.into_inner(), 16);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn pinned_workers_stay_on_one_processor() {
        let threads = Threads::pinned(3).unwrap();
        let caller = thread::current().id();
        let (all, places) = (std::sync::Barrier::new(3), Mutex::new(Vec::new()));
        threads.run(3, &|_| {
            all.wait();
            if thread::current().id() != caller {
                let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
                let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
                places.lock().unwrap().push(list.trim().parse::<usize>());
            }
        });
        let places = places.into_inner().unwrap();
        assert!(places.len() == 2 && places.iter().all(Result::is_ok), "{places:?}");
    }

    #[test]
    fn a_node_that_there_is_not_has_no_threads() {
        let Err(error) = Threads::of_node(9999, 2, false) else { panic!("a node 9999") };
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("NUMA node 9999"), "{error}");
    }

    #[test]
    fn callers_on_several_threads_share_one_pool() {
        let threads = Threads::new(2).unwrap();
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        threads.run(5, &|_| {
                            count.fetch_add(1, SeqCst);
                        });
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 4 * 200 * 5);
    }
}
