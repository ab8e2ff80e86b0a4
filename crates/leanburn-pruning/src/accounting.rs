//! What each layer costs, before and after.

use std::fmt::Write;

use leanburn_core::{Error, Result, architecture::Graph};
use serde::Serialize;

/// A convolution or a linear layer before and after pruning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerCost {
    /// Its name.
    pub layer: String,
    /// Output channels, before.
    pub width: usize,
    /// Output channels, after.
    pub width_pruned: usize,
    /// Weights and biases, before.
    pub params: usize,
    /// Weights and biases, after.
    pub params_pruned: usize,
    /// Multiply-accumulate operations of an input, before.
    pub macs: usize,
    /// Multiply-accumulate operations of an input, after.
    pub macs_pruned: usize,
}

/// The layers of a network and of what was left of it, in the order in which they run.
///
/// # Errors
///
/// When they have other layers.
pub fn by_layer(dense: &Graph, pruned: &Graph) -> Result<Vec<LayerCost>> {
    if dense.learnable().count() != pruned.learnable().count() {
        let expected = format!("the {} layers of the dense network", dense.learnable().count());
        return Err(Error::data("pruned network", expected, pruned.learnable().count()));
    }
    let layers = dense.learnable().map(|before| {
        let after = pruned.layer(before.name())?;
        Ok(LayerCost {
            layer: before.name().to_owned(),
            width: before.outputs().len(),
            width_pruned: after.outputs().len(),
            params: before.cost().params,
            params_pruned: after.cost().params,
            macs: before.cost().macs,
            macs_pruned: after.cost().macs,
        })
    });
    layers.collect()
}

/// The layers as a table for a terminal, with their sum. MACs are multiply-accumulate operations of one input.
pub fn text(layers: &[LayerCost]) -> String {
    let width = layers.iter().map(|layer| layer.layer.len()).max().unwrap_or(0).max(5);
    let mut text = String::new();
    let mut line = |name: &str, cells: [&str; 6]| {
        let _ = write!(text, "{name:<width$}");
        for (place, cell) in cells.iter().enumerate() {
            let size = if place < 2 { 7 } else { 13 };
            let _ = write!(text, " {cell:>size$}");
        }
        text.push('\n');
    };
    line("layer", ["width", "pruned", "params", "pruned", "MACs", "pruned"]);
    let mut sum = [0; 4];
    for layer in layers {
        let LayerCost { layer: name, width, width_pruned, params, params_pruned, macs, macs_pruned } = layer;
        let costs = [*params, *params_pruned, *macs, *macs_pruned];
        sum.iter_mut().zip(costs).for_each(|(sum, cost)| *sum += cost);
        let cells =
            [*width, *width_pruned, costs[0], costs[1], costs[2], costs[3]].map(|cell| cell.to_string());
        line(name, cells.each_ref().map(String::as_str));
    }
    let sum = sum.map(|cost| cost.to_string());
    line("sum", ["", "", &sum[0], &sum[1], &sum[2], &sum[3]]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use leanburn_vision::{Architecture, sequential::SequentialConfig};

    #[test]
    fn costs_are_told_layer_by_layer() {
        let [dense, pruned] = [[12, 10, 3], [6, 5, 3]]
            .map(|widths| SequentialConfig::mlp([1, 4, 4], &widths, true).graph([4, 4]).unwrap());
        let layers = by_layer(&dense, &pruned).unwrap();
        let first = &layers[0];
        assert_eq!((first.width, first.width_pruned, first.params, first.params_pruned), (12, 6, 204, 102));
        assert_eq!(layers.iter().map(|layer| layer.macs_pruned).sum::<usize>(), pruned.cost().macs);
        let text = text(&layers);
        assert_eq!(text.lines().count(), 5);
        assert!(text.lines().last().unwrap().ends_with(&pruned.cost().macs.to_string()), "{text}");
        let other = SequentialConfig::mlp([1, 4, 4], &[12, 3], true).graph([4, 4]).unwrap();
        assert!(by_layer(&dense, &other).is_err());
    }
}
