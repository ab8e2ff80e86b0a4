//! SlowFast networks (Feichtenhofer et al., 2019): a pathway of few frames and many channels, and one of many frames and
//! few channels. The names are those of the PySlowFast line (`s2.pathway0_res0.branch2.a.weight`).

use burn::{
    config::Config,
    module::{Module, Param},
    nn::{
        Linear, PaddingConfig2d,
        pool::{MaxPool2d, MaxPool2dConfig},
    },
    tensor::{Int, Tensor, TensorData, activation::relu, backend::Backend},
};
use leanburn_core::{
    Error, Result, architecture::Cost, at_least_one, checkpoint::Checkpoint, nn::dropout, random::Generator,
};
use serde::{Deserialize, Serialize};

use crate::{
    accounting::Tally,
    branches::{Alter, BatchNorms, Branches, is_alteration, learn_first},
    model::{ClipClassifier, VideoArchitecture, frames_of},
    sampling::slow_frames,
    tsm::normalised,
    volume::{Conv3d, Conv3dConfig, fuse},
};

/// Which of a clip's frames the slow pathway sees in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlowFrames {
    /// Those that it sees in evaluation, evenly spread over the clip.
    PerClip,
    /// Evenly spread over the clips of all branches laid end to end, that of the most frames first, as in FFN's published
    /// training.
    Concatenated,
}

/// Configuration of a [`SlowFast`].
#[derive(Config, Debug)]
pub struct SlowFastConfig {
    /// The number of classes.
    pub num_classes: usize,
    /// The frame counts, of the fast pathway.
    pub branches: Branches,
    /// The number of blocks of each stage. Default: ResNet-50's
    #[config(default = "vec![3, 4, 6, 3]")]
    pub blocks: Vec<usize>,
    /// Channels of the slow pathway's stem. Default: 64
    #[config(default = 64)]
    pub width: usize,
    /// Of how many frames the slow pathway sees one. Default: 4
    #[config(default = 4)]
    pub alpha: usize,
    /// By what the fast pathway's channels are divided. Default: 8
    #[config(default = 8)]
    pub beta_inverse: usize,
    /// How many times the fast pathway's channels go over to the slow one. Default: 2
    #[config(default = 2)]
    pub fusion_ratio: usize,
    /// Over how many frames they go over. Default: 7
    #[config(default = 7)]
    pub fusion_kernel: usize,
    /// The probability of dropout before the classifier. Default: 0.5
    #[config(default = 0.5)]
    pub dropout: f64,
    /// Which frames the slow pathway sees in training. Default: per clip
    #[config(default = "SlowFrames::PerClip")]
    pub slow_frames: SlowFrames,
}

/// The layers of a block.
struct BlockLayers {
    a: Conv3dConfig,
    b: Conv3dConfig,
    c: Conv3dConfig,
    shortcut: Option<Conv3dConfig>,
}

