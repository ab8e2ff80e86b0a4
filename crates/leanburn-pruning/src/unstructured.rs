//! Masks of single weights. A masked network is as large as before; what counts is its sparsity.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use leanburn_core::{
    Error, Result,
    architecture::{Graph, Layer},
};

use crate::{
    Ratios, State,
    selection::{Scope, removals},
};

/// Which weights of each layer stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightMasks {
    /// By layer: `true` for each weight that stays.
    layers: BTreeMap<String, Vec<bool>>,
}

/// How single weights are selected: those of the smallest absolute values go.
#[derive(Debug, Clone, PartialEq)]
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
            Ok(weights.into_iter().map(f32::abs).collect::<Vec<f32>>())
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
