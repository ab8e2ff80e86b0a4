//! UniFormer (Li et al., 2022): convolutions gather what is near in the first two stages, attention over all of a clip
//! in the last two. The names are those of the published checkpoints (`blocks3.0.attn.qkv.weight`), which in the FFN
//! line expect BGR frames.

use burn::{
    config::Config,
    module::{Module, Param},
    nn::Linear,
    tensor::{Tensor, activation::softmax, backend::Backend},
};
use leanburn_core::{
    Error, Result,
    architecture::Cost,
    at_least_one,
    nn::{Initial, gelu, scale_samples},
    random::Generator,
};

use crate::{
    accounting::Tally,
    branches::{Alter, BatchNorms, Branches, LayerNorms, learn_first},
    model::{ClipClassifier, VideoArchitecture, frames_of},
    resnet::Pass,
    tsm::normalised,
    volume::{Conv3d, Conv3dConfig, fuse_before},
};

/// How many of the four stages gather by convolution.
const LOCAL_STAGES: usize = 2;
/// Added to the variance by the layer norms of patch embeddings.
const PATCH_EPSILON: f64 = 1e-5;
/// Added to the variance by the layer norms of blocks.
const BLOCK_EPSILON: f64 = 1e-6;

/// Configuration of a [`UniFormer`].
#[derive(Config, Debug)]
pub struct UniFormerConfig {
    /// The number of classes.
    pub num_classes: usize,
    /// The frame counts.
    pub branches: Branches,
    /// Channels of each stage. Default: 64, 128, 320, 512
    #[config(default = "[64, 128, 320, 512]")]
    pub embed_dims: [usize; 4],
    /// The number of blocks of each stage. Default: UniFormer-S's
    #[config(default = "[3, 4, 8, 3]")]
    pub depths: [usize; 4],
    /// Channels of an attention head, a divisor of the last two stages' channels. Default: 64
    #[config(default = 64)]
    pub head_dim: usize,
    /// How many times a block's channels its perceptron has. Default: 4
    #[config(default = 4)]
    pub mlp_ratio: usize,
    /// The probability with which the last block's residual branches are dropped in training; it rises to this from 0 at
    /// the first block (stochastic depth). Default: 0.2
    #[config(default = 0.2)]
    pub drop_path: f64,
}

/// The layers of a block with convolutions.
struct LocalLayers {
    conv: Conv3dConfig,
    attn: Conv3dConfig,
    fc1: Conv3dConfig,
    fc2: Conv3dConfig,
}

impl UniFormerConfig {
    /// UniFormer-B.
    pub fn base(num_classes: usize, branches: Branches) -> Self {
        Self::new(num_classes, branches).with_depths([5, 8, 20, 7])
    }

    fn check(&self) -> Result<()> {
        self.branches.check()?;
        at_least_one([
            ("num_classes", self.num_classes),
            ("embed_dims", self.embed_dims.iter().copied().min().unwrap_or(0)),
            ("head_dim", self.head_dim),
            ("mlp_ratio", self.mlp_ratio),
        ])?;
        let attended = &self.embed_dims[LOCAL_STAGES..];
        if attended.iter().any(|channels| !channels.is_multiple_of(self.head_dim)) {
            return Err(Error::setting("head_dim", format!("a divisor of {attended:?}"), self.head_dim));
        }
        if !(0.0..1.0).contains(&self.drop_path) {
            return Err(Error::setting("drop_path", "from 0 to below 1", self.drop_path));
        }
        Ok(())
    }

    fn patches(&self, stage: usize) -> Conv3dConfig {
        let output = self.embed_dims[stage];
        let config = match stage.checked_sub(1) {
            None => Conv3dConfig::new(3, output, [3, 4]).with_stride([2, 4]).with_padding([1, 0]),
            Some(before) => Conv3dConfig::new(self.embed_dims[before], output, [1, 2]).with_stride([1, 2]),
        };
        config.with_bias(true).with_initial(Initial::Uniform)
    }

