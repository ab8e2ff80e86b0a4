//! Jacobians, isometry, orthogonality, and training.

use leanburn::{
    burn::{
        optim::{GradientsParams, Optimizer, SgdConfig, decay::WeightDecayConfig, momentum::MomentumConfig},
        tensor::{Tensor, TensorData},
    },
    core::{Error, Result, checkpoint, loss::cross_entropy, metrics, random::Generator},
    prelude::{Dispatch, DispatchDevice},
    pruning::{
        Ratios, Selection, Stages, State,
        orthogonality::{self, Scheme},
        reinit::{Activation, ApproximateIsometry, Reinit, orthogonal, unbiased_std},
        schedules,
        surgery::{self, Mask},
        trainability::{self, Mode, SingularValues},
    },
    vision::Classifier,
};
use serde::Deserialize;

use super::{Job, Net, Trainable, dims, head, indices, loaded, norm, pattern, pick};
use crate::{case::Case, comparison::Outputs, gradients};

fn measured(outputs: &mut Outputs, name: &str, values: &SingularValues) {
    let rows = values.by_sample();
    let flat: Vec<f64> = rows.iter().flatten().copied().collect();
    let shape = [rows.len(), rows[0].len()];
    outputs.data(format!("{name}/singular_values"), TensorData::new(flat, shape));
    let s = values.summary();
    let stats = vec![s.mean, s.std, s.max, s.min, s.condition, s.deviation_mean, s.deviation_std];
    outputs.list(format!("{name}/stats"), stats);
}

#[derive(Deserialize)]
struct PruningJsv {
    net: Net,
    pr: f64,
    pick: String,
    pruned_layers: Vec<String>,
    batches: usize,
    orthp_gain: Option<f64>,
    mode: String,
}

impl PruningJsv {
    /// The names of the batches: a single one may have no number.
    fn inputs(&self, case: &Case) -> Vec<String> {
        if case.input("x").is_ok() {
            return vec!["x".to_owned()];
        }
        (0..self.batches).map(|batch| format!("x{batch}")).collect()
    }
}

fn mode(name: &str) -> Result<Mode> {
    match name {
        "eval" => Ok(Mode::Eval),
        "train" => Ok(Mode::Train),
        _ => Err(Error::setting("mode", "`eval` or `train`", format!("`{name}`"))),
    }
}

/// The activation with a gain.
fn activation(gain: f64) -> Result<Activation> {
    let all = [Activation::Linear, Activation::Relu, Activation::Tanh, Activation::LeakyRelu];
    let found = all.into_iter().find(|activation| (activation.gain() - gain).abs() < 1e-6);
    found.ok_or_else(|| Error::setting("gain", "that of an activation", gain))
}

