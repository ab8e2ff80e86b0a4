//! Residual blocks with a temporal shift (TSM: Lin, Gan and Han, 2019), and with what FFN gives each branch.

use burn::{
    module::{Module, Param},
    nn::conv::Conv2d,
    tensor::{Tensor, activation::relu, backend::Backend},
};
use leanburn_core::{
    nn::{ConvConfig, Initial, forward_pointwise},
    random::Generator,
};
use serde::{Deserialize, Serialize};

use crate::{
    branches::{Alter, BatchNorms, Branches},
    resnet::Pass,
    shift::temporal_shift,
};

/// Where a block shifts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// At the input of its first convolution; the shortcut sees the input as it is (`blockres`).
    Residual,
    /// At its input (`block`).
    Block,
}

/// A residual block: basic with two convolutions, a bottleneck with three.
#[derive(Module, Debug)]
pub struct ShiftBlock<B: Backend> {
    /// The first convolution.
    pub conv1: Conv2d<B>,
    /// Its norms; `None` when they are fused, as are the others.
    pub bn1: Option<BatchNorms<B>>,
    /// The second convolution.
    pub conv2: Conv2d<B>,
    /// Its norms.
    pub bn2: Option<BatchNorms<B>>,
    /// The third convolution, of a bottleneck.
    pub conv3: Option<Conv2d<B>>,
    /// Its norms.
    pub bn3: Option<BatchNorms<B>>,
    /// The shortcut's projection, where the shape changes.
    pub downsample_conv: Option<Conv2d<B>>,
    /// Its norms.
    pub downsample_bn: Option<BatchNorms<B>>,
    /// What each branch does to the input of the first convolution.
    pub adaconv: Option<Alter<B, 4>>,
    /// Of how many channels one goes in each direction; `None` without a shift.
    fold_div: Option<usize>,
    #[module(skip)]
    placement: Placement,
}

/// The shape of a block.
#[derive(Debug, Clone, Copy)]
pub struct BlockShape {
    /// Channels of the input.
    pub input: usize,
    /// Channels within it.
    pub planes: usize,
    /// Whether it is a bottleneck, which gives four times as many.
    pub bottleneck: bool,
    /// Step of the 3x3 convolution: the first of a basic block.
    pub stride: usize,
    /// The stage, counted from 1.
    pub stage: usize,
}

impl BlockShape {
    /// Channels of the output.
    pub fn output(&self) -> usize {
        if self.bottleneck { 4 * self.planes } else { self.planes }
    }

    /// Whether the shortcut needs a projection.
    pub fn projects(&self) -> bool {
        self.stride != 1 || self.input != self.output()
    }

    /// Input, output, kernel and stride of each convolution.
    pub(crate) fn convs(&self) -> Vec<[usize; 4]> {
        let Self { input, planes, stride, .. } = *self;
        if self.bottleneck {
            vec![[input, planes, 1, 1], [planes, planes, 3, stride], [planes, 4 * planes, 1, 1]]
        } else {
            vec![[input, planes, 3, stride], [planes, planes, 3, 1]]
        }
    }
}

/// A convolution drawn as torchvision's networks draw theirs.
pub(crate) fn conv<B: Backend>(
    [input, output, kernel, stride]: [usize; 4],
    generator: &mut Generator,
    device: &B::Device,
) -> Conv2d<B> {
    ConvConfig::new(input, output, kernel)
        .with_stride(stride)
        .with_padding(kernel / 2)
        .with_initial(Initial::KaimingFanOut)
        .init(generator, device)
}

