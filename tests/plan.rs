//! What a model needs, and where it would lie.

mod support {
    pub(crate) mod xai;
}

use std::fs;
use std::path::Path;
use std::time::Instant;

use grok1::backend::activation_bytes;
use grok1::checkpoint::{Checkpoint, Synthetic, synthetic};
use grok1::plan::{Component, Device};
use grok1::{DType, KvType, Model, ModelConfig, Plan, PlanOptions};

const GB: u64 = 1_000_000_000;

fn grok1(dtype: DType) -> Checkpoint {
    synthetic(&Synthetic::new().dtype(dtype)).unwrap()
}

fn devices(text: &str) -> PlanOptions {
    PlanOptions::new().devices(Device::parse(text).unwrap())
}

fn near(found: f64, expected: f64) -> bool {
    (found / expected - 1.0).abs() < 1e-3
}

#[test]
fn grok_1_has_the_sizes_of_its_specification() {
    for (dtype, weights, read) in [
        (DType::F32, 1262.7, 335.0),
        (DType::BF16, 631.4, 167.5),
        (DType::I8, 318.2, 86.2),
        (DType::Q8_0, 335.4, 89.0),
        (DType::Q6K, 259.0, 68.7),
        (DType::Q5K, 217.0, 57.6),
        (DType::Q4K, 177.6, 47.1),
        (DType::Iq4Xs, 167.7, 44.5),
        (DType::Iq3S, 135.6, 36.0),
        (DType::Iq3Xxs, 120.8, 32.1),
        (DType::Q2K, 103.6, 27.5),
        (DType::Iq2Xxs, 81.4, 21.6),
    ] {
        let checkpoint = grok1(dtype);
        let plan = checkpoint.plan(&PlanOptions::new());
        assert_eq!(
            (plan.weights, plan.weights_per_token),
            (checkpoint.bytes(), checkpoint.bytes_per_token())
        );
        assert_eq!(plan.shares.iter().map(|share| share.bytes).sum::<u64>(), plan.weights);
        // The specification has four digits, the last of them rounded, and no f32 router.
        let digit = |found: u64, expected: f64| {
            (found as f64 / 1e9 - expected).abs() < 0.06 || near(found as f64 / 1e9, expected)
        };
        assert!(digit(plan.weights, weights) && digit(plan.weights_per_token, read), "{dtype}: {plan:?}");
    }
}

#[test]
fn weights_are_told_apart_by_component_and_format() {
    let plan = grok1(DType::I8).plan(&PlanOptions::new());
    let shares: Vec<_> =
        plan.shares.iter().map(|share| (share.component, share.dtype, share.bytes)).collect();
    // Elements, and two bytes for each scale: one a column, or eight where the release has row groups.
    let attention = 88_080_384 + 2 * (6144 + 1024 + 1024 + 8 * 6144);
    let expert = 603_979_776 + 2 * (32768 + 32768 + 8 * 6144);
    assert_eq!(
        shares,
        [
            (Component::Embedding, DType::F32, 4 * 805_306_368),
            (Component::Attention, DType::I8, 64 * attention),
            (Component::Router, DType::F32, 4 * 3_145_728),
            (Component::Experts, DType::I8, 64 * 8 * expert),
            (Component::Norms, DType::F32, 4 * 1_579_008),
        ]
    );
}

#[test]
fn keys_and_values_are_counted_in_pages() {
    let checkpoint = grok1(DType::Q4K);
    let plan = checkpoint.plan(&PlanOptions::new());
    assert_eq!((plan.context, plan.kv_per_token, plan.kv_per_session), (8192, 256 << 10, 2 << 30));
    let plan = checkpoint.plan(&PlanOptions::new().kv_type(KvType::F32).context(65).sessions(3));
    assert_eq!((plan.context, plan.kv_per_token, plan.kv_per_session), (65, 512 << 10, 64 << 20));
    assert_eq!(plan.sessions, 3);
}

#[test]
fn a_model_fits_to_the_byte() {
    let checkpoint = grok1(DType::Q4K);
    let options = PlanOptions::new().sessions(2).batch_rows(16);
    let scratch = activation_bytes(&checkpoint.config, 16);
    let needed = checkpoint.bytes() + (4 << 30) + scratch;
    let plan = |memory| checkpoint.plan(&options.clone().devices([Device::new("one", memory)]));
    let exact = plan(needed);
    assert!(exact.fits());
    assert_eq!(
        (exact.places[0].bytes(), exact.places[0].kv, exact.places[0].scratch),
        (needed, 4 << 30, scratch)
    );
    let short = plan(needed - 1);
    assert!(!short.fits() && short.layer_split.is_none());
    // The norm before the output projection, which is what comes last.
    assert_eq!(
        (short.left_over, short.places[0].layers.clone(), short.places[0].head),
        (4 * 6144, 0..64, false)
    );
    assert_eq!(plan(0).left_over, checkpoint.bytes() + (4 << 30));
    assert_eq!(checkpoint.plan(&options).left_over, checkpoint.bytes() + (4 << 30));
}

#[test]
fn layers_go_to_devices_in_order_and_a_tied_head_is_copied() {
    let checkpoint = grok1(DType::I8);
    let plan = checkpoint.plan(&devices("3xh200"));
    let ends: Vec<_> = plan.places.iter().map(|place| (place.embedding, place.head)).collect();
    assert_eq!(ends, [(true, false), (false, false), (false, true)]);
    let layers: Vec<_> = plan.places.iter().map(|place| place.layers.clone()).collect();
    assert_eq!((layers[0].start, layers[0].end, layers[1].end), (0, layers[1].start, layers[2].start));
    assert_eq!(layers[2].end, 64);
    let embedding = checkpoint.head.embedding.bytes();
    assert_eq!(plan.places.iter().map(|place| place.weights).sum::<u64>(), checkpoint.bytes() + embedding);
    assert_eq!(plan.places.iter().map(|place| place.weights_per_token).sum::<u64>(), plan.weights_per_token);
    assert!(plan.places.iter().all(|place| place.bytes() <= place.device.memory));
    // No layer more would have fitted.
    let layer = checkpoint.layers[0].bytes() + (2 << 30) / 64;
    assert!(plan.places[..2].iter().all(|place| place.bytes() + layer > place.device.memory));
}

