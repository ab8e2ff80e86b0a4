//! Training: full, by adapters, or by masks.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, ValueEnum};
use leanburn::{
    burn::{
        module::{AutodiffModule, ModuleDisplay},
        optim::AdamW,
    },
    core::{
        random::{Generator, streams},
        report::RunFolder,
        schedule::Schedule,
        train::{Batches, BestEpoch, Dataset, EpochReport, Hook, Loader, Measured, Training, TrainingConfig},
    },
    language::{
        CausalLm, TokenBatch, Trainable,
        data::{self, EncodedSet},
        evaluation::{Prediction, predict},
        folder::{self, ModelFolder, WriteOptions},
        llama::Llama,
        lora::LoraConfig,
        mft::{MaskHook, MaskReport, MaskStart, MaskedLlama, Masks, ScoreInitial},
        train::{
            FineTuning, RateDecay, Recipe, Reduction, Rows, Weighting, adamw, token_loader, with_loss_metric,
        },
    },
    prelude::*,
};
use leanburn_examples::{Bar, Common, Precision, end_on_interrupt, run_folder, write_once};
use serde::Serialize;

use crate::{SubnetOptions, TextOptions, arithmetic};

/// Fine-tunes a model.
#[derive(Args, Clone, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the command line's switches")]
pub(crate) struct Options {
    /// The folder of a model: `config.json`, weights, and a tokenizer. Without it a small task of arithmetic is made, a
    /// model is trained on it from scratch in full, and then by the method.
    #[arg(long, requires = "data")]
    pub(crate) model: Option<PathBuf>,
    /// Conversations (.jsonl or .json), with `:N` for the first N of them after a shuffle, or `:0.5` for a share; may be
    /// given several times.
    #[arg(long, requires = "model")]
    pub(crate) data: Vec<String>,
    /// Held-out conversations, whose loss is told after each epoch; those that are trained on when absent.
    #[arg(long, requires = "model")]
    pub(crate) valid: Option<PathBuf>,
    /// What is trained.
    #[arg(long, value_enum, default_value = "mft")]
    pub(crate) method: Method,
    #[command(flatten)]
    pub(crate) subnet: SubnetOptions,
    #[command(flatten)]
    pub(crate) text: TextOptions,
    /// Passes over the data; 2, or 34 of the task of arithmetic.
    #[arg(long)]
    pub(crate) epochs: Option<usize>,
    /// The learning rate after the warm-up; 2e-5, or 1e-3 of the task of arithmetic.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// The share of the steps in which the rate rises from 0.
    #[arg(long, default_value_t = 0.03)]
    pub(crate) warmup: f64,
    /// The rate falls along a cosine, and not along a line.
    #[arg(long)]
    pub(crate) cosine: bool,
    /// How much of a weight decays at a step, times the rate; for the scores of masks it has no use.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) weight_decay: f64,
    /// Rows of a batch; 1, or 16 of the task of arithmetic.
    #[arg(long)]
    pub(crate) batch_size: Option<usize>,
    /// Batches of a step; 16, or 1 of the task of arithmetic.
    #[arg(long)]
    pub(crate) accumulation: Option<usize>,
    /// Devices of the published run, whose batches make a step together; 8 give its 128 texts and its schedule.
    #[arg(long, default_value_t = 1)]
    pub(crate) devices: usize,
    /// Tokens of a text, at most.
    #[arg(long, default_value_t = 4096)]
    pub(crate) max_length: usize,
    /// Texts share rows of the longest length, and do not see each other.
    #[arg(long)]
    pub(crate) pack: bool,
    /// Each token counts the same in a step; otherwise each batch does, as published.
    #[arg(long)]
    pub(crate) by_tokens: bool,
    /// The loss is summed over the tokens of a batch, and not averaged.
    #[arg(long, conflicts_with = "by_tokens")]
    pub(crate) sum: bool,
    /// Less memory, for a third more time.
    #[arg(long)]
    pub(crate) checkpointing: bool,
    /// The model of the epoch with the lowest held-out loss is the result, and not the last one.
    #[arg(long)]
    pub(crate) best: bool,
    /// The type of weights that are not trained; in full, all are.
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) dtype: Precision,
    /// Rank of the adapters.
    #[arg(long, default_value_t = 64)]
    pub(crate) rank: usize,
    /// By this over the rank is scaled what the adapters add.
    #[arg(long, default_value_t = 16.0)]
    pub(crate) alpha: f64,
    /// The probability of dropout before the adapters.
    #[arg(long, default_value_t = 0.1)]
    pub(crate) dropout: f64,
    /// Deviation of the scores at first; the model's own `initializer_range` when absent.
    #[arg(long, conflicts_with = "kaiming")]
    pub(crate) deviation: Option<f64>,
    /// Scores are drawn uniformly at first, within one over the root of the inputs.
    #[arg(long)]
    pub(crate) kaiming: bool,
    /// Steps from checkpoint to checkpoint, beside those at the end of each epoch.
    #[arg(long)]
    pub(crate) save_every: Option<usize>,
    /// How many checkpoints are kept.
    #[arg(long, default_value_t = 2)]
    #[serde(skip)]
    pub(crate) keep_checkpoints: usize,
    /// Shows burn-train's dashboard, in a terminal.
    #[arg(long)]
    #[serde(skip)]
    pub(crate) dashboard: bool,
    /// Goes on with a run that was interrupted.
    #[arg(long, requires = "output")]
    #[serde(skip)]
    pub(crate) resume: bool,
    /// The folder of the run, a numbered one under `runs` when absent; the model that results lies in its `model`.
    #[arg(long)]
    #[serde(skip)]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Method {
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

