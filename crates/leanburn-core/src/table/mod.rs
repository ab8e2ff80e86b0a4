//! Tables of numbers: rows are samples, columns are features; read strictly from CSV, `.npy` and `.mat`.

use std::{ffi::OsStr, path::Path};

use burn::tensor::{DType, TensorData};

use crate::{Error, Result};

pub mod csv;
pub mod mat;
pub mod npy;

/// More dimensions than any array library writes; it bounds the work that a hostile shape can ask for.
const MAX_DIMENSIONS: usize = 64;

/// Integers up to this size are exact in `f64`.
const MAX_EXACT: u64 = 1 << 53;

/// A dense table of finite numbers, row by row, with optional column names and class labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    values: Vec<f64>,
    columns: usize,
    names: Option<Vec<String>>,
    labels: Option<Vec<i64>>,
}

impl Table {
    /// A table of `values.len() / columns` rows.
    ///
    /// # Errors
    ///
    /// When there is no row or no column, when the last row is short, or when a cell is NaN or infinite (named by row
    /// and column, counted from 0).
    pub fn new(values: Vec<f64>, columns: usize) -> Result<Self> {
        if columns == 0 || values.is_empty() {
            return Err(Error::data("table", "at least one row and one column", "an empty table"));
        }
        if !values.len().is_multiple_of(columns) {
            return Err(Error::data(
                "table",
                format!("a multiple of {columns} values"),
                format!("{} values", values.len()),
            ));
        }
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::data(
                format!("row {}, column {}", i / columns, i % columns),
                "a finite number",
                values[i],
            ));
        }
        Ok(Self { values, columns, names: None, labels: None })
    }

    /// The table with one class label a row; for anomaly detection 1 is an anomaly and 0 is normal.
    ///
    /// # Errors
    ///
    /// When the number of labels is not the number of rows.
    pub fn with_labels(mut self, labels: Vec<i64>) -> Result<Self> {
        if labels.len() != self.rows() {
            return Err(Error::data(
                "labels",
                format!("{} labels, one a row", self.rows()),
                format!("{} labels", labels.len()),
            ));
        }
        self.labels = Some(labels);
        Ok(self)
    }

    /// The table with one name a column.
    ///
    /// # Errors
    ///
    /// When the number of names is not the number of columns.
    pub fn with_names(mut self, names: Vec<String>) -> Result<Self> {
        if names.len() != self.columns {
            return Err(Error::data(
                "column names",
                format!("{} names, one a column", self.columns),
                format!("{} names", names.len()),
            ));
        }
        self.names = Some(names);
        Ok(self)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    /// Number of columns, labels not counted.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All cells, row by row.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The cells of row `i`.
    ///
    /// # Panics
    ///
    /// When there is no such row.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.columns..(i + 1) * self.columns]
    }

    /// The columns' names, when known.
    pub fn names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    /// The rows' class labels, when known.
    pub fn labels(&self) -> Option<&[i64]> {
        self.labels.as_deref()
    }

    /// The table of the rows named by `rows`, in that order, with their labels; a row may come more than
    /// once.
    ///
    /// # Panics
    ///
    /// When `rows` is empty or there is no such row.
    pub fn select_rows(&self, rows: &[usize]) -> Self {
        assert!(!rows.is_empty(), "a table has at least one row");
        Self {
            values: rows.iter().flat_map(|&i| self.row(i)).copied().collect(),
            columns: self.columns,
            names: self.names.clone(),
            labels: self.labels.as_ref().map(|labels| rows.iter().map(|&i| labels[i]).collect()),
        }
    }

    /// The table of a tensor of shape `[rows, columns]`, of any type of numbers; `true` becomes 1.
    ///
    /// # Errors
    ///
    /// When the tensor is quantized or does not have two dimensions, when an integer is beyond 2^53 and so
    /// not exact in `f64`, or when [`Table::new`] refuses the values.
    pub fn from_tensor_data(data: TensorData) -> Result<Self> {
        let [_, columns] = data.shape[..] else {
            return Err(Error::data("shape", "two dimensions", format!("{:?}", &data.shape[..])));
        };
        if let DType::QFloat(_) = data.dtype {
            return Err(Error::data("element type", "plain numbers", "quantized ones"));
        }
        let inexact = match data.dtype {
            DType::I64 => data.iter::<i64>().position(|v| v.unsigned_abs() > MAX_EXACT),
            DType::U64 => data.iter::<u64>().position(|v| v > MAX_EXACT),
            _ => None,
        };
        if let Some(i) = inexact {
            return Err(Error::data(
                format!("row {}, column {}", i / columns, i % columns),
                "an integer of at most 2^53",
                "a larger one",
            ));
        }
        Self::new(data.iter().collect(), columns)
    }

    /// Reads a table from a file, by its extension:
    ///
    /// - `.csv` and, separated by tabs, `.tsv`: see [`csv::read`];
    /// - `.npy`: an array of shape `[rows, columns]`, see [`npy::read`]; `label_column` is a column's index
    ///   from 0;
    /// - `.mat`: the matrix `X`, see [`mat::read_table`]; `label_column` is a variable, without it the labels
    ///   are those of `y` where the file has it as whole numbers.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, has another extension or is not what its format requires, when a cell is
    /// not a finite number, or when the labels are missing or not integers.
    pub fn open(path: impl AsRef<Path>, label_column: Option<&str>) -> Result<Self> {
        let path = path.as_ref();
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
        match extension.as_str() {
            "csv" | "tsv" => {
                let delimiter = if extension == "tsv" { b'\t' } else { b',' };
                csv::read(path, &csv::CsvOptions { label_column: label_column.map(str::to_owned), delimiter })
            }
            "npy" => {
                let table = Self::from_tensor_data(npy::read(path)?).map_err(in_file(path, "array"))?;
                let Some(label) = label_column else { return Ok(table) };
                let column = column_index(label, table.columns)
                    .map_err(|expected| Error::format(path, "label column", expected, excerpt(label)))?;
                table.with_label_column(column).map_err(in_file(path, "array"))
            }
            "mat" => match label_column {
                Some(label) => mat::read_table(path, "X", Some(label)),
                None => mat::read_table_with(path, "X", mat::Labels::IfPresent("y")),
            },
            _ => Err(Error::format(
                path,
                "file name",
                "the extension .csv, .tsv, .npy or .mat",
                format!(".{extension}"),
            )),
        }
    }

    /// The table without column `label`, whose cells become the labels.
    fn with_label_column(mut self, label: usize) -> Result<Self> {
        let columns = self.columns;
        if columns < 2 {
            return Err(Error::data("table", "a column beside the labels", "one column"));
        }
        let labels = (0..self.rows())
            .map(|i| {
                let cell = self.row(i)[label];
                integer(cell)
                    .ok_or_else(|| Error::data(format!("row {i}, column {label}"), "an integer label", cell))
            })
            .collect::<Result<_>>()?;
        let mut column = (0..columns).cycle();
        self.values.retain(|_| column.next() != Some(label));
        if let Some(names) = &mut self.names {
            names.remove(label);
        }
        self.columns -= 1;
        self.with_labels(labels)
    }
}

