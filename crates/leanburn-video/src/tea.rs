//! Blocks of TEA, temporal excitation and aggregation (Li et al., 2020), on Res2Net.

use burn::{
    module::{Module, Param},
    nn::conv::Conv2d,
    tensor::{
        Tensor,
        activation::{relu, sigmoid},
        backend::Backend,
        module::avg_pool2d,
    },
};
use leanburn_core::{
    nn::{ConvConfig, Initial, forward_pointwise, scale_channels, scale_samples},
    random::Generator,
};

use crate::{
    branches::{Alter, BatchNorms, Branches},
    resnet::Pass,
    tsm::{BlockShape, conv, fold_branch, fuse, normalised},
};

/// Parts that a block's channels are split into.
const SCALE: usize = 4;
/// Channels of a part for 64 planes.
const BASE_WIDTH: usize = 26;
/// By what motion excitation divides the channels.
const REDUCTION: usize = 16;

/// A depthwise convolution over three frames.
#[derive(Module, Debug)]
pub struct TemporalConv<B: Backend> {
    /// `[channels, 1, 3]`: for the frame before, the frame itself and the frame after it.
    pub weight: Param<Tensor<B, 3>>,
}

/// The learned shift of a part.
#[derive(Module, Debug)]
pub struct PartShift<B: Backend> {
    /// Its convolution.
    pub conv: TemporalConv<B>,
}

impl<B: Backend> PartShift<B> {
    /// Passes frames on as they are, or, as a shift, half of the channels of the next and half of the previous frame.
    fn init(channels: usize, shifts: bool, device: &B::Device) -> Self {
        let tap = |channel: usize| match (shifts, channel < channels / 2) {
            (false, _) => 1,
            (true, true) => 2,
            // An odd channel is left where it is.
            (true, false) if channel >= channels / 2 * 2 => 1,
            (true, false) => 0,
        };
        let taps: Vec<f32> = (0..channels)
            .flat_map(|channel| (0..3).map(move |place| (tap(channel), place)))
            .map(|(tap, place)| if tap == place { 1.0 } else { 0.0 })
            .collect();
        let weight = Tensor::<B, 1>::from_floats(&taps[..], device).reshape([channels, 1, 3]);
        Self { conv: TemporalConv { weight: Param::from_tensor(weight) } }
    }

    /// - x: `[batch * frames, channels, height, width]`
    fn forward(&self, x: Tensor<B, 4>, frames: usize) -> Tensor<B, 4> {
        let [count, channels, height, width] = x.dims();
        let weight = self.conv.weight.val().reshape([channels, 3]);
        let tap = |place: usize| {
            let scale = weight.clone().narrow(1, place, 1).reshape([channels]);
            scale_channels(x.clone(), scale).reshape([count / frames, frames, channels * height * width])
        };
        let here = tap(1);
        if frames == 1 {
            return here.reshape([count, channels, height, width]);
        }
        let zeros = here.zeros_like().narrow(1, 0, 1);
        let before = Tensor::cat(vec![zeros.clone(), tap(0).narrow(1, 0, frames - 1)], 1);
        let after = Tensor::cat(vec![tap(2).narrow(1, 1, frames - 1), zeros], 1);
        (before + here + after).reshape([count, channels, height, width])
    }
}

/// Motion excitation: channels in which neighbouring frames differ are raised.
#[derive(Module, Debug)]
pub struct MotionExcitation<B: Backend> {
    /// To fewer channels.
    pub conv1: Conv2d<B>,
    /// Its norms.
    pub bn1: Option<BatchNorms<B>>,
    /// Depthwise, on the later frame.
    pub conv2: Conv2d<B>,
    /// Back to all channels.
    pub conv3: Conv2d<B>,
    /// Its norms.
    pub bn3: Option<BatchNorms<B>>,
}

impl<B: Backend> MotionExcitation<B> {
    fn init(channels: usize, branches: &Branches, generator: &mut Generator, device: &B::Device) -> Self {
        let reduced = channels / REDUCTION;
        let conv2 = ConvConfig::new(reduced, reduced, 3)
            .with_padding(1)
            .with_groups(reduced)
            .with_initial(Initial::KaimingFanOut);
        Self {
            conv1: conv([channels, reduced, 1, 1], generator, device),
            bn1: Some(BatchNorms::init(reduced, branches, device)),
            conv2: conv2.init(generator, device),
            conv3: conv([reduced, channels, 1, 1], generator, device),
            bn3: Some(BatchNorms::init(channels, branches, device)),
        }
    }

