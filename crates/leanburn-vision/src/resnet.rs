//! Residual networks (He et al., 2016): torchvision's, for ImageNet's sizes, and those for CIFAR.

use burn::{
    config::Config,
    module::{Module, Param},
    nn::{Linear, PaddingConfig2d, conv::Conv2d, pool::MaxPool2d, pool::MaxPool2dConfig},
    tensor::{Tensor, activation::relu, backend::Backend, s},
};
use leanburn_core::{
    Error, Result,
    architecture::{Activation, Conv, Graph, GraphBuilder},
    checkpoint::Checkpoint,
    nn::{BatchNorm, BatchNormConfig, ConvConfig, Initial, forward_pointwise},
    random::Generator,
};
use serde::{Deserialize, Serialize};

use crate::{Architecture, Classifier, sequential::global_mean};

/// What comes before the first stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// A 7x7 convolution with stride 2, then a 3x3 maximum pooling with stride 2.
    Imagenet,
    /// A 3x3 convolution.
    Cifar,
}

/// What is added to the output of a stage's first block; the other blocks add their input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortcut {
    /// Its input.
    Identity,
    /// Its input through a 1x1 convolution and batch norm (option B, `downsample`).
    Projection,
    /// Every `stride`-th position of its input (option A): output channel `i` has input channel `sources[i]`, or zeros.
    Pad {
        /// By output channel.
        sources: Vec<Option<usize>>,
    },
}

impl Shortcut {
    /// Option A as published: the input's channels in the middle, and zeros at both sides.
    pub fn pad(input: usize, output: usize) -> Self {
        let front = output.saturating_sub(input) / 2;
        let source = |channel: usize| channel.checked_sub(front).filter(|&source| source < input);
        Self::Pad { sources: (0..output).map(source).collect() }
    }
}

/// A stage: blocks on maps of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageConfig {
    /// Channels that every block of the stage gives.
    pub width: usize,
    /// Step of the first block.
    pub stride: usize,
    /// What is added to the first block's output.
    pub shortcut: Shortcut,
    /// For each block the widths within it: one in a basic block (two 3x3 convolutions), two in a bottleneck (1x1,
    /// 3x3, 1x1).
    pub blocks: Vec<Vec<usize>>,
}

/// Configuration of a [`ResNet`].
#[derive(Config, Debug)]
pub struct ResNetConfig {
    /// The number of classes.
    pub num_classes: usize,
    /// What comes before the first stage.
    pub stem: Stem,
    /// Channels that the stem gives.
    pub stem_width: usize,
    /// The stages.
    pub stages: Vec<StageConfig>,
    /// Channels of the input. Default: 3
    #[config(default = 3)]
    pub in_channels: usize,
}

impl ResNetConfig {
    /// torchvision's ResNet of a depth.
    ///
    /// - depth: 18, 34, 50, 101 or 152
    ///
    /// # Errors
    ///
    /// When there is no such depth.
    pub fn imagenet(depth: usize, num_classes: usize) -> Result<Self> {
        let (counts, bottleneck) = match depth {
            18 => ([2, 2, 2, 2], false),
            34 => ([3, 4, 6, 3], false),
            50 => ([3, 4, 6, 3], true),
            101 => ([3, 4, 23, 3], true),
            152 => ([3, 8, 36, 3], true),
            _ => return Err(Error::setting("depth", "18, 34, 50, 101 or 152", depth)),
        };
        Ok(Self::torchvision(&counts, bottleneck, num_classes))
    }

    /// torchvision's ResNet with as many blocks in each stage.
    pub fn torchvision(blocks: &[usize], bottleneck: bool, num_classes: usize) -> Self {
        let stages = blocks.iter().enumerate().map(|(stage, &count)| {
            let inner = 64 << stage;
            StageConfig {
                width: if bottleneck { 4 * inner } else { inner },
                stride: if stage == 0 { 1 } else { 2 },
                shortcut: if stage == 0 && !bottleneck { Shortcut::Identity } else { Shortcut::Projection },
                blocks: vec![if bottleneck { vec![inner; 2] } else { vec![inner] }; count],
            }
        });
        Self::new(num_classes, Stem::Imagenet, 64, stages.collect())
    }

