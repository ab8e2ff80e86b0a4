//! What video networks have in common.

use std::{collections::BTreeMap, fmt, path::Path};

use burn::{
    module::{Module, ModuleDisplay},
    tensor::{Tensor, TensorData, backend::Backend},
};
use leanburn_core::{
    Error, Result,
    architecture::Cost,
    checkpoint::{self, Checkpoint},
    random::Generator,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::branches::{Branches, is_alteration};

/// A network that classifies clips: what all of this crate's networks are, and what methods wrap.
pub trait ClipClassifier<B: Backend>: Module<B> + ModuleDisplay {
    /// Classifies clips of any number of frames. A network of several branches takes the one that is
    /// [nearest](Branches::nearest).
    ///
    /// - clips: `[batch, frames, channels, height, width]`
    /// - output: logits `[batch, classes]`
    fn forward(&self, clips: Tensor<B, 5>) -> Tensor<B, 2>;

    /// [`forward`](Self::forward) with dropout, and where the network has it with dropped paths.
    ///
    /// - generator: what is dropped is drawn from it
    fn forward_train(&self, clips: Tensor<B, 5>, generator: &mut Generator) -> Tensor<B, 2>;

    /// The network with all of its batch norms [frozen](leanburn_core::nn::BatchNorm::frozen) or not.
    #[must_use]
    fn with_frozen_norms(self, frozen: bool) -> Self;

    /// The network with all batch norms frozen but the first (TSN's partial batch norm).
    #[must_use]
    fn with_partial_norms(self) -> Self;

    /// The branch that serves a number of frames, alone: the network of
    /// [`VideoArchitecture::branch`]. What the branch does to the input of a convolution is folded into it.
    #[must_use]
    fn into_branch(self, frames: usize) -> Self;

    /// A network of one branch with its batch norms, and their running statistics, folded into the layers before them.
    /// It is for inference: it is not trained and not saved. A network of several branches stays as it is.
    #[must_use]
    fn fuse(self) -> Self;
}

/// Weights that were imported, and what was made of the names.
#[derive(Debug)]
pub struct Imported<N> {
    /// The network.
    pub network: N,
    /// Published names of parameters that the file does not have: they keep their initial values.
    pub kept: Vec<String>,
    /// Names in the file that the network has no use for.
    pub unused: Vec<String>,
}

/// The configuration of a [`ClipClassifier`]: it makes networks, tells what they cost, and names their parameters.
pub trait VideoArchitecture: Clone + fmt::Debug + Send + Sync + Serialize + DeserializeOwned {
    /// The network.
    type Network<B: Backend>: ClipClassifier<B> + 'static;

    /// A network with weights drawn from `generator`.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range.
    fn init<B: Backend>(&self, generator: &mut Generator, device: &B::Device) -> Result<Self::Network<B>>;

    /// The network's branches.
    fn branches(&self) -> &Branches;

    /// The same network with other branches.
    #[must_use]
    fn with_branches(self, branches: Branches) -> Self;

    /// The configuration of the branch that serves a number of frames, alone.
    #[must_use]
    fn branch(&self, frames: usize) -> Self;

    /// The number of classes.
    fn num_classes(&self) -> usize;

    /// The network's parameters, and the operations of one clip.
    ///
    /// - frames: of the clip
    /// - size: height and width of its frames
    fn cost(&self, frames: usize, size: [usize; 2]) -> Cost;

    /// The published name of the parameter at `path` of the network.
    fn published_name(&self, path: &str) -> String;

    /// The name that an ordinary network's weights have for a published name of this one, which has no branch. Names of
    /// files pass through it as well.
    fn plain_name(&self, published: &str) -> String {
        published.to_owned()
    }

    /// Whether a parameter of this published name belongs to the classifier.
    fn is_classifier(&self, published: &str) -> bool;

    /// Whether a parameter of this published name may be absent from weights that are imported.
    fn is_new(&self, published: &str) -> bool {
        is_alteration(published) || self.is_classifier(published)
    }

    /// The network with a checkpoint's weights, published or saved by this crate.
    ///
    /// # Errors
    ///
    /// When they do not fit. Weights of other frame counts' branches are told from those that are missing.
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

    /// The network with an ordinary network's weights: of an image network (ImageNet's), or of a video network with one
    /// branch. Every branch gets the same norms. A first convolution for other channels gets the mean over the file's,
    /// weights without a time are spread over it, and a classifier of other classes is left out.
    ///
    /// - generator: what the file does not have is drawn from it
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] when weights are missing or of another shape.
    fn import<B: Backend>(
        &self,
        checkpoint: Checkpoint,
        generator: &mut Generator,
        device: &B::Device,
    ) -> Result<Imported<Self::Network<B>>> {
        let network = self.init::<B>(generator, device)?;
        let checkpoint = checkpoint.state_dict();
        let sources: BTreeMap<String, &str> =
            checkpoint.names().map(|name| (self.plain_name(name), name)).collect();
        let mut used = std::collections::BTreeSet::new();
        let (mut kept, mut tensors) = (Vec::new(), Vec::new());
        for (published, value) in checkpoint::tensors(&network, |path| self.published_name(path))? {
            let (plain, _) = self.branches().split(&published);
            let plain = self.plain_name(&plain);
            let source = sources.get(&plain).copied();
            let fitted = source
                .map(|name| Ok::<_, Error>(fitted(checkpoint.read(name)?, &value.shape)))
                .transpose()?
                .flatten();
            used.extend(source);
            match (fitted, source) {
                (Some(fitted), _) => tensors.push((published, fitted)),
                (None, Some(source)) if !self.is_classifier(&published) => {
                    // Left with the file's shape: loading names it and the one that is expected.
                    tensors.push((published, checkpoint.read(source)?));
                }
                (None, _) if self.is_new(&published) => {
                    kept.push(published.clone());
                    tensors.push((published, value));
                }
                // Missing: loading names it.
                (None, _) => {}
            }
        }
        let unused = sources.into_values().filter(|name| !used.contains(name)).map(str::to_owned).collect();
        let weights = Checkpoint::from_tensors(checkpoint.path(), tensors);
        let network = weights.load_into(network, |path| self.published_name(path))?;
        Ok(Imported { network, kept, unused })
    }
}

