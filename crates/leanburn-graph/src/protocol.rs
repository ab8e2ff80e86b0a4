//! How models of nodes are trained, selected and reported, whatever they are.

use burn::{
    optim::{AdamConfig, decay::WeightDecayConfig},
    tensor::{Tensor, backend::Backend},
};
use leanburn_core::{Error, Result, train};
use serde::{Deserialize, Serialize};

use crate::NodeSet;

/// A model in training, full batch: every epoch is one step on all nodes.
pub trait Learner {
    /// What is kept of the best epoch.
    type Model;

    /// One step of training.
    ///
    /// - epoch: counted from 1
    /// - output: the loss before the step
    ///
    /// # Errors
    ///
    /// When the model cannot go on, as with a graph whose weights have no root.
    fn step(&mut self, epoch: usize) -> Result<f32>;

    /// Logits `[nodes, classes]` of the model as it is, row by row, without dropout.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step).
    fn logits(&mut self) -> Result<Vec<f32>>;

    /// The model as it is.
    fn model(&self) -> Self::Model;

    /// Whether training ends with the epoch whose logits were just taken.
    fn has_finished(&mut self) -> bool {
        false
    }
}

/// Accuracies and losses of every epoch; empty where the split has no such nodes. Accuracies are in `0..=1`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The training loss, before the epoch's step.
    pub losses: Vec<f32>,
    /// Accuracy of the labelled nodes.
    pub train: Vec<f64>,
    /// Accuracy of the validation nodes.
    pub validation: Vec<f64>,
    /// Accuracy of the test nodes.
    pub test: Vec<f64>,
}

impl History {
    /// The epoch of the best validation accuracy, the first of equal ones, counted from 0; the last epoch where there
    /// is no validation.
    pub fn selected_epoch(&self) -> usize {
        first_best(&self.validation).unwrap_or(self.losses.len().saturating_sub(1))
    }

    /// What is reported of the test nodes; none without test nodes.
    pub fn accuracy(&self) -> Option<Accuracy> {
        let last = *self.test.last()?;
        Some(Accuracy {
            selected: *self.test.get(self.selected_epoch())?,
            best_test: self.test.iter().copied().fold(0.0, f64::max),
            last,
        })
    }
}

fn first_best(values: &[f64]) -> Option<usize> {
    let best = values.iter().copied().max_by(f64::total_cmp)?;
    values.iter().position(|&value| value == best)
}

/// Test accuracy, in `0..=1`, by three protocols.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// At the epoch of the best validation accuracy: the sound one. Without validation nodes, of the last epoch.
    pub selected: f64,
    /// The best of all epochs, selected on the test nodes themselves: the official protocol of LGI-LS.
    pub best_test: f64,
    /// Of the last epoch.
    pub last: f64,
}

/// PyTorch's Adam.
///
/// - `weight_decay`: L2 penalty added to the gradient
pub(crate) fn adam(weight_decay: f32) -> AdamConfig {
    AdamConfig::new().with_epsilon(1e-8).with_weight_decay(Some(WeightDecayConfig::new(weight_decay)))
}

/// The value of a tensor `[1]`.
pub(crate) fn number<B: Backend>(tensor: Tensor<B, 1>) -> f32 {
    tensor.into_data().iter::<f32>().next().expect("it has one value")
}

/// Trains `learner`, and gives its model of the selected epoch with the history of all.
///
/// - progress: is told of each epoch, counted from 1, with its history so far
///
/// # Errors
///
/// When a step fails, or its loss or the logits after it are not finite.
pub fn run<L: Learner>(
    learner: &mut L,
    set: &NodeSet,
    epochs: usize,
    mut progress: impl FnMut(usize, &History),
) -> Result<(L::Model, History)> {
    let mut history = History::default();
    let mut best = None;
    for epoch in 1..=epochs {
        let loss = learner.step(epoch)?;
        train::check_loss(epoch, loss)?;
        history.losses.push(loss);
        let logits = learner.logits()?;
        if let Some(&logit) = logits.iter().find(|logit| !logit.is_finite()) {
            let expected = "finite numbers; lower the learning rate or rescale the data";
            return Err(Error::data(format!("logits of epoch {epoch}"), expected, logit));
        }
        let accuracy = |nodes: &[usize], of: &mut Vec<f64>| {
            if !nodes.is_empty() {
                of.push(accuracy(&logits, &set.labels, set.classes, nodes));
            }
        };
        accuracy(&set.split.train, &mut history.train);
        accuracy(&set.split.validation, &mut history.validation);
        accuracy(&set.split.test, &mut history.test);
        if history.selected_epoch() + 1 == epoch {
            best = Some(learner.model());
        }
        progress(epoch, &history);
        if learner.has_finished() {
            break;
        }
    }
    Ok((best.unwrap_or_else(|| learner.model()), history))
}

