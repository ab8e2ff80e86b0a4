//! Features of images: what a residual network trained on ImageNet sees in them, before its classifier.

use burn::tensor::backend::Backend;
use leanburn_core::{Error, Result, checkpoint::Checkpoint, random::Generator};
use leanburn_vision::{
    Architecture, Classifier,
    image::Image,
    resnet::{ResNet, ResNetConfig},
    transform::{Preprocessing, stack},
};
use rayon::prelude::*;

use crate::features::FeatureExtractor;

/// Features of images by a [`ResNet`], as SLA2P's published experiments have them: ResNet-50 or 101, exactly 224x224
/// pixels, the mean of each map of the last stage. Rows of unit length are the detector's preprocessing.
#[derive(Debug)]
pub struct ImageFeatures<B: Backend> {
    network: ResNet<B>,
    preprocessing: Preprocessing,
    device: B::Device,
}

impl<B: Backend> ImageFeatures<B> {
    /// The features of a network with a checkpoint's weights; torchvision's files are such.
    ///
    /// # Errors
    ///
    /// When the checkpoint is none of a `ResNet`.
    pub fn new(checkpoint: &Checkpoint, device: &B::Device) -> Result<Self> {
        let config = ResNetConfig::infer(checkpoint)?;
        let network = config.load::<B>(checkpoint, device)?.fuse();
        Ok(Self { network, preprocessing: Preprocessing::squeezed(224), device: device.clone() })
    }

    /// With another preprocessing. It must not draw at random: features are of the image alone.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range.
    pub fn with_preprocessing(mut self, preprocessing: Preprocessing) -> Result<Self> {
        preprocessing.check()?;
        self.preprocessing = preprocessing;
        Ok(self)
    }
}

impl<B: Backend> FeatureExtractor for ImageFeatures<B> {
    type Sample = Image;

    fn width(&self) -> usize {
        self.network.fc.weight.dims()[0]
    }

    fn batch_size(&self) -> usize {
        10
    }

    fn extract(&self, batch: &[Image]) -> Result<Vec<f32>> {
        let samples = batch.par_iter().map(|image| self.preprocessing.apply(image, &mut Generator::new(0)));
        let samples = samples.collect::<Result<Vec<_>>>()?;
        let features = self.network.forward_features(stack(&samples, &self.device)?).into_data();
        features
            .convert::<f32>()
            .to_vec()
            .map_err(|error| Error::data("features", "numbers", format!("{error:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;

    #[test]
    fn images_become_rows() {
        let device = Default::default();
        let config = ResNetConfig::torchvision(&[1, 1], false, 4);
        let network = config.init::<Flex>(&mut Generator::new(1), &device).unwrap();
        let tensors =
            leanburn_core::checkpoint::tensors(&network, |path| config.published_name(path)).unwrap();
        let checkpoint = Checkpoint::from_tensors("memory", tensors);
        let features = ImageFeatures::<Flex>::new(&checkpoint, &device).unwrap();
        let features = features.with_preprocessing(Preprocessing::squeezed(32)).unwrap();
        let image = |value: u8| Image::new([5, 7], 3, vec![value; 105]).unwrap();
        let table = features.table(&[image(3), image(200), image(3)]).unwrap();
        assert_eq!((table.rows(), table.columns()), (3, 128));
        let row = |index: usize| &table.values()[index * 128..][..128];
        assert_eq!(row(0), row(2));
        assert_ne!(row(0), row(1));
    }
}
