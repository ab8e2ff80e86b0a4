//! FFN and the video networks. The kinds are described in `oracles/ffn/README.md`.

use std::collections::BTreeMap;

use leanburn::{
    // For `derive(Module)` as well, which writes `burn::`.
    burn::{
        self,
        module::{AutodiffModule, Module},
        optim::{GradientsParams, Optimizer},
        tensor::{Int, Tensor, TensorData, activation::softmax, backend::Backend},
    },
    core::{
        Error, Result, checkpoint,
        checkpoint::Checkpoint,
        loss::{cross_entropy, cross_entropy_soft},
        random::Generator,
        train::clipped,
    },
    prelude::{Dispatch, DispatchDevice},
    video::{
        Branches, ClipClassifier, VideoArchitecture,
        evaluate::Scores,
        ffn::{Alignment, Terms},
        resnet::{BlockKind, FrameResNetConfig, Pass, Shift},
        schedule::{EpochDecay, EpochSchedule, WarmUp},
        slowfast::{Pathways, SlowFastConfig},
        tea::TeaBlock,
        temporal_max_pool, temporal_shift,
        train::tsn_groups,
        tsm::{BlockShape, Placement, ShiftBlock},
        uniformer::UniFormerConfig,
    },
};
use serde::Deserialize;

use crate::{
    case::Case,
    comparison::Outputs,
    gradients,
    precision::{exact, precision},
};

type Frames = Tensor<Dispatch, 4>;

/// A tensor whole, and what of it a fixture stores where it is long.
fn parts(case: &Case, outputs: &mut Outputs, name: &str, data: TensorData) -> Result<()> {
    let head = format!("{name}.head");
    if case.expected().iter().any(|expected| expected.name == head) {
        let values: Vec<f64> = data.iter::<f64>().collect();
        let count = values.len() as f64;
        outputs.list(format!("{name}.mean"), vec![values.iter().sum::<f64>() / count]);
        outputs.list(format!("{name}.l2"), vec![norm(&data)]);
        let stored = case.reference(&head)?.num_elements();
        outputs.list(head, values.into_iter().take(stored).collect());
    }
    outputs.data(name, data);
    Ok(())
}

fn norm(data: &TensorData) -> f64 {
    data.iter::<f64>().map(|value| value * value).sum::<f64>().sqrt()
}

/// The frame counts of the branches.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Segments {
    h: usize,
    m: usize,
    l: usize,
}

impl Segments {
    fn ascending(self) -> [usize; 3] {
        [self.l, self.m, self.h]
    }

    /// FFN's branches with, or TEA's without an alteration.
    fn branches(self, altered: bool) -> Branches {
        let branches = Branches::ffn(&self.ascending());
        if altered { branches } else { Branches { alteration: None, ..branches } }
    }
}

/// Input `name` of a 2D network, `[batch, 3 * frames, height, width]`, as clips.
fn clips_2d(case: &Case, name: &str, device: &DispatchDevice) -> Result<Tensor<Dispatch, 5>> {
    let x: Frames = case.tensor(name, device)?;
    let [batch, channels, height, width] = x.dims();
    Ok(x.reshape([batch, channels / 3, 3, height, width]))
}

/// Input `name` of a 3D network, `[batch, 3, frames, height, width]`, as clips.
fn clips_3d(case: &Case, name: &str, device: &DispatchDevice) -> Result<Tensor<Dispatch, 5>> {
    Ok(case.tensor::<Dispatch, 5>(name, device)?.swap_dims(1, 2))
}

/// Frames as a 3D network's output, `[batch, channels, frames, height, width]`.
fn volume(x: Frames, frames: usize) -> TensorData {
    let [count, channels, height, width] = x.dims();
    x.reshape([count / frames, frames, channels, height, width]).swap_dims(1, 2).into_data()
}

fn named_depth(arch: &str, classes: usize, branches: Branches) -> Result<FrameResNetConfig> {
    let depth = arch.strip_prefix("resnet").and_then(|depth| depth.parse().ok());
    FrameResNetConfig::tsm(depth.unwrap_or(0), classes, branches)
}

