use burn::tensor::backend::{AutodiffBackend, DeviceOps};
use leanburn_core::{Error, Result, metrics::mean_std};
use serde::{Deserialize, Serialize};

use super::{LgiConfig, Strength};
use crate::{
    NodeSet,
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

impl LgiConfig {
    /// Trains `trials` times, with the seeds `seed`, `seed + 1`, ...; the graph is made once.
    ///
    /// # Errors
    ///
    /// As [`fit`](Self::fit), and when `trials` is 0.
    pub fn trials<B: AutodiffBackend>(
        &self,
        set: &NodeSet,
        trials: usize,
        device: &B::Device,
        mut progress: impl FnMut(usize, usize, &History),
    ) -> Result<Trials> {
        if trials == 0 {
            return Err(Error::setting("trials", "at least 1", 0));
        }
        let graph = self.restored::<B::InnerBackend>(set, device.inner())?.graph;
        let histories: Vec<History> = (0..trials)
            .map(|trial| {
                let config = self.clone().with_seed(self.seed + trial as u64);
                let show = |epoch: usize, history: &History| progress(trial, epoch, history);
                Ok(config.fit_graph::<B>(set, &graph, device, show)?.history().clone())
            })
            .collect::<Result<_>>()?;
        Ok(Trials::new(&histories))
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
    /// As [`LgiConfig::trials`], and when `set` has no validation nodes.
    pub fn search<B: AutodiffBackend>(
        &self,
        config: &LgiConfig,
        set: &NodeSet,
        trials: usize,
        device: &B::Device,
        mut progress: impl FnMut(&Point),
    ) -> Result<Vec<(LgiConfig, Point)>> {
        if set.split.validation.is_empty() {
            return Err(Error::data("validation nodes", "some, to select settings by", "none"));
        }
        let mut found = Vec::new();
        for config in self.points(config) {
            let point = Point {
                k: config.knn.k,
                tau: config.restoration.as_ref().map(|restoration| restoration.tau),
                strength: config.restoration.as_ref().map(|restoration| restoration.strength),
                trials: config.trials::<B>(set, trials, device, |_, _, _| ())?,
            };
            progress(&point);
            found.push((config, point));
        }
        let mean = |point: &(LgiConfig, Point)| mean_std(&point.1.trials.validation).0;
        found.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        Ok(found)
    }

    fn points(&self, config: &LgiConfig) -> Vec<LgiConfig> {
        let mut points = vec![config.clone()];
        let mut vary = |count: usize, set: &dyn Fn(&mut LgiConfig, usize)| {
            if count > 0 {
                let all = points.iter().flat_map(|point| {
                    (0..count).map(|choice| {
                        let mut point = point.clone();
                        set(&mut point, choice);
                        point
                    })
                });
                points = all.collect();
            }
        };
        vary(self.k.len(), &|point, choice| point.knn.k = self.k[choice]);
        if config.restoration.is_some() {
            let restoration = |point: &mut LgiConfig, change: &dyn Fn(&mut super::RestorationConfig)| {
                if let Some(restoration) = &mut point.restoration {
                    change(restoration);
                }
            };
            vary(self.tau.len(), &|point, choice| restoration(point, &|r| r.tau = self.tau[choice]));
            vary(self.strength.len(), &|point, choice| {
                restoration(point, &|r| r.strength = self.strength[choice]);
            });
        }
        points
    }
}
