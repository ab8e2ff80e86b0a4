//! Speed of pruning: `cargo bench -p leanburn-pruning`.

use burn::{backend::Autodiff, tensor::Tensor};
use burn_flex::Flex;
use divan::{Bencher, counter::ItemsCount};
use leanburn_core::random::Generator;
use leanburn_pruning::{
    Ratios, Selection, State, surgery,
    trainability::{Mode, SingularValues},
};
use leanburn_vision::{Architecture, Classifier, resnet::ResNetConfig, sequential::SequentialConfig};

fn main() {
    divan::main();
}

fn resnet56() -> ResNetConfig {
    ResNetConfig::cifar(56, 10, false).unwrap()
}

/// The layers and coupled channels of a network.
#[divan::bench]
fn graph(bencher: Bencher) {
    let config = ResNetConfig::imagenet(50, 1000).unwrap();
    bencher.bench(|| config.graph([224, 224]).unwrap());
}

/// L1 scores, the selection and the smaller network, of a ResNet-56.
#[divan::bench]
fn prune(bencher: Bencher) {
    let config = resnet56();
    let network = config.init::<Flex>(&mut Generator::new(1), &Default::default()).unwrap();
    let graph = config.graph([32, 32]).unwrap();
    let ratios = Ratios::patterns([("layer*.conv1", 0.5)]);
    bencher.bench(|| {
        let state = State::of::<_, Flex>(&config, &network).unwrap();
        let kept = Selection::new().select(&graph, &state, None, &ratios).unwrap();
        surgery::remove::<_, Flex>(&config, &network, &kept, [32, 32]).unwrap()
    });
}

/// A forward pass of a ResNet-56, 16 images of 32x32, at a ratio in percent.
#[divan::bench(args = [0, 50, 90])]
fn forward(bencher: Bencher, percent: usize) {
    let config = resnet56();
    let device = Default::default();
    let network = config.init::<Flex>(&mut Generator::new(1), &device).unwrap();
    let graph = config.graph([32, 32]).unwrap();
    let state = State::of::<_, Flex>(&config, &network).unwrap();
    let ratios = Ratios::patterns([("layer*.conv1", percent as f64 / 100.0)]);
    let kept = Selection::new().select(&graph, &state, None, &ratios).unwrap();
    let (_, network) = surgery::remove::<_, Flex>(&config, &network, &kept, [32, 32]).unwrap();
    let network = network.fuse();
    let images: Tensor<Flex, 4> = Generator::new(2).normal([16, 3, 32, 32], &device);
    bencher.counter(ItemsCount::new(16_usize)).bench(|| network.forward(images.clone()));
}

/// The singular values of 16 images' Jacobians, exactly.
#[divan::bench]
fn jacobians(bencher: Bencher) {
    type B = Autodiff<Flex>;
    let device = Default::default();
    let network = SequentialConfig::lenet5(1, 10).init::<B>(&mut Generator::new(1), &device).unwrap();
    let images: Tensor<B, 4> = Generator::new(2).normal([16, 1, 32, 32], &device);
    bencher
        .counter(ItemsCount::new(16_usize))
        .bench(|| SingularValues::measure(&network, images.clone(), Mode::Eval).unwrap().summary());
}
