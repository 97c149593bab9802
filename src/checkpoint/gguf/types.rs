//! GGML's numbers for the types of elements. Uses `tensor`.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use crate::tensor::DType;

/// The types that are read, by their numbers in `enum ggml_type`.
const TYPES: [(u32, DType); 22] = [
    (0, DType::F32),
    (1, DType::F16),
    (2, DType::Q4_0),
    (3, DType::Q4_1),
    (6, DType::Q5_0),
    (7, DType::Q5_1),
    (8, DType::Q8_0),
    (10, DType::Q2K),
    (11, DType::Q3K),
    (12, DType::Q4K),
    (13, DType::Q5K),
    (14, DType::Q6K),
    (16, DType::Iq2Xxs),
    (17, DType::Iq2Xs),
    (18, DType::Iq3Xxs),
    (19, DType::Iq1S),
    (20, DType::Iq4Nl),
    (21, DType::Iq3S),
    (22, DType::Iq2S),
    (23, DType::Iq4Xs),
    (29, DType::Iq1M),
    (30, DType::BF16),
];

/// The type with this number; `None` for those that no model of this family is stored in.
pub(super) fn dtype(number: u32) -> Option<DType> {
    TYPES.iter().find(|(known, _)| *known == number).map(|(_, dtype)| *dtype)
}

/// The number of this type; `None` for those that GGML does not have.
pub(super) fn number(dtype: DType) -> Option<u32> {
    TYPES.iter().find(|(_, known)| *known == dtype).map(|(number, _)| *number)
}
