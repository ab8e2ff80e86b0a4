//! Which filters go.

use std::{collections::BTreeMap, fmt, sync::Arc};

use burn::config::Config;
use leanburn_core::{
    Error, Result,
    architecture::{Graph, Layer},
    random::Generator,
};
use serde::{Deserialize, Serialize};

use crate::{Prunable, Ratios, State, numpy, state::norm_behind};

/// What a filter is worth.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Criterion {
    /// The mean of its absolute weights. Within a layer it ranks as the sum does; between layers of other sizes, it
    /// compares.
    L1,
    /// The root of its mean squared weight.
    L2,
    /// The absolute scale of the batch norm behind it (Liu et al., 2017).
    BatchNormScale,
    /// The mean absolute weight with which the layers behind read it: pruning of their input channels.
    Readers,
    /// The mean of its absolute gradients.
    Gradient,
    /// The mean of its squared products of weight and gradient (Molchanov et al., 2019), first order.
    Taylor,
    /// What a function says of a layer: one number a filter.
    #[serde(skip)]
    Custom(Score),
}

/// A function that scores the filters of a layer.
pub type Score = Arc<dyn Fn(&Layer, &State) -> Result<Vec<f64>> + Send + Sync>;

impl fmt::Debug for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::BatchNormScale => "BatchNormScale",
            Self::Readers => "Readers",
            Self::Gradient => "Gradient",
            Self::Taylor => "Taylor",
            Self::Custom(_) => "Custom",
        })
    }
}

impl Criterion {
    /// The scores of a layer's filters.
    ///
    /// - gradients: accumulated, under the names of their parameters; for the criteria that use them
    ///
    /// # Errors
    ///
    /// When the layer has no batch norm behind it, or gradients are missing.
    pub fn scores(
        &self,
        graph: &Graph,
        layer: &Layer,
        state: &State,
        gradients: Option<&State>,
    ) -> Result<Vec<f64>> {
        let gradients = || {
            let gradients = gradients.ok_or_else(|| {
                Error::setting("criterion", "gradients for it", format!("{self:?} without them"))
            })?;
            gradients.weight(layer)
        };
        let mean = |values: &[f32], columns: usize, of: fn(f64) -> f64| -> Vec<f64> {
            let rows = values.chunks(columns.max(1));
            rows.map(|row| row.iter().map(|&v| of(f64::from(v))).sum::<f64>() / columns as f64).collect()
        };
        Ok(match self {
            Self::L1 => {
                let (weights, columns) = state.weight(layer)?;
                mean(&weights, columns, f64::abs)
            }
            Self::L2 => {
                let (weights, columns) = state.weight(layer)?;
                mean(&weights, columns, |v| v * v).into_iter().map(f64::sqrt).collect()
            }
            Self::Gradient => {
                let (gradients, columns) = gradients()?;
                mean(&gradients, columns, f64::abs)
            }
            Self::Taylor => {
                let (weights, columns) = state.weight(layer)?;
                let (gradients, _) = gradients()?;
                let products: Vec<f32> = weights.iter().zip(gradients.iter()).map(|(w, g)| w * g).collect();
                mean(&products, columns, |v| v * v)
            }
            Self::BatchNormScale => {
                let norm = norm_behind(graph, layer).ok_or_else(|| {
                    let location = format!("layer `{}`", layer.name());
                    Error::data(location, "a batch norm behind it, for this criterion", "none")
                })?;
                let scale = state.tensor(&format!("{}.weight", norm.name()))?;
                scale.iter::<f64>().map(f64::abs).collect()
            }
            Self::Readers => {
                let mut sums = vec![(0.0, 0_usize); layer.outputs().len()];
                for reader in graph.learnable() {
                    let scores = state.channel_scores(reader)?;
                    // A flattened map has a column for each position; a depthwise layer reads its channels one by one.
                    for (group, score) in reader.inputs().iter().zip(scores) {
                        let place = layer.outputs().iter().position(|output| Some(*output) == *group);
                        if let Some(sum) = place.and_then(|place| sums.get_mut(place)) {
                            *sum = (sum.0 + score, sum.1 + 1);
                        }
                    }
                }
                sums.into_iter().map(|(sum, count)| sum / count.max(1) as f64).collect()
            }
            Self::Custom(score) => score(layer, state)?,
        })
    }
}

