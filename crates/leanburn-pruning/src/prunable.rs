use leanburn_core::{Error, Result};
use leanburn_vision::{
    Architecture,
    resnet::{ResNetConfig, Shortcut},
    sequential::{LayerConfig, SequentialConfig},
};

use crate::Kept;

/// An architecture whose networks can lose channels.
///
/// Your own network takes part when its configuration implements [`Architecture`], whose
/// [`graph`](Architecture::graph) states the layers and how they are coupled, and this: the configuration with fewer
/// channels. All else follows from the two: which channels go together, whose rows and columns are cut, what the
/// smaller network costs.
///
/// ```
/// use leanburn_core::Result;
/// use leanburn_pruning::{Kept, Prunable};
/// # use burn::{module::Module, nn::Linear, tensor::{Tensor, backend::Backend}};
/// # use leanburn_core::{architecture::{Graph, GraphBuilder}, nn::linear, random::Generator};
/// # use leanburn_vision::{Architecture, Classifier};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Module, Debug)]
/// # struct Two<B: Backend> { first: Linear<B>, last: Linear<B> }
/// # impl<B: Backend> Classifier<B> for Two<B> {
/// #     fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 2> {
/// #         self.last.forward(self.first.forward(x.flatten(1, 3)))
/// #     }
/// #     fn fuse(self) -> Self { self }
/// #     fn with_frozen_norms(self, _: bool) -> Self { self }
/// # }
///
/// #[derive(Debug, Clone, Serialize, Deserialize)]
/// struct TwoConfig {
///     hidden: usize,
/// }
///
/// impl Architecture for TwoConfig {
///     type Network<B: Backend> = Two<B>; // with the fields `first` and `last`
///
///     fn init<B: Backend>(&self, generator: &mut Generator, device: &B::Device) -> Result<Two<B>> {
///         Ok(Two {
///             first: linear(64, self.hidden, generator, device),
///             last: linear(self.hidden, 10, generator, device),
///         })
///     }
///
///     fn graph(&self, size: [usize; 2]) -> Result<Graph> {
///         let mut graph = GraphBuilder::new();
///         let x = graph.input(1, size);
///         let x = graph.linear("first", &x.flatten(), self.hidden, true);
///         let x = graph.linear("last", &x, 10, true);
///         Ok(graph.finish(&x))
///     }
///
///     fn published_name(&self, path: &str) -> String {
///         path.to_owned()
///     }
/// }
///
/// impl Prunable for TwoConfig {
///     fn pruned(&self, kept: &Kept) -> Result<Self> {
///         Ok(Self { hidden: kept.width("first")? })
///     }
/// }
/// ```
pub trait Prunable: Architecture {
    /// The configuration with the channels that are kept alone.
    ///
    /// # Errors
    ///
    /// When `kept` is of another network.
    fn pruned(&self, kept: &Kept) -> Result<Self>;
}

impl Prunable for SequentialConfig {
    fn pruned(&self, kept: &Kept) -> Result<Self> {
        let mut config = self.clone();
        for layer in &mut config.layers {
            if let LayerConfig::Conv { name, width, .. } | LayerConfig::Linear { name, width } = layer {
                *width = kept.width(name)?;
            }
        }
        Ok(config)
    }
}

impl Prunable for ResNetConfig {
    fn pruned(&self, kept: &Kept) -> Result<Self> {
        let mut config = self.clone();
        config.stem_width = kept.width("conv1")?;
        let mut input = kept.outputs("conv1")?;
        for (index, stage) in config.stages.iter_mut().enumerate() {
            let conv = |block: usize, conv: usize| format!("layer{}.{block}.conv{conv}", index + 1);
            let inner = stage.blocks.first().map(Vec::len);
            let last = inner.ok_or_else(|| Error::setting("stages", "blocks in each", "none"))? + 1;
            let output = kept.outputs(&conv(0, last))?;
            stage.width = output.len();
            for (block, widths) in stage.blocks.iter_mut().enumerate() {
                for (conv_index, width) in widths.iter_mut().enumerate() {
                    *width = kept.width(&conv(block, conv_index + 1))?;
                }
            }
            if let Shortcut::Pad { sources } = &mut stage.shortcut {
                // Where the source of each output that is kept has gone, if it is kept as well.
                let source = |output: &usize| {
                    let source = sources.get(*output).copied().flatten()?;
                    input.binary_search(&source).ok()
                };
                *sources = output.iter().map(source).collect();
            }
            input = output;
        }
        Ok(config)
    }
}
