//! What a model runs on, by name. Uses the ground.

use std::fmt;
use std::str::FromStr;

use super::ModelError;

/// What a model runs on.
///
/// As text: `cpu`, `cpu:1`, `cuda:0`, `hip:1`, `auto`. A GPU without a number is the first, the processor without one all of it.
///
/// ```
/// use grok1::Device;
///
/// assert_eq!("hip:1".parse::<Device>()?, Device::Hip(1));
/// assert_eq!("cuda".parse::<Device>()?.to_string(), "cuda:0");
/// # Ok::<(), grok1::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The processor: all of it that this process may use.
    #[default]
    Cpu,
    /// One of its NUMA nodes, by the system's number: threads run on the node's cores, and keys and values lie in its memory, with weights
    /// if they are [owned](crate::WeightStorage::Owned); those of a mapped file lie where they were first read. Two models on two nodes
    /// do not read each other's memory. The thread that calls works too and is the host's: it should run there. Linux only.
    Node(usize),
    /// NVIDIA's GPU of this number; needs the feature `cuda`.
    Cuda(usize),
    /// AMD's or Hygon's GPU of this number; needs the feature `hip`.
    Hip(usize),
    /// The first GPU, NVIDIA's before others, whose free memory holds all of the model: its weights, the activations of a batch, and
    /// the keys and values of one session as long as the model was trained for. The processor if there is none.
    /// [`Model::device`](super::Model::device) tells which, [`Model::passed_over`](super::Model::passed_over) why none before it.
    Auto,
}

impl Device {
    /// A GPU by the name of its runtime.
    pub(super) fn gpu(runtime: &str, ordinal: usize) -> Option<Self> {
        match runtime {
            "cuda" => Some(Self::Cuda(ordinal)),
            "hip" => Some(Self::Hip(ordinal)),
            _ => None,
        }
    }
}

impl FromStr for Device {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        let device = match text.split_once(':') {
            None if text == "cpu" => Some(Self::Cpu),
            None if text == "auto" => Some(Self::Auto),
            None => Self::gpu(text, 0),
            Some((runtime, ordinal)) => {
                // A number alone: `parse` takes a sign too.
                let digits = ordinal.bytes().all(|byte| byte.is_ascii_digit());
                let ordinal = ordinal.parse().ok().filter(|_| digits);
                ordinal.and_then(|ordinal| match runtime {
                    "cpu" => Some(Self::Node(ordinal)),
                    _ => Self::gpu(runtime, ordinal),
                })
            }
        };
        device.ok_or_else(|| ModelError::Device { found: text.to_owned() })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Node(node) => write!(f, "cpu:{node}"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Hip(ordinal) => write!(f, "hip:{ordinal}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_what_its_name_says() {
        for device in
            [Device::Cpu, Device::Node(1), Device::Cuda(0), Device::Cuda(12), Device::Hip(3), Device::Auto]
        {
            assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        }
        assert_eq!("hip".parse::<Device>().unwrap(), Device::Hip(0));
    }

    #[test]
    fn what_names_no_device_is_refused() {
        for text in
            ["", "CPU", "cpu:", "auto:1", "gpu", "cuda:", "cuda:+1", "cuda:-1", "cuda:0:0", "cuda: 0", ":0"]
        {
            let error = text.parse::<Device>().unwrap_err();
            let expected = format!(
                "{text:?} is no device: expected cpu, cpu:0, cuda:0, hip:0 (or another number) or auto"
            );
            assert_eq!(error.to_string(), expected);
        }
        assert!("cuda:99999999999999999999".parse::<Device>().is_err());
    }
}