/// A file's tensor in a parameter's shape, if it can be had.
fn fitted(source: TensorData, shape: &[usize]) -> Option<TensorData> {
    if source.shape[..] == *shape {
        return Some(source);
    }
    let from = source.shape.clone();
    // An image network's kernel, spread over time.
    if let (&[output, input, height, width], &[.., time, _, _]) = (&from[..], shape)
        && shape.len() == 5
        && *shape == [output, input, time, height, width]
    {
        let values: Vec<f32> = source.iter::<f32>().collect();
        let spread = values.chunks(height * width).flat_map(|kernel| {
            std::iter::repeat_n(kernel, time).flatten().map(|value| value / time as f32).collect::<Vec<_>>()
        });
        return Some(TensorData::new(spread.collect::<Vec<f32>>(), shape.to_vec()));
    }
    // A first convolution for other inputs: the mean over the channels, as often as needed.
    if from.len() == 4 && shape.len() == 4 && from[0] == shape[0] && from[2..] == shape[2..] && from[1] == 3 {
        let (input, area) = (from[1], from[2] * from[3]);
        let values: Vec<f32> = source.iter::<f32>().collect();
        let means = values.chunks(input * area).flat_map(|kernel| {
            let mean: Vec<f32> = (0..area)
                .map(|place| {
                    (0..input).map(|channel| kernel[channel * area + place]).sum::<f32>() / input as f32
                })
                .collect();
            mean.repeat(shape[1])
        });
        return Some(TensorData::new(means.collect::<Vec<f32>>(), shape.to_vec()));
    }
    None
}

/// Clips as frames.
///
/// - clips: `[batch, frames, channels, height, width]`
/// - output: `[batch * frames, channels, height, width]`
pub(crate) fn frames_of<B: Backend>(clips: Tensor<B, 5>) -> Tensor<B, 4> {
    let [batch, frames, channels, height, width] = clips.dims();
    clips.reshape([batch * frames, channels, height, width])
}

/// The mean over a clip's frames.
///
/// - x: `[batch * frames, values]`
/// - output: `[batch, values]`
pub(crate) fn mean_over_frames<B: Backend>(x: Tensor<B, 2>, frames: usize) -> Tensor<B, 2> {
    let [count, values] = x.dims();
    x.reshape([count / frames, frames, values]).mean_dim(1).reshape([count / frames, values])
}
