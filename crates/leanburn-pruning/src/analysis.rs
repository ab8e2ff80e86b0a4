//! What pruning takes: statistics of weights and gradients, how much larger the weights are that stay, and how far two
//! selections agree.

use std::collections::BTreeMap;

use leanburn_core::{
    Error, Result,
    architecture::{Graph, Layer},
    metrics::mean_std,
};
use serde::{Deserialize, Serialize};

use crate::{Kept, State, unstructured::WeightMasks};

/// The weights of a convolution or a linear layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerStatistics {
    /// Its name.
    pub layer: String,
    /// How many there are.
    pub weights: usize,
    /// Their mean.
    pub mean: f64,
    /// Their population deviation.
    pub std: f64,
    /// The mean of their absolute values.
    pub mean_absolute: f64,
    /// The part of them that is zero.
    pub zeros: f64,
    /// The mean of their gradients' absolute values, where gradients are given.
    pub mean_absolute_gradient: Option<f64>,
}

/// Statistics of all convolutions and linear layers, in the order in which they run.
///
/// - gradients: accumulated, under the names of their parameters
///
/// # Errors
///
/// When the state or the gradients are of another network.
pub fn by_layer(graph: &Graph, state: &State, gradients: Option<&State>) -> Result<Vec<LayerStatistics>> {
    let layers = graph.learnable().map(|layer| {
        let (weights, _) = state.weight(layer)?;
        let values: Vec<f64> = weights.iter().map(|&weight| f64::from(weight)).collect();
        let (mean, std) = mean_std(&values);
        let gradient =
            gradients.map(|gradients| Ok(mean_absolute(&gradients.weight(layer)?.0))).transpose()?;
        Ok(LayerStatistics {
            layer: layer.name().to_owned(),
            weights: values.len(),
            mean,
            std,
            mean_absolute: mean_absolute(&weights),
            zeros: values.iter().filter(|value| **value == 0.0).count() as f64 / values.len() as f64,
            mean_absolute_gradient: gradient,
        })
    });
    layers.collect()
}

/// How much goes, and how much larger what stays is.
pub trait Removal {
    /// By layer, for each weight whether it goes with its filter, or by itself. Layers that lose nothing are left out.
    ///
    /// # Errors
    ///
    /// When the layers are of another network.
    fn goes(&self, graph: &Graph, state: &State) -> Result<BTreeMap<String, Vec<bool>>>;

    /// By layer, the mean absolute weight of what stays over that of what goes. Layers that lose nothing are left out, and
    /// those that lose nothing but zeros, as after TPP: their ratio is no number.
    ///
    /// # Errors
    ///
    /// When the layers are of another network.
    fn magnitude_ratios(&self, graph: &Graph, state: &State) -> Result<BTreeMap<String, f64>> {
        let mut ratios = BTreeMap::new();
        for (name, goes) in self.goes(graph, state)? {
            let (weights, _) = state.weight(graph.layer(&name)?)?;
            let part = |wanted: bool| -> Vec<f32> {
                let weights = weights.iter().zip(&goes);
                weights.filter(|(_, goes)| **goes == wanted).map(|(weight, _)| *weight).collect()
            };
            let ratio = mean_absolute(&part(false)) / mean_absolute(&part(true));
            if ratio.is_finite() {
                ratios.insert(name, ratio);
            }
        }
        Ok(ratios)
    }

    /// The part of the weights that go here that go in another selection as well: 1 where both take the same. `None` where
    /// nothing goes.
    ///
    /// # Errors
    ///
    /// When the layers are of another network.
    fn overlap(&self, other: &impl Removal, graph: &Graph, state: &State) -> Result<Option<f64>> {
        let others = other.goes(graph, state)?;
        let (mut all, mut common) = (0_usize, 0_usize);
        for (name, goes) in self.goes(graph, state)? {
            all += goes.iter().filter(|goes| **goes).count();
            if let Some(others) = others.get(&name) {
                common += goes.iter().zip(others).filter(|(a, b)| **a && **b).count();
            }
        }
        Ok((all > 0).then(|| common as f64 / all as f64))
    }
}

