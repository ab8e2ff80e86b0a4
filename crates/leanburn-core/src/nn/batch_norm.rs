use burn::{
    config::Config,
    module::{Initializer, Module, Param, RunningState},
    nn::{Linear, conv::Conv2d},
    tensor::{Tensor, backend::Backend},
};

/// Configuration of [`BatchNorm`].
#[derive(Config, Debug)]
pub struct BatchNormConfig {
    /// Number of channels.
    pub num_features: usize,
    /// Added to the variance. Default: 1e-5
    #[config(default = 1e-5)]
    pub epsilon: f64,
    /// Weight of the newest batch in the running statistics. Default: 0.1
    #[config(default = 0.1)]
    pub momentum: f64,
}

impl BatchNormConfig {
    /// Gamma 1, beta 0, running mean 0 and running variance 1.
    pub fn init<B: Backend>(&self, device: &B::Device) -> BatchNorm<B> {
        let shape = [self.num_features];
        BatchNorm {
            gamma: Initializer::Ones.init(shape, device),
            beta: Initializer::Zeros.init(shape, device),
            running_mean: RunningState::new(Tensor::zeros(shape, device)),
            running_var: RunningState::new(Tensor::ones(shape, device)),
            momentum: self.momentum,
            epsilon: self.epsilon,
            frozen: false,
        }
    }
}

/// Batch normalisation (Ioffe and Szegedy, 2015) as PyTorch computes it.
///
/// It differs from Burn's in that the running variance is the unbiased one, that the running statistics are up to date
/// after each forward pass (so that saving right after training saves them), that they can be
/// [frozen](Self::frozen), and that it can be folded into the layer before it. Clones share their running statistics,
/// as with Burn's; `from_inner(valid())` of a module is a copy with its own.
#[derive(Module, Debug)]
pub struct BatchNorm<B: Backend> {
    /// Scale, `[channels]`; `weight` in PyTorch.
    pub gamma: Param<Tensor<B, 1>>,
    /// Shift, `[channels]`; `bias` in PyTorch.
    pub beta: Param<Tensor<B, 1>>,
    /// Running mean, `[channels]`.
    pub running_mean: RunningState<Tensor<B, 1>>,
    /// Running unbiased variance, `[channels]`.
    pub running_var: RunningState<Tensor<B, 1>>,
    /// Weight of the newest batch in the running statistics.
    pub momentum: f64,
    /// Added to the variance.
    pub epsilon: f64,
    /// Whether the running statistics are used, and kept, where the device records gradients, too. Default: false
    pub frozen: bool,
}

impl<B: Backend> BatchNorm<B> {
    /// Normalises by the batch's statistics, and updates the running ones, where the device records gradients and the
    /// layer is not [frozen](Self::frozen); by the running statistics elsewhere. That is Burn's convention for
    /// training and inference. A single value a channel has no variance: it is normalised as in inference.
    ///
    /// - input: `[batch, channels, ...]`
    /// - output: `[batch, channels, ...]`
    ///
    /// # Panics
    ///
    /// When the input has fewer than two dimensions.
    pub fn forward<const D: usize>(&self, input: Tensor<B, D>) -> Tensor<B, D> {
        if self.trains(&input) {
            return self.forward_train(input, None);
        }
        let (scale, shift) = self.scale_and_shift();
        let maps = Maps::new(&input);
        (maps.flat(input.clone()) * maps.repeated(scale) + maps.repeated(shift)).reshape(input.dims())
    }

    fn trains<const D: usize>(&self, input: &Tensor<B, D>) -> bool {
        B::ad_enabled(&input.device()) && !self.frozen && input.shape().num_elements() > input.dims()[1]
    }

    /// The layer `linear` followed by this one, as [`forward`](Self::forward) of its output.
    ///
    /// Normalising by the batch removes the linear layer's bias, so that its gradient is zero. Computed through both
    /// layers it is rounding noise, which Adam with a small epsilon turns into steps; here it is exactly zero.
    ///
    /// - input: `[batch, d_input]`
    /// - output: `[batch, channels]`
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_linear(&self, linear: &Linear<B>, input: Tensor<B, 2>) -> Tensor<B, 2> {
        match &linear.bias {
            Some(bias) if self.trains(&input) => {
                self.forward_train(input.matmul(linear.weight.val()), Some(bias.val()))
            }
            _ => self.forward(linear.forward(input)),
        }
    }

    /// - offset: added to the input of every channel, `[channels]`; only the running mean depends on it
    fn forward_train<const D: usize>(
        &self,
        input: Tensor<B, D>,
        offset: Option<Tensor<B, 1>>,
    ) -> Tensor<B, D> {
        let dims = input.dims();
        let maps = Maps::new(&input);
        let count = maps.samples * maps.positions;

        let input = maps.flat(input);
        let mean = maps.mean(input.clone());
        let centred = input - maps.repeated(mean.clone());
        let variance = maps.mean(centred.clone().square());

        let unbiased = variance.clone().detach() * (count as f64 / (count - 1) as f64);
        let (mut mean, mut shift) = (mean.detach(), self.beta.val());
        if let Some(offset) = offset {
            mean = mean + offset.clone().detach();
            // Part of the graph, so that optimisers see its gradient and decay it.
            shift = shift + offset * 0.0;
        }
        self.update(&self.running_mean, mean);
        self.update(&self.running_var, unbiased);

        let scale = self.gamma.val() / (variance + self.epsilon).sqrt();
        (centred * maps.repeated(scale) + maps.repeated(shift)).reshape(dims)
    }