    /// The ResNet for CIFAR of a depth, with option A, or with `projection` option B.
    ///
    /// - depth: 20, 32, 44, 56, 110, or any other `6 n + 2`
    ///
    /// # Errors
    ///
    /// When the depth is another.
    pub fn cifar(depth: usize, num_classes: usize, projection: bool) -> Result<Self> {
        match depth.checked_sub(2) {
            Some(layers) if layers > 0 && layers % 6 == 0 => {
                Ok(Self::cifar_blocks(&[layers / 6; 3], 16, num_classes, projection))
            }
            _ => Err(Error::setting("depth", "6 n + 2, such as 20, 32, 44, 56 or 110", depth)),
        }
    }

    /// The ResNet for CIFAR with as many blocks in each stage.
    ///
    /// - width: of the stem and of the first stage; each further stage has twice as many channels (`resnet56x4`: 64)
    pub fn cifar_blocks(blocks: &[usize], width: usize, num_classes: usize, projection: bool) -> Self {
        let stages = blocks.iter().enumerate().map(|(stage, &count)| {
            let (input, output) = (width << stage.saturating_sub(1), width << stage);
            StageConfig {
                width: output,
                stride: if stage == 0 { 1 } else { 2 },
                shortcut: match stage {
                    0 => Shortcut::Identity,
                    _ if projection => Shortcut::Projection,
                    _ => Shortcut::pad(input, output),
                },
                blocks: vec![vec![output]; count],
            }
        });
        Self::new(num_classes, Stem::Cifar, width, stages.collect())
    }

    /// The network of a checkpoint, whatever was pruned of it: the names tell the blocks, the shapes their widths.
    ///
    /// # Errors
    ///
    /// When it is no `ResNet`, or when channels of a stage were pruned beside shortcuts without weights: only the
    /// configuration tells which.
    pub fn infer(checkpoint: &Checkpoint) -> Result<Self> {
        let shape = |name: &str| {
            checkpoint.shape(&format!("{name}.weight")).ok_or_else(|| {
                Error::data(format!("checkpoint, `{name}.weight`"), "a weight of a ResNet", "no such tensor")
            })
        };
        let has = |name: &str| checkpoint.shape(&format!("{name}.weight")).is_some();
        let &[stem_width, in_channels, kernel, _] = shape("conv1")? else {
            return Err(Error::data("checkpoint, `conv1.weight`", "four dimensions", "others"));
        };
        let stem = if kernel == 7 { Stem::Imagenet } else { Stem::Cifar };
        let mut stages = Vec::new();
        let mut input = stem_width;
        for stage in (1..).take_while(|stage| has(&format!("layer{stage}.0.conv1"))) {
            let mut blocks = Vec::new();
            let mut width = 0;
            for block in (0..).take_while(|block| has(&format!("layer{stage}.{block}.conv1"))) {
                let block = format!("layer{stage}.{block}");
                let convs = (1..=3).map(|conv| format!("{block}.conv{conv}")).filter(|conv| has(conv));
                let widths = convs.map(|conv| Ok(shape(&conv)?.first().copied().unwrap_or(0)));
                let mut widths = widths.collect::<Result<Vec<usize>>>()?;
                width = widths.pop().unwrap_or(0);
                blocks.push(widths);
            }
            let shortcut = if has(&format!("layer{stage}.0.downsample.0")) {
                Shortcut::Projection
            } else if width == input {
                Shortcut::Identity
            } else if width == 2 * input && stem_width.is_multiple_of(16) {
                Shortcut::pad(input, width)
            } else {
                let expected =
                    "16 channels or a multiple, doubled by each stage, or the configuration beside the file";
                return Err(Error::data(format!("checkpoint, stage {stage}"), expected, width));
            };
            stages.push(StageConfig { width, stride: if stage == 1 { 1 } else { 2 }, shortcut, blocks });
            input = width;
        }
        let num_classes = shape(if stem == Stem::Imagenet { "fc" } else { "linear" })?[0];
        let config = Self::new(num_classes, stem, stem_width, stages).with_in_channels(in_channels);
        config.check()?;
        Ok(config)
    }