    /// - x: `[batch * frames, channels, height, width]`
    fn forward(&self, x: Tensor<B, 4>, pass: Pass) -> Tensor<B, 4> {
        let [count, channels, height, width] = x.dims();
        let frames = pass.segments;
        let reduced = normalised(self.conv1.forward(x.clone()), self.bn1.as_ref(), pass.branch);
        let later = self.conv2.forward(reduced.clone());
        let width_in = reduced.dims()[1];
        let clips = |x: Tensor<B, 4>| x.reshape([count / frames, frames, width_in, height * width]);
        let (reduced, later) = (clips(reduced), clips(later));
        let none = reduced.zeros_like().narrow(1, 0, 1);
        let motion = if frames == 1 {
            none
        } else {
            let motion = later.narrow(1, 1, frames - 1) - reduced.narrow(1, 0, frames - 1);
            Tensor::cat(vec![motion, none], 1)
        };
        let mean = motion.mean_dim(3).reshape([count, width_in, 1, 1]);
        let excited = normalised(self.conv3.forward(mean), self.bn3.as_ref(), pass.branch);
        // x + x * (sigmoid - 0.5)
        let scale = (sigmoid(excited) + 0.5).reshape([count * channels]);
        scale_samples(x.reshape([count * channels, height * width]), scale)
            .reshape([count, channels, height, width])
    }
}

/// A block of TEA.
#[derive(Module, Debug)]
pub struct TeaBlock<B: Backend> {
    /// To the parts' channels.
    pub conv1: Conv2d<B>,
    /// Its norms.
    pub bn1: Option<BatchNorms<B>>,
    /// Motion excitation.
    pub me: MotionExcitation<B>,
    /// The learned shift of each part.
    pub shifts: Vec<PartShift<B>>,
    /// The convolution of each part but the last.
    pub convs: Vec<Conv2d<B>>,
    /// Their norms.
    pub bns: Vec<Option<BatchNorms<B>>>,
    /// To the block's output.
    pub conv3: Conv2d<B>,
    /// Its norms.
    pub bn3: Option<BatchNorms<B>>,
    /// The shortcut's projection, where the shape changes.
    pub downsample_conv: Option<Conv2d<B>>,
    /// Its norms.
    pub downsample_bn: Option<BatchNorms<B>>,
    /// What each branch does to the input, which the published network leaves as it is.
    pub adaconv: Option<Alter<B, 4>>,
    /// Whether it is the first of its stage.
    first: bool,
    stride: usize,
}

impl<B: Backend> TeaBlock<B> {
    /// A block with weights drawn from `generator`.
    ///
    /// - first: whether it is the first of its stage
    pub fn init(
        shape: BlockShape,
        first: bool,
        branches: &Branches,
        generator: &mut Generator,
        device: &B::Device,
    ) -> Self {
        let width = part_width(shape.planes);
        let norms = |channels| Some(BatchNorms::init(channels, branches, device));
        let output = shape.output();
        Self {
            conv1: conv([shape.input, SCALE * width, 1, 1], generator, device),
            bn1: norms(SCALE * width),
            me: MotionExcitation::init(SCALE * width, branches, generator, device),
            shifts: (1..=SCALE).map(|part| PartShift::init(width, part == SCALE, device)).collect(),
            convs: (1..SCALE).map(|_| conv([width, width, 3, shape.stride], generator, device)).collect(),
            bns: (1..SCALE).map(|_| norms(width)).collect(),
            conv3: conv([SCALE * width, output, 1, 1], generator, device),
            bn3: norms(output),
            downsample_conv: shape
                .projects()
                .then(|| conv([shape.input, output, 1, shape.stride], generator, device)),
            downsample_bn: if shape.projects() { norms(output) } else { None },
            adaconv: Alter::init(shape.input, shape.stage, branches, generator, device),
            first,
            stride: shape.stride,
        }
    }

