use burn::{
    config::Config, module::AutodiffModule, optim::GradientsParams, tensor::backend::AutodiffBackend,
};
use leanburn_core::{Error, Result, architecture::Graph, train::Hook};
use leanburn_vision::{Architecture, Classifier, train::Supervised};
use serde::{Deserialize, Serialize};

use super::{Part, Phase, Sites, by_filter, check_growth, magnitudes, pull};
use crate::{Kept, Ratios, Selection, State, selection::removals};

/// How the penalty finds the filters that will go.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Growth {
    /// Those of the smallest weights at the start (GReg-1).
    One,
    /// All filters feel the penalty until it has reached a limit; those whose weights are then smallest go. The others
    /// may recover (GReg-2).
    Two {
        /// What the penalty of all grows by at each update; 1e-5 as published.
        pick: f64,
        /// At which penalty filters are picked; 1e-2 as published.
        pick_limit: f64,
        /// The penalty of filters that stay, once picked; -1e-4 as published, which lets them grow.
        recover: f64,
    },
    /// None: the whole penalty from the first step on (the published `FixReg`, for comparison).
    Fixed,
}

/// Growing regularisation (Wang et al., "Neural Pruning via Growing Regularization", 2021).
#[derive(Config, Debug)]
pub struct GregConfig {
    /// How filters are found.
    pub growth: Growth,
    /// What the penalty of filters that will go grows by at each update. Default: 1e-4
    #[config(default = 1e-4)]
    pub granularity: f64,
    /// A layer is finished when its penalty is above. Default: 1
    #[config(default = 1.0)]
    pub limit: f64,
    /// Or when the mean weight of what stays is as many times that of what goes, in all layers. Default: 1000
    #[config(default = 1000.0)]
    pub ratio_limit: f64,
    /// Whether a layer that loses filters has the ratio at which its sorted weights make the largest step, whatever its
    /// own (the published ratio -1), when filters are picked by `Growth::Two`. Default: false
    #[config(default = false)]
    pub by_gap: bool,
    /// Steps from update to update. Default: 10
    #[config(default = 10)]
    pub update_every: usize,
    /// Steps for which the full penalty stays. Default: 10,000
    #[config(default = 10_000)]
    pub stabilise: usize,
}

impl GregConfig {
    /// GReg-1 as published.
    pub fn one() -> Self {
        Self::new(Growth::One)
    }

    /// GReg-2 as published.
    pub fn two() -> Self {
        Self::new(Growth::Two { pick: 1e-5, pick_limit: 1e-2, recover: -1e-4 })
    }

