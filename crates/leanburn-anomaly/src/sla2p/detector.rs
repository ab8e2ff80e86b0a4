use std::path::Path;

use burn::tensor::{Tensor, backend::Backend};
use derive_new::new;
use leanburn_core::{Error, Result, checkpoint, checkpoint::Checkpoint, parallel, report, table::Table};
use serde::{Deserialize, Serialize};

use super::{
    Classifier, FitReport, FrozenClassifier, Progress, Projections, Sla2pConfig, config::check_epsilon,
};
use crate::{Scores, preprocessing::Preprocessing};

/// Most values of a layer's output, and of a chunk's features, that scoring holds at once: 16 and 64 MiB in f32.
const ACTIVATIONS: usize = 1 << 22;
const FEATURES: usize = 1 << 24;

/// A fitted detector.
#[derive(Debug, new)]
#[new(visibility = "pub(super)")]
pub struct Sla2p<B: Backend> {
    config: Sla2pConfig,
    preprocessing: Preprocessing,
    projections: Projections,
    classifier: Classifier<B>,
    report: FitReport,
    #[new(default)]
    threshold: Option<f64>,
}

/// What a saved detector holds beside its configuration and its classifier.
#[derive(Serialize, Deserialize)]
struct State {
    preprocessing: Preprocessing,
    report: FitReport,
    threshold: Option<f64>,
    /// The first row of the first projection, where projections are kept by their seed: another program that draws
    /// otherwise from it must not score with them.
    #[serde(default)]
    first_projected: Vec<f32>,
}

const CONFIG: &str = "config.json";
const STATE: &str = "state.json";
const CLASSIFIER: &str = "classifier.safetensors";
const PROJECTIONS: &str = "projections.safetensors";

impl<B: Backend> Sla2p<B> {
    /// The settings it was fitted with.
    pub fn config(&self) -> &Sla2pConfig {
        &self.config
    }

    /// How it was trained.
    pub fn report(&self) -> &FitReport {
        &self.report
    }

    /// The detector with another perturbation, of the same trained classifier, and without a threshold.
    ///
    /// # Errors
    ///
    /// When `epsilon` is not finite.
    pub fn with_step(mut self, step: super::Step, epsilon: f64) -> Result<Self> {
        check_epsilon(epsilon)?;
        self.config.step = step;
        self.config.epsilon = epsilon;
        self.threshold = None;
        Ok(self)
    }

    /// The detector with another kind of score, of the same trained classifier, and without a threshold.
    pub fn with_score(mut self, score: super::ScoreKind) -> Self {
        self.config.score = score;
        self.threshold = None;
        self
    }

    /// The detector with the anomaly score from which on [`flag`](Self::flag) flags a row; it is saved with the
    /// detector. [`Scores::threshold`] gives it for a share of the fitted rows.
    ///
    /// # Errors
    ///
    /// When `threshold` is not finite.
    pub fn with_threshold(mut self, threshold: f64) -> Result<Self> {
        if !threshold.is_finite() {
            return Err(Error::setting("threshold", "a finite number", threshold));
        }
        self.threshold = Some(threshold);
        Ok(self)
    }

    /// The anomaly score from which on a row is flagged, if it was set.
    pub fn threshold(&self) -> Option<f64> {
        self.threshold
    }

    /// Scores every row of a table: that of the fit, or new rows of the same columns.
    ///
    /// Memory beyond the table and the scores does not depend on the number of rows. A row's score does not depend on
    /// the others, but with [`Step::OfficialBatchMean`](super::Step::OfficialBatchMean).
    ///
    /// # Errors
    ///
    /// When the table's width is not the fitted one, or a value or a score overflows; the row is named.
    pub fn score(&self, table: &Table) -> Result<Scores> {
        self.score_with(table, |_| ())
    }