/// Which filters go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pick {
    /// Those of the lowest scores; of equal ones the first.
    Min,
    /// Those of the highest scores; of equal ones the first.
    Max,
    /// Random ones, other ones in each layer.
    Random {
        /// The seed.
        seed: u64,
    },
    /// Random ones as `NumPy`'s legacy generator draws them, the same in all layers of one width: the published code's,
    /// with seed 42.
    NumpyRandom {
        /// The seed.
        seed: u32,
    },
}

/// Among which filters is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Among those of one layer; its ratio is its own.
    Local,
    /// Among those of all layers whose ratio is above 0, by their scores; the ratio is theirs in all.
    Global,
}

/// What a channel is worth that several layers give together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coupling {
    /// The mean of its scores in all of them.
    Mean,
    /// Its score in the first one that runs: the published code's rule.
    First,
}

/// How filters are selected.
#[derive(Config, Debug)]
pub struct Selection {
    /// What a filter is worth. Default: the mean of its absolute weights
    #[config(default = "Criterion::L1")]
    pub criterion: Criterion,
    /// Which go first. Default: those of the lowest scores
    #[config(default = "Pick::Min")]
    pub pick: Pick,
    /// Among which is picked. Default: those of one layer
    #[config(default = "Scope::Local")]
    pub scope: Scope,
    /// What coupled channels are worth. Default: the mean
    #[config(default = "Coupling::Mean")]
    pub coupling: Coupling,
    /// Numbers of filters that stay are rounded up to a multiple: 8 or 16 are fast on GPUs. Default: 1
    #[config(default = 1)]
    pub round_to: usize,
    /// How many filters of a layer stay at least. Default: 1
    #[config(default = 1)]
    pub at_least: usize,
    /// The largest part of a layer that goes; the published code's is 0.995. Without it, a ratio that would leave fewer
    /// filters than `at_least` is an error. Default: none
    #[config(default = "None")]
    pub at_most: Option<f64>,
    /// Wildcards of layers that stay. Default: none
    #[config(default = "Vec::new()")]
    pub skip: Vec<String>,
}

impl Default for Selection {
    fn default() -> Self {
        Self::new()
    }
}

/// How many of `count` go at a ratio: `ceil(ratio * count)`, and at most `cap`.
pub(crate) fn removals(ratio: f64, count: usize, cap: usize) -> usize {
    ((ratio * count as f64).ceil() as usize).min(cap)
}

/// Layers whose channels are coupled, and what their groups are worth.
struct Cluster {
    /// Places among the learnable layers.
    layers: Vec<usize>,
    /// The groups, in the order of the first layer's channels.
    groups: Vec<usize>,
    scores: Vec<f64>,
    ratio: f64,
}

impl Selection {
    /// Selects filters of a network.
    ///
    /// - graph, state: the network's
    /// - gradients: for the criteria that use them
    ///
    /// # Errors
    ///
    /// When ratios do not resolve, coupled layers have other ratios, a score is not finite, or a layer would be empty.
    pub fn select(
        &self,
        graph: &Graph,
        state: &State,
        gradients: Option<&State>,
        ratios: &Ratios,
    ) -> Result<Kept> {
        if self.round_to == 0 || self.at_least == 0 {
            let found = format!("{} and {}", self.round_to, self.at_least);
            return Err(Error::setting("round_to, at_least", "at least 1", found));
        }
        if let Some(at_most) = self.at_most
            && !(0.0..1.0).contains(&at_most)
        {
            return Err(Error::setting("at_most", "from 0 to below 1", at_most));
        }
        let ratios = ratios.resolve(graph, &self.skip)?;
        let clusters = self.clusters(graph, state, gradients, &ratios)?;
        let orders: Vec<Vec<usize>> =
            clusters.iter().enumerate().map(|(index, cluster)| self.order(index, cluster)).collect();
        let counts = match self.scope {
            Scope::Local => {
                let layers: Vec<&Layer> = graph.learnable().collect();
                let count = |cluster: &Cluster| self.local_count(layers[cluster.layers[0]], cluster);
                clusters.iter().map(count).collect::<Result<_>>()?
            }
            Scope::Global => self.global_counts(&clusters)?,
        };
        let mut removed = vec![Vec::new(); graph.learnable().count()];
        for ((cluster, order), count) in clusters.iter().zip(orders).zip(counts) {
            let groups: Vec<usize> = order[..count].iter().map(|&place| cluster.groups[place]).collect();
            for &layer in &cluster.layers {
                removed[layer].clone_from(&groups);
            }
        }
        Kept::new(graph, &removed)
    }