    fn local(&self, channels: usize) -> LocalLayers {
        let pointwise = |input, output| {
            Conv3dConfig::new(input, output, [1, 1]).with_bias(true).with_initial(Initial::Uniform)
        };
        let hidden = channels * self.mlp_ratio;
        LocalLayers {
            conv: pointwise(channels, channels),
            attn: depthwise(channels, 5),
            fc1: pointwise(channels, hidden),
            fc2: pointwise(hidden, channels),
        }
    }

    /// The probability with which a block's residual branches are dropped.
    ///
    /// - block: counted from 0 over all stages
    fn drop_path_of(&self, block: usize) -> f64 {
        let last = self.depths.iter().sum::<usize>().saturating_sub(1).max(1);
        self.drop_path * block as f64 / last as f64
    }
}

/// A depthwise convolution over time and space that keeps the size.
fn depthwise(channels: usize, kernel: usize) -> Conv3dConfig {
    Conv3dConfig::new(channels, channels, [kernel; 2])
        .with_padding([kernel / 2; 2])
        .with_groups(channels)
        .with_bias(true)
        .with_initial(Initial::Uniform)
}

/// A linear layer with weights from `N(0, 0.02)`.
fn linear<B: Backend>(
    input: usize,
    output: usize,
    generator: &mut Generator,
    device: &B::Device,
) -> Linear<B> {
    let weight = generator.normal::<B, 2>([input, output], device) * 0.02;
    Linear {
        weight: Param::from_tensor(weight),
        bias: Some(Param::from_tensor(Tensor::zeros([output], device))),
    }
}

impl VideoArchitecture for UniFormerConfig {
    type Network<B: Backend> = UniFormer<B>;

