use std::path::Path;

use burn::tensor::{Tensor, backend::Backend};
use derive_new::new;
use leanburn_core::{Error, Result, checkpoint, checkpoint::Checkpoint, report, table::Table};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Classifier, FitReport, FrozenClassifier, Progress, Projections, Sla2pConfig};
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
}

/// What a saved detector holds beside its configuration and its classifier.
#[derive(Serialize, Deserialize)]
struct State {
    preprocessing: Preprocessing,
    report: FitReport,
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

    /// The detector with another perturbation, of the same trained classifier.
    pub fn with_step(mut self, step: super::Step, epsilon: f64) -> Self {
        self.config.step = step;
        self.config.epsilon = epsilon;
        self
    }

    /// The detector with another kind of score, of the same trained classifier.
    pub fn with_score(mut self, score: super::ScoreKind) -> Self {
        self.config.score = score;
        self
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
        let chunk = self.chunk();
        let total = table.rows().div_ceil(chunk) * count;
        let mut done = 0;
        let mut normality = Vec::with_capacity(table.rows());
        for first in (0..table.rows()).step_by(chunk) {
            let rows = chunk.min(table.rows() - first);
            let mut sum: Option<Tensor<B, 1>> = None;
            self.each_projection(table, first, rows, |score| {
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
        let chunk = self.chunk();
        for first in (0..table.rows()).step_by(chunk) {
            let rows = chunk.min(table.rows() - first);
            let mut columns = Vec::new();
            self.each_projection(table, first, rows, |score| columns.push(score))?;
            let values = Tensor::stack::<2>(columns, 1).into_data();
            let values: Vec<f32> = values.iter::<f32>().collect();
            for (row, values) in scores[first..].iter_mut().zip(values.chunks(self.projections.count())) {
                row.extend_from_slice(values);
            }
        }
        Ok(scores)
    }

    /// Gives `score` the scores `[rows]` of rows `first..first + rows` under each projection in turn.
    fn each_projection(
        &self,
        table: &Table,
        first: usize,
        rows: usize,
        mut score: impl FnMut(Tensor<B, 1>),
    ) -> Result<()> {
        let device = self.device();
        let features = self.preprocessing.rows(table, first..first + rows)?;
        let features = Tensor::<B, 2>::from_data(features, &device);
        let frozen = FrozenClassifier::new(&self.classifier);
        let Sla2pConfig { step, epsilon, batch_size, score: kind, .. } = &self.config;
        let step = step.lengths(*epsilon, *batch_size, first..first + rows, table.rows(), &device);
        let score_of = |label: usize| {
            let projected = features.clone().matmul(self.projections.matrix(label, &device));
            kind.of(frozen.probabilities(projected, step.clone()), label)
        };
        let labels: Vec<usize> = (0..self.projections.count()).collect();
        for labels in labels.chunks(at_once::<B>(&device)) {
            if let [label] = labels {
                score(score_of(*label));
            } else {
                let scores: Vec<_> = labels.par_iter().map(|&label| score_of(label)).collect();
                scores.into_iter().for_each(&mut score);
            }
        }
        Ok(())
    }

    /// Rows that are scored together.
    fn chunk(&self) -> usize {
        let activations = ACTIVATIONS / at_once::<B>(&self.device());
        let widest = self.classifier.output.weight.dims()[0].max(self.projections.count());
        (activations / widest).min(FEATURES / self.projections.columns()).max(1)
    }

    fn device(&self) -> B::Device {
        self.classifier.output.weight.val().device()
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
        let state = State { preprocessing: self.preprocessing.clone(), report: self.report.clone() };
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
        let config: Sla2pConfig = read_json(&folder.join(CONFIG))?;
        let state: State = read_json(&folder.join(STATE))?;
        config.validate()?;
        state.preprocessing.validate()?;
        let columns = state.preprocessing.columns_out();
        let given = folder.join(PROJECTIONS);
        let projections = if given.exists() {
            Projections::from_matrices(Checkpoint::open(&given)?.read("projections")?)?
        } else {
            Projections::from_seed(config.seed, config.projections, columns, config.width)
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
        // The values drawn here are replaced by the file's.
        let classifier = settings.init(&mut leanburn_core::random::Generator::new(0), device);
        let classifier = Checkpoint::open(folder.join(CLASSIFIER))?
            .load_into(classifier, |path| settings.published_name(path))?;
        Ok(Self::new(config, state.preprocessing, projections, classifier, state.report))
    }
}

/// How many projections are scored at once. The CPU backends use all cores for matrix products alone, and one for the
/// rest; a GPU gets its work from one thread.
fn at_once<B: Backend>(device: &B::Device) -> usize {
    // Burn's way to tell backends apart is their name, `dispatch<flex>` for instance.
    let name = B::name(device);
    if ["flex", "ndarray"].iter().any(|cpu| name.contains(cpu)) { rayon::current_num_threads() } else { 1 }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text).map_err(|error| Error::format(path, "file", "what `save` wrote", error))
}