impl Options {
    /// The run's folder, which may be still to be made.
    pub(crate) fn output(&self) -> Result<PathBuf> {
        match &self.output {
            Some(path) => Ok(path.clone()),
            None => Ok(RunFolder::create_numbered("runs", "mask-finetune")?.path().to_owned()),
        }
    }

    fn recipe(&self) -> Recipe {
        Recipe::new()
            .with_epochs(self.epochs.unwrap_or(2))
            .with_learning_rate(self.rate.unwrap_or(2e-5))
            .with_warmup_ratio(self.warmup)
            .with_decay(if self.cosine { RateDecay::Cosine } else { RateDecay::Linear })
            .with_weight_decay(self.weight_decay)
            .with_batch_size(self.batch_size.unwrap_or(1))
            .with_accumulation(self.accumulation.unwrap_or(16))
            .with_devices(self.devices)
            .with_max_length(self.max_length)
            .with_seed(self.common.seed)
    }

    fn training(&self) -> TrainingConfig {
        let recipe = self.recipe();
        TrainingConfig::new(recipe.epochs)
            .with_accumulation(recipe.batches_of_step())
            .with_clip_norm(recipe.clip_norm)
            .with_save_every(self.save_every)
            .with_keep(self.keep_checkpoints)
            .with_dashboard(self.dashboard)
    }

    fn lora(&self) -> LoraConfig {
        LoraConfig::new().with_rank(self.rank).with_alpha(self.alpha).with_dropout(self.dropout)
    }

    /// What scores are drawn from.
    fn scores(&self, folder: &ModelFolder) -> ScoreInitial {
        if self.kaiming {
            return ScoreInitial::Kaiming;
        }
        ScoreInitial::Normal(self.deviation.unwrap_or(folder.config().initializer_range))
    }
}

