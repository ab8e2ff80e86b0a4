//! Pruning. The kinds are described in `oracles/pruning/README.md`.

mod regularised;
mod trainability;

pub(super) use regularised::{greg_run, tpp_run};
pub(super) use trainability::{
    isometry_reinit, jsv_modes, orth_losses, orthp_reinit, pruning_jsv, pruning_schedules, sgd_training,
};

use std::{collections::BTreeMap, fmt};

use leanburn::{
    burn::{
        module::{AutodiffModule, Module},
        tensor::{Tensor, TensorData, backend::Backend},
    },
    core::{
        Error, Result,
        architecture::{Graph, Layer},
        random::Generator,
    },
    prelude::{Dispatch, DispatchDevice},
    pruning::{
        Criterion, Kept, Prunable, Ratios, Selection, State,
        selection::{Coupling, Pick, Scope},
        surgery::{self, Mask},
        unstructured::{WeightSelection, circulant},
    },
    vision::{
        Architecture, Classifier,
        resnet::{ResNet, ResNetConfig},
        sequential::{Features, LayerConfig, Sequential, SequentialConfig},
    },
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use crate::{case::Case, comparison::Outputs};

/// `Dispatch` without gradients recorded.
type Plain = Dispatch;

/// A network of a manifest.
#[derive(Deserialize)]
#[serde(tag = "family", rename_all = "snake_case")]
enum Net {
    Mlp {
        n_fc: usize,
        d_image: usize,
        width: usize,
        num_classes: usize,
        activation: String,
    },
    Lenet5 {
        in_channels: usize,
        num_classes: usize,
    },
    VggCifar {
        depth: usize,
        #[serde(default = "one")]
        width_divisor: usize,
        num_classes: usize,
    },
    ResnetCifar {
        blocks: Vec<usize>,
        shortcut: String,
        num_classes: usize,
    },
    ResnetTorchvision {
        block: String,
        layers: Vec<usize>,
        num_classes: usize,
    },
    Sequential {
        layers: Vec<SequentialLayer>,
    },
}

fn one() -> usize {
    1
}

/// A layer of a chain.
#[derive(Deserialize)]
#[serde(untagged)]
enum SequentialLayer {
    Conv {
        conv: String,
        out: usize,
        kernel: usize,
        #[serde(default = "one")]
        stride: usize,
        #[serde(default)]
        padding: usize,
        #[serde(default)]
        bias: bool,
    },
    Linear {
        linear: String,
        out: usize,
    },
    BatchNorm {
        batch_norm: String,
    },
    Relu {
        #[serde(rename = "relu")]
        _relu: bool,
    },
    MaxPool {
        max_pool: usize,
    },
    GlobalMean {
        #[serde(rename = "global_mean")]
        _global_mean: bool,
    },
    Flatten {
        #[serde(rename = "flatten")]
        _flatten: bool,
    },
}

impl SequentialLayer {
    fn config(&self) -> LayerConfig {
        match self {
            Self::Conv { conv, out, kernel, stride, padding, bias } => LayerConfig::Conv {
                name: conv.clone(),
                width: *out,
                kernel: *kernel,
                stride: *stride,
                padding: *padding,
                bias: *bias,
            },
            Self::Linear { linear, out } => LayerConfig::Linear { name: linear.clone(), width: *out },
            Self::BatchNorm { batch_norm } => LayerConfig::BatchNorm { name: batch_norm.clone() },
            Self::Relu { .. } => LayerConfig::Relu,
            Self::MaxPool { max_pool } => LayerConfig::MaxPool { kernel: *max_pool },
            Self::GlobalMean { .. } => LayerConfig::GlobalMean,
            Self::Flatten { .. } => LayerConfig::Flatten,
        }
    }
}

/// What a runner does with a network, whatever its kind.
trait Job {
    fn run<A: Trainable>(self, config: &A) -> Result<Outputs>;
}

impl Net {
    /// - input: channels, height and width
    fn run(&self, input: [usize; 3], job: impl Job) -> Result<Outputs> {
        match self {
            Self::Mlp { n_fc, d_image, width, num_classes, activation } => {
                if input.iter().product::<usize>() != *d_image {
                    return Err(Error::data("net, d_image", d_image, format!("{input:?}")));
                }
                let mut widths = vec![*width; n_fc - 1];
                widths.push(*num_classes);
                job.run(&SequentialConfig::mlp(input, &widths, activation == "relu"))
            }
            Self::Lenet5 { in_channels, num_classes } => {
                job.run(&SequentialConfig::lenet5(*in_channels, *num_classes))
            }
            Self::VggCifar { depth, width_divisor, num_classes } => {
                let mut config = SequentialConfig::vgg(*depth, *num_classes)?;
                for layer in &mut config.layers {
                    if let LayerConfig::Conv { width, .. } = layer {
                        *width /= width_divisor;
                    }
                }
                job.run(&config)
            }
            Self::ResnetCifar { blocks, shortcut, num_classes } => {
                job.run(&ResNetConfig::cifar_blocks(blocks, 16, *num_classes, shortcut == "B"))
            }
            Self::ResnetTorchvision { block, layers, num_classes } => {
                job.run(&ResNetConfig::torchvision(layers, block == "bottleneck", *num_classes))
            }
            Self::Sequential { layers } => {
                let layers = layers.iter().map(SequentialLayer::config).collect();
                job.run(&SequentialConfig::new(input, layers))
            }
        }
    }
}

/// What the jobs ask of a network.
trait Trainable:
    Prunable<Network<Dispatch>: AutodiffModule<Dispatch, InnerModule: Module<Dispatch>>> + Observed
{
}

impl<A> Trainable for A where
    A: Prunable<Network<Dispatch>: AutodiffModule<Dispatch, InnerModule: Module<Dispatch>>> + Observed
{
}

/// A network whose layers' outputs can be looked at.
trait Observed: Architecture {
    /// What the module called `name` gives.
    fn activation<B: Backend>(
        &self,
        network: &Self::Network<B>,
        name: &str,
        images: Tensor<B, 4>,
    ) -> Result<Tensor<B, 4>>;
}

fn no_module(name: &str) -> Error {
    Error::data(format!("act/{name}"), "a module of the network", "none")
}

impl Observed for ResNetConfig {
    fn activation<B: Backend>(
        &self,
        network: &ResNet<B>,
        name: &str,
        images: Tensor<B, 4>,
    ) -> Result<Tensor<B, 4>> {
        if name == "bn1" {
            let norm = network.bn1.as_ref().ok_or_else(|| no_module(name))?;
            return Ok(norm.forward(network.conv1.forward(images)));
        }
        let mut x = network.forward_stem(images);
        if name == "maxpool" {
            return Ok(x);
        }
        for (stage, blocks) in network.stages.iter().enumerate() {
            for (block, layer) in blocks.iter().enumerate() {
                x = layer.forward(x);
                if name == format!("layer{}.{block}", stage + 1) {
                    return Ok(x);
                }
            }
            if name == format!("layer{}", stage + 1) {
                return Ok(x);
            }
        }
        Err(no_module(name))
    }
}

impl Observed for SequentialConfig {
    fn activation<B: Backend>(
        &self,
        network: &Sequential<B>,
        name: &str,
        images: Tensor<B, 4>,
    ) -> Result<Tensor<B, 4>> {
        let mut x = images;
        for (index, layer) in network.layers.iter().enumerate() {
            match layer.forward(Features::Maps(x.clone())) {
                Features::Maps(maps) => x = maps,
                Features::Rows(_) if name == "features" => return Ok(x),
                Features::Rows(_) => break,
            }
            if name == format!("features.{index}") {
                return Ok(x);
            }
        }
        Err(no_module(name))
    }
}

/// The network of a configuration with the case's parameters.
fn loaded<A: Architecture>(case: &Case, config: &A, device: &DispatchDevice) -> Result<A::Network<Dispatch>> {
    let network = config.init::<Dispatch>(&mut Generator::new(0), device)?;
    case.load(network, |path| config.published_name(path))
}

/// A pattern of the manifests, which match names with the prefix `module.`.
fn pattern(pattern: &str) -> String {
    pattern.strip_prefix("module.").unwrap_or(pattern).to_owned()
}

/// Ratios by pattern, in the manifest's order: later ones override earlier ones.
struct Patterns(Vec<(String, f64)>);

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Patterns;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("ratios by pattern")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<Patterns, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Patterns(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl Patterns {
    fn ratios(&self) -> Ratios {
        Ratios::Patterns(self.0.iter().map(|(name, ratio)| (pattern(name), *ratio)).collect())
    }
}

fn dims(case: &Case, name: &str) -> Result<[usize; 3]> {
    let shape = case.input(name)?.shape;
    Ok([shape[1], shape[2], shape[3]])
}

fn indices(values: &[usize]) -> Vec<i64> {
    values.iter().map(|&value| value as i64).collect()
}

/// As many first values as the reference has.
fn head(case: &Case, outputs: &mut Outputs, name: &str, values: &TensorData) -> Result<()> {
    let count = case.reference(name)?.num_elements();
    outputs.list(name, values.iter::<f64>().take(count).collect());
    Ok(())
}

fn norm(data: &TensorData) -> f64 {
    data.iter::<f64>().map(|value| value * value).sum::<f64>().sqrt()
}

#[derive(Deserialize)]
struct FilterPruning {
    net: Net,
    pr_by_layer_pattern: Patterns,
    skip_layers: Vec<String>,
    pick: String,
}

fn pick(name: &str) -> Result<Pick> {
    match name {
        "min" => Ok(Pick::Min),
        "max" => Ok(Pick::Max),
        _ => Err(Error::setting("pick", "`min` or `max`", format!("`{name}`"))),
    }
}

impl FilterPruning {
    fn selection(&self) -> Result<Selection> {
        let skip = self.skip_layers.iter().map(|name| pattern(name)).collect();
        Ok(Selection::new()
            .with_pick(pick(&self.pick)?)
            .with_coupling(Coupling::First)
            .with_at_most(Some(0.995))
            .with_skip(skip))
    }
}

pub(super) fn filter_pruning(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    struct Prune<'a>(&'a Case, &'a DispatchDevice, &'a FilterPruning);
    impl Job for Prune<'_> {
        fn run<A: Trainable>(self, config: &A) -> Result<Outputs> {
            let Self(case, device, settings) = self;
            let [_, height, width] = dims(case, "x")?;
            let size = [height, width];
            let network = loaded(case, config, device)?;
            let graph = config.graph(size)?;
            let state = State::of::<A, Plain>(config, &network)?;
            let images: Tensor<Plain, 4> = case.tensor("x", device)?;

            let mut outputs = Outputs::default();
            let ratios = settings.pr_by_layer_pattern.ratios();
            let kept = settings.selection()?.select(&graph, &state, None, &ratios)?;
            for layer in graph.learnable() {
                let name = layer.name();
                outputs.ints(format!("kept/{name}"), indices(kept.outputs(name)?));
                outputs.ints(format!("kept_inputs/{name}"), indices(kept.inputs(name)?));
            }
            for expected in case.expected() {
                if let Some(name) = expected.name.strip_prefix("score_head/") {
                    let scores = Criterion::L1.scores(&graph, graph.layer(name)?, &state, None)?;
                    let count = scores.len();
                    head(case, &mut outputs, &expected.name, &TensorData::new(scores, [count]))?;
                }
                if let Some(name) = expected.name.strip_prefix("act/") {
                    let activation = config.activation::<Plain>(&network, name, images.clone())?.into_data();
                    outputs.list(format!("act_norm/{name}"), vec![norm(&activation)]);
                    head(case, &mut outputs, &expected.name, &activation)?;
                }
            }
            let (smaller, removed) = surgery::remove::<A, Plain>(config, &network, &kept, size)?;
            let masked = |mask| surgery::mask::<A, Plain>(config, &network, &kept, mask, size);
            outputs.tensor("logits_dense", network.forward(images.clone()));
            outputs.tensor("logits_removed", removed.forward(images.clone()));
            outputs.tensor("logits_masked_full", masked(Mask::Full)?.forward(images.clone()));
            outputs.tensor("logits_masked_weight_only", masked(Mask::Weights)?.forward(images));
            let (dense, pruned) = (graph.cost(), smaller.graph(size)?.cost());
            outputs.ints("params", indices(&[dense.params, pruned.params]));
            outputs.ints("macs", indices(&[dense.macs, pruned.macs]));
            Ok(outputs)
        }
    }
    let settings: FilterPruning = case.config()?;
    settings.net.run(dims(case, "x")?, Prune(case, device, &settings))
}

