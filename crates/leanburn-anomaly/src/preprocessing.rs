//! What happens to a table's rows before a detector sees them.

use burn::{config::Config, tensor::TensorData};
use leanburn_core::{Error, Result, table::Table};
use serde::{Deserialize, Serialize};

/// Which steps are applied to a row, in the order of the fields.
#[derive(Config, Debug, PartialEq, Eq)]
pub struct PreprocessingConfig {
    /// Subtract each column's mean and divide by its standard deviation, both of the fitted table; a constant column
    /// is divided by 1. Default: false
    #[config(default = false)]
    pub standardise: bool,
    /// Append a constant column of `sqrt(columns)`, which keeps the row's length where `unit_rows` would lose it.
    /// Default: false
    #[config(default = false)]
    pub bias_column: bool,
    /// Divide each row by its Euclidean norm; a row of zeros stays. Default: true
    #[config(default = true)]
    pub unit_rows: bool,
}

impl PreprocessingConfig {
    /// The steps with the statistics of `table`.
    pub fn fit(&self, table: &Table) -> Preprocessing {
        let columns = table.columns();
        let (mut mean, mut std) = (vec![0.0; columns], vec![1.0; columns]);
        if self.standardise {
            let rows = table.rows() as f64;
            for row in table.values().chunks(columns) {
                mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value / rows);
            }
            let mut variance = vec![0.0; columns];
            for row in table.values().chunks(columns) {
                for ((variance, mean), value) in variance.iter_mut().zip(&mean).zip(row) {
                    *variance += (value - mean).powi(2) / rows;
                }
            }
            for ((std, variance), mean) in std.iter_mut().zip(variance).zip(&mean) {
                // A constant column's variance is only the rounding of its mean.
                let rounding = f64::EPSILON * rows.sqrt() * mean.abs();
                *std = if variance.sqrt() <= rounding { 1.0 } else { variance.sqrt() };
            }
        }
        Preprocessing { config: self.clone(), mean, std }
    }
}

/// Fitted preprocessing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preprocessing {
    config: PreprocessingConfig,
    mean: Vec<f64>,
    std: Vec<f64>,
}

impl Preprocessing {
    /// Checks statistics that were read from a file.
    pub(crate) fn validate(&self) -> Result<()> {
        let finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
        if self.mean.is_empty()
            || self.mean.len() != self.std.len()
            || !finite(&self.mean)
            || !finite(&self.std)
            || self.std.iter().any(|&std| std <= 0.0)
        {
            return Err(Error::data(
                "preprocessing",
                "a finite mean and a positive deviation for every column",
                format!("{} means and {} deviations", self.mean.len(), self.std.len()),
            ));
        }
        Ok(())
    }

    /// Number of columns of the tables it takes.
    pub fn columns_in(&self) -> usize {
        self.mean.len()
    }

    /// Number of columns of the rows it gives.
    pub fn columns_out(&self) -> usize {
        self.mean.len() + usize::from(self.config.bias_column)
    }

    /// Rows of `table`, preprocessed in double precision and rounded once.
    ///
    /// - output: `[rows, columns_out]`, f32
    ///
    /// # Errors
    ///
    /// When the table's width is not the fitted one, or a value overflows.
    ///
    /// # Panics
    ///
    /// When a row is not in the table.
    pub fn rows(&self, table: &Table, rows: impl ExactSizeIterator<Item = usize>) -> Result<TensorData> {
        if table.columns() != self.columns_in() {
            return Err(Error::data(
                "table",
                format!("{} columns, as fitted", self.columns_in()),
                format!("{} columns", table.columns()),
            ));
        }
        let shape = [rows.len(), self.columns_out()];
        let mut values = Vec::with_capacity(shape[0] * shape[1]);
        let mut row = Vec::with_capacity(shape[1]);
        for index in rows {
            row.clear();
            let cells = table.row(index).iter().zip(&self.mean).zip(&self.std);
            row.extend(cells.map(|((value, mean), std)| (value - mean) / std));
            if self.config.bias_column {
                row.push((self.columns_in() as f64).sqrt());
            }
            let norm = if self.config.unit_rows {
                row.iter().map(|value| value * value).sum::<f64>().sqrt().max(1e-12)
            } else {
                1.0
            };
            for (column, value) in row.iter().enumerate() {
                let value = (value / norm) as f32;
                if !(value.is_finite() && norm.is_finite()) {
                    return Err(Error::data(
                        format!("row {index}, column {column}"),
                        "a number that f32 can hold once preprocessed; rescale the table",
                        row[column],
                    ));
                }
                values.push(value);
            }
        }
        Ok(TensorData::new(values, shape))
    }

    /// The whole table, preprocessed, as [`Table`]; labels and names are dropped.
    ///
    /// # Errors
    ///
    /// As [`rows`](Self::rows).
    pub fn table(&self, table: &Table) -> Result<Table> {
        let values = self.rows(table, 0..table.rows())?;
        let values = values.iter::<f32>().map(f64::from).collect();
        Table::new(values, self.columns_out())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overflowing_rows_are_named() {
        let table = Table::new(vec![1.0, 2.0, 1e200, 3.0], 2).unwrap();
        for config in [PreprocessingConfig::new(), PreprocessingConfig::new().with_unit_rows(false)] {
            let error = config.fit(&table).rows(&table, 0..2).unwrap_err().to_string();
            assert!(error.contains("row 1, column 0"), "{error}");
        }
    }

    fn table() -> Table {
        Table::new(vec![3.0, 4.0, 0.1, 0.0, 0.0, 0.1, 6.0, 8.0, 0.1], 3).unwrap()
    }

    fn values(config: PreprocessingConfig) -> Vec<f32> {
        config.fit(&table()).rows(&table(), 0..3).unwrap().to_vec().unwrap()
    }

    #[test]
    fn rows_get_unit_length_and_zeros_stay() {
        let rows = values(PreprocessingConfig::new());
        for row in rows.chunks(3) {
            assert!((row.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-6);
        }
        let zeros = Table::new(vec![0.0, 0.0], 2).unwrap();
        let data = PreprocessingConfig::new().fit(&zeros).rows(&zeros, 0..1).unwrap();
        assert_eq!(data.to_vec::<f32>().unwrap(), [0.0, 0.0]);
    }

    #[test]
    fn a_constant_column_is_not_blown_up() {
        let config = PreprocessingConfig::new().with_standardise(true).with_unit_rows(false);
        let rows = values(config);
        for row in rows.chunks(3) {
            assert!(row[2].abs() < 1e-6);
        }
        assert!((rows[0] - 0.0).abs() < 1e-6 && (rows[3] + 1.224_744_9).abs() < 1e-6);
    }

    #[test]
    fn the_bias_column_is_the_root_of_the_width() {
        let config = PreprocessingConfig::new().with_bias_column(true).with_unit_rows(false);
        let rows = values(config);
        assert_eq!(rows.len(), 12);
        assert!((rows[3] - 3.0_f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn another_width_is_an_error() {
        let fitted = PreprocessingConfig::new().fit(&table());
        let other = Table::new(vec![1.0, 2.0], 2).unwrap();
        let error = fitted.rows(&other, 0..1).unwrap_err().to_string();
        assert!(error.contains("3 columns") && error.contains("2 columns"), "{error}");
    }
}
