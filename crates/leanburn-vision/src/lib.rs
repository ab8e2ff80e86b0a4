//! Image networks and image data for [leanburn](https://docs.rs/leanburn).
//!
//! | module | what it holds |
//! |---|---|
//! | [`resnet`] | residual networks: torchvision's 18 to 152 and CIFAR's 20 to 110 |
//! | [`sequential`] | chains of layers: VGG with batch norm, LeNet-5, multi-layer perceptrons, your own |
//! | [`Architecture`] | what their configurations have in common |
//! | [`image`], [`transform`] | images, resized as Pillow does, and what is done to them before a network sees them |
//! | [`augment`] | RandAugment and random erasing |
//! | [`data`] | folders of images, MNIST's and CIFAR's files |
#![cfg_attr(feature = "train", doc = "| [`train`] | their training |")]
//!
//! Every width of every layer is part of the configuration, so that a pruned network is an ordinary one.

mod architecture;
pub mod augment;
pub mod data;
pub mod image;
mod resample;
pub mod resnet;
pub mod sequential;
#[cfg(feature = "train")]
pub mod train;
pub mod transform;

pub use architecture::{Architecture, Classifier};

#[cfg(test)]
mod tests {
    use burn::{
        backend::Autodiff,
        module::AutodiffModule,
        tensor::{Tensor, Tolerance},
    };
    use burn_flex::Flex;
    use leanburn_core::{Result, checkpoint::Checkpoint, random::Generator};

    use super::*;

    /// Parameters and operations of convolutions and linear layers, and all parameters.
    pub(crate) fn costs(config: &impl Architecture, size: [usize; 2]) -> (usize, usize, usize) {
        let cost = config.graph(size).unwrap().cost();
        (cost.params, cost.macs, cost.params_all)
    }

    /// A network is saved, its configuration found again, and loaded with the same output.
    pub(crate) fn round_trip<A: Architecture>(config: &A, infer: impl Fn(&Checkpoint) -> Result<A>) {
        let device = Default::default();
        let network = config.init::<Flex>(&mut Generator::new(3), &device).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.safetensors");
        config.save(&network, &path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let found = infer(&checkpoint).unwrap();
        assert_eq!(format!("{found:?}"), format!("{config:?}"));
        let loaded = found.load::<Flex>(&checkpoint, &device).unwrap();
        let tensors = |network| {
            leanburn_core::checkpoint::tensors(network, |path| config.published_name(path)).unwrap()
        };
        assert_eq!(tensors(&loaded), tensors(&network));
    }

    /// The fused network gives what the network gives, after a batch has moved the running statistics.
    pub(crate) fn agree_after_fusing<A: Architecture>(config: &A, [channels, height, width]: [usize; 3])
    where
        A::Network<Autodiff<Flex>>: AutodiffModule<Autodiff<Flex>, InnerModule = A::Network<Flex>>,
    {
        let device = Default::default();
        let mut generator = Generator::new(5);
        let network = config.init::<Autodiff<Flex>>(&mut generator, &device).unwrap();
        let images: Tensor<Autodiff<Flex>, 4> = generator.normal([4, channels, height, width], &device);
        network.forward(images.clone());
        let expected = network.valid().forward(images.clone().inner());
        let close = |found: Tensor<Flex, 2>| {
            found
                .into_data()
                .assert_approx_eq::<f32>(&expected.clone().into_data(), Tolerance::rel_abs(1e-4, 1e-4));
        };
        close(network.valid().fuse().forward(images.clone().inner()));
        // Frozen norms use the running statistics where gradients are recorded, too.
        close(network.with_frozen_norms(true).forward(images).inner());
    }
}
