//! Node features, dense or sparse.

use std::{ffi::OsStr, path::Path};

use burn::tensor::{Tensor, TensorData, backend::Backend};
use leanburn_core::{Error, Result, checkpoint::Checkpoint, table::Table};

use crate::{Csr, storage};

/// A matrix of features, one row a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Features {
    /// All cells, row by row.
    Dense {
        /// `rows x columns` values.
        values: Vec<f32>,
        /// Number of columns.
        columns: usize,
    },
    /// The cells that are not zero.
    Sparse(Csr),
}

/// From this share of cells that are not zero on, a matrix is kept dense.
const DENSE_FROM: f64 = 0.125;

/// Sums that an inner product is made of, for a processor to add at once.
const LANES: usize = 8;

impl Features {
    /// The features of dense rows; they are kept sparse where most cells are zero.
    ///
    /// # Errors
    ///
    /// When there is no cell, the number of values is not a multiple of `columns`, or a value is not finite.
    pub fn new(values: Vec<f32>, columns: usize) -> Result<Self> {
        if columns == 0 || values.is_empty() || !values.len().is_multiple_of(columns) {
            let expected = format!("at least one row of {columns} columns, and whole rows");
            return Err(Error::data("features", expected, format!("{} values", values.len())));
        }
        if let Some(place) = values.iter().position(|value| !value.is_finite()) {
            let location = format!("features, row {}, column {}", place / columns, place % columns);
            return Err(Error::data(location, "a finite number", values[place]));
        }
        let filled = values.iter().filter(|&&value| value != 0.0).count();
        if filled as f64 >= DENSE_FROM * values.len() as f64 {
            return Ok(Self::Dense { values, columns });
        }
        let Csr { width, offsets, columns, values } = Csr::from_dense(&values, columns);
        Ok(Self::Sparse(Csr::new(width, offsets, columns, values)?))
    }

    /// The features of a table; its labels and names are not looked at.
    ///
    /// # Errors
    ///
    /// When a cell is beyond the range of `f32`.
    pub fn from_table(table: &Table) -> Result<Self> {
        Self::new(table.values().iter().map(|&value| value as f32).collect(), table.columns())
    }

