//! Whether what was written is what the input makes. Uses `output` and `rows`.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::ConvertError;
use super::output::Output;
use super::pipeline::Sink;
use super::rows::Deviation;
use crate::source::{FileSource, Source};
use crate::tensor::DType;

/// What a comparison found, all being as it should.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verified {
    /// Bytes that were compared.
    pub bytes: u64,
    /// For each type, how far its matrices are from the input's: root of the mean square of the differences, in units of the
    /// root of the mean square of the weights.
    pub errors: Vec<(DType, f64)>,
}

/// The files that were written.
pub(super) struct Written {
    files: Vec<FileSource>,
    deviations: Mutex<BTreeMap<&'static str, (DType, Deviation)>>,
}

impl Written {
    /// The files of `output` in `folder`; their lengths, headers and companions are compared at once.
    pub(super) fn open(output: &Output, folder: &Path) -> Result<Self, ConvertError> {
        let written = Self { files: Vec::new(), deviations: Mutex::default() };
        let open = |name: &str| {
            let path = folder.join(name);
            FileSource::open(&path).map_err(|source| read_error(path.display().to_string(), source))
        };
        for (name, content) in &output.companions {
            let file = open(name)?;
            check_len(&file, content.len() as u64)?;
            compare(&file, 0, content)?;
        }
        let files = output.files.iter().map(|expected| {
            let file = open(&expected.name)?;
            check_len(&file, expected.len)?;
            compare(&file, 0, &expected.header)?;
            Ok(file)
        });
        Ok(Self { files: files.collect::<Result<_, ConvertError>>()?, ..written })
    }

    pub(super) fn errors(self) -> Vec<(DType, f64)> {
        let deviations = self.deviations.into_inner().unwrap_or_else(PoisonError::into_inner);
        deviations.into_values().map(|(dtype, deviation)| (dtype, deviation.relative())).collect()
    }
}

impl Sink for Written {
    fn put(&self, file: usize, offset: u64, bytes: &[u8]) -> Result<(), ConvertError> {
        compare(&self.files[file], offset, bytes)
    }

    fn measures(&self) -> bool {
        true
    }

    fn deviates(&self, dtype: DType, deviation: Deviation) {
        let mut deviations = self.deviations.lock().unwrap_or_else(PoisonError::into_inner);
        deviations.entry(dtype.name()).or_insert((dtype, Deviation::default())).1.add(deviation);
    }
}

fn check_len(file: &FileSource, expected: u64) -> Result<(), ConvertError> {
    let (path, found) = (file.name(), file.len());
    if found == expected { Ok(()) } else { Err(ConvertError::Differs { path, offset: found.min(expected) }) }
}

fn compare(file: &FileSource, offset: u64, expected: &[u8]) -> Result<(), ConvertError> {
    let mut found = vec![0; expected.len()];
    file.read_at(offset, &mut found).map_err(|source| read_error(file.name(), source))?;
    match found.iter().zip(expected).position(|(found, expected)| found != expected) {
        None => Ok(()),
        Some(place) => Err(ConvertError::Differs { path: file.name(), offset: offset + place as u64 }),
    }
}

fn read_error(name: String, source: io::Error) -> ConvertError {
    ConvertError::Read { name, source }
}