pub(super) fn shift(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        specs: Vec<Spec>,
    }
    #[derive(Deserialize)]
    struct Spec {
        c: usize,
        n_segment: usize,
        fold_div: usize,
        pool: bool,
    }
    let config: Config = case.config()?;
    let training = leanburn::device::autodiff(device.clone());
    let mut outputs = Outputs::default();
    for (number, spec) in config.specs.iter().enumerate() {
        let x: Frames = case.tensor(&format!("x{number}"), &training)?;
        let x = x.require_grad();
        let weights: Frames = case.tensor(&format!("g{number}"), &training)?;
        let y = temporal_shift(x.clone(), spec.n_segment, spec.c / spec.fold_div);
        let gradients = (y.clone() * weights).sum().backward();
        outputs.tensor(format!("y{number}"), y.inner());
        if let Some(gradient) = x.grad(&gradients) {
            outputs.tensor(format!("dx{number}"), gradient);
        }
        if spec.pool {
            outputs.tensor(format!("pool{number}"), temporal_max_pool(x.inner(), spec.n_segment));
        }
    }
    Ok(outputs)
}

pub(super) fn tsm(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        arch: String,
        num_classes: usize,
        frames: Vec<usize>,
        fold_div: usize,
        segments: Option<Segments>,
        branch_of_frames: Option<BTreeMap<usize, usize>>,
        taps: BTreeMap<String, String>,
    }
    let config: Config = case.config()?;
    let branches = config.segments.map_or(Branches::single(config.frames[0]), |counts| counts.branches(true));
    let architecture =
        named_depth(&config.arch, config.num_classes, branches.clone())?.with_fold_div(config.fold_div);
    let network = architecture.init::<Dispatch>(&mut Generator::new(0), device)?;
    let network = case.load(network, |path| architecture.published_name(path))?;
    let mut outputs = Outputs::default();
    for frames in config.frames {
        let expected = config.branch_of_frames.as_ref().and_then(|all| all.get(&frames));
        let found = branches.counts[branches.nearest(frames)];
        if expected.is_some_and(|expected| *expected != found) {
            return Err(Error::data(format!("branch of {frames} frames"), format!("{expected:?}"), found));
        }
        let clips = clips_2d(case, &format!("x{frames}"), device)?;
        let mut tap = |module: &str, x: &Frames| {
            let taps = config.taps.iter().filter(|(_, tapped)| *tapped == module);
            for (name, _) in taps {
                parts(case, &mut outputs, &format!("f{frames}.{name}"), x.clone().into_data())?;
            }
            Ok::<(), Error>(())
        };
        let pass = network.pass(frames, device);
        let [batch, _, _, height, width] = clips.dims();
        let mut x = network.forward_stem(clips.clone().reshape([batch * frames, 3, height, width]), pass);
        tap("maxpool", &x)?;
        for (stage, blocks) in network.stages.iter().enumerate() {
            for (place, block) in blocks.iter().enumerate() {
                x = block.forward(x, pass);
                tap(&format!("layer{}.{place}", stage + 1), &x)?;
            }
            tap(&format!("layer{}", stage + 1), &x)?;
        }
        let (features, _) = network.forward_features(clips.clone());
        parts(case, &mut outputs, &format!("f{frames}.feature"), features.into_data())?;
        outputs.tensor(format!("f{frames}.logits"), network.forward(clips));
    }
    Ok(outputs)
}

/// What `ffn_blocks` computes with.
#[derive(Module, Debug)]
struct Both<B: Backend> {
    basic: ShiftBlock<B>,
    bottleneck: ShiftBlock<B>,
}

/// The published name of a path in blocks that stand alone.
fn block_name(architecture: &FrameResNetConfig, path: &str) -> String {
    architecture.published_name(path).replacen("base_model.", "", 1)
}

