//! Devices by what matters for a plan: memory and bandwidth. Uses `units`.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use super::units::{GB, rate, size};
use crate::error::{Classify, ErrorKind};

/// A device, or a processor with its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Device {
    /// What to call it.
    pub name: String,
    /// Bytes of memory that a model may take.
    pub memory: u64,
    /// Bytes per second that its memory gives, if that is known.
    pub bandwidth: Option<u64>,
}

impl Device {
    /// A device of unknown bandwidth.
    #[must_use]
    pub fn new(name: impl Into<String>, memory: u64) -> Self {
        Self { name: name.into(), memory, bandwidth: None }
    }

    /// With a bandwidth in bytes per second.
    #[must_use]
    pub fn bandwidth(mut self, bytes_per_second: u64) -> Self {
        self.bandwidth = Some(bytes_per_second);
        self
    }

    /// The devices that a text describes: `h100`, `8xh200`, `mybox:192GB:800GB/s`.
    ///
    /// A name, with the number of them and an `x` before it if they are several; then, each after a colon, the memory and the
    /// bandwidth. What is left out, or empty, is taken from [`KNOWN_DEVICES`]; a device that is not there needs a memory, and has a
    /// bandwidth only if it is given one. Sizes have a unit: GB and TB are powers of 1000, GiB and TiB of 1024.
    ///
    /// # Errors
    /// [`DeviceError`].
    ///
    /// # Examples
    /// ```
    /// use grok1::plan::Device;
    ///
    /// let devices = Device::parse("2xh200")?;
    /// assert_eq!(devices, [Device::new("h200", 141_000_000_000).bandwidth(4_800_000_000_000), devices[0].clone()]);
    /// assert_eq!(Device::parse("k100_ai::0.8TB/s")?[0].bandwidth, Some(800_000_000_000));
    /// # Ok::<(), grok1::Error>(())
    /// ```
    pub fn parse(text: &str) -> Result<Vec<Self>, DeviceError> {
        let mut parts = text.splitn(3, ':').map(str::trim);
        let (count, name) = counted(parts.next().unwrap_or_default())?;
        let known = KnownDevice::named(name);
        let mut part = || parts.next().filter(|part| !part.is_empty());
        let memory = match (part(), known) {
            (Some(memory), _) => size(memory)?,
            (None, Some(known)) => known.memory,
            (None, None) => return Err(DeviceError::Unknown { name: name.to_owned() }),
        };
        let bandwidth = match part() {
            Some(bandwidth) => Some(rate(bandwidth)?),
            None => known.and_then(|known| known.bandwidth),
        };
        Ok(vec![Self { name: name.to_owned(), memory, bandwidth }; count])
    }
}

/// More than a plan is made for.
const MAX_COUNT: usize = 1024;

/// The number of devices and their name.
fn counted(text: &str) -> Result<(usize, &str), DeviceError> {
    let counted = text
        .split_once(['x', 'X'])
        .filter(|(count, _)| !count.is_empty() && count.bytes().all(|digit| digit.is_ascii_digit()));
    let (count, name) = match counted {
        Some((count, name)) => (count.parse().unwrap_or(usize::MAX), name),
        None => (1, text),
    };
    match count {
        _ if name.is_empty() => Err(DeviceError::NoName { found: text.to_owned() }),
        1..=MAX_COUNT => Ok((count, name)),
        _ => Err(DeviceError::Count { found: text.to_owned() }),
    }
}

/// A device whose figures are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KnownDevice {
    /// What it may be called, in lower case; `-`, `_` and spaces do not count.
    pub names: &'static [&'static str],
    /// Bytes of memory, counting its maker's GB as 10^9.
    pub memory: u64,
    /// Peak bandwidth of the memory in bytes per second; `None` if no figure of its maker's was found.
    pub bandwidth: Option<u64>,
    /// Where the figures are from.
    pub source: &'static str,
}

impl KnownDevice {
    /// The device of this name, in letters of either case.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '_', ' '], "");
        let name = plain(name);
        KNOWN_DEVICES.iter().find(|device| device.names.iter().any(|known| plain(known) == name))
    }
}