pub(in super::super) fn pruning_jsv(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    struct Measure<'a>(&'a Case, &'a DispatchDevice, &'a PruningJsv);
    impl Job for Measure<'_> {
        fn run<A: Trainable>(self, config: &A) -> Result<Outputs> {
            let Self(case, device, settings) = self;
            let training = leanburn::device::autodiff(device.clone());
            let names = settings.inputs(case);
            let [_, height, width] = dims(case, &names[0])?;
            let size = [height, width];
            let batches = names
                .iter()
                .map(|name| case.tensor::<Dispatch, 4>(name, &training))
                .collect::<Result<Vec<_>>>()?;
            let mode = mode(&settings.mode)?;
            let measure = |network: &A::Network<Dispatch>| -> Result<SingularValues> {
                let values =
                    batches.iter().map(|batch| SingularValues::measure(network, batch.clone(), mode));
                Ok(SingularValues::concat(values.collect::<Result<Vec<_>>>()?))
            };
            let logits = |network: &A::Network<Dispatch>| {
                network.clone().with_frozen_norms(true).forward(batches[0].clone()).inner()
            };

            let network = loaded(case, config, &training)?;
            let graph = config.graph(size)?;
            let state = State::of::<A, Dispatch>(config, &network)?;
            let layers = settings.pruned_layers.iter().map(|name| (pattern(name), settings.pr)).collect();
            let selection = Selection::new().with_pick(pick(&settings.pick)?).with_at_most(Some(0.995));
            let kept = selection.select(&graph, &state, None, &Ratios::Patterns(layers))?;
            let (smaller, removed) = surgery::remove::<A, Dispatch>(config, &network, &kept, size)?;
            let masked = surgery::mask::<A, Dispatch>(config, &network, &kept, Mask::Full, size)?;

            let mut outputs = Outputs::default();
            for layer in graph.learnable() {
                outputs.ints(format!("kept/{}", layer.name()), indices(kept.outputs(layer.name())?));
            }
            outputs.tensor("logits_dense", logits(&network));
            outputs.tensor("logits_removed", logits(&removed));
            outputs.tensor("logits_masked_full", logits(&masked));
            measured(&mut outputs, "jsv_dense", &measure(&network)?);
            measured(&mut outputs, "jsv_pruned", &measure(&removed)?);
            if let Some(gain) = settings.orthp_gain {
                let graph = smaller.graph(size)?;
                let state = State::of::<A, Dispatch>(&smaller, &removed)?;
                let mut generator = Generator::new(0);
                let state = Reinit::OrthP.apply::<Dispatch>(
                    &graph,
                    state,
                    activation(gain)?,
                    &mut generator,
                    device,
                )?;
                for layer in graph.learnable() {
                    let name = format!("orthp_head/{}", layer.name());
                    let weight = state.tensor(&format!("{}.weight", layer.name()))?;
                    if case.expected().iter().any(|expected| expected.name == name) {
                        head(case, &mut outputs, &name, weight)?;
                    }
                }
                let network = state.network::<A, Dispatch>(&smaller, &training)?;
                outputs.tensor("logits_orthp", logits(&network));
                measured(&mut outputs, "jsv_orthp", &measure(&network)?);
            }
            Ok(outputs)
        }
    }
    let settings: PruningJsv = case.config()?;
    settings.net.run(dims(case, &settings.inputs(case)[0])?, Measure(case, device, &settings))
}

#[derive(Deserialize)]
struct JsvModes {
    net: Net,
    modes: Vec<String>,
}

pub(in super::super) fn jsv_modes(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    struct Measure<'a>(&'a Case, &'a DispatchDevice, &'a JsvModes);
    impl Job for Measure<'_> {
        fn run<A: Trainable>(self, config: &A) -> Result<Outputs> {
            let Self(case, device, settings) = self;
            let training = leanburn::device::autodiff(device.clone());
            let network = loaded(case, config, &training)?;
            let mut outputs = Outputs::default();
            for name in &settings.modes {
                let images = case.tensor::<Dispatch, 4>("x", &training)?;
                measured(&mut outputs, name, &SingularValues::measure(&network, images, mode(name)?)?);
            }
            Ok(outputs)
        }
    }
    let settings: JsvModes = case.config()?;
    settings.net.run(dims(case, "x")?, Measure(case, device, &settings))
}

#[derive(Deserialize)]
struct OrthLosses {
    shapes: std::collections::BTreeMap<String, Vec<usize>>,
    pruned: std::collections::BTreeMap<String, Vec<usize>>,
    losses: Vec<String>,
    orthconv: OrthConv,
    penalty_map_v6: PenaltyMap,
}

#[derive(Deserialize)]
struct OrthConv {
    stride: usize,
    padding: usize,
}

#[derive(Deserialize)]
struct PenaltyMap {
    lw_opp: f64,
    lw_orth_reg: f64,
    reg: f64,
}

