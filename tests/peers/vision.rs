//! Residual networks: inference, a training step, and pruning itself.

use leanburn::{
    burn::{
        module::AutodiffModule,
        optim::{GradientsParams, Optimizer, SgdConfig, momentum::MomentumConfig},
        tensor::{Int, Tensor},
    },
    core::{loss::cross_entropy, random::Generator},
    prelude::*,
    pruning::{Ratios, Selection, State, latency::Latency, surgery},
    vision::{Architecture, Classifier, resnet::ResNetConfig},
};
use leanburn_tests::device;
use serde::{Deserialize, Serialize};

use crate::{beside, median, timed};

/// What every program prints.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    seconds: f64,
    /// Of a pruned network.
    params: usize,
    macs: usize,
}

pub(crate) fn ours(mode: &str) -> Result<Measured> {
    let plain = device()?;
    let mut generator = Generator::new(1);
    if mode == "prune" {
        return prune(&mut generator, &plain);
    }
    let device = leanburn::device::autodiff(plain);
    let config = ResNetConfig::imagenet(18, 1000)?;
    let mut network = config.init::<Dispatch>(&mut generator, &device)?;
    let images: Tensor<Dispatch, 4> = generator.normal([8, 3, 224, 224], &device);
    let seconds = if mode == "step" {
        let labels: Tensor<Dispatch, 1, Int> = Tensor::from_data([0, 1, 2, 3, 4, 5, 6, 7], &device);
        let momentum = MomentumConfig::new().with_dampening(0.0);
        let mut sgd = SgdConfig::new().with_momentum(Some(momentum)).init::<Dispatch, _>();
        timed(|| {
            let loss = cross_entropy(network.forward(images.clone()), labels.clone());
            let gradients = GradientsParams::from_grads(loss.backward(), &network);
            network = sgd.step(0.01, network.clone(), gradients);
            Ok(())
        })?
    } else {
        let network = network.valid();
        let network = if mode == "fused" { network.fuse() } else { network };
        let images = images.inner();
        timed(|| {
            network.forward(images.clone()).into_data();
            Ok(())
        })?
    };
    Ok(Measured { seconds, ..Measured::default() })
}

/// L1 pruning of all channels of a ResNet-50 at a ratio of 0.5: graph, scores, and the smaller network.
fn prune(generator: &mut Generator, device: &DispatchDevice) -> Result<Measured> {
    let config = ResNetConfig::imagenet(50, 1000)?;
    let network = config.init::<Dispatch>(generator, device)?;
    let mut cost = None;
    let seconds = timed(|| {
        let size = [224, 224];
        let graph = config.graph(size)?;
        let state = State::of::<_, Dispatch>(&config, &network)?;
        let kept = Selection::new().select(&graph, &state, None, &Ratios::Uniform(0.5))?;
        let (smaller, _) = surgery::remove::<_, Dispatch>(&config, &network, &kept, size)?;
        cost = Some(smaller.graph(size)?.cost());
        Ok(())
    })?;
    let cost = cost.unwrap_or_default();
    Ok(Measured { seconds, params: cost.params_all, macs: cost.macs })
}

/// Runs all in turns, and prints medians and ratios.
pub(crate) fn pair(python: &str) -> Result<()> {
    println!("{:<44} {:>9} {:>8} {:>12} {:>14}", "", "ms", "ratio", "parameters", "MACs");
    let jobs = [
        ("ResNet-18, inference", ["fused", "infer", "fused"]),
        ("ResNet-18, training step", ["step", "step", ""]),
        ("ResNet-50, pruning", ["prune", "prune", ""]),
    ];
    for (job, modes) in jobs {
        let programs: Vec<(String, Vec<Measured>)> = beside("vision", python, job, modes)?;
        let milliseconds = |runs: &[Measured]| 1e3 * median(runs.iter().map(|run| run.seconds));
        let reference = milliseconds(&programs[0].1);
        for (title, runs) in &programs {
            let (milliseconds, Measured { params, macs, .. }) = (milliseconds(runs), &runs[0]);
            let ratio = milliseconds / reference;
            println!("{title:<44} {milliseconds:>9.1} {ratio:>8.2} {params:>12} {macs:>14}");
        }
    }
    latencies()
}

/// ResNet-56 before and after pruning, pass by pass in turns.
fn latencies() -> Result<()> {
    let device = device()?;
    let config = ResNetConfig::cifar(56, 10, false)?;
    let network = config.init::<Dispatch>(&mut Generator::new(1), &device)?;
    let graph = config.graph([32, 32])?;
    let state = State::of::<_, Dispatch>(&config, &network)?;
    println!("ResNet-56, 32x32, before and after pruning: median milliseconds");
    println!(
        "{:<8} {:>6} {:>10} {:>10} {:>10} {:>10}",
        "ratio", "batch", "dense", "pruned", "faster", "MACs"
    );
    for ratio in [0.5, 0.9] {
        let ratios = Ratios::patterns([("layer*.conv1", ratio)]);
        let selection = Selection::new().with_at_most(Some(0.995));
        let kept = selection.select(&graph, &state, None, &ratios)?;
        let (smaller, pruned) = surgery::remove::<_, Dispatch>(&config, &network, &kept, [32, 32])?;
        let macs = graph.cost().macs as f64 / smaller.graph([32, 32])?.cost().macs as f64;
        for batch in [1, 16, 64] {
            let networks = [&network, &pruned];
            let times =
                Latency::measure_all::<Dispatch, _>(&networks, [batch, 3, 32, 32], [10, 50], &device)?;
            let (dense, pruned) = (times[0].median, times[1].median);
            let faster = dense / pruned;
            println!("{ratio:<8} {batch:>6} {dense:>10.2} {pruned:>10.2} {faster:>9.2}x {macs:>9.2}x");
        }
    }
    Ok(())
}
