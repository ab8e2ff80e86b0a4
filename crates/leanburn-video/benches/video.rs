//! Speed of the video code: `cargo bench -p leanburn-video`.

use std::sync::Arc;

use burn::tensor::Tensor;
use burn_flex::Flex;
use divan::{Bencher, counter::ItemsCount};
use leanburn_core::random::Generator;
use leanburn_video::{
    Branches, ClipClassifier, VideoArchitecture, resnet::FrameResNetConfig, temporal_shift,
    transform::ClipPreprocessing,
};
use leanburn_vision::image::Image;

fn main() {
    divan::main();
}

/// 8 frames of 320x240, as decoded.
fn frames() -> Vec<Arc<Image>> {
    let frame = |frame: usize| {
        let values = (0..240 * 320 * 3).map(|place| (place * 7 + frame * 31) as u8).collect();
        Arc::new(Image::new([240, 320], 3, values).unwrap())
    };
    (0..8).map(frame).collect()
}

fn network(side: usize) -> (impl ClipClassifier<Flex>, Tensor<Flex, 5>) {
    let device = Default::default();
    let config = FrameResNetConfig::tsm(18, 174, Branches::ffn(&[4, 8])).unwrap();
    let network = config.init::<Flex>(&mut Generator::new(1), &device).unwrap();
    (network, Generator::new(2).normal([1, 8, 3, side, side], &device))
}

/// The shift of the first stage's maps, 4 videos of 8 frames.
#[divan::bench]
fn shift(bencher: Bencher) {
    let maps: Tensor<Flex, 4> = Generator::new(1).normal([32, 64, 28, 28], &Default::default());
    bencher.bench(|| temporal_shift(maps.clone(), 8, 8));
}

/// A clip of 8 frames through a TSM-ResNet-18 of two branches, 112x112.
#[divan::bench]
fn forward(bencher: Bencher) {
    let (network, clip) = network(112);
    bencher.counter(ItemsCount::new(8_usize)).bench(|| network.forward(clip.clone()));
}

/// The same through one branch, its norms and its alteration folded in.
#[divan::bench]
fn forward_fused(bencher: Bencher) {
    let (network, clip) = network(112);
    let network = network.into_branch(8).fuse();
    bencher.counter(ItemsCount::new(8_usize)).bench(|| network.forward(clip.clone()));
}

/// Multi-scale crop, Pillow's resize to 224x224 and normalisation of 8 frames of 320x240.
#[divan::bench]
fn preprocess(bencher: Bencher) {
    let (frames, preprocessing) = (frames(), ClipPreprocessing::tsn_train(224));
    bencher
        .counter(ItemsCount::new(8_usize))
        .bench(|| preprocessing.apply(&frames, 0, &mut Generator::new(3)).unwrap());
}

/// The same frames as UniFormer is trained with, RandAugment included.
#[divan::bench]
fn augment(bencher: Bencher) {
    let (frames, preprocessing) = (frames(), ClipPreprocessing::uniformer_train());
    let mut seed = 0;
    bencher.counter(ItemsCount::new(8_usize)).bench_local(|| {
        seed += 1;
        preprocessing.apply(&frames, 0, &mut Generator::new(seed)).unwrap()
    });
}