pub(in super::super) fn orth_losses(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    let config: OrthLosses = case.config()?;
    let training = leanburn::device::autodiff(device.clone());
    let mut outputs = Outputs::default();
    for (name, shape) in &config.shapes {
        let is_conv = shape.len() == 4;
        let four: [usize; 4] = [shape[0], shape[1], *shape.get(2).unwrap_or(&1), *shape.get(3).unwrap_or(&1)];
        let data = TensorData::new(case.parameter(name)?.iter::<f32>().collect(), four);
        let original = Tensor::<Dispatch, 2>::from_data(case.parameter(&format!("orig:{name}"))?, &training);
        let pruned = &config.pruned[name][..];
        for loss in &config.losses {
            if loss.starts_with("orthconv") && !is_conv {
                continue;
            }
            let weight = Tensor::<Dispatch, 4>::from_data(data.clone(), &training).require_grad();
            let m = orthogonality::rows(weight.clone());
            let decorrelation = |scheme| orthogonality::decorrelation(m.clone(), pruned, scheme);
            let value = match loss.as_str() {
                "kernorth_dist" => orthogonality::kernel_orthogonality(m),
                // The published code turns a matrix whose rows are fewer than the layer's input channels.
                "mse_transpose" if four[0] < four[1] => orthogonality::isometry(m.transpose()),
                "mse_plain" | "mse_transpose" => orthogonality::isometry(m),
                "v3" | "v5_2" => decorrelation(Scheme::Orthonormal),
                "v4" => {
                    let row = decorrelation(Scheme::Orthonormal);
                    let column = orthogonality::column_drift(m, original.clone());
                    outputs.tensor(format!("{name}/v4/row"), row.clone());
                    outputs.tensor(format!("{name}/v4/column"), column.clone());
                    row + column
                }
                "v5" => decorrelation(Scheme::Decorrelate),
                "v6" => {
                    let PenaltyMap { lw_opp, lw_orth_reg, reg } = config.penalty_map_v6;
                    orthogonality::weighted_decorrelation(m, pruned, lw_opp * reg, lw_orth_reg)
                }
                "orthconv_dist" => {
                    let OrthConv { stride, padding } = config.orthconv;
                    orthogonality::convolution_orthogonality(weight.clone(), stride, padding)?
                }
                "orthconv_dist_s1" => {
                    let padding = config.orthconv.padding;
                    orthogonality::convolution_orthogonality(weight.clone(), 1, padding)?
                }
                _ => return Err(Error::setting("losses", "a loss that the runner knows", loss)),
            };
            outputs.tensor(format!("{name}/{loss}/value"), value.clone());
            let gradients = value.backward();
            let gradient = weight.grad(&gradients).ok_or_else(|| Error::data(loss, "a gradient", "none"))?;
            let values: Vec<f32> = gradient.into_data().iter::<f32>().collect();
            outputs.data(format!("{name}/{loss}/grad_w"), TensorData::new(values, shape.clone()));
        }
    }
    Ok(outputs)
}

#[derive(Deserialize)]
struct OrthpReinit {
    layers: Vec<String>,
    activations: Vec<String>,
    gram_activation: String,
}

fn named_activation(name: &str) -> Result<Activation> {
    match name {
        "linear" => Ok(Activation::Linear),
        "relu" => Ok(Activation::Relu),
        "tanh" => Ok(Activation::Tanh),
        "leaky_relu" => Ok(Activation::LeakyRelu),
        _ => Err(Error::setting("activation", "one that the runner knows", format!("`{name}`"))),
    }
}

pub(in super::super) fn orthp_reinit(case: &Case, _device: &DispatchDevice) -> Result<Outputs> {
    let config: OrthpReinit = case.config()?;
    let mut outputs = Outputs::default();
    for name in &config.layers {
        let data = case.parameter(name)?;
        let (rows, columns) = (data.shape[0], data.shape[1..].iter().product::<usize>());
        let values: Vec<f64> = data.iter::<f64>().collect();
        for activation in &config.activations {
            let gain = named_activation(activation)?.gain();
            let weight: Vec<f64> = orthogonal(&values, rows, columns).into_iter().map(|v| v * gain).collect();
            if *activation == config.gram_activation {
                // The product that is a multiple of the identity.
                let (count, inner, step, along) =
                    if rows <= columns { (rows, columns, columns, 1) } else { (columns, rows, 1, columns) };
                let dot = |a: usize, b: usize| -> f64 {
                    (0..inner).map(|k| weight[a * step + k * along] * weight[b * step + k * along]).sum()
                };
                let products = (0..count * count).map(|cell| dot(cell / count, cell % count)).collect();
                let gram = TensorData::new::<f64, _>(products, [count, count]);
                outputs.data(format!("orthp_{activation}_gram/{name}"), gram);
            }
            outputs.data(format!("orthp_{activation}/{name}"), TensorData::new(weight, data.shape.clone()));
        }
    }
    Ok(outputs)
}

#[derive(Deserialize)]
struct IsometryReinit {
    layers: Vec<String>,
    ai_steps: usize,
    lr_ai: f64,
    mask_threshold: f32,
    rescale_gain: f64,
}