    /// Selects filters so that the smaller network meets a budget: ratios are scaled together until it does.
    ///
    /// - size: height and width of the input
    ///
    /// # Errors
    ///
    /// As [`select`](Self::select), and when no scale meets the budget.
    pub fn select_within<A: Prunable>(
        &self,
        config: &A,
        size: [usize; 2],
        state: &State,
        gradients: Option<&State>,
        ratios: &Ratios,
        budget: Budget,
    ) -> Result<Kept> {
        let graph = config.graph(size)?;
        // On the way to a budget, layers end where they must.
        let limited = Self { at_most: Some(self.at_most.unwrap_or(1.0 - f64::EPSILON)), ..self.clone() };
        let kept_at = |factor: f64| -> Result<(Kept, f64)> {
            let kept = limited.select(&graph, state, gradients, &ratios.scaled(factor))?;
            let cost = config.pruned(&kept)?.graph(size)?.cost();
            Ok((kept, budget.share(cost, graph.cost())))
        };
        let within = |share: f64| share <= budget.limit();
        let (kept, share) = kept_at(0.0)?;
        if within(share) {
            return Ok(kept);
        }
        // Ratios end at 1, so no scale above this one gives more.
        let largest = ratios.resolve(&graph, &self.skip)?.into_iter().fold(f64::EPSILON, f64::max);
        let smallest = graph.learnable().map(|layer| layer.outputs().len()).max().unwrap_or(1);
        let (mut low, mut high) = (0.0, 1e3 / largest);
        let (mut best, share) = kept_at(high)?;
        if !within(share) {
            let found = format!("{:.1} % at the least", 100.0 * share);
            return Err(Error::setting("budget", format!("{budget:?} within reach"), found));
        }
        while (high - low) * largest > 0.5 / smallest as f64 {
            let middle = f64::midpoint(low, high);
            let (kept, share) = kept_at(middle)?;
            if within(share) {
                (best, high) = (kept, middle);
            } else {
                low = middle;
            }
        }
        Ok(best)
    }

    /// How many go of a cluster that is ranked alone.
    fn local_count(&self, first: &Layer, cluster: &Cluster) -> Result<usize> {
        let (ratio, count) = (cluster.ratio, cluster.groups.len());
        let wanted = removals(ratio, count, count);
        if self.at_most.is_none() && wanted > 0 && wanted + self.at_least > count {
            return Err(Error::setting(
                format!("ratio of `{}`", first.name()),
                format!("one that leaves {} of {count} filters; or set `at_most`", self.at_least),
                ratio,
            ));
        }
        Ok(self.limited(wanted, count))
    }

    /// As many of `wanted` as may go of `count`.
    fn limited(&self, wanted: usize, count: usize) -> usize {
        let part = self.at_most.map_or(count, |at_most| (at_most * count as f64).floor() as usize);
        let removed = wanted.min(part).min(count.saturating_sub(self.at_least));
        let kept = (count - removed).next_multiple_of(self.round_to).min(count);
        count - kept
    }

    /// How many go of each cluster when all are ranked together.
    fn global_counts(&self, clusters: &[Cluster]) -> Result<Vec<usize>> {
        let taking: Vec<&Cluster> = clusters.iter().filter(|cluster| cluster.ratio > 0.0).collect();
        let Some(ratio) = taking.first().map(|cluster| cluster.ratio) else {
            return Ok(vec![0; clusters.len()]);
        };
        if let Some(other) = taking.iter().find(|cluster| cluster.ratio != ratio) {
            let expected = "one ratio for all layers that are ranked together";
            return Err(Error::setting("ratios", expected, format!("{ratio} and {}", other.ratio)));
        }
        let mut all: Vec<f64> = taking.iter().flat_map(|cluster| cluster.scores.iter().copied()).collect();
        all.sort_by(f64::total_cmp);
        let reversed = self.pick == Pick::Max;
        if reversed {
            all.reverse();
        }
        let threshold = all[removals(ratio, all.len(), all.len() - 1)];
        let beyond = |score: &&f64| if reversed { **score > threshold } else { **score < threshold };
        Ok(clusters
            .iter()
            .map(|cluster| match (cluster.ratio > 0.0, self.pick) {
                (false, _) => 0,
                (true, Pick::Random { .. } | Pick::NumpyRandom { .. }) => {
                    let count = cluster.groups.len();
                    self.limited(removals(ratio, count, count), count)
                }
                (true, _) => {
                    let count = cluster.scores.iter().filter(beyond).count();
                    self.limited(count, cluster.groups.len())
                }
            })
            .collect())
    }

