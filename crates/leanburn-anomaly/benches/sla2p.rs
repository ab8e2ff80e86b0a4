//! Speed of SLA2P's parts: `cargo bench -p leanburn-anomaly`.

use burn::{backend::Autodiff, tensor::Tensor};
use burn_flex::Flex;
use divan::{Bencher, counter::ItemsCount};
use leanburn_anomaly::{
    baselines::{Baseline, IsolationForestConfig, LofConfig},
    sla2p::{Architecture, ClassifierConfig, FrozenClassifier, Projections, Sla2pConfig, Step},
};
use leanburn_core::random::Generator;

fn main() {
    divan::main();
}

/// Rows of one projection through the perturbation, K = D = 256.
#[divan::bench(args = [128, 512, 2048])]
fn perturbed_probabilities(bencher: Bencher, rows: usize) {
    let device = Default::default();
    let mut generator = Generator::new(0);
    let classifier = ClassifierConfig::new(256, 256, Architecture::Fcn).init::<Flex>(&mut generator, &device);
    let frozen = FrozenClassifier::new(&classifier);
    let input: Tensor<Flex, 2> = generator.normal([rows, 256], &device);
    let step = Step::PerSample.lengths(1000.0, 128, 0..rows, rows, &device);
    bencher
        .counter(ItemsCount::new(rows))
        .bench(|| frozen.probabilities(input.clone(), step.clone()).into_data());
}

/// One random matrix of the width of Arrhythmia.
#[divan::bench]
fn projection(bencher: Bencher) {
    let projections = Projections::from_seed(0, 256, 274, 256);
    bencher.bench(|| projections.matrix::<Flex>(7, &Default::default()).into_data());
}

/// Fit and score of the synthetic angular set, K = D = 32.
#[divan::bench]
fn angular(bencher: Bencher) {
    let table = leanburn_datasets::angular(7);
    let config = Sla2pConfig::new().with_projections(32).with_width(32).with_epsilon(10.0);
    bencher
        .bench(|| config.fit::<Autodiff<Flex>>(&table, &Default::default()).unwrap().score(&table).unwrap());
}

/// Fit and score of the synthetic angular set.
#[divan::bench]
fn isolation_forest(bencher: Bencher) {
    let table = leanburn_datasets::angular(7);
    bencher.bench(|| IsolationForestConfig::default().fit(&table, 0).unwrap().score(&table).unwrap());
}

/// Fit and score of the synthetic angular set.
#[divan::bench]
fn local_outlier_factor(bencher: Bencher) {
    let table = leanburn_datasets::angular(7);
    bencher.bench(|| LofConfig::default().fit(&table).unwrap().score(&table).unwrap());
}
