//! Packed tensors, their files and their products.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use laq_packed::files::write_atomically;
use laq_packed::gguf::{self, NewValue};
use laq_packed::{CodeTable, Matrix, PackedFile, PackedTensor, Packing, Steps, Tensor};
use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;

use crate::codebook::Codebook;
use crate::errors::{self, value};
use crate::solve::Layout;
use crate::threads::pool;

/// A packed tensor. Its matrix is made for the first product.
#[pyclass(frozen, module = "laq._laq")]
pub(crate) struct Packed {
    tensor: Tensor,
    matrix: OnceLock<Matrix>,
}

impl Packed {
    fn new(tensor: PackedTensor) -> Self {
        Self {
            tensor: Tensor::Packed(tensor),
            matrix: OnceLock::new(),
        }
    }

    fn tensor(&self) -> PyResult<&PackedTensor> {
        match &self.tensor {
            Tensor::Packed(tensor) => Ok(tensor),
            Tensor::F32 { .. } => Err(value("the tensor is not packed")),
        }
    }

    fn matrix(&self) -> PyResult<&Matrix> {
        if let Some(matrix) = self.matrix.get() {
            return Ok(matrix);
        }
        let matrix = Matrix::of(&self.tensor).map_err(value)?;
        Ok(self.matrix.get_or_init(|| matrix))
    }
}

#[pymethods]
impl Packed {
    /// Packs levels with the steps of their groups.
    #[staticmethod]
    fn pack<'py>(
        py: Python<'py>,
        levels: &Bound<'py, PyArray1<i8>>,
        codebook: &Codebook,
        layout: Layout,
        steps: Vec<f32>,
        two_scales: bool,
        packing: Option<&str>,
    ) -> PyResult<Self> {
        let codebook = &codebook.inner;
        let packing = match packing {
            Some(name) => name.parse().map_err(value)?,
            None => Packing::of(codebook).map_err(value)?,
        };
        let (rows, columns) = layout.matrix();
        let steps = Steps {
            values: steps,
            two: two_scales,
            block: layout.groups()?.block(),
        };
        let levels = levels.try_readonly().map_err(errors::borrow("levels"))?;
        let levels = levels.as_slice().map_err(errors::slice("levels"))?;
        let tensor = py.detach(|| {
            let packed = packing.pack(levels, rows, columns, codebook)?;
            let table = CodeTable::of(codebook)?;
            PackedTensor::new(layout.shape(), rows, packing, packed, table, steps)
        });
        Ok(Self::new(tensor.map_err(value)?))
    }

    #[getter]
    fn shape(&self) -> Vec<usize> {
        self.tensor.shape().to_vec()
    }

    /// Rows of the matrix of codes.
    #[getter]
    fn rows(&self) -> PyResult<usize> {
        Ok(self.tensor()?.rows())
    }

    /// The number of weights.
    #[getter]
    fn elements(&self) -> PyResult<usize> {
        Ok(self.tensor()?.elements())
    }

    #[getter]
    fn bits(&self) -> PyResult<f64> {
        Ok(self.tensor()?.packing().bits_per_code())
    }

    #[getter]
    fn packing(&self) -> PyResult<String> {
        Ok(self.tensor()?.packing().to_string())
    }

    #[getter]
    fn block(&self) -> PyResult<Option<usize>> {
        Ok(self.tensor()?.block())
    }

    #[getter]
    fn two_scales(&self) -> PyResult<bool> {
        Ok(self.tensor()?.has_two_steps())
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.tensor.bytes()
    }

    /// The multipliers of the codes.
    fn multipliers(&self) -> PyResult<Vec<f32>> {
        Ok(self.tensor()?.table().multipliers().to_vec())
    }

    /// The steps of the groups, one after the other.
    fn steps<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        Ok(PyArray1::from_slice(py, self.tensor()?.steps()))
    }

    /// The codes of all weights.
    fn codes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let tensor = self.tensor()?;
        Ok(PyArray1::from_vec(py, py.detach(|| tensor.codes())))
    }

    /// The weights.
    fn decode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let tensor = self.tensor()?;
        Ok(PyArray1::from_vec(py, py.detach(|| tensor.decode())))
    }

    /// Writes W·x of every vector of `x`, one after the other, to `y`.
    fn multiply<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyArray1<f32>>,
        y: &Bound<'py, PyArray1<f32>>,
        threads: Option<i64>,
    ) -> PyResult<()> {
        let pool = pool(threads)?;
        let x = x.try_readonly().map_err(errors::borrow("x"))?;
        let x = x.as_slice().map_err(errors::slice("x"))?;
        let mut y = y.try_readwrite().map_err(errors::borrow("y"))?;
        let y = y.as_slice_mut().map_err(errors::slice("y"))?;
        py.detach(|| {
            if y.is_empty() {
                return Ok(());
            }
            let matrix = self.matrix()?;
            let (rows, columns) = (matrix.rows(), matrix.columns());
            let batch = y.len().checked_div(rows).unwrap_or(0);
            if y.len() != batch * rows || x.len() != batch * columns {
                return Err(value("the vectors and the matrix differ in length"));
            }
            pool.install(|| matrix.multiply_batch(x, batch, y));
            Ok(())
        })
    }
}

