//! Masks of single weights. A masked network is as large as before; what counts is its sparsity.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use leanburn_core::{
    Error, Result,
    architecture::{Graph, Layer},
};
use serde::{Deserialize, Serialize};
#[cfg(feature = "train")]
use {
    burn::{
        module::{AutodiffModule, Module, ModuleMapper, ModuleVisitor, Param, ParamId},
        tensor::{
            Tensor, TensorPrimitive,
            backend::{AutodiffBackend, Backend},
        },
    },
    leanburn_core::train::{Hook, parameter_paths},
    leanburn_vision::{Architecture, Classifier, train::Supervised},
    std::collections::HashMap,
};

use crate::{
    Ratios, State,
    selection::{Scope, removals},
};

/// Which weights of each layer stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightMasks {
    /// By layer: `true` for each weight that stays.
    layers: BTreeMap<String, Vec<bool>>,
}

/// How single weights are selected: those of the smallest absolute values go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightSelection {
    /// Among which is picked: those of one layer, or of all whose ratio is above 0.
    pub scope: Scope,
    /// The largest part of a layer that goes; the published code's is 0.995.
    pub at_most: f64,
    /// Wildcards of layers that stay.
    pub skip: Vec<String>,
}

impl Default for WeightSelection {
    fn default() -> Self {
        Self { scope: Scope::Local, at_most: 0.995, skip: Vec::new() }
    }
}

impl WeightSelection {
    /// Selects weights; of equal ones the first go first. Classifiers lose weights, too: their channels stay.
    ///
    /// # Errors
    ///
    /// When the ratio is outside `[0, 1)`, or a wildcard matches no layer.
    pub fn select(&self, graph: &Graph, state: &State, ratios: &Ratios) -> Result<WeightMasks> {
        let ratios = ratios.resolve_weights(graph, &self.skip)?;
        let layers: Vec<&Layer> = graph.learnable().collect();
        let scores = layers.iter().map(|layer| {
            let (weights, _) = state.weight(layer)?;
            Ok(weights.iter().map(|weight| weight.abs()).collect::<Vec<f32>>())
        });
        let scores = scores.collect::<Result<Vec<_>>>()?;
        let cap = |count: usize| (self.at_most * count as f64).floor() as usize;
        let counts: Vec<usize> = match self.scope {
            Scope::Local => {
                let local = ratios.iter().zip(&scores);
                local.map(|(&ratio, scores)| removals(ratio, scores.len(), cap(scores.len()))).collect()
            }
            Scope::Global => {
                let taking = || ratios.iter().zip(&scores).filter(|(ratio, _)| **ratio > 0.0);
                let ratio = taking().map(|(ratio, _)| *ratio).next().unwrap_or(0.0);
                if taking().any(|(other, _)| *other != ratio) {
                    let expected = "one ratio for all layers that are ranked together";
                    return Err(Error::setting("ratios", expected, format!("{ratios:?}")));
                }
                let mut all: Vec<f32> = taking().flat_map(|(_, scores)| scores.iter().copied()).collect();
                all.sort_by(f32::total_cmp);
                let place = removals(ratio, all.len(), all.len().saturating_sub(1));
                let threshold = all.get(place).copied().unwrap_or(0.0);
                let layers = ratios.iter().zip(&scores);
                layers
                    .map(|(&ratio, scores)| {
                        let below = scores.iter().filter(|score| **score < threshold).count();
                        if ratio > 0.0 { below.min(cap(scores.len())) } else { 0 }
                    })
                    .collect()
            }
        };
        let masks = layers.iter().zip(scores).zip(counts).map(|((layer, scores), count)| {
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            let mut mask = vec![true; scores.len()];
            for &weight in &order[..count] {
                mask[weight] = false;
            }
            (layer.name().to_owned(), mask)
        });
        Ok(WeightMasks { layers: masks.collect() })
    }
}

