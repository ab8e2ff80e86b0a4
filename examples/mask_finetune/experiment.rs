//! What masks do to a fine-tuned model, on one small enough for any machine: a task with noise, learned in full until it does
//! not get better, and then by masks.

use std::path::PathBuf;

use clap::Args;
use leanburn::{
    burn::tensor::{DType, TensorData},
    core::checkpoint::Checkpoint,
    language::{
        folder::ModelFolder,
        llama::Llama,
        mft::{MaskedLlama, Masks, Subnet},
    },
    prelude::*,
};
use leanburn_datasets::recipe;
use leanburn_examples::{AffineTask, Common};

/// The experiment's options.
#[derive(Args)]
pub(crate) struct Options {
    /// The folder of a LLaMA with a vocabulary of 512 and five layers: stories260K.
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    common: Common,
}

fn row(name: &str, [train, valid]: [f64; 2], published: [f64; 2]) {
    println!("{name:<44} {train:>7.3} {valid:>8.3}    {:>7.3} {:>8.3}", published[0], published[1]);
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let device = options.common.device()?;
    let network = ModelFolder::open(&options.model)?.load::<Dispatch>(DType::F32, &device)?;
    let task = AffineTask::new(device);
    println!("{:<44} {:>7} {:>8}    {:>7} {:>8}", "", "train", "held out", "train", "held out");
    println!("{:<44} {:>16}    {:>16}", "", "here", "published");

    let mut best: Option<(usize, [f64; 2], Llama<Dispatch>)> = None;
    let last = task.train(
        network,
        600,
        |_| 1e-3,
        |step, network| {
            if step.is_multiple_of(50) {
                let losses = task.losses(network)?;
                if best.as_ref().is_none_or(|(_, before, _)| losses[1] < before[1]) {
                    best = Some((step, losses, network.clone()));
                }
            }
            Ok(())
        },
    )?;
    let (step, losses, tuned) = best.expect("it was evaluated");
    row(&format!("full fine-tuning, best of 600 steps ({step})"), losses, [0.058, 4.718]);
    row("full fine-tuning, 600 steps", task.losses(&last)?, [0.014, 4.741]);
    let subnet = Subnet::new([1, 2]);
    let smallest = Masks::smallest_weights(&tuned, &subnet)?.apply(&tuned)?;
    row("without the smallest weights, layers 1, 2", task.losses(&smallest)?, [0.062, 4.732]);
    let published = [
        ([1, 2], [1.988, 6.139], [[0.098, 4.669], [0.118, 4.634]]),
        ([3, 4], [1.196, 5.654], [[0.077, 4.616], [0.090, 4.563]]),
    ];
    for (layers, start, trained) in published {
        let masked = masked(&tuned, layers)?;
        let name = format!("layers {}, {}", layers[0], layers[1]);
        row(&format!("masks before training, {name}"), task.losses(&masked)?, start);
        for (rate, published) in [1e-3, 3e-4].into_iter().zip(trained) {
            let falling = |step: usize| rate * (1.0 - step as f64 / 200.0);
            let network = task.train(masked.clone(), 200, falling, |_, _| Ok(()))?;
            row(&format!("masks after 200 steps at {rate:e}, {name}"), task.losses(&network)?, published);
        }
    }
    Ok(())
}

/// Masks with the scores of the published experiment.
fn masked(base: &Llama<Dispatch>, layers: [usize; 2]) -> Result<MaskedLlama<Dispatch>> {
    let subnet = Subnet::new(layers);
    let scores = subnet.places(base.config().num_hidden_layers)?.into_iter().map(|place| {
        let shape = base.projection(place).weight.dims();
        let name = format!("{}.scores", place.path());
        let values = recipe::real(&name, shape[0] * shape[1], -0.0346, 0.0346, 7);
        (name, TensorData::new(values, shape))
    });
    MaskedLlama::from_scores(base.clone(), subnet, &Checkpoint::from_tensors("scores", scores))
}
