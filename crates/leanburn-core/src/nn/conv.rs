use burn::{
    config::Config,
    module::Param,
    nn::{PaddingConfig2d, conv::Conv2d},
    tensor::{Tensor, backend::Backend, module::conv2d, ops::ConvOptions, s},
};
use serde::{Deserialize, Serialize};

use crate::random::Generator;

/// From what weights are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Initial {
    /// PyTorch's default: weight and bias uniform within `1 / sqrt(fan_in)`.
    Uniform,
    /// Normal with deviation `sqrt(2 / fan_in)`, and bias 0 (He et al., 2015).
    KaimingFanIn,
    /// Normal with deviation `sqrt(2 / fan_out)`, and bias 0.
    KaimingFanOut,
}

impl Initial {
    /// A weight of shape `[out, in, ...]`.
    pub fn weight<B: Backend, const D: usize>(
        self,
        shape: [usize; D],
        generator: &mut Generator,
        device: &B::Device,
    ) -> Tensor<B, D> {
        let kernel: usize = shape[2..].iter().product();
        let normal = |generator: &mut Generator, fan: usize| {
            generator.normal::<B, D>(shape, device) * (2.0 / fan as f64).sqrt()
        };
        match self {
            Self::Uniform => {
                let bound = 1.0 / ((shape[1] * kernel) as f32).sqrt();
                generator.uniform(shape, -bound, bound, device)
            }
            Self::KaimingFanIn => normal(generator, shape[1] * kernel),
            Self::KaimingFanOut => normal(generator, shape[0] * kernel),
        }
    }

    /// A bias of a layer whose outputs each have `fan_in` weights.
    pub fn bias<B: Backend>(
        self,
        width: usize,
        fan_in: usize,
        generator: &mut Generator,
        device: &B::Device,
    ) -> Tensor<B, 1> {
        match self {
            Self::Uniform => {
                let bound = 1.0 / (fan_in as f32).sqrt();
                generator.uniform([width], -bound, bound, device)
            }
            Self::KaimingFanIn | Self::KaimingFanOut => Tensor::zeros([width], device),
        }
    }
}

/// Configuration of a convolution with a square kernel.
#[derive(Config, Debug)]
pub struct ConvConfig {
    /// Input channels.
    pub input: usize,
    /// Output channels.
    pub output: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step of the kernel. Default: 1
    #[config(default = 1)]
    pub stride: usize,
    /// Zeros around the input. Default: 0
    #[config(default = 0)]
    pub padding: usize,
    /// Groups of channels, a divisor of both. Default: 1
    #[config(default = 1)]
    pub groups: usize,
    /// Whether there is a bias. Default: false
    #[config(default = false)]
    pub bias: bool,
    /// From what the weights are drawn. Default: PyTorch's uniform
    #[config(default = "Initial::Uniform")]
    pub initial: Initial,
}

impl ConvConfig {
    /// The layer with weights drawn from `generator`.
    pub fn init<B: Backend>(&self, generator: &mut Generator, device: &B::Device) -> Conv2d<B> {
        let shape = [self.output, self.input / self.groups, self.kernel, self.kernel];
        let weight = self.initial.weight(shape, generator, device);
        let fan_in = shape[1] * self.kernel * self.kernel;
        let bias = self.bias.then(|| self.initial.bias(self.output, fan_in, generator, device));
        Conv2d {
            weight: Param::from_tensor(weight),
            bias: bias.map(Param::from_tensor),
            stride: [self.stride; 2],
            kernel_size: [self.kernel; 2],
            dilation: [1; 2],
            groups: self.groups,
            padding: match self.padding {
                0 => PaddingConfig2d::Valid,
                p => PaddingConfig2d::Explicit(p, p, p, p),
            },
        }
    }
}

/// A convolution that passes over positions between its kernels, as the 1x1 projection of a residual network's shortcut
/// does where maps shrink.
///
/// The positions are picked first, and then all of them are convolved: a GPU's transposed convolution of Burn 0.21, by
/// which the input's gradient is computed, is wrong where the step is larger than the kernel.
///
/// - conv: 1x1, without padding
/// - input: `[batch, channels, height, width]`
pub fn forward_pointwise<B: Backend>(conv: &Conv2d<B>, input: Tensor<B, 4>) -> Tensor<B, 4> {
    let options = ConvOptions::new([1, 1], [0, 0], [1, 1], conv.groups);
    conv2d(picked(input, conv.stride), conv.weight.val(), conv.bias.as_ref().map(Param::val), options)
}

/// Every so many rows and columns of maps, from the first on.
///
/// - input: `[batch, channels, height, width]`
pub fn picked<B: Backend>(input: Tensor<B, 4>, [rows, columns]: [usize; 2]) -> Tensor<B, 4> {
    if [rows, columns] == [1, 1] {
        return input;
    }
    let (rows, columns) = (rows as isize, columns as isize);
    input.slice(s![.., .., ..;rows, ..;columns])
}

#[cfg(test)]
mod tests {
    use burn::{backend::Autodiff, tensor::Tolerance};
    use burn_flex::Flex;

    use super::*;

    #[test]
    fn picked_positions_are_those_of_a_strided_convolution() {
        let device = Default::default();
        let mut generator = Generator::new(1);
        let conv = ConvConfig::new(4, 6, 1).with_stride(2).with_bias(true);
        let conv = conv.init::<Autodiff<Flex>>(&mut generator, &device);
        for side in [7, 8] {
            let values: Tensor<Flex, 4> = generator.normal([2, 4, side, side], &device);
            let upstream: Tensor<Flex, 4> = generator.normal([2, 6, 4, 4], &device);
            let run = |picks: bool| {
                let input = Tensor::<Autodiff<Flex>, 4>::from_inner(values.clone()).require_grad();
                let output =
                    if picks { forward_pointwise(&conv, input.clone()) } else { conv.forward(input.clone()) };
                let gradients = (output.clone() * Tensor::from_inner(upstream.clone())).sum().backward();
                [output.inner(), input.grad(&gradients).unwrap()]
            };
            for (found, expected) in run(true).into_iter().zip(run(false)) {
                let tolerance = Tolerance::<f32>::rel_abs(1e-4, 1e-5);
                found.into_data().assert_approx_eq(&expected.into_data(), tolerance);
            }
        }
    }
}