/// The share of `nodes` whose largest logit, the first of equal ones, is their class.
pub fn accuracy(logits: &[f32], labels: &[i64], classes: usize, nodes: &[usize]) -> f64 {
    let hits =
        nodes.iter().filter(|&&node| predicted(&logits[node * classes..][..classes]) as i64 == labels[node]);
    hits.count() as f64 / nodes.len() as f64
}

/// The place of the largest value, the first of equal ones.
pub(crate) fn predicted(values: &[f32]) -> usize {
    (1..values.len()).fold(0, |best, class| if values[class] > values[best] { class } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Features, Split};

    /// Gives logits that were written down.
    ///
    /// Logits, the present epoch, and the last one.
    struct Script(Vec<[f32; 6]>, usize, usize);

    impl Learner for Script {
        type Model = usize;

        fn step(&mut self, epoch: usize) -> Result<f32> {
            self.1 = epoch;
            Ok(if epoch == 9 { f32::NAN } else { 1.0 })
        }

        fn logits(&mut self) -> Result<Vec<f32>> {
            Ok(self.0[(self.1 - 1) % self.0.len()].to_vec())
        }

        fn model(&self) -> usize {
            self.1
        }

        fn has_finished(&mut self) -> bool {
            self.1 == self.2
        }
    }

    fn set(validation: &[usize]) -> NodeSet {
        let split = Split { train: vec![0], validation: validation.to_vec(), test: vec![2] };
        NodeSet::with_split(Features::new(vec![1.0; 3], 1).unwrap(), vec![0, 0, 0], split)
            .map_or_else(|error| panic!("{error}"), |set| NodeSet { classes: 2, ..set })
    }

    #[test]
    fn three_protocols_differ() {
        // Nodes 1 (validation) and 2 (test): both right; validation right; test right; both wrong.
        let right = |validation: bool, test: bool| {
            let logits = |right| if right { [1.0, 0.0] } else { [0.0, 1.0] };
            let (validation, test) = (logits(validation), logits(test));
            [0.0, 0.0, validation[0], validation[1], test[0], test[1]]
        };
        let script = || {
            Script(
                vec![right(false, true), right(true, false), right(true, true), right(false, false)],
                0,
                99,
            )
        };
        let mut epochs = 0;
        let (model, history) = run(&mut script(), &set(&[1]), 4, |epoch, _| epochs = epoch).unwrap();
        assert_eq!((model, epochs, history.selected_epoch()), (2, 4, 1));
        let expected = Accuracy { selected: 0.0, best_test: 1.0, last: 0.0 };
        assert_eq!(history.accuracy(), Some(expected));
        assert_eq!(history.train, [1.0; 4]);

        let (model, history) = run(&mut script(), &set(&[]), 3, |_, _| ()).unwrap();
        assert_eq!(model, 3);
        assert_eq!(history.accuracy(), Some(Accuracy { selected: 1.0, best_test: 1.0, last: 1.0 }));
        assert!(run(&mut script(), &set(&[1]), 9, |_, _| ()).unwrap_err().to_string().contains("step 9"));
    }

    #[test]
    fn a_learner_may_stop() {
        let (_, history) = run(&mut Script(vec![[0.0; 6]], 0, 2), &set(&[1]), 8, |_, _| ()).unwrap();
        assert_eq!(history.losses.len(), 2);
    }

    #[test]
    fn what_diverges_is_an_error() {
        let mut script = Script(vec![[f32::NAN; 6]], 0, 99);
        let error = run(&mut script, &set(&[1]), 1, |_, _| ()).unwrap_err().to_string();
        assert!(error.contains("logits of epoch 1"), "{error}");
        let history = History { validation: vec![0.1, 0.2], test: vec![0.1], ..History::default() };
        assert_eq!(history.accuracy(), None);
    }
}