impl SlowFastConfig {
    fn check(&self) -> Result<()> {
        self.branches.check()?;
        at_least_one([
            ("num_classes", self.num_classes),
            ("alpha", self.alpha),
            ("beta_inverse", self.beta_inverse),
            ("fusion_ratio", self.fusion_ratio),
            ("blocks", self.blocks.iter().copied().min().unwrap_or(0)),
        ])?;
        if self.width == 0 || !self.width.is_multiple_of(self.beta_inverse) {
            let expected = format!("a multiple of beta_inverse, {}", self.beta_inverse);
            return Err(Error::setting("width", expected, self.width));
        }
        if self.fusion_kernel.is_multiple_of(2) {
            return Err(Error::setting("fusion_kernel", "an odd number", self.fusion_kernel));
        }
        if self.branches.counts.iter().any(|count| !count.is_multiple_of(self.alpha)) {
            let expected = format!("multiples of alpha, {}", self.alpha);
            return Err(Error::setting("branches.counts", expected, format!("{:?}", self.branches.counts)));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::setting("dropout", "from 0 to below 1", self.dropout));
        }
        Ok(())
    }

    /// Channels of each pathway's stem.
    fn widths(&self) -> [usize; 2] {
        [self.width, self.width / self.beta_inverse]
    }

    fn stem(&self, pathway: usize) -> Conv3dConfig {
        let time = if pathway == 0 { 1 } else { 5 };
        Conv3dConfig::new(3, self.widths()[pathway], [time, 7])
            .with_stride([1, 2])
            .with_padding([time / 2, 3])
    }

    /// What the fast pathway gives to the slow one after a stage, counted from 0 of the stem.
    fn fusion(&self, stage: usize) -> Conv3dConfig {
        let channels = self.output(stage, 1);
        Conv3dConfig::new(channels, channels * self.fusion_ratio, [self.fusion_kernel, 1])
            .with_stride([self.alpha, 1])
            .with_padding([self.fusion_kernel / 2, 0])
    }

    /// Channels of a pathway after a stage, counted from 0 of the stem, without what is fused.
    fn output(&self, stage: usize, pathway: usize) -> usize {
        let width = self.widths()[pathway];
        if stage == 0 { width } else { (4 * width) << (stage - 1) }
    }

    fn block(&self, stage: usize, pathway: usize, place: usize) -> BlockLayers {
        let output = self.output(stage, pathway);
        let input = match (place, pathway) {
            (0, 0) => self.output(stage - 1, 0) + self.output(stage - 1, 1) * self.fusion_ratio,
            (0, _) => self.output(stage - 1, 1),
            _ => output,
        };
        let inner = output / 4;
        let stride = if place == 0 && stage > 1 { 2 } else { 1 };
        // The slow pathway looks along time in its last two stages.
        let time = if pathway == 1 || stage > 2 { 3 } else { 1 };
        BlockLayers {
            a: Conv3dConfig::new(input, inner, [time, 1]).with_padding([time / 2, 0]),
            b: Conv3dConfig::new(inner, inner, [1, 3]).with_stride([1, stride]).with_padding([0, 1]),
            c: Conv3dConfig::new(inner, output, [1, 1]),
            shortcut: (input != output || stride != 1)
                .then(|| Conv3dConfig::new(input, output, [1, 1]).with_stride([1, stride])),
        }
    }
}

impl VideoArchitecture for SlowFastConfig {
    type Network<B: Backend> = SlowFast<B>;

