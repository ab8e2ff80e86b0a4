//! Residual networks on frames: TSN without a shift, TSM, and TEA on Res2Net.
//!
//! The names are those of the TSM line's checkpoints (`base_model.layer1.0.conv1.weight`, `new_fc.weight`).

use burn::{
    config::Config,
    module::{Module, Param},
    nn::{
        Linear, PaddingConfig2d,
        conv::Conv2d,
        pool::{MaxPool2d, MaxPool2dConfig},
    },
    tensor::{
        Tensor,
        activation::{relu, softmax},
        backend::Backend,
    },
};
use leanburn_core::{
    Error, Result,
    architecture::Cost,
    at_least_one,
    checkpoint::Checkpoint,
    nn::{ConvConfig, Initial, dropout},
    random::Generator,
};
use serde::{Deserialize, Serialize};

use crate::{
    accounting::Tally,
    branches::{BatchNorms, Branches, is_alteration, learn_first},
    model::{ClipClassifier, VideoArchitecture, frames_of, mean_over_frames},
    shift::temporal_max_pool,
    tea::{self, TeaBlock},
    tsm::{BlockShape, Placement, ShiftBlock, fuse, normalised},
};

/// The kind of a network's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3 and 1x1.
    Bottleneck,
    /// TEA's, on Res2Net's split of 4 parts of 26 channels.
    Tea,
}

/// Whose frames the temporal shift takes for one video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shift {
    /// No shift: TSN.
    None,
    /// As many frames as the clip has.
    Own,
    /// In training as many as the branch of the most frames has, which shifts frames of one video into another. FFN's
    /// published 2D training does so by mistake, and its published numbers come from it.
    High,
}

/// What is averaged over the frames of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consensus {
    /// Logits.
    Logits,
    /// Probabilities; the network gives their logarithms.
    Probabilities,
}

/// Configuration of a [`FrameResNet`].
#[derive(Config, Debug)]
pub struct FrameResNetConfig {
    /// The number of classes.
    pub num_classes: usize,
    /// The kind of the blocks.
    pub block: BlockKind,
    /// The number of blocks of each stage.
    pub blocks: Vec<usize>,
    /// The frame counts.
    pub branches: Branches,
    /// Channels of the stem; the first stage's blocks have as many within, those of further stages twice as many each.
    /// Default: 64
    #[config(default = 64)]
    pub width: usize,
    /// Channels of a frame: 3, or 2 for each step of optical flow. Default: 3
    #[config(default = 3)]
    pub in_channels: usize,
    /// The probability of dropout before the classifier. With 0 the classifier's published name is another. Default: 0.5
    #[config(default = 0.5)]
    pub dropout: f64,
    /// The temporal shift. Default: own
    #[config(default = "Shift::Own")]
    pub shift: Shift,
    /// Of how many channels one goes in each direction. Default: 8
    #[config(default = 8)]
    pub fold_div: usize,
    /// Every so many blocks of a stage shift, from the first on; the original TSM has 2 in ResNet-101. Default: 1
    #[config(default = 1)]
    pub shift_every: usize,
    /// Where blocks shift. Default: within the residual branch
    #[config(default = "Placement::Residual")]
    pub placement: Placement,
    /// Whether frames are pooled by two before the second stage. Default: false
    #[config(default = false)]
    pub temporal_pool: bool,
    /// What is averaged over the frames. Default: logits
    #[config(default = "Consensus::Logits")]
    pub consensus: Consensus,
}

impl FrameResNetConfig {
    /// TSM on a ResNet of a depth.
    ///
    /// - depth: 18, 34, 50, 101 or 152
    ///
    /// # Errors
    ///
    /// When there is no such depth.
    pub fn tsm(depth: usize, num_classes: usize, branches: Branches) -> Result<Self> {
        let (blocks, block) = match depth {
            18 => ([2, 2, 2, 2], BlockKind::Basic),
            34 => ([3, 4, 6, 3], BlockKind::Basic),
            50 => ([3, 4, 6, 3], BlockKind::Bottleneck),
            101 => ([3, 4, 23, 3], BlockKind::Bottleneck),
            152 => ([3, 8, 36, 3], BlockKind::Bottleneck),
            _ => return Err(Error::setting("depth", "18, 34, 50, 101 or 152", depth)),
        };
        Ok(Self::new(num_classes, block, blocks.to_vec(), branches))
    }

