//! Classical detectors to compare with, those of scikit-learn with its definition and defaults.
//!
//! | settings | fitted | score of a row |
//! |---|---|---|
//! | [`IsolationForestConfig`] | [`IsolationForest`] | how few random cuts isolate it |
//! | [`LofConfig`] | [`LocalOutlierFactor`] | density of its neighbourhood's rows over its own |
//! | [`OneClassSvmConfig`] | [`OneClassSvm`] | depth outside a smooth boundary around the table |
//! | [`PcaConfig`] | [`Pca`] | squared residual off the leading principal components |
//! | none | [`DistanceToMean`] | Euclidean distance to the mean row |
//! | [`GoadConfig`] | [`Goad`] | how badly a network tells its projections apart |
//!
//! All score one number a row, higher for more anomalous, and use no label. GOAD standardises the table, the others
//! take it as it is: standardise or normalise it first where that is wanted.
//!
//! ```
//! use leanburn_anomaly::baselines::{Baseline, IsolationForestConfig};
//! use leanburn_core::table::Table;
//!
//! let table = Table::new(vec![0.1, 0.3, 0.2, 9.0, 0.0, 0.1], 1)?;
//! let forest = IsolationForestConfig::default().fit(&table, 0)?;
//! assert_eq!(forest.score(&table)?.rank()[0], 3);
//! # Ok::<(), leanburn_core::Error>(())
//! ```

mod distance_to_mean;
mod goad;
mod isolation_forest;
mod lof;
mod one_class_svm;
mod pca;

pub use distance_to_mean::DistanceToMean;
pub use goad::{Goad, GoadConfig, GoadDepth, GoadLoss, GoadNetwork};
pub use isolation_forest::{IsolationForest, IsolationForestConfig};
pub use lof::{LocalOutlierFactor, LofConfig};
pub use one_class_svm::{MAX_SVM_ROWS, OneClassSvm, OneClassSvmConfig};
pub use pca::{Pca, PcaConfig};

use leanburn_core::{Error, Result, table::Table};
use rayon::prelude::*;

use crate::Scores;

/// A fitted detector.
pub trait Baseline {
    /// One score a row of `table`, higher for more anomalous.
    ///
    /// # Errors
    ///
    /// When `table` has another number of columns than the fitted table, or cells so large that a score overflows.
    fn anomaly_score(&self, table: &Table) -> Result<Vec<f64>>;

    /// The same under both directions, to rank, flag and evaluate.
    ///
    /// # Errors
    ///
    /// As [`anomaly_score`](Self::anomaly_score).
    fn score(&self, table: &Table) -> Result<Scores> {
        Ok(Scores::from_anomaly(self.anomaly_score(table)?))
    }
}

/// Checks that there is something to learn from: two rows.
fn check_rows(table: &Table) -> Result<()> {
    if table.rows() < 2 {
        return Err(Error::data("table", "at least two rows to fit", "one row"));
    }
    Ok(())
}

/// Checks that a table to score has the fitted table's number of columns.
fn check_columns(table: &Table, fitted: usize) -> Result<()> {
    if table.columns() != fitted {
        return Err(Error::data("table", format!("{fitted} columns, as fitted"), table.columns()));
    }
    Ok(())
}

/// `score` of every row.
fn score_rows(table: &Table, score: impl Fn(&[f64]) -> f64 + Sync + Send) -> Result<Vec<f64>> {
    check_finite(table.values().par_chunks(table.columns()).map(score).collect())
}

/// The scores, unless squares of huge cells overflowed.
fn check_finite(scores: Vec<f64>) -> Result<Vec<f64>> {
    match scores.iter().position(|score| !score.is_finite()) {
        Some(row) => Err(Error::data(format!("row {row}"), "a finite score; rescale the table", scores[row])),
        None => Ok(scores),
    }
}

/// The mean of each column.
fn mean_row(table: &Table) -> Vec<f64> {
    let mut mean = vec![0.0; table.columns()];
    for row in table.values().chunks_exact(table.columns()) {
        for (mean, value) in mean.iter_mut().zip(row) {
            *mean += value;
        }
    }
    for mean in &mut mean {
        *mean /= table.rows() as f64;
    }
    mean
}

/// `||a - b||^2`.
fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

#[cfg(test)]
mod fixture {
    use super::{Baseline, Table};

    /// Six rows of two columns; the last is far from the others.
    pub(super) fn table() -> Table {
        Table::new(vec![0.0, 0.0, 1.0, 0.2, 0.3, 1.0, 1.2, 1.1, 0.5, 0.4, 4.0, 3.0], 2).unwrap()
    }

    /// Three rows to score; the last is a row of [`table`].
    pub(super) fn queries() -> Table {
        Table::new(vec![0.5, 0.5, 2.0, 2.0, 4.0, 3.0], 2).unwrap()
    }

    /// One row of two columns.
    pub(super) fn one_row() -> Table {
        Table::new(vec![1.0, 2.0], 2).unwrap()
    }

    pub(super) fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= tolerance, "{found} instead of {expected}");
        }
    }

    /// Asserts that a detector of two columns refuses a table of three.
    pub(super) fn assert_refuses_another_width(detector: &impl Baseline) {
        let error = detector.anomaly_score(&Table::new(vec![1.0; 6], 3).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "table: expected 2 columns, as fitted, found 3");
    }
}