    /// - input: `[batch * frames, channels, height, width]`
    pub fn forward(&self, input: Tensor<B, 4>, pass: Pass) -> Tensor<B, 4> {
        let branch = pass.branch;
        let x = match &self.adaconv {
            Some(adaconv) => adaconv.forward(input.clone(), branch),
            None => input.clone(),
        };
        let x = relu(normalised(self.conv1.forward(x), self.bn1.as_ref(), branch));
        let x = self.me.forward(x, pass);
        let mut parts = Vec::with_capacity(SCALE);
        let split = x.chunk(SCALE, 1);
        for (place, (conv, norms)) in self.convs.iter().zip(&self.bns).enumerate() {
            let mut part = split[place].clone();
            if let (Some(previous), false) = (parts.last(), self.first) {
                part = part + Tensor::clone(previous);
            }
            let part = conv.forward(self.shifts[place].forward(part, pass.segments));
            parts.push(relu(normalised(part, norms.as_ref(), branch)));
        }
        let mut last = self.shifts[SCALE - 1].forward(split[SCALE - 1].clone(), pass.segments);
        if self.first {
            last = avg_pool2d(last, [3, 3], [self.stride; 2], [1, 1], true, false);
        }
        parts.push(last);
        let x = normalised(self.conv3.forward(Tensor::cat(parts, 1)), self.bn3.as_ref(), branch);
        let shortcut = match &self.downsample_conv {
            Some(conv) => normalised(forward_pointwise(conv, input), self.downsample_bn.as_ref(), branch),
            None => input,
        };
        relu(x + shortcut)
    }

    pub(crate) fn norms_mut(&mut self) -> Vec<&mut BatchNorms<B>> {
        [&mut self.bn1, &mut self.me.bn1, &mut self.me.bn3, &mut self.bn3, &mut self.downsample_bn]
            .into_iter()
            .chain(&mut self.bns)
            .filter_map(Option::as_mut)
            .collect()
    }

    pub(crate) fn into_branch(mut self, branch: usize) -> Self {
        for norms in self.norms_mut() {
            norms.keep(branch);
        }
        self.adaconv = fold_branch(self.adaconv, &mut self.conv1, branch);
        self
    }

    pub(crate) fn fuse(&mut self) {
        fuse(&mut self.conv1, &mut self.bn1);
        fuse(&mut self.me.conv1, &mut self.me.bn1);
        fuse(&mut self.me.conv3, &mut self.me.bn3);
        for (conv, norms) in self.convs.iter_mut().zip(&mut self.bns) {
            fuse(conv, norms);
        }
        fuse(&mut self.conv3, &mut self.bn3);
        if let Some(conv) = &mut self.downsample_conv {
            fuse(conv, &mut self.downsample_bn);
        }
    }
}

/// Weights of a block's convolutions with the map each is used on: 0 before the stride, 1 after it, 2 of one position.
pub(crate) fn weights(shape: &BlockShape, first: bool) -> Vec<(usize, usize)> {
    let width = part_width(shape.planes);
    let (all, reduced) = (SCALE * width, SCALE * width / REDUCTION);
    let mut weights = vec![
        (shape.input * all, 0),
        (all * reduced, 0),
        (reduced * 9, 0),
        (reduced * all, 2),
        (width * 3 * SCALE, 0),
        ((SCALE - 1) * width * width * 9, 1),
        (all * shape.output(), 1),
    ];
    if first && shape.projects() {
        weights.push((shape.input * shape.output(), 1));
    }
    weights
}

/// Channels of all of a block's norms of a branch.
pub(crate) fn norm_channels(shape: &BlockShape, first: bool) -> usize {
    let width = part_width(shape.planes);
    let all = SCALE * width;
    let projection = if first && shape.projects() { shape.output() } else { 0 };
    all + all / REDUCTION + all + (SCALE - 1) * width + shape.output() + projection
}

/// Whether motion excitation has a channel in a network of this width.
pub(crate) fn has_channels(width: usize) -> bool {
    SCALE * part_width(width) >= REDUCTION
}

/// Channels of a part.
fn part_width(planes: usize) -> usize {
    planes * BASE_WIDTH / 64
}