impl WeightMasks {
    /// Masks of all convolutions and linear layers: those given, and whole ones.
    ///
    /// - masks: by layer, `true` for each weight that stays, in the order of PyTorch's layout
    ///
    /// # Errors
    ///
    /// When there is no such layer, or a mask has not one value a weight.
    pub fn new(graph: &Graph, state: &State, mut masks: BTreeMap<String, Vec<bool>>) -> Result<Self> {
        let layers = graph.learnable().map(|layer| {
            let count = state.weight(layer)?.0.len();
            let mask = masks.remove(layer.name()).unwrap_or_else(|| vec![true; count]);
            if mask.len() != count {
                let location = format!("mask of layer `{}`", layer.name());
                return Err(Error::data(location, format!("{count} weights"), mask.len()));
            }
            Ok((layer.name().to_owned(), mask))
        });
        let layers = layers.collect::<Result<_>>()?;
        match masks.into_keys().next() {
            Some(name) => Err(Error::data(format!("layer `{name}`"), "a known layer", "none")),
            None => Ok(Self { layers }),
        }
    }

    /// [`blockwise`] masks of all convolutions and linear layers whose weights are whole blocks.
    ///
    /// - skip: wildcards of layers that stay
    ///
    /// # Errors
    ///
    /// When as many weights or more go than there are in a block, or a wildcard matches no layer.
    pub fn blockwise(
        graph: &Graph,
        state: &State,
        removed: usize,
        block: usize,
        skip: &[String],
    ) -> Result<Self> {
        if removed >= block {
            return Err(Error::setting("removed", format!("fewer than the {block} of a block"), removed));
        }
        let part = Ratios::Uniform(removed as f64 / block as f64).resolve_weights(graph, skip)?;
        let mut masks = BTreeMap::new();
        for (layer, part) in graph.learnable().zip(part) {
            let (weights, columns) = state.weight(layer)?;
            // A block must not reach into the next filter.
            if part > 0.0 && columns.is_multiple_of(block) {
                masks.insert(layer.name().to_owned(), blockwise(&weights, removed, block)?);
            }
        }
        Self::new(graph, state, masks)
    }

    /// The mask of a layer, `true` for each weight that stays, in the order of PyTorch's layout.
    ///
    /// # Errors
    ///
    /// When there is no such layer.
    pub fn layer(&self, name: &str) -> Result<&[bool]> {
        let mask = self.layers.get(name).map(Vec::as_slice);
        mask.ok_or_else(|| Error::data(format!("layer `{name}`"), "a known layer", "none"))
    }

    /// The part of all weights that goes.
    pub fn sparsity(&self) -> f64 {
        let weights = self.layers.values().map(Vec::len).sum::<usize>();
        let kept = self.layers.values().flatten().filter(|stays| **stays).count();
        1.0 - kept as f64 / weights as f64
    }

    /// A state with the weights that go set to zero.
    ///
    /// # Errors
    ///
    /// When it is of another network.
    pub fn apply(&self, mut state: State) -> Result<State> {
        for (layer, mask) in &self.layers {
            let name = format!("{layer}.weight");
            let data = state.tensor(&name)?;
            if data.num_elements() != mask.len() {
                return Err(Error::data(format!("parameter `{name}`"), mask.len(), data.num_elements()));
            }
            let values = data.iter::<f32>().zip(mask).map(|(value, &stays)| if stays { value } else { 0.0 });
            let masked = TensorData::new(values.collect::<Vec<f32>>(), data.shape.clone());
            state.set(name, masked);
        }
        Ok(state)
    }
}

/// Sets weights to zero after each step of a training: the hook of [`WeightMasks::hook`].
#[cfg(feature = "train")]
pub struct MaskHook<B: Backend> {
    /// By parameter, 1 for each weight that stays, in the parameter's own layout.
    masks: HashMap<ParamId, TensorPrimitive<B>>,
}