pub(in super::super) fn isometry_reinit(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    let config: IsometryReinit = case.config()?;
    let isometry = ApproximateIsometry { steps: config.ai_steps, rate: config.lr_ai };
    let mut outputs = Outputs::default();
    for layer in &config.layers {
        let data = case.parameter(&format!("{layer}.weight"))?;
        let shape = data.shape.clone();
        let (rows, columns) = (shape[0], shape[1..].iter().product::<usize>());
        let matrix = |values: Vec<f32>| {
            Tensor::<Dispatch, 2>::from_data(TensorData::new(values, [rows, columns]), device)
        };
        let weight = matrix(data.iter::<f32>().collect());
        let mask = case.input(&format!("mask.{layer}"))?;
        let mask = mask.iter::<f32>().map(|value| f32::from(value >= config.mask_threshold)).collect();
        let mut add = |name: &str, end: Tensor<Dispatch, 2>| {
            let values: Vec<f32> = end.into_data().iter::<f32>().collect();
            outputs.data(format!("{name}/{layer}.weight"), TensorData::new(values, shape.clone()));
        };
        add("ai", isometry.approach(weight.clone(), None));
        add("ai_masked", isometry.approach(weight.clone(), Some(matrix(mask))));
        let values: Vec<f64> = data.iter::<f64>().collect();
        let scale = config.rescale_gain / (columns as f64).sqrt() / unbiased_std(&values);
        add("rescale_std", weight * scale);
    }
    Ok(outputs)
}

#[derive(Deserialize)]
struct PruningSchedules {
    preset: Vec<Preset>,
    cosine: Vec<Cosine>,
    halving: Vec<Halving>,
    scratch_b: ScratchB,
    trainability_accuracy: TrainabilityAccuracy,
    topk: Vec<usize>,
}

#[derive(Deserialize)]
struct Preset {
    label: String,
    text: String,
    epochs: usize,
}

#[derive(Deserialize)]
struct Cosine {
    label: String,
    lr: f64,
    eta_min: f64,
    epochs: usize,
    first_epoch: usize,
}

#[derive(Deserialize)]
struct Halving {
    label: String,
    epochs: usize,
    lr: f64,
    final_lr: f64,
    gamma: f64,
    max_stage: usize,
}

#[derive(Deserialize)]
struct ScratchB {
    net: Net,
    input: [usize; 3],
    pattern: String,
    ratios: Vec<f64>,
    #[serde(rename = "K1")]
    pretraining: usize,
    #[serde(rename = "K2")]
    retraining: usize,
    pruning_epochs: usize,
}

#[derive(Deserialize)]
struct TrainabilityAccuracy {
    label: String,
    schedule: Vec<(usize, f64)>,
    accuracies: String,
}

pub(in super::super) fn pruning_schedules(case: &Case, _device: &DispatchDevice) -> Result<Outputs> {
    struct Speedups<'a>(&'a ScratchB);
    impl Job for Speedups<'_> {
        fn run<A: Trainable>(self, config: &A) -> Result<Outputs> {
            let ScratchB { input, pattern: layers, ratios, pretraining, retraining, pruning_epochs, .. } =
                self.0;
            let size = [input[1], input[2]];
            let graph = config.graph(size)?;
            let speedup = |&ratio: &f64| -> Result<f64> {
                let ratios = Ratios::Patterns(vec![(pattern(layers), ratio)]).resolve(&graph, &[])?;
                let pruned = super::first_filters(&graph, &ratios);
                let kept = leanburn::pruning::Kept::without(&graph, &pruned)?;
                let smaller = config.pruned(&kept)?.graph(size)?;
                Ok(graph.cost().macs as f64 / smaller.cost().macs as f64)
            };
            let speedups = ratios.iter().map(speedup).collect::<Result<Vec<_>>>()?;
            let mut outputs = Outputs::default();
            let epochs = speedups.iter().map(|&k| schedules::scratch_b(*pretraining, *retraining, k));
            outputs.list(format!("scratch_b/epochs_K1_{pretraining}_K2_{retraining}"), epochs.collect());
            let pruning = speedups.iter().map(|k| *pruning_epochs as f64 / k);
            outputs.list(format!("scratch_b/pruning_epoch_{pruning_epochs}_over_k"), pruning.collect());
            Ok(outputs)
        }
    }
    let config: PruningSchedules = case.config()?;
    let mut outputs = config.scratch_b.net.run(config.scratch_b.input, Speedups(&config.scratch_b))?;
    for Preset { label, text, epochs } in &config.preset {
        let stages: Stages = text.parse()?;
        outputs.list(format!("preset/{label}"), (0..*epochs).map(|epoch| stages.rate(epoch)).collect());
    }
    for Cosine { label, lr, eta_min, epochs, first_epoch } in &config.cosine {
        let rates = schedules::cosine(*epochs, *lr, *eta_min, *first_epoch);
        outputs.list(format!("cosine/{label}"), rates);
    }
    for Halving { label, epochs, lr, final_lr, gamma, max_stage } in &config.halving {
        let stages = Stages::halving(*epochs, *lr, *final_lr, *gamma, *max_stage)?;
        let starts = stages.stages().iter().map(|(start, _)| *start as i64).collect();
        outputs.ints(format!("halving/{label}/starts"), starts);
        outputs.list(format!("halving/{label}/lrs"), stages.stages().iter().map(|(_, rate)| *rate).collect());
    }
    let TrainabilityAccuracy { label, schedule, accuracies } = config.trainability_accuracy;
    let accuracies: Vec<f64> = case.input(&accuracies)?.iter::<f64>().collect();
    let first = Stages::new(schedule)?.first_stage(accuracies.len());
    let accuracy = trainability::trainability_accuracy(&accuracies, first)?;
    outputs.list(format!("trainability_accuracy/{label}"), vec![accuracy]);
    let logits: Vec<f32> = case.input("logits")?.iter::<f32>().collect();
    let labels: Vec<i64> = case.input("labels")?.iter::<i64>().collect();
    let top = config.topk.iter().map(|&k| Ok(100.0 * metrics::top_k_accuracy(&logits, &labels, k)?));
    let name = format!("top{}", config.topk.iter().map(ToString::to_string).collect::<Vec<_>>().join("_top"));
    outputs.list(name, top.collect::<Result<Vec<f64>>>()?);
    Ok(outputs)
}

