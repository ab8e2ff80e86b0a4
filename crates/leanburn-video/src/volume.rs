//! Convolutions over time and space, on frames.
//!
//! Videos stay `[videos * frames, channels, height, width]` through all networks, so that whatever does not look along
//! time works on frames as on images.

use burn::{
    config::Config,
    module::{Module, Param},
    tensor::{Tensor, backend::Backend, module::conv2d, ops::ConvOptions},
};
use leanburn_core::{
    nn::{Initial, picked},
    random::Generator,
};

use crate::branches::BatchNorms;

/// Configuration of a [`Conv3d`]: numbers along time come first, then those of height and width.
#[derive(Config, Debug)]
pub struct Conv3dConfig {
    /// Input channels.
    pub input: usize,
    /// Output channels.
    pub output: usize,
    /// The kernel, along time and along each side.
    pub kernel: [usize; 2],
    /// Step of the kernel. Default: 1
    #[config(default = "[1, 1]")]
    pub stride: [usize; 2],
    /// Zeros around the input. Default: 0
    #[config(default = "[0, 0]")]
    pub padding: [usize; 2],
    /// Groups of channels, a divisor of both. Default: 1
    #[config(default = 1)]
    pub groups: usize,
    /// Whether there is a bias. Default: false
    #[config(default = false)]
    pub bias: bool,
    /// From what the weights are drawn. Default: He et al. by the outputs
    #[config(default = "Initial::KaimingFanOut")]
    pub initial: Initial,
}

impl Conv3dConfig {
    /// The layer with weights drawn from `generator`.
    pub fn init<B: Backend>(&self, generator: &mut Generator, device: &B::Device) -> Conv3d<B> {
        let [time, side] = self.kernel;
        let shape = [self.output, self.input / self.groups, time, side, side];
        let weight = self.initial.weight(shape, generator, device);
        let fan_in = shape[1..].iter().product();
        let bias = self.bias.then(|| self.initial.bias(self.output, fan_in, generator, device));
        Conv3d {
            weight: Param::from_tensor(weight),
            bias: bias.map(Param::from_tensor),
            stride: self.stride,
            padding: self.padding,
            groups: self.groups,
        }
    }

    /// How many frames the layer makes of a number of them.
    pub fn frames(&self, frames: usize) -> usize {
        reduced(frames, self.kernel[0], self.stride[0], self.padding[0])
    }

    /// The height or the width that the layer makes of one.
    pub fn side(&self, side: usize) -> usize {
        reduced(side, self.kernel[1], self.stride[1], self.padding[1])
    }
}

fn reduced(size: usize, kernel: usize, stride: usize, padding: usize) -> usize {
    (size + 2 * padding).checked_sub(kernel).map_or(0, |rest| rest / stride + 1)
}

/// A convolution over time, height and width.
///
/// It is a 2D convolution of frames whose channels hold those of their neighbours: the backends have one that is fast,
/// and a 3D one that is not.
#[derive(Module, Debug)]
pub struct Conv3d<B: Backend> {
    /// `[output, input / groups, time, height, width]`
    pub weight: Param<Tensor<B, 5>>,
    /// `[output]`
    pub bias: Option<Param<Tensor<B, 1>>>,
    stride: [usize; 2],
    padding: [usize; 2],
    groups: usize,
}

impl<B: Backend> Conv3d<B> {
    /// - x: `[videos * frames, channels, height, width]`
    /// - output: the same of the frames, the height and the width that are left
    ///
    /// # Panics
    ///
    /// When the kernel is larger than the padded input, or the first dimension is no multiple of `frames`.
    pub fn forward(&self, x: Tensor<B, 4>, frames: usize) -> Tensor<B, 4> {
        let [output, input, time, height, width] = self.weight.dims();
        let x = neighbours(x, frames, [time, self.stride[0], self.padding[0]]);
        let weight = kernel_of(self.weight.val(), [output, input * time, height, width]);
        // As `forward_pointwise`, for the same reason.
        let (x, stride) =
            if [height, width] == [1, 1] { (picked(x, [self.stride[1]; 2]), 1) } else { (x, self.stride[1]) };
        let options = ConvOptions::new([stride; 2], [self.padding[1]; 2], [1, 1], self.groups);
        conv2d(x, weight, self.bias.as_ref().map(Param::val), options)
    }

    /// The frames that it makes of a number of them.
    pub fn frames(&self, frames: usize) -> usize {
        reduced(frames, self.weight.dims()[2], self.stride[0], self.padding[0])
    }
}

/// A weight as the kernel of a 2D convolution.
///
/// By way of a matrix: on GPUs Burn 0.21 gives the gradient of a kernel in another order of dimensions, and reshapes such a
/// tensor to more of them wrongly where one is 1 (`split_strides` of burn-std).
pub(crate) fn kernel_of<B: Backend, const D: usize>(weight: Tensor<B, D>, shape: [usize; 4]) -> Tensor<B, 4> {
    weight.reshape([shape[0], shape[1..].iter().product()]).reshape(shape)
}