    /// TSN on a ResNet of a depth: frames are classified one by one.
    ///
    /// # Errors
    ///
    /// As [`tsm`](Self::tsm).
    pub fn tsn(depth: usize, num_classes: usize, branches: Branches) -> Result<Self> {
        Ok(Self::tsm(depth, num_classes, branches)?.with_shift(Shift::None))
    }

    /// TEA on Res2Net-50 (26w x 4s).
    pub fn tea(num_classes: usize, branches: Branches) -> Self {
        Self::new(num_classes, BlockKind::Tea, vec![3, 4, 6, 3], branches)
    }

    fn check(&self) -> Result<()> {
        self.branches.check()?;
        at_least_one([
            ("num_classes", self.num_classes),
            ("width", self.width),
            ("in_channels", self.in_channels),
            ("shift_every", self.shift_every),
            ("blocks", self.blocks.iter().copied().min().unwrap_or(0)),
        ])?;
        if self.fold_div < 2 {
            return Err(Error::setting("fold_div", "at least 2", self.fold_div));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::setting("dropout", "from 0 to below 1", self.dropout));
        }
        if self.block == BlockKind::Tea && !tea::has_channels(self.width) {
            return Err(Error::setting("width", "at least 10, for motion excitation of TEA", self.width));
        }
        Ok(())
    }

    /// Each block's shape, its place in its stage, and whether it shifts.
    fn shapes(&self) -> Vec<(BlockShape, usize, bool)> {
        let mut input = self.width;
        let mut shapes = Vec::new();
        for (stage, &count) in self.blocks.iter().enumerate() {
            for place in 0..count {
                let stride = if stage > 0 && place == 0 { 2 } else { 1 };
                let bottleneck = self.block != BlockKind::Basic;
                let planes = self.width << stage;
                let shape = BlockShape { input, planes, bottleneck, stride, stage: stage + 1 };
                shapes.push((shape, place, place.is_multiple_of(self.shift_every)));
                input = shape.output();
            }
        }
        shapes
    }

    /// Whether the classifier stands apart from the backbone.
    fn has_own_classifier(&self) -> bool {
        self.dropout > 0.0
    }
}

impl VideoArchitecture for FrameResNetConfig {
    type Network<B: Backend> = FrameResNet<B>;