#[derive(Deserialize)]
struct UnstructuredPruning {
    net: Net,
    pr_local: f64,
    pr_global: f64,
    skip_layers: Vec<String>,
}

pub(super) fn unstructured_pruning(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    struct Prune<'a>(&'a Case, &'a DispatchDevice, &'a UnstructuredPruning);
    impl Job for Prune<'_> {
        fn run<A: Trainable>(self, config: &A) -> Result<Outputs> {
            let Self(case, device, settings) = self;
            let [_, height, width] = dims(case, "x")?;
            let network = loaded(case, config, device)?;
            let graph = config.graph([height, width])?;
            let state = State::of::<A, Plain>(config, &network)?;
            let images: Tensor<Plain, 4> = case.tensor("x", device)?;
            let mut outputs = Outputs::default();
            outputs.tensor("logits_dense", network.forward(images.clone()));
            let scopes =
                [("local", Scope::Local, settings.pr_local), ("global", Scope::Global, settings.pr_global)];
            for (name, scope, ratio) in scopes {
                let skip = settings.skip_layers.iter().map(|name| pattern(name)).collect();
                let selection = WeightSelection { scope, skip, ..Default::default() };
                let masks = selection.select(&graph, &state, &Ratios::Uniform(ratio))?;
                for layer in graph.learnable().map(Layer::name) {
                    let mask = masks.layer(layer)?;
                    let pruned = mask.iter().filter(|stays| !**stays).count();
                    outputs.ints(format!("{name}/n_pruned/{layer}"), vec![pruned as i64]);
                    let shape = state.tensor(&format!("{layer}.weight"))?.shape.clone();
                    let mask: Vec<i64> = mask.iter().map(|&stays| i64::from(stays)).collect();
                    outputs.data(format!("{name}/mask/{layer}"), TensorData::new(mask, shape));
                }
                let masked = masks.apply(state.clone())?.network::<A, Plain>(config, device)?;
                outputs.tensor(format!("{name}/logits"), masked.forward(images.clone()));
                outputs.list(format!("{name}/sparsity"), vec![masks.sparsity()]);
            }
            Ok(outputs)
        }
    }
    let settings: UnstructuredPruning = case.config()?;
    settings.net.run(dims(case, "x")?, Prune(case, device, &settings))
}

