use leanburn_core::{Error, Result, metrics};

/// One score a row, under both of its directions: methods differ in whether high means normal or anomalous, so no
/// function here is called merely "score".
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    normality: Vec<f64>,
}

impl Scores {
    /// Scores of which higher is more normal.
    pub fn from_normality(normality: Vec<f64>) -> Self {
        Self { normality }
    }

    /// Scores of which higher is more anomalous.
    pub fn from_anomaly(anomaly: Vec<f64>) -> Self {
        Self { normality: anomaly.into_iter().map(|score| -score).collect() }
    }

    /// Higher is more normal; one value a row.
    pub fn normality(&self) -> &[f64] {
        &self.normality
    }

    /// Higher is more anomalous: the negated [`normality`](Self::normality); one value a row.
    pub fn anomaly(&self) -> Vec<f64> {
        self.normality.iter().map(|score| -score).collect()
    }

    /// The rows from the most anomalous to the most normal; equal ones in the order of the table.
    pub fn rank(&self) -> Vec<usize> {
        let mut rows: Vec<usize> = (0..self.normality.len()).collect();
        rows.sort_by(|&a, &b| self.normality[a].total_cmp(&self.normality[b]));
        rows
    }

    /// The anomaly score from which on a row is flagged when the share `contamination` of rows is anomalous: the
    /// `100 (1 - contamination)`-th percentile with linear interpolation.
    ///
    /// # Errors
    ///
    /// When `contamination` is outside `0..=1`, or a score is not finite.
    pub fn threshold(&self, contamination: f64) -> Result<f64> {
        if !(0.0..=1.0).contains(&contamination) {
            return Err(Error::setting("contamination", "0 to 1", contamination));
        }
        metrics::percentile(&self.anomaly(), 100.0 * (1.0 - contamination))
    }

    /// Which rows are anomalous when the share `contamination` of them is: those at or above
    /// [`threshold`](Self::threshold).
    ///
    /// # Errors
    ///
    /// As [`threshold`](Self::threshold).
    pub fn predict(&self, contamination: f64) -> Result<Vec<bool>> {
        let threshold = self.threshold(contamination)?;
        Ok(self.normality.iter().map(|score| -score >= threshold).collect())
    }

    /// How well the scores find the rows labelled 1.
    ///
    /// # Errors
    ///
    /// When a label is neither 0 nor 1, when the numbers of labels and scores differ, a score is not finite, or all
    /// labels are alike.
    pub fn evaluate(&self, labels: &[i64]) -> Result<Evaluation> {
        if let Some(row) = labels.iter().position(|label| !(0..=1).contains(label)) {
            return Err(Error::data(
                format!("label of row {row}"),
                "0 (normal) or 1 (anomalous)",
                labels[row],
            ));
        }
        let anomalous: Vec<bool> = labels.iter().map(|&label| label == 1).collect();
        let normal: Vec<bool> = anomalous.iter().map(|anomalous| !anomalous).collect();
        let anomaly = self.anomaly();
        let share = anomalous.iter().filter(|&&anomalous| anomalous).count() as f64 / labels.len() as f64;
        Ok(Evaluation {
            auroc: metrics::roc_auc(&anomalous, &anomaly)?,
            aupr_in: metrics::pr_auc(&normal, &self.normality)?,
            aupr_out: metrics::pr_auc(&anomalous, &anomaly)?,
            average_precision: metrics::average_precision(&anomalous, &anomaly)?,
            f1: metrics::f1(&anomalous, &self.predict(share)?)?,
        })
    }
}

/// Detection quality; each in `0..=1`, higher is better.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Evaluation {
    /// Area under the receiver operating characteristic.
    pub auroc: f64,
    /// Area under the precision-recall curve by the trapezoid rule, normal rows positive.
    pub aupr_in: f64,
    /// Area under the precision-recall curve by the trapezoid rule, anomalies positive.
    pub aupr_out: f64,
    /// Average precision, anomalies positive.
    pub average_precision: f64,
    /// F1 of the anomalies when as many rows are flagged as there are anomalies.
    pub f1: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_rank_alike() {
        let scores = Scores::from_anomaly(vec![0.1, 3.0, 0.2, 3.0]);
        assert_eq!(scores, Scores::from_normality(vec![-0.1, -3.0, -0.2, -3.0]));
        assert_eq!(scores.rank(), [1, 3, 2, 0]);
        assert_eq!(scores.predict(0.5).unwrap(), [false, true, false, true]);
        assert_eq!(scores.predict(0.0).unwrap(), [false, true, false, true]);
        assert_eq!(scores.predict(1.0).unwrap(), [true; 4]);
        assert!(scores.predict(1.5).unwrap_err().to_string().contains("contamination"));
    }

    #[test]
    fn perfect_scores_evaluate_to_one() {
        let scores = Scores::from_anomaly(vec![0.0, 1.0, 5.0, 4.0]);
        let e = scores.evaluate(&[0, 0, 1, 1]).unwrap();
        assert!(scores.evaluate(&[1, 1, 2, 2]).unwrap_err().to_string().contains("label of row 2"));
        assert_eq!([e.auroc, e.aupr_in, e.aupr_out, e.average_precision, e.f1], [1.0; 5]);
    }
}
