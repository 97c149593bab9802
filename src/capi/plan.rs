//! What a model needs and where it would lie. Uses `checkpoint`.

use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::OnceLock;

use super::checkpoint::grok1_checkpoint;
use super::error::{Failure, grok1_error, guard};
use super::model::{GROK1_KV_BF16, kv_code, kv_type};
use super::pointer::{self, Versioned, c_string};
use super::status::grok1_status;
use crate::plan::{Device, KNOWN_DEVICES};
use crate::{Plan, PlanOptions};

/// What a model needs, and where it would lie.
///
/// Lifetime: until `grok1_plan_free`. Threads: immutable, may be used from any.
#[derive(Debug)]
pub struct grok1_plan {
    plan: Plan,
    shares: Vec<(CString, CString)>,
    places: Vec<CString>,
}

/// What a model is planned for. Call `grok1_plan_options_init` first; NULL for one session as long as the model was trained for, in the
/// memory of no device.
///
/// A device is described as "h100", "8xh200", "mybox:192GB:800GB/s": a name, with the number of them and an x before it if they are
/// several; then, each after a colon, the memory and its bandwidth, unless `grok1_known_device` has them.
///
/// Lifetime: the call that it is given to. Threads: it is only read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_plan_options {
    /// Set by `grok1_plan_options_init`.
    pub struct_size: usize,
    /// The devices of a node, in the order in which layers are given to them; NULL for none.
    pub devices: *const *const c_char,
    /// How many descriptions.
    pub n_devices: usize,
    /// The processor and its memory, on every node, described as a device; NULL to use none.
    pub host: *const c_char,
    /// Positions of each session; 0 for those that the model was trained for.
    pub context: usize,
    /// Sessions that are held at once; 0 for 1.
    pub sessions: usize,
    /// Tokens that go through the layers together at most; 0 for the default, 512.
    pub batch_rows: usize,
    /// Machines that all have these devices; 0 for 1.
    pub nodes: usize,
    /// Bytes per second between two nodes; 0 for 12.5 GB/s.
    pub link: u64,
    /// `GROK1_KV_...`
    pub kv_type: i32,
    /// Zero.
    pub reserved: i32,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_plan_options {}

impl Default for grok1_plan_options {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            devices: ptr::null(),
            n_devices: 0,
            host: ptr::null(),
            context: 0,
            sessions: 0,
            batch_rows: 0,
            nodes: 0,
            link: 0,
            kv_type: GROK1_KV_BF16,
            reserved: 0,
        }
    }
}

impl grok1_plan_options {
    /// # Safety
    /// As the header asks of its fields.
    unsafe fn to_rust(self) -> Result<PlanOptions, Failure> {
        pointer::reserved("options", self.reserved)?;
        let mut options = PlanOptions::new().kv_type(kv_type(self.kv_type)?);
        if self.context > 0 {
            options = options.context(self.context);
        }
        if self.sessions > 0 {
            options = options.sessions(self.sessions);
        }
        if self.batch_rows > 0 {
            options = options.batch_rows(self.batch_rows);
        }
        if self.nodes > 0 {
            options = options.nodes(self.nodes);
        }
        if self.link > 0 {
            options = options.link(self.link);
        }
        // SAFETY: as this function asks.
        for &device in unsafe { pointer::slice("devices", self.devices, self.n_devices)? } {
            // SAFETY: as this function asks.
            options = options.devices(Device::parse(unsafe { pointer::word("a device", device)? })?);
        }
        if !self.host.is_null() {
            // SAFETY: as this function asks.
            let host = Device::parse(unsafe { pointer::word("host", self.host)? })?;
            options = host.into_iter().fold(options, PlanOptions::host);
        }
        Ok(options)
    }
}

/// Fills `options`, which has `size` bytes (`sizeof *options`), with the defaults. NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_plan_options_init(options: *mut grok1_plan_options, size: usize) {
    // SAFETY: as the header asks.
    unsafe { pointer::init(options, size) }
}

/// Plans for a checkpoint. Reads nothing. `options` may be NULL.
///
/// Returns `GROK1_ERR_ARGUMENT` for a description of a device that is none.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_checkpoint_plan(
    checkpoint: *const grok1_checkpoint,
    options: *const grok1_plan_options,
    plan: *mut *mut grok1_plan,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::output("plan", plan)?;
            let handle = pointer::get("checkpoint", checkpoint)?;
            let plan = handle.checkpoint.plan(&pointer::options("options", options)?.to_rust()?);
            let shares = plan.shares.iter();
            let shares = shares.map(|share| (c_string(share.component.name()), c_string(share.dtype.name())));
            let (shares, places) = (shares.collect(), plan.places.iter());
            let places = places.map(|place| c_string(&place.device.name)).collect();
            out.write(pointer::new(grok1_plan { plan, shares, places }));
            Ok(())
        })
    }
}

