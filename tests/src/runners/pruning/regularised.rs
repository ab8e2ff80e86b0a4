//! Whole runs of GReg and TPP, from dense weights to the removal of filters.

use leanburn::{
    burn::{
        optim::{GradientsParams, Optimizer, SgdConfig, decay::WeightDecayConfig, momentum::MomentumConfig},
        tensor::{Tensor, TensorData},
    },
    core::{Error, Result, checkpoint, loss::cross_entropy},
    prelude::{Dispatch, DispatchDevice},
    pruning::{
        Ratios, Selection, State,
        regularised::{GregConfig, Growth, Penalty, Phase, TppConfig},
        surgery,
    },
    vision::Classifier,
};
use serde::Deserialize;

use super::{Job, Net, Patterns, Trainable, dims, head, indices, loaded, norm, pattern};
use crate::{
    case::Case,
    comparison::Outputs,
    gradients,
    precision::{exact, precision},
};

/// Values by iteration and layer, as `[iterations, layers]`.
fn table(rows: &[Vec<f64>]) -> TensorData {
    let columns = rows.first().map_or(0, Vec::len);
    TensorData::new(rows.concat(), [rows.len(), columns])
}

fn state(phase: Phase) -> i64 {
    i64::from(phase != Phase::Grow)
}

/// Norms, and heads where they are expected.
fn norms(case: &Case, outputs: &mut Outputs, prefix: &str, values: &[(String, TensorData)]) -> Result<()> {
    for (name, data) in values {
        outputs.list(format!("{prefix}_norm/{name}"), vec![norm(data)]);
        outputs.data(format!("{prefix}/{name}"), data.clone());
        let head_name = format!("{prefix}_head/{name}");
        if case.expected().iter().any(|expected| expected.name == head_name) {
            head(case, outputs, &head_name, data)?;
        }
    }
    Ok(())
}

/// The optimiser that both kinds of run use.
#[derive(Deserialize)]
struct Sgd {
    lr_prune: f64,
    momentum: f64,
    weight_decay: f32,
    nesterov: bool,
    dampening: f64,
}

impl Sgd {
    fn config(&self) -> SgdConfig {
        SgdConfig::new()
            .with_momentum(Some(MomentumConfig {
                momentum: self.momentum,
                dampening: self.dampening,
                nesterov: self.nesterov,
            }))
            .with_weight_decay(Some(WeightDecayConfig::new(self.weight_decay)))
    }
}

/// The loss of a batch, and its gradients.
fn backward<A: Trainable>(
    case: &Case,
    network: &A::Network<Dispatch>,
    batch: usize,
    training: &DispatchDevice,
) -> Result<(f64, GradientsParams)> {
    let images = case.tensor::<Dispatch, 4>(&format!("x{batch}"), training)?.cast(precision());
    let labels = case.ints::<Dispatch>(&format!("y{batch}"), training)?;
    let loss = cross_entropy(network.forward(images), labels);
    let value = loss.clone().into_data().iter::<f64>().sum();
    Ok((value, GradientsParams::from_grads(loss.backward(), network)))
}

#[derive(Deserialize)]
struct GregRun {
    net: Net,
    #[serde(flatten)]
    sgd: Sgd,
    batches: usize,
    method: String,
    stage_pr: Vec<f64>,
    skip_layers: Vec<String>,
    update_reg_interval: usize,
    stabilize_reg_interval: usize,
    reg_upper_limit: f64,
    reg_upper_limit_pick: f64,
    reg_granularity_pick: f64,
    reg_granularity_prune: f64,
    reg_granularity_recover: f64,
    mag_ratio_limit: f64,
    layers: Vec<String>,
    grad_at: usize,
}

impl GregRun {
    fn method(&self) -> Result<GregConfig> {
        let growth = match self.method.as_str() {
            "GReg-1" => Growth::One,
            "GReg-2" => Growth::Two {
                pick: self.reg_granularity_pick,
                pick_limit: self.reg_upper_limit_pick,
                recover: self.reg_granularity_recover,
            },
            other => return Err(Error::setting("method", "`GReg-1` or `GReg-2`", other)),
        };
        Ok(GregConfig::new(growth)
            .with_granularity(self.reg_granularity_prune)
            .with_limit(self.reg_upper_limit)
            .with_ratio_limit(self.mag_ratio_limit)
            .with_update_every(self.update_reg_interval)
            .with_stabilise(self.stabilize_reg_interval))
    }
}

