use burn::tensor::{Tensor, backend::Backend};

/// The same values, row by row in memory, and their gradient as well.
///
/// What swaps dimensions only reads memory in another order, and so does its gradient; CPUs take many times as long for
/// elementwise operations on such tensors than for a copy.
pub fn contiguous<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    let shape = x.shape();
    let elements = shape.num_elements();
    // To flatten copies what is not contiguous, and nothing else.
    x.reshape([elements]).reshape(shape)
}

#[cfg(test)]
mod tests {
    use burn::backend::Autodiff;
    use burn_flex::Flex;

    use super::*;

    #[test]
    fn values_and_gradients_stay() {
        let device = Default::default();
        let x = Tensor::<Autodiff<Flex>, 2>::from_data([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], &device)
            .require_grad();
        let y = contiguous(x.clone().transpose());
        assert_eq!(y.to_data(), x.clone().transpose().to_data());
        let factors = Tensor::from_data([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], &device);
        let gradients = (y.transpose() * factors.clone()).sum().backward();
        assert_eq!(x.grad(&gradients).unwrap().to_data(), factors.inner().to_data());
    }
}
