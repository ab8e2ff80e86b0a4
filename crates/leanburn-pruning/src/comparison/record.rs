use std::{collections::BTreeMap, path::Path};

use leanburn_core::{Result, architecture::Cost, report};
use serde::{Deserialize, Serialize};

use crate::{latency::Latency, schedules::Rates, trainability};

/// What is known of a run, from the training of its base model to its accuracy. What is not known is absent, never
/// guessed: a file may leave out any field, and `null` is unknown, too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Record {
    /// What a table calls it. Runs of one name differ by their seeds alone, and are one row.
    pub name: String,
    /// The seed.
    pub seed: Option<u64>,
    /// The data.
    pub data: DataSet,
    /// The dense network.
    pub architecture: Option<String>,
    /// The network before pruning; of scratch training nothing is known, as there is none.
    pub base: BaseRecord,
    /// The pruning.
    pub pruning: PruningRecord,
    /// The training after it; of scratch training, all of it.
    pub retraining: TrainingRecord,
    /// What the dense network costs.
    pub dense: Option<Cost>,
    /// What the pruned one costs.
    pub pruned: Option<Cost>,
    /// MACs of the dense network over those of the pruned one, where the costs are not known.
    pub speedup: Option<f64>,
    /// The part of parameters that is gone, where the costs are not known; of unstructured pruning, that of weights.
    pub sparsity: Option<f64>,
    /// Accuracies.
    pub accuracy: Accuracies,
    /// The mean singular value of the Jacobian before pruning, right after it (and after a reinitialisation), and at the
    /// end.
    pub mean_jsv: [Option<f64>; 3],
    /// The mean condition number of the Jacobian, likewise; of samples whose smallest singular value is 0 there is none.
    pub condition_number: [Option<f64>; 3],
    /// The mean singular value after epochs of retraining, which are counted from 1.
    pub mean_jsv_by_epoch: Vec<(usize, f64)>,
    /// How long the pruned network takes.
    pub latency: Option<Latency>,
    /// How long the dense one takes.
    pub dense_latency: Option<Latency>,
    /// Bytes of the pruned network's weights and running statistics, as they are saved.
    pub weight_bytes: Option<usize>,
    /// What it ran on.
    pub hardware: Option<String>,
    /// Whatever else.
    pub note: Option<String>,
}

/// Data that a run is trained and evaluated on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSet {
    /// Its name.
    pub name: Option<String>,
    /// How it was split.
    pub split: Option<String>,
    /// A hash of its samples.
    pub hash: Option<String>,
}

/// The network before pruning.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BaseRecord {
    /// A hash of its weights.
    pub hash: Option<String>,
    /// Its accuracy, in percent.
    pub accuracy: Option<f64>,
    /// How it was trained.
    pub training: TrainingRecord,
}

/// What is removed at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// Single weights.
    Weight,
    /// Filters, which are the channels of what reads them.
    Filter,
    /// Some of each block of weights (N:M).
    Block,
}

/// How a small network was made that is trained from scratch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scratch {
    /// Small from the start.
    SmallDense,
    /// Large, with a mask. For filters it is not the same: the weights' initial scale is the large network's.
    LargeSparse,
}

/// How a network was pruned.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PruningRecord {
    /// What is removed at a time.
    pub granularity: Option<Granularity>,
    /// The part that goes, by layer.
    pub ratios: Option<BTreeMap<String, f64>>,
    /// By what it is selected.
    pub criterion: Option<String>,
    /// The method's own epochs, between the training of the base model and the removal; 0 of one-shot methods.
    pub epochs: Option<f64>,
    /// Their computation, in epochs of the dense network; as many as they are, where it is not told.
    pub computation: Option<f64>,
    /// Their learning rate; `none` of one-shot methods.
    pub rates: Option<String>,
    /// In how many rounds of pruning and retraining.
    pub rounds: Option<usize>,
    /// The part of what goes that goes by the weights' magnitude (L1) at the same ratios as well.
    pub overlap_with_l1: Option<f64>,
    /// How many times larger, in the mean of absolute weights, what stays is than what goes, by layer; before it goes.
    pub magnitude_ratios: Option<BTreeMap<String, f64>>,
    /// Whether there is no pruning: a small network is trained from scratch.
    pub scratch: Option<Scratch>,
}