#[derive(Deserialize)]
struct CostAccounting {
    rows: Vec<CostRow>,
}

#[derive(Deserialize)]
struct CostRow {
    label: String,
    net: Net,
    input: [usize; 3],
    #[serde(default)]
    pr_by_layer_pattern: Option<Patterns>,
    #[serde(default)]
    skip_layers: Vec<String>,
}

pub(super) fn cost_accounting(case: &Case, _device: &DispatchDevice) -> Result<Outputs> {
    struct Count<'a>(&'a CostRow);
    impl Job for Count<'_> {
        fn run<A: Trainable>(self, config: &A) -> Result<Outputs> {
            let CostRow { label, input, pr_by_layer_pattern, skip_layers, .. } = self.0;
            let size = [input[1], input[2]];
            let graph = config.graph(size)?;
            let numbers = |cost: leanburn::core::architecture::Cost| {
                indices(&[cost.params, cost.macs, cost.params_all])
            };
            let mut outputs = Outputs::default();
            outputs.ints(format!("{label}/dense"), numbers(graph.cost()));
            if let Some(patterns) = pr_by_layer_pattern.as_ref().filter(|patterns| !patterns.0.is_empty()) {
                // Which filters go does not matter, so the first ones do.
                let skip: Vec<String> = skip_layers.iter().map(|name| pattern(name)).collect();
                let ratios = patterns.ratios().resolve(&graph, &skip)?;
                let kept = Kept::without(&graph, &first_filters(&graph, &ratios))?;
                let smaller = config.pruned(&kept)?.graph(size)?;
                outputs.ints(format!("{label}/pruned"), numbers(smaller.cost()));
            }
            Ok(outputs)
        }
    }
    let mut outputs = Outputs::default();
    for row in &case.config::<CostAccounting>()?.rows {
        outputs.extend(row.net.run(row.input, Count(row))?);
    }
    Ok(outputs)
}