/// Ceilings with an empty context.
fn speeds(plan: &Plan) -> (f64, f64) {
    (plan.layer_split.unwrap().empty, plan.tensor_parallel.unwrap().empty)
}

#[test]
fn ceilings_are_bandwidth_over_bytes() {
    let checkpoint = grok1(DType::I8);
    let read = checkpoint.bytes_per_token() as f64;
    let (split, parallel) = speeds(&checkpoint.plan(&devices("8xh100")));
    // Layers wait for each other; parts of matrices do not.
    assert!(near(split, 3.35e12 / read) && near(parallel, 8.0 * 3.35e12 / read), "{split} {parallel}");

    let plan = checkpoint.plan(&devices("big:400GB:1TB/s"));
    let ceiling = plan.layer_split.unwrap();
    assert!(near(ceiling.empty, 1e12 / read) && near(ceiling.full, 1e12 / (read + f64::from(2_u32 << 30))));
    assert!(plan.tensor_parallel.is_none());

    // Half of the layers at each speed.
    let plan =
        checkpoint.plan(&devices("fast:170GB:2TB/s").devices(Device::parse("slow:200GB:1TB/s").unwrap()));
    let [fast, slow] = [0, 1].map(|place| plan.places[place].weights_per_token as f64);
    assert!(near(plan.layer_split.unwrap().empty, 1.0 / (fast / 2e12 + slow / 1e12)));
    // The smaller holds its half, and the slower sets the pace.
    assert!(near(plan.tensor_parallel.unwrap().empty, 2e12 / read));

    assert!(checkpoint.plan(&devices("8xk100_ai")).layer_split.is_none(), "its bandwidth is not known");
    assert!(checkpoint.plan(&devices("8xk100_ai::800GB/s")).layer_split.is_some());
}

#[test]
fn what_devices_do_not_hold_lies_with_the_host_and_runs_at_its_speed() {
    let checkpoint = grok1(DType::I8);
    let host = || Device::new("host", 512 * GB).bandwidth(300 * GB);
    let plan = checkpoint.plan(&devices("2xh100").host(host()));
    assert!(plan.fits());
    let [first, second, host_place] = &plan.places[..] else { panic!("{:?}", plan.places) };
    assert!(!first.host && !second.host && host_place.host && host_place.head);
    let [on_devices, on_host] =
        [first.weights_per_token + second.weights_per_token, host_place.weights_per_token]
            .map(|read| read as f64);
    assert!(near(plan.layer_split.unwrap().empty, 1.0 / (on_devices / 3.35e12 + on_host / 3e11)));

    // Nothing lies there if the devices hold everything, everything if there are none.
    assert!(checkpoint.plan(&devices("8xh100").host(host())).places.iter().all(|place| !place.host));
    let alone = checkpoint.plan(&PlanOptions::new().host(host()));
    assert!(alone.fits() && alone.places.len() == 1 && alone.places[0].layers == (0..64));
}

#[test]
fn nodes_hand_on_a_hidden_state() {
    let checkpoint = grok1(DType::I8);
    let one = checkpoint.plan(&devices("5xh100"));
    assert!(one.fits() && one.hops == 0);
    let plan = checkpoint.plan(&devices("1xh100").nodes(5).link(GB));
    assert_eq!((plan.places.len(), plan.hops, plan.hidden), (5, 4, 4 * 6144));
    assert_eq!(plan.places.iter().map(|place| place.node).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    let seconds = checkpoint.bytes_per_token() as f64 / 3.35e12 + 4.0 * 4.0 * 6144.0 / 1e9;
    assert!(near(plan.layer_split.unwrap().empty, 1.0 / seconds));
    assert!(plan.tensor_parallel.is_none());

    // Hosts of their own take what a node's devices leave over.
    let hosts = devices("1xh100").host(Device::new("host", 100 * GB).bandwidth(100 * GB)).nodes(2);
    let hosts: Vec<_> = checkpoint.plan(&hosts).places.iter().map(|place| (place.node, place.host)).collect();
    assert_eq!(hosts, [(0, false), (0, true), (1, false), (1, true)]);
}

#[test]
fn absurd_demands_saturate() {
    let options = PlanOptions::new().context(usize::MAX).sessions(usize::MAX).batch_rows(usize::MAX);
    let plan = grok1(DType::I8).plan(&options.devices([Device::new("all", u64::MAX)]).link(0));
    assert_eq!((plan.kv_per_session, plan.scratch, plan.left_over), (u64::MAX, u64::MAX, u64::MAX));
    assert!(!plan.fits());
}

#[test]
fn a_full_size_checkpoint_is_planned_at_once() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("plan-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for (name, image) in support::xai::files(&ModelConfig::grok1(), 8) {
        image.write_sparse(&folder.join(name)).unwrap();
    }
    let start = Instant::now();
    let plan = Model::plan(&folder, &devices("8xh200"));
    let elapsed = start.elapsed();
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(plan.unwrap().weights, grok1(DType::I8).bytes());
    assert!(elapsed.as_secs_f64() < 1.0, "{elapsed:?}");
}