/// What `report.json` has.
#[derive(Serialize)]
struct Report<'a> {
    method: Method,
    model: &'a Path,
    conversations: usize,
    /// Those that have something to learn, and those that have nothing.
    learned: usize,
    left_out: usize,
    /// Of those that have something to learn, those that were too long.
    cut_off: usize,
    /// Steps that were taken.
    steps: usize,
    /// The epoch whose model it is, counted from 1; of a model that was trained.
    epoch: Option<usize>,
    /// The held-out losses of the model that was given, and of the one that results.
    before: Prediction,
    after: Prediction,
    masks: Option<MaskReport>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Some(model) = &options.model else { return arithmetic::run(options) };
    let folder = ModelFolder::open(model)?;
    let subnet = options.subnet.subnet();
    if !matches!(options.method, Method::Fft | Method::Lora) {
        subnet.places(folder.config().num_hidden_layers)?;
    }
    let data = Data::read(options, &folder)?;
    let schedule = options.recipe().schedule(data.train.len())?;
    options.training().check()?;
    options.lora().check()?;
    let device = options.common.device()?;
    let dtype = if options.method == Method::Fft { Precision::F32 } else { options.dtype };
    let base = folder.load::<Dispatch>(dtype.into(), &device)?;
    // Nothing is wrong with the input: now a folder may be made.
    let run = run_folder(&options.output()?, options.resume, options)?;
    let target = run.file("model");
    if run.file("report.json").exists() {
        println!("the run has ended: {}", target.display());
        return Ok(());
    }
    let before = data.held_out_loss(&base, options)?;
    println!("held out, before: loss {:.4}", before.loss);
    let mut generator = Generator::stream(options.common.seed, streams::INITIAL_WEIGHTS);
    // The dashboard takes the whole terminal.
    let bar = (!options.dashboard).then(|| Arc::new(Bar::new("training")));
    let (mut steps, mut epoch, mut report) = (0, None, None);
    let result = match options.method {
        Method::Fft => {
            let outcome = train(options, &data, schedule, base, &run, bar, |training| training)?;
            let Some(outcome) = outcome else { return Ok(()) };
            (steps, epoch) = (outcome.steps, Some(outcome.epoch));
            outcome.network
        }
        Method::Lora => {
            let network = options.lora().init(base, &mut generator)?;
            let outcome = train(options, &data, schedule, network, &run, bar, |training| training)?;
            let Some(outcome) = outcome else { return Ok(()) };
            (steps, epoch) = (outcome.steps, Some(outcome.epoch));
            write_once(&run, "adapter", |name| outcome.network.save(run.file(name)))?;
            outcome.network.merged()
        }
        Method::Mft => {
            let network = MaskedLlama::new(base, subnet, options.scores(&folder), &mut generator)?;
            let start = MaskStart::new(&network, schedule.clone());
            let shown = bar.clone();
            let hook = MaskHook::new(start.clone(), move |report: MaskReport| {
                let MaskReport { flip_rate, kept_ratio, mobility, .. } = report;
                let (flipped, kept) = (100.0 * flip_rate, 100.0 * kept_ratio);
                if let Some(bar) = &shown {
                    bar.print(&format!(
                        "  {flipped:.2} % of the masks' entries flipped, {kept:.2} % kept, mobility {mobility:.2}"
                    ));
                }
            });
            let reports = hook.reports();
            let customise = |training: Run<_>| training.with_hook(hook);
            let outcome = train(options, &data, schedule, network, &run, bar, customise)?;
            let Some(outcome) = outcome else { return Ok(()) };
            (steps, epoch) = (outcome.steps, Some(outcome.epoch));
            let masks = outcome.network.masks();
            report = Some(start.report(&masks, steps));
            write_once(&run, "masks.csv", |name| run.write_csv(name, reports.all()))?;
            write_once(&run, "scores.safetensors", |name| outcome.network.save_scores(run.file(name)))?;
            drop(outcome);
            masked(&masks, &folder, options, &run)?
        }
        Method::Random => {
            masked(&Masks::random(&base, &subnet, options.common.seed)?, &folder, options, &run)?
        }
        Method::L1 => masked(&Masks::smallest_weights(&base, &subnet)?, &folder, options, &run)?,
    };
    let after = data.held_out_loss(&result, options)?;
    let write = |name: &str| folder::write(&result, run.file(name), Some(&folder), WriteOptions::default());
    write_once(&run, "model", write)?;
    let Data { conversations, learned, left_out, cut_off, .. } = data;
    let report = Report {
        method: options.method,
        model,
        conversations,
        learned,
        left_out,
        cut_off,
        steps,
        epoch,
        before,
        after,
        masks: report,
    };
    run.write_json("report.json", &report)?;
    println!("held out, after: loss {:.4}; wrote {}", after.loss, target.display());
    Ok(())
}

/// Writes masks, and gives the model with them: of the weights as they are in its folder, in their own type.
fn masked(
    masks: &Masks,
    folder: &ModelFolder,
    options: &Options,
    run: &RunFolder,
) -> Result<Llama<Dispatch>> {
    write_once(run, "masks.safetensors", |name| masks.save(run.file(name)))?;
    masks.apply(&folder.load::<Dispatch>(folder.dtype()?, &options.common.device()?)?)
}

/// What is trained on, and what is held out.
struct Data {
    train: Rows,
    valid: Rows,
    pad: u32,
    conversations: usize,
    learned: usize,
    left_out: usize,
    cut_off: usize,
}

impl Data {
    fn read(options: &Options, folder: &ModelFolder) -> Result<Self> {
        let Recipe { max_length, seed, .. } = options.recipe();
        let tokenizer = options.text.tokenizer(folder)?;
        let template = options.text.template(&tokenizer)?;
        let mut sets = Vec::new();
        for set in &options.data {
            let parts = set.rsplit_once(':');
            let amount = parts.and_then(|(path, amount)| Some((path, amount.parse::<f64>().ok()?)));
            // Any other colon is the path's own.
            let (path, amount) = amount.map_or((&set[..], None), |(path, amount)| (path, Some(amount)));
            sets.push((data::read_conversations(path)?, amount));
        }
        let encode = |conversations: &[_]| {
            let set = data::encode(conversations, &template, &tokenizer, max_length)?;
            set.check(folder.config().vocab_size)?;
            Ok(set)
        };
        let conversations = data::mix(sets, seed)?;
        let EncodedSet { texts, left_out, cut_off } = encode(&conversations)?;
        let learned = texts.len();
        if learned == 0 {
            return Err(Error::data("conversations", "at least one with something to learn", "none"));
        }
        println!(
            "{} conversations: {learned} have something to learn, of which {cut_off} are cut off; {left_out} have nothing",
            conversations.len()
        );
        let held_out = match &options.valid {
            Some(path) => encode(&data::read_conversations(path)?)?.texts,
            None => texts.clone(),
        };
        let train =
            if options.pack { Rows::packed(data::pack(texts, max_length)?) } else { Rows::of_texts(texts) };
        Ok(Self {
            train,
            valid: Rows::of_texts(held_out),
            pad: tokenizer.pad().or(tokenizer.eos()).unwrap_or(0),
            conversations: conversations.len(),
            learned,
            left_out,
            cut_off,
        })
    }

