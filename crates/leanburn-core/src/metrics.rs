//! Evaluation: accuracy, F1, and the curves and areas of binary scores, as scikit-learn defines them.
//!
//! The functions of scores take `positive` flags and scores of which higher means more positive. Equal scores are one
//! point of a curve, so results do not depend on the order of the rows.

use crate::{Error, Result};

/// The share of rows whose largest logit is the target, in `0..=1`.
///
/// - logits: `classes` numbers a row, row by row
/// - targets: one class a row
///
/// # Errors
///
/// When there is no row, or when the lengths do not match.
pub fn accuracy(logits: &[f32], targets: &[i64]) -> Result<f64> {
    top_k_accuracy(logits, targets, 1)
}

/// The share of rows whose target is among the `k` largest logits, in `0..=1`. Of equal logits the lower class
/// counts as larger.
///
/// - logits: `classes` numbers a row, row by row
/// - targets: one class a row
///
/// # Errors
///
/// When there is no row, when the lengths do not match, or when a target is no class.
pub fn top_k_accuracy(logits: &[f32], targets: &[i64], k: usize) -> Result<f64> {
    if targets.is_empty() || logits.is_empty() || !logits.len().is_multiple_of(targets.len()) {
        return Err(Error::data(
            "logits",
            format!("a positive multiple of the {} targets", targets.len()),
            format!("{} values", logits.len()),
        ));
    }
    let classes = logits.len() / targets.len();
    let mut hits = 0;
    for (row, (logits, &target)) in logits.chunks(classes).zip(targets).enumerate() {
        let class = usize::try_from(target)
            .ok()
            .filter(|&class| class < classes)
            .ok_or_else(|| Error::data(format!("target {row}"), format!("0..{classes}"), target))?;
        // A NaN counts as larger than everything, so that a broken model is never right.
        let above = logits
            .iter()
            .enumerate()
            .filter(|&(other, &logit)| {
                logit.is_nan()
                    || logits[class].is_nan()
                    || logit > logits[class]
                    || (logit == logits[class] && other < class)
            })
            .count();
        hits += usize::from(above < k);
    }
    Ok(hits as f64 / targets.len() as f64)
}

/// Harmonic mean of precision and recall of `predicted` flags, 0 when there is no true positive.
///
/// # Errors
///
/// When the lengths differ.
pub fn f1(positive: &[bool], predicted: &[bool]) -> Result<f64> {
    same_length(positive.len(), predicted.len())?;
    let count =
        |p: bool, q: bool| positive.iter().zip(predicted).filter(|&(&a, &b)| a == p && b == q).count() as f64;
    let hits = count(true, true);
    Ok(if hits == 0.0 { 0.0 } else { 2.0 * hits / (2.0 * hits + count(false, true) + count(true, false)) })
}

/// The `percent`-th percentile of `values` with linear interpolation, as NumPy's default.
///
/// # Errors
///
/// When `values` is empty or holds a NaN, or `percent` is outside `0..=100`.
pub fn percentile(values: &[f64], percent: f64) -> Result<f64> {
    if !(0.0..=100.0).contains(&percent) {
        return Err(Error::setting("percent", "0 to 100", percent));
    }
    finite(values)?;
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return Err(Error::data("values", "at least one", "none"));
    };
    let position = percent / 100.0 * last as f64;
    let below = sorted[position.floor() as usize];
    let above = sorted[position.ceil() as usize];
    Ok(below + (above - below) * position.fract())
}

/// Numbers of positives and negatives at or above one distinct score.
struct Counts {
    threshold: f64,
    hits: f64,
    false_alarms: f64,
}

