//! Residual of a principal component analysis.

use faer::{Mat, MatRef};
use leanburn_core::{Error, Result, parallel::on_own_threads, table::Table};
use serde::{Deserialize, Serialize};

use super::{Baseline, check_columns, check_rows, mean_row, score_rows};

/// Settings of a principal component analysis used as a detector (Shyu, Chen, Sarinnapakorn and Chang, "A Novel Anomaly
/// Detection Scheme Based on Principal Component Classifier", 2003).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PcaConfig {
    /// Number of leading components, from 1 to the smaller of rows and columns; 10 by default.
    pub components: usize,
}

impl Default for PcaConfig {
    fn default() -> Self {
        Self { components: 10 }
    }
}

impl PcaConfig {
    /// Fits the mean and the leading components of `table`, [rows, columns]. Columns are centred, not scaled.
    ///
    /// # Errors
    ///
    /// When `components` is out of its range, when `table` has one row, or when its cells are so large that the
    /// decomposition overflows.
    pub fn fit(&self, table: &Table) -> Result<Pca> {
        check_rows(table)?;
        let (rows, columns) = (table.rows(), table.columns());
        let most = rows.min(columns);
        if !(1..=most).contains(&self.components) {
            let expected = format!("1 to {most}, the smaller of {rows} rows and {columns} columns");
            return Err(Error::setting("components", expected, self.components));
        }
        let mean = mean_row(table);
        let cells = MatRef::from_row_major_slice(table.values(), rows, columns);
        let centred = Mat::from_fn(rows, columns, |i, j| cells[(i, j)] - mean[j]);
        // The triangular factor has the principal axes of the whole table and at most as many rows as columns.
        let axes = on_own_threads(|| centred.qr().thin_R().thin_svd()).map_err(|_| {
            Error::data("table", "cells whose squares are finite", "a decomposition that does not converge")
        })?;
        let components = (0..self.components).map(|k| axes.V().col(k).iter().copied().collect()).collect();
        Ok(Pca { mean, components })
    }
}

/// A fitted principal component analysis.
///
/// The score is the squared Euclidean length of what remains of a centred row after its projection on the components.
#[derive(Debug, Clone, PartialEq)]
pub struct Pca {
    mean: Vec<f64>,
    /// Unit vectors, the one of the largest variance first.
    components: Vec<Vec<f64>>,
}

impl Baseline for Pca {
    fn anomaly_score(&self, table: &Table) -> Result<Vec<f64>> {
        check_columns(table, self.mean.len())?;
        score_rows(table, |row| {
            let mut rest: Vec<f64> = row.iter().zip(&self.mean).map(|(value, mean)| value - mean).collect();
            // The components are orthogonal, so that taking them away one by one is the whole projection.
            for component in &self.components {
                let length: f64 = rest.iter().zip(component).map(|(rest, axis)| rest * axis).sum();
                rest.iter_mut().zip(component).for_each(|(rest, axis)| *rest -= length * axis);
            }
            rest.iter().map(|rest| rest * rest).sum()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{assert_close, assert_refuses_another_width, one_row, queries, table};
    use super::*;

    fn fit(components: usize, table: &Table) -> Pca {
        PcaConfig { components }.fit(table).unwrap()
    }

    #[test]
    fn scores_agree_with_scikit_learn() {
        // p = PCA(1).fit(X); ((X - p.inverse_transform(p.transform(X)))**2).sum(1), and of the queries.
        let pca = fit(1, &table());
        let expected = [
            0.005_611_197_834,
            0.255_794_415_057,
            0.306_243_980_231,
            0.010_231_776_602,
            0.002_358_174_952,
            0.000_640_859_366,
        ];
        assert_close(&pca.anomaly_score(&table()).unwrap(), &expected, 1e-11);
        let expected = [0.001_025_929_483, 0.124_499_116_317, 0.000_640_859_366];
        assert_close(&pca.anomaly_score(&queries()).unwrap(), &expected, 1e-11);
    }

    #[test]
    fn a_table_with_fewer_rows_than_columns() {
        let table = Table::new(vec![1.0, 2.0, 3.0, 4.0, 2.0, 1.0, 0.0, 1.0, 5.0, 5.0, 1.0, 2.0], 4).unwrap();
        // As above.
        let expected = [3.333_920_594_361, 5.883_346_632_025, 0.359_590_217_086];
        assert_close(&fit(1, &table).anomaly_score(&table).unwrap(), &expected, 1e-11);
        // Three centred rows span two dimensions.
        assert_close(&fit(2, &table).anomaly_score(&table).unwrap(), &[0.0; 3], 1e-24);
    }

    #[test]
    fn unusable_settings_and_tables_are_refused() {
        for components in [0, 3] {
            let error = PcaConfig { components }.fit(&table()).unwrap_err();
            let expected = "expected 1 to 2, the smaller of 6 rows and 2 columns";
            assert_eq!(error.to_string(), format!("setting `components`: {expected}, found {components}"));
        }
        assert!(PcaConfig { components: 1 }.fit(&one_row()).is_err());
        assert!(
            PcaConfig { components: 1 }.fit(&Table::new(vec![f64::MAX, f64::MIN, 0.0], 1).unwrap()).is_err()
        );
        assert_refuses_another_width(&fit(1, &table()));
    }
}
