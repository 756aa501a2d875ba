//! The files of a model: one safetensors file, or shards with an index as Hugging Face writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

use safetensors::tensor::TensorInfo;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::QuantizeError;
use crate::files::FileError;
use crate::selection::listed;
use crate::tensor_file::{TensorFile, TensorFileError};

/// The name of a model of one file.
const FILE: &str = "model.safetensors";

/// The name of the index of a model in shards.
const INDEX: &str = "model.safetensors.index.json";

/// An error of a folder, or of an index and its shards.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelIndexError {
    /// A folder without a model.
    #[error("{folder} has neither {FILE} nor {INDEX}: give the path of the file or of the index")]
    NoModel {
        /// The folder.
        folder: PathBuf,
    },
    /// A folder with two models.
    #[error("{folder} has both {FILE} and {INDEX}, expected one of them: give the path of one")]
    TwoModels {
        /// The folder.
        folder: PathBuf,
    },
    /// The index is not the expected JSON.
    #[error(
        "{path} is not the index of a model in shards: {detail}; expected JSON such as {{\"weight_map\": {{\"TENSOR\": \
         \"FILE.safetensors\"}}}}"
    )]
    Invalid {
        /// The index.
        path: PathBuf,
        /// The defect.
        detail: String,
    },
    /// A shard outside the folder of the index.
    #[error("{path} puts {name} into {shard:?}, expected the name of a file beside the index")]
    Outside {
        /// The index.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The path found.
        shard: String,
    },
    /// Shards that are not there.
    #[error("found no {} beside {path}, which names it: copy or download it again", .shards.join(", "))]
    NoShard {
        /// The index.
        path: PathBuf,
        /// The first missing shards, and the number of others.
        shards: Vec<String>,
    },
    /// A tensor that its shard lacks.
    #[error("{path} puts {name} into {shard}, which does not have it: copy or download both again")]
    NoTensor {
        /// The index.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shard.
        shard: String,
    },
    /// A tensor in two shards.
    #[error("found {name} in {} and {}, expected it in the former alone, as {path} says", .shards[0], .shards[1])]
    TwoShards {
        /// The index.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shard that the index names, and the other.
        shards: [String; 2],
    },
    /// A tensor that the index lacks.
    #[error("{shard} has {name}, which {path} does not name: copy or download both again")]
    NotNamed {
        /// The index.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shard.
        shard: String,
    },
}

/// The open files of a model.
#[derive(Debug)]
pub(crate) struct ModelFiles {
    /// The file, or the index.
    pub(crate) path: PathBuf,
    /// `None` for a model of one file.
    pub(crate) index: Option<ModelIndex>,
    /// The file, or the shards in the order of their names.
    pub(crate) files: Vec<TensorFile>,
}

impl ModelFiles {
    /// Opens a safetensors file, the shards of an index (whose name ends with `.json`), or what a folder has
    /// of both, and checks that the index names the tensors of the shards.
    pub(crate) fn open(path: &Path) -> Result<Self, QuantizeError> {
        let path = match path.is_dir() {
            true => find(path)?,
            false => path.into(),
        };
        if path.extension().is_none_or(|ending| ending != "json") {
            return Ok(Self {
                files: vec![TensorFile::open(&path)?],
                index: None,
                path,
            });
        }
        let index = ModelIndex::read(&path)?;
        let files = index.open_shards(&path)?;
        Ok(Self {
            path,
            index: Some(index),
            files,
        })
    }

    /// A model of one open file, which errors call `path`.
    pub(crate) fn of(file: File, path: &Path) -> Result<Self, TensorFileError> {
        Ok(Self {
            path: path.into(),
            index: None,
            files: vec![TensorFile::of(file, path)?],
        })
    }

    /// The index and all files.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        let index = self.index.as_ref().map(|_| self.path.as_path());
        index
            .into_iter()
            .chain(self.files.iter().map(TensorFile::path))
    }

    /// The number of the file that has the tensor `name`, and its entry there.
    pub(crate) fn info(&self, name: &str) -> Option<(usize, &TensorInfo)> {
        let mut infos = self.files.iter().map(|file| file.info(name)).enumerate();
        infos.find_map(|(number, info)| Some((number, info?)))
    }
}

