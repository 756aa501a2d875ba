//! The header of a safetensors file: JSON, which is checked beyond what the format's own crate does.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Formatter};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{Error as _, IntoDeserializer, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The entry that is no tensor.
pub(crate) const METADATA: &str = "__metadata__";

/// A defect of a header.
pub(crate) enum HeaderDefect {
    /// A type that is not known.
    Dtype { name: String, dtype: String },
    /// Anything else.
    Invalid(String),
}

/// A header as it stands in a file.
pub(crate) struct Header {
    metadata: Option<HashMap<String, String>>,
    tensors: Vec<(String, HeaderEntry)>,
}

/// [`TensorInfo`] with a type that need not be known.
#[derive(Deserialize)]
struct HeaderEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl Header {
    /// Checks that every name is there once, and types and offsets.
    pub(crate) fn checked(mut self) -> Result<Metadata, HeaderDefect> {
        let mut names = HashSet::with_capacity(self.tensors.len());
        if let Some((name, _)) = self.tensors.iter().find(|(name, _)| !names.insert(name)) {
            return Err(HeaderDefect::Invalid(format!("{name} is there twice")));
        }
        self.tensors.sort_by_key(|(_, entry)| entry.data_offsets);
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for (name, entry) in self.tensors {
            let dtype: StrDeserializer<'_, ValueError> = entry.dtype.as_str().into_deserializer();
            let Ok(dtype) = Dtype::deserialize(dtype) else {
                let dtype = entry.dtype;
                return Err(HeaderDefect::Dtype { name, dtype });
            };
            let info = TensorInfo {
                dtype,
                shape: entry.shape,
                data_offsets: entry.data_offsets,
            };
            tensors.push((name, info));
        }
        let checked = Metadata::new(self.metadata, tensors);
        checked.map_err(|error| HeaderDefect::Invalid(error.to_string()))
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map from names to tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header {
            metadata: None,
            tensors: Vec::new(),
        };
        while let Some(name) = map.next_key::<String>()? {
            if name != METADATA {
                header.tensors.push((name, map.next_value()?));
            } else if header.metadata.replace(map.next_value()?).is_some() {
                return Err(A::Error::custom(format!("{METADATA} is there twice")));
            }
        }
        Ok(header)
    }
}

/// The header of a new file, with its tensors in their order.
pub(crate) struct NewHeader<'a> {
    pub(crate) metadata: &'a BTreeMap<String, String>,
    pub(crate) tensors: Vec<(&'a str, NewEntry<'a>)>,
}

/// [`TensorInfo`] that borrows its shape.
#[derive(Serialize)]
pub(crate) struct NewEntry<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
    pub(crate) data_offsets: (usize, usize),
}

impl Serialize for NewHeader<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry(METADATA, self.metadata)?;
        }
        for (name, entry) in &self.tensors {
            map.serialize_entry(name, entry)?;
        }
        map.end()
    }
}