/// How a network was trained.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingRecord {
    /// Passes over the training data.
    pub epochs: Option<usize>,
    /// The learning rate by epoch.
    pub rates: Option<Rates>,
    /// Epochs in which the rate rises from 0.
    pub warm_up: Option<usize>,
    /// The optimiser.
    pub optimizer: Option<String>,
    /// Its momentum.
    pub momentum: Option<f64>,
    /// The weight decay.
    pub weight_decay: Option<f64>,
    /// Samples of a batch.
    pub batch_size: Option<usize>,
    /// How samples are changed at random; `none` where they are not.
    pub augmentation: Option<String>,
    /// How much of the targets is spread over all classes.
    pub label_smoothing: Option<f64>,
    /// The teacher; `none` where there is none.
    pub distillation: Option<String>,
    /// How much of a moving average of the weights stays at each step; 0 where there is none.
    pub average: Option<f64>,
}

impl TrainingRecord {
    /// The learning rate of each epoch.
    pub fn by_epoch(&self) -> Option<Vec<f64>> {
        Some(self.rates.as_ref()?.by_epoch(self.epochs?))
    }
}

/// Accuracies on the test data, in percent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Accuracies {
    /// Right after pruning, before any retraining.
    pub after_pruning: Option<f64>,
    /// After each epoch of the retraining.
    pub by_epoch: Vec<f64>,
    /// After the last epoch.
    pub last: Option<f64>,
    /// The deviation of `last`, where it is the mean of several runs, as papers print them.
    pub std: Option<f64>,
    /// Of how many runs `last` is the mean; of 1, where it is not told.
    pub runs: Option<usize>,
    /// Whether the class is among the five most probable, after the last epoch; for more than five classes.
    pub top5: Option<f64>,
    /// Of the best epoch.
    pub best: Option<f64>,
    /// Whether `last` is in truth the best epoch's, selected on the test data.
    pub best_on_test: Option<bool>,
}

impl Record {
    /// Reads records: a file has one, or a list.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Vec<Self>> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum File {
            Many(Vec<serde_json::Value>),
            One(serde_json::Value),
        }
        let values = match report::read_json(&path)? {
            File::Many(values) => values,
            File::One(value) => vec![value],
        };
        let record = |(index, value)| {
            serde_json::from_value(value).map_err(|error| {
                let location = format!("{}, record {}", path.as_ref().display(), index + 1);
                leanburn_core::Error::data(location, "the fields of a record", error)
            })
        };
        values.into_iter().enumerate().map(record).collect()
    }

    /// MACs of the dense network over those of the pruned one.
    pub fn speedup(&self) -> Option<f64> {
        match (self.dense, self.pruned) {
            (Some(dense), Some(pruned)) => Some(dense.macs as f64 / pruned.macs as f64),
            _ => self.speedup,
        }
    }

    /// The part of parameters that is gone; of unstructured pruning, that of weights.
    pub fn sparsity(&self) -> Option<f64> {
        match (self.dense, self.pruned, self.sparsity) {
            (.., Some(sparsity)) => Some(sparsity),
            (Some(dense), Some(pruned), None) => Some(1.0 - pruned.params as f64 / dense.params as f64),
            _ => None,
        }
    }

    /// The mean accuracy over the first stage of retraining, in percent.
    pub fn trainability_accuracy(&self) -> Option<f64> {
        let training = &self.retraining;
        let first = training.rates.as_ref()?.first_stage(training.epochs?);
        trainability::trainability_accuracy(&self.accuracy.by_epoch, first).ok()
    }

    /// Whether a small network was trained from scratch.
    pub fn is_scratch(&self) -> bool {
        self.pruning.scratch.is_some()
    }

    /// Epochs in all: of the base model, of pruning and of retraining.
    pub fn total_epochs(&self) -> Option<f64> {
        let retraining = self.retraining.epochs? as f64;
        if self.is_scratch() {
            return Some(retraining);
        }
        Some(self.base.training.epochs? as f64 + self.pruning.epochs? + retraining)
    }

    /// Computation in all, in epochs of the dense network: those of the pruned one count by its MACs.
    pub fn total_computation(&self) -> Option<f64> {
        let small = self.retraining.epochs? as f64 / self.speedup()?;
        if self.is_scratch() {
            return Some(small);
        }
        let pruning = self.pruning.computation.or(self.pruning.epochs)?;
        Some(self.base.training.epochs? as f64 + pruning + small)
    }
}
