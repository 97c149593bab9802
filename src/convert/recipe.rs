//! Which type each tensor of a GGUF file gets. Uses `roles`.

use super::ConvertError;
use super::roles::Role;
use crate::tensor::DType;

/// The type of each tensor in a GGUF file.
///
/// | name | query | key, value | attention output | gate, up | down | embedding, output |
/// |---|---|---|---|---|---|---|
/// | a type, `q4_k` say | that | that | that | that | that | that |
/// | `q2_k` | q2_k | q2_k, q8_0 | q5_k | q2_k | q3_k | q2_k, q6_k |
/// | `q3_k_m` | q3_k | q8_0 | q5_k | q3_k | q5_k in the first sixteenth of the layers, else q4_k | q3_k, q6_k |
/// | `q4_k_m` | q4_k | q8_0 | q5_k | q4_k | q6_k in half of the layers, else q4_k | q4_k, q6_k |
/// | `q5_k_m` | q5_k | q8_0 | q5_k | q5_k | q6_k in half of the layers, else q5_k | q5_k, q6_k |
///
/// The mixes are those that llama.cpp makes of a model with eight experts. "Half of the layers" are the first and the last eighth,
/// and each third one of those between. An embedding that is the output projection as well gets the output's type. `q2_k` names the
/// mix, since that is what people know by it; `q2_k_pure` is the type.
///
/// Norms and routers are always f32. A row whose length its type's blocks do not divide gets the next larger type with smaller blocks:
/// q2_k and q3_k become q4_0, q4_k q5_0, q5_k q5_1, q6_k q8_0, iq4_xs iq4_nl; f16 if 32 do not divide it either.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    base: Base,
    /// The last one that matches counts.
    exceptions: Vec<(Pattern, DType)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Pure(DType),
    Mix(Mix),
}

/// Types by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mix {
    name: &'static str,
    /// The type of most matrices.
    most: DType,
    /// The type of down matrices in layers that get more bits, and in the others.
    down: [DType; 2],
    favoured: Favoured,
    /// llama.cpp's number for files of the kind (`enum llama_ftype`).
    file_type: u32,
}

/// The layers that get more bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Favoured {
    FirstSixteenth,
    Half,
}

const MIXES: [Mix; 4] = [
    Mix {
        name: "q2_k",
        most: DType::Q2K,
        down: [DType::Q3K, DType::Q3K],
        favoured: Favoured::Half,
        file_type: 10,
    },
    Mix {
        name: "q3_k_m",
        most: DType::Q3K,
        down: [DType::Q5K, DType::Q4K],
        favoured: Favoured::FirstSixteenth,
        file_type: 12,
    },
    Mix {
        name: "q4_k_m",
        most: DType::Q4K,
        down: [DType::Q6K, DType::Q4K],
        favoured: Favoured::Half,
        file_type: 15,
    },
    Mix {
        name: "q5_k_m",
        most: DType::Q5K,
        down: [DType::Q6K, DType::Q5K],
        favoured: Favoured::Half,
        file_type: 17,
    },
];

impl Mix {
    fn dtype(&self, role: Role, layer: usize, layers: usize) -> DType {
        match role {
            Role::Output => DType::Q6K,
            Role::Key | Role::Value => DType::Q8_0,
            Role::AttentionOutput => DType::Q5K,
            Role::Down => self.down[usize::from(!self.favoured.includes(layer, layers))],
            _ => self.most,
        }
    }
}

impl Favoured {
    fn includes(self, layer: usize, layers: usize) -> bool {
        let eighth = layers / 8;
        match self {
            Self::FirstSixteenth => layer < layers / 16,
            Self::Half => layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2,
        }
    }
}

/// The name of a type of which there is a mix of that name too.
const PURE: (&str, DType) = ("q2_k_pure", DType::Q2K);

/// llama.cpp's numbers for files of mostly one type (`enum llama_ftype`).
const FILE_TYPES: [(DType, u32); 15] = [
    (DType::F32, 0),
    (DType::F16, 1),
    (DType::Q4_0, 2),
    (DType::Q4_1, 3),
    (DType::Q8_0, 7),
    (DType::Q5_0, 8),
    (DType::Q5_1, 9),
    (DType::Q2K, 10),
    (DType::Q3K, 11),
    (DType::Q4K, 14),
    (DType::Q5K, 16),
    (DType::Q6K, 18),
    (DType::Iq4Nl, 25),
    (DType::Iq4Xs, 30),
    (DType::BF16, 32),
];

impl Recipe {
    /// The recipe of this name, in letters of either case: a type, or a mix of the table above.
    ///
    /// # Errors
    /// There is none, or the type cannot be written.
    pub fn named(name: &str) -> Result<Self, ConvertError> {
        let mix = MIXES.into_iter().find(|mix| mix.name.eq_ignore_ascii_case(name));
        let base = match mix {
            Some(mix) => Base::Mix(mix),
            None if PURE.0.eq_ignore_ascii_case(name) => Base::Pure(PURE.1),
            None => Base::Pure(writable(name)?),
        };
        Ok(Self { base, exceptions: Vec::new() })
    }

