//! The text form of [`Synthetic`]: `layers=2,type=q4_k`. Uses the parent.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::fmt;
use std::str::FromStr;

use super::{Synthetic, SyntheticError};
use crate::config::ModelConfig;
use crate::tensor::DType;

/// A hyperparameter that is a size.
type Size = fn(&mut ModelConfig) -> &mut usize;

/// The keys of sizes, in the order in which they are written.
const SIZES: [(&str, Size); 10] = [
    ("layers", |config| &mut config.layers),
    ("width", |config| &mut config.width),
    ("heads", |config| &mut config.heads),
    ("kv_heads", |config| &mut config.kv_heads),
    ("head_dim", |config| &mut config.head_dim),
    ("experts", |config| &mut config.experts),
    ("selected", |config| &mut config.selected_experts),
    ("ffn", |config| &mut config.ffn_width),
    ("vocab", |config| &mut config.vocab),
    ("context", |config| &mut config.context),
];

/// The other keys.
const TYPE: &str = "type";
const HEAD_TYPE: &str = "head_type";
const SEED: &str = "seed";

impl FromStr for Synthetic {
    type Err = SyntheticError;

    fn from_str(text: &str) -> Result<Self, SyntheticError> {
        let mut options = Self::new();
        let mut seen = Vec::new();
        for entry in text.split(',') {
            let Some((key, value)) = entry.split_once('=') else {
                return Err(SyntheticError::Entry { found: entry.to_owned() });
            };
            let (key, value) = (key.trim(), value.trim());
            if seen.contains(&key) {
                return Err(SyntheticError::Twice { key: key.to_owned() });
            }
            seen.push(key);
            options.set(key, value)?;
        }
        Ok(options)
    }
}

impl Synthetic {
    fn set(&mut self, key: &str, value: &str) -> Result<(), SyntheticError> {
        match key {
            TYPE => self.dtype = dtype(key, value)?,
            HEAD_TYPE => self.head_dtype = Some(dtype(key, value)?),
            SEED => self.seed = number(key, value)?,
            _ => match SIZES.iter().find(|(name, _)| *name == key) {
                Some((_, size)) => *size(&mut self.config) = number(key, value)?,
                None => {
                    let sizes = SIZES.iter().map(|(name, _)| *name);
                    let all: Vec<_> = sizes.chain([TYPE, HEAD_TYPE, SEED]).collect();
                    return Err(SyntheticError::Key { key: key.to_owned(), expected: all.join(", ") });
                }
            },
        }
        Ok(())
    }
}

fn number<T: FromStr>(key: &str, value: &str) -> Result<T, SyntheticError> {
    value.parse().map_err(|_| wrong(key, value, "a whole number".to_owned()))
}

fn dtype(key: &str, value: &str) -> Result<DType, SyntheticError> {
    DType::named(value).ok_or_else(|| {
        let names: Vec<_> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
        wrong(key, value, format!("one of {}", names.join(", ")))
    })
}

fn wrong(key: &str, value: &str, expected: String) -> SyntheticError {
    SyntheticError::Value { key: key.to_owned(), found: value.to_owned(), expected }
}

impl fmt::Display for Synthetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut config = self.config.clone();
        for (name, size) in SIZES {
            write!(f, "{name}={},", size(&mut config))?;
        }
        let (dtype, head) = (self.dtype, self.embedding_dtype());
        write!(f, "{TYPE}={dtype},{HEAD_TYPE}={head},{SEED}={}", self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_and_written() {
        let text = "layers=1,width=2,heads=3,kv_heads=4,head_dim=5,experts=6,selected=7,ffn=8,vocab=9,context=10,\
                    type=q4_k,head_type=q6_k,seed=18446744073709551615";
        let options: Synthetic = text.parse().unwrap();
        assert_eq!(options.to_string(), text);
        let ModelConfig { layers, width, heads, kv_heads, head_dim, experts, selected_experts, .. } =
            options.config;
        assert_eq!(
            [layers, width, heads, kv_heads, head_dim, experts, selected_experts],
            [1, 2, 3, 4, 5, 6, 7]
        );
        assert_eq!(options.head_dtype, Some(DType::Q6K));
    }

    #[test]
    fn what_is_left_out_is_grok_1_as_published() {
        let text = Synthetic::new().to_string();
        assert!(text.starts_with("layers=64,width=6144,") && text.ends_with(",type=i8,head_type=f32,seed=0"));
        assert_eq!(
            " type = Q8_0 , seed=5".parse::<Synthetic>().unwrap(),
            Synthetic::new().dtype(DType::Q8_0).seed(5)
        );
    }

    #[test]
    fn text_that_means_nothing_is_refused_by_its_part() {
        let message = |text: &str| text.parse::<Synthetic>().unwrap_err().to_string();
        assert_eq!(message(""), "\"\" is not key=value");
        assert_eq!(message("layers=2,"), "\"\" is not key=value");
        assert_eq!(message("layers"), "\"layers\" is not key=value");
        assert!(message("layer=2").starts_with("there is no \"layer\"; keys are layers, width, "));
        assert_eq!(message("seed=1,layers=2,seed=1"), "seed is given twice");
        assert_eq!(message("layers=-1"), "layers is \"-1\", expected a whole number");
        assert_eq!(
            message("vocab=99999999999999999999"),
            "vocab is \"99999999999999999999\", expected a whole number"
        );
        assert!(message("type=q4_k_m").starts_with("type is \"q4_k_m\", expected one of f32, f16, "));
    }
}