/// Cumulative counts at every distinct score, from the highest down; each is above its predecessor in at least one.
fn counts(positive: &[bool], scores: &[f64]) -> Result<Vec<Counts>> {
    same_length(positive.len(), scores.len())?;
    finite(scores)?;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut counts: Vec<Counts> = Vec::new();
    let (mut hits, mut false_alarms) = (0.0, 0.0);
    for &i in &order {
        if positive[i] {
            hits += 1.0;
        } else {
            false_alarms += 1.0;
        }
        match counts.last_mut() {
            Some(last) if last.threshold == scores[i] => {
                (last.hits, last.false_alarms) = (hits, false_alarms);
            }
            _ => counts.push(Counts { threshold: scores[i], hits, false_alarms }),
        }
    }
    if hits == 0.0 || false_alarms == 0.0 {
        let found = if hits == 0.0 { "only negative rows" } else { "only positive rows" };
        return Err(Error::data("labels", "positive and negative rows", found));
    }
    Ok(counts)
}

/// A receiver operating characteristic, from (0, 0) to (1, 1).
#[derive(Debug, Clone, PartialEq)]
pub struct Roc {
    /// False positive rate, ascending.
    pub false_positive_rate: Vec<f64>,
    /// True positive rate, ascending.
    pub true_positive_rate: Vec<f64>,
}

impl Roc {
    /// The curve with a point for every distinct score (scikit-learn's `roc_curve` with `drop_intermediate=False`).
    ///
    /// # Errors
    ///
    /// When lengths differ, a score is NaN or infinite, or one of the two classes is absent.
    pub fn new(positive: &[bool], scores: &[f64]) -> Result<Self> {
        let counts = counts(positive, scores)?;
        let last = &counts[counts.len() - 1];
        let start = std::iter::once(0.0);
        Ok(Self {
            false_positive_rate: start
                .clone()
                .chain(counts.iter().map(|c| c.false_alarms / last.false_alarms))
                .collect(),
            true_positive_rate: start.chain(counts.iter().map(|c| c.hits / last.hits)).collect(),
        })
    }

    /// The area under the curve, in `0..=1`.
    pub fn area(&self) -> f64 {
        trapezoid(&self.false_positive_rate, &self.true_positive_rate)
    }
}

/// A precision-recall curve, from recall 1 down to the closing point (recall 0, precision 1).
#[derive(Debug, Clone, PartialEq)]
pub struct PrecisionRecall {
    /// Precision at each threshold.
    pub precision: Vec<f64>,
    /// Recall at each threshold, descending.
    pub recall: Vec<f64>,
}

impl PrecisionRecall {
    /// The curve with a point for every distinct score (scikit-learn's `precision_recall_curve`).
    ///
    /// # Errors
    ///
    /// When lengths differ, a score is NaN or infinite, or one of the two classes is absent.
    pub fn new(positive: &[bool], scores: &[f64]) -> Result<Self> {
        let counts = counts(positive, scores)?;
        let positives = counts[counts.len() - 1].hits;
        let closing = std::iter::once(1.0);
        Ok(Self {
            precision: counts
                .iter()
                .rev()
                .map(|c| c.hits / (c.hits + c.false_alarms))
                .chain(closing)
                .collect(),
            recall: counts.iter().rev().map(|c| c.hits / positives).chain([0.0]).collect(),
        })
    }

    /// The area by the trapezoid rule on (recall, precision).
    pub fn area(&self) -> f64 {
        -trapezoid(&self.recall, &self.precision)
    }

    /// Average precision: the step sum `sum (R_n - R_{n-1}) P_n`.
    pub fn average_precision(&self) -> f64 {
        self.recall.windows(2).zip(&self.precision).map(|(r, p)| (r[0] - r[1]) * p).sum()
    }
}

/// Area under the receiver operating characteristic, in `0..=1`.
///
/// # Errors
///
/// As [`Roc::new`].
pub fn roc_auc(positive: &[bool], scores: &[f64]) -> Result<f64> {
    Ok(Roc::new(positive, scores)?.area())
}

/// Area under the precision-recall curve by the trapezoid rule, in `0..=1`.
///
/// # Errors
///
/// As [`PrecisionRecall::new`].
pub fn pr_auc(positive: &[bool], scores: &[f64]) -> Result<f64> {
    Ok(PrecisionRecall::new(positive, scores)?.area())
}