/// A plan as a whole. Sizes are bytes; those beyond 64 bits are the largest that 64 bits have.
///
/// Lifetime and threads: it is the caller's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_plan_info {
    /// The bytes that the caller said it has.
    pub struct_size: usize,
    /// Weights by component and format: what `grok1_plan_get_share` counts to.
    pub shares: usize,
    /// Devices, and hosts where those are needed: what `grok1_plan_get_place` counts to.
    pub places: usize,
    /// Positions of a session.
    pub context: usize,
    /// Sessions that are held at once.
    pub sessions: usize,
    /// Times that a token's hidden state goes from one node to the next.
    pub hops: usize,
    /// All weights as they are stored.
    pub weights: u64,
    /// Weights that one token reads.
    pub weights_per_token: u64,
    /// Keys and values of one token.
    pub kv_per_token: u64,
    /// Keys and values of a full session, in whole pages.
    pub kv_per_session: u64,
    /// An estimate of the activations of a batch, on each device that is used.
    pub scratch: u64,
    /// Weights, keys and values that found no place. A model mapped from files runs all the same, at the speed of the disk.
    pub left_over: u64,
    /// What a hidden state has.
    pub hidden: u64,
    /// Bytes per second of the link between nodes.
    pub link: u64,
    /// Tokens per second that memory allows a session at its beginning, layer after layer; 0 if that is not known.
    pub layer_split_empty: f64,
    /// The same at the end of the context.
    pub layer_split_full: f64,
    /// Tokens per second that memory allows a session at its beginning, with every matrix cut over all devices; 0 if that cannot be.
    pub tensor_parallel_empty: f64,
    /// The same at the end of the context.
    pub tensor_parallel_full: f64,
    /// `GROK1_KV_...`
    pub kv_type: i32,
    /// Not 0 if everything has a place.
    pub fits: i32,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_plan_info {}

/// Fills `info`, which has `size` bytes (`sizeof *info`).
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_plan_get_info(
    plan: *const grok1_plan,
    info: *mut grok1_plan_info,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("info", info, size)?;
            let handle = pointer::get("plan", plan)?;
            let plan = &handle.plan;
            let [layer_split, tensor_parallel] = [plan.layer_split, plan.tensor_parallel]
                .map(|ceiling| ceiling.map_or((0.0, 0.0), |ceiling| (ceiling.empty, ceiling.full)));
            out.put(grok1_plan_info {
                struct_size: size,
                shares: plan.shares.len(),
                places: plan.places.len(),
                context: plan.context,
                sessions: plan.sessions,
                hops: plan.hops,
                weights: plan.weights,
                weights_per_token: plan.weights_per_token,
                kv_per_token: plan.kv_per_token,
                kv_per_session: plan.kv_per_session,
                scratch: plan.scratch,
                left_over: plan.left_over,
                hidden: plan.hidden,
                link: plan.link,
                layer_split_empty: layer_split.0,
                layer_split_full: layer_split.1,
                tensor_parallel_empty: tensor_parallel.0,
                tensor_parallel_full: tensor_parallel.1,
                kv_type: kv_code(plan.kv_type),
                fits: plan.fits().into(),
            });
            Ok(())
        })
    }
}

/// The weights of a component that are stored in one format.
///
/// Lifetime: its strings live as long as the plan. Threads: it is the caller's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_plan_share {
    /// The bytes that the caller said it has.
    pub struct_size: usize,
    /// "embedding", "attention", "router", "experts", "norms", "output".
    pub component: *const c_char,
    /// The format: "f32", "i8", "q4_k".
    pub dtype: *const c_char,
    /// Bytes of elements and of their scales.
    pub bytes: u64,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_plan_share {}

/// Fills `share`, which has `size` bytes (`sizeof *share`), with number `index` of the shares.
///
/// Returns `GROK1_ERR_ARGUMENT` if there are not so many.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_plan_get_share(
    plan: *const grok1_plan,
    index: usize,
    share: *mut grok1_plan_share,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("share", share, size)?;
            let handle = pointer::get("plan", plan)?;
            let found = handle.plan.shares.get(index).zip(handle.shares.get(index));
            let (share, (component, dtype)) =
                found.ok_or_else(|| pointer::beyond(index, handle.shares.len()))?;
            out.put(grok1_plan_share {
                struct_size: size,
                component: component.as_ptr(),
                dtype: dtype.as_ptr(),
                bytes: share.bytes,
            });
            Ok(())
        })
    }
}