    /// Reads features from a file, by its extension:
    ///
    /// - `.csv`, `.tsv`, `.npy`, `.mat`: a table, as [`Table::open`] reads it;
    /// - `.safetensors`: `features` of shape `[rows, columns]`, or compressed rows as `features.indptr`,
    ///   `features.indices`, `features.values` and `features.shape`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is not what its format requires, or a value is not finite.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.extension().and_then(OsStr::to_str) != Some("safetensors") {
            return Self::from_table(&Table::open(path, None)?);
        }
        let file = Checkpoint::open(path)?;
        if file.shape("features").is_some() {
            let data = file.read("features")?;
            return Self::from_table(&Table::from_tensor_data(data)?);
        }
        Ok(Self::Sparse(storage::read_csr(&file, path, "features")?))
    }

    /// Number of nodes.
    pub fn rows(&self) -> usize {
        match self {
            Self::Dense { values, columns } => values.len() / columns,
            Self::Sparse(matrix) => matrix.rows(),
        }
    }

    /// Number of features of a node.
    pub fn columns(&self) -> usize {
        match self {
            Self::Dense { columns, .. } => *columns,
            Self::Sparse(matrix) => matrix.width(),
        }
    }

    /// The value of a cell.
    pub(crate) fn value(&self, row: usize, column: usize) -> f32 {
        match self {
            Self::Dense { values, columns } => values[row * columns + column],
            Self::Sparse(matrix) => {
                let (columns, values) = matrix.row(row);
                columns.binary_search(&(column as u32)).map_or(0.0, |place| values[place])
            }
        }
    }

    /// Whether no value is negative.
    pub fn is_non_negative(&self) -> bool {
        let values = match self {
            Self::Dense { values, .. } => values,
            Self::Sparse(matrix) => &matrix.values,
        };
        values.iter().all(|&value| value >= 0.0)
    }

    /// Whether every value is 0 or 1.
    pub fn is_binary(&self) -> bool {
        let values = match self {
            Self::Dense { values, .. } => values,
            Self::Sparse(matrix) => &matrix.values,
        };
        values.iter().all(|&value| value == 0.0 || value == 1.0)
    }

    /// The features, dense, with each column of mean 0 and deviation 1; a constant column becomes 0.
    pub fn standardised(&self) -> Self {
        let columns = self.columns();
        let mut values = match self {
            Self::Dense { values, .. } => values.clone(),
            Self::Sparse(matrix) => matrix.to_dense(),
        };
        let rows = self.rows() as f64;
        for column in 0..columns {
            let of_column = || values[column..].iter().step_by(columns).map(|&value| f64::from(value));
            let mean = of_column().sum::<f64>() / rows;
            let deviation = (of_column().map(|value| (value - mean).powi(2)).sum::<f64>() / rows).sqrt();
            // A constant column's deviation is only the rounding of its mean.
            let scale = if deviation <= f64::from(f32::EPSILON) * mean.abs() { 0.0 } else { 1.0 / deviation };
            for value in values[column..].iter_mut().step_by(columns) {
                *value = ((f64::from(*value) - mean) * scale) as f32;
            }
        }
        Self::Dense { values, columns }
    }

    /// The features with rows of sum 1; rows of sum 0 stay. (For features that are not negative.)
    pub fn row_normalised(&self) -> Self {
        let scaled = |row: &[f32]| {
            let sum: f64 = row.iter().map(|&value| f64::from(value)).sum();
            let scale = if sum == 0.0 { 1.0 } else { 1.0 / sum };
            row.iter().map(move |&value| (f64::from(value) * scale) as f32).collect::<Vec<_>>()
        };
        match self {
            Self::Dense { values, columns } => {
                Self::Dense { values: values.chunks(*columns).flat_map(scaled).collect(), columns: *columns }
            }
            Self::Sparse(matrix) => {
                let values = (0..matrix.rows()).flat_map(|row| scaled(matrix.row(row).1)).collect();
                Self::Sparse(Csr { values, ..matrix.clone() })
            }
        }
    }

    /// The rows named by `rows`, in that order.
    ///
    /// # Panics
    ///
    /// When there is no such row.
    pub fn select_rows(&self, rows: &[usize]) -> Self {
        match self {
            Self::Dense { values, columns } => {
                let row = |&row: &usize| &values[row * columns..(row + 1) * columns];
                Self::Dense { values: rows.iter().flat_map(row).copied().collect(), columns: *columns }
            }
            Self::Sparse(matrix) => Self::Sparse(matrix.select_rows(rows)),
        }
    }

    /// All cells as a tensor `[rows, columns]`.
    pub fn to_tensor<B: Backend>(&self, device: &B::Device) -> Tensor<B, 2> {
        let values = match self {
            Self::Dense { values, .. } => values.clone(),
            Self::Sparse(matrix) => matrix.to_dense(),
        };
        Tensor::from_data(TensorData::new(values, [self.rows(), self.columns()]), device)
    }

    /// The inner product of two rows, in double precision and always in the same order.
    pub(crate) fn dot(&self, a: usize, b: usize) -> f64 {
        match self {
            Self::Dense { values, columns } => {
                let row = |row: usize| values[row * columns..(row + 1) * columns].as_chunks::<LANES>();
                let ((left, left_rest), (right, right_rest)) = (row(a), row(b));
                let mut sums = [0.0_f64; LANES];
                for (x, y) in left.iter().zip(right) {
                    for lane in 0..LANES {
                        sums[lane] += f64::from(x[lane]) * f64::from(y[lane]);
                    }
                }
                let rest = left_rest.iter().zip(right_rest).map(|(&x, &y)| f64::from(x) * f64::from(y));
                sums.iter().sum::<f64>() + rest.sum::<f64>()
            }
            Self::Sparse(matrix) => {
                let ((columns, values), (others, theirs)) = (matrix.row(a), matrix.row(b));
                let (mut i, mut j, mut sum) = (0, 0, 0.0);
                while i < columns.len() && j < others.len() {
                    match columns[i].cmp(&others[j]) {
                        std::cmp::Ordering::Less => i += 1,
                        std::cmp::Ordering::Greater => j += 1,
                        std::cmp::Ordering::Equal => {
                            sum += f64::from(values[i]) * f64::from(theirs[j]);
                            i += 1;
                            j += 1;
                        }
                    }
                }
                sum
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> [Features; 2] {
        let mut values = vec![0.0; 40];
        (values[3], values[7], values[25], values[27]) = (1.0, 3.0, 5.0, 7.0);
        let sparse = Features::new(values.clone(), 20).unwrap();
        assert!(matches!(sparse, Features::Sparse(_)));
        [Features::Dense { values, columns: 20 }, sparse]
    }

    #[test]
    fn sparse_and_dense_are_the_same_matrix() {
        let [dense, sparse] = both();
        for features in [&dense, &sparse] {
            assert_eq!((features.rows(), features.columns()), (2, 20));
            assert_eq!([features.dot(0, 0), features.dot(0, 1), features.dot(1, 1)], [10.0, 21.0, 74.0]);
            assert!(!features.is_binary());
            assert_eq!(features.select_rows(&[1]).dot(0, 0), 74.0);
        }
        let tensor =
            |features: &Features| features.to_tensor::<burn_flex::Flex>(&Default::default()).into_data();
        assert_eq!(tensor(&dense), tensor(&sparse));
        assert_eq!(tensor(&dense.row_normalised()), tensor(&sparse.row_normalised()));
        assert_eq!(dense.row_normalised().dot(0, 0), 0.0625 + 0.5625);
    }

    #[test]
    fn columns_are_standardised() {
        let features = Features::new(vec![1.0, 0.1, 3.0, 0.1], 2).unwrap().standardised();
        assert_eq!(features, Features::Dense { values: vec![-1.0, 0.0, 1.0, 0.0], columns: 2 });
    }

    #[test]
    fn bad_cells_are_named() {
        let message = |values: &[f32]| Features::new(values.to_vec(), 2).unwrap_err().to_string();
        assert!(message(&[1.0, 2.0, 3.0, f32::NAN]).contains("row 1, column 1"));
        assert!(message(&[1.0]).contains("whole rows"));
        assert!(message(&[]).contains("at least one row"));
    }
}