    /// The places of a cluster's groups, those that go first in front.
    fn order(&self, index: usize, cluster: &Cluster) -> Vec<usize> {
        let count = cluster.groups.len();
        let mut order: Vec<usize> = (0..count).collect();
        match self.pick {
            Pick::Min => order.sort_by(|&a, &b| cluster.scores[a].total_cmp(&cluster.scores[b])),
            Pick::Max => order.sort_by(|&a, &b| cluster.scores[b].total_cmp(&cluster.scores[a])),
            Pick::Random { seed } => order = Generator::sample(seed, 0, index).permutation(count),
            Pick::NumpyRandom { seed } => order = numpy::permutation(seed, count),
        }
        order
    }

    fn clusters(
        &self,
        graph: &Graph,
        state: &State,
        gradients: Option<&State>,
        ratios: &[f64],
    ) -> Result<Vec<Cluster>> {
        let layers: Vec<&Layer> = graph.learnable().collect();
        let mut clusters = Vec::new();
        for members in coupled(&layers) {
            let first = members[0];
            if let Some(&other) = members.iter().find(|&&member| ratios[member] != ratios[first]) {
                let (a, b) = (layers[first], layers[other]);
                return Err(Error::setting(
                    format!("ratio of `{}`", b.name()),
                    format!("that of `{}`, {}: their channels are added", a.name(), ratios[first]),
                    ratios[other],
                ));
            }
            // By group: the sum of its scores, and how many there are.
            let mut sums: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
            let mut groups = Vec::new();
            let counted = if ratios[first] > 0.0 { &members[..] } else { &[] };
            for &member in counted {
                let scores = self.criterion.scores(graph, layers[member], state, gradients)?;
                let outputs = layers[member].outputs();
                if scores.len() != outputs.len() || scores.iter().any(|score| !score.is_finite()) {
                    let expected = format!("{} finite numbers", outputs.len());
                    let location = format!("scores of layer `{}`", layers[member].name());
                    return Err(Error::data(location, expected, format!("{} numbers", scores.len())));
                }
                for (&group, score) in outputs.iter().zip(scores) {
                    match sums.get_mut(&group) {
                        Some(_) if self.coupling == Coupling::First => {}
                        Some(sum) => *sum = (sum.0 + score, sum.1 + 1),
                        None => {
                            sums.insert(group, (score, 1));
                            groups.push(group);
                        }
                    }
                }
            }
            let scores = groups.iter().map(|group| sums[group].0 / sums[group].1 as f64).collect();
            clusters.push(Cluster { layers: members, groups, scores, ratio: ratios[first] });
        }
        Ok(clusters)
    }
}

/// Which layers have channels in common, in the order of their first ones.
fn coupled(layers: &[&Layer]) -> Vec<Vec<usize>> {
    let mut clusters: Vec<Vec<usize>> = Vec::new();
    // By group: the cluster that has it.
    let mut owner: BTreeMap<usize, usize> = BTreeMap::new();
    for (index, layer) in layers.iter().enumerate() {
        let mut owners: Vec<usize> =
            layer.outputs().iter().filter_map(|group| owner.get(group).copied()).collect();
        owners.sort_unstable();
        owners.dedup();
        let home = owners.first().copied().unwrap_or_else(|| {
            clusters.push(Vec::new());
            clusters.len() - 1
        });
        for &other in owners.iter().skip(1) {
            let moved = std::mem::take(&mut clusters[other]);
            clusters[home].extend(moved);
            owner.values_mut().filter(|cluster| **cluster == other).for_each(|cluster| *cluster = home);
        }
        clusters[home].push(index);
        owner.extend(layer.outputs().iter().map(|&group| (group, home)));
    }
    clusters.retain(|cluster| !cluster.is_empty());
    for cluster in &mut clusters {
        cluster.sort_unstable();
    }
    clusters
}

/// What the smaller network may cost, as a part of the whole one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Multiply-accumulate operations; papers' "FLOPs" have the same ratio.
    Macs(f64),
    /// Parameters of convolutions and linear layers.
    Params(f64),
}

