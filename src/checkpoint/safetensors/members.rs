//! JSON objects that may be large and hostile, as they are written: a map would hide names that repeat. Uses nothing.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

/// The entry that tells about a file and not about a tensor.
const METADATA: &str = "__metadata__";

/// The members of an object in their order, but for [`METADATA`].
pub(super) struct Members<V>(pub(super) Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Members<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Collect(PhantomData))
    }
}

/// Collects them.
struct Collect<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for Collect<V> {
    type Value = Members<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a member for each tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<V>, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                map.next_value::<IgnoredAny>()?;
            } else {
                members.push((name, map.next_value()?));
            }
        }
        Ok(Members(members))
    }
}
