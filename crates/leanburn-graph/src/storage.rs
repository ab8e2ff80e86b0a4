//! Compressed rows in safetensors files.

use std::path::Path;

use burn::tensor::TensorData;
use leanburn_core::{Error, Result, checkpoint::Checkpoint};

use crate::Csr;

/// Reads `NAME.indptr`, `NAME.indices`, `NAME.values` and `NAME.shape`.
pub(crate) fn read_csr(file: &Checkpoint, path: &Path, name: &str) -> Result<Csr> {
    let shape = sizes(file, path, &format!("{name}.shape"))?;
    let offsets = sizes(file, path, &format!("{name}.indptr"))?;
    let columns = sizes(file, path, &format!("{name}.indices"))?;
    let values: Vec<f32> = file.read(&format!("{name}.values"))?.iter::<f32>().collect();
    let &[rows, width] = &shape[..] else {
        return Err(Error::format(path, format!("`{name}.shape`"), "two numbers", shape.len()));
    };
    if offsets.len().checked_sub(1) != Some(rows) {
        let expected = format!("{} numbers, one more than rows", rows.saturating_add(1));
        return Err(Error::format(path, format!("`{name}.indptr`"), expected, offsets.len()));
    }
    let columns = columns.into_iter().map(|column| u32::try_from(column).unwrap_or(u32::MAX)).collect();
    Csr::new(width, offsets, columns, values)
        .map_err(|error| Error::format(path, format!("`{name}`"), "a matrix in compressed rows", error))
}

/// A list of whole numbers that are not negative.
pub(crate) fn sizes(file: &Checkpoint, path: &Path, name: &str) -> Result<Vec<usize>> {
    let data = file.read(name)?;
    let location = || format!("`{name}`");
    if !data.dtype.is_int() && !data.dtype.is_uint() {
        return Err(Error::format(path, location(), "whole numbers", format!("{:?}", data.dtype)));
    }
    data.iter::<i64>()
        .map(|value| {
            usize::try_from(value).map_err(|_| Error::format(path, location(), "numbers from 0", value))
        })
        .collect()
}

/// The tensors that [`read_csr`] reads.
pub(crate) fn csr_tensors(matrix: &Csr, name: &str) -> Vec<(String, TensorData)> {
    let ints = |values: Vec<i64>| {
        let count = values.len();
        TensorData::new(values, [count])
    };
    let values = TensorData::new(matrix.values.clone(), [matrix.entries()]);
    [
        ("shape", ints(vec![matrix.rows() as i64, matrix.width() as i64])),
        ("indptr", ints(matrix.offsets.iter().map(|&offset| offset as i64).collect())),
        ("indices", ints(matrix.columns.iter().map(|&column| i64::from(column)).collect())),
        ("values", values),
    ]
    .map(|(part, data)| (format!("{name}.{part}"), data))
    .to_vec()
}