    /// [`score`](Self::score), telling `progress` of every projection.
    ///
    /// # Errors
    ///
    /// As [`score`](Self::score).
    pub fn score_with(&self, table: &Table, mut progress: impl FnMut(Progress)) -> Result<Scores> {
        let count = self.projections.count();
        let scorer = self.scorer();
        let chunk = scorer.chunk;
        let total = table.rows().div_ceil(chunk) * count;
        let mut done = 0;
        let mut normality = Vec::with_capacity(table.rows());
        for first in (0..table.rows()).step_by(chunk) {
            let rows = chunk.min(table.rows() - first);
            let mut sum: Option<Tensor<B, 1>> = None;
            scorer.each_projection(table, first, rows, |score| {
                sum = Some(match sum.take() {
                    Some(sum) => sum + score,
                    None => score,
                });
                done += 1;
                progress(Progress::Scoring { done, total });
            })?;
            let sum = sum.expect("a detector has projections").into_data();
            normality.extend(sum.iter::<f64>().map(|sum| sum / count as f64));
        }
        match normality.iter().position(|score| !score.is_finite()) {
            Some(row) => Err(Error::data(format!("row {row}"), "a finite score", normality[row])),
            None => Ok(Scores::from_normality(normality)),
        }
    }

    /// Which rows are anomalous when the share `contamination` of the table is.
    ///
    /// # Errors
    ///
    /// As [`score`](Self::score), and when `contamination` is outside `0..=1`.
    pub fn predict(&self, table: &Table, contamination: f64) -> Result<Vec<bool>> {
        self.score(table)?.predict(contamination)
    }

    /// Which rows are anomalous by the detector's own threshold, however many of this table that is.
    ///
    /// # Errors
    ///
    /// As [`score`](Self::score), and when no [threshold](Self::with_threshold) was set.
    pub fn flag(&self, table: &Table) -> Result<Vec<bool>> {
        let Some(threshold) = self.threshold else {
            return Err(Error::setting("threshold", "one set by `with_threshold`", "none"));
        };
        Ok(self.score(table)?.normality().iter().map(|score| -score >= threshold).collect())
    }

    /// The rows from the most anomalous to the most normal.
    ///
    /// # Errors
    ///
    /// As [`score`](Self::score).
    pub fn rank(&self, table: &Table) -> Result<Vec<usize>> {
        Ok(self.score(table)?.rank())
    }

    /// Why a row has its score: the score of each of its K projections, of which the row's score is the mean.
    ///
    /// - output: for each row, K numbers, higher for normal
    ///
    /// # Errors
    ///
    /// As [`score`](Self::score).
    pub fn explain(&self, table: &Table) -> Result<Vec<Vec<f32>>> {
        let mut scores = vec![Vec::with_capacity(self.projections.count()); table.rows()];
        let ready = self.scorer();
        for first in (0..table.rows()).step_by(ready.chunk) {
            let rows = ready.chunk.min(table.rows() - first);
            let mut columns = Vec::new();
            ready.each_projection(table, first, rows, |score| columns.push(score))?;
            let values = Tensor::stack::<2>(columns, 1).into_data();
            let values: Vec<f32> = values.iter::<f32>().collect();
            for (row, values) in scores[first..].iter_mut().zip(values.chunks(self.projections.count())) {
                row.extend_from_slice(values);
            }
        }
        Ok(scores)
    }