/// The integer that `value` is, if it is one and exact.
fn integer(value: f64) -> Option<i64> {
    (value.fract() == 0.0 && value.abs() <= MAX_EXACT as f64).then_some(value as i64)
}

/// The index of a column, written as text, or what was expected.
fn column_index(text: &str, columns: usize) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|&column| column < columns)
        .ok_or_else(|| format!("the index of a column, from 0 to {}", columns - 1))
}

/// Names the file in an error about data, for `map_err`.
fn in_file(path: &Path, part: &str) -> impl FnOnce(Error) -> Error {
    move |error| match error {
        Error::Data { location, expected, found } => {
            Error::format(path, format!("{part}: {location}"), expected, found)
        }
        other => other,
    }
}

/// The first characters of what is there, for an error's `found`.
fn excerpt(bytes: impl AsRef<[u8]>) -> String {
    const SHOWN: usize = 40;
    let bytes = bytes.as_ref();
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
    format!("{shown:?}{}", if bytes.len() > SHOWN { "..." } else { "" })
}

/// Names there are, for an error.
fn listed(names: &[String]) -> String {
    /// More names than this are counted, not listed.
    const LISTED: usize = 20;
    let mut list: Vec<String> = names.iter().take(LISTED).map(excerpt).collect();
    if names.len() > LISTED {
        list.push(format!("... and {} more", names.len() - LISTED));
    }
    list.join(", ")
}

/// The number of elements of an array, or nothing where it overflows. Empty dimensions do not excuse the
/// others: whoever multiplies them in another order shall not overflow either.
fn elements(shape: &[usize]) -> Option<usize> {
    let full = shape.iter().filter(|&&n| n > 0).try_fold(1_usize, |count, &n| count.checked_mul(n))?;
    Some(if shape.contains(&0) { 0 } else { full })
}

