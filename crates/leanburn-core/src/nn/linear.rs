use burn::{module::Param, nn::Linear, tensor::backend::Backend};

use crate::random::Generator;

/// A linear layer drawn from `generator` as PyTorch draws its default: weight and bias uniform within
/// `1 / sqrt(d_input)`.
pub fn linear<B: Backend>(
    d_input: usize,
    d_output: usize,
    generator: &mut Generator,
    device: &B::Device,
) -> Linear<B> {
    let bound = 1.0 / (d_input as f32).sqrt();
    Linear {
        weight: Param::from_tensor(generator.uniform([d_input, d_output], -bound, bound, device)),
        bias: Some(Param::from_tensor(generator.uniform([d_output], -bound, bound, device))),
    }
}