#[cfg(feature = "train")]
impl WeightMasks {
    /// The masks for a training of a network, whose optimiser would move the weights that are gone: gradients are not
    /// masked, as in the published code, so its momentum keeps them.
    ///
    /// # Errors
    ///
    /// When the masks are of another network.
    pub fn hook<A: Architecture, B: AutodiffBackend>(
        &self,
        config: &A,
        network: &A::Network<B>,
    ) -> Result<MaskHook<B::InnerBackend>> {
        struct Make<'a, I: Backend> {
            by_id: HashMap<ParamId, &'a [bool]>,
            masks: HashMap<ParamId, TensorPrimitive<I>>,
            found: Result<()>,
        }
        impl<B: AutodiffBackend> ModuleVisitor<B> for Make<'_, B::InnerBackend> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
                let Some(mask) = self.by_id.get(&param.id) else { return };
                let weight = param.val().inner();
                let dims = weight.dims();
                if mask.len() != dims.iter().product::<usize>() {
                    self.found = Err(Error::data("mask", format!("{dims:?} weights"), mask.len()));
                    return;
                }
                let ones: Vec<f32> = mask.iter().map(|stays| f32::from(u8::from(*stays))).collect();
                let mask = if D == 2 {
                    // Burn's linear weights have a column for each output, PyTorch's a row.
                    let data = TensorData::new(ones, [dims[1], dims[0]]);
                    let rows = Tensor::<B::InnerBackend, 2>::from_data(data, &weight.device());
                    rows.transpose().reshape(dims)
                } else {
                    Tensor::<B::InnerBackend, D>::from_data(TensorData::new(ones, dims), &weight.device())
                };
                self.masks.insert(param.id, mask.into_primitive());
            }
        }
        let mut by_id = HashMap::new();
        for (path, id) in parameter_paths::<B, _>(network) {
            let name = config.published_name(&path);
            if let Some(mask) = name.strip_suffix(".weight").and_then(|layer| self.layers.get(layer)) {
                by_id.insert(id, mask.as_slice());
            }
        }
        if by_id.len() != self.layers.len() {
            return Err(Error::data("network", format!("{} masked layers", self.layers.len()), by_id.len()));
        }
        let mut make = Make { by_id, masks: HashMap::new(), found: Ok(()) };
        network.visit(&mut make);
        make.found?;
        Ok(MaskHook { masks: make.masks })
    }
}

#[cfg(feature = "train")]
impl<B: Backend> MaskHook<B> {
    /// The mask of a parameter: 1 for each weight that stays.
    pub(crate) fn mask<const D: usize>(&self, id: ParamId) -> Option<Tensor<B, D>> {
        self.masks.get(&id).map(|mask| Tensor::from_primitive(mask.clone()))
    }

    /// The network with the weights that are gone set to zero.
    fn masked<T: AutodiffBackend<InnerBackend = B>, N: AutodiffModule<T>>(&self, network: N) -> N {
        struct Apply<'a, I: Backend>(&'a MaskHook<I>);
        impl<T: AutodiffBackend> ModuleMapper<T> for Apply<'_, T::InnerBackend> {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<T, D>>) -> Param<Tensor<T, D>> {
                let Some(mask) = self.0.mask(param.id) else { return param };
                let (id, tensor, mapper) = param.consume();
                let requires_gradient = tensor.is_require_grad();
                let mut tensor = Tensor::from_inner(tensor.inner() * mask);
                if requires_gradient {
                    tensor = tensor.require_grad();
                }
                Param::from_mapped_value(id, tensor, mapper)
            }
        }
        network.map(&mut Apply(self))
    }
}

#[cfg(feature = "train")]
impl<B, N> Hook<B, Supervised<B, N>> for MaskHook<B::InnerBackend>
where
    B: AutodiffBackend,
    N: Classifier<B> + AutodiffModule<B>,
    N::InnerModule: Classifier<B::InnerBackend>,
{
    fn stepped(&mut self, _step: usize, mut model: Supervised<B, N>) -> Result<Supervised<B, N>> {
        model.network = self.masked::<B, N>(model.network);
        Ok(model)
    }
}