pub(in super::super) fn greg_run(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    struct Run<'a>(&'a Case, &'a DispatchDevice, &'a GregRun);
    impl Job for Run<'_> {
        fn run<A: Trainable>(self, config: &A) -> Result<Outputs> {
            let Self(case, device, settings) = self;
            let training = leanburn::device::autodiff(device.clone());
            let names = |path: &str| config.published_name(path);
            let [_, height, width] = dims(case, "x0")?;
            let size = [height, width];
            let graph = config.graph(size)?;
            let mut network = exact(loaded(case, config, &training)?);
            let mut outputs = Outputs::default();

            let ratios = Ratios::Stages(settings.stage_pr.clone());
            // Prefixes `stage.block`, counted from the stem, which is stage 0.
            let skip = settings.skip_layers.iter().map(|prefix| format!("layer{prefix}*")).collect();
            let selection = Selection::new().with_skip(skip);
            let resolved = ratios.resolve(&graph, &selection.skip)?;
            let by_name = |name: &String| {
                let place = graph.learnable().position(|layer| layer.name() == name);
                place.map_or(f64::NAN, |place| resolved[place])
            };
            outputs.list("pr", settings.layers.iter().map(by_name).collect());
            let start = State::of::<A, Dispatch>(config, &network)?;
            let l1 = selection.select(&graph, &start, None, &ratios)?;
            let mut greg =
                settings.method()?.init::<A, Dispatch>(config, &network, size, &ratios, &selection)?;
            for layer in greg.layers() {
                let mut pruned = indices(l1.pruned(layer)?);
                pruned.sort_unstable();
                outputs.ints(format!("l1_pruned/{layer}"), pruned);
            }

            let mut optimizer = settings.sgd.config().init::<Dispatch, A::Network<Dispatch>>();
            let (mut largest, mut smallest, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
            let (mut states, mut losses) = (Vec::new(), Vec::new());
            let mut step = 0;
            while !greg.finished() {
                let (loss, gradients) = backward::<A>(case, &network, step % settings.batches, &training)?;
                losses.push(loss);
                let gradients = greg.gradients::<Dispatch, _>(step, &network, gradients);
                if step == settings.grad_at {
                    norms(case, &mut outputs, "grad", &gradients::by_name(&network, &gradients, names)?)?;
                }
                network = optimizer.step(settings.sgd.lr_prune, network, gradients);
                let progress = greg.progress();
                largest.push(progress.iter().map(|(largest, ..)| *largest).collect::<Vec<f64>>());
                smallest.push(progress.iter().map(|(_, smallest, _)| *smallest).collect::<Vec<f64>>());
                ratio.push(progress.iter().map(|(.., ratio)| *ratio).collect::<Vec<f64>>());
                states.push(state(greg.phase()));
                step += 1;
            }
            if let Phase::Stabilise(start) = greg.phase() {
                outputs.ints("iter_stabilize", vec![start as i64]);
            }
            outputs.ints("iterations", vec![step as i64]);
            let picked = greg.picked_at().into_iter().map(|at| at.map_or(-1, |at| at as i64));
            outputs.ints("iter_finish_pick", picked.collect());
            outputs.data("reg_max", table(&largest));
            outputs.data("reg_min", table(&smallest));
            outputs.data("mag_ratio", table(&ratio));
            outputs.ints("state", states);
            outputs.list("loss_ce", losses);

            let kept = greg.kept(&graph)?;
            for layer in graph.learnable() {
                outputs.ints(format!("kept/{}", layer.name()), indices(kept.outputs(layer.name())?));
            }
            norms(case, &mut outputs, "before_removal", &checkpoint::tensors(&network, names)?)?;
            let images: Tensor<Dispatch, 4> = case.tensor("x0", &training)?.cast(precision());
            let logits = |network: A::Network<Dispatch>| {
                network.with_frozen_norms(true).forward(images.clone()).inner()
            };
            let (_, removed) = surgery::remove::<A, Dispatch>(config, &network, &kept, size)?;
            outputs.tensor("logits_before_removal", logits(network));
            outputs.tensor("logits_removed", logits(exact(removed)));
            Ok(outputs)
        }
    }
    let settings: GregRun = case.config()?;
    settings.net.run(dims(case, "x0")?, Run(case, device, &settings))
}

#[derive(Deserialize)]
struct TppRun {
    net: Net,
    #[serde(flatten)]
    sgd: Sgd,
    batches: usize,
    pr_by_layer_pattern: Patterns,
    skip_layers: Vec<String>,
    opp_scheme: String,
    lw_opp: f64,
    reg_granularity_prune: f64,
    reg_upper_limit: f64,
    update_reg_interval: usize,
    stabilize_reg_interval: usize,
    reg_iters: usize,
    reg_schedule: String,
    zero_out_interval: usize,
    weight_reg: bool,
    bn_reg: bool,
    grad_at: usize,
    layer_order: Vec<String>,
}