    fn update(&self, running: &RunningState<Tensor<B, 1>>, batch: Tensor<B, 1>) {
        let value = running.value_sync() * (1.0 - self.momentum) + batch * self.momentum;
        // Undetached, the graph of each step would hang on the one before.
        running.update(value.detach());
        // Visitors and `valid` read the value as last synchronised.
        running.value_sync();
    }

    /// With the running statistics the layer is `x * scale + shift`, each `[channels]`.
    pub fn scale_and_shift(&self) -> (Tensor<B, 1>, Tensor<B, 1>) {
        let scale = self.gamma.val() / (self.running_var.value_sync() + self.epsilon).sqrt();
        let shift = self.beta.val() - self.running_mean.value_sync() * scale.clone();
        (scale, shift)
    }

    /// This layer, with its running statistics, folded into the linear layer before it.
    ///
    /// - linear: from `d_input` to this layer's channels
    pub fn fuse(&self, linear: &Linear<B>) -> Linear<B> {
        let (scale, shift) = self.scale_and_shift();
        let bias = match &linear.bias {
            Some(bias) => bias.val() * scale.clone() + shift,
            None => shift,
        };
        let weight = linear.weight.val() * scale.unsqueeze_dim(0);
        Linear { weight: Param::from_tensor(weight), bias: Some(Param::from_tensor(bias)) }
    }

    /// This layer, with its running statistics, folded into the convolution before it.
    ///
    /// - conv: to this layer's channels
    pub fn fuse_conv(&self, conv: &Conv2d<B>) -> Conv2d<B> {
        let (scale, shift) = self.scale_and_shift();
        let bias = match &conv.bias {
            Some(bias) => bias.val() * scale.clone() + shift,
            None => shift,
        };
        let channels = scale.dims()[0];
        let weight = conv.weight.val() * scale.reshape([channels, 1, 1, 1]);
        Conv2d {
            weight: Param::from_tensor(weight),
            bias: Some(Param::from_tensor(bias)),
            padding: conv.padding.clone(),
            ..*conv
        }
    }
}

/// An input `[samples, channels, ...]` as rows, so that what belongs to a channel is added and multiplied along rows:
/// the CPU backends do that many times faster than along a dimension in the middle.
struct Maps {
    samples: usize,
    channels: usize,
    positions: usize,
}

impl Maps {
    fn new<B: Backend, const D: usize>(input: &Tensor<B, D>) -> Self {
        let dims = input.dims();
        Self { samples: dims[0], channels: dims[1], positions: dims[2..].iter().product() }
    }

    /// The input as `[samples * channels, positions]`, or as `[samples, channels]` where there is one position.
    fn flat<B: Backend, const D: usize>(&self, input: Tensor<B, D>) -> Tensor<B, 2> {
        if self.positions == 1 {
            return input.reshape([self.samples, self.channels]);
        }
        input.reshape([self.samples * self.channels, self.positions])
    }

    /// `[channels]` for the rows of [`flat`](Self::flat).
    fn repeated<B: Backend>(&self, values: Tensor<B, 1>) -> Tensor<B, 2> {
        let values = values.unsqueeze_dim::<2>(0);
        if self.positions == 1 {
            return values;
        }
        values.repeat_dim(0, self.samples).reshape([self.samples * self.channels, 1])
    }

    /// The mean of each channel, `[channels]`.
    fn mean<B: Backend>(&self, flat: Tensor<B, 2>) -> Tensor<B, 1> {
        let means = if self.positions == 1 { flat } else { flat.mean_dim(1) };
        means.reshape([self.samples, self.channels]).mean_dim(0).reshape([self.channels])
    }
}

/// Each channel times a number of its own.
///
/// - input: `[batch, channels, ...]`
/// - scale: `[channels]`
pub fn scale_channels<B: Backend, const D: usize>(input: Tensor<B, D>, scale: Tensor<B, 1>) -> Tensor<B, D> {
    let (dims, maps) = (input.dims(), Maps::new(&input));
    (maps.flat(input) * maps.repeated(scale)).reshape(dims)
}