    fn init<B: Backend>(&self, generator: &mut Generator, device: &B::Device) -> Result<FrameResNet<B>> {
        self.check()?;
        let conv1 = ConvConfig::new(self.in_channels, self.width, 7)
            .with_stride(2)
            .with_padding(3)
            .with_initial(Initial::KaimingFanOut)
            .init(generator, device);
        let mut stages: Vec<Vec<Block<B>>> = Vec::new();
        let mut features = self.width;
        for (shape, place, shifts) in self.shapes() {
            if place == 0 {
                stages.push(Vec::new());
            }
            let block = match self.block {
                BlockKind::Tea => {
                    Block::Tea(TeaBlock::init(shape, place == 0, &self.branches, generator, device))
                }
                BlockKind::Basic | BlockKind::Bottleneck => {
                    let fold = (self.shift != Shift::None && shifts).then_some(self.fold_div);
                    let (branches, placement) = (&self.branches, self.placement);
                    Block::Shift(ShiftBlock::init(shape, branches, fold, placement, generator, device))
                }
            };
            stages.last_mut().expect("a stage begins with its first block").push(block);
            features = shape.output();
        }
        let weight = generator.normal::<B, 2>([features, self.num_classes], device) * 1e-3;
        Ok(FrameResNet {
            conv1,
            bn1: Some(BatchNorms::init(self.width, &self.branches, device)),
            maxpool: MaxPool2dConfig::new([3, 3])
                .with_strides([2, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(),
            stages,
            fc: Linear {
                weight: Param::from_tensor(weight),
                bias: Some(Param::from_tensor(Tensor::zeros([self.num_classes], device))),
            },
            dropout: self.dropout,
            temporal_pool: self.temporal_pool,
            branches: self.branches.clone(),
            shift: self.shift,
            consensus: self.consensus,
        })
    }

    fn branches(&self) -> &Branches {
        &self.branches
    }

    fn with_branches(mut self, branches: Branches) -> Self {
        self.branches = branches;
        self
    }

    fn branch(&self, frames: usize) -> Self {
        let count = self.branches.counts[self.branches.nearest(frames)];
        // A kernel of 1 is folded into the convolution behind it.
        let alteration = self.branches.alteration.clone().filter(|alteration| alteration.kernel > 1);
        let shift = if self.shift == Shift::High { Shift::Own } else { self.shift };
        self.clone().with_shift(shift).with_branches(Branches { alteration, ..Branches::single(count) })
    }

    fn num_classes(&self) -> usize {
        self.num_classes
    }

    fn cost(&self, frames: usize, size: [usize; 2]) -> Cost {
        let mut tally = Tally::default();
        let (copies, branches) = (self.branches.norms(), self.branches.counts.len());
        let half = |size: [usize; 2]| size.map(|side| side.div_ceil(2));
        let mut size = half(size);
        let mut frames = frames;
        let area = |size: [usize; 2], frames: usize| size[0] * size[1] * frames;
        tally.layer(self.in_channels * self.width * 49, 0, area(size, frames));
        tally.norms(copies, self.width);
        size = half(size);
        let mut features = self.width;
        for (shape, place, _) in self.shapes() {
            if self.temporal_pool && shape.stage == 2 && place == 0 {
                frames = frames.div_ceil(2);
            }
            let before = area(size, frames);
            if shape.stride == 2 {
                size = half(size);
            }
            let after = area(size, frames);
            if let Some(alteration) = self.branches.alteration_of(shape.stage) {
                tally.copies(branches, shape.input * alteration.kernel * alteration.kernel, before);
            }
            features = shape.output();
            if self.block == BlockKind::Tea {
                for (weights, map) in tea::weights(&shape, place == 0) {
                    tally.layer(weights, 0, [before, after, frames][map]);
                }
                tally.norms(copies, tea::norm_channels(&shape, place == 0));
                continue;
            }
            let mut positions = before;
            for [input, output, kernel, stride] in shape.convs() {
                if stride == 2 {
                    positions = after;
                }
                tally.layer(input * output * kernel * kernel, 0, positions);
                tally.norms(copies, output);
            }
            if shape.projects() {
                tally.layer(shape.input * features, 0, after);
                tally.norms(copies, features);
            }
        }
        tally.layer(features * self.num_classes, self.num_classes, frames);
        tally.cost()
    }

    fn published_name(&self, path: &str) -> String {
        let name = self.branches.suffixed(path);
        if let Some(rest) = name.strip_prefix("fc.") {
            return if self.has_own_classifier() {
                format!("new_fc.{rest}")
            } else {
                format!("base_model.fc.{rest}")
            };
        }
        let name = match name.strip_prefix("stages.").and_then(|rest| rest.split_once('.')) {
            Some((stage, rest)) => format!("layer{}.{rest}", stage.parse::<usize>().unwrap_or(0) + 1),
            None => name,
        };
        let mut parts: Vec<String> = name.split('.').map(str::to_owned).collect();
        // A list's branches: `bns.0_4` is `bns_4.0`.
        if let Some(place) = parts.iter().position(|part| part == "bns")
            && let Some((index, label)) = parts[place + 1].clone().split_once('_')
        {
            parts[place] = format!("bns_{label}");
            index.clone_into(&mut parts[place + 1]);
        }
        let name = format!("base_model.{}", parts.join("."));
        if self.branches.has_plain_names() { plain_shortcut(&name) } else { name }
    }

    fn plain_name(&self, published: &str) -> String {
        // The backbone's prefix, and the shifted convolution's of the original TSM.
        let parts = published.split('.').filter(|part| !matches!(*part, "base_model" | "net"));
        plain_shortcut(&parts.collect::<Vec<_>>().join("."))
    }

    fn is_classifier(&self, published: &str) -> bool {
        published.starts_with(if self.has_own_classifier() { "new_fc." } else { "base_model.fc." })
    }

    fn is_new(&self, published: &str, _source: &Checkpoint) -> bool {
        // Res2Net's weights lack what TEA adds.
        let tea = ["me", "shifts"];
        is_alteration(published)
            || self.is_classifier(published)
            || (self.block == BlockKind::Tea && published.split('.').any(|part| tea.contains(&part)))
    }

    fn file_name(&self, name: &str) -> String {
        // The original TSM's name of a convolution behind a shift.
        name.replace(".net.", ".")
    }

    fn check_batch(&self, videos: usize) -> Result<()> {
        let highest = self.branches.highest();
        let fits = |count: &&usize| (videos * **count).is_multiple_of(highest);
        match self.branches.counts.iter().find(|count| !fits(count)) {
            Some(count) if self.shift == Shift::High => {
                let expected = format!(
                    "videos whose {count} frames each make whole clips of {highest}, as the published shift takes them"
                );
                Err(Error::setting("batch_size", expected, videos))
            }
            _ => Ok(()),
        }
    }
}

/// An ordinary network's names of a shortcut.
fn plain_shortcut(name: &str) -> String {
    name.replace("downsample_conv.", "downsample.0.").replace("downsample_bn.", "downsample.1.")
}

/// What a forward pass through the blocks knows beside its input.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// The branch, counted from 0.
    pub branch: usize,
    /// Frames that count as one video.
    pub segments: usize,
}

/// A block of a [`FrameResNet`].
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a network's blocks are of one kind")]
pub enum Block<B: Backend> {
    /// With a temporal shift, or without.
    Shift(ShiftBlock<B>),
    /// TEA's.
    Tea(TeaBlock<B>),
}

impl<B: Backend> Block<B> {
    /// - input: `[batch * frames, channels, height, width]`
    pub fn forward(&self, input: Tensor<B, 4>, pass: Pass) -> Tensor<B, 4> {
        match self {
            Self::Shift(block) => block.forward(input, pass),
            Self::Tea(block) => block.forward(input, pass),
        }
    }