    /// The names that [`named`](Self::named) knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let pure =
            FILE_TYPES.into_iter().map(|(dtype, _)| if dtype == PURE.1 { PURE.0 } else { dtype.name() });
        pure.chain(MIXES.into_iter().map(|mix| mix.name))
    }

    /// Adds an exception, `pattern=type`: matrices whose GGUF name contains `pattern` get that type. `*` in it stands for anything.
    /// The last exception that matches counts.
    ///
    /// # Errors
    /// Not of that form, or a type that cannot be written.
    pub fn except(mut self, exception: &str) -> Result<Self, ConvertError> {
        let unfit = || ConvertError::Exception { found: exception.to_owned() };
        let (pattern, name) = exception.split_once('=').ok_or_else(unfit)?;
        if pattern.is_empty() {
            return Err(unfit());
        }
        self.exceptions.push((Pattern(pattern.to_owned()), writable(name)?));
        Ok(self)
    }

    /// llama.cpp's number for files made by it.
    pub(super) fn file_type(&self) -> u32 {
        match self.base {
            // Every type that a recipe is made of is in the table.
            Base::Pure(dtype) => {
                FILE_TYPES.iter().find(|(known, _)| *known == dtype).map_or(0, |(_, number)| *number)
            }
            Base::Mix(mix) => mix.file_type,
        }
    }

    /// The type of the matrix `name`, whose rows have `inputs` elements, before anything is known of its values.
    pub(super) fn dtype(&self, role: Role, name: &str, [layer, layers]: [usize; 2], inputs: usize) -> DType {
        if role.stays_f32() {
            return DType::F32;
        }
        let exception = self.exceptions.iter().rev().find(|(pattern, _)| pattern.matches(name));
        let dtype = match (exception, self.base) {
            (Some((_, dtype)), _) => *dtype,
            (None, Base::Pure(dtype)) => dtype,
            (None, Base::Mix(mix)) => mix.dtype(role, layer, layers),
        };
        dividing(dtype, inputs)
    }

    /// An exception that no matrix of `names` is one of.
    pub(super) fn idle_exception<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        let idle = |(pattern, _): &&(Pattern, DType)| !names.clone().any(|name| pattern.matches(name));
        self.exceptions.iter().find(idle).map(|(pattern, _)| &*pattern.0)
    }
}

/// The type of this name, if it can be written.
fn writable(name: &str) -> Result<DType, ConvertError> {
    let dtype = DType::named(name).filter(|dtype| FILE_TYPES.iter().any(|(known, _)| known == dtype));
    dtype.ok_or_else(|| ConvertError::Type { found: name.to_owned() })
}

/// `dtype`, or what takes its place in rows of `inputs` elements.
fn dividing(dtype: DType, inputs: usize) -> DType {
    if (inputs as u64).is_multiple_of(dtype.block()) {
        return dtype;
    }
    let smaller = match dtype {
        DType::Q2K | DType::Q3K => DType::Q4_0,
        DType::Q4K => DType::Q5_0,
        DType::Q5K => DType::Q5_1,
        DType::Q6K => DType::Q8_0,
        DType::Iq4Xs => DType::Iq4Nl,
        _ => return DType::F16,
    };
    dividing(smaller, inputs)
}

/// A text that occurs in names, with `*` for anything.
#[derive(Clone, Debug, PartialEq)]
struct Pattern(String);

impl Pattern {
    fn matches(&self, name: &str) -> bool {
        let mut rest = name;
        self.0.split('*').all(|piece| match rest.find(piece) {
            Some(place) => {
                rest = &rest[place + piece.len()..];
                true
            }
            None => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant;

    #[test]
    fn every_name_is_understood_in_either_case() {
        for name in Recipe::names() {
            assert_eq!(Recipe::named(name).unwrap(), Recipe::named(&name.to_uppercase()).unwrap());
        }
        assert!(matches!(Recipe::named("iq3_s"), Err(ConvertError::Type { .. })));
    }

    #[test]
    fn everything_that_a_name_writes_can_be_quantised() {
        for (dtype, _) in FILE_TYPES {
            assert!(quant::can_quantise(dtype), "{dtype}");
        }
    }

    #[test]
    fn half_of_the_layers_get_more_bits() {
        assert_eq!((0..64).filter(|&layer| Favoured::Half.includes(layer, 64)).count(), 32);
    }

    #[test]
    fn rows_that_blocks_do_not_divide_get_smaller_blocks() {
        let found = |dtype, inputs| dividing(dtype, inputs).name();
        assert_eq!(found(DType::Q4K, 256), "q4_k");
        assert_eq!(found(DType::Q4K, 96), "q5_0");
        assert_eq!(found(DType::Iq4Xs, 32), "iq4_nl");
        assert_eq!(found(DType::Q6K, 40), "f16");
        assert_eq!(found(DType::BF16, 1), "bf16");
    }

    #[test]
    fn the_last_exception_that_matches_counts() {
        let recipe = Recipe::named("q4_k").unwrap().except("exps=q5_k").unwrap();
        let recipe = recipe.except("blk.1.*down=Q6_K").unwrap();
        let dtype = |role, name| recipe.dtype(role, name, [1, 4], 256);
        assert_eq!(dtype(Role::Down, "blk.1.ffn_down_exps.weight"), DType::Q6K);
        assert_eq!(dtype(Role::Up, "blk.1.ffn_up_exps.weight"), DType::Q5K);
        assert_eq!(dtype(Role::Query, "blk.1.attn_q.weight"), DType::Q4K);
        assert_eq!(recipe.idle_exception(["blk.0.ffn_down_exps.weight"].into_iter()), Some("blk.1.*down"));
    }
}