    /// A checkpoint of a CIFAR ResNet in the lottery-ticket form (`conv`, `bn`, `blocks.I`, `shortcut`, `fc`; option B),
    /// under the names of this one. A block with a shortcut of its own begins a stage.
    ///
    /// # Errors
    ///
    /// When two tensors would have one name.
    pub fn from_lottery_names(checkpoint: Checkpoint) -> Result<Checkpoint> {
        let blocks = checkpoint.names().filter(|name| name.ends_with(".conv1.weight")).count();
        let begins = |block: &usize| checkpoint.shape(&format!("blocks.{block}.shortcut.0.weight")).is_some();
        let starts: Vec<usize> = (0..blocks).filter(|block| *block == 0 || begins(block)).collect();
        checkpoint.renamed(|name| {
            let Some((block, rest)) = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'))
            else {
                return match name.split_once('.') {
                    Some(("conv", rest)) => format!("conv1.{rest}"),
                    Some(("bn", rest)) => format!("bn1.{rest}"),
                    Some(("fc", rest)) => format!("linear.{rest}"),
                    _ => name.to_owned(),
                };
            };
            let block: usize = block.parse().unwrap_or(0);
            let stage = starts.iter().filter(|start| **start <= block).count();
            let first = stage.checked_sub(1).map_or(0, |stage| starts[stage]);
            format!("layer{stage}.{}.{}", block - first, rest.replace("shortcut.", "downsample."))
        })
    }

    /// Checks that every stage has blocks, all of one kind, and that widths fit.
    fn check(&self) -> Result<()> {
        let mut input = self.stem_width;
        if self.stages.is_empty() {
            return Err(Error::setting("stages", "at least one", "none"));
        }
        for (index, stage) in self.stages.iter().enumerate() {
            let field = |name: &str| format!("stages[{index}].{name}");
            if stage.blocks.is_empty() || stage.blocks.iter().any(|inner| !(1..=2).contains(&inner.len())) {
                let expected = "blocks with one width within them, or two";
                return Err(Error::setting(field("blocks"), expected, format!("{:?}", stage.blocks)));
            }
            if stage.width == 0 || stage.blocks.iter().flatten().any(|&width| width == 0) {
                return Err(Error::setting(field("blocks"), "widths above 0", "0"));
            }
            match &stage.shortcut {
                Shortcut::Identity if input != stage.width || stage.stride != 1 => {
                    let expected = "a projection or padding where the width or the size changes";
                    return Err(Error::setting(field("shortcut"), expected, "identity"));
                }
                Shortcut::Pad { sources }
                    if sources.len() != stage.width || sources.iter().flatten().any(|&s| s >= input) =>
                {
                    let expected = format!("{} sources below {input}", stage.width);
                    return Err(Error::setting(field("shortcut"), expected, format!("{sources:?}")));
                }
                _ => {}
            }
            input = stage.width;
        }
        Ok(())
    }

    /// The name of the last layer.
    fn classifier(&self) -> &'static str {
        match self.stem {
            Stem::Imagenet => "fc",
            Stem::Cifar => "linear",
        }
    }

    fn initial(&self) -> Initial {
        match self.stem {
            Stem::Imagenet => Initial::KaimingFanOut,
            Stem::Cifar => Initial::KaimingFanIn,
        }
    }
}