    /// The method on a network.
    ///
    /// - size: height and width of the input
    /// - selection: of the filters that go, or, of GReg-2, that would; and which layers stay
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, or filters cannot be selected.
    pub fn init<A: Architecture, B: AutodiffBackend>(
        &self,
        config: &A,
        network: &A::Network<B>,
        size: [usize; 2],
        ratios: &Ratios,
        selection: &Selection,
    ) -> Result<Greg> {
        check_growth(self.update_every, self.granularity)?;
        let graph = config.graph(size)?;
        let state = State::of::<A, B>(config, network)?;
        let kept = selection.select(&graph, &state, None, ratios)?;
        let resolved = ratios.resolve(&graph, &selection.skip)?;
        let layers = graph.learnable().zip(resolved).filter(|(_, ratio)| *ratio > 0.0);
        let layers = layers.map(|(layer, ratio)| {
            Ok(GregLayer {
                name: layer.name().to_owned(),
                ratio,
                width: layer.outputs().len(),
                pruned: kept.pruned(layer.name())?.to_vec(),
                picking: 0,
                growing: 0,
                picked: (!matches!(self.growth, Growth::Two { .. })).then_some(0),
                magnitude_ratio: None,
                finished: false,
            })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let names: Vec<String> = layers.iter().map(|layer| layer.name.clone()).collect();
        let sites = Sites::new::<A, B>(config, &graph, network, &names)?;
        Ok(Greg { config: self.clone(), sites, layers, phase: Phase::Grow, done: false })
    }
}

impl GregConfig {
    /// The penalties of what goes, and of what stays.
    ///
    /// - picking, growing: updates of the penalty on all, and of that on what goes
    pub(super) fn penalties(&self, picking: usize, growing: usize) -> (f64, f64) {
        let grown = self.granularity * growing as f64;
        match self.growth {
            Growth::One => (grown, 0.0),
            Growth::Fixed => (self.limit, 0.0),
            Growth::Two { pick, recover, .. } => {
                let all = pick * picking as f64;
                if growing == 0 { (all, all) } else { (all + grown, recover) }
            }
        }
    }
}

/// A layer under a growing penalty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct GregLayer {
    name: String,
    ratio: f64,
    width: usize,
    /// The filters that go, or that would.
    pruned: Vec<usize>,
    /// Updates of the penalty on all filters, and of that on those that go: a sum of steps in floats would drift.
    picking: usize,
    growing: usize,
    /// The step at which filters were picked.
    picked: Option<usize>,
    /// The moving mean of how many times larger the weights are that stay.
    magnitude_ratio: Option<f64>,
    finished: bool,
}

/// A network's pruning by growing regularisation, see [`GregConfig::init`].
#[derive(Debug, Clone)]
pub struct Greg {
    config: GregConfig,
    sites: Sites,
    layers: Vec<GregLayer>,
    phase: Phase,
    done: bool,
}

impl Greg {
    /// After the backward pass of step `step`: lets the penalty grow, and adds it to the gradients of the weights.
    ///
    /// - step: counted from 0
    pub fn gradients<B: AutodiffBackend, N: AutodiffModule<B>>(
        &mut self,
        step: usize,
        network: &N,
        gradients: GradientsParams,
    ) -> GradientsParams {
        if self.phase == Phase::Grow && step.is_multiple_of(self.config.update_every) {
            self.update(step, &magnitudes::<B, N>(network, &self.sites, self.layers.len()));
        }
        self.done = self.phase.is_over(step, self.config.stabilise);
        let lambdas: Vec<Vec<f32>> = self.layers.iter().map(|layer| self.lambdas(layer)).collect();
        pull::<B, N>(network, &self.sites, &lambdas, |part| matches!(part, Part::Weight(_)), gradients)
    }

    fn update(&mut self, step: usize, magnitudes: &[Vec<f32>]) {
        for (index, scores) in magnitudes.iter().enumerate() {
            if self.layers[index].finished {
                continue;
            }
            self.grow(index, step, scores);
            let layer = &mut self.layers[index];
            let ratio = ratio_of_means(scores, &layer.pruned);
            layer.magnitude_ratio = Some(layer.magnitude_ratio.map_or(ratio, |h| 0.9 * h + 0.1 * ratio));
            // The published loop compares what it has seen so far: the layers before at this step, those behind at
            // the one before.
            let seen = self.layers.iter().filter_map(|layer| layer.magnitude_ratio);
            let all_small = seen.fold(f64::MAX, f64::min) >= self.config.ratio_limit;
            let layer = &self.layers[index];
            let above = self.largest(layer) > self.config.limit;
            let grows = matches!(self.config.growth, Growth::Two { .. });
            let picked = layer.picked.is_some_and(|at| at < step || !grows);
            let full = above || self.config.growth == Growth::Fixed;
            self.layers[index].finished = picked && (all_small || full);
        }
        if self.layers.iter().all(|layer| layer.finished) {
            self.phase = Phase::Stabilise(step);
        }
    }

    fn grow(&mut self, index: usize, step: usize, scores: &[f32]) {
        let layer = &mut self.layers[index];
        if layer.picked.is_some() {
            layer.growing += 1;
            return;
        }
        let Growth::Two { pick, pick_limit, .. } = self.config.growth else { return };
        layer.picking += 1;
        if pick * layer.picking as f64 >= pick_limit {
            let mut order: Vec<usize> = (0..layer.width).collect();
            order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            let count = if self.config.by_gap {
                below_gap(&order.iter().map(|&filter| scores[filter]).collect::<Vec<_>>())
            } else {
                removals(layer.ratio, layer.width, layer.width.saturating_sub(1))
            };
            order.truncate(count);
            layer.pruned = order;
            layer.picked = Some(step);
        }
    }

    /// The penalties of the filters that go, and of those that stay.
    fn penalties(&self, layer: &GregLayer) -> (f64, f64) {
        self.config.penalties(layer.picking, layer.growing)
    }