/// Where the elements of an array lie that is stored with the first index fastest, in the order in which the
/// last index is fastest.
fn column_major(shape: &[usize], elements: usize) -> impl Iterator<Item = usize> {
    let mut index = vec![0; shape.len()];
    (0..elements).map(move |_| {
        let place = index.iter().zip(shape).rev().fold(0, |place, (i, n)| place * n + i);
        for (i, n) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < *n {
                break;
            }
            *i = 0;
        }
        place
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use proptest::{prelude::*, sample::Index};

    use super::*;

    /// Valid files, cut, with bits flipped and with sizes blown up.
    pub(crate) fn damaged(files: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        let damage = (any::<Index>(), 0..3, any::<u8>(), any::<u32>());
        (prop::sample::select(files), prop::collection::vec(damage, 1..4)).prop_map(|(mut file, damages)| {
            for (index, kind, bit, size) in damages {
                let at = index.index(file.len().max(1));
                match kind {
                    0 => file.truncate(at),
                    1 => file.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (bit % 8)),
                    _ => file.iter_mut().skip(at).zip(size.to_le_bytes()).for_each(|(byte, new)| *byte = new),
                }
            }
            file
        })
    }

    /// Texts of up to `most` of the `parts`.
    pub(super) fn parts(parts: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(parts), 0..=most).prop_map(|parts| parts.concat())
    }

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn selects_rows_with_their_labels() {
        let table = Table::new(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2)
            .and_then(|table| table.with_labels(vec![0, 1, 0]))
            .and_then(|table| table.with_names(vec!["a".into(), "b".into()]))
            .unwrap();
        let selected = table.select_rows(&[2, 1, 2]);
        assert_eq!(selected.values(), [5.0, 6.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(selected.labels(), Some(&[0, 1, 0][..]));
        assert_eq!(selected.names(), table.names());
    }

    #[test]
    fn converts_tensors_of_numbers() {
        let table = |data| Table::from_tensor_data(data);
        let expected = Table::new(vec![1.0, 0.0], 2).unwrap();
        assert_eq!(table(TensorData::from([[1_f32, 0.0]])).unwrap(), expected);
        assert_eq!(table(TensorData::from([[1_i64, 0]])).unwrap(), expected);
        assert_eq!(table(TensorData::from([[true, false]])).unwrap(), expected);
        assert!(table(TensorData::from([[1_u64 << 53]])).is_ok());
        assert!(message(table(TensorData::from([1.0]))).contains("expected two dimensions, found [1]"));
        assert!(message(table(TensorData::from([[0, (1_i64 << 53) + 1]]))).contains("row 0, column 1"));
        assert!(message(table(TensorData::from([[0, (1_u64 << 53) + 1]]))).contains("row 0, column 1"));
        assert!(message(table(TensorData::from([[0.0, f64::NAN]]))).contains("row 0, column 1"));
        assert!(message(table(TensorData::new(Vec::<f64>::new(), [3, 0]))).contains("empty"));
    }

    #[test]
    fn opens_by_extension() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let expected = Table::new(vec![1.0, 2.0, 3.0, 4.0], 2).unwrap();
        let labelled = Table::new(vec![1.0, 3.0], 1).unwrap().with_labels(vec![2, 4]).unwrap();

        let csv = write("a.CSV", b"1,2\n3,4\n");
        let tsv = write("a.tsv", b"1\t2\n3\t4\n");
        let array =
            npy::tests::file("<f8", false, &[2, 2], &[1_f64, 2.0, 3.0, 4.0].map(f64::to_le_bytes).concat());
        let npy = write("a.npy", &array);
        for path in [csv, tsv, npy] {
            assert_eq!(Table::open(&path, None).unwrap(), expected);
            assert_eq!(Table::open(&path, Some("1")).unwrap(), labelled);
            let error = message(Table::open(&path, Some("2")));
            assert!(error.contains("a column, from 0 to 1"), "{error}");
        }

        let text = write("a.txt", b"1");
        assert!(message(Table::open(text, None)).contains("expected the extension .csv, .tsv, .npy or .mat"));
        for name in ["b.csv", "b.npy", "b.mat"] {
            assert!(matches!(Table::open(dir.path().join(name), None), Err(Error::Io { .. })));
        }
    }

    #[test]
    fn opens_npy_with_strict_labels() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let open = |shape: &[usize], values: &[f64]| {
            let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            fs::write(&path, npy::tests::file("<f8", false, shape, &data)).unwrap();
            Table::open(&path, Some("0"))
        };
        assert!(
            message(open(&[2, 2], &[1.0, 2.0, 1.5, 2.0])).contains("row 1, column 0: expected an integer")
        );
        assert!(message(open(&[2, 1], &[1.0, 2.0])).contains("a column beside the labels"));
        let error = message(open(&[1, 1, 2], &[1.0, 2.0]));
        assert!(error.contains("a.npy") && error.contains("two dimensions"), "{error}");
    }

    #[test]
    fn shapes_do_not_overflow() {
        assert_eq!(elements(&[]), Some(1));
        assert_eq!(elements(&[2, 0, 3]), Some(0));
        assert_eq!(elements(&[usize::MAX, 2]), None);
        assert_eq!(elements(&[0, usize::MAX, 2]), None);
    }

    #[test]
    fn walks_column_major_arrays_in_row_major_order() {
        assert_eq!(column_major(&[2, 3], 6).collect::<Vec<_>>(), [0, 2, 4, 1, 3, 5]);
        assert_eq!(column_major(&[2, 1, 2], 4).collect::<Vec<_>>(), [0, 2, 1, 3]);
        assert_eq!(column_major(&[], 1).collect::<Vec<_>>(), [0]);
    }
}