pub(super) fn blocks(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        in_channels: usize,
        planes: usize,
        stride: usize,
        segments: Segments,
        fold_div: usize,
        modes: Vec<String>,
    }
    let config: Config = case.config()?;
    let counts = config.segments.ascending();
    let branches = config.segments.branches(true);
    let training = leanburn::device::autodiff(device.clone());
    let architecture = FrameResNetConfig::tsm(18, 1, branches.clone())?;
    let names = |path: &str| {
        block_name(&architecture, path).replace("basic.", "BasicBlock.").replace("bottleneck.", "Bottleneck.")
    };
    let mut outputs = Outputs::default();
    for mode in &config.modes {
        let block = |bottleneck| {
            let Config { in_channels: input, planes, stride, .. } = config;
            let shape = BlockShape { input, planes, bottleneck, stride, stage: 1 };
            let generator = &mut Generator::new(0);
            let fold = Some(config.fold_div);
            ShiftBlock::<Dispatch>::init(shape, &branches, fold, Placement::Residual, generator, &training)
        };
        let both = case.load(Both { basic: block(false), bottleneck: block(true) }, names)?;
        let both = exact(both);
        for (name, block) in [("BasicBlock", &both.basic), ("Bottleneck", &both.bottleneck)] {
            let prefix = format!("{name}.{mode}");
            let mut inputs = Vec::new();
            let mut sum: Option<Tensor<Dispatch, 1>> = None;
            for (branch, &count) in counts.iter().enumerate() {
                let x: Frames = case.tensor(&format!("x{count}"), &training)?;
                let x = x.cast(precision()).require_grad();
                let segments = if mode == "high" { config.segments.h } else { count };
                let pass = Pass { branch, segments };
                let output = format!("{prefix}.y{count}");
                if mode == "eval" {
                    let y = block.valid().forward(x.inner(), pass);
                    parts(case, &mut outputs, &output, y.into_data())?;
                    continue;
                }
                let y = block.forward(x.clone(), pass);
                parts(case, &mut outputs, &output, y.clone().into_data())?;
                let weights: Frames = case.tensor(&format!("{name}.g{count}"), &training)?;
                let product = (y * weights.cast(precision())).sum();
                sum = Some(match sum {
                    Some(sum) => sum + product,
                    None => product,
                });
                inputs.push((count, x));
            }
            let Some(sum) = sum else { continue };
            let gradients = sum.backward();
            for (count, x) in inputs {
                if let Some(gradient) = x.grad(&gradients) {
                    parts(case, &mut outputs, &format!("{prefix}.dx{count}"), gradient.into_data())?;
                }
            }
            let gradients = GradientsParams::from_grads(gradients, block);
            let own = |path: &str| block_name(&architecture, path);
            for (parameter, data) in gradients::by_name(block, &gradients, own)? {
                parts(case, &mut outputs, &format!("{prefix}.d.{parameter}"), data)?;
            }
            for (buffer, data) in checkpoint::tensors(&block.valid(), own)? {
                outputs.data(format!("{prefix}.after.{buffer}"), data);
            }
        }
    }
    Ok(outputs)
}

fn values(tensors: &[&Tensor<Dispatch, 1>]) -> Vec<f64> {
    tensors
        .iter()
        .flat_map(|tensor| Tensor::clone(tensor).into_data().iter::<f64>().collect::<Vec<_>>())
        .collect()
}

/// The terms in the fixtures' order.
fn add_terms(outputs: &mut Outputs, name: &str, terms: &Terms<Dispatch>) {
    let [low, middle] = &terms.divergences[..] else { unreachable!("there are three frame counts") };
    outputs.list(name, values(&[&terms.labels, low, middle, &terms.total()]));
}

/// Rows divided by their sums.
fn distributions(raw: Tensor<Dispatch, 2>) -> Tensor<Dispatch, 2> {
    raw.clone() / raw.sum_dim(1)
}

