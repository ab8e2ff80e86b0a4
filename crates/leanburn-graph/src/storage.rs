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
    if rows == 0 || width == 0 {
        let found = format!("{rows} and {width}");
        return Err(Error::format(path, format!("`{name}.shape`"), "at least one row and one column", found));
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

/// Checks that a file has as many values as weights of these shapes, before layers are made of a size that only settings
/// claim.
///
/// - settings: the file that holds the settings
pub(crate) fn check_weights(
    weights: impl IntoIterator<Item = [usize; 2]>,
    file: &Checkpoint,
    settings: &Path,
) -> Result<()> {
    let mut left = file.elements();
    for [inputs, outputs] in weights {
        let rest = inputs.checked_mul(outputs).filter(|&count| count > 0).and_then(|n| left.checked_sub(n));
        let Some(rest) = rest else {
            let found = format!("{} values in the file of weights", file.elements());
            return Err(Error::format(settings, "widths", "those of the saved network", found));
        };
        left = rest;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use leanburn_core::checkpoint;

    fn ints(values: &[i64]) -> TensorData {
        TensorData::new(values.to_vec(), [values.len()])
    }

    /// A file of one row in which some tensors are others.
    fn written(changed: &[(&str, TensorData)]) -> (tempfile::TempDir, std::path::PathBuf) {
        let matrix = Csr::new(3, vec![0, 2], vec![0, 2], vec![1.0, 2.0]).unwrap();
        let mut tensors = csr_tensors(&matrix, "graph");
        for (name, data) in changed {
            tensors.iter_mut().find(|(own, _)| own == name).unwrap().1 = data.clone();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("matrix.safetensors");
        checkpoint::save_tensors(tensors, &path).unwrap();
        (folder, path)
    }

    fn message(changed: &[(&str, TensorData)]) -> String {
        let (_folder, path) = written(changed);
        read_csr(&Checkpoint::open(&path).unwrap(), &path, "graph").unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        let (_folder, path) = written(&[]);
        assert_eq!(read_csr(&Checkpoint::open(&path).unwrap(), &path, "graph").unwrap().entries(), 2);
        assert!(message(&[("graph.shape", ints(&[1, 1 << 40]))]).contains("columns: expected at most"));
        assert!(message(&[("graph.shape", ints(&[1, 2]))]).contains("columns below 2"));
        assert!(message(&[("graph.shape", ints(&[1, 0]))]).contains("one column"));
        assert!(message(&[("graph.shape", ints(&[1]))]).contains("two numbers"));
        assert!(message(&[("graph.shape", ints(&[i64::MAX, 3]))]).contains("one more than rows"));
        assert!(message(&[("graph.indices", ints(&[0, -1]))]).contains("numbers from 0, found -1"));
        assert!(message(&[("graph.indices", ints(&[0, 1 << 33]))]).contains("columns below 3"));
        assert!(message(&[("graph.indptr", ints(&[0, 5]))]).contains("row offsets"));
        let fractions = TensorData::new(vec![0.5_f32, 2.0], [2]);
        assert!(message(&[("graph.indices", fractions)]).contains("whole numbers"));
    }

    #[test]
    fn settings_of_other_weights_are_refused() {
        let (_folder, path) = written(&[]);
        let file = Checkpoint::open(&path).unwrap();
        let fits = |weights: &[[usize; 2]]| check_weights(weights.iter().copied(), &file, &path);
        assert!(fits(&[[2, 2], [1, 4]]).is_ok());
        for weights in [&[[2, 2], [1, 5]][..], &[[usize::MAX, 2]], &[[0, 4]]] {
            assert!(fits(weights).unwrap_err().to_string().contains("widths"), "{weights:?}");
        }
    }
}
