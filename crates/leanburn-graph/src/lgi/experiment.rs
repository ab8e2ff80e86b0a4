use burn::tensor::backend::{AutodiffBackend, DeviceOps};
use leanburn_core::{Error, Result, metrics::mean_std};
use serde::{Deserialize, Serialize};

use super::{LgiConfig, RestorationConfig, Strength};
use crate::{
    Graph, NodeSet, checks,
    protocol::{Accuracy, History},
};

/// Test accuracies of several trials, in `0..=1`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trials {
    /// Each trial's.
    pub accuracies: Vec<Accuracy>,
    /// Each trial's accuracy of the validation nodes at the selected epoch.
    pub validation: Vec<f64>,
}

impl Trials {
    /// The trials of which these are the histories; those without test nodes are left out.
    pub fn new<'a>(histories: impl IntoIterator<Item = &'a History>) -> Self {
        let (mut accuracies, mut validation) = (Vec::new(), Vec::new());
        for history in histories {
            accuracies.extend(history.accuracy());
            validation.extend(history.validation.get(history.selected_epoch()));
        }
        Self { accuracies, validation }
    }

    /// Mean and population deviation of one of the protocols.
    pub fn of(&self, protocol: impl Fn(&Accuracy) -> f64) -> (f64, f64) {
        mean_std(&self.accuracies.iter().map(protocol).collect::<Vec<_>>())
    }
}

/// The settings that trials and searches change.
pub struct Varied<'a> {
    /// Of all that is drawn.
    pub seed: &'a mut u64,
    /// Neighbours.
    pub k: &'a mut usize,
    /// The connections that are restored.
    pub restoration: &'a mut Option<RestorationConfig>,
}

/// The settings of a model that can be tried several times, and searched.
pub trait Experiment: Clone {
    /// What all trials have in common.
    type Shared;

    /// The settings that trials and searches change.
    fn varied(&mut self) -> Varied<'_>;

    /// What all trials have in common.
    ///
    /// # Errors
    ///
    /// When a setting does not fit `set`.
    fn share<B: AutodiffBackend>(&self, set: &NodeSet, device: &B::Device) -> Result<Self::Shared>;

    /// Trains once, telling `progress` of each epoch, counted from 1, with the history so far.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range or does not fit `set`, the device does not record gradients, or training
    /// diverges.
    fn trial<B: AutodiffBackend>(
        &self,
        set: &NodeSet,
        shared: &Self::Shared,
        device: &B::Device,
        progress: impl FnMut(usize, &History),
    ) -> Result<History>;

    /// Trains `trials` times, with the seeds `seed`, `seed + 1`, ...
    ///
    /// - progress: is told of each trial, counted from 0, its epoch, and its history so far
    ///
    /// # Errors
    ///
    /// As [`trial`](Self::trial), and when `trials` is 0.
    fn trials<B: AutodiffBackend>(
        &self,
        set: &NodeSet,
        trials: usize,
        device: &B::Device,
        mut progress: impl FnMut(usize, usize, &History),
    ) -> Result<Trials> {
        checks::counts(&[("trials", trials)])?;
        let shared = self.share::<B>(set, device)?;
        let mut config = self.clone();
        let mut histories = Vec::new();
        for trial in 0..trials {
            let show = |epoch: usize, history: &History| progress(trial, epoch, history);
            histories.push(config.trial::<B>(set, &shared, device, show)?);
            let seed = config.varied().seed;
            *seed = seed.wrapping_add(1);
        }
        Ok(Trials::new(&histories))
    }
}

impl Experiment for LgiConfig {
    /// The graph before normalisation.
    type Shared = Graph;

    fn varied(&mut self) -> Varied<'_> {
        Varied { seed: &mut self.seed, k: &mut self.knn.k, restoration: &mut self.restoration }
    }

    fn share<B: AutodiffBackend>(&self, set: &NodeSet, device: &B::Device) -> Result<Graph> {
        Ok(self.restored::<B::InnerBackend>(set, device.inner())?.graph)
    }

    fn trial<B: AutodiffBackend>(
        &self,
        set: &NodeSet,
        graph: &Graph,
        device: &B::Device,
        progress: impl FnMut(usize, &History),
    ) -> Result<History> {
        Ok(self.fit_graph::<B>(set, graph, device, progress)?.history().clone())
    }
}

/// What a search may choose from; what is empty keeps its setting.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    /// Neighbours.
    pub k: Vec<usize>,
    /// Labelled nodes that each node is tied to.
    pub tau: Vec<usize>,
    /// How strongly.
    pub strength: Vec<Strength>,
}

/// One point of a [`Grid`] with its results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Neighbours.
    pub k: usize,
    /// Labelled nodes that each node is tied to, if connections are restored.
    pub tau: Option<usize>,
    /// How strongly, if connections are restored.
    pub strength: Option<Strength>,
    /// What its trials gave.
    pub trials: Trials,
}

impl Grid {
    /// Runs `trials` trials at every point, and gives the points from the best mean validation accuracy to the worst;
    /// test accuracies are not looked at.
    ///
    /// # Errors
    ///
    /// As [`Experiment::trials`], and when `set` has no validation nodes.
    pub fn search<B: AutodiffBackend, E: Experiment>(
        &self,
        config: &E,
        set: &NodeSet,
        trials: usize,
        device: &B::Device,
        mut progress: impl FnMut(&Point),
    ) -> Result<Vec<(E, Point)>> {
        if set.split.validation.is_empty() {
            return Err(Error::data("validation nodes", "some, to select settings by", "none"));
        }
        let mut found = Vec::new();
        for mut config in self.points(config) {
            let trials = config.trials::<B>(set, trials, device, |_, _, _| ())?;
            let Varied { k, restoration, .. } = config.varied();
            let point = Point {
                k: *k,
                tau: restoration.as_ref().map(|restoration| restoration.tau),
                strength: restoration.as_ref().map(|restoration| restoration.strength),
                trials,
            };
            progress(&point);
            found.push((config, point));
        }
        let mean = |point: &(E, Point)| mean_std(&point.1.trials.validation).0;
        found.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        Ok(found)
    }

    fn points<E: Experiment>(&self, config: &E) -> Vec<E> {
        let points = combined(vec![config.clone()], &self.k, |point, &k| *point.k = k);
        if config.clone().varied().restoration.is_none() {
            return points;
        }
        let restoration = |point: &mut Varied, change: &dyn Fn(&mut RestorationConfig)| {
            if let Some(restoration) = point.restoration {
                change(restoration);
            }
        };
        let points = combined(points, &self.tau, |point, &tau| restoration(point, &|r| r.tau = tau));
        combined(points, &self.strength, |point, &strength| restoration(point, &|r| r.strength = strength))
    }
}

/// Every point with every choice; without choices, the points as they are.
fn combined<E: Experiment, C>(points: Vec<E>, choices: &[C], set: impl Fn(&mut Varied, &C)) -> Vec<E> {
    if choices.is_empty() {
        return points;
    }
    let mut all = Vec::with_capacity(points.len() * choices.len());
    for point in points {
        for choice in choices {
            let mut point = point.clone();
            set(&mut point.varied(), choice);
            all.push(point);
        }
    }
    all
}