/// Average precision (scikit-learn's `average_precision_score`), in `0..=1`.
///
/// # Errors
///
/// As [`PrecisionRecall::new`].
pub fn average_precision(positive: &[bool], scores: &[f64]) -> Result<f64> {
    Ok(PrecisionRecall::new(positive, scores)?.average_precision())
}

/// Mean and population standard deviation of repeated measurements; NaN for none.
pub fn mean_std(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

fn trapezoid(x: &[f64], y: &[f64]) -> f64 {
    x.windows(2).zip(y.windows(2)).map(|(x, y)| (x[1] - x[0]) * (y[0] + y[1]) / 2.0).sum()
}

fn same_length(labels: usize, scores: usize) -> Result<()> {
    if labels == scores {
        return Ok(());
    }
    Err(Error::data("scores", format!("{labels}, one a label"), scores))
}

fn finite(scores: &[f64]) -> Result<()> {
    match scores.iter().position(|score| !score.is_finite()) {
        Some(i) => Err(Error::data(format!("score {i}"), "a finite number", scores[i])),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(actual: f64, expected: f64) {
        assert!((actual - expected).abs() < 1e-12, "{actual} is not {expected}");
    }

    // The examples of scikit-learn's documentation of roc_curve, precision_recall_curve and their areas.
    const LABELS: [bool; 4] = [false, false, true, true];
    const SCORES: [f64; 4] = [0.1, 0.4, 0.35, 0.8];

    #[test]
    fn the_curves_are_scikit_learns() {
        let roc = Roc::new(&LABELS, &SCORES).unwrap();
        assert_eq!(roc.false_positive_rate, [0.0, 0.0, 0.5, 0.5, 1.0]);
        assert_eq!(roc.true_positive_rate, [0.0, 0.5, 0.5, 1.0, 1.0]);
        close(roc.area(), 0.75);
        let curve = PrecisionRecall::new(&LABELS, &SCORES).unwrap();
        assert_eq!(curve.recall, [1.0, 1.0, 0.5, 0.5, 0.0]);
        close(curve.precision[1], 2.0 / 3.0);
        close(curve.average_precision(), 0.833_333_333_333_333_3);
        close(curve.area(), 0.791_666_666_666_666_6);
    }

    #[test]
    fn ties_do_not_depend_on_the_order() {
        close(roc_auc(&[true, false, true, false], &[1.0; 4]).unwrap(), 0.5);
        close(roc_auc(&[false, true, false, true], &[1.0; 4]).unwrap(), 0.5);
    }

    #[test]
    fn accuracies() {
        let logits = [0.1, 0.9, 0.0, 3.0, 2.0, 1.0];
        close(accuracy(&logits, &[1, 1]).unwrap(), 0.5);
        close(top_k_accuracy(&logits, &[1, 1], 2).unwrap(), 1.0);
        close(accuracy(&[0.5, 0.5], &[1]).unwrap(), 0.0);
        close(accuracy(&[f32::NAN, 0.5], &[0]).unwrap(), 0.0);
        assert!(accuracy(&logits, &[1, 3]).unwrap_err().to_string().contains("target 1"));
    }

    #[test]
    fn f1_and_percentile() {
        let predicted = [true, false, true, false];
        close(f1(&[true, true, false, false], &predicted).unwrap(), 0.5);
        close(f1(&[false; 4], &predicted).unwrap(), 0.0);
        close(percentile(&[4.0, 1.0, 3.0, 2.0], 40.0).unwrap(), 2.2);
        close(percentile(&[4.0, 1.0], 100.0).unwrap(), 4.0);
    }

    #[test]
    fn bad_scores_are_named() {
        let error = roc_auc(&[true, false], &[1.0, f64::NAN]).unwrap_err();
        assert!(error.to_string().contains("score 1"), "{error}");
        let error = roc_auc(&[true, true], &[1.0, 2.0]).unwrap_err();
        assert!(error.to_string().contains("only positive"), "{error}");
        assert!(roc_auc(&[true, false], &[1.0]).is_err());
    }
}