/// A device, or the memory of a host, and what lies there. Sizes are bytes.
///
/// Lifetime: its name lives as long as the plan. Threads: it is the caller's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_plan_place {
    /// The bytes that the caller said it has.
    pub struct_size: usize,
    /// The device's name.
    pub name: *const c_char,
    /// The machine it is in, from 0.
    pub node: usize,
    /// The first layer that lies there, with its keys and values.
    pub first_layer: usize,
    /// How many layers.
    pub layers: usize,
    /// Memory that a model may take.
    pub memory: u64,
    /// Bytes per second that its memory gives; 0 if that is not known.
    pub bandwidth: u64,
    /// Weights.
    pub weights: u64,
    /// Keys and values of all sessions.
    pub kv: u64,
    /// Activations.
    pub scratch: u64,
    /// Weights that one token reads.
    pub weights_per_token: u64,
    /// Keys and values that the last token of a full session reads.
    pub kv_read: u64,
    /// Not 0 if it is a host's processor and memory.
    pub host: i32,
    /// Not 0 if the embedding lies there.
    pub embedding: i32,
    /// Not 0 if the last norm and the output projection lie there.
    pub head: i32,
    /// Not 0 if anything lies there.
    pub used: i32,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_plan_place {}

/// Fills `place`, which has `size` bytes (`sizeof *place`), with number `index` of the places.
///
/// Returns `GROK1_ERR_ARGUMENT` if there are not so many.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_plan_get_place(
    plan: *const grok1_plan,
    index: usize,
    place: *mut grok1_plan_place,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("place", place, size)?;
            let handle = pointer::get("plan", plan)?;
            let found = handle.plan.places.get(index).zip(handle.places.get(index));
            let (place, name) = found.ok_or_else(|| pointer::beyond(index, handle.places.len()))?;
            out.put(grok1_plan_place {
                struct_size: size,
                name: name.as_ptr(),
                node: place.node,
                first_layer: place.layers.start,
                layers: place.layers.len(),
                memory: place.device.memory,
                bandwidth: place.device.bandwidth.unwrap_or(0),
                weights: place.weights,
                kv: place.kv,
                scratch: place.scratch,
                weights_per_token: place.weights_per_token,
                kv_read: place.kv_read,
                host: place.host.into(),
                embedding: place.embedding.into(),
                head: place.head.into(),
                used: place.is_used().into(),
            });
            Ok(())
        })
    }
}

/// Frees a plan. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grok1_plan_free(plan: *mut grok1_plan) {
    // SAFETY: as the header asks.
    unsafe { pointer::free(plan) }
}

/// A device whose figures are published.
///
/// Lifetime: its strings live as long as the process. Threads: it is the caller's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct grok1_device {
    /// The bytes that the caller said it has.
    pub struct_size: usize,
    /// What it is called in descriptions.
    pub name: *const c_char,
    /// Where the figures are from.
    pub source: *const c_char,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes per second that its memory gives; 0 if no figure of its maker's was found.
    pub bandwidth: u64,
}

// SAFETY: `repr(C)`, its size first, then numbers and pointers.
unsafe impl Versioned for grok1_device {}

/// Fills `device`, which has `size` bytes (`sizeof *device`), with number `index` of the devices that descriptions can name without their
/// figures.
///
/// Returns `GROK1_ERR_ARGUMENT` if there are not so many.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn grok1_known_device(
    index: usize,
    device: *mut grok1_device,
    size: usize,
    error: *mut *mut grok1_error,
) -> grok1_status {
    static TEXTS: OnceLock<Vec<(CString, CString)>> = OnceLock::new();
    // SAFETY: as the header asks.
    unsafe {
        guard(error, || {
            let out = pointer::sized_output("device", device, size)?;
            let texts = TEXTS.get_or_init(|| {
                let known = KNOWN_DEVICES.iter();
                known
                    .map(|device| {
                        (c_string(device.names.first().copied().unwrap_or_default()), c_string(device.source))
                    })
                    .collect()
            });
            let found = KNOWN_DEVICES.get(index).zip(texts.get(index));
            let (known, (name, source)) = found.ok_or_else(|| pointer::beyond(index, KNOWN_DEVICES.len()))?;
            out.put(grok1_device {
                struct_size: size,
                name: name.as_ptr(),
                source: source.as_ptr(),
                memory: known.memory,
                bandwidth: known.bandwidth.unwrap_or(0),
            });
            Ok(())
        })
    }
}