/// The file or the index in a folder.
fn find(folder: &Path) -> Result<PathBuf, ModelIndexError> {
    let [file, index] = [FILE, INDEX].map(|name| folder.join(name));
    match (file.exists(), index.exists()) {
        (true, false) => Ok(file),
        (false, true) => Ok(index),
        (false, false) => Err(ModelIndexError::NoModel {
            folder: folder.into(),
        }),
        (true, true) => Err(ModelIndexError::TwoModels {
            folder: folder.into(),
        }),
    }
}

/// The index of a model in shards.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ModelIndex {
    metadata: Option<Map<String, Value>>,
    /// The shard of each tensor.
    weight_map: BTreeMap<String, String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl ModelIndex {
    fn read(path: &Path) -> Result<Self, QuantizeError> {
        let bytes = fs::read(path).map_err(FileError::on("read", path))?;
        let invalid = |detail| ModelIndexError::Invalid {
            path: path.into(),
            detail,
        };
        let index: Self =
            serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        for (name, shard) in &index.weight_map {
            if !is_file_name(shard) {
                return Err(ModelIndexError::Outside {
                    path: path.into(),
                    name: name.clone(),
                    shard: shard.clone(),
                }
                .into());
            }
        }
        Ok(index)
    }

    /// Opens the shards beside the index `path`, in the order of their names.
    fn open_shards(&self, path: &Path) -> Result<Vec<TensorFile>, QuantizeError> {
        let names: BTreeSet<&str> = self.weight_map.values().map(String::as_str).collect();
        let missing: Vec<&str> = names
            .iter()
            .copied()
            .filter(|shard| !path.with_file_name(shard).exists())
            .collect();
        if !missing.is_empty() {
            return Err(ModelIndexError::NoShard {
                path: path.into(),
                shards: listed(&missing),
            }
            .into());
        }
        let mut shards = BTreeMap::new();
        for name in names {
            shards.insert(name, TensorFile::open(&path.with_file_name(name))?);
        }
        self.check(path, &shards)?;
        Ok(shards.into_values().collect())
    }

    /// Checks that the shards have the tensors that the index `path` names, each in its shard, and no others.
    fn check(
        &self,
        path: &Path,
        shards: &BTreeMap<&str, TensorFile>,
    ) -> Result<(), ModelIndexError> {
        for (name, shard) in &self.weight_map {
            if shards[shard.as_str()].info(name).is_none() {
                return Err(ModelIndexError::NoTensor {
                    path: path.into(),
                    name: name.clone(),
                    shard: shard.clone(),
                });
            }
        }
        for (&shard, file) in shards {
            for (name, _) in file.tensors() {
                let path = path.into();
                match self.weight_map.get(&name) {
                    Some(named) if named == shard => {}
                    Some(named) => {
                        let shards = [named.clone(), shard.into()];
                        return Err(ModelIndexError::TwoShards { path, name, shards });
                    }
                    None => {
                        let shard = shard.into();
                        return Err(ModelIndexError::NotNamed { path, name, shard });
                    }
                }
            }
        }
        Ok(())
    }

    /// The text of the index with another map from tensors to shards, which have `total_size` bytes of
    /// elements.
    pub(crate) fn with_shards(
        &self,
        weight_map: BTreeMap<String, String>,
        total_size: u64,
    ) -> String {
        let mut index = Self {
            weight_map,
            ..self.clone()
        };
        index
            .metadata
            .get_or_insert_default()
            .insert("total_size".into(), total_size.into());
        let text = serde_json::to_string_pretty(&index).expect("plain numbers and strings");
        format!("{text}\n")
    }
}

/// Whether `name` is that of a file, on every system, and not a path.
fn is_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let only = matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(only)), None) if only == name
    );
    only && !name.contains(['\\', ':'])
}
