use std::{fmt, path::Path};

use burn::{
    module::{Module, ModuleDisplay},
    tensor::{Tensor, backend::Backend},
};
use leanburn_core::{
    Result,
    architecture::Graph,
    checkpoint::{self, Checkpoint},
    random::Generator,
};
use serde::{Serialize, de::DeserializeOwned};

/// A network that classifies images.
pub trait Classifier<B: Backend>: Module<B> + ModuleDisplay {
    /// - images: `[batch, channels, height, width]`
    /// - output: logits `[batch, classes]`
    fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 2>;

    /// The network with its batch norms, and their running statistics, folded into the layers before them: the same
    /// function in fewer passes. It is for inference: it has no batch norm left to train, and is not saved.
    #[must_use]
    fn fuse(self) -> Self;

    /// The network with its batch norms [frozen](leanburn_core::nn::BatchNorm::frozen) or not.
    #[must_use]
    fn with_frozen_norms(self, frozen: bool) -> Self;
}

/// The configuration of a [`Classifier`]: it makes networks, describes their layers, and names their parameters.
pub trait Architecture: Clone + fmt::Debug + Send + Sync + Serialize + DeserializeOwned {
    /// The network.
    type Network<B: Backend>: Classifier<B>;

    /// A network with weights drawn from `generator`.
    ///
    /// # Errors
    ///
    /// When the layers do not fit together.
    fn init<B: Backend>(&self, generator: &mut Generator, device: &B::Device) -> Result<Self::Network<B>>;

    /// The network's layers for inputs of a height and a width.
    ///
    /// # Errors
    ///
    /// When the layers do not fit together, or not the size.
    fn graph(&self, size: [usize; 2]) -> Result<Graph>;

    /// The published name of the parameter at `path` of the network.
    fn published_name(&self, path: &str) -> String;

    /// The network with a checkpoint's weights.
    ///
    /// # Errors
    ///
    /// When they do not fit.
    fn load<B: Backend>(&self, checkpoint: &Checkpoint, device: &B::Device) -> Result<Self::Network<B>> {
        let network = self.init(&mut Generator::new(0), device)?;
        checkpoint.load_into(network, |path| self.published_name(path))
    }

    /// Writes the network's weights as safetensors under their published names.
    ///
    /// # Errors
    ///
    /// When the file exists or cannot be written.
    fn save<B: Backend>(&self, network: &Self::Network<B>, path: impl AsRef<Path>) -> Result<()> {
        checkpoint::save(network, path, |path| self.published_name(path))
    }
}