    fn norms_mut(&mut self) -> Vec<&mut BatchNorms<B>> {
        match self {
            Self::Shift(block) => block.norms_mut(),
            Self::Tea(block) => block.norms_mut(),
        }
    }

    fn into_branch(self, branch: usize) -> Self {
        match self {
            Self::Shift(block) => Self::Shift(block.into_branch(branch)),
            Self::Tea(block) => Self::Tea(block.into_branch(branch)),
        }
    }

    fn fuse(&mut self) {
        match self {
            Self::Shift(block) => block.fuse(),
            Self::Tea(block) => block.fuse(),
        }
    }
}

/// A residual network on frames, made by a [`FrameResNetConfig`].
#[derive(Module, Debug)]
pub struct FrameResNet<B: Backend> {
    /// The stem's convolution.
    pub conv1: Conv2d<B>,
    /// Its norms; `None` when they are fused.
    pub bn1: Option<BatchNorms<B>>,
    /// The stem's pooling.
    pub maxpool: MaxPool2d,
    /// The blocks of each stage (`layer1`, `layer2`, ...).
    pub stages: Vec<Vec<Block<B>>>,
    /// The classifier (`new_fc`).
    pub fc: Linear<B>,
    dropout: f64,
    temporal_pool: bool,
    #[module(skip)]
    branches: Branches,
    #[module(skip)]
    shift: Shift,
    #[module(skip)]
    consensus: Consensus,
}

impl<B: Backend> FrameResNet<B> {
    /// How clips of a number of frames pass, on a device that records gradients or not.
    pub fn pass(&self, frames: usize, device: &B::Device) -> Pass {
        let high = self.shift == Shift::High && B::ad_enabled(device);
        let segments = if high { self.branches.highest() } else { frames };
        Pass { branch: self.branches.nearest(frames), segments }
    }