/// Kernel, stride and padding of a block's convolutions.
fn block_convs(inner: usize, stride: usize) -> Vec<(usize, usize, usize)> {
    match inner {
        1 => vec![(3, stride, 1), (3, 1, 1)],
        // torchvision's: the stride is the 3x3 convolution's.
        _ => vec![(1, 1, 0), (3, stride, 1), (1, 1, 0)],
    }
}

impl Architecture for ResNetConfig {
    type Network<B: Backend> = ResNet<B>;

    fn init<B: Backend>(&self, generator: &mut Generator, device: &B::Device) -> Result<ResNet<B>> {
        self.check()?;
        let initial = self.initial();
        let (kernel, stride, padding) = if self.stem == Stem::Imagenet { (7, 2, 3) } else { (3, 1, 1) };
        let conv1 = ConvConfig::new(self.in_channels, self.stem_width, kernel)
            .with_stride(stride)
            .with_padding(padding)
            .with_initial(initial)
            .init(generator, device);
        let pool = || {
            let padding = PaddingConfig2d::Explicit(1, 1, 1, 1);
            MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).with_padding(padding).init()
        };
        let mut input = self.stem_width;
        let mut stages = Vec::new();
        for stage in &self.stages {
            let mut blocks = Vec::new();
            for (index, inner) in stage.blocks.iter().enumerate() {
                let stride = if index == 0 { stage.stride } else { 1 };
                let shortcut = if index == 0 { &stage.shortcut } else { &Shortcut::Identity };
                let widths = [inner, &[stage.width][..]].concat();
                blocks.push(Block::init(input, &widths, stride, shortcut, initial, generator, device));
                input = stage.width;
            }
            stages.push(blocks);
        }
        let linear = match self.stem {
            Stem::Imagenet => Initial::Uniform,
            Stem::Cifar => Initial::KaimingFanIn,
        };
        let weight = linear.weight::<B, 2>([self.num_classes, input], generator, device);
        let bias = Initial::Uniform.bias(self.num_classes, input, generator, device);
        Ok(ResNet {
            conv1,
            bn1: Some(BatchNormConfig::new(self.stem_width).init(device)),
            maxpool: (self.stem == Stem::Imagenet).then(pool),
            stages,
            fc: Linear {
                weight: Param::from_tensor(weight.transpose()),
                bias: Some(Param::from_tensor(bias)),
            },
        })
    }

    fn graph(&self, size: [usize; 2]) -> Result<Graph> {
        self.check()?;
        let mut graph = GraphBuilder::new();
        let x = graph.input(self.in_channels, size);
        let conv = Conv::new(self.stem_width, 3).with_padding(1);
        let imagenet = Conv::new(self.stem_width, 7).with_stride(2).with_padding(3);
        let is_imagenet = self.stem == Stem::Imagenet;
        let mut x = graph.conv("conv1", &x, if is_imagenet { imagenet } else { conv })?;
        graph.batch_norm("bn1", &x)?;
        if is_imagenet {
            x = x.pooled_over(3, 2, 1)?;
        }
        for (index, stage) in self.stages.iter().enumerate() {
            for (block, inner) in stage.blocks.iter().enumerate() {
                let name = format!("layer{}.{block}", index + 1);
                let stride = if block == 0 { stage.stride } else { 1 };
                let shortcut = if block == 0 { &stage.shortcut } else { &Shortcut::Identity };
                let widths = [inner, &[stage.width][..]].concat();
                x = block_graph(&mut graph, &x, &name, &widths, stride, shortcut)?;
            }
        }
        let x = graph.linear(self.classifier(), &x.pooled(), self.num_classes, true);
        Ok(graph.finish(&x))
    }

    fn published_name(&self, path: &str) -> String {
        let name = if let Some(rest) = path.strip_prefix("fc.") {
            format!("{}.{rest}", self.classifier())
        } else {
            match path.strip_prefix("stages.").and_then(|rest| rest.split_once('.')) {
                Some((stage, rest)) => {
                    let stage: usize = stage.parse().unwrap_or_default();
                    format!("layer{}.{rest}", stage + 1)
                }
                None => path.to_owned(),
            }
        };
        name.replace("downsample.conv.", "downsample.0.").replace("downsample.bn.", "downsample.1.")
    }
}

