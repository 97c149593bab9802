//! A plan for people.

use std::fmt::Write;

use grok1::plan::{Ceiling, Place, Share};
use grok1::{Checkpoint, Plan};

/// A size for people.
fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        1e9.. => format!("{:.2} GB", bytes / 1e9),
        1e6.. => format!("{:.2} MB", bytes / 1e6),
        _ => format!("{:.2} kB", bytes / 1e3),
    }
}

pub(super) fn text(checkpoint: &Checkpoint, plan: &Plan) -> String {
    let mut lines = vec![
        format!("model: {} ({})", checkpoint.location, checkpoint.format.name()),
        format!("weights: {}", size(plan.weights)),
    ];
    lines.extend(plan.shares.iter().map(|Share { component, dtype, bytes, .. }| {
        format!("  {:9} {:7} {:>10}", component.name(), dtype.name(), size(*bytes))
    }));
    let (token, session) = (size(plan.kv_per_token), size(plan.kv_per_session));
    let (kv, context) = (plan.kv_type.name(), plan.context);
    let sessions = match plan.sessions {
        1 => format!("a session of {context}"),
        sessions => format!("each of {sessions} sessions of {context}"),
    };
    lines.push(format!("keys and values: {token} per token ({kv}), {session} for {sessions}"));
    lines.push(format!("activations: {} where layers lie", size(plan.scratch)));
    lines.extend(plan.places.iter().filter(|place| place.is_used()).map(|place| line(place, plan.hops > 0)));
    match plan.places.iter().filter(|place| !place.is_used()).count() {
        0 => {}
        unused => lines.push(format!("devices with nothing: {unused}")),
    }
    lines.push(match plan.fits() {
        true => "fits: yes".to_owned(),
        false if plan.places.is_empty() => "fits: unknown, without devices".to_owned(),
        false => format!(
            "fits: no, {} left over; mapped files are read again and again, at the disk's speed",
            size(plan.left_over)
        ),
    });
    let (weights, session) = (size(plan.weights_per_token), size(plan.kv_per_session));
    lines.push(format!(
        "a token reads: {weights} of weights, {session} of keys and values at the end of the context"
    ));
    let is_used = |host: bool| plan.places.iter().any(|place| place.is_used() && place.host == host);
    if is_used(true) && is_used(false) {
        lines.push(format!("between device and host: {} per token, there and back", size(plan.hidden)));
    }
    if plan.hops > 0 {
        let (hidden, hops, link) = (size(plan.hidden), plan.hops, plan.link as f64);
        let micros = plan.hidden as f64 / link * 1e6;
        lines.push(format!(
            "between nodes: {hidden} per token, {hops} x {micros:.1} us at {:.1} GB/s",
            link / 1e9
        ));
    }
    match &plan.layer_split {
        Some(ceiling) => lines.push(format!("ceiling: {}, layer after layer", speed(ceiling))),
        None => lines.push(format!("ceiling: unknown, {}", reason(plan))),
    }
    lines.extend(plan.tensor_parallel.as_ref().map(|ceiling| {
        format!(
            "ceiling: {}, with every matrix cut evenly over all devices and exchange for free",
            speed(ceiling)
        )
    }));
    lines.join("\n") + "\n"
}

fn line(place: &Place, several_nodes: bool) -> String {
    let Place { device, node, weights, kv, .. } = place;
    let mut text = if several_nodes { format!("node {node}, ") } else { String::new() };
    let bandwidth = device
        .bandwidth
        .map_or_else(|| "bandwidth unknown".to_owned(), |rate| format!("{:.1} GB/s", rate as f64 / 1e9));
    let mut parts = Vec::new();
    parts.extend(place.embedding.then(|| "embedding".to_owned()));
    parts.extend(match place.layers.len() {
        0 => None,
        1 => Some(format!("layer {}", place.layers.start)),
        _ => Some(format!("layers {} to {}", place.layers.start, place.layers.end - 1)),
    });
    parts.extend(place.head.then(|| "head".to_owned()));
    let (parts, memory, host) =
        (parts.join(", "), size(device.memory), if place.host { "host " } else { "" });
    let _ = write!(
        text,
        "{host}{} ({memory}, {bandwidth}): {parts}; {} weights, {} keys and values, {} free",
        device.name,
        size(*weights),
        size(*kv),
        size(device.memory.saturating_sub(place.bytes())),
    );
    text
}

fn speed(ceiling: &Ceiling) -> String {
    format!("{:.1} tok/s, {:.1} at the end of the context", ceiling.empty, ceiling.full)
}

/// Why there is no ceiling.
fn reason(plan: &Plan) -> String {
    let unknown = plan.places.iter().find(|place| place.is_used() && place.device.bandwidth.is_none());
    match unknown {
        _ if !plan.fits() => "as not everything has a place".to_owned(),
        Some(Place { host: true, .. }) => {
            "as the bandwidth of the host is: --measure, or --host MEMORY:BANDWIDTH".to_owned()
        }
        Some(Place { device, .. }) => {
            format!("as the bandwidth of {name} is: --device {name}::800GB/s gives one", name = device.name)
        }
        None => "as nothing is read".to_owned(),
    }
}
