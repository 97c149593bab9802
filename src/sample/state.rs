//! A sampler as bytes, for saved sessions: everything but the host's filter, little-endian, with a version in front.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::collections::BTreeMap;

use super::settings::Settings;
use super::{SampleError, Sampler};

const VERSION: u32 = 1;

impl Sampler {
    /// The settings and the number of draws; what [`from_bytes`](Self::from_bytes) reads. The filter is left out.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Every field is named, so that none can be forgotten.
        let Settings {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            penalty_window,
            logit_bias,
            allowed_tokens,
            seed,
            logprobs,
            alternatives,
        } = &self.settings;
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for number in [temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty] {
            bytes.extend(number.to_le_bytes());
        }
        for number in [*top_k as u64, *penalty_window as u64, *alternatives as u64, *seed, self.draws] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend([u8::from(*logprobs), u8::from(allowed_tokens.is_some())]);
        bytes.extend((logit_bias.len() as u32).to_le_bytes());
        for (token, bias) in logit_bias {
            bytes.extend(token.to_le_bytes());
            bytes.extend(bias.to_le_bytes());
        }
        let allowed = allowed_tokens.as_deref().unwrap_or_default();
        bytes.extend((allowed.len() as u32).to_le_bytes());
        bytes.extend(allowed.iter().flat_map(|token| token.to_le_bytes()));
        bytes
    }

    /// A sampler as it was when [`to_bytes`](Self::to_bytes) was called, without filter.
    ///
    /// # Errors
    /// [`SampleError::State`] if these are not the bytes of a sampler, [`SampleError::Setting`] if a setting in them is outside
    /// its range.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SampleError> {
        let mut bytes = Reader(bytes);
        if bytes.u32()? != VERSION {
            return Err(SampleError::State { problem: "of another version" });
        }
        let [temperature, top_p, min_p] = [bytes.f32()?, bytes.f32()?, bytes.f32()?];
        let [repetition_penalty, presence_penalty, frequency_penalty] =
            [bytes.f32()?, bytes.f32()?, bytes.f32()?];
        let [top_k, penalty_window, alternatives] = [bytes.usize()?, bytes.usize()?, bytes.usize()?];
        let [seed, draws] = [bytes.u64()?, bytes.u64()?];
        let [logprobs, masked] = [bytes.bool()?, bytes.bool()?];
        let logit_bias = bytes.list(|bytes| Ok((bytes.u32()?, bytes.f32()?)))?;
        let allowed = bytes.list(Reader::u32)?;
        if !bytes.0.is_empty() {
            return Err(SampleError::State { problem: "too long" });
        }
        let canonical = top_k > 0
            && logit_bias.is_sorted_by(|(a, _), (b, _)| a < b)
            && allowed.is_sorted_by(|a, b| a < b)
            && (masked || allowed.is_empty());
        if !canonical {
            return Err(SampleError::State { problem: "damaged" });
        }
        let settings = Settings {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            penalty_window,
            logit_bias: BTreeMap::from_iter(logit_bias),
            allowed_tokens: masked.then_some(allowed),
            seed,
            logprobs,
            alternatives,
        };
        settings.validate()?;
        let mut sampler = Self::new();
        (sampler.settings, sampler.draws) = (settings, draws);
        Ok(sampler)
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SampleError> {
        let (head, tail) = self.0.split_first_chunk().ok_or(SampleError::State { problem: "truncated" })?;
        self.0 = tail;
        Ok(*head)
    }

    fn bool(&mut self) -> Result<bool, SampleError> {
        match self.take()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [_] => Err(SampleError::State { problem: "damaged" }),
        }
    }

    fn u32(&mut self) -> Result<u32, SampleError> {
        self.take().map(u32::from_le_bytes)
    }

    fn f32(&mut self) -> Result<f32, SampleError> {
        self.take().map(f32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, SampleError> {
        self.take().map(u64::from_le_bytes)
    }

    /// A count from a machine of any width: what does not fit here is more than there can be.
    fn usize(&mut self) -> Result<usize, SampleError> {
        self.u64().map(|number| usize::try_from(number).unwrap_or(usize::MAX))
    }

    /// A length and as many entries. Grows as it reads: the length is not to be trusted.
    fn list<T>(
        &mut self,
        entry: impl Fn(&mut Self) -> Result<T, SampleError>,
    ) -> Result<Vec<T>, SampleError> {
        let mut list = Vec::new();
        for _ in 0..self.u32()? {
            list.push(entry(self)?);
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Sampler {
        let mut sampler = Sampler::new()
            .temperature(0.7)
            .top_k(40)
            .top_p(0.95)
            .min_p(0.01)
            .repetition_penalty(1.1)
            .presence_penalty(0.2)
            .frequency_penalty(-0.3)
            .penalty_window(64)
            .logit_bias(7, f32::NEG_INFINITY)
            .logit_bias(3, 1.5)
            .allowed_tokens([5, 3, 7, 5])
            .seed(u64::MAX - 1)
            .logprobs(false)
            .alternatives(8);
        sampler.set_draws(1 << 40);
        sampler
    }

    #[test]
    fn a_saved_sampler_comes_back_as_it_was() {
        for sampler in [full(), Sampler::new()] {
            let restored = Sampler::from_bytes(&sampler.to_bytes()).unwrap();
            assert_eq!(restored.settings, sampler.settings);
            assert_eq!(restored.draws(), sampler.draws());
        }
    }

    #[test]
    fn every_truncation_and_every_extra_byte_is_refused() {
        let mut bytes = full().to_bytes();
        for length in 0..bytes.len() {
            assert!(matches!(
                Sampler::from_bytes(&bytes[..length]),
                Err(SampleError::State { problem: "truncated" })
            ));
        }
        bytes.push(0);
        assert!(matches!(Sampler::from_bytes(&bytes), Err(SampleError::State { problem: "too long" })));
    }

    #[test]
    fn every_damaged_byte_is_refused_or_makes_a_sampler_that_saves_to_the_same_bytes() {
        let bytes = full().to_bytes();
        for at in 0..bytes.len() {
            for value in 0..=255 {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                if let Ok(sampler) = Sampler::from_bytes(&damaged) {
                    assert_eq!(sampler.to_bytes(), damaged);
                }
            }
        }
    }

    #[test]
    fn a_bad_setting_in_saved_bytes_is_named() {
        let bytes = Sampler::new().temperature(f32::NAN).to_bytes();
        assert!(matches!(
            Sampler::from_bytes(&bytes),
            Err(SampleError::Setting { setting: "temperature", .. })
        ));
    }
}