/// A block's part of the graph.
fn block_graph(
    graph: &mut GraphBuilder,
    input: &Activation,
    name: &str,
    widths: &[usize],
    stride: usize,
    shortcut: &Shortcut,
) -> Result<Activation> {
    let mut x = input.clone();
    let convs = block_convs(widths.len() - 1, stride);
    for (index, (&width, (kernel, stride, padding))) in widths.iter().zip(convs).enumerate() {
        let conv = Conv::new(width, kernel).with_stride(stride).with_padding(padding);
        x = graph.conv(&format!("{name}.conv{}", index + 1), &x, conv)?;
        graph.batch_norm(&format!("{name}.bn{}", index + 1), &x)?;
    }
    let added = match shortcut {
        Shortcut::Identity => input.clone(),
        Shortcut::Projection => {
            let conv = Conv::new(x.channels(), 1).with_stride(stride);
            let added = graph.conv(&format!("{name}.downsample.0"), input, conv)?;
            graph.batch_norm(&format!("{name}.downsample.1"), &added)?;
            added
        }
        Shortcut::Pad { sources } => input.rearranged(sources.len(), stride),
    };
    graph.add(&x, &added)
}

/// A residual network, made by a [`ResNetConfig`].
#[derive(Module, Debug)]
pub struct ResNet<B: Backend> {
    /// The stem's convolution.
    pub conv1: Conv2d<B>,
    /// The stem's norm; `None` when it is fused.
    pub bn1: Option<BatchNorm<B>>,
    /// The stem's pooling.
    pub maxpool: Option<MaxPool2d>,
    /// The blocks of each stage (`layer1`, `layer2`, ...).
    pub stages: Vec<Vec<Block<B>>>,
    /// The classifier (`fc`, of CIFAR's networks `linear`).
    pub fc: Linear<B>,
}

impl<B: Backend> ResNet<B> {
    /// What the stem gives to the first stage.
    ///
    /// - images: `[batch, channels, height, width]`
    /// - output: `[batch, stem width, height, width]`, of which ImageNet's stem leaves a quarter of each side
    pub fn forward_stem(&self, images: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = relu(normalised(self.conv1.forward(images), self.bn1.as_ref()));
        match &self.maxpool {
            Some(pool) => pool.forward(x),
            None => x,
        }
    }

    /// The features that are classified: the mean of each map of the last stage.
    ///
    /// - images: `[batch, channels, height, width]`
    /// - output: `[batch, width of the last stage]`
    pub fn forward_features(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        let x = self.forward_stem(images);
        global_mean(self.stages.iter().flatten().fold(x, |x, block| block.forward(x)))
    }
}

impl<B: Backend> Classifier<B> for ResNet<B> {
    fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        self.fc.forward(self.forward_features(images))
    }

    fn fuse(mut self) -> Self {
        fuse(&mut self.conv1, &mut self.bn1);
        for block in self.stages.iter_mut().flatten() {
            fuse(&mut block.conv1, &mut block.bn1);
            fuse(&mut block.conv2, &mut block.bn2);
            if let Some(conv3) = &mut block.conv3 {
                fuse(conv3, &mut block.bn3);
            }
            if let Some(downsample) = &mut block.downsample {
                fuse(&mut downsample.conv, &mut downsample.bn);
            }
        }
        self
    }

    fn with_frozen_norms(mut self, frozen: bool) -> Self {
        let blocks = self.stages.iter_mut().flatten().flat_map(|block| {
            let downsample = block.downsample.as_mut().and_then(|downsample| downsample.bn.as_mut());
            [block.bn1.as_mut(), block.bn2.as_mut(), block.bn3.as_mut(), downsample]
        });
        for norm in blocks.flatten().chain(self.bn1.as_mut()) {
            norm.frozen = frozen;
        }
        self
    }
}

