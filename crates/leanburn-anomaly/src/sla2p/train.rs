use std::collections::HashMap;

use burn::{
    module::AutodiffModule,
    optim::{AdamConfig, GradientsParams, Optimizer, decay::WeightDecayConfig},
    tensor::{
        Int, Tensor, TensorData,
        backend::{AutodiffBackend, Backend, DeviceOps},
    },
};
use leanburn_core::{
    Error, Result, loss,
    random::{Generator, streams},
    table::Table,
    train,
};
use serde::{Deserialize, Serialize};

use super::{Classifier, Projections, Sla2p, Sla2pConfig};
use crate::preprocessing::Preprocessing;

/// Steps whose rows are projected together: more would project rows that an early stop leaves unused, fewer would draw
/// the same projections more often.
const STEPS_A_BLOCK: usize = 16;

/// Why training stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The running accuracy exceeded the threshold.
    ThresholdReached,
    /// `max_epochs` passes were made; the threshold was not reached.
    EpochLimit,
    /// `max_steps` steps were made; the threshold was not reached.
    StepLimit,
}

/// Accuracy over all batches since training began, which is what the rule to stop looks at; it lags behind the accuracy
/// of the current batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunningAccuracy {
    seen: usize,
    correct: usize,
}

impl RunningAccuracy {
    /// Counts a batch.
    pub fn add(&mut self, correct: usize, batch: usize) {
        self.correct += correct;
        self.seen += batch;
    }

    /// In `0..=1`; NaN before the first batch.
    pub fn value(&self) -> f64 {
        self.correct as f64 / self.seen as f64
    }

    /// Whether training stops: the accuracy is strictly above `threshold`.
    pub fn exceeds(&self, threshold: f64) -> bool {
        self.value() > threshold
    }
}

/// How a detector was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FitReport {
    /// Why it stopped.
    pub stop: StopReason,
    /// Number of optimiser steps.
    pub steps: usize,
    /// Running accuracy of the pseudo-labels over all steps, in `0..=1`.
    pub accuracy: f64,
    /// Loss of each step.
    pub losses: Vec<f32>,
}

/// How far a detector is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress {
    /// A training step was made.
    Training {
        /// Steps so far.
        step: usize,
        /// Running accuracy so far.
        accuracy: f64,
    },
    /// A projection of a chunk of rows was scored.
    Scoring {
        /// How many are done.
        done: usize,
        /// Of how many.
        total: usize,
    },
}

impl Sla2pConfig {
    /// Fits a detector on a table of unlabelled rows, most of which are normal. Labels of the table are not looked at.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, the table has one row, the device does not record gradients, or training
    /// diverges.
    pub fn fit<B: AutodiffBackend>(
        &self,
        table: &Table,
        device: &B::Device,
    ) -> Result<Sla2p<B::InnerBackend>> {
        self.fit_with::<B>(table, device, |_| ())
    }

    /// [`fit`](Self::fit), telling `progress` of every step.
    ///
    /// # Errors
    ///
    /// As [`fit`](Self::fit).
    pub fn fit_with<B: AutodiffBackend>(
        &self,
        table: &Table,
        device: &B::Device,
        mut progress: impl FnMut(Progress),
    ) -> Result<Sla2p<B::InnerBackend>> {
        self.validate()?;
        if table.rows() < 2 {
            return Err(Error::data("table", "at least 2 rows to fit a detector", "1 row"));
        }
        train::check_records_gradients::<B>(device)?;
        let preprocessing = self.preprocessing.fit(table);
        let projections =
            Projections::from_seed(self.seed, self.projections, preprocessing.columns_out(), self.width);
        let mut generator = Generator::stream(self.seed, streams::INITIAL_WEIGHTS);
        let mut classifier: Classifier<B> = self.classifier().init(&mut generator, device);
        let mut optimizer = AdamConfig::new()
            .with_epsilon(self.adam_epsilon)
            .with_weight_decay(Some(WeightDecayConfig::new(self.weight_decay)))
            .init();
        let mut batches = Batches {
            table,
            preprocessing: &preprocessing,
            projections: &projections,
            order: Order::new(table.rows() * self.projections, Generator::stream(self.seed, streams::ORDER)),
            batch_size: self.batch_size,
        };

        let mut dropout = Generator::stream(self.seed, streams::DROPOUT);
        let mut report = FitReport { stop: StopReason::StepLimit, steps: 0, accuracy: 0.0, losses: vec![] };
        let mut accuracy = RunningAccuracy::default();
        let mut epochs = 0;
        'training: while report.steps < self.max_steps {
            let blocks = batches.next_block::<B::InnerBackend>(device.inner())?;
            if blocks.is_empty() {
                epochs += 1;
                if self.max_epochs == Some(epochs) {
                    report.stop = StopReason::EpochLimit;
                    break;
                }
                batches.order.restart();
            }
            for (rows, labels) in blocks {
                let [batch, _] = rows.dims();
                let labels = Tensor::from_inner(labels);
                let logits = classifier.forward_train(Tensor::from_inner(rows), &mut dropout);
                let hits = logits.clone().inner().argmax(1).squeeze_dim::<1>(1).equal(labels.clone().inner());
                let loss = loss::cross_entropy(logits, labels);
                // One wait for the device a step: the rule to stop needs the number of hits.
                let sums = Tensor::cat(vec![hits.float().sum(), loss.clone().inner()], 0).into_data();
                let sums: Vec<f32> = sums.iter::<f32>().collect();
                accuracy.add(sums[0] as usize, batch);
                report.steps += 1;
                train::check_loss(report.steps, sums[1])?;
                report.losses.push(sums[1]);
                let gradients = GradientsParams::from_grads(loss.backward(), &classifier);
                classifier = optimizer.step(self.learning_rate, classifier, gradients);
                report.accuracy = accuracy.value();
                progress(Progress::Training { step: report.steps, accuracy: report.accuracy });
                if accuracy.exceeds(self.accuracy_threshold) {
                    report.stop = StopReason::ThresholdReached;
                    break 'training;
                }
                if report.steps == self.max_steps {
                    break 'training;
                }
            }
        }
        Ok(Sla2p::new(self.clone(), preprocessing, projections, classifier.valid(), report))
    }
}