    fn scorer(&self) -> Scorer<'_, B> {
        let device = self.classifier.output.weight.val().device();
        let at_once = parallel::at_once::<B>(&device);
        let widest = self.classifier.output.weight.dims()[0].max(self.projections.count());
        let chunk = (ACTIVATIONS / at_once / widest).min(FEATURES / self.projections.columns()).max(1);
        Scorer { detector: self, frozen: FrozenClassifier::new(&self.classifier), device, at_once, chunk }
    }

    /// Writes the detector into a new folder: `config.json`, `state.json` (preprocessing and training report) and
    /// `classifier.safetensors` under the published names; the projections are kept by their seed, or, when they were
    /// given, in `projections.safetensors`.
    ///
    /// # Errors
    ///
    /// When the folder exists or cannot be written.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = report::RunFolder::create(folder.as_ref())?;
        folder.write_json(CONFIG, &self.config)?;
        let state = State {
            preprocessing: self.preprocessing.clone(),
            report: self.report.clone(),
            threshold: self.threshold,
            first_projected: self.projections.first_row(),
        };
        folder.write_json(STATE, &state)?;
        if let Some(matrices) = self.projections.given() {
            let name = "projections".to_owned();
            checkpoint::save_tensors([(name, matrices)], folder.file(PROJECTIONS))?;
        }
        // Last, so that a folder with a classifier is complete.
        let classifier = self.config.classifier();
        checkpoint::save(&self.classifier, folder.file(CLASSIFIER), |path| classifier.published_name(path))
    }

    /// Reads a detector that [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// When a file is absent, broken, or does not fit the others.
    pub fn load(folder: impl AsRef<Path>, device: &B::Device) -> Result<Self> {
        let folder = folder.as_ref();
        let config: Sla2pConfig = report::read_json(folder.join(CONFIG))?;
        let state: State = report::read_json(folder.join(STATE))?;
        config.validate()?;
        state.preprocessing.validate()?;
        let columns = state.preprocessing.columns_out();
        let given = folder.join(PROJECTIONS);
        let projections = if given.exists() {
            Projections::from_matrices(Checkpoint::open(&given)?.read("projections")?)?
        } else {
            let drawn = Projections::from_seed(config.seed, config.projections, columns, config.width);
            check_drawn(&folder.join(STATE), &state.first_projected, &drawn.first_row())?;
            drawn
        };
        let shape = [projections.count(), projections.columns(), projections.width()];
        let expected = [config.projections, columns, config.width];
        if shape != expected {
            return Err(Error::format(
                given,
                "tensor `projections`",
                format!("shape {expected:?}"),
                format!("{shape:?}"),
            ));
        }
        let settings = config.classifier();
        let checkpoint = Checkpoint::open(folder.join(CLASSIFIER))?;
        // Before layers are made of a size that only the settings claim.
        if settings.largest_layer().is_none_or(|largest| largest > checkpoint.elements()) {
            let found = format!("{} values in {CLASSIFIER}", checkpoint.elements());
            let expected = format!("a classifier of width {}", config.width);
            return Err(Error::format(folder.join(CONFIG), "`width`, `projections`", expected, found));
        }
        // The values drawn here are replaced by the file's.
        let classifier = settings.init(&mut leanburn_core::random::Generator::new(0), device);
        let classifier = checkpoint.load_into(classifier, |path| settings.published_name(path))?;
        let detector = Self::new(config, state.preprocessing, projections, classifier, state.report);
        match state.threshold {
            Some(threshold) => detector.with_threshold(threshold),
            None => Ok(detector),
        }
    }
}

/// Checks that the projections drawn from a detector's seed are those it was fitted with.
fn check_drawn(path: &Path, saved: &[f32], drawn: &[f32]) -> Result<()> {
    // Logarithms differ by a rounding from platform to platform.
    let same = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * (1.0 + b.abs());
    if saved.len() == drawn.len() && saved.iter().zip(drawn).all(same) {
        return Ok(());
    }
    let expected = "what this version of leanburn draws from the seed";
    Err(Error::format(
        path,
        "`first_projected`",
        expected,
        "other values: the projections are not those of the fit",
    ))
}

/// A detector made ready to score.
struct Scorer<'a, B: Backend> {
    detector: &'a Sla2p<B>,
    frozen: FrozenClassifier<B>,
    device: B::Device,
    /// Projections that are scored at once.
    at_once: usize,
    /// Rows that are scored together.
    chunk: usize,
}