/// The first filters of each layer at its ratio.
fn first_filters(graph: &Graph, ratios: &[f64]) -> BTreeMap<String, Vec<usize>> {
    let pruned = graph.learnable().zip(ratios).map(|(layer, ratio)| {
        let count = layer.outputs().len();
        let cap = (0.995 * count as f64).floor() as usize;
        let removed = ((ratio * count as f64).ceil() as usize).min(cap);
        (layer.name().to_owned(), (0..removed).collect())
    });
    pruned.collect()
}

#[derive(Deserialize)]
struct FilterScores {
    layers: BTreeMap<String, ScoredLayer>,
    conv: [usize; 4],
    linear: [usize; 2],
    ratios: Vec<f64>,
    weight_mask_ratio: f64,
    random_ratio: f64,
    random_seeds: BTreeMap<String, u32>,
    circulant: Vec<Circulant>,
}

#[derive(Deserialize)]
struct ScoredLayer {
    weight: String,
    accu_grad: String,
}

#[derive(Deserialize)]
struct Circulant {
    label: String,
    shape: [usize; 2],
    ratio: f64,
    position: usize,
}

/// The published base rows of circulant masks.
fn base_row(ratio: f64, position: usize) -> Result<Vec<bool>> {
    let base: &[u8] = match (ratio, position) {
        (0.25, 0) => b"0111",
        (0.5, 0) => b"01",
        (0.625, 0) => b"10001010",
        (0.75, 1) => b"00001",
        _ => return Err(Error::data("circulant", "a published base row", format!("{ratio}, {position}"))),
    };
    Ok(base.iter().map(|digit| *digit == b'1').collect())
}