pub(super) fn loss(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        // As text: its digits are part of names.
        lambdas: Vec<serde_json::Number>,
        temperature: f64,
        targets: Vec<String>,
    }
    let config: Config = case.config()?;
    let training = leanburn::device::autodiff(device.clone());
    let label: Tensor<Dispatch, 1, Int> = case.ints("label", &training)?;
    let soft = distributions(case.tensor("soft_raw", &training)?);
    let mut outputs = Outputs::default();
    for lambda in &config.lambdas {
        for target in &config.targets {
            let logits = ["L", "M", "H"].map(|count| {
                let logits = case.tensor::<Dispatch, 2>(&format!("logits_{count}"), &training);
                logits.map(Tensor::require_grad)
            });
            let logits = logits.into_iter().collect::<Result<Vec<_>>>()?;
            let alignment = Alignment::new()
                .with_weight(lambda.as_f64().unwrap_or(f64::NAN))
                .with_temperature(config.temperature);
            let terms = alignment.terms(&logits, |logits| match target.as_str() {
                "hard" => cross_entropy(logits, label.clone()),
                _ => cross_entropy_soft(logits, soft.clone()),
            });
            let prefix = format!("{target}.lambda{lambda}");
            add_terms(&mut outputs, &format!("{prefix}.terms"), &terms);
            let gradients = terms.total().backward();
            for (count, logits) in ["L", "M", "H"].iter().zip(&logits) {
                if let Some(gradient) = logits.grad(&gradients) {
                    outputs.tensor(format!("{prefix}.dlogits_{count}"), gradient);
                }
            }
        }
    }
    Ok(outputs)
}

/// The norm and the scaled first entries of each tensor of a list.
///
/// - names: with `prefix` before the published name
fn summaries(
    case: &Case,
    outputs: &mut Outputs,
    name: &str,
    tensors: &[(String, TensorData)],
    names: &[String],
    prefix: &str,
) -> Result<()> {
    let unit = case.reference(&format!("{name}_unit"))?;
    let entries = unit.shape[1];
    let reference: Vec<f64> = unit.iter::<f64>().collect();
    let (mut norms, mut rows) = (Vec::new(), Vec::new());
    for (published, reference) in names.iter().zip(reference.chunks(entries)) {
        let own = published.strip_prefix(prefix).unwrap_or(published);
        let data = tensors.iter().find(|(name, _)| name == own).map(|(_, data)| data);
        let data = data.ok_or_else(|| Error::data(format!("`{published}`"), "a parameter", "none"))?;
        let length = norm(data);
        norms.push(length);
        let mean_square = length / (data.num_elements() as f64).sqrt();
        // Exactly zero in the reference, where only rounding is left here.
        let is_zero = reference.iter().all(|value| *value == 0.0);
        let mut row: Vec<f64> = data
            .iter::<f64>()
            .take(entries)
            .map(|value| if is_zero { 0.0 } else { value / mean_square })
            .collect();
        row.resize(entries, 0.0);
        rows.extend(row);
    }
    outputs.list(format!("{name}_l2"), norms);
    outputs.data(format!("{name}_unit"), TensorData::new(rows, [names.len(), entries]));
    Ok(())
}