/// A residual block: basic with two convolutions, a bottleneck with three.
#[derive(Module, Debug)]
pub struct Block<B: Backend> {
    /// The first convolution.
    pub conv1: Conv2d<B>,
    /// Its norm; `None` when it is fused, as are the others.
    pub bn1: Option<BatchNorm<B>>,
    /// The second convolution.
    pub conv2: Conv2d<B>,
    /// Its norm.
    pub bn2: Option<BatchNorm<B>>,
    /// The third convolution, of a bottleneck.
    pub conv3: Option<Conv2d<B>>,
    /// Its norm.
    pub bn3: Option<BatchNorm<B>>,
    /// The projection of the shortcut.
    pub downsample: Option<Downsample<B>>,
    /// The padding of the shortcut.
    pad: Option<PadShortcut>,
}

/// The projection of a shortcut: a 1x1 convolution and its norm.
#[derive(Module, Debug)]
pub struct Downsample<B: Backend> {
    /// The convolution (`downsample.0`).
    pub conv: Conv2d<B>,
    /// Its norm (`downsample.1`); `None` when it is fused.
    pub bn: Option<BatchNorm<B>>,
}

/// A shortcut without weights.
#[derive(Module, Clone, Debug)]
struct PadShortcut {
    stride: usize,
    #[module(skip)]
    sources: Vec<Option<usize>>,
}

impl PadShortcut {
    fn forward<B: Backend>(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let step = self.stride as i32;
        let x = x.slice(s![.., .., ..;step, ..;step]);
        let [batch, _, height, width] = x.dims();
        // Runs of neighbouring sources, and of zeros, are taken at once.
        let follows = |a: &Option<usize>, b: &Option<usize>| match (a, b) {
            (Some(a), Some(b)) => a + 1 == *b,
            (a, b) => a.is_none() && b.is_none(),
        };
        let parts = self.sources.chunk_by(follows).map(|run| match run[0] {
            Some(first) => x.clone().narrow(1, first, run.len()),
            None => Tensor::zeros([batch, run.len(), height, width], (&x.device(), x.dtype())),
        });
        Tensor::cat(parts.collect(), 1)
    }
}

impl<B: Backend> Block<B> {
    fn init(
        input: usize,
        widths: &[usize],
        stride: usize,
        shortcut: &Shortcut,
        initial: Initial,
        generator: &mut Generator,
        device: &B::Device,
    ) -> Self {
        let mut inputs = input;
        let shapes = widths.iter().zip(block_convs(widths.len() - 1, stride));
        let mut layers = shapes.map(|(&width, (kernel, stride, padding))| {
            let conv = ConvConfig::new(inputs, width, kernel)
                .with_stride(stride)
                .with_padding(padding)
                .with_initial(initial);
            inputs = width;
            (conv.init(generator, device), BatchNormConfig::new(width).init(device))
        });
        let (Some((conv1, bn1)), Some((conv2, bn2))) = (layers.next(), layers.next()) else {
            unreachable!("a block has at least two convolutions")
        };
        let (conv3, bn3) = layers.next().unzip();
        let width = *widths.last().expect("a block has widths");
        let (mut downsample, mut pad) = (None, None);
        match shortcut {
            Shortcut::Identity => {}
            Shortcut::Projection => {
                let conv = ConvConfig::new(input, width, 1).with_stride(stride).with_initial(initial);
                downsample = Some(Downsample {
                    conv: conv.init(generator, device),
                    bn: Some(BatchNormConfig::new(width).init(device)),
                });
            }
            Shortcut::Pad { sources } => pad = Some(PadShortcut { stride, sources: sources.clone() }),
        }
        Self { conv1, bn1: Some(bn1), conv2, bn2: Some(bn2), conv3, bn3, downsample, pad }
    }