pub(super) fn filter_scores(case: &Case, _device: &DispatchDevice) -> Result<Outputs> {
    let config: FilterScores = case.config()?;
    // A network of the two layers: the linear one reads the means of the other's maps.
    let [width, channels, kernel, _] = config.conv;
    let names: Vec<&str> = config.layers.keys().map(String::as_str).collect();
    let (conv, linear) = match names[..] {
        [conv, linear] => (conv.to_owned(), linear.to_owned()),
        _ => return Err(Error::data("config, layers", "a convolution and a linear layer", names.len())),
    };
    let mut outputs = Outputs::default();
    for (name, layer) in &config.layers {
        let is_conv = *name == conv;
        let shape = if is_conv { config.conv.to_vec() } else { config.linear.to_vec() };
        let layers = if is_conv {
            vec![
                LayerConfig::Conv { name: conv.clone(), width, kernel, stride: 1, padding: 0, bias: false },
                LayerConfig::GlobalMean,
                LayerConfig::Linear { name: "classifier".to_owned(), width: 1 },
            ]
        } else {
            vec![
                LayerConfig::Flatten,
                LayerConfig::Linear { name: linear.clone(), width: config.linear[0] },
                LayerConfig::Linear { name: "classifier".to_owned(), width: 1 },
            ]
        };
        let input = if is_conv { [channels, kernel, kernel] } else { [config.linear[1], 1, 1] };
        let graph = SequentialConfig::new(input, layers).graph([input[1], input[2]])?;
        let graph_layer = graph.layer(name)?;
        let classifier = vec![0.0_f32; shape[0]];
        let state = State::new([
            (format!("{name}.weight"), case.parameter(&layer.weight)?),
            ("classifier.weight".to_owned(), TensorData::new(classifier, [1, shape[0]])),
        ]);
        let gradients = State::new([(format!("{name}.weight"), case.input(&layer.accu_grad)?)]);
        let scores = |criterion: Criterion| criterion.scores(&graph, graph_layer, &state, Some(&gradients));
        outputs.list(format!("{name}/score_filter"), scores(Criterion::L1)?);
        outputs.list(format!("{name}/score_taylor_fo"), scores(Criterion::Taylor)?);
        outputs.list(format!("{name}/score_channel"), state.channel_scores(graph_layer)?);
        let weights = state.tensor(&format!("{name}.weight"))?;
        outputs.list(format!("{name}/score_weight"), weights.iter::<f64>().map(f64::abs).collect());

        let selected = |pick, ratio: f64| -> Result<Vec<i64>> {
            // The published code takes 1 for all that may go.
            let ratios = Ratios::patterns([(name.as_str(), ratio.min(1.0 - f64::EPSILON))]);
            let selection = Selection::new().with_pick(pick).with_at_most(Some(0.995));
            Ok(indices(selection.select(&graph, &state, None, &ratios)?.pruned(name)?))
        };
        for &ratio in &config.ratios {
            outputs.ints(format!("{name}/pruned_min_{ratio:?}"), selected(Pick::Min, ratio)?);
            outputs.ints(format!("{name}/pruned_max_{ratio:?}"), selected(Pick::Max, ratio)?);
        }
        for (random, &seed) in &config.random_seeds {
            let pruned = selected(Pick::NumpyRandom { seed }, config.random_ratio)?;
            outputs.ints(format!("{name}/pruned_{random}"), pruned);
        }
        let ratio = config.weight_mask_ratio;
        let masks =
            WeightSelection::default().select(&graph, &state, &Ratios::patterns([(name.as_str(), ratio)]))?;
        let mask: Vec<i64> = masks.layer(name)?.iter().map(|&stays| i64::from(stays)).collect();
        outputs.data(format!("{name}/weight_mask_{ratio}"), TensorData::new(mask, shape));
    }
    for Circulant { label, shape, ratio, position } in &config.circulant {
        let mask = circulant(*shape, &base_row(*ratio, *position)?)?;
        let mask: Vec<i64> = mask.into_iter().map(i64::from).collect();
        outputs.data(format!("circulant/{label}"), TensorData::new(mask, *shape));
    }
    Ok(outputs)
}