pub(super) fn tsm_train(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        block: String,
        layers: Vec<usize>,
        num_classes: usize,
        segments: Segments,
        fold_div: usize,
        lambda: f64,
        lr: f64,
        momentum: f64,
        weight_decay: f64,
        clip_gradient: f64,
        steps: usize,
        fc_lr5: bool,
        modes: Vec<String>,
        prefix: String,
        grad_names: Vec<String>,
        param_names: Vec<String>,
    }
    let config: Config = case.config()?;
    let training = leanburn::device::autodiff(device.clone());
    let counts = config.segments.ascending();
    let kind = if config.block == "Bottleneck" { BlockKind::Bottleneck } else { BlockKind::Basic };
    let alignment = Alignment::new().with_weight(config.lambda);
    let label: Tensor<Dispatch, 1, Int> = case.ints("label", &training)?;
    let clips = counts.map(|count| Ok(clips_2d(case, &format!("x{count}"), &training)?.cast(precision())));
    let clips = clips.into_iter().collect::<Result<Vec<_>>>()?;
    let mut outputs = Outputs::default();
    for mode in &config.modes {
        let shift = if mode == "high" { Shift::High } else { Shift::Own };
        let branches = config.segments.branches(true);
        let architecture = FrameResNetConfig::new(config.num_classes, kind, config.layers.clone(), branches)
            .with_fold_div(config.fold_div)
            .with_shift(shift);
        let names = |path: &str| architecture.published_name(path);
        let network = architecture.init::<Dispatch>(&mut Generator::new(0), &training)?;
        let mut network = exact(case.load(network, names)?);
        let mut optimizer = tsn_groups(config.momentum, config.weight_decay, config.fc_lr5, false);
        for step in 0..config.steps {
            // Without dropout, as the fixture's.
            let logits: Vec<_> = clips.iter().map(|clips| network.forward(clips.clone())).collect();
            let terms = alignment.terms(&logits, |logits| cross_entropy(logits, label.clone()));
            add_terms(&mut outputs, &format!("{mode}.step{step}.terms"), &terms);
            for (count, logits) in ["L", "M", "H"].iter().zip(logits) {
                outputs.tensor(format!("{mode}.step{step}.logits_{count}"), logits.inner());
            }
            let gradients = GradientsParams::from_grads(terms.total().backward(), &network);
            if step == 0 {
                let all = gradients::by_name(&network, &gradients, names)?;
                let name = format!("{mode}.grad");
                summaries(case, &mut outputs, &name, &all, &config.grad_names, &config.prefix)?;
                for (buffer, data) in checkpoint::tensors(&network.valid(), names)? {
                    outputs.data(format!("{mode}.after.{}{buffer}", config.prefix), data);
                }
            }
            let (gradients, norm) = clipped::<Dispatch, _>(&network, gradients, config.clip_gradient);
            outputs.list(format!("{mode}.step{step}.grad_norm"), vec![norm]);
            network = optimizer.step(config.lr, network, gradients);
        }
        let all = checkpoint::tensors(&network.valid(), names)?;
        let name = format!("{mode}.param");
        summaries(case, &mut outputs, &name, &all, &config.param_names, &config.prefix)?;
    }
    Ok(outputs)
}

pub(super) fn imagenet_import(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        arch: String,
        num_classes: usize,
        branch_labels: Segments,
    }
    let config: Config = case.config()?;
    let clips = clips_2d(case, "x", device)?;
    let mut outputs = Outputs::default();
    for branches in [Branches::single(config.branch_labels.h), config.branch_labels.branches(true)] {
        let architecture = named_depth(&config.arch, config.num_classes, branches.clone())?;
        let mut tensors = case.parameters()?;
        // An alteration in the file, of zeros.
        let network = architecture.init::<Dispatch>(&mut Generator::new(0), device)?;
        for (name, data) in checkpoint::tensors(&network, |path| architecture.published_name(path))? {
            if name.contains("adaconv") {
                let name = name.replace("base_model.", "").replace("adaconv_4", "adaconv");
                tensors.push((name, TensorData::zeros::<f32, _>(data.shape)));
            }
        }
        let weights = Checkpoint::from_tensors("torchvision.safetensors", tensors);
        let imported = architecture.import::<Dispatch>(weights, &mut Generator::new(0), device)?;
        if branches.counts.len() == 1 {
            outputs.tensor("plain", imported.network.forward(clips.clone()));
            continue;
        }
        for count in branches.counts {
            let branch = imported.network.clone().into_branch(count);
            outputs.tensor(format!("ffn.branch{count}"), branch.forward(clips.clone()));
        }
    }
    Ok(outputs)
}

/// What `ffn_tea_blocks` computes with.
#[derive(Module, Debug)]
struct TeaBlocks<B: Backend> {
    stage: TeaBlock<B>,
    normal: TeaBlock<B>,
}

