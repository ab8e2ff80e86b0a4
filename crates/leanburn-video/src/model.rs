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

    /// The network with all batch norms but the first as they are: their statistics, and their scales and offsets, which no
    /// optimiser sees (TSN's partial batch norm).
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
    ///
    /// - source: the weights
    fn is_new(&self, published: &str, source: &Checkpoint) -> bool {
        let _ = source;
        is_alteration(published) || self.is_classifier(published)
    }

    /// A name of a file as this crate's: without what a published program alone puts into it.
    fn file_name(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Whether a training can take batches of so many videos at the branches' frame counts.
    ///
    /// # Errors
    ///
    /// When it cannot.
    fn check_batch(&self, videos: usize) -> Result<()> {
        let _ = videos;
        Ok(())
    }

    /// The network with a checkpoint's weights, published or saved by this crate.
    ///
    /// # Errors
    ///
    /// When they do not fit, or this crate saved them for other frame counts.
    fn load<B: Backend>(&self, checkpoint: &Checkpoint, device: &B::Device) -> Result<Self::Network<B>> {
        check_counts(self.branches(), checkpoint)?;
        let network = self.init(&mut Generator::new(0), device)?;
        let checkpoint = checkpoint.clone().renamed(|name| self.file_name(name))?;
        checkpoint.load_into(network, |path| self.published_name(path))
    }

    /// Writes the network's weights as safetensors under their published names, with the branches beside them.
    ///
    /// # Errors
    ///
    /// When the file exists or cannot be written.
    fn save<B: Backend>(&self, network: &Self::Network<B>, path: impl AsRef<Path>) -> Result<()> {
        let branches = serde_json::to_string(self.branches()).expect("numbers and names are JSON");
        let metadata = [(BRANCHES.to_owned(), branches)];
        checkpoint::save_with(network, path, |path| self.published_name(path), metadata)
    }

    /// The network with the weights of an image network (`ImageNet`'s), of a video network with one branch, whose norms every
    /// branch gets, or of one with the same branches. A first convolution for other channels gets the mean over the file's,
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
        check_counts(self.branches(), &checkpoint)?;
        let checkpoint = checkpoint.state_dict();
        let sources: BTreeMap<String, &str> =
            checkpoint.names().map(|name| (self.plain_name(name), name)).collect();
        let mut used = std::collections::BTreeSet::new();
        let (mut kept, mut tensors) = (Vec::new(), Vec::new());
        for (published, value) in checkpoint::tensors(&network, |path| self.published_name(path))? {
            let (plain, _) = self.branches().split(&published);
            let plain = self.plain_name(&plain);
            let own = sources.get(&self.plain_name(&published));
            let source = own.or_else(|| sources.get(&plain)).copied();
            let fitted = source
                .map(|name| Ok::<_, Error>(fitted(checkpoint.read(name)?, &value)))
                .transpose()?
                .flatten();
            used.extend(source);
            match (fitted, source) {
                (Some(fitted), _) => tensors.push((published, fitted)),
                (None, Some(source)) if !self.is_classifier(&published) => {
                    // Left with the file's shape: loading names it and the one that is expected.
                    tensors.push((published, checkpoint.read(source)?));
                }
                (None, _) if self.is_new(&published, &checkpoint) => {
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

/// The key beside saved weights that tells their branches.
const BRANCHES: &str = "branches";

/// Names of published files tell three branches apart, but not for which frame counts they are; files of this crate do.
fn check_counts(branches: &Branches, checkpoint: &Checkpoint) -> Result<()> {
    let saved: Option<Branches> =
        checkpoint.metadata(BRANCHES).and_then(|text| serde_json::from_str(text).ok());
    match saved {
        Some(saved)
            if saved.counts.len() > 1 && branches.counts.len() > 1 && saved.counts != branches.counts =>
        {
            let expected = format!("{:?}, the network's", branches.counts);
            Err(Error::format(checkpoint.path(), "frame counts", expected, format!("{:?}", saved.counts)))
        }
        _ => Ok(()),
    }
}

/// A file's tensor in a parameter's shape, if it can be had.
///
/// - initial: the parameter's value
fn fitted(source: TensorData, initial: &TensorData) -> Option<TensorData> {
    let shape = &initial.shape[..];
    if source.shape[..] == *shape {
        return Some(source);
    }
    let from = source.shape.clone();
    // An image network's kernel, spread over time. Channels behind its own, that come over from another pathway, keep
    // their initial values.
    if let (&[output, input, height, width], &[to_output, to_input, time, to_height, to_width]) =
        (&from[..], shape)
        && [output, height, width] == [to_output, to_height, to_width]
        && input <= to_input
    {
        let area = height * width;
        let values: Vec<f32> = source.iter::<f32>().collect();
        let mut spread: Vec<f32> = initial.iter::<f32>().collect();
        for (number, kernel) in values.chunks(area).enumerate() {
            let start = (number / input * to_input + number % input) * time * area;
            for (value, to) in kernel.iter().cycle().zip(&mut spread[start..start + time * area]) {
                *to = value / time as f32;
            }
        }
        return Some(TensorData::new(spread, shape.to_vec()));
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