impl<B: Backend> ShiftBlock<B> {
    /// A block with weights drawn from `generator`.
    ///
    /// - `fold_div`: of how many channels one goes in each direction; `None` for no shift
    pub fn init(
        shape: BlockShape,
        branches: &Branches,
        fold_div: Option<usize>,
        placement: Placement,
        generator: &mut Generator,
        device: &B::Device,
    ) -> Self {
        let mut layers = shape.convs().into_iter().map(|sizes| {
            (conv(sizes, generator, device), Some(BatchNorms::init(sizes[1], branches, device)))
        });
        let (Some((conv1, bn1)), Some((conv2, bn2))) = (layers.next(), layers.next()) else {
            unreachable!("a block has at least two convolutions")
        };
        let (conv3, bn3) = layers.next().unzip();
        drop(layers);
        let projection = shape.projects().then(|| {
            let sizes = [shape.input, shape.output(), 1, shape.stride];
            (conv(sizes, generator, device), BatchNorms::init(shape.output(), branches, device))
        });
        let (downsample_conv, downsample_bn) = projection.unzip();
        let adaconv = Alter::init(shape.input, shape.stage, branches, generator, device);
        Self {
            conv1,
            bn1,
            conv2,
            bn2,
            conv3,
            bn3: bn3.flatten(),
            downsample_conv,
            downsample_bn,
            adaconv,
            fold_div,
            placement,
        }
    }

    /// - input: `[batch * frames, channels, height, width]`
    pub fn forward(&self, input: Tensor<B, 4>, pass: Pass) -> Tensor<B, 4> {
        let shifted = |x: Tensor<B, 4>| match self.fold_div {
            Some(div) => {
                let fold = x.dims()[1] / div;
                temporal_shift(x, pass.segments, fold)
            }
            None => x,
        };
        let (input, mut x) = match self.placement {
            Placement::Residual => (input.clone(), shifted(input)),
            Placement::Block => {
                let shifted = shifted(input);
                (shifted.clone(), shifted)
            }
        };
        if let Some(adaconv) = &self.adaconv {
            x = adaconv.forward(x, pass.branch);
        }
        let x = relu(normalised(self.conv1.forward(x), self.bn1.as_ref(), pass.branch));
        let mut x = normalised(self.conv2.forward(x), self.bn2.as_ref(), pass.branch);
        if let Some(conv3) = &self.conv3 {
            x = normalised(conv3.forward(relu(x)), self.bn3.as_ref(), pass.branch);
        }
        let shortcut = match &self.downsample_conv {
            Some(conv) => {
                normalised(forward_pointwise(conv, input), self.downsample_bn.as_ref(), pass.branch)
            }
            None => input,
        };
        relu(x + shortcut)
    }

    pub(crate) fn norms_mut(&mut self) -> Vec<&mut BatchNorms<B>> {
        [&mut self.bn1, &mut self.bn2, &mut self.bn3, &mut self.downsample_bn]
            .into_iter()
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
        fuse(&mut self.conv2, &mut self.bn2);
        if let Some(conv3) = &mut self.conv3 {
            fuse(conv3, &mut self.bn3);
        }
        if let Some(conv) = &mut self.downsample_conv {
            fuse(conv, &mut self.downsample_bn);
        }
    }
}

/// A branch's alteration folded into the convolution behind it where that is possible; else the branch's alone.
pub(crate) fn fold_branch<B: Backend>(
    adaconv: Option<Alter<B, 4>>,
    conv: &mut Conv2d<B>,
    branch: usize,
) -> Option<Alter<B, 4>> {
    let adaconv = adaconv?;
    let Some(scale) = adaconv.scale(branch) else { return Some(adaconv.into_branch(branch)) };
    let channels = scale.dims()[0];
    let weight = conv.weight.val() * scale.reshape([1, channels, 1, 1]);
    conv.weight = Param::from_tensor(weight.detach());
    None
}

pub(crate) fn normalised<B: Backend>(
    x: Tensor<B, 4>,
    norms: Option<&BatchNorms<B>>,
    branch: usize,
) -> Tensor<B, 4> {
    match norms {
        Some(norms) => norms.forward(x, branch),
        None => x,
    }
}

/// The norm of a single branch, folded into the convolution before it.
pub(crate) fn fuse<B: Backend>(conv: &mut Conv2d<B>, norms: &mut Option<BatchNorms<B>>) {
    if let Some([norm]) = norms.as_ref().map(|norms| &norms.branches[..]) {
        *conv = norm.fuse_conv(conv);
        *norms = None;
    }
}