pub(super) fn tea_blocks(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        planes: usize,
        segments: Segments,
        block_in_channels: BTreeMap<String, usize>,
        strides: BTreeMap<String, usize>,
    }
    let config: Config = case.config()?;
    let branches = config.segments.branches(false);
    let architecture = FrameResNetConfig::tea(1, branches.clone());
    let training = leanburn::device::autodiff(device.clone());
    let block = |name: &str| {
        let size = |sizes: &BTreeMap<String, usize>| sizes.get(name).copied().unwrap_or(0);
        let (input, stride) = (size(&config.block_in_channels), size(&config.strides));
        let shape = BlockShape { input, planes: config.planes, bottleneck: true, stride, stage: 1 };
        TeaBlock::<Dispatch>::init(shape, name == "stage", &branches, &mut Generator::new(0), &training)
    };
    let both = TeaBlocks { stage: block("stage"), normal: block("normal") };
    let both = exact(case.load(both, |path| block_name(&architecture, path))?);
    let mut outputs = Outputs::default();
    // Evaluation first: training moves the running statistics.
    for mode in ["eval", "train"] {
        for (name, block) in [("stage", &both.stage), ("normal", &both.normal)] {
            for (branch, count) in config.segments.ascending().into_iter().enumerate() {
                let pass = Pass { branch, segments: count };
                let x: Frames = case.tensor(&format!("{name}.x{count}"), &training)?;
                let x = x.cast(precision());
                let y = match mode {
                    "eval" => block.valid().forward(x.inner(), pass),
                    _ => block.forward(x, pass).inner(),
                };
                parts(case, &mut outputs, &format!("{name}.{mode}.y{count}"), y.into_data())?;
            }
            for (buffer, data) in checkpoint::tensors(&block.valid(), |path| block_name(&architecture, path))?
            {
                outputs.data(format!("{name}.after.{buffer}"), data);
            }
        }
    }
    Ok(outputs)
}

pub(super) fn slowfast(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        width_per_group: usize,
        num_classes: usize,
        alpha: usize,
        beta_inv: usize,
        fusion_conv_channel_ratio: usize,
        fusion_kernel: usize,
        frames: Segments,
        lambda: f64,
        reverse_channels: bool,
    }
    let config: Config = case.config()?;
    let counts = config.frames.ascending();
    let architecture = SlowFastConfig::new(config.num_classes, config.frames.branches(true))
        .with_width(config.width_per_group)
        .with_alpha(config.alpha)
        .with_beta_inverse(config.beta_inv)
        .with_fusion_ratio(config.fusion_conv_channel_ratio)
        .with_fusion_kernel(config.fusion_kernel);
    let training = leanburn::device::autodiff(device.clone());
    let names = |path: &str| architecture.published_name(path);
    let network = architecture.init::<Dispatch>(&mut Generator::new(0), &training)?;
    let network = case.load(network, names)?;
    let clips = |count: usize, device: &DispatchDevice| {
        let clips = clips_3d(case, &format!("x{count}"), device)?;
        Ok::<_, Error>(if config.reverse_channels { clips.flip([2]) } else { clips })
    };
    let mut outputs = Outputs::default();
    let plain = network.valid();
    let whole = |values: Vec<usize>| values.into_iter().map(|value| value as i64).collect();
    for count in counts {
        outputs.ints(format!("slow_index.{count}"), whole(plain.slow_index(count, false)));
        let clips = clips(count, device)?;
        let mut x = plain.forward_stems(clips.clone());
        let mut add = |module: &str, x: &Pathways<Dispatch>| {
            for (pathway, tensor, frames) in [(0, &x.slow, x.frames[0]), (1, &x.fast, x.frames[1])] {
                let name = format!("f{count}.{module}.p{pathway}");
                parts(case, &mut outputs, &name, volume(tensor.clone(), frames))?;
            }
            Ok::<(), Error>(())
        };
        for stage in 0..plain.stages.len() {
            x = plain.forward_fusion(stage, x);
            add(&format!("s{}_fuse", stage + 1), &x)?;
            x = plain.forward_stage(stage, x);
            add(&format!("s{}", stage + 2), &x)?;
        }
        outputs.tensor(format!("f{count}.probs"), softmax(plain.forward(clips), 1));
    }
    // As the published loader picks them, from all clips laid end to end.
    let total = counts.iter().sum::<usize>();
    let concatenated = leanburn::video::sampling::slow_frames(total, total / config.alpha);
    outputs.ints("slow_index.train", whole(concatenated));
    let label: Tensor<Dispatch, 1, Int> = case.ints("label", &training)?;
    let logits = counts.map(|count| Ok(network.forward(clips(count, &training)?)));
    let logits = logits.into_iter().collect::<Result<Vec<_>>>()?;
    let alignment = Alignment::new().with_weight(config.lambda);
    let terms = alignment.terms(&logits, |logits| cross_entropy(logits, label.clone()));
    add_terms(&mut outputs, "train.terms", &terms);
    for (count, logits) in ["L", "M", "H"].iter().zip(logits) {
        outputs.tensor(format!("train.logits_{count}"), logits.inner());
    }
    for (buffer, data) in checkpoint::tensors(&network.valid(), names)? {
        outputs.data(format!("after.{buffer}"), data);
    }
    Ok(outputs)
}