impl Removal for Kept {
    fn goes(&self, graph: &Graph, state: &State) -> Result<BTreeMap<String, Vec<bool>>> {
        let mut layers = BTreeMap::new();
        for layer in graph.learnable() {
            let (weights, columns) = state.weight(layer)?;
            let outputs = self.outputs(layer.name())?;
            if outputs.len() < layer.outputs().len() {
                let gone = |index: usize| outputs.binary_search(&(index / columns)).is_err();
                layers.insert(layer.name().to_owned(), (0..weights.len()).map(gone).collect());
            }
        }
        Ok(layers)
    }
}

impl Removal for WeightMasks {
    fn goes(&self, graph: &Graph, state: &State) -> Result<BTreeMap<String, Vec<bool>>> {
        let of_layer = |layer: &Layer| {
            let (mask, count) = (self.layer(layer.name())?, state.weight(layer)?.0.len());
            if mask.len() != count {
                let location = format!("mask of layer `{}`", layer.name());
                return Err(Error::data(location, format!("{count} weights"), mask.len()));
            }
            Ok((layer.name().to_owned(), mask.iter().map(|stays| !stays).collect::<Vec<bool>>()))
        };
        let layers = graph.learnable().map(of_layer).collect::<Result<Vec<_>>>()?;
        Ok(layers.into_iter().filter(|(_, goes)| goes.contains(&true)).collect())
    }
}

fn mean_absolute(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(value.abs())).sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ratios, Selection, selection::Pick, unstructured::WeightSelection};
    use burn_flex::Flex;
    use leanburn_core::random::Generator;
    use leanburn_vision::{Architecture, sequential::SequentialConfig};

    #[test]
    fn selections_are_measured() {
        let config = SequentialConfig::lenet5(1, 10);
        let graph = config.graph([32, 32]).unwrap();
        let network = config.init::<Flex>(&mut Generator::new(3), &Default::default()).unwrap();
        let state = State::of::<_, Flex>(&config, &network).unwrap();
        let ratios = Ratios::patterns([("conv[12]", 0.5)]);
        let select = |pick| Selection::new().with_pick(pick).select(&graph, &state, None, &ratios).unwrap();
        let (smallest, largest) = (select(Pick::Min), select(Pick::Max));
        let small = smallest.magnitude_ratios(&graph, &state).unwrap();
        let large = largest.magnitude_ratios(&graph, &state).unwrap();
        assert_eq!(small.keys().collect::<Vec<_>>(), ["conv1", "conv2"]);
        for (name, ratio) in &small {
            // At one half, one selection is the other's complement.
            assert!(*ratio > 1.0 && (ratio * large[name] - 1.0).abs() < 1e-9, "{name}: {ratio}");
        }
        assert_eq!(smallest.overlap(&smallest, &graph, &state).unwrap(), Some(1.0));
        assert_eq!(smallest.overlap(&largest, &graph, &state).unwrap(), Some(0.0));
        let none = Kept::without(&graph, &BTreeMap::new()).unwrap();
        assert_eq!(none.overlap(&smallest, &graph, &state).unwrap(), None);

        let masks = WeightSelection::default().select(&graph, &state, &Ratios::Uniform(0.75)).unwrap();
        assert!(masks.magnitude_ratios(&graph, &state).unwrap().values().all(|ratio| *ratio > 1.5));
        let overlap = masks.overlap(&smallest, &graph, &state).unwrap().unwrap();
        assert!(overlap > 0.0 && overlap < 0.2, "{overlap}");
        let masked = masks.apply(state.clone()).unwrap();
        assert!(masks.magnitude_ratios(&graph, &masked).unwrap().is_empty());
        let statistics = by_layer(&graph, &masked, Some(&state)).unwrap();
        assert_eq!((statistics[0].layer.as_str(), statistics[0].weights), ("conv1", 150));
        for layer in statistics {
            assert!((layer.zeros - 0.75).abs() < 0.01, "{layer:?}");
            let whole = layer.mean_absolute_gradient.unwrap();
            assert!(layer.mean_absolute < whole && layer.mean.abs() < layer.std, "{layer:?}");
        }
    }
}