/// Each sample times a number of its own.
///
/// - input: `[batch, ...]`
/// - scale: `[batch]`
pub fn scale_samples<B: Backend, const D: usize>(input: Tensor<B, D>, scale: Tensor<B, 1>) -> Tensor<B, D> {
    let dims = input.dims();
    let values: usize = dims[1..].iter().product();
    (input.reshape([dims[0], values]) * scale.reshape([dims[0], 1])).reshape(dims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Generator;
    use burn::{
        backend::Autodiff,
        module::AutodiffModule,
        tensor::{TensorData, Tolerance},
    };
    use burn_flex::Flex;

    type Training = Autodiff<Flex>;

    fn approx<B: Backend, const D: usize>(actual: Tensor<B, D>, expected: TensorData) {
        actual.into_data().assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(1e-5, 1e-6));
    }

    // torch.nn.BatchNorm1d(2) of PyTorch 2 on the same three rows.
    #[test]
    fn training_is_pytorchs() {
        let device = Default::default();
        let norm = BatchNormConfig::new(2).init::<Training>(&device);
        let input: Tensor<Training, 2> = Tensor::from_data([[1.0, 10.0], [2.0, 30.0], [6.0, 20.0]], &device);
        let output = norm.forward(input);
        approx(
            output,
            TensorData::from([
                [-0.925_819_2_f32, -1.224_744_8],
                [-0.462_909_6, 1.224_744_8],
                [1.388_728_9, 0.0],
            ]),
        );
        approx(norm.running_mean.value(), TensorData::from([0.3_f32, 2.0]));
        approx(norm.running_var.value(), TensorData::from([1.6_f32, 10.9]));
    }

    #[test]
    fn spatial_dimensions_count_as_samples() {
        let device = Default::default();
        let norm = BatchNormConfig::new(3).init::<Training>(&device);
        let input: Tensor<Training, 4> = Generator::new(1).normal([2, 3, 4, 5], &device);
        let output = norm.forward(input.clone());
        let rows = input.permute([0, 2, 3, 1]).reshape([40, 3]);
        let flat = BatchNormConfig::new(3).init::<Training>(&device).forward(rows);
        let expected = flat.reshape([2, 4, 5, 3]).permute([0, 3, 1, 2]);
        approx(output, expected.into_data());
    }

    #[test]
    fn a_bias_ahead_of_the_norm_has_no_gradient() {
        let device = Default::default();
        let mut generator = Generator::new(3);
        let linear = super::super::linear::<Training>(3, 4, &mut generator, &device);
        let input: Tensor<Training, 2> = generator.normal([8, 3], &device);
        let weights: Tensor<Training, 2> = generator.normal([8, 4], &device);

        let separate = BatchNormConfig::new(4).init::<Training>(&device);
        let expected = separate.forward(linear.forward(input.clone()));
        let norm = BatchNormConfig::new(4).init::<Training>(&device);
        let output = norm.forward_linear(&linear, input);
        approx(output.clone(), expected.into_data());
        approx(norm.running_mean.value(), separate.running_mean.value().into_data());

        let gradients = (output * weights).sum().backward();
        let gradient = linear.bias.unwrap().grad(&gradients).unwrap();
        // As numbers: a zero may be negative.
        assert_eq!(gradient.into_data().to_vec::<f32>().unwrap(), [0.0; 4]);
    }

    #[test]
    fn fusing_keeps_the_output() {
        let device = Default::default();
        let mut generator = Generator::new(2);
        let norm = BatchNormConfig::new(4).init::<Training>(&device);
        norm.forward(generator.normal::<Training, 2>([8, 4], &device));
        let norm = norm.valid();
        let linear = super::super::linear::<Flex>(3, 4, &mut generator, &device);
        let input: Tensor<Flex, 2> = generator.normal([5, 3], &device);
        let expected = norm.forward(linear.forward(input.clone()));
        approx(norm.fuse(&linear).forward(input), expected.into_data());

        let conv =
            super::super::ConvConfig::new(3, 4, 3).with_padding(1).init::<Flex>(&mut generator, &device);
        let input: Tensor<Flex, 4> = generator.normal([2, 3, 5, 6], &device);
        let expected = norm.forward(conv.forward(input.clone()));
        approx(norm.fuse_conv(&conv).forward(input), expected.into_data());
    }

    #[test]
    fn channels_and_samples_have_scales_of_their_own() {
        let device = Default::default();
        let input: Tensor<Flex, 4> = Generator::new(5).normal([3, 2, 4, 5], &device);
        let scale = Tensor::<Flex, 1>::from_floats([2.0, -1.0], &device);
        let expected = input.clone() * scale.clone().reshape([1, 2, 1, 1]);
        approx(scale_channels(input.clone(), scale), expected.into_data());
        let scale = Tensor::<Flex, 1>::from_floats([2.0, -1.0, 0.5], &device);
        let expected = input.clone() * scale.clone().reshape([3, 1, 1, 1]);
        approx(scale_samples(input, scale), expected.into_data());
    }

    #[test]
    fn frozen_norms_keep_their_statistics() {
        let device = Default::default();
        let mut generator = Generator::new(4);
        let mut norm = BatchNormConfig::new(4).init::<Training>(&device);
        norm.forward(generator.normal::<Training, 4>([2, 4, 3, 3], &device));
        norm.frozen = true;
        let before = norm.running_mean.value();
        let input: Tensor<Training, 4> = generator.normal([2, 4, 3, 3], &device);
        let expected = norm.valid().forward(input.clone().inner());
        approx(norm.forward(input).inner(), expected.into_data());
        assert_eq!(norm.running_mean.value().into_data(), before.into_data());
    }
}
