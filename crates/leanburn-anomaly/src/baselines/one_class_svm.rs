//! One-class support vector machine.

use leanburn_core::{Error, Result, table::Table};
use linfa::{DatasetBase, ParamGuard, dataset::Pr, traits::Fit};
use linfa_svm::Svm;
use ndarray::{Array1, ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

use super::{Baseline, check_columns, check_rows, score_rows};

/// The most rows that a [`OneClassSvm`] is fitted on: the solver holds the kernel of all pairs, 3.2 GB for this many.
pub const MAX_SVM_ROWS: usize = 20_000;

/// Settings of a one-class support vector machine with the kernel `exp(-gamma ||x - y||^2)` (Schölkopf, Platt,
/// Shawe-Taylor, Smola and Williamson, "Estimating the Support of a High-Dimensional Distribution", Neural Computation
/// 13, 2001).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OneClassSvmConfig {
    /// At most this share of the fitted rows lies outside the boundary, and at least this share are support vectors:
    /// above 0 and below 1; 0.5 by default.
    pub nu: f64,
    /// The kernel's factor, positive. `None`, the default, is `1 / (columns * variance over all cells)`, or 1 where all
    /// cells are equal.
    pub gamma: Option<f64>,
    /// By how much the solution may violate its optimality conditions, positive; 1e-3 by default.
    pub tolerance: f64,
}

impl Default for OneClassSvmConfig {
    fn default() -> Self {
        Self { nu: 0.5, gamma: None, tolerance: 1e-3 }
    }
}

impl OneClassSvmConfig {
    /// Fits the boundary around `table`, [rows, columns]. Time and memory grow at least with the square of the rows.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, when `table` has one row or more than [`MAX_SVM_ROWS`], or when its cells
    /// are so large that their variance overflows.
    pub fn fit(&self, table: &Table) -> Result<OneClassSvm> {
        if !(self.nu > 0.0 && self.nu < 1.0) {
            return Err(Error::setting("nu", "a number above 0 and below 1", self.nu));
        }
        if !(self.tolerance > 0.0 && self.tolerance.is_finite()) {
            return Err(Error::setting("tolerance", "a positive finite number", self.tolerance));
        }
        check_rows(table)?;
        if table.rows() > MAX_SVM_ROWS {
            let expected =
                format!("at most {MAX_SVM_ROWS} rows, as the kernel of all pairs is kept in memory");
            return Err(Error::data("table", expected, table.rows()));
        }
        let gamma = self.gamma.unwrap_or_else(|| scale(table));
        if !(gamma > 0.0 && gamma.is_finite()) {
            return Err(Error::setting("gamma", "a positive finite number", gamma));
        }
        let invalid = |reason: String| Error::data("one-class SVM", "a solvable problem", reason);
        let rows = ArrayView2::from_shape((table.rows(), table.columns()), table.values())
            .map_err(|error| invalid(error.to_string()))?;
        let targets = Array1::from_elem(table.rows(), ());
        // linfa's Gaussian kernel is exp(-||x - y||^2 / eps). Shrinking stays off: linfa 0.8 returns the weights of a
        // shrunk problem in the wrong order.
        let svm = Svm::<f64, Pr>::params()
            .nu_weight(self.nu)
            .gaussian_kernel(1.0 / gamma)
            .eps(self.tolerance)
            .check()
            .and_then(|params| params.fit(&DatasetBase::new(rows, targets.view())))
            .map_err(|error| invalid(error.to_string()))?;
        if !svm.rho.is_finite() {
            return Err(invalid(format!("an offset of {}", svm.rho)));
        }
        Ok(OneClassSvm { svm, columns: table.columns() })
    }
}

/// A fitted one-class support vector machine.
///
/// The score is minus the decision function, `rho - sum_i alpha_i k(x_i, x)` with `0 <= alpha_i <= 1` and
/// `sum_i alpha_i = nu * rows`: positive outside the boundary, negative inside.
#[derive(Debug, Clone)]
pub struct OneClassSvm {
    svm: Svm<f64, bool>,
    columns: usize,
}

impl Baseline for OneClassSvm {
    fn anomaly_score(&self, table: &Table) -> Result<Vec<f64>> {
        check_columns(table, self.columns)?;
        score_rows(table, |row| self.svm.rho - self.svm.weighted_sum(&ArrayView1::from(row)))
    }
}

/// The default `gamma`.
fn scale(table: &Table) -> f64 {
    let cells = table.values();
    let mean = cells.iter().sum::<f64>() / cells.len() as f64;
    let variance = cells.iter().map(|cell| (cell - mean) * (cell - mean)).sum::<f64>() / cells.len() as f64;
    if variance == 0.0 { 1.0 } else { 1.0 / (table.columns() as f64 * variance) }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{assert_close, assert_refuses_another_width, one_row, queries, table};
    use super::*;

    #[test]
    fn scores_agree_with_scikit_learn() {
        let precise = OneClassSvmConfig { tolerance: 1e-9, ..Default::default() };
        // -OneClassSVM(tol=1e-9).fit(X).decision_function(X), and of the queries.
        let svm = precise.fit(&table()).unwrap();
        let expected = [
            0.026_625_590_362,
            -0.015_101_874_479,
            -0.010_209_970_933,
            0.010_210_012_057,
            -0.154_680_332_660,
            0.397_092_473_671,
        ];
        assert_close(&svm.anomaly_score(&table()).unwrap(), &expected, 1e-6);
        let expected = [-0.161_066_278_321, 0.595_198_124_334, 0.397_092_473_671];
        assert_close(&svm.anomaly_score(&queries()).unwrap(), &expected, 1e-6);
        // -OneClassSVM(nu=0.2, gamma=0.7, tol=1e-9).fit(X).decision_function(Q)
        let svm = OneClassSvmConfig { nu: 0.2, gamma: Some(0.7), ..precise }.fit(&table()).unwrap();
        let expected = [-0.081_669_172_790, 0.304_483_729_124, 0.0];
        assert_close(&svm.anomaly_score(&queries()).unwrap(), &expected, 1e-6);
    }

    #[test]
    fn equal_rows_lie_on_the_boundary() {
        let table = Table::new(vec![3.0; 8], 2).unwrap();
        let svm = OneClassSvmConfig::default().fit(&table).unwrap();
        assert_close(&svm.anomaly_score(&table).unwrap(), &[0.0; 4], 1e-12);
    }

    #[test]
    fn unusable_settings_and_tables_are_refused() {
        let config = OneClassSvmConfig::default();
        for nu in [0.0, 1.0, f64::NAN] {
            assert!(OneClassSvmConfig { nu, ..config.clone() }.fit(&table()).is_err());
        }
        for value in [0.0, -1.0, f64::INFINITY, f64::NAN] {
            assert!(OneClassSvmConfig { gamma: Some(value), ..config.clone() }.fit(&table()).is_err());
            assert!(OneClassSvmConfig { tolerance: value, ..config.clone() }.fit(&table()).is_err());
        }
        assert!(config.fit(&one_row()).is_err());
        let error = config.fit(&Table::new(vec![0.0; MAX_SVM_ROWS + 1], 1).unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("table: expected at most 20000 rows"), "{error}");
        assert!(config.fit(&Table::new(vec![1e300, -1e300], 1).unwrap()).is_err());
        assert_refuses_another_width(&config.fit(&table()).unwrap());
    }
}
