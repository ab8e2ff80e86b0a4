//! Distance to the mean row.

use leanburn_core::{Result, table::Table};

use super::{Baseline, check_columns, check_rows, mean_row, score_rows, squared_distance};

/// The Euclidean distance to the mean of the fitted rows: no setting, and a floor for every other detector.
#[derive(Debug, Clone, PartialEq)]
pub struct DistanceToMean {
    mean: Vec<f64>,
}

impl DistanceToMean {
    /// Fits the mean of `table`, [rows, columns].
    ///
    /// # Errors
    ///
    /// When `table` has one row.
    pub fn fit(table: &Table) -> Result<Self> {
        check_rows(table)?;
        Ok(Self { mean: mean_row(table) })
    }
}

impl Baseline for DistanceToMean {
    fn anomaly_score(&self, table: &Table) -> Result<Vec<f64>> {
        check_columns(table, self.mean.len())?;
        score_rows(table, |row| squared_distance(row, &self.mean).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{assert_close, assert_refuses_another_width, one_row, queries, table};
    use super::*;

    #[test]
    fn scores_are_distances_to_the_mean() {
        let detector = DistanceToMean::fit(&table()).unwrap();
        // numpy.linalg.norm(X - X.mean(0), axis=1), and of the queries against the same mean.
        let expected = [
            1.504_530_196_145,
            0.768_295_371_441,
            0.868_107_776_207,
            0.153_659_074_288,
            0.864_259_477_498,
            3.497_181_404_757,
        ];
        assert_close(&detector.anomaly_score(&table()).unwrap(), &expected, 1e-12);
        let expected = [0.804_328_567_468, 1.340_501_564_507, 3.497_181_404_757];
        assert_close(&detector.anomaly_score(&queries()).unwrap(), &expected, 1e-12);
    }

    #[test]
    fn unusable_tables_are_refused() {
        let error = DistanceToMean::fit(&one_row()).unwrap_err();
        assert_eq!(error.to_string(), "table: expected at least two rows to fit, found one row");
        assert_refuses_another_width(&DistanceToMean::fit(&table()).unwrap());
        let huge = Table::new(vec![1e300, 0.0, 1.0, 2.0], 2).unwrap();
        assert!(DistanceToMean::fit(&huge).unwrap().anomaly_score(&huge).is_err());
    }
}