    fn init<B: Backend>(&self, generator: &mut Generator, device: &B::Device) -> Result<UniFormer<B>> {
        self.check()?;
        let branches = &self.branches;
        let mut stages = Vec::new();
        let mut number = 0;
        for (stage, &depth) in self.depths.iter().enumerate() {
            let channels = self.embed_dims[stage];
            let patch_embed = PatchEmbed {
                proj: self.patches(stage).init(generator, device),
                norm: LayerNorms::init(channels, PATCH_EPSILON, branches, device),
            };
            let mut blocks = Vec::new();
            for _ in 0..depth {
                let drop_path = self.drop_path_of(number);
                number += 1;
                let adaconv = Alter::init(channels, stage + 1, branches, generator, device);
                let pos_embed = depthwise(channels, 3).init(generator, device);
                blocks.push(if stage < LOCAL_STAGES {
                    let LocalLayers { conv, attn, fc1, fc2 } = self.local(channels);
                    let norm = || Some(BatchNorms::init(channels, branches, device));
                    Block::Local(LocalBlock {
                        adaconv,
                        pos_embed,
                        norm1: norm(),
                        conv1: conv.init(generator, device),
                        conv2: conv.init(generator, device),
                        attn: attn.init(generator, device),
                        norm2: norm(),
                        mlp: LocalMlp { fc1: fc1.init(generator, device), fc2: fc2.init(generator, device) },
                        drop_path,
                    })
                } else {
                    let hidden = channels * self.mlp_ratio;
                    let norm = || LayerNorms::init(channels, BLOCK_EPSILON, branches, device);
                    Block::Global(GlobalBlock {
                        adaconv,
                        pos_embed,
                        norm1: norm(),
                        attn: Attention {
                            qkv: linear(channels, 3 * channels, generator, device),
                            proj: linear(channels, channels, generator, device),
                            head_dim: self.head_dim,
                        },
                        norm2: norm(),
                        mlp: Mlp {
                            fc1: linear(channels, hidden, generator, device),
                            fc2: linear(hidden, channels, generator, device),
                        },
                        drop_path,
                    })
                });
            }
            stages.push(Stage { patch_embed, blocks });
        }
        let features = self.embed_dims[3];
        Ok(UniFormer {
            stages,
            norm: Some(BatchNorms::init(features, branches, device)),
            head: linear(features, self.num_classes, generator, device),
            branches: self.branches.clone(),
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
        // It scales what the residual branches are added to, so that no layer can take it up.
        let alteration = self.branches.alteration.clone();
        self.clone().with_branches(Branches { alteration, ..Branches::single(count) })
    }

    fn num_classes(&self) -> usize {
        self.num_classes
    }

    fn cost(&self, frames: usize, mut size: [usize; 2]) -> Cost {
        let mut tally = Tally::default();
        let (copies, branches) = (self.branches.norms(), self.branches.counts.len());
        let mut frames = frames;
        let layer = |tally: &mut Tally, conv: &Conv3dConfig, positions: usize| {
            let weights = conv.output * (conv.input / conv.groups) * conv.kernel[0] * conv.kernel[1].pow(2);
            tally.layer(weights, conv.output, positions);
        };
        for (stage, &depth) in self.depths.iter().enumerate() {
            let (channels, patches) = (self.embed_dims[stage], self.patches(stage));
            frames = patches.frames(frames);
            size = size.map(|side| patches.side(side));
            let positions = frames * size[0] * size[1];
            layer(&mut tally, &patches, positions);
            tally.norms(copies, channels);
            for _ in 0..depth {
                if let Some(alteration) = self.branches.alteration_of(stage + 1) {
                    tally.copies(branches, channels * alteration.kernel.pow(2), positions);
                }
                layer(&mut tally, &depthwise(channels, 3), positions);
                tally.norms(2 * copies, channels);
                if stage < LOCAL_STAGES {
                    let LocalLayers { conv, attn, fc1, fc2 } = self.local(channels);
                    for conv in [&conv, &conv, &attn, &fc1, &fc2] {
                        layer(&mut tally, conv, positions);
                    }
                } else {
                    let hidden = channels * self.mlp_ratio;
                    for (input, output) in [
                        (channels, 3 * channels),
                        (channels, channels),
                        (channels, hidden),
                        (hidden, channels),
                    ] {
                        tally.layer(input * output, output, positions);
                    }
                    // Queries with keys, and what they weigh.
                    tally.operations(2 * positions * positions * channels);
                }
            }
        }
        tally.norms(copies, self.embed_dims[3]);
        tally.layer(self.embed_dims[3] * self.num_classes, self.num_classes, 1);
        tally.cost()
    }

    fn published_name(&self, path: &str) -> String {
        let name = self.branches.suffixed(path);
        let parts: Vec<&str> = name.split('.').collect();
        let number = |stage: &str| stage.parse::<usize>().unwrap_or(0) + 1;
        match parts[..] {
            ["stages", stage, part @ ("patch_embed" | "blocks"), ref rest @ ..] => {
                format!("{part}{}.{}", number(stage), rest.join("."))
            }
            _ => name,
        }
    }

    fn is_classifier(&self, published: &str) -> bool {
        published.starts_with("head.")
    }
}

/// A stage: patches, then blocks.
#[derive(Module, Debug)]
pub struct Stage<B: Backend> {
    /// Makes patches of the stage before.
    pub patch_embed: PatchEmbed<B>,
    /// The blocks.
    pub blocks: Vec<Block<B>>,
}

/// A convolution whose steps are as long as its kernel, and a norm.
#[derive(Module, Debug)]
pub struct PatchEmbed<B: Backend> {
    /// The convolution.
    pub proj: Conv3d<B>,
    /// Its norms.
    pub norm: LayerNorms<B>,
}

impl<B: Backend> PatchEmbed<B> {
    /// - x: `[batch * frames, channels, height, width]`
    fn forward(&self, x: Tensor<B, 4>, pass: Pass) -> Tensor<B, 4> {
        let x = self.proj.forward(x, pass.segments).permute([0, 2, 3, 1]);
        self.norm.forward(x, pass.branch).permute([0, 3, 1, 2])
    }
}

/// A block of a [`UniFormer`].
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "there are few blocks, whose tensors lie elsewhere")]
pub enum Block<B: Backend> {
    /// With convolutions (`CBlock`).
    Local(LocalBlock<B>),
    /// With attention (`SABlock`).
    Global(GlobalBlock<B>),
}

