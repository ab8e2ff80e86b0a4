//! Speed of what a language model does most: prefill, a token, and the masks of a matrix.

use burn::tensor::{Int, Tensor, TensorData};
use burn_flex::Flex;
use divan::Bencher;
use leanburn_core::random::Generator;
use leanburn_language::{
    CausalLm,
    generation::{GenerationConfig, generate},
    llama::{Llama, LlamaConfig, Sequences},
    mft::Mask,
};

fn main() {
    divan::main();
}

fn network() -> Llama<Flex> {
    let config = LlamaConfig::new(4096, 512, 1376, 4, 8);
    config.init(&mut Generator::new(1), &Default::default()).expect("the settings fit")
}

#[divan::bench(sample_count = 10)]
fn prefill_256_tokens(bencher: Bencher) {
    let network = network();
    let tokens: Vec<i64> = (0..256).collect();
    let tokens: Tensor<Flex, 2, Int> =
        Tensor::from_data(TensorData::new(tokens, [1, 256]), &Default::default());
    let sequences = Sequences::whole(1, 256);
    bencher.bench_local(|| network.forward(tokens.clone(), &sequences).into_data());
}

#[divan::bench(sample_count = 10)]
fn generate_32_tokens(bencher: Bencher) {
    let network = network();
    let config = GenerationConfig::new().with_max_new_tokens(32);
    bencher.bench_local(|| generate(&network, &[vec![1; 16]], &config, &Default::default(), |_, _| true));
}

#[divan::bench(sample_count = 10)]
fn mask_of_16_million_scores(bencher: Bencher) {
    let scores = Generator::new(1).normals(1 << 24);
    bencher.bench_local(|| Mask::largest(&scores, [1 << 12, 1 << 12], 0.9));
}

/// What the published layer does at every forward pass.
#[divan::bench(sample_count = 3)]
fn sort_of_16_million_scores(bencher: Bencher) {
    let scores = Generator::new(1).normals(1 << 24);
    bencher.bench_local(|| {
        let mut amounts: Vec<f32> = scores.iter().map(|score| score.abs()).collect();
        amounts.sort_unstable_by(f32::total_cmp);
        amounts
    });
}