#[derive(Deserialize)]
struct SgdTraining {
    net: Net,
    lr: f64,
    momentum: f64,
    weight_decay: f32,
    steps: usize,
    nesterov: bool,
    dampening: f64,
}

pub(in super::super) fn sgd_training(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    struct Train<'a>(&'a Case, &'a DispatchDevice, &'a SgdTraining);
    impl Job for Train<'_> {
        fn run<A: Trainable>(self, config: &A) -> Result<Outputs> {
            let Self(case, device, settings) = self;
            let training = leanburn::device::autodiff(device.clone());
            let names = |path: &str| config.published_name(path);
            let mut network = loaded(case, config, &training)?;
            let mut optimizer = SgdConfig::new()
                .with_momentum(Some(MomentumConfig {
                    momentum: settings.momentum,
                    dampening: settings.dampening,
                    nesterov: settings.nesterov,
                }))
                .with_weight_decay(Some(WeightDecayConfig::new(settings.weight_decay)))
                .init::<Dispatch, A::Network<Dispatch>>();
            let mut outputs = Outputs::default();
            let heads = |outputs: &mut Outputs, prefix: &str, name: &str, data: &TensorData| -> Result<()> {
                outputs.list(format!("{prefix}_norm/{name}"), vec![norm(data)]);
                let head_name = format!("{prefix}_head/{name}");
                if case.expected().iter().any(|expected| expected.name == head_name) {
                    head(case, outputs, &head_name, data)?;
                }
                Ok(())
            };
            for step in 0..settings.steps {
                let images = case.tensor::<Dispatch, 4>(&format!("x{step}"), &training)?;
                let labels = case.ints::<Dispatch>(&format!("y{step}"), &training)?;
                let logits = network.forward(images);
                let loss = cross_entropy(logits.clone(), labels);
                outputs.tensor(format!("step{step}/logits"), logits.inner());
                outputs.tensor(format!("step{step}/loss"), loss.clone().inner());
                let gradients = GradientsParams::from_grads(loss.backward(), &network);
                if step == 0 {
                    for (name, data) in gradients::by_name(&network, &gradients, names)? {
                        if name.contains("running_") {
                            outputs.data(format!("step0/{name}"), data);
                        } else {
                            heads(&mut outputs, "step0/grad", &name, &data)?;
                            outputs.data(format!("step0/grad/{name}"), data);
                        }
                    }
                }
                network = optimizer.step(settings.lr, network, gradients);
            }
            for (name, data) in checkpoint::tensors(&network, names)? {
                heads(&mut outputs, "final", &name, &data)?;
            }
            Ok(outputs)
        }
    }
    let settings: SgdTraining = case.config()?;
    settings.net.run(dims(case, "x0")?, Train(case, device, &settings))
}
