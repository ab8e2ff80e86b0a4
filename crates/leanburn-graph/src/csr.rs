//! Sparse matrices in memory, in compressed rows.

use leanburn_core::{Error, Result};
use rayon::prelude::*;

/// A sparse matrix in compressed sparse rows: the entries of row `i` are `offsets[i]..offsets[i + 1]`, with ascending
/// columns, each at most once.
#[derive(Debug, Clone, PartialEq)]
pub struct Csr {
    pub(crate) width: usize,
    pub(crate) offsets: Vec<usize>,
    pub(crate) columns: Vec<u32>,
    pub(crate) values: Vec<f32>,
}

/// Most columns: a file could declare any number, and memory is taken for each.
const LARGEST_WIDTH: usize = 1 << 26;

impl Csr {
    /// The matrix of compressed rows.
    ///
    /// - width: number of columns
    /// - offsets: where each row begins, and the number of entries
    /// - columns, values: of each entry
    ///
    /// # Errors
    ///
    /// When offsets do not ascend from 0 to the number of entries, when the columns of a row do not ascend or are not
    /// below `width`, or when a value is not finite.
    pub fn new(width: usize, offsets: Vec<usize>, columns: Vec<u32>, values: Vec<f32>) -> Result<Self> {
        if width > LARGEST_WIDTH {
            return Err(Error::data("columns", format!("at most {LARGEST_WIDTH}"), width));
        }
        let entries = columns.len();
        if offsets.first() != Some(&0) || offsets.last() != Some(&entries) || !offsets.is_sorted() {
            return Err(Error::data(
                "row offsets",
                format!("ascending numbers from 0 to the {entries} entries"),
                "others",
            ));
        }
        if values.len() != entries {
            return Err(Error::data("values", format!("{entries}, one an entry"), values.len()));
        }
        let matrix = Self { width, offsets, columns, values };
        for row in 0..matrix.rows() {
            let (columns, values) = matrix.row(row);
            if let Some(&column) = columns.iter().find(|&&column| column as usize >= width) {
                return Err(Error::data(format!("row {row}"), format!("columns below {width}"), column));
            }
            if !columns.is_sorted_by(|a, b| a < b) {
                return Err(Error::data(format!("row {row}"), "ascending columns, each once", "others"));
            }
            if let Some(place) = values.iter().position(|value| !value.is_finite()) {
                let location = format!("row {row}, column {}", columns[place]);
                return Err(Error::data(location, "a finite number", values[place]));
            }
        }
        Ok(matrix)
    }