    fn init<B: Backend>(&self, generator: &mut Generator, device: &B::Device) -> Result<SlowFast<B>> {
        self.check()?;
        let branches = &self.branches;
        let stems = (0..2)
            .map(|pathway| Stem {
                conv: self.stem(pathway).init(generator, device),
                bn: Some(BatchNorms::init(self.widths()[pathway], branches, device)),
            })
            .collect();
        let mut fuses = Vec::new();
        let mut stages = Vec::new();
        for (stage, &count) in (1..).zip(&self.blocks) {
            let fusion = self.fusion(stage - 1);
            fuses.push(Fusion {
                bn: Some(BatchNorms::init(fusion.output, branches, device)),
                conv_f2s: fusion.init(generator, device),
            });
            let mut block = |pathway, place| {
                let layers = self.block(stage, pathway, place);
                ResBlock::init(&layers, stage, branches, generator, device)
            };
            let pathways =
                (0..2).map(|pathway| (0..count).map(|place| block(pathway, place)).collect()).collect();
            stages.push(Stage { pathways });
        }
        let features = self.output(self.blocks.len(), 0) + self.output(self.blocks.len(), 1);
        let weight = generator.normal::<B, 2>([features, self.num_classes], device) * 0.01;
        Ok(SlowFast {
            stems,
            maxpool: MaxPool2dConfig::new([3, 3])
                .with_strides([2, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(),
            fuses,
            stages,
            projection: Linear {
                weight: Param::from_tensor(weight),
                bias: Some(Param::from_tensor(Tensor::zeros([self.num_classes], device))),
            },
            alpha: self.alpha,
            dropout: self.dropout,
            branches: self.branches.clone(),
            slow_frames: self.slow_frames,
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
        let alteration = self.branches.alteration.clone().filter(|alteration| alteration.kernel > 1);
        self.clone()
            .with_slow_frames(SlowFrames::PerClip)
            .with_branches(Branches { alteration, ..Branches::single(count) })
    }

    fn num_classes(&self) -> usize {
        self.num_classes
    }

    fn cost(&self, frames: usize, size: [usize; 2]) -> Cost {
        let mut tally = Tally::default();
        let (copies, branches) = (self.branches.norms(), self.branches.counts.len());
        let layer = |tally: &mut Tally, conv: &Conv3dConfig, frames: usize, size: [usize; 2]| {
            let size = size.map(|side| conv.side(side));
            let weights = conv.output * conv.input * conv.kernel[0] * conv.kernel[1] * conv.kernel[1];
            tally.layer(weights, 0, conv.frames(frames) * size[0] * size[1]);
            tally.norms(copies, conv.output);
            size
        };
        let frames = [frames.div_ceil(self.alpha), frames];
        let mut sizes = [size; 2];
        for pathway in 0..2 {
            let size = layer(&mut tally, &self.stem(pathway), frames[pathway], sizes[pathway]);
            sizes[pathway] = size.map(|side| side.div_ceil(2));
        }
        for (stage, &count) in (1..).zip(&self.blocks) {
            layer(&mut tally, &self.fusion(stage - 1), frames[1], sizes[1]);
            for pathway in 0..2 {
                for place in 0..count {
                    let BlockLayers { a, b, c, shortcut } = self.block(stage, pathway, place);
                    let (frames, size) = (frames[pathway], sizes[pathway]);
                    if let Some(alteration) = self.branches.alteration_of(stage) {
                        let weights = a.input * alteration.kernel * alteration.kernel;
                        tally.copies(branches, weights, frames * size[0] * size[1]);
                    }
                    if let Some(shortcut) = shortcut {
                        layer(&mut tally, &shortcut, frames, size);
                    }
                    let size = layer(&mut tally, &a, frames, size);
                    let size = layer(&mut tally, &b, frames, size);
                    sizes[pathway] = layer(&mut tally, &c, frames, size);
                }
            }
        }
        let last = self.blocks.len();
        let features = self.output(last, 0) + self.output(last, 1);
        tally.layer(features * self.num_classes, self.num_classes, 1);
        tally.cost()
    }

    fn published_name(&self, path: &str) -> String {
        let name = self.branches.suffixed(path);
        let parts: Vec<&str> = name.split('.').collect();
        let one_up = |index: &str, by: usize| index.parse::<usize>().unwrap_or(0) + by;
        match parts[..] {
            ["stems", pathway, ref rest @ ..] => format!("s1.pathway{pathway}_stem.{}", rest.join(".")),
            ["fuses", stage, ref rest @ ..] => format!("s{}_fuse.{}", one_up(stage, 1), rest.join(".")),
            ["stages", stage, "pathways", pathway, block, ref rest @ ..] => {
                format!("s{}.pathway{pathway}_res{block}.{}", one_up(stage, 2), rest.join("."))
            }
            _ => format!("head.{name}"),
        }
    }

    /// An image network's weights are the slow pathway's.
    fn plain_name(&self, published: &str) -> String {
        let parts: Vec<&str> = published.split('.').collect();
        let stage = |layer: &str| layer.strip_prefix("layer").and_then(|stage| stage.parse::<usize>().ok());
        let letter = |number: &str| match number {
            "1" => Some("a"),
            "2" => Some("b"),
            "3" => Some("c"),
            _ => None,
        };
        let renamed = match parts[..] {
            ["conv1", rest] => Some(format!("s1.pathway0_stem.conv.{rest}")),
            ["bn1", rest] => Some(format!("s1.pathway0_stem.bn.{rest}")),
            [layer, block, part, rest] => stage(layer).and_then(|stage| {
                let layer = if let Some(number) = part.strip_prefix("conv") {
                    letter(number)?.to_owned()
                } else {
                    format!("{}_bn", letter(part.strip_prefix("bn")?)?)
                };
                Some(format!("s{}.pathway0_res{block}.branch2.{layer}.{rest}", stage + 1))
            }),
            [layer, block, "downsample", part, rest] => stage(layer).map(|stage| {
                let norm = if part == "1" { "_bn" } else { "" };
                format!("s{}.pathway0_res{block}.branch1{norm}.{rest}", stage + 1)
            }),
            _ => None,
        };
        renamed.unwrap_or_else(|| published.to_owned())
    }

    fn is_classifier(&self, published: &str) -> bool {
        published.starts_with("head.")
    }

    fn is_new(&self, published: &str, source: &Checkpoint) -> bool {
        // An image network has neither a fast pathway nor what goes over from it.
        let image = source.names().any(|name| name.ends_with("layer1.0.conv1.weight"));
        let fast = published.contains("pathway1") || published.contains("_fuse.");
        is_alteration(published) || self.is_classifier(published) || (image && fast)
    }
}

/// The stem of a pathway.
#[derive(Module, Debug)]
pub struct Stem<B: Backend> {
    /// Its convolution.
    pub conv: Conv3d<B>,
    /// Its norms; `None` when they are fused, as are all others.
    pub bn: Option<BatchNorms<B>>,
}

/// What goes over from the fast pathway to the slow one.
#[derive(Module, Debug)]
pub struct Fusion<B: Backend> {
    /// From fast to slow.
    pub conv_f2s: Conv3d<B>,
    /// Its norms.
    pub bn: Option<BatchNorms<B>>,
}

/// The blocks of a stage.
#[derive(Module, Debug)]
pub struct Stage<B: Backend> {
    /// Of the slow and of the fast pathway.
    pub pathways: Vec<Vec<ResBlock<B>>>,
}

/// A residual block.
#[derive(Module, Debug)]
pub struct ResBlock<B: Backend> {
    /// The shortcut's projection, where the shape changes.
    pub branch1: Option<Conv3d<B>>,
    /// Its norms.
    pub branch1_bn: Option<BatchNorms<B>>,
    /// The bottleneck.
    pub branch2: Bottleneck<B>,
}

/// The bottleneck of a block.
#[derive(Module, Debug)]
pub struct Bottleneck<B: Backend> {
    /// Along time.
    pub a: Conv3d<B>,
    /// Its norms.
    pub a_bn: Option<BatchNorms<B>>,
    /// 3x3.
    pub b: Conv3d<B>,
    /// Its norms.
    pub b_bn: Option<BatchNorms<B>>,
    /// 1x1.
    pub c: Conv3d<B>,
    /// Its norms, whose scale starts from 0.
    pub c_bn: Option<BatchNorms<B>>,
    /// What each branch does to the input.
    pub adaconv: Option<Alter<B, 5>>,
}

impl<B: Backend> ResBlock<B> {
    fn init(
        layers: &BlockLayers,
        stage: usize,
        branches: &Branches,
        generator: &mut Generator,
        device: &B::Device,
    ) -> Self {
        let BlockLayers { a, b, c, shortcut } = layers;
        let norms = |conv: &Conv3dConfig| BatchNorms::init(conv.output, branches, device);
        let mut c_bn = norms(c);
        for norm in &mut c_bn.branches {
            norm.gamma = Param::from_tensor(Tensor::zeros([c.output], device));
        }
        Self {
            branch1: shortcut.as_ref().map(|shortcut| shortcut.init(generator, device)),
            branch1_bn: shortcut.as_ref().map(norms),
            branch2: Bottleneck {
                a: a.init(generator, device),
                a_bn: Some(norms(a)),
                b: b.init(generator, device),
                b_bn: Some(norms(b)),
                c: c.init(generator, device),
                c_bn: Some(c_bn),
                adaconv: Alter::init(a.input, stage, branches, generator, device),
            },
        }
    }

    fn forward(&self, input: Tensor<B, 4>, frames: usize, branch: usize) -> Tensor<B, 4> {
        let Bottleneck { a, a_bn, b, b_bn, c, c_bn, adaconv } = &self.branch2;
        let x = match adaconv {
            Some(adaconv) => adaconv.forward(input.clone(), branch),
            None => input.clone(),
        };
        let x = relu(normalised(a.forward(x, frames), a_bn.as_ref(), branch));
        let x = relu(normalised(b.forward(x, frames), b_bn.as_ref(), branch));
        let x = normalised(c.forward(x, frames), c_bn.as_ref(), branch);
        let shortcut = match &self.branch1 {
            Some(conv) => normalised(conv.forward(input, frames), self.branch1_bn.as_ref(), branch),
            None => input,
        };
        relu(x + shortcut)
    }

    fn norms_mut(&mut self) -> impl Iterator<Item = &mut BatchNorms<B>> {
        let Bottleneck { a_bn, b_bn, c_bn, .. } = &mut self.branch2;
        [&mut self.branch1_bn, a_bn, b_bn, c_bn].into_iter().filter_map(Option::as_mut)
    }

    fn keep(&mut self, branch: usize) {
        self.norms_mut().for_each(|norms| norms.keep(branch));
        let Some(adaconv) = self.branch2.adaconv.take() else { return };
        match adaconv.scale(branch) {
            Some(scale) => {
                let a = &mut self.branch2.a;
                let channels = scale.dims()[0];
                let weight = a.weight.val() * scale.reshape([1, channels, 1, 1, 1]);
                a.weight = Param::from_tensor(weight.detach());
            }
            None => self.branch2.adaconv = Some(adaconv.into_branch(branch)),
        }
    }

    fn fuse(&mut self) {
        let Bottleneck { a, a_bn, b, b_bn, c, c_bn, .. } = &mut self.branch2;
        fuse(a, a_bn);
        fuse(b, b_bn);
        fuse(c, c_bn);
        if let Some(conv) = &mut self.branch1 {
            fuse(conv, &mut self.branch1_bn);
        }
    }
}

/// A SlowFast network, made by a [`SlowFastConfig`].
#[derive(Module, Debug)]
pub struct SlowFast<B: Backend> {
    /// Of the slow and of the fast pathway.
    pub stems: Vec<Stem<B>>,
    maxpool: MaxPool2d,
    /// What goes over before each stage.
    pub fuses: Vec<Fusion<B>>,
    /// The stages after the stem.
    pub stages: Vec<Stage<B>>,
    /// The classifier.
    pub projection: Linear<B>,
    alpha: usize,
    dropout: f64,
    #[module(skip)]
    branches: Branches,
    #[module(skip)]
    slow_frames: SlowFrames,
}

/// What the two pathways hold between stages, each `[batch * frames, channels, height, width]`.
#[derive(Debug, Clone)]
pub struct Pathways<B: Backend> {
    /// Of the slow pathway.
    pub slow: Tensor<B, 4>,
    /// Of the fast pathway.
    pub fast: Tensor<B, 4>,
    /// Frames of a clip in each.
    pub frames: [usize; 2],
    /// The branch, counted from 0.
    pub branch: usize,
}

impl<B: Backend> SlowFast<B> {
    /// The frames of a clip that the slow pathway sees, counted from 0.
    ///
    /// - training: whether the network is trained
    pub fn slow_index(&self, frames: usize, training: bool) -> Vec<usize> {
        let counts = &self.branches.counts;
        if training && self.slow_frames == SlowFrames::Concatenated && counts.contains(&frames) {
            // The clip of the most frames comes first, then those of the others.
            let (highest, others) = counts.split_last().expect("a network has a branch");
            let order = std::iter::once(highest).chain(others);
            let before: usize = order.take_while(|count| **count != frames).sum();
            let total: usize = counts.iter().sum();
            let all = slow_frames(total, total / self.alpha);
            return all[before / self.alpha..(before + frames) / self.alpha]
                .iter()
                .map(|frame| frame.saturating_sub(before).min(frames - 1))
                .collect();
        }
        // Of a count that alpha does not divide, as many as go over from the fast pathway.
        slow_frames(frames, frames.div_ceil(self.alpha))
    }

    /// What the stems make of clips.
    ///
    /// - clips: `[batch, frames, channels, height, width]`
    pub fn forward_stems(&self, clips: Tensor<B, 5>) -> Pathways<B> {
        let frames = clips.dims()[1];
        let device = clips.device();
        let index = self.slow_index(frames, B::ad_enabled(&device));
        let slow = index.len();
        let index: Vec<i64> = index.into_iter().map(|frame| frame as i64).collect();
        let index: Tensor<B, 1, Int> = Tensor::from_data(TensorData::new(index, [slow]), &device);
        let branch = self.branches.nearest(frames);
        let stem = |pathway: usize, clips: Tensor<B, 5>| {
            let Stem { conv, bn } = &self.stems[pathway];
            let frames = clips.dims()[1];
            self.maxpool.forward(relu(normalised(
                conv.forward(frames_of(clips), frames),
                bn.as_ref(),
                branch,
            )))
        };
        Pathways {
            slow: stem(0, clips.clone().select(1, index)),
            fast: stem(1, clips),
            frames: [slow, frames],
            branch,
        }
    }

    /// The slow pathway with what goes over from the fast one, before a stage.
    ///
    /// - stage: counted from 0 behind the stem
    pub fn forward_fusion(&self, stage: usize, mut x: Pathways<B>) -> Pathways<B> {
        let Fusion { conv_f2s, bn } = &self.fuses[stage];
        let over = normalised(conv_f2s.forward(x.fast.clone(), x.frames[1]), bn.as_ref(), x.branch);
        x.slow = Tensor::cat(vec![x.slow, relu(over)], 1);
        x
    }

    /// A stage of both pathways.
    ///
    /// - stage: counted from 0 behind the stem
    pub fn forward_stage(&self, stage: usize, mut x: Pathways<B>) -> Pathways<B> {
        let [slow, fast] = &self.stages[stage].pathways[..] else { unreachable!("there are two pathways") };
        let blocks = |blocks: &[ResBlock<B>], input, frames| {
            blocks.iter().fold(input, |input, block| block.forward(input, frames, x.branch))
        };
        (x.slow, x.fast) = (blocks(slow, x.slow, x.frames[0]), blocks(fast, x.fast, x.frames[1]));
        x
    }

    /// The features that are classified.
    ///
    /// - clips: `[batch, frames, channels, height, width]`
    /// - output: `[batch, features]`
    pub fn forward_features(&self, clips: Tensor<B, 5>) -> Tensor<B, 2> {
        let batch = clips.dims()[0];
        let x = (0..self.stages.len()).fold(self.forward_stems(clips), |x, stage| {
            self.forward_stage(stage, self.forward_fusion(stage, x))
        });
        let mean = |x: Tensor<B, 4>, frames: usize| {
            let [_, channels, height, width] = x.dims();
            let x = x.reshape([batch * frames * channels, height * width]).mean_dim(1);
            x.reshape([batch, frames, channels]).mean_dim(1).reshape([batch, channels])
        };
        Tensor::cat(vec![mean(x.slow, x.frames[0]), mean(x.fast, x.frames[1])], 1)
    }

    fn norms_mut(&mut self) -> impl Iterator<Item = &mut BatchNorms<B>> {
        let blocks = self.stages.iter_mut().flat_map(|stage| stage.pathways.iter_mut().flatten());
        self.stems
            .iter_mut()
            .map(|stem| &mut stem.bn)
            .chain(self.fuses.iter_mut().map(|fuse| &mut fuse.bn))
            .filter_map(Option::as_mut)
            .chain(blocks.flat_map(ResBlock::norms_mut))
    }
}

impl<B: Backend> ClipClassifier<B> for SlowFast<B> {
    fn forward(&self, clips: Tensor<B, 5>) -> Tensor<B, 2> {
        self.projection.forward(self.forward_features(clips))
    }

    fn forward_train(&self, clips: Tensor<B, 5>, generator: &mut Generator) -> Tensor<B, 2> {
        self.projection.forward(dropout(self.forward_features(clips), self.dropout, generator))
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
        let stems = self.stems.iter_mut().map(|stem| &mut stem.bn);
        for norms in stems.chain(self.fuses.iter_mut().map(|fusion| &mut fusion.bn)).flatten() {
            norms.keep(branch);
        }
        for block in self.stages.iter_mut().flat_map(|stage| stage.pathways.iter_mut().flatten()) {
            block.keep(branch);
        }
        self.branches = Branches::single(self.branches.counts[branch]);
        self.slow_frames = SlowFrames::PerClip;
        self
    }

    fn fuse(mut self) -> Self {
        for stem in &mut self.stems {
            fuse(&mut stem.conv, &mut stem.bn);
        }
        for fusion in &mut self.fuses {
            fuse(&mut fusion.conv_f2s, &mut fusion.bn);
        }
        let blocks = self.stages.iter_mut().flat_map(|stage| stage.pathways.iter_mut().flatten());
        blocks.for_each(ResBlock::fuse);
        self
    }
}
