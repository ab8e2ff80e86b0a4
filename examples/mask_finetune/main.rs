//! Mask fine-tuning of a LLaMA, and what it is compared with: `train`, `apply`, `evaluate`, and `experiment`, which shows the
//! effect on a small model.

mod arithmetic;
mod evaluate;
mod experiment;
mod train;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use leanburn::{
    burn::tensor::DType,
    core::checkpoint::Checkpoint,
    language::{
        chat::ChatTemplate,
        folder::{self, ModelFolder, WriteOptions},
        llama::Llama,
        mft::{MaskKind, MaskedLlama, Masks, Subnet, SubnetMode},
        tokenizer::Tokenizer,
    },
    prelude::*,
};
use leanburn_examples::{Common, options};
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
    /// Makes an ordinary model of one and of masks, which are multiplied into its weights, or of a checkpoint of a run.
    Apply(Apply),
    /// Measures a model.
    Evaluate(evaluate::Options),
    /// Full fine-tuning, masks and their baselines on a small model, with what the published program measured beside.
    Experiment(experiment::Options),
}

/// Which matrices are masked.
#[derive(Args, Debug, Clone, Serialize)]
pub(crate) struct SubnetOptions {
    /// The masked layers, counted from 0; 4,5,6,7, or 2,3 of the task of arithmetic, when absent. The published ones are 4 to
    /// 7 for mathematics, 20 to 23 for coding, 0 to 3 for following instructions.
    #[arg(long, value_delimiter = ',')]
    layers: Vec<usize>,
    /// The share of each matrix that is kept.
    #[arg(long, default_value_t = 0.9)]
    keep: f64,
    /// The share of the MLP's matrices, where it is another.
    #[arg(long)]
    keep_mlp: Option<f64>,
    /// Removes the entries whose scores are below this, in all layers, and not a share of each matrix (the published
    /// program's global masks).
    #[arg(long, allow_negative_numbers = true, conflicts_with_all = ["layers", "keep", "keep_mlp"])]
    threshold: Option<f64>,
    /// The threshold of the MLP's matrices, where it is another.
    #[arg(long, allow_negative_numbers = true, requires = "threshold")]
    threshold_mlp: Option<f64>,
    /// The matrices.
    #[arg(long, value_enum, default_value = "both")]
    mode: Mode,
}

/// How texts become tokens.
#[derive(Args, Debug, Clone, Serialize)]
pub(crate) struct TextOptions {
    /// By which template conversations are written: `tulu`, `zephyr`, `simple_chat`, `simple_concat_with_space`,
    /// `simple_concat_with_new_line`, `assistant_message_only`, or `own` for the tokenizer's.
    #[arg(long, default_value = "tulu")]
    template: String,
    /// The token that begins a text stands before each conversation.
    #[arg(long)]
    bos: bool,
    /// Takes `tokenizer.model` where there is a `tokenizer.json` as well, as the official runs of LLaMA-2 did.
    #[arg(long)]
    slow_tokenizer: bool,
}

impl TextOptions {
    pub(crate) fn tokenizer(&self, folder: &ModelFolder) -> Result<Tokenizer> {
        if self.slow_tokenizer { folder.slow_tokenizer() } else { folder.tokenizer() }
    }

    pub(crate) fn template(&self, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        let template = match self.template.as_str() {
            "own" => ChatTemplate::new(tokenizer.chat_template().ok_or_else(|| {
                Error::setting("template", "the name of a template: the tokenizer has none", "`own`")
            })?),
            name => ChatTemplate::named(name)?,
        };
        Ok(if self.bos { template.with_bos() } else { template })
    }
}

#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
enum Mode {
    Attn,
    Mlp,
    Both,
}

impl SubnetOptions {
    /// With other layers where none are asked for.
    pub(crate) fn with_default_layers(self, layers: impl Into<Vec<usize>>) -> Self {
        if self.layers.is_empty() && self.threshold.is_none() {
            return Self { layers: layers.into(), ..self };
        }
        self
    }

    pub(crate) fn subnet(&self) -> Subnet {
        let mode = match self.mode {
            Mode::Attn => SubnetMode::Attention,
            Mode::Mlp => SubnetMode::Mlp,
            Mode::Both => SubnetMode::Both,
        };
        if let Some(threshold) = self.threshold {
            let kind = MaskKind::Global {
                threshold_attention: threshold,
                threshold_mlp: self.threshold_mlp.unwrap_or(threshold),
            };
            return Subnet { kind, mode, layers: None };
        }
        let kind =
            MaskKind::Local { keep_attention: self.keep, keep_mlp: self.keep_mlp.unwrap_or(self.keep) };
        let subnet = if self.layers.is_empty() { Subnet::math() } else { Subnet::new(self.layers.clone()) };
        Subnet { kind, mode, ..subnet }
    }
}

/// Makes an ordinary model.
#[derive(Args)]
struct Apply {
    /// The model that the masks were learned on, or one that the published program saved with its scores.
    #[arg(long)]
    model: PathBuf,
    /// The masks: what `train` wrote, or the published program's `masks.pt`. The model's own scores when absent.
    #[arg(long, conflicts_with = "scores")]
    masks: Option<PathBuf>,
    /// Scores, from which the masks are computed: what `train` wrote, which says of what subnet they are, or others, such as
    /// a checkpoint of a run (`RUN/checkpoints/step-...`), of the subnet that the options tell.
    #[arg(long)]
    scores: Option<PathBuf>,
    /// Weights in the place of the model's: a checkpoint of a full fine-tuning (`RUN/checkpoints/step-...`).
    #[arg(long, conflicts_with_all = ["masks", "scores"])]
    weights: Option<PathBuf>,
    #[command(flatten)]
    subnet: SubnetOptions,
    /// The new model's folder.
    #[arg(long)]
    output: PathBuf,
    #[command(flatten)]
    common: Common,
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
    let device = leanburn::device::parse(&options.common.device)?;
    // To multiply by ones and zeros is exact in any type.
    let dtype = folder.dtype()?;
    let merged = if let Some(path) = &options.masks {
        Masks::open(path)?.apply(&folder.load::<Dispatch>(dtype, &device)?)?
    } else if let Some(path) = &options.scores {
        let base = folder.load::<Dispatch>(dtype, &device)?;
        let scores = Checkpoint::open(path)?;
        let subnet = match MaskedLlama::<Dispatch>::subnet_of(&scores)? {
            Some(subnet) => subnet,
            None => options.subnet.subnet(),
        };
        MaskedLlama::from_scores(base, subnet, &scores)?.merged()
    } else if let Some(path) = &options.weights {
        Llama::load(folder.config(), Checkpoint::open(path)?, DType::F32, &device)?
    } else {
        MaskedLlama::<Dispatch>::load(&folder, dtype, &device)?.merged()
    };
    folder::write(&merged, &options.output, Some(&folder), WriteOptions::default())?;
    println!("wrote {}", options.output.display());
    Ok(())
}