impl Budget {
    fn share(
        self,
        pruned: leanburn_core::architecture::Cost,
        dense: leanburn_core::architecture::Cost,
    ) -> f64 {
        match self {
            Self::Macs(_) => pruned.macs as f64 / dense.macs as f64,
            Self::Params(_) => pruned.params as f64 / dense.params as f64,
        }
    }

    fn limit(self) -> f64 {
        let (Self::Macs(limit) | Self::Params(limit)) = self;
        limit
    }
}

/// Which channels of each layer stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    layers: BTreeMap<String, LayerKept>,
}

/// Which channels of a layer stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LayerKept {
    outputs: Vec<usize>,
    inputs: Vec<usize>,
    /// The outputs that go, in the order in which they were picked.
    pruned: Vec<usize>,
}

impl Kept {
    /// - removed: the groups that go, by learnable layer
    fn new(graph: &Graph, removed: &[Vec<usize>]) -> Result<Self> {
        let gone: std::collections::BTreeSet<usize> = removed.iter().flatten().copied().collect();
        let picked: BTreeMap<&str, &Vec<usize>> = graph.learnable().map(Layer::name).zip(removed).collect();
        let mut layers = BTreeMap::new();
        for layer in graph.layers() {
            let stay = |group: &usize| !gone.contains(group);
            let outputs: Vec<usize> = places(layer.outputs(), stay);
            let inputs = places(layer.inputs(), |group| group.as_ref().is_none_or(stay));
            if outputs.is_empty() || inputs.is_empty() {
                let location = format!("layer `{}`", layer.name());
                return Err(Error::data(location, "at least one channel that stays", "none"));
            }
            let of_layer = picked.get(layer.name()).into_iter().flat_map(|groups| groups.iter());
            let pruned = of_layer.flat_map(|group| {
                let same = layer.outputs().iter().enumerate().filter(move |(_, other)| *other == group);
                same.map(|(index, _)| index)
            });
            let pruned = pruned.collect();
            layers.insert(layer.name().to_owned(), LayerKept { outputs, inputs, pruned });
        }
        Ok(Self { layers })
    }

    /// All channels of a network but some outputs of some layers, and what is coupled to them.
    ///
    /// - pruned: layers by name, with the outputs that go
    ///
    /// # Errors
    ///
    /// When there is no such layer or output, an output must stay, or a layer would be empty.
    pub fn without(graph: &Graph, pruned: &BTreeMap<String, Vec<usize>>) -> Result<Self> {
        for name in pruned.keys() {
            graph.layer(name)?;
        }
        let removed = graph.learnable().map(|layer| {
            let outputs = pruned.get(layer.name()).map_or(&[][..], Vec::as_slice);
            let group = |&output: &usize| {
                let location = || format!("layer `{}`, pruned outputs", layer.name());
                let group = layer.outputs().get(output).copied().ok_or_else(|| {
                    Error::data(location(), format!("below {}", layer.outputs().len()), output)
                })?;
                if graph.is_fixed(group) {
                    return Err(Error::data(location(), "outputs that may go", output));
                }
                Ok(group)
            };
            outputs.iter().map(group).collect::<Result<Vec<usize>>>()
        });
        Self::new(graph, &removed.collect::<Result<Vec<_>>>()?)
    }

    fn layer(&self, name: &str) -> Result<&LayerKept> {
        self.layers.get(name).ok_or_else(|| Error::data(format!("layer `{name}`"), "a known layer", "none"))
    }

    /// The outputs of a layer that stay, ascending.
    ///
    /// # Errors
    ///
    /// When there is no such layer.
    pub fn outputs(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.layer(name)?.outputs)
    }

    /// The inputs of a layer that stay, ascending; of a linear layer behind maps, the columns.
    ///
    /// # Errors
    ///
    /// When there is no such layer.
    pub fn inputs(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.layer(name)?.inputs)
    }

    /// The outputs of a layer that go, in the order in which they were picked.
    ///
    /// # Errors
    ///
    /// When there is no such layer.
    pub fn pruned(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.layer(name)?.pruned)
    }

    /// How many outputs of a layer stay.
    ///
    /// # Errors
    ///
    /// When there is no such layer.
    pub fn width(&self, name: &str) -> Result<usize> {
        Ok(self.layer(name)?.outputs.len())
    }
}