/// Packed tensors by name, the names of all others, and the metadata.
type Contents = (Vec<(String, Packed)>, Vec<String>, BTreeMap<String, String>);

/// A file of packed weights: the packed tensors, the names of all others, and the metadata.
#[pyfunction]
pub(crate) fn read_packed(py: Python<'_>, path: PathBuf) -> PyResult<Contents> {
    let read = || {
        let file = PackedFile::open(&path)?;
        let (mut packed, mut others) = (Vec::new(), Vec::new());
        for name in file.names() {
            if !file.is_packed(&name) {
                others.push(name);
            } else if let Tensor::Packed(tensor) = file.tensor(&name)? {
                packed.push((name, Packed::new(tensor)));
            }
        }
        Ok((packed, others, file.metadata().collect()))
    };
    py.detach(read).map_err(errors::file)
}

/// Tensors by name: packed ones, and those in f32 with their shapes.
#[derive(FromPyObject)]
pub(crate) struct NewTensors<'py>(
    Vec<(String, Bound<'py, Packed>)>,
    Vec<(String, Vec<usize>, Bound<'py, PyArray1<f32>>)>,
);

impl NewTensors<'_> {
    fn into_map(self) -> PyResult<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        for (name, packed) in self.0 {
            tensors.insert(name, packed.get().tensor.clone());
        }
        for (name, shape, values) in self.1 {
            let values = values.to_vec().map_err(errors::slice("an array"))?;
            tensors.insert(name, Tensor::F32 { shape, values });
        }
        Ok(tensors)
    }
}

/// Writes a file of packed weights.
#[pyfunction]
pub(crate) fn write_packed(
    py: Python<'_>,
    path: PathBuf,
    tensors: NewTensors<'_>,
    metadata: BTreeMap<String, String>,
) -> PyResult<()> {
    let tensors = tensors.into_map()?;
    py.detach(|| PackedFile::write(&path, &tensors, metadata))
        .map_err(errors::file)
}

/// Writes a folder in the format of compressed-tensors.
#[pyfunction]
pub(crate) fn write_compressed_tensors(
    py: Python<'_>,
    path: PathBuf,
    tensors: NewTensors<'_>,
    metadata: BTreeMap<String, String>,
) -> PyResult<()> {
    let tensors = tensors.into_map()?;
    py.detach(|| laq_packed::write_compressed_tensors(&path, &tensors, &metadata))
        .map_err(errors::file)?;
    Ok(())
}

/// A value of the metadata of a GGUF file.
#[derive(FromPyObject)]
pub(crate) enum Entry {
    Bool(bool),
    Number(u32),
    Float(f32),
    Text(String),
}

/// Writes a GGUF file: packed tensors as blocks of the formats of their names, where they were trained in them.
#[pyfunction]
pub(crate) fn write_gguf(
    py: Python<'_>,
    path: PathBuf,
    tensors: NewTensors<'_>,
    formats: BTreeMap<String, String>,
    metadata: BTreeMap<String, Entry>,
) -> PyResult<()> {
    let tensors = tensors.into_map()?;
    let metadata = metadata.into_iter().map(|(key, entry)| {
        let value = match entry {
            Entry::Bool(flag) => NewValue::Bool(flag),
            Entry::Number(number) => NewValue::Number(number),
            Entry::Float(number) => NewValue::Float(number),
            Entry::Text(text) => NewValue::Text(text),
        };
        (key, value)
    });
    let metadata = metadata.collect();
    let of = |name: &str| formats.get(name)?.parse().ok();
    py.detach(|| gguf::write_gguf(&path, of, &tensors, metadata))
        .map_err(errors::gguf)?;
    Ok(())
}

/// Writes a file atomically.
#[pyfunction]
pub(crate) fn write_bytes(py: Python<'_>, path: PathBuf, bytes: &[u8]) -> PyResult<()> {
    py.detach(|| write_atomically(&path, bytes))
        .map_err(|error| errors::system(&error))
}
