use burn::tensor::{Tensor, backend::Backend};

use crate::random::Generator;

/// Sets entries to 0 with a probability, and scales the others up by what is left of it.
///
/// - probability: 0 to below 1
pub fn dropout<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    probability: f64,
    generator: &mut Generator,
) -> Tensor<B, D> {
    if probability == 0.0 {
        return x;
    }
    let draws = generator.uniform::<B, D>(x.dims(), 0.0, 1.0, &x.device());
    x.mask_fill(draws.lower_elem(probability), 0.0) / (1.0 - probability)
}