impl<B: Backend> Block<B> {
    /// - x: `[batch * frames, channels, height, width]`
    /// - generator: what is dropped is drawn from it; with `None` nothing is
    fn forward(&self, x: Tensor<B, 4>, pass: Pass, generator: Option<&mut Generator>) -> Tensor<B, 4> {
        match self {
            Self::Local(block) => block.forward(x, pass, generator),
            Self::Global(block) => block.forward(x, pass, generator),
        }
    }
}

/// A block whose tokens gather what is near by a depthwise convolution.
#[derive(Module, Debug)]
pub struct LocalBlock<B: Backend> {
    /// What each branch does to the block's input.
    pub adaconv: Option<Alter<B, 5>>,
    /// The dynamic position embedding, depthwise.
    pub pos_embed: Conv3d<B>,
    /// Norms; `None` when they are fused.
    pub norm1: Option<BatchNorms<B>>,
    /// Before the gathering.
    pub conv1: Conv3d<B>,
    /// Behind it.
    pub conv2: Conv3d<B>,
    /// The gathering, depthwise.
    pub attn: Conv3d<B>,
    /// Norms; `None` when they are fused.
    pub norm2: Option<BatchNorms<B>>,
    /// The perceptron.
    pub mlp: LocalMlp<B>,
    drop_path: f64,
}

/// A perceptron of 1x1x1 convolutions.
#[derive(Module, Debug)]
pub struct LocalMlp<B: Backend> {
    /// To the hidden channels.
    pub fc1: Conv3d<B>,
    /// From them.
    pub fc2: Conv3d<B>,
}

impl<B: Backend> LocalBlock<B> {
    fn forward(&self, x: Tensor<B, 4>, pass: Pass, mut generator: Option<&mut Generator>) -> Tensor<B, 4> {
        let frames = pass.segments;
        let x = positioned(x, self.adaconv.as_ref(), &self.pos_embed, pass);
        let gathered = normalised(x.clone(), self.norm1.as_ref(), pass.branch);
        let gathered = self.attn.forward(self.conv1.forward(gathered, frames), frames);
        let gathered = self.conv2.forward(gathered, frames);
        let x = x + dropped(gathered, frames, self.drop_path, generator.as_deref_mut());
        let hidden = normalised(x.clone(), self.norm2.as_ref(), pass.branch);
        let hidden = self.mlp.fc2.forward(gelu(self.mlp.fc1.forward(hidden, frames)), frames);
        x + dropped(hidden, frames, self.drop_path, generator)
    }
}

/// A block whose tokens attend to all tokens of the clip.
#[derive(Module, Debug)]
pub struct GlobalBlock<B: Backend> {
    /// What each branch does to the block's input.
    pub adaconv: Option<Alter<B, 5>>,
    /// The dynamic position embedding, depthwise.
    pub pos_embed: Conv3d<B>,
    /// Norms.
    pub norm1: LayerNorms<B>,
    /// The attention.
    pub attn: Attention<B>,
    /// Norms.
    pub norm2: LayerNorms<B>,
    /// The perceptron.
    pub mlp: Mlp<B>,
    drop_path: f64,
}

/// A perceptron of linear layers.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    /// To the hidden channels.
    pub fc1: Linear<B>,
    /// From them.
    pub fc2: Linear<B>,
}

/// Multi-head self-attention.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// Queries, keys and values.
    pub qkv: Linear<B>,
    /// From all heads to the output.
    pub proj: Linear<B>,
    head_dim: usize,
}

impl<B: Backend> Attention<B> {
    /// - x: `[batch, tokens, channels]`
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [batch, tokens, channels] = x.dims();
        let (head, heads) = (self.head_dim, channels / self.head_dim);
        let qkv = self.qkv.forward(x).reshape([batch, tokens, 3 * heads, head]).swap_dims(1, 2);
        let part = |part: usize| qkv.clone().narrow(1, part * heads, heads);
        let scores = (part(0) * (head as f64).powf(-0.5)).matmul(part(1).swap_dims(2, 3));
        let weighed = softmax(scores, 3).matmul(part(2));
        self.proj.forward(weighed.swap_dims(1, 2).reshape([batch, tokens, channels]))
    }
}

