use std::f64::consts::SQRT_2;

use burn::tensor::{Tensor, activation, backend::Backend};

/// The Gaussian error linear unit (Hendrycks and Gimpel, 2016), exact, and with its exact gradient.
///
/// Burn's has another's gradient on most backends, that of the approximation by a hyperbolic tangent, which is off by
/// some 1e-3.
pub fn gelu<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    if B::ad_enabled(&x.device()) {
        let share = ((x.clone() / SQRT_2).erf() + 1.0) * 0.5;
        return x * share;
    }
    activation::gelu(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Autodiff;
    use burn_flex::Flex;

    // torch.nn.functional.gelu of PyTorch 2 in float64.
    #[test]
    fn it_is_pytorchs() {
        let device = Default::default();
        let x = Tensor::<Autodiff<Flex>, 1>::from_floats([-2.0, -0.5, 0.0, 1.0, 3.0], &device).require_grad();
        let y = gelu(x.clone());
        let gradient = x.grad(&y.clone().sum().backward()).unwrap();
        let close = |found: Tensor<Flex, 1>, expected: [f32; 5]| {
            for (found, expected) in found.into_data().iter::<f32>().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{found} {expected}");
            }
        };
        close(y.inner(), [-0.045_500_264, -0.154_268_77, 0.0, 0.841_344_8, 2.995_950_3]);
        close(gradient, [-0.085_231_8, 0.132_504_88, 0.5, 1.083_315_5, 1.011_945_6]);
        let plain = Tensor::<Flex, 1>::from_floats([-2.0, -0.5, 0.0, 1.0, 3.0], &device);
        close(gelu(plain), [-0.045_500_264, -0.154_268_77, 0.0, 0.841_344_8, 2.995_950_3]);
    }
}