    /// The matrix of entries in any order; those at the same place are added.
    ///
    /// # Panics
    ///
    /// When an entry lies outside the shape.
    pub(crate) fn from_entries(rows: usize, width: usize, mut entries: Vec<(u32, u32, f32)>) -> Self {
        entries.par_sort_unstable_by_key(|&(row, column, _)| (row, column));
        entries.dedup_by(|later, first| {
            let same = (later.0, later.1) == (first.0, first.1);
            if same {
                first.2 += later.2;
            }
            same
        });
        let mut offsets = vec![0; rows + 1];
        for &(row, column, _) in &entries {
            assert!((column as usize) < width, "column {column} of {width}");
            offsets[row as usize + 1] += 1;
        }
        for row in 0..rows {
            offsets[row + 1] += offsets[row];
        }
        let columns = entries.iter().map(|entry| entry.1).collect();
        let values = entries.iter().map(|entry| entry.2).collect();
        Self { width, offsets, columns, values }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of stored entries.
    pub fn entries(&self) -> usize {
        self.columns.len()
    }

    /// The columns and values of row `row`.
    ///
    /// # Panics
    ///
    /// When there is no such row.
    pub fn row(&self, row: usize) -> (&[u32], &[f32]) {
        let range = self.offsets[row]..self.offsets[row + 1];
        (&self.columns[range.clone()], &self.values[range])
    }

    /// The transpose.
    pub fn transpose(&self) -> Self {
        let (transpose, _) = self.transpose_with_places();
        transpose
    }

    /// The transpose, and for each of its entries the place of that entry here.
    pub(crate) fn transpose_with_places(&self) -> (Self, Vec<u32>) {
        let mut offsets = vec![0; self.width + 1];
        for &column in &self.columns {
            offsets[column as usize + 1] += 1;
        }
        for row in 0..self.width {
            offsets[row + 1] += offsets[row];
        }
        let mut next = offsets.clone();
        let mut columns = vec![0; self.entries()];
        let mut places = vec![0; self.entries()];
        for row in 0..self.rows() {
            for place in self.offsets[row]..self.offsets[row + 1] {
                let target = &mut next[self.columns[place] as usize];
                columns[*target] = row as u32;
                places[*target] = place as u32;
                *target += 1;
            }
        }
        let values = places.iter().map(|&place| self.values[place as usize]).collect();
        (Self { width: self.rows(), offsets, columns, values }, places)
    }

    /// Sum of each row.
    pub fn row_sums(&self) -> Vec<f64> {
        (0..self.rows()).map(|row| self.row(row).1.iter().map(|&value| f64::from(value)).sum()).collect()
    }

    /// `a self + b other`, entries at the same place added.
    ///
    /// # Panics
    ///
    /// When the shapes differ.
    pub(crate) fn weighted_sum(&self, a: f32, other: &Self, b: f32) -> Self {
        assert_eq!((self.rows(), self.width), (other.rows(), other.width), "shapes");
        let mut sum = Self {
            width: self.width,
            offsets: Vec::with_capacity(self.offsets.len()),
            columns: Vec::with_capacity(self.entries() + other.entries()),
            values: Vec::with_capacity(self.entries() + other.entries()),
        };
        sum.offsets.push(0);
        for row in 0..self.rows() {
            let ((columns, values), (others, added)) = (self.row(row), other.row(row));
            let (mut i, mut j) = (0, 0);
            while i < columns.len() || j < others.len() {
                let (mine, theirs) = (columns.get(i), others.get(j));
                let column = mine.into_iter().chain(theirs).min().expect("one of them is there");
                let mut value = 0.0;
                if mine == Some(column) {
                    value += a * values[i];
                    i += 1;
                }
                if theirs == Some(column) {
                    value += b * added[j];
                    j += 1;
                }
                sum.columns.push(*column);
                sum.values.push(value);
            }
            sum.offsets.push(sum.columns.len());
        }
        sum
    }

    /// The matrix of the cells that are not 0, row by row.
    pub(crate) fn from_dense(cells: &[f32], width: usize) -> Self {
        let (mut offsets, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for row in cells.chunks(width) {
            for (column, &value) in row.iter().enumerate().filter(|(_, value)| **value != 0.0) {
                columns.push(column as u32);
                values.push(value);
            }
            offsets.push(columns.len());
        }
        Self { width, offsets, columns, values }
    }

    /// The matrix without entries that are 0.
    pub(crate) fn without_zeros(&self) -> Self {
        let (mut offsets, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for row in 0..self.rows() {
            let (of_row, theirs) = self.row(row);
            for (&column, &value) in of_row.iter().zip(theirs).filter(|(_, value)| **value != 0.0) {
                columns.push(column);
                values.push(value);
            }
            offsets.push(columns.len());
        }
        Self { width: self.width, offsets, columns, values }
    }

    /// The rows named by `rows`, in that order.
    pub(crate) fn select_rows(&self, rows: &[usize]) -> Self {
        let mut selected =
            Self { width: self.width, offsets: vec![0], columns: Vec::new(), values: Vec::new() };
        for &row in rows {
            let (columns, values) = self.row(row);
            selected.columns.extend_from_slice(columns);
            selected.values.extend_from_slice(values);
            selected.offsets.push(selected.columns.len());
        }
        selected
    }

    /// All cells, row by row.
    pub fn to_dense(&self) -> Vec<f32> {
        let mut dense = vec![0.0; self.rows() * self.width];
        for row in 0..self.rows() {
            let (columns, values) = self.row(row);
            for (&column, &value) in columns.iter().zip(values) {
                dense[row * self.width + column as usize] = value;
            }
        }
        dense
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[[0, 2, 0], [1, 0, 3]]`
    fn matrix() -> Csr {
        Csr::new(3, vec![0, 1, 3], vec![1, 0, 2], vec![2.0, 1.0, 3.0]).unwrap()
    }

    #[test]
    fn rows_transpose_and_sums() {
        let matrix = matrix();
        assert_eq!(matrix.to_dense(), [0.0, 2.0, 0.0, 1.0, 0.0, 3.0]);
        let (transpose, places) = matrix.transpose_with_places();
        assert_eq!(transpose.to_dense(), [0.0, 1.0, 2.0, 0.0, 0.0, 3.0]);
        assert_eq!(places, [1, 0, 2]);
        assert_eq!(transpose.transpose(), matrix);
        assert_eq!(matrix.row_sums(), [2.0, 4.0]);
        assert_eq!(matrix.select_rows(&[1, 1]).to_dense(), [1.0, 0.0, 3.0, 1.0, 0.0, 3.0]);
        assert_eq!(Csr::from_dense(&matrix.to_dense(), 3), matrix);
        let zeros = Csr::new(3, vec![0, 2, 4], vec![0, 1, 0, 2], vec![0.0, 2.0, 1.0, 3.0]).unwrap();
        assert_eq!(zeros.without_zeros(), matrix);
    }

    #[test]
    fn entries_at_the_same_place_are_added() {
        let entries = vec![(1, 2, 1.0), (0, 1, 2.0), (1, 0, 1.0), (1, 2, 2.0)];
        assert_eq!(Csr::from_entries(2, 3, entries), matrix());
        let other = Csr::new(3, vec![0, 2, 3], vec![0, 1, 1], vec![5.0, 7.0, 9.0]).unwrap();
        let sum = matrix().weighted_sum(1.0, &other, 2.0);
        assert_eq!(sum.to_dense(), [10.0, 16.0, 0.0, 1.0, 18.0, 3.0]);
        assert_eq!(sum.entries(), 5);
    }

    #[test]
    fn bad_rows_are_refused() {
        let message = |offsets: &[usize], columns: &[u32], values: &[f32]| {
            Csr::new(3, offsets.to_vec(), columns.to_vec(), values.to_vec()).unwrap_err().to_string()
        };
        assert!(message(&[0, 2], &[1], &[1.0]).contains("row offsets"));
        assert!(message(&[], &[], &[]).contains("row offsets"));
        assert!(message(&[0, 1], &[3], &[1.0]).contains("row 0: expected columns below 3, found 3"));
        assert!(message(&[0, 2], &[1, 1], &[1.0, 1.0]).contains("row 0: expected ascending columns"));
        assert!(message(&[0, 0, 1], &[2], &[f32::NAN]).contains("row 1, column 2: expected a finite number"));
        assert!(message(&[0, 1], &[2], &[]).contains("values"));
    }
}