    /// Batches of the held-out texts, on the device without recording.
    fn held_out(&self, options: &Options) -> Result<Loader<Rows, TokenBatch<Dispatch>>> {
        let device = leanburn::device::parse(&options.common.device)?;
        let size = options.recipe().batch_size;
        token_loader(self.valid.clone(), size, self.pad, Weighting::Tokens, &device)
    }

    fn held_out_loss(&self, network: &Llama<Dispatch>, options: &Options) -> Result<Prediction> {
        let batches = self.held_out(options)?;
        predict(&network.valid(), batches.epoch(0, 0).map(|batch| Ok(batch?.value)))
    }
}

/// A training of a network by `AdamW`.
type Run<N> = Training<Dispatch, FineTuning<Dispatch, N>, AdamW>;

/// What a training gave.
struct Outcome<N> {
    network: N,
    steps: usize,
    /// The epoch of the network, counted from 1.
    epoch: usize,
}

/// Trains a network; nothing results where it was interrupted.
fn train<N>(
    options: &Options,
    data: &Data,
    schedule: Schedule,
    network: N,
    run: &RunFolder,
    bar: Option<Arc<Bar>>,
    customise: impl FnOnce(Run<N>) -> Run<N>,
) -> Result<Option<Outcome<N>>>
where
    N: Trainable<Dispatch>,
    N::InnerModule: CausalLm<Dispatch> + ModuleDisplay,
{
    let device = options.common.device()?;
    let recipe = options.recipe();
    let weighting = if options.by_tokens { Weighting::Tokens } else { Weighting::Batches };
    let loader =
        token_loader::<Dispatch>(data.train.clone(), recipe.batch_size, data.pad, weighting, &device)?;
    let mut model = FineTuning::new(network, if options.sum { Reduction::Sum } else { Reduction::Mean });
    if options.checkpointing {
        model = model.with_checkpointing();
    }
    let shown = Shown { bar, steps: recipe.steps(loader.samples()) };
    let training = Training::new(options.training(), adamw(recipe.weight_decay), schedule)?;
    let mut training = customise(with_loss_metric(training).with_hook(shown));
    if options.best {
        training = training.with_hook(BestEpoch::new(run.path(), "Loss"));
    }
    end_on_interrupt(training.interrupter());
    let (loader, valid) = (Arc::new(loader.shuffled(recipe.seed)), Arc::new(data.held_out(options)?));
    let trained = training.resumed().run(Some(run.path()), model, &device, loader, valid)?;
    if trained.interrupted {
        println!("ended after step {}: --resume goes on", trained.steps);
        return Ok(None);
    }
    write_once(run, "metrics.csv", |name| run.write_csv(name, trained.history.measured()))?;
    let (model, epoch) = if options.best {
        BestEpoch::load(run.path(), trained.model)?
    } else {
        (trained.model, trained.epochs)
    };
    Ok(Some(Outcome { network: model.network, steps: trained.steps, epoch }))
}

/// Shows where the training is, and tells each epoch's losses.
struct Shown {
    bar: Option<Arc<Bar>>,
    steps: usize,
}

impl<N> Hook<Dispatch, FineTuning<Dispatch, N>> for Shown
where
    N: Trainable<Dispatch>,
    N::InnerModule: CausalLm<Dispatch> + ModuleDisplay,
{
    fn stepped(&mut self, step: usize, model: FineTuning<Dispatch, N>) -> Result<FineTuning<Dispatch, N>> {
        if let Some(bar) = &self.bar {
            bar.steps(step + 1, self.steps);
        }
        Ok(model)
    }

    fn epoch_ended(&mut self, report: &EpochReport, _model: &FineTuning<Dispatch, N>) -> Result<()> {
        let Some(bar) = &self.bar else { return Ok(()) };
        let loss = |split: &str| {
            let of = |measured: &&Measured| measured.split == split && measured.metric == "Loss";
            report.measured.iter().find(of).map_or(f64::NAN, |measured| measured.value)
        };
        let (train, valid) = (loss("train"), loss("valid"));
        bar.print(&format!(
            "epoch {}, {} steps: loss {train:.4}, held out {valid:.4}",
            report.epoch, report.steps
        ));
        Ok(())
    }
}