/// The norm of a single branch, folded into the convolution before it.
pub(crate) fn fuse<B: Backend>(conv: &mut Conv3d<B>, norms: &mut Option<BatchNorms<B>>) {
    if let Some([norm]) = norms.as_ref().map(|norms| &norms.branches[..]) {
        let (scale, shift) = norm.scale_and_shift();
        let bias = match &conv.bias {
            Some(bias) => bias.val() * scale.clone() + shift,
            None => shift,
        };
        let output = scale.dims()[0];
        let weight = conv.weight.val() * scale.reshape([output, 1, 1, 1, 1]);
        conv.weight = Param::from_tensor(weight.detach());
        conv.bias = Some(Param::from_tensor(bias.detach()));
        *norms = None;
    }
}

/// The norm of a single branch, folded into the 1x1x1 convolution behind it.
pub(crate) fn fuse_before<B: Backend>(norms: &mut Option<BatchNorms<B>>, conv: &mut Conv3d<B>) {
    if let Some([norm]) = norms.as_ref().map(|norms| &norms.branches[..]) {
        let (scale, shift) = norm.scale_and_shift();
        let [output, input, ..] = conv.weight.dims();
        let weight = conv.weight.val();
        let moved =
            weight.clone().reshape([output, input]).matmul(shift.reshape([input, 1])).reshape([output]);
        let bias = match &conv.bias {
            Some(bias) => bias.val() + moved,
            None => moved,
        };
        conv.weight = Param::from_tensor((weight * scale.reshape([1, input, 1, 1, 1])).detach());
        conv.bias = Some(Param::from_tensor(bias.detach()));
        *norms = None;
    }
}

/// Frames whose channels hold those of `time` frames one behind the other: `[videos * kept, channels * time, height,
/// width]`, the times of a channel side by side.
fn neighbours<B: Backend>(
    x: Tensor<B, 4>,
    frames: usize,
    [time, stride, padding]: [usize; 3],
) -> Tensor<B, 4> {
    if time == 1 && stride == 1 && padding == 0 {
        return x;
    }
    let [count, channels, height, width] = x.dims();
    assert!(count.is_multiple_of(frames), "{count} frames are no multiple of {frames}");
    let videos = count / frames;
    let mut clips = x.reshape([videos, frames, channels, height * width]);
    if padding > 0 {
        let (device, dtype) = (clips.device(), clips.dtype());
        let zeros = Tensor::zeros([videos, padding, channels, height * width], (&device, dtype));
        clips = Tensor::cat(vec![zeros.clone(), clips, zeros], 1);
    }
    let kept = reduced(frames, time, stride, padding);
    let at = |offset: usize| {
        let last = offset + (kept - 1) * stride + 1;
        let step = stride as isize;
        clips.clone().slice_dim(1, burn::tensor::s![offset..last;step])
    };
    if time == 1 {
        return at(0).reshape([videos * kept, channels, height, width]);
    }
    let taps = (0..time).map(|offset| at(offset).unsqueeze_dim::<5>(3)).collect();
    Tensor::cat(taps, 3).reshape([videos * kept, channels * time, height, width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Tolerance, module::conv3d};
    use burn_flex::Flex;

    #[test]
    fn it_is_burns_3d_convolution() {
        let device = Default::default();
        let mut generator = Generator::new(3);
        for (kernel, stride, padding, groups) in [
            ([3, 3], [1, 2], [1, 1], 1),
            ([5, 3], [1, 1], [2, 1], 4),
            ([3, 2], [2, 2], [1, 0], 2),
            ([1, 1], [2, 1], [0, 0], 1),
        ] {
            let config = Conv3dConfig::new(4, 8, kernel)
                .with_stride(stride)
                .with_padding(padding)
                .with_groups(groups)
                .with_bias(true)
                .with_initial(Initial::Uniform);
            let layer = config.init::<Flex>(&mut generator, &device);
            let x: Tensor<Flex, 5> = generator.normal([2, 6, 4, 5, 7], &device);
            let found = layer.forward(x.clone().reshape([12, 4, 5, 7]), 6);
            let options = ConvOptions::new(
                [stride[0], stride[1], stride[1]],
                [padding[0], padding[1], padding[1]],
                [1; 3],
                groups,
            );
            let bias = layer.bias.as_ref().map(Param::val);
            let expected = conv3d(x.swap_dims(1, 2), layer.weight.val(), bias, options).swap_dims(1, 2);
            let [videos, frames, channels, height, width] = expected.dims();
            assert_eq!([config.frames(6), config.side(5), config.side(7)], [frames, height, width]);
            let expected = expected.reshape([videos * frames, channels, height, width]);
            found.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::rel_abs(1e-4, 1e-4));
        }
    }
}