impl<B: Backend> Scorer<'_, B> {
    /// Gives `score` the scores `[rows]` of rows `first..first + rows` under each projection in turn.
    fn each_projection(
        &self,
        table: &Table,
        first: usize,
        rows: usize,
        mut score: impl FnMut(Tensor<B, 1>),
    ) -> Result<()> {
        let Self { detector: Sla2p { config, preprocessing, projections, .. }, frozen, device, .. } = self;
        let features = preprocessing.rows(table, first..first + rows)?;
        let features = Tensor::<B, 2>::from_data(features, device);
        let Sla2pConfig { step, epsilon, batch_size, score: kind, .. } = config;
        let step = step.lengths(*epsilon, *batch_size, first..first + rows, table.rows(), device);
        let score_of = |label: usize| {
            let projected = features.clone().matmul(projections.matrix(label, device));
            kind.of(frozen.probabilities(projected, step.clone()), label)
        };
        let labels: Vec<usize> = (0..projections.count()).collect();
        for labels in labels.chunks(self.at_once) {
            parallel::map::<B, _, _>(device, labels, |&label| score_of(label))
                .into_iter()
                .for_each(&mut score);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sla2p::Step;
    use burn::{backend::Autodiff, tensor::activation::log_softmax};
    use burn_flex::Flex;

    fn fit(projections: usize, width: usize) -> (Table, Sla2p<Flex>) {
        let table = leanburn_datasets::angular(7);
        let config = Sla2pConfig::new().with_projections(projections).with_width(width).with_epsilon(50.0);
        let detector = config.fit::<Autodiff<Flex>>(&table, &Default::default()).unwrap();
        (table, detector)
    }

    /// More rows than are scored together, in which a short last batch lies on both sides of the border.
    #[test]
    fn chunks_of_rows_do_not_show() {
        let (table, detector) = fit(3, 11);
        let chunk = detector.scorer().chunk;
        let batch = detector.config.batch_size;
        assert_ne!(chunk % batch, 0, "choose another width");
        let total = chunk + (batch - chunk % batch) / 2;
        let short = total % batch;
        let rows: Vec<usize> = (0..total).map(|row| row * 7 % table.rows()).collect();
        let many = table.select_rows(&rows);
        let (before, last) = (total - short, table.select_rows(&rows[total - short..]));
        assert!(before < chunk && chunk < total);

        let scores = detector.score(&many).unwrap();
        let few = detector.score(&table).unwrap();
        let same = |a: f64, b: f64| (a - b).abs() < 1e-5;
        assert!(scores.normality().iter().zip(&rows).all(|(&score, &row)| same(score, few.normality()[row])));
        let explained = detector.explain(&many).unwrap();
        assert!(explained.iter().zip(scores.normality()).all(|(row, &score)| {
            same(row.iter().map(|&score| f64::from(score)).sum::<f64>() / row.len() as f64, score)
        }));

        // The official step is as large in all full batches, and larger in the last one, on whichever side.
        let official = detector.with_step(Step::OfficialBatchMean, 50.0).unwrap();
        let stepped = official.score(&many).unwrap();
        assert_eq!(stepped.normality()[..before], scores.normality()[..before]);
        let larger = 50.0 * batch as f64 / short as f64;
        let expected = official.with_step(Step::PerSample, larger).unwrap().score(&last).unwrap();
        let found = &stepped.normality()[before..];
        assert!(found.iter().zip(expected.normality()).all(|(&a, &b)| same(a, b)));
        assert!(found.iter().zip(&scores.normality()[before..]).any(|(&a, &b)| !same(a, b)));
    }

    #[test]
    fn a_small_step_makes_the_predicted_label_less_likely() {
        let (table, detector) = fit(16, 16);
        let scorer = detector.scorer();
        let rows = detector.preprocessing.rows(&table, 0..table.rows()).unwrap();
        let rows = Tensor::<Flex, 2>::from_data(rows, &scorer.device);
        let (mut raised, mut all) = (0, 0);
        for label in 0..16 {
            let projected = rows.clone().matmul(detector.projections.matrix(label, &scorer.device));
            let logits = scorer.frozen.logits(projected.clone());
            let predicted = logits.clone().argmax(1);
            let step = Tensor::full([table.rows(), 1], 0.01, &scorer.device);
            let moved = scorer.frozen.logits(scorer.frozen.perturb(projected, step));
            let likelihood = |logits| log_softmax::<2, Flex>(logits, 1).gather(1, predicted.clone());
            let fell = likelihood(moved).lower(likelihood(logits));
            raised += i64::from(fell.int().sum().into_scalar());
            all += table.rows() as i64;
        }
        assert!(raised * 100 > all * 99, "{raised} of {all}");
    }
}
