//! Training of image classifiers with [`leanburn_core::train`].

use std::{marker::PhantomData, sync::Arc};

use burn::{
    module::{AutodiffModule, Module},
    tensor::{
        Int, Tensor, TensorData,
        backend::{AutodiffBackend, Backend, DeviceOps},
    },
    train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep},
};
use leanburn_core::{
    Error, Result,
    loss::cross_entropy_smoothed,
    random::Generator,
    train::{Dataset, Loader},
};

use crate::{
    Classifier,
    data::Images,
    transform::{Preprocessing, Sample, stack},
};

/// A batch of images.
#[derive(Debug, Clone)]
pub struct ImageBatch<B: Backend> {
    /// `[batch, channels, height, width]`
    pub images: Tensor<B, 4>,
    /// `[batch]`
    pub labels: Tensor<B, 1, Int>,
}

impl<B: Backend> ImageBatch<B> {
    /// The batch on a device.
    pub fn to_device(self, device: &B::Device) -> Self {
        // `Dispatch` moves numbers to no device that records gradients.
        Self { images: self.images.to_device(device), labels: self.labels.to_device(device.inner()) }
    }
}

/// Images as a training sees them: decoded, changed at random, and normalised, by the loader's workers.
#[derive(Debug, Clone)]
pub struct Preprocessed {
    images: Arc<Images>,
    preprocessing: Preprocessing,
}

impl Preprocessed {
    /// # Errors
    ///
    /// When a setting of the preprocessing is out of its range.
    pub fn new(images: Arc<Images>, preprocessing: Preprocessing) -> Result<Self> {
        preprocessing.check()?;
        Ok(Self { images, preprocessing })
    }
}

impl Dataset for Preprocessed {
    type Item = (Sample, usize);

    fn len(&self) -> usize {
        self.images.len()
    }

    fn get(&self, index: usize, generator: &mut Generator) -> Result<(Sample, usize)> {
        let sample = self.preprocessing.apply(&self.images.image(index)?, generator)?;
        Ok((sample, self.images.labels()[index]))
    }
}

/// Inputs with their classes, as the network sees them.
#[derive(Debug, Clone)]
pub struct Samples(Vec<(Sample, usize)>);

impl Samples {
    /// - labels: one for each sample
    ///
    /// # Errors
    ///
    /// When there are not as many.
    pub fn new(samples: Vec<Sample>, labels: Vec<usize>) -> Result<Self> {
        if samples.len() != labels.len() {
            let found = format!("{} labels", labels.len());
            return Err(Error::data("samples", format!("{} labels", samples.len()), found));
        }
        Ok(Self(samples.into_iter().zip(labels).collect()))
    }
}

impl Dataset for Samples {
    type Item = (Sample, usize);

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, index: usize, _generator: &mut Generator) -> Result<(Sample, usize)> {
        Ok(self.0[index].clone())
    }
}

/// A loader of batches on a device.
///
/// # Errors
///
/// When there is no sample, or the batch size is 0.
pub fn image_loader<B: Backend, D: Dataset<Item = (Sample, usize)>>(
    dataset: D,
    batch_size: usize,
    device: &B::Device,
) -> Result<Loader<D, ImageBatch<B>>> {
    let device = device.clone();
    Loader::new(dataset, batch_size, move |samples: Vec<(Sample, usize)>| {
        let (samples, labels): (Vec<Sample>, Vec<i64>) =
            samples.into_iter().map(|(sample, label)| (sample, label as i64)).unzip();
        let count = labels.len();
        Ok(ImageBatch {
            images: stack(&samples, &device)?,
            labels: Tensor::from_data(TensorData::new(labels, [count]), &device),
        })
    })
}

/// A classifier with its objective: cross-entropy.
#[derive(Module, Debug)]
pub struct Supervised<B: Backend, N: Module<B>> {
    /// The classifier.
    pub network: N,
    /// How much of the target is spread over all classes; 0 for none.
    pub label_smoothing: f64,
    backend: PhantomData<B>,
}

impl<B: Backend, N: Classifier<B>> Supervised<B, N> {
    /// Without label smoothing.
    pub fn new(network: N) -> Self {
        Self { network, label_smoothing: 0.0, backend: PhantomData }
    }

    fn classify(&self, batch: ImageBatch<B>) -> ClassificationOutput<B> {
        let logits = self.network.forward(batch.images);
        let loss = cross_entropy_smoothed(logits.clone(), batch.labels.clone(), self.label_smoothing);
        ClassificationOutput::new(loss, logits, batch.labels)
    }
}

impl<B: AutodiffBackend, N: Classifier<B> + AutodiffModule<B>> TrainStep for Supervised<B, N>
where
    N::InnerModule: Classifier<B::InnerBackend>,
{
    type Input = ImageBatch<B>;
    type Output = ClassificationOutput<B>;

    fn step(&self, batch: ImageBatch<B>) -> TrainOutput<ClassificationOutput<B>> {
        // Of several devices, Burn's strategies move the network to each, and leave the batch where it is.
        let output = self.classify(batch.to_device(&self.devices()[0]));
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl<B: Backend, N: Classifier<B>> InferenceStep for Supervised<B, N> {
    type Input = ImageBatch<B>;
    type Output = ClassificationOutput<B>;

    fn step(&self, batch: ImageBatch<B>) -> ClassificationOutput<B> {
        self.classify(batch)
    }
}