    /// What the stem gives to the first stage.
    ///
    /// - x: `[batch * frames, channels, height, width]`
    pub fn forward_stem(&self, x: Tensor<B, 4>, pass: Pass) -> Tensor<B, 4> {
        self.maxpool.forward(relu(normalised(self.conv1.forward(x), self.bn1.as_ref(), pass.branch)))
    }

    /// The features of frames, and how many frames of a clip are left.
    ///
    /// - clips: `[batch, frames, channels, height, width]`
    /// - output: `[batch * frames, features]`
    pub fn forward_features(&self, clips: Tensor<B, 5>) -> (Tensor<B, 2>, usize) {
        let mut frames = clips.dims()[1];
        let mut pass = self.pass(frames, &clips.device());
        let mut x = self.forward_stem(frames_of(clips), pass);
        for (stage, blocks) in self.stages.iter().enumerate() {
            if self.temporal_pool && stage == 1 {
                x = temporal_max_pool(x, pass.segments);
                frames = frames.div_ceil(2);
                pass.segments = pass.segments.div_ceil(2);
            }
            x = blocks.iter().fold(x, |x, block| block.forward(x, pass));
        }
        let [count, channels, height, width] = x.dims();
        let means = x.reshape([count * channels, height * width]).mean_dim(1);
        (means.reshape([count, channels]), frames)
    }

    fn norms_mut(&mut self) -> impl Iterator<Item = &mut BatchNorms<B>> {
        let blocks = self.stages.iter_mut().flatten();
        self.bn1.iter_mut().chain(blocks.flat_map(Block::norms_mut))
    }

    /// - features: `[batch * frames, features]`
    fn classify(&self, features: Tensor<B, 2>, frames: usize) -> Tensor<B, 2> {
        let logits = self.fc.forward(features);
        match self.consensus {
            Consensus::Logits => mean_over_frames(logits, frames),
            Consensus::Probabilities => mean_over_frames(softmax(logits, 1), frames).log(),
        }
    }
}

impl<B: Backend> ClipClassifier<B> for FrameResNet<B> {
    fn forward(&self, clips: Tensor<B, 5>) -> Tensor<B, 2> {
        let (features, frames) = self.forward_features(clips);
        self.classify(features, frames)
    }

    fn forward_train(&self, clips: Tensor<B, 5>, generator: &mut Generator) -> Tensor<B, 2> {
        let (features, frames) = self.forward_features(clips);
        self.classify(dropout(features, self.dropout, generator), frames)
    }

    fn with_frozen_norms(mut self, frozen: bool) -> Self {
        self.norms_mut().for_each(|norms| norms.freeze(frozen));
        self
    }

    fn with_partial_norms(mut self) -> Self {
        learn_first(self.norms_mut());
        self
    }

    fn into_branch(mut self, frames: usize) -> Self {
        let branch = self.branches.nearest(frames);
        if let Some(norms) = &mut self.bn1 {
            norms.keep(branch);
        }
        self.stages = self
            .stages
            .into_iter()
            .map(|blocks| blocks.into_iter().map(|block| block.into_branch(branch)).collect())
            .collect();
        self.branches = Branches::single(self.branches.counts[branch]);
        self
    }

    fn fuse(mut self) -> Self {
        fuse(&mut self.conv1, &mut self.bn1);
        self.stages.iter_mut().flatten().for_each(Block::fuse);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_networks_shift_in_every_second_block() {
        let config = FrameResNetConfig::tsm(101, 5, Branches::single(8)).unwrap();
        let shifting =
            |config: &FrameResNetConfig| config.shapes().into_iter().filter(|(.., shifts)| *shifts).count();
        assert_eq!(shifting(&config), 33);
        let second = config.with_shift_every(2);
        assert_eq!(shifting(&second), 2 + 2 + 12 + 2);
        // The first of a stage, the third, and so on.
        assert!(second.shapes().iter().all(|(_, place, shifts)| *shifts == (place % 2 == 0)));
    }
}