pub(super) fn uniformer(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        num_classes: usize,
        embed_dim: [usize; 4],
        depth: [usize; 4],
        head_dim: usize,
        mlp_ratio: f64,
        frames: Segments,
        drop_path: f64,
        lambda: f64,
        grad_names: Vec<String>,
    }
    let config: Config = case.config()?;
    let counts = config.frames.ascending();
    let architecture = UniFormerConfig::new(config.num_classes, config.frames.branches(true))
        .with_embed_dims(config.embed_dim)
        .with_depths(config.depth)
        .with_head_dim(config.head_dim)
        .with_mlp_ratio(config.mlp_ratio as usize)
        .with_drop_path(config.drop_path);
    let training = leanburn::device::autodiff(device.clone());
    let names = |path: &str| architecture.published_name(path);
    let network = architecture.init::<Dispatch>(&mut Generator::new(0), &training)?;
    let network = exact(case.load(network, names)?);
    let mut outputs = Outputs::default();
    let plain = network.valid();
    for count in counts {
        let clips = clips_3d(case, &format!("x{count}"), device)?.cast(precision());
        let [batch, _, channels, height, width] = clips.dims();
        let mut x = clips.clone().reshape([batch * count, channels, height, width]);
        let mut pass = plain.pass(count);
        let mut add = |module: String, x: &Frames, pass: Pass| {
            parts(case, &mut outputs, &format!("f{count}.{module}"), volume(x.clone(), pass.segments))
        };
        for (stage, layers) in plain.stages.iter().enumerate() {
            (x, pass) = plain.forward_patches(stage, x, pass);
            add(format!("patch_embed{}", stage + 1), &x, pass)?;
            for block in 0..layers.blocks.len() {
                x = plain.forward_block(stage, block, x, pass);
                add(format!("blocks{}.{block}", stage + 1), &x, pass)?;
            }
        }
        outputs.tensor(format!("f{count}.logits"), plain.forward(clips));
    }
    let soft = distributions(case.tensor("soft_raw", &training)?).cast(precision());
    let logits = counts
        .map(|count| Ok(network.forward(clips_3d(case, &format!("x{count}"), &training)?.cast(precision()))));
    let logits = logits.into_iter().collect::<Result<Vec<_>>>()?;
    let alignment = Alignment::new().with_weight(config.lambda);
    let terms = alignment.terms(&logits, |logits| cross_entropy_soft(logits, soft.clone()));
    add_terms(&mut outputs, "train.terms", &terms);
    for (count, logits) in ["L", "M", "H"].iter().zip(logits) {
        outputs.tensor(format!("train.logits_{count}"), logits.inner());
    }
    let gradients = GradientsParams::from_grads(terms.total().backward(), &network);
    let all = gradients::by_name(&network, &gradients, names)?;
    summaries(case, &mut outputs, "grad", &all, &config.grad_names, "")?;
    for (buffer, data) in checkpoint::tensors(&network.valid(), names)? {
        outputs.data(format!("after.{buffer}"), data);
    }
    Ok(outputs)
}