/// The places of what fulfils a condition.
fn places<T>(all: &[T], condition: impl Fn(&T) -> bool) -> Vec<usize> {
    all.iter().enumerate().filter(|(_, one)| condition(one)).map(|(place, _)| place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;
    use leanburn_vision::{Architecture, resnet::ResNetConfig, sequential::SequentialConfig};

    fn lenet() -> (Graph, State) {
        of(&SequentialConfig::lenet5(1, 10))
    }

    fn of<A: Architecture>(config: &A) -> (Graph, State) {
        let network = config.init::<Flex>(&mut Generator::new(2), &Default::default()).unwrap();
        (config.graph([32, 32]).unwrap(), State::of::<A, Flex>(config, &network).unwrap())
    }

    fn select(selection: &Selection, ratios: &Ratios) -> Result<Kept> {
        let (graph, state) = lenet();
        selection.select(&graph, &state, None, ratios)
    }

    #[test]
    fn the_lowest_scores_go_first_and_the_ratio_is_kept() {
        let (graph, state) = lenet();
        let layer = graph.layer("conv2").unwrap();
        let scores = Criterion::L1.scores(&graph, layer, &state, None).unwrap();
        let sorted = |pick| {
            let selection = Selection::new().with_pick(pick);
            let kept = select(&selection, &Ratios::patterns([("conv2", 0.55)])).unwrap();
            assert_eq!(kept.width("conv2").unwrap(), 16 - 9);
            // Everything that reads the layer loses its columns.
            assert_eq!(kept.inputs("conv3").unwrap(), kept.outputs("conv2").unwrap());
            assert_eq!(kept.width("conv1").unwrap(), 6);
            kept.pruned("conv2").unwrap().iter().map(|&filter| scores[filter]).collect::<Vec<_>>()
        };
        let (low, high) = (sorted(Pick::Min), sorted(Pick::Max));
        assert!(low.is_sorted() && high.iter().rev().is_sorted());
        assert!(low[0] < high[0] && low[6] < high[6]);
        let random = |seed| {
            let selection = Selection::new().with_pick(Pick::Random { seed });
            select(&selection, &Ratios::Uniform(0.5)).unwrap()
        };
        assert_eq!(random(1), random(1));
        assert_ne!(random(1), random(2));
    }

    #[test]
    fn all_layers_are_ranked_together() {
        let selection = Selection::new().with_scope(Scope::Global);
        let kept = select(&selection, &Ratios::Uniform(0.5)).unwrap();
        let names = ["conv1", "conv2", "conv3", "fc1"];
        let widths: Vec<usize> = names.iter().map(|name| kept.width(name).unwrap()).collect();
        assert_eq!(widths.iter().sum::<usize>(), 113, "{widths:?}");
        // Of no layer all goes, whatever its scores.
        assert!(widths.iter().all(|width| *width > 0), "{widths:?}");
        let ratios = Ratios::patterns([("conv*", 0.5), ("fc1", 0.3)]);
        assert!(select(&selection, &ratios).unwrap_err().to_string().contains("0.3"));
    }

    #[test]
    fn coupled_layers_lose_the_same_channels() {
        let config = ResNetConfig::cifar_blocks(&[2, 1], 8, 10, true);
        let (graph, state) = of(&config);
        let ratios = Ratios::patterns([("*", 0.5)]);
        let kept = |coupling| {
            let selection = Selection::new().with_coupling(coupling);
            selection.select(&graph, &state, None, &ratios).unwrap()
        };
        for kept in [kept(Coupling::Mean), kept(Coupling::First)] {
            for name in ["layer1.0.conv2", "layer1.1.conv2", "layer1.1.bn2", "bn1"] {
                assert_eq!(kept.outputs(name).unwrap(), kept.outputs("conv1").unwrap(), "{name}");
            }
            assert_eq!(
                kept.outputs("layer2.0.downsample.0").unwrap(),
                kept.outputs("layer2.0.conv2").unwrap()
            );
        }
        assert_ne!(kept(Coupling::Mean), kept(Coupling::First));
        let part = Ratios::patterns([("layer1.0.conv2", 0.5)]);
        let error = Selection::new().select(&graph, &state, None, &part).unwrap_err().to_string();
        assert!(error.contains("layer1.0.conv2") && error.contains("`conv1`"), "{error}");
    }

    #[test]
    fn budgets_are_met() {
        let config = SequentialConfig::vgg(11, 10).unwrap();
        let (graph, state) = of(&config);
        for budget in [Budget::Macs(0.4), Budget::Params(0.25), Budget::Macs(1.0)] {
            let selection = Selection::new();
            let ratios = Ratios::Uniform(0.5);
            let kept = selection.select_within(&config, [32, 32], &state, None, &ratios, budget).unwrap();
            let cost = config.pruned(&kept).unwrap().graph([32, 32]).unwrap().cost();
            let share = budget.share(cost, graph.cost());
            assert!(share <= budget.limit() && share > 0.97 * budget.limit(), "{budget:?}: {share}");
        }
        let rounded = Selection::new().with_round_to(8);
        let kept = rounded.select(&graph, &state, None, &Ratios::Uniform(0.37)).unwrap();
        assert!(
            graph
                .learnable()
                .all(|l| l.name() == "classifier" || kept.width(l.name()).unwrap().is_multiple_of(8))
        );
        let impossible = Budget::Macs(1e-9);
        let ratios = Ratios::Uniform(0.5);
        let error = Selection::new().select_within(&config, [32, 32], &state, None, &ratios, impossible);
        assert!(error.unwrap_err().to_string().contains("budget"));
    }

    #[test]
    fn criteria_say_what_they_need() {
        let (graph, state) = lenet();
        let ratios = Ratios::Uniform(0.5);
        for criterion in [Criterion::Taylor, Criterion::Gradient, Criterion::BatchNormScale] {
            let selection = Selection::new().with_criterion(criterion);
            assert!(selection.select(&graph, &state, None, &ratios).is_err());
        }
        let (graph, state) = of(&SequentialConfig::vgg(11, 10).unwrap());
        let selection = Selection::new().with_criterion(Criterion::BatchNormScale);
        assert!(selection.select(&graph, &state, None, &ratios).is_ok());
        // The number of a filter as its worth: the first ones go.
        let by_place: Score =
            Arc::new(|layer, _| Ok((0..layer.outputs().len()).map(|place| place as f64).collect()));
        let selection = Selection::new().with_criterion(Criterion::Custom(by_place));
        let kept = selection.select(&graph, &state, None, &ratios).unwrap();
        assert_eq!(kept.outputs("features.0").unwrap(), (32..64).collect::<Vec<_>>());
        // A filter that nothing reads goes first.
        let mut unread = state.clone();
        let name = "features.3.weight";
        let name = if unread.tensor(name).is_ok() { name } else { "features.4.weight" };
        let data = unread.tensor(name).unwrap();
        let (shape, columns) = (data.shape.clone(), data.shape[1] * 9);
        let mut values: Vec<f32> = data.iter::<f32>().collect();
        values.chunks_mut(columns).for_each(|row| row[7 * 9..8 * 9].fill(0.0));
        unread.set(name.to_owned(), burn::tensor::TensorData::new(values, shape));
        let selection = Selection::new().with_criterion(Criterion::Readers);
        let kept =
            selection.select(&graph, &unread, None, &Ratios::patterns([("features.0", 0.01)])).unwrap();
        assert_eq!(kept.pruned("features.0").unwrap(), [7]);
        let nothing: Score = Arc::new(|_, _| Ok(vec![f64::NAN]));
        let selection = Selection::new().with_criterion(Criterion::Custom(nothing));
        assert!(selection.select(&graph, &state, None, &ratios).unwrap_err().to_string().contains("finite"));
    }

    #[test]
    fn a_layer_is_never_emptied() {
        let error = select(&Selection::new(), &Ratios::patterns([("conv1", 0.9)])).unwrap_err().to_string();
        assert!(error.contains("conv1"), "{error}");
        let capped = Selection::new().with_at_most(Some(0.995));
        let kept = select(&capped, &Ratios::patterns([("conv1", 0.9)])).unwrap();
        assert_eq!(kept.width("conv1").unwrap(), 1);
        let (graph, _) = lenet();
        let without = |name: &str, outputs: Vec<usize>| {
            Kept::without(&graph, &BTreeMap::from([(name.to_owned(), outputs)]))
        };
        assert!(without("conv1", (0..6).collect()).unwrap_err().to_string().contains("conv1"));
        assert!(without("conv1", vec![6]).unwrap_err().to_string().contains("below 6"));
        assert!(without("fc2", vec![0]).unwrap_err().to_string().contains("may go"));
        assert!(without("other", vec![0]).unwrap_err().to_string().contains("other"));
        assert_eq!(without("conv1", vec![4, 0]).unwrap().outputs("conv1").unwrap(), [1, 2, 3, 5]);
    }
}