impl<B: Backend> GlobalBlock<B> {
    fn forward(&self, x: Tensor<B, 4>, pass: Pass, mut generator: Option<&mut Generator>) -> Tensor<B, 4> {
        let frames = pass.segments;
        let x = positioned(x, self.adaconv.as_ref(), &self.pos_embed, pass);
        let [count, channels, height, width] = x.dims();
        let area = height * width;
        let tokens = x.reshape([count, channels, area]).swap_dims(1, 2);
        let tokens = tokens.reshape([count / frames, frames * area, channels]);
        let gathered = self.attn.forward(self.norm1.forward(tokens.clone(), pass.branch));
        let tokens = tokens + dropped(gathered, 1, self.drop_path, generator.as_deref_mut());
        let hidden = self.norm2.forward(tokens.clone(), pass.branch);
        let hidden = self.mlp.fc2.forward(gelu(self.mlp.fc1.forward(hidden)));
        let tokens = tokens + dropped(hidden, 1, self.drop_path, generator);
        tokens.reshape([count, area, channels]).swap_dims(1, 2).reshape([count, channels, height, width])
    }
}

/// A block's input, altered by its branch and with the embedding of positions.
fn positioned<B: Backend>(
    mut x: Tensor<B, 4>,
    adaconv: Option<&Alter<B, 5>>,
    pos_embed: &Conv3d<B>,
    pass: Pass,
) -> Tensor<B, 4> {
    if let Some(adaconv) = adaconv {
        x = adaconv.forward(x, pass.branch);
    }
    x.clone() + pos_embed.forward(x, pass.segments)
}

/// What a residual branch adds, dropped for some videos and larger for the others.
///
/// - x: `[batch * rows, ...]`
/// - rows: of a video
fn dropped<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    rows: usize,
    probability: f64,
    generator: Option<&mut Generator>,
) -> Tensor<B, D> {
    let Some(generator) = generator.filter(|_| probability > 0.0) else { return x };
    let dims = x.dims();
    let (videos, values) = (dims[0] / rows, dims[1..].iter().product::<usize>());
    let kept: Vec<f32> = (0..videos)
        .map(|_| if generator.chance(probability) { 0.0 } else { (1.0 / (1.0 - probability)) as f32 })
        .collect();
    let kept = Tensor::<B, 1>::from_floats(&kept[..], &x.device()).cast(x.dtype());
    scale_samples(x.reshape([videos, rows * values]), kept).reshape(dims)
}

/// A UniFormer, made by a [`UniFormerConfig`].
#[derive(Module, Debug)]
pub struct UniFormer<B: Backend> {
    /// The four stages.
    pub stages: Vec<Stage<B>>,
    /// The last norms; `None` when they are fused.
    pub norm: Option<BatchNorms<B>>,
    /// The classifier.
    pub head: Linear<B>,
    #[module(skip)]
    branches: Branches,
}

impl<B: Backend> UniFormer<B> {
    /// How clips of a number of frames pass the stages.
    pub fn pass(&self, frames: usize) -> Pass {
        Pass { branch: self.branches.nearest(frames), segments: frames }
    }

    /// A stage's patches, and how they pass on.
    ///
    /// - stage: counted from 0
    /// - x: `[batch * frames, channels, height, width]`
    pub fn forward_patches(&self, stage: usize, x: Tensor<B, 4>, pass: Pass) -> (Tensor<B, 4>, Pass) {
        let patch_embed = &self.stages[stage].patch_embed;
        let after = Pass { segments: patch_embed.proj.frames(pass.segments), ..pass };
        (patch_embed.forward(x, pass), after)
    }

    /// A block's output.
    ///
    /// - stage, block: counted from 0
    /// - x: `[batch * frames, channels, height, width]`
    pub fn forward_block(&self, stage: usize, block: usize, x: Tensor<B, 4>, pass: Pass) -> Tensor<B, 4> {
        self.stages[stage].blocks[block].forward(x, pass, None)
    }