/// A mask whose rows are one base row, each moved by one place: block-circulant weights.
///
/// - shape: rows and columns
/// - base: which weights of a period stay; repeated along the columns
///
/// # Errors
///
/// When the base is empty.
pub fn circulant([rows, columns]: [usize; 2], base: &[bool]) -> Result<Vec<bool>> {
    if base.is_empty() {
        return Err(Error::setting("base", "at least one weight", "none"));
    }
    let row: Vec<bool> = (0..columns).map(|column| base[column % base.len()]).collect();
    let cell = |index: usize| {
        let (row_index, column) = (index / columns, index % columns);
        row[(column + columns - row_index % columns) % columns]
    };
    Ok((0..rows * columns).map(cell).collect())
}

/// Of each `block` weights in a row, the `removed` smallest go (N:M sparsity; 2 of 4 is what GPUs speed up).
///
/// # Errors
///
/// When as many or more go than there are, or the weights are no whole number of blocks.
pub fn blockwise(weights: &[f32], removed: usize, block: usize) -> Result<Vec<bool>> {
    if removed >= block || !weights.len().is_multiple_of(block) {
        let expected = format!("fewer than a block's, and {} weights in whole blocks", weights.len());
        return Err(Error::setting("block", expected, format!("{removed} of {block}")));
    }
    let mut mask = vec![true; weights.len()];
    for (weights, mask) in weights.chunks(block).zip(mask.chunks_mut(block)) {
        let mut order: Vec<usize> = (0..block).collect();
        order.sort_by(|&a, &b| weights[a].abs().total_cmp(&weights[b].abs()));
        order[..removed].iter().for_each(|&weight| mask[weight] = false);
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;
    use leanburn_core::random::Generator;
    use leanburn_vision::{Architecture, sequential::SequentialConfig};

    #[test]
    fn small_weights_go() {
        let config = SequentialConfig::lenet5(1, 10);
        let network = config.init::<Flex>(&mut Generator::new(2), &Default::default()).unwrap();
        let graph = config.graph([32, 32]).unwrap();
        let state = State::of::<_, Flex>(&config, &network).unwrap();
        for scope in [Scope::Local, Scope::Global] {
            let selection = WeightSelection { scope, skip: vec!["fc2".to_owned()], ..Default::default() };
            let masks = selection.select(&graph, &state, &Ratios::Uniform(0.9)).unwrap();
            assert!((masks.sparsity() - 0.9 * (1.0 - 840.0 / 61_470.0)).abs() < 1e-3, "{}", masks.sparsity());
            assert!(masks.layer("fc2").unwrap().iter().all(|stays| *stays));
            let applied = masks.apply(state.clone()).unwrap();
            let (before, _) = state.weight(graph.layer("conv3").unwrap()).unwrap();
            let (after, _) = applied.weight(graph.layer("conv3").unwrap()).unwrap();
            let stays = masks.layer("conv3").unwrap();
            let kept = before.iter().zip(stays).filter(|(_, stays)| **stays).map(|(w, _)| w.abs());
            let gone = before.iter().zip(stays).filter(|(_, stays)| !**stays).map(|(w, _)| w.abs());
            assert!(kept.fold(f32::MAX, f32::min) >= gone.fold(0.0, f32::max));
            assert!(after.iter().zip(stays).all(|(weight, stays)| *stays || *weight == 0.0));
        }
    }

    #[test]
    fn patterns_of_masks() {
        let mask = circulant([3, 6], &[true, false, false]).unwrap();
        let rows: Vec<Vec<bool>> = mask.chunks(6).map(<[bool]>::to_vec).collect();
        assert_eq!(rows[0], [true, false, false, true, false, false]);
        assert_eq!(rows[1], [false, true, false, false, true, false]);
        assert!(circulant([3, 6], &[]).is_err());
        let mask = blockwise(&[4.0, -1.0, 2.0, 3.0, 0.0, 0.0, 0.5, -0.5], 2, 4).unwrap();
        assert_eq!(mask, [true, false, false, true, false, false, true, true]);
        assert!(blockwise(&[1.0; 6], 2, 4).is_err());
        assert!(blockwise(&[1.0; 8], 4, 4).is_err());
    }
}
