//! Mask fine-tuning of a LLaMA, and what it is compared with: `train`, `apply`, `evaluate`, and `experiment`, which shows the
//! effect on a small model.

mod evaluate;
mod experiment;
mod train;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use leanburn::{
    burn::tensor::DType,
    core::checkpoint::Checkpoint,
    language::{
        folder::{self, ModelFolder, WriteOptions},
        mft::{MaskKind, MaskedLlama, Masks, Subnet, SubnetMode},
    },
    prelude::*,
};
use leanburn_examples::options;
use serde::Serialize;

/// Fine-tunes a LLaMA by masks.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Fine-tunes a model: in full, by adapters, or by masks.
    Train(Box<train::Options>),
    /// Multiplies masks into a model's weights: an ordinary model results.
    Apply(Apply),
    /// Measures a model.
    Evaluate(evaluate::Options),
    /// Full fine-tuning, masks and their baselines on a small model, with what the published program measured beside.
    Experiment(experiment::Options),
}

/// Which matrices are masked.
#[derive(Args, Debug, Clone, Serialize)]
pub(crate) struct SubnetOptions {
    /// The masked layers, counted from 0: `4,5,6,7`. The published ones are 4 to 7 for mathematics, 20 to 23 for coding, 0
    /// to 3 for following instructions.
    #[arg(long, value_delimiter = ',', default_value = "4,5,6,7")]
    layers: Vec<usize>,
    /// The share of each matrix that is kept.
    #[arg(long, default_value_t = 0.9)]
    keep: f64,
    /// The share of the MLP's matrices, where it is another.
    #[arg(long)]
    keep_mlp: Option<f64>,
    /// The matrices.
    #[arg(long, value_enum, default_value = "both")]
    mode: Mode,
}

#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
enum Mode {
    Attn,
    Mlp,
    Both,
}

impl SubnetOptions {
    pub(crate) fn subnet(&self) -> Subnet {
        let mode = match self.mode {
            Mode::Attn => SubnetMode::Attention,
            Mode::Mlp => SubnetMode::Mlp,
            Mode::Both => SubnetMode::Both,
        };
        let keep_mlp = self.keep_mlp.unwrap_or(self.keep);
        let kind = MaskKind::Local { keep_attention: self.keep, keep_mlp };
        Subnet { kind, ..Subnet::new(self.layers.clone()).with_mode(mode) }
    }
}

/// Multiplies masks into weights.
#[derive(Args)]
struct Apply {
    /// The model that the masks were learned on, or one that the published program saved with its scores.
    #[arg(long)]
    model: PathBuf,
    /// The masks: what `train` wrote, or the published program's `masks.pt`. The model's own scores when absent.
    #[arg(long, conflicts_with = "scores")]
    masks: Option<PathBuf>,
    /// Scores, from which the masks are computed.
    #[arg(long)]
    scores: Option<PathBuf>,
    #[command(flatten)]
    subnet: SubnetOptions,
    /// The new model's folder.
    #[arg(long)]
    output: PathBuf,
}

fn main() {
    // The message alone: users of a program need not see the type of its error.
    if let Err(error) = run(options()) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run(options: Options) -> Result<()> {
    match options.job {
        Job::Train(options) => train::run(&options),
        Job::Apply(options) => apply(&options),
        Job::Evaluate(options) => evaluate::run(&options),
        Job::Experiment(options) => experiment::run(&options),
    }
}

fn apply(options: &Apply) -> Result<()> {
    let folder = ModelFolder::open(&options.model)?;
    let device = leanburn::device::parse("flex")?;
    let merged = if let Some(path) = &options.masks {
        Masks::open(path)?.apply(&folder.load::<Dispatch>(DType::F32, &device)?)?
    } else if let Some(path) = &options.scores {
        let base = folder.load::<Dispatch>(DType::F32, &device)?;
        MaskedLlama::from_scores(base, options.subnet.subnet(), &Checkpoint::open(path)?)?.merged()
    } else {
        MaskedLlama::<Dispatch>::load(&folder, DType::F32, &device)?.merged()
    };
    folder::write(&merged, &options.output, Some(&folder), WriteOptions::default())?;
    println!("wrote {}", options.output.display());
    Ok(())
}