    /// - x: what the last block gives, `[batch * frames, channels, height, width]`
    /// - output: logits `[batch, classes]`
    pub fn classify(&self, x: Tensor<B, 4>, pass: Pass) -> Tensor<B, 2> {
        let x = normalised(x, self.norm.as_ref(), pass.branch);
        let [count, channels, height, width] = x.dims();
        let frames = pass.segments;
        let means = x.reshape([count * channels, height * width]).mean_dim(1);
        let means = means.reshape([count / frames, frames, channels]).mean_dim(1);
        self.head.forward(means.reshape([count / frames, channels]))
    }

    fn run(&self, clips: Tensor<B, 5>, mut generator: Option<&mut Generator>) -> Tensor<B, 2> {
        let mut pass = self.pass(clips.dims()[1]);
        let mut x = frames_of(clips);
        for (number, stage) in self.stages.iter().enumerate() {
            (x, pass) = self.forward_patches(number, x, pass);
            for block in &stage.blocks {
                x = block.forward(x, pass, generator.as_deref_mut());
            }
        }
        self.classify(x, pass)
    }

    fn blocks_mut(&mut self) -> impl Iterator<Item = &mut Block<B>> {
        self.stages.iter_mut().flat_map(|stage| &mut stage.blocks)
    }

    fn norms_mut(&mut self) -> impl Iterator<Item = &mut BatchNorms<B>> {
        let blocks = self.stages.iter_mut().flat_map(|stage| &mut stage.blocks);
        let norms = blocks.flat_map(|block| match block {
            Block::Local(block) => [block.norm1.as_mut(), block.norm2.as_mut()],
            Block::Global(_) => [None, None],
        });
        norms.flatten().chain(&mut self.norm)
    }
}

impl<B: Backend> ClipClassifier<B> for UniFormer<B> {
    fn forward(&self, clips: Tensor<B, 5>) -> Tensor<B, 2> {
        self.run(clips, None)
    }

    fn forward_train(&self, clips: Tensor<B, 5>, generator: &mut Generator) -> Tensor<B, 2> {
        self.run(clips, Some(generator))
    }

    fn with_frozen_norms(mut self, frozen: bool) -> Self {
        for norms in self.norms_mut() {
            norms.freeze(frozen);
        }
        self
    }

    fn with_partial_norms(mut self) -> Self {
        learn_first(self.norms_mut());
        self
    }

    fn into_branch(mut self, frames: usize) -> Self {
        let branch = self.branches.nearest(frames);
        for norms in self.norms_mut() {
            norms.keep(branch);
        }
        for stage in &mut self.stages {
            stage.patch_embed.norm.keep(branch);
        }
        for block in self.blocks_mut() {
            let adaconv = match block {
                Block::Local(block) => &mut block.adaconv,
                Block::Global(block) => {
                    block.norm1.keep(branch);
                    block.norm2.keep(branch);
                    &mut block.adaconv
                }
            };
            *adaconv = adaconv.take().map(|adaconv| adaconv.into_branch(branch));
        }
        self.branches = Branches::single(self.branches.counts[branch]);
        self
    }

    fn fuse(mut self) -> Self {
        for block in self.blocks_mut() {
            if let Block::Local(block) = block {
                fuse_before(&mut block.norm1, &mut block.conv1);
                fuse_before(&mut block.norm2, &mut block.mlp.fc1);
            }
        }
        if let Some([norm]) = self.norm.as_ref().map(|norms| &norms.branches[..]) {
            let (scale, shift) = norm.scale_and_shift();
            let channels = scale.dims()[0];
            let weight = self.head.weight.val();
            let moved = shift.reshape([1, channels]).matmul(weight.clone()).reshape([weight.dims()[1]]);
            let bias = match &self.head.bias {
                Some(bias) => bias.val() + moved,
                None => moved,
            };
            self.head.weight = Param::from_tensor((weight * scale.reshape([channels, 1])).detach());
            self.head.bias = Some(Param::from_tensor(bias.detach()));
            self.norm = None;
        }
        self
    }
}