pub(super) fn evaluate(case: &Case, _device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        batches: Vec<usize>,
        num_classes: usize,
        segments: Segments,
        max_frames: usize,
        topk: Vec<usize>,
    }
    let config: Config = case.config()?;
    let mut outputs = Outputs::default();
    let mut all = Scores {
        frames: config.segments.h,
        classes: config.num_classes,
        logits: vec![],
        labels: vec![],
        seconds: 0.0,
    };
    let mut accuracies = Vec::new();
    for batch in 0..config.batches.len() {
        let logits: Vec<f32> = case.input(&format!("logits{batch}"))?.iter::<f32>().collect();
        let labels: Vec<i64> = case.input(&format!("label{batch}"))?.iter::<i64>().collect();
        all.logits.extend(&logits);
        all.labels.extend(&labels);
        let batch = Scores { logits, labels, ..all.clone() };
        for &k in &config.topk {
            accuracies.push(batch.accuracy(k)?);
        }
    }
    let columns = config.topk.len();
    outputs.data("batch_accuracy", TensorData::new(accuracies, [config.batches.len(), columns]));
    let mut epoch = config.topk.iter().map(|&k| all.accuracy(k)).collect::<Result<Vec<f64>>>()?;
    epoch.push(all.loss());
    outputs.list("epoch", epoch);
    let branches = config.segments.branches(true);
    let served = (1..=config.max_frames).map(|frames| branches.counts[branches.nearest(frames)] as i64);
    outputs.ints("branch", served.collect());
    Ok(outputs)
}

pub(super) fn schedules(case: &Case, _device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        groups: Vec<Group>,
        step: ByEpoch,
        step3: ByEpoch,
        cos: ByEpoch,
        uniformer: Cosine,
        slowfast: StepPolicy,
        slowfast_epochs: Vec<f64>,
    }
    #[derive(Deserialize)]
    struct Group {
        lr_mult: f64,
        decay_mult: f64,
    }
    #[derive(Deserialize)]
    struct ByEpoch {
        lr_type: String,
        lr: f64,
        weight_decay: f64,
        epochs: usize,
        lr_steps: Vec<f64>,
    }
    #[derive(Deserialize)]
    struct Cosine {
        base_lr: f64,
        end_lr: f64,
        epochs: usize,
        warmup_epochs: f64,
        warmup_start_lr: f64,
        epoch_step: f64,
    }
    #[derive(Deserialize)]
    struct StepPolicy {
        base_lr: f64,
        steps: Vec<f64>,
        relative_lrs: Vec<f64>,
        warmup_epochs: f64,
        warmup_start_lr: f64,
    }
    let config: Config = case.config()?;
    let mut outputs = Outputs::default();
    for (name, policy) in [("step", &config.step), ("step3", &config.step3), ("cos", &config.cos)] {
        let milestones: Vec<usize> = policy.lr_steps.iter().map(|&epoch| epoch as usize).collect();
        let schedule = match policy.lr_type.as_str() {
            "cos" => EpochSchedule::cosine(policy.lr, policy.epochs),
            _ => EpochSchedule::steps(policy.lr, policy.epochs, &milestones),
        };
        // A step an epoch.
        let by_step = schedule.by_step(1)?;
        let rows = (0..policy.epochs).flat_map(|epoch| {
            let rate = by_step.rate(epoch);
            config
                .groups
                .iter()
                .flat_map(move |group| [rate * group.lr_mult, policy.weight_decay * group.decay_mult])
        });
        let table: Vec<f64> = rows.collect();
        outputs.data(name, TensorData::new(table, [policy.epochs, 2 * config.groups.len()]));
    }
    let policy = config.uniformer;
    let schedule = EpochSchedule {
        base: policy.base_lr,
        epochs: policy.epochs,
        decay: EpochDecay::Cosine { end: policy.end_lr },
        warmup: Some(WarmUp { epochs: policy.warmup_epochs, start: policy.warmup_start_lr }),
        every_step: true,
    };
    let count = (policy.epochs as f64 / policy.epoch_step) as usize;
    let rates = (0..=count).map(|place| schedule.rate(place as f64 * policy.epoch_step));
    outputs.list("uniformer", rates.collect());
    let policy = config.slowfast;
    let schedule = EpochSchedule {
        base: policy.base_lr,
        epochs: 22,
        decay: EpochDecay::Steps(policy.steps.into_iter().zip(policy.relative_lrs).collect()),
        warmup: Some(WarmUp { epochs: policy.warmup_epochs, start: policy.warmup_start_lr }),
        every_step: true,
    };
    outputs.list("slowfast", config.slowfast_epochs.iter().map(|&epoch| schedule.rate(epoch)).collect());
    Ok(outputs)
}
