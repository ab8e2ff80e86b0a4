use burn::{
    config::Config,
    module::Param,
    nn::{PaddingConfig2d, conv::Conv2d},
    tensor::{Tensor, backend::Backend},
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
