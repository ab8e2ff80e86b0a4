//! Training: full, by adapters, or by masks.

use std::{path::PathBuf, sync::Arc};

use clap::{Args, ValueEnum};
use leanburn::{
    burn::{module::ModuleDisplay, optim::AdamW, tensor::DType},
    core::{
        random::{Generator, streams},
        report::{self, RunFolder},
        schedule::Schedule,
        train::{Batches, EpochReport, Hook, Measured, Training, TrainingConfig},
    },
    language::{
        CausalLm, Encoded, Trainable,
        chat::ChatTemplate,
        data,
        folder::{self, ModelFolder, WriteOptions},
        lora::LoraConfig,
        mft::{MaskHook, MaskReport, MaskedLlama, Masks, ScoreInitial},
        train::{
            FineTuning, RateDecay, Recipe, Reduction, Rows, Weighting, adamw, token_loader, with_loss_metric,
        },
    },
    prelude::*,
};
use leanburn_examples::Common;
use serde::Serialize;

use crate::SubnetOptions;

/// Fine-tunes a model.
#[derive(Args, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the command line's switches")]
pub(crate) struct Options {
    /// The folder of a model: `config.json`, weights, and a tokenizer.
    #[arg(long)]
    model: PathBuf,
    /// Conversations (.jsonl or .json), with `:N` for the first N of them after a shuffle, or `:0.5` for a share; may be
    /// given several times.
    #[arg(long, required = true)]
    data: Vec<String>,
    /// Held-out conversations, whose loss is told after each epoch; those that are trained on when absent.
    #[arg(long)]
    valid: Option<PathBuf>,
    /// What is trained.
    #[arg(long, value_enum, default_value = "mft")]
    method: Method,
    #[command(flatten)]
    subnet: SubnetOptions,
    /// By which template conversations are written: `tulu`, `zephyr`, `simple_chat`, or `own` for the tokenizer's.
    #[arg(long, default_value = "tulu")]
    template: String,
    /// The token that begins a text stands before each.
    #[arg(long)]
    bos: bool,
    /// Passes over the data.
    #[arg(long, default_value_t = 2)]
    epochs: usize,
    /// The learning rate after the warm-up.
    #[arg(long, default_value_t = 2e-5)]
    rate: f64,
    /// The rate falls along a cosine, and not along a line.
    #[arg(long)]
    cosine: bool,
    /// Rows of a batch.
    #[arg(long, default_value_t = 1)]
    batch_size: usize,
    /// Batches of a step.
    #[arg(long, default_value_t = 16)]
    accumulation: usize,
    /// Tokens of a text, at most.
    #[arg(long, default_value_t = 4096)]
    max_length: usize,
    /// Texts share rows of the longest length, and do not see each other.
    #[arg(long)]
    pack: bool,
    /// Each token counts the same in a step; otherwise each batch does, as published.
    #[arg(long)]
    by_tokens: bool,
    /// Less memory, for a third more time.
    #[arg(long)]
    checkpointing: bool,
    /// Rank of the adapters.
    #[arg(long, default_value_t = 64)]
    rank: usize,
    /// Deviation of the scores at first; the model's own `initializer_range` when absent.
    #[arg(long)]
    deviation: Option<f64>,
    /// Goes on with an interrupted run.
    #[arg(long)]
    #[serde(skip)]
    resume: bool,
    /// The folder of the run; the model that results lies in its `model`.
    #[arg(long, default_value = "runs/mask-finetune")]
    #[serde(skip)]
    output: PathBuf,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Method {
    /// Masks.
    Mft,
    /// All weights.
    Fft,
    /// Adapters.
    Lora,
    /// A random mask, which is not trained.
    Random,
    /// Without the smallest weights, not trained either.
    L1,
}

/// The run's folder; of a run that goes on, with the options that it began with.
fn run_folder(options: &Options) -> Result<RunFolder> {
    if !options.resume {
        let folder = RunFolder::create(&options.output)?;
        folder.write_json("config.json", options)?;
        return Ok(folder);
    }
    let folder = RunFolder::open(&options.output)?;
    let file = folder.file("config.json");
    let before: serde_json::Value = report::read_json(&file)?;
    let now = serde_json::to_value(options).expect("options are JSON");
    if before != now {
        return Err(Error::format(file, "file", "the options that the run goes on with", "others"));
    }
    Ok(folder)
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = ModelFolder::open(&options.model)?;
    let device = options.common.device()?;
    let base = folder.load::<Dispatch>(DType::F32, &device)?;
    let subnet = options.subnet.subnet();
    if !matches!(options.method, Method::Fft | Method::Lora) {
        subnet.places(folder.config().num_hidden_layers)?;
    }
    let is_trained = !matches!(options.method, Method::Random | Method::L1);
    let texts = if is_trained { Texts::read(options, &folder)? } else { Texts::default() };
    // Nothing is wrong with the input: now a folder may be made.
    let run = run_folder(options)?;
    let target = run.path().join("model");
    if options.resume && target.is_dir() {
        println!("the run has ended: {}", target.display());
        return Ok(());
    }
    let mut generator = Generator::stream(options.common.seed, streams::INITIAL_WEIGHTS);
    let result = match options.method {
        Method::Random | Method::L1 => {
            let masks = if options.method == Method::L1 {
                Masks::smallest_weights(&base, &subnet)?
            } else {
                Masks::random(&base, &subnet, options.common.seed)?
            };
            masks.save(run.path().join("masks.safetensors"))?;
            masks.apply(&base)?
        }
        Method::Fft => train(options, texts, base, &run, |training, _| training)?,
        Method::Lora => {
            let network = LoraConfig::new().with_rank(options.rank).init(base, &mut generator)?;
            let trained = train(options, texts, network, &run, |training, _| training)?;
            trained.save(run.path().join("adapter"))?;
            trained.merged()
        }
        Method::Mft => {
            let deviation = options.deviation.unwrap_or(folder.config().initializer_range);
            let initial = ScoreInitial::Normal(deviation);
            let network = MaskedLlama::new(base, subnet, initial, &mut generator)?;
            let start = network.masks();
            let show = |report: MaskReport| {
                println!(
                    "  {:.2} % of the masks' entries flipped, {:.2} % kept, mobility {:.2}",
                    100.0 * report.flip_rate,
                    100.0 * report.kept_ratio,
                    report.mobility
                );
            };
            let trained = train(options, texts, network, &run, |training, schedule| {
                training.with_hook(MaskHook::new(start, schedule, deviation, show))
            })?;
            trained.masks().save(run.path().join("masks.safetensors"))?;
            trained.save_scores(run.path().join("scores.safetensors"))?;
            trained.merged()
        }
    };
    folder::write(&result, &target, Some(&folder), WriteOptions::default())?;
    println!("wrote {}", target.display());
    Ok(())
}

/// What is trained on, and what is held out.
#[derive(Default)]
struct Texts {
    train: Vec<Encoded>,
    valid: Vec<Encoded>,
    pad: u32,
}

impl Texts {
    fn read(options: &Options, folder: &ModelFolder) -> Result<Self> {
        let tokenizer = folder.tokenizer()?;
        let template = match options.template.as_str() {
            "own" => ChatTemplate::new(tokenizer.chat_template().ok_or_else(|| {
                Error::setting("template", "the name of a template: the tokenizer has none", "`own`")
            })?),
            name => ChatTemplate::named(name)?,
        };
        let template = if options.bos { template.with_bos() } else { template };
        let mut sets = Vec::new();
        for set in &options.data {
            let (path, amount) = set.rsplit_once(':').unwrap_or((set, "1"));
            match amount.parse::<f64>() {
                Ok(amount) => sets.push((data::read_conversations(path)?, amount)),
                // A colon of the path's own.
                Err(_) => sets.push((data::read_conversations(set)?, 1.0)),
            }
        }
        let conversations = data::mix(sets, options.common.seed)?;
        let encode =
            |conversations: &[_]| data::encode(conversations, &template, &tokenizer, options.max_length);
        let train = encode(&conversations)?;
        let valid = match &options.valid {
            Some(path) => encode(&data::read_conversations(path)?)?,
            None => train.clone(),
        };
        println!("{} of {} conversations have something to learn", train.len(), conversations.len());
        Ok(Self { train, valid, pad: tokenizer.pad().or(tokenizer.eos()).unwrap_or(0) })
    }
}

/// A training of a network by `AdamW`.
type Run<N> = Training<Dispatch, FineTuning<Dispatch, N>, AdamW>;

fn train<N>(
    options: &Options,
    texts: Texts,
    network: N,
    run: &RunFolder,
    customise: impl FnOnce(Run<N>, Schedule) -> Run<N>,
) -> Result<N>
where
    N: Trainable<Dispatch>,
    N::InnerModule: CausalLm<Dispatch> + ModuleDisplay,
{
    let device = options.common.device()?;
    let Texts { train: texts, valid: held_out, pad } = texts;
    let rows = if options.pack {
        Rows::packed(data::pack(texts, options.max_length)?)
    } else {
        Rows::of_texts(texts)
    };
    let recipe = Recipe::new()
        .with_epochs(options.epochs)
        .with_learning_rate(options.rate)
        .with_decay(if options.cosine { RateDecay::Cosine } else { RateDecay::Linear })
        .with_batch_size(options.batch_size)
        .with_accumulation(options.accumulation)
        .with_max_length(options.max_length)
        .with_seed(options.common.seed);
    let weighting = if options.by_tokens { Weighting::Tokens } else { Weighting::Batches };
    let loader = token_loader::<Dispatch>(rows, recipe.batch_size, pad, weighting, &device)?;
    let valid = token_loader::<Dispatch>(
        Rows::of_texts(held_out),
        recipe.batch_size,
        pad,
        Weighting::Tokens,
        &leanburn::device::parse(&options.common.device)?,
    )?;
    let schedule = recipe.schedule(loader.samples())?;
    let config = TrainingConfig::new(recipe.epochs)
        .with_accumulation(recipe.accumulation)
        .with_clip_norm(recipe.clip_norm);
    let mut model = FineTuning::new(network, Reduction::Mean);
    if options.checkpointing {
        model = model.with_checkpointing();
    }
    let training = Training::new(config, adamw(recipe.weight_decay), schedule.clone())?;
    let training = customise(with_loss_metric(training).with_hook(Shown), schedule);
    let (loader, valid) = (Arc::new(loader.shuffled(recipe.seed)), Arc::new(valid));
    let trained = training.resumed().run(Some(run.path()), model, &device, loader, valid)?;
    run.write_csv("metrics.csv", trained.history.measured())?;
    Ok(trained.model.network)
}

/// Tells each epoch's losses.
struct Shown;

impl<N> Hook<Dispatch, FineTuning<Dispatch, N>> for Shown
where
    N: Trainable<Dispatch>,
    N::InnerModule: CausalLm<Dispatch> + ModuleDisplay,
{
    fn epoch_ended(&mut self, report: &EpochReport, _model: &FineTuning<Dispatch, N>) -> Result<()> {
        let loss = |split: &str| {
            let of = |measured: &&Measured| measured.split == split && measured.metric == "Loss";
            report.measured.iter().find(of).map_or(f64::NAN, |measured| measured.value)
        };
        println!(
            "epoch {}, {} steps: loss {:.4}, held out {:.4}",
            report.epoch,
            report.steps,
            loss("train"),
            loss("valid")
        );
        Ok(())
    }
}