    /// - input: `[batch, channels, height, width]`
    /// - output: `[batch, width of the stage, height / stride, width / stride]`
    pub fn forward(&self, input: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = relu(normalised(self.conv1.forward(input.clone()), self.bn1.as_ref()));
        let mut x = normalised(self.conv2.forward(x), self.bn2.as_ref());
        if let Some(conv3) = &self.conv3 {
            x = normalised(conv3.forward(relu(x)), self.bn3.as_ref());
        }
        let shortcut = match (&self.downsample, &self.pad) {
            (Some(projection), _) => {
                normalised(forward_pointwise(&projection.conv, input), projection.bn.as_ref())
            }
            (_, Some(pad)) => pad.forward(input),
            _ => input,
        };
        relu(x + shortcut)
    }
}

fn normalised<B: Backend>(x: Tensor<B, 4>, norm: Option<&BatchNorm<B>>) -> Tensor<B, 4> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}

fn fuse<B: Backend>(conv: &mut Conv2d<B>, norm: &mut Option<BatchNorm<B>>) {
    if let Some(norm) = norm.take() {
        *conv = norm.fuse_conv(conv);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{agree_after_fusing, costs, round_trip};

    #[test]
    fn costs_are_the_published_ones() {
        let cifar = |depth, projection| costs(&ResNetConfig::cifar(depth, 10, projection).unwrap(), [32, 32]);
        assert_eq!(cifar(20, false), (268_346, 40_551_040, 269_722));
        assert_eq!(cifar(56, false), (848_954, 125_485_696, 853_018));
        assert_eq!(cifar(56, true), (851_514, 125_747_840, 855_770));
        assert_eq!(cifar(110, false), (1_719_866, 252_887_680, 1_727_962));
        let imagenet = |depth, classes| costs(&ResNetConfig::imagenet(depth, classes).unwrap(), [224, 224]);
        assert_eq!(imagenet(18, 1000), (11_679_912, 1_814_073_344, 11_689_512));
        assert_eq!(imagenet(34, 1000), (21_780_648, 3_663_761_408, 21_797_672));
        assert_eq!(imagenet(34, 100), (21_318_948, 3_663_300_608, 21_335_972));
        assert_eq!(imagenet(50, 1000), (25_503_912, 4_089_184_256, 25_557_032));
    }

    #[test]
    fn names_are_torchvisions() {
        let names = |config: &ResNetConfig| {
            let network =
                config.init::<burn_flex::Flex>(&mut Generator::new(1), &Default::default()).unwrap();
            let tensors = leanburn_core::checkpoint::tensors(&network, |path| config.published_name(path));
            tensors.unwrap().into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let resnet = names(&ResNetConfig::imagenet(50, 2).unwrap());
        // Beside these, a file of PyTorch has the counters of its 53 norms.
        assert_eq!(resnet.len(), 320 - 53);
        for name in ["conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight", "layer4.2.bn3.bias"] {
            assert!(resnet.iter().any(|other| other == name), "{name}");
        }
        assert!(resnet.iter().any(|name| name == "fc.bias"));
        assert_eq!(names(&ResNetConfig::cifar(20, 2, false).unwrap()).last().unwrap(), "linear.bias");
    }

    #[test]
    fn checkpoints_tell_the_widths() {
        let mut basic = ResNetConfig::torchvision(&[1, 2], false, 3);
        basic.stages[1].blocks = vec![vec![7], vec![9]];
        round_trip(&basic, ResNetConfig::infer);
        let mut bottleneck = ResNetConfig::torchvision(&[1, 1], true, 3);
        bottleneck.stages[1].blocks[0] = vec![5, 6];
        round_trip(&bottleneck, ResNetConfig::infer);
        for projection in [false, true] {
            let mut cifar = ResNetConfig::cifar(20, 3, projection).unwrap();
            cifar.stages[2].blocks[1] = vec![1];
            round_trip(&cifar, ResNetConfig::infer);
        }
    }

    #[test]
    fn lottery_tickets_are_renamed() {
        let config = ResNetConfig::cifar_blocks(&[2, 1], 4, 3, true);
        let network = config.init::<burn_flex::Flex>(&mut Generator::new(1), &Default::default()).unwrap();
        let tensors =
            leanburn_core::checkpoint::tensors(&network, |path| config.published_name(path)).unwrap();
        let theirs = |name: &str| {
            let name = name.replace("layer1.0.", "blocks.0.").replace("layer1.1.", "blocks.1.");
            let name = name.replace("layer2.0.", "blocks.2.").replace("downsample.", "shortcut.");
            match name.split_once('.') {
                Some(("conv1", rest)) => format!("conv.{rest}"),
                Some(("bn1", rest)) => format!("bn.{rest}"),
                Some(("linear", rest)) => format!("fc.{rest}"),
                _ => name,
            }
        };
        let ticket = tensors.iter().map(|(name, data)| (theirs(name), data.clone()));
        let ticket =
            Checkpoint::from_tensors("a ticket", ticket.collect::<std::collections::BTreeMap<_, _>>());
        let found = ResNetConfig::from_lottery_names(ticket).unwrap();
        assert_eq!(format!("{:?}", ResNetConfig::infer(&found).unwrap()), format!("{config:?}"));
        let loaded = config.load::<burn_flex::Flex>(&found, &Default::default()).unwrap();
        let again = leanburn_core::checkpoint::tensors(&loaded, |path| config.published_name(path)).unwrap();
        assert_eq!(again, tensors);
    }

    #[test]
    fn fusing_keeps_the_output() {
        agree_after_fusing(&ResNetConfig::torchvision(&[1, 1], true, 3), [3, 32, 32]);
        agree_after_fusing(&ResNetConfig::cifar_blocks(&[1, 2], 8, 3, false), [3, 16, 16]);
        agree_after_fusing(&ResNetConfig::cifar_blocks(&[1, 2], 8, 3, true), [3, 15, 17]);
    }

    #[test]
    fn padding_takes_channels_from_where_it_is_told() {
        let x: Tensor<burn_flex::Flex, 4> = Generator::new(1).normal([2, 3, 5, 4], &Default::default());
        let pad = PadShortcut { stride: 2, sources: vec![None, Some(0), Some(2), None, None] };
        let y = pad.forward(x.clone());
        assert_eq!(y.dims(), [2, 5, 3, 2]);
        let even = x.slice(s![.., .., ..;2, ..;2]);
        assert_eq!(y.clone().narrow(1, 1, 1).into_data(), even.clone().narrow(1, 0, 1).into_data());
        assert_eq!(y.clone().narrow(1, 2, 1).into_data(), even.narrow(1, 2, 1).into_data());
        assert_eq!(y.narrow(1, 3, 2).abs().max().into_scalar(), 0.0);
        let Shortcut::Pad { sources } = Shortcut::pad(2, 4) else { panic!("another shortcut") };
        assert_eq!(sources, [None, Some(0), Some(1), None]);
    }

    #[test]
    fn configurations_that_do_not_fit_are_refused() {
        let refused = |change: fn(&mut ResNetConfig), field: &str| {
            let mut config = ResNetConfig::cifar(20, 3, false).unwrap();
            change(&mut config);
            let error = config.graph([32, 32]).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        };
        refused(|config| config.stages.clear(), "stages");
        refused(|config| config.stages[1].blocks[0] = vec![0], "stages[1].blocks");
        refused(|config| config.stages[1].blocks[0] = vec![1, 2, 3], "stages[1].blocks");
        refused(|config| config.stages[1].shortcut = Shortcut::Identity, "stages[1].shortcut");
        refused(|config| config.stages[0].width = 14, "shortcut");
        assert!(ResNetConfig::cifar(21, 3, false).is_err());
        assert!(ResNetConfig::imagenet(19, 3).is_err());
    }
}