    fn largest(&self, layer: &GregLayer) -> f64 {
        let (go, stay) = self.penalties(layer);
        go.max(stay)
    }

    fn lambdas(&self, layer: &GregLayer) -> Vec<f32> {
        let (go, stay) = self.penalties(layer);
        by_filter(layer.width, &layer.pruned, go as f32, stay as f32)
    }

    /// Where the method stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the filters are to be removed, after the step under way.
    pub fn finished(&self) -> bool {
        self.done
    }

    /// The layers that lose filters, in the order in which they run.
    pub fn layers(&self) -> impl Iterator<Item = &str> {
        self.layers.iter().map(|layer| layer.name.as_str())
    }

    /// By layer: the largest and the smallest penalty of its filters, and how many times larger the weights are that
    /// stay.
    pub fn progress(&self) -> Vec<(f64, f64, f64)> {
        let of = |layer: &GregLayer| {
            let (go, stay) = self.penalties(layer);
            (go.max(stay), go.min(stay), layer.magnitude_ratio.unwrap_or(1.0))
        };
        self.layers.iter().map(of).collect()
    }

    /// By layer: the step at which its filters were picked.
    pub fn picked_at(&self) -> Vec<Option<usize>> {
        self.layers.iter().map(|layer| layer.picked).collect()
    }

    /// What stays, by what is known now.
    ///
    /// # Errors
    ///
    /// When the graph is of another network.
    pub fn kept(&self, graph: &Graph) -> Result<Kept> {
        super::kept(graph, self.layers.iter().map(|layer| (&layer.name, &layer.pruned)))
    }
}

/// How many of ascending scores lie below the largest step from one to the next; the first and the last 2 % are not
/// looked at.
pub(super) fn below_gap(sorted: &[f32]) -> usize {
    let edge = (0.02 * sorted.len() as f64).floor() as usize;
    let places = edge..sorted.len().saturating_sub(edge + 1);
    let step = |place: &usize| sorted[place + 1] - sorted[*place];
    places.max_by(|a, b| step(a).total_cmp(&step(b)).then(b.cmp(a))).map_or(0, |place| place + 1)
}

/// The mean score of what stays over that of what goes.
fn ratio_of_means(scores: &[f32], pruned: &[usize]) -> f64 {
    let goes = |index: &usize| pruned.contains(index);
    let mean = |wanted: bool| {
        let chosen: Vec<f64> = (0..scores.len())
            .filter(|index| goes(index) == wanted)
            .map(|index| f64::from(scores[index]))
            .collect();
        chosen.iter().sum::<f64>() / chosen.len() as f64
    };
    mean(false) / mean(true)
}

impl<B, N> Hook<B, Supervised<B, N>> for Greg
where
    B: AutodiffBackend,
    N: Classifier<B> + AutodiffModule<B>,
    N::InnerModule: Classifier<B::InnerBackend>,
{
    fn gradients(
        &mut self,
        step: usize,
        model: &Supervised<B, N>,
        gradients: GradientsParams,
    ) -> Result<GradientsParams> {
        Ok(Self::gradients::<B, N>(self, step, &model.network, gradients))
    }

    fn finished(&self) -> bool {
        self.done
    }

    fn state(&self) -> serde_json::Value {
        serde_json::to_value((&self.layers, self.phase, self.done)).expect("numbers are JSON")
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<()> {
        let restored = serde_json::from_value(state);
        (self.layers, self.phase, self.done) =
            restored.map_err(|error| Error::data("state of GReg", "what it saved", error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_step_parts_what_goes_from_what_stays() {
        assert_eq!(below_gap(&[0.1, 0.2, 0.3, 1.0, 1.1]), 3);
        assert_eq!(below_gap(&[1.0, 1.0]), 1);
        assert_eq!(below_gap(&[1.0]), 0);
        // Of a hundred, the first and the last two are not looked at.
        let mut scores: Vec<f32> = (0..100).map(|place| place as f32).collect();
        scores[0] = -50.0;
        scores[99] = 500.0;
        scores[40..].iter_mut().for_each(|score| *score += 5.0);
        assert_eq!(below_gap(&scores), 40);
    }
}