/// Every device that can be named without its figures.
pub const KNOWN_DEVICES: &[KnownDevice] = &[
    known(&["m2-ultra"], 192, Some(800), "Apple, newsroom: Apple introduces M2 Ultra, 2023"),
    known(&["m3-ultra"], 512, Some(819), "Apple, technical specifications of the Mac Studio, 2025"),
    known(&["a100-40gb"], 40, Some(1_555), "NVIDIA, A100 data sheet"),
    known(&["a100", "a100-80gb"], 80, Some(2_039), "NVIDIA, A100 data sheet (SXM)"),
    known(&["h100", "h100-sxm"], 80, Some(3_350), "NVIDIA, H100 data sheet (SXM)"),
    known(&["h100-pcie"], 80, Some(2_000), "NVIDIA, H100 data sheet (PCIe)"),
    known(&["h200"], 141, Some(4_800), "NVIDIA, H200 data sheet"),
    known(&["b200"], 180, Some(8_000), "NVIDIA, DGX B200 data sheet, an eighth of the system's"),
    known(&["mi250x"], 128, Some(3_200), "AMD, Instinct MI250X data sheet"),
    known(&["mi300x"], 192, Some(5_300), "AMD, Instinct MI300X data sheet"),
    known(
        &["k100_ai"],
        64,
        None,
        "memory as Hygon's driver tells; bandwidth: no figure of its maker's found",
    ),
    known(&["z100"], 32, None, "memory as in public tenders; bandwidth: no figure of its maker's found"),
];

/// From figures in GB and GB/s.
#[allow(clippy::arithmetic_side_effects, reason = "computed when this is compiled")]
const fn known(
    names: &'static [&'static str],
    memory: u64,
    bandwidth: Option<u64>,
    source: &'static str,
) -> KnownDevice {
    let bandwidth = match bandwidth {
        Some(bandwidth) => Some(bandwidth * GB),
        None => None,
    };
    KnownDevice { names, memory: memory * GB, bandwidth, source }
}

/// Why a text describes no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is no name.
    #[error("{found:?} has no name of a device")]
    NoName {
        /// The text.
        found: String,
    },
    /// A number of devices that cannot be.
    #[error("{found:?}: expected 1 to {MAX_COUNT} devices")]
    Count {
        /// The text.
        found: String,
    },
    /// The device is not known, and its memory is not given.
    #[error("{name:?} is not one of {}; another device needs a memory, as in {name}:80GB:2TB/s", names())]
    Unknown {
        /// Its name.
        name: String,
    },
    /// Text that is no size.
    #[error("{found:?} is not {expected}")]
    Size {
        /// The text.
        found: String,
        /// What would be.
        expected: &'static str,
    },
}

fn names() -> String {
    let names: Vec<_> = KNOWN_DEVICES.iter().flat_map(|device| device.names).copied().collect();
    names.join(", ")
}

impl Classify for DeviceError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Argument
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_or_described_or_both() {
        let one = |text: &str| {
            let devices = Device::parse(text).unwrap();
            assert_eq!(devices.len(), 1, "{text}");
            (devices[0].memory, devices[0].bandwidth)
        };
        assert_eq!(one("H100"), (80 * GB, Some(3_350 * GB)));
        assert_eq!(one("h100_SXM"), one("H100"));
        assert_eq!(one("h100:64GiB"), (64 << 30, Some(3_350 * GB)));
        assert_eq!(one("h100::3 TB/s"), (80 * GB, Some(3_000 * GB)));
        assert_eq!(one("mybox:192GB:800GB/s"), (192 * GB, Some(800 * GB)));
        assert_eq!(one("xeon:1.5TB"), (1_500 * GB, None));
        assert_eq!(one("K100-AI"), (64 * GB, None));
        assert_eq!(Device::parse("8xh200").unwrap().len(), 8);
        assert_eq!(Device::parse("2x4090:24GB").unwrap()[1].name, "4090");
    }

    #[test]
    fn what_describes_no_device_is_refused() {
        let message = |text: &str| Device::parse(text).unwrap_err().to_string();
        assert_eq!(message(""), "\"\" has no name of a device");
        assert_eq!(message("8x"), "\"8x\" has no name of a device");
        assert_eq!(message("0xh100"), "\"0xh100\": expected 1 to 1024 devices");
        assert_eq!(
            message("99999999999999999999xh100"),
            "\"99999999999999999999xh100\": expected 1 to 1024 devices"
        );
        assert!(message("h101").starts_with("\"h101\" is not one of m2-ultra, m3-ultra, a100-40gb, "));
        assert!(message("h101").ends_with("another device needs a memory, as in h101:80GB:2TB/s"));
        assert_eq!(message("a:80"), "\"80\" is not a size such as 80GB or 1.5TiB");
        assert_eq!(message("a:80GB:2"), "\"2\" is not a bandwidth such as 800GB/s or 2.5TB/s");
        assert_eq!(message("a:80GB:2TB/s:1"), "\"2TB/s:1\" is not a bandwidth such as 800GB/s or 2.5TB/s");
    }

    #[test]
    fn names_of_known_devices_name_one_each() {
        for device in KNOWN_DEVICES {
            assert!(!device.source.is_empty());
            for name in device.names {
                assert_eq!(KnownDevice::named(&name.to_uppercase()), Some(device));
            }
        }
    }
}