impl TppRun {
    fn method(&self) -> Result<TppConfig> {
        use leanburn::pruning::orthogonality::Scheme;
        let scheme = match self.opp_scheme.as_str() {
            "v5" => Scheme::Decorrelate,
            "v3" | "v5_2" => Scheme::Orthonormal,
            other => return Err(Error::setting("opp_scheme", "`v3`, `v5` or `v5_2`", other)),
        };
        let growth = match self.reg_schedule.strip_prefix("poly") {
            Some(power) => Penalty::Polynomial {
                power: power.parse().map_err(|_| Error::setting("reg_schedule", "a power", power))?,
                steps: self.reg_iters,
            },
            None => Penalty::Linear,
        };
        Ok(TppConfig::new()
            .with_granularity(self.reg_granularity_prune)
            .with_limit(self.reg_upper_limit)
            .with_growth(growth)
            .with_update_every(self.update_reg_interval)
            .with_stabilise(self.stabilize_reg_interval)
            .with_zero_out_every(self.zero_out_interval)
            .with_decorrelation(self.lw_opp)
            .with_scheme(scheme)
            .with_weight_penalty(self.weight_reg)
            .with_norm_penalty(self.bn_reg))
    }
}

pub(in super::super) fn tpp_run(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    struct Run<'a>(&'a Case, &'a DispatchDevice, &'a TppRun);
    impl Job for Run<'_> {
        fn run<A: Trainable>(self, config: &A) -> Result<Outputs> {
            let Self(case, device, settings) = self;
            let training = leanburn::device::autodiff(device.clone());
            let names = |path: &str| config.published_name(path);
            let [_, height, width] = dims(case, "x0")?;
            let size = [height, width];
            let graph = config.graph(size)?;
            let mut network = exact(loaded(case, config, &training)?);
            let mut outputs = Outputs::default();

            let skip = settings.skip_layers.iter().map(|name| pattern(name)).collect();
            let selection = Selection::new().with_at_most(Some(0.995)).with_skip(skip);
            let ratios = settings.pr_by_layer_pattern.ratios();
            let mut tpp =
                settings.method()?.init::<A, Dispatch>(config, &network, size, &ratios, &selection)?;
            let kept = tpp.kept(&graph)?;
            for layer in graph.learnable() {
                outputs.ints(format!("kept/{}", layer.name()), indices(kept.outputs(layer.name())?));
            }

            let mut optimizer = settings.sgd.config().init::<Dispatch, A::Network<Dispatch>>();
            let (mut penalties, mut states, mut losses) = (Vec::new(), Vec::new(), Vec::new());
            let mut step = 0;
            while !tpp.finished() {
                let (loss, gradients) = backward::<A>(case, &network, step % settings.batches, &training)?;
                losses.push(loss);
                let gradients = tpp.decorrelate::<Dispatch, _>(step, &network, gradients);
                if step == settings.grad_at {
                    let loss = gradients::by_name(&network, &gradients, names)?;
                    norms(case, &mut outputs, "grad_loss", &loss)?;
                    norms(case, &mut outputs, "weight", &checkpoint::tensors(&network, names)?)?;
                }
                let gradients = tpp.pull::<Dispatch, _>(&network, gradients);
                if step == settings.grad_at {
                    norms(case, &mut outputs, "grad", &gradients::by_name(&network, &gradients, names)?)?;
                }
                network = optimizer.step(settings.sgd.lr_prune, network, gradients);
                network = tpp.stepped::<Dispatch, _>(step, network);
                let of_layer = |name: &String| {
                    let pruned = kept.pruned(name).is_ok_and(|pruned| !pruned.is_empty());
                    if pruned { tpp.penalty() } else { 0.0 }
                };
                penalties.push(settings.layer_order.iter().map(of_layer).collect::<Vec<f64>>());
                states.push(state(tpp.phase()));
                step += 1;
            }
            if let Phase::Stabilise(start) = tpp.phase() {
                outputs.ints("iter_stabilize", vec![start as i64]);
            }
            outputs.data("reg", table(&penalties));
            outputs.ints("state", states);
            outputs.list("loss_ce", losses);
            norms(case, &mut outputs, "before_removal", &checkpoint::tensors(&network, names)?)?;
            let images: Tensor<Dispatch, 4> = case.tensor("x0", &training)?.cast(precision());
            let logits = |network: A::Network<Dispatch>| {
                network.with_frozen_norms(true).forward(images.clone()).inner()
            };
            let (_, removed) = surgery::remove::<A, Dispatch>(config, &network, &kept, size)?;
            outputs.tensor("logits_before_removal", logits(network));
            outputs.tensor("logits_removed", logits(exact(removed)));
            Ok(outputs)
        }
    }
    let settings: TppRun = case.config()?;
    settings.net.run(dims(case, "x0")?, Run(case, device, &settings))
}