/// Projected rows `[batch, D]` and their pseudo-labels `[batch]`.
type Batch<B> = (Tensor<B, 2>, Tensor<B, 1, Int>);

/// Mini-batches of projected rows, in random order without replacement.
struct Batches<'a> {
    table: &'a Table,
    preprocessing: &'a Preprocessing,
    projections: &'a Projections,
    order: Order,
    batch_size: usize,
}

impl Batches<'_> {
    /// The next mini-batches; none at the end of an epoch.
    fn next_block<B: Backend>(&mut self, device: &B::Device) -> Result<Vec<Batch<B>>> {
        let pairs: Vec<(usize, usize)> = self
            .order
            .by_ref()
            .take(STEPS_A_BLOCK * self.batch_size)
            .map(|pair| (pair / self.projections.count(), pair % self.projections.count()))
            .collect();
        // Each projection is drawn once for all of its rows in the block.
        let mut places: Vec<usize> = (0..pairs.len()).collect();
        places.sort_by_key(|&place| pairs[place].1);
        let mut projected = Vec::new();
        for group in places.chunk_by(|&a, &b| pairs[a].1 == pairs[b].1) {
            let rows = self.preprocessing.rows(self.table, group.iter().map(|&place| pairs[place].0))?;
            let matrix = self.projections.matrix::<B>(pairs[group[0]].1, device);
            projected.push(Tensor::<B, 2>::from_data(rows, device).matmul(matrix));
        }
        if projected.is_empty() {
            return Ok(vec![]);
        }
        let mut found_at = vec![0_i64; pairs.len()];
        for (position, &place) in places.iter().enumerate() {
            found_at[place] = position as i64;
        }
        let projected = Tensor::cat(projected, 0);
        Ok(pairs
            .chunks(self.batch_size)
            .zip(found_at.chunks(self.batch_size))
            // Batch norm has no variance of a single row.
            .filter(|(pairs, _)| pairs.len() > 1)
            .map(|(pairs, found_at)| {
                let rows = projected.clone().select(0, ints(found_at.to_vec(), device));
                let labels = pairs.iter().map(|&(_, label)| label as i64).collect();
                (rows, ints(labels, device))
            })
            .collect())
    }
}

fn ints<B: Backend>(values: Vec<i64>, device: &B::Device) -> Tensor<B, 1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// The numbers below `count` in random order: a Fisher-Yates shuffle of which only the moved elements are stored, since
/// training stops long before it has drawn them all.
struct Order {
    count: usize,
    drawn: usize,
    moved: HashMap<usize, usize>,
    generator: Generator,
}

impl Order {
    fn new(count: usize, generator: Generator) -> Self {
        Self { count, drawn: 0, moved: HashMap::new(), generator }
    }

    /// Begins another order.
    fn restart(&mut self) {
        self.drawn = 0;
        self.moved.clear();
    }
}

impl Iterator for Order {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.drawn == self.count {
            return None;
        }
        let chosen = self.drawn + self.generator.below(self.count - self.drawn);
        let first = self.moved.remove(&self.drawn).unwrap_or(self.drawn);
        let value =
            if chosen == self.drawn { first } else { self.moved.insert(chosen, first).unwrap_or(chosen) };
        self.drawn += 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_holds_every_number_once() {
        let mut order = Order::new(50, Generator::new(3));
        let first: Vec<usize> = order.by_ref().collect();
        assert_ne!(first, (0..50).collect::<Vec<_>>());
        order.restart();
        let second: Vec<usize> = order.collect();
        assert_ne!(first, second);
        for mut order in [first, second] {
            order.sort_unstable();
            assert_eq!(order, (0..50).collect::<Vec<_>>());
        }
    }
}
