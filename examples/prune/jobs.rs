//! What is done with a network and its images.

use std::{fmt, path::Path, str::FromStr};

use clap::ValueEnum;
use leanburn::{
    burn::module::AutodiffModule,
    core::{
        checkpoint::Checkpoint,
        report::{self, Plot, RunFolder, Style},
        train::Dataset,
    },
    prelude::*,
    pruning::{
        Criterion, Prunable, Selection, State, accounting, analysis,
        comparison::{CrossValidation, Record, Table, TrainingRecord},
        pipeline::{Base, ImageSets, Method, Optimizer, Outcome, Pipeline, Pruner, Recipe, ScratchEpochs},
        regularised::{GregConfig, TppConfig},
        reinit::Activation,
        schedules::Rates,
        selection::{Pick, Scope},
        unstructured::WeightSelection,
    },
    vision::{train::Samples, transform::Sample},
};
use leanburn_examples::Bar;
use serde::Serialize;

use crate::{MethodKind, Network, OptimizerKind, Options, Task};

/// How long and by which learning rates: `30@0:0.01,15:0.001`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Retraining {
    epochs: usize,
    rates: Rates,
}

impl FromStr for Retraining {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::Setting {
            field: "training".to_owned(),
            expected: "`EPOCHS@SCHEDULE`".to_owned(),
            found: text.to_owned(),
        };
        let (epochs, rates) = text.split_once('@').ok_or_else(bad)?;
        Ok(Self { epochs: epochs.trim().parse().map_err(|_| bad())?, rates: rates.parse()? })
    }
}

impl fmt::Display for Retraining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.epochs, self.rates)
    }
}

impl Retraining {
    /// The recipe with these epochs and rates.
    fn of(&self, recipe: &Recipe) -> Recipe {
        Recipe { epochs: self.epochs, rates: self.rates.clone(), ..recipe.clone() }
    }
}

/// The embedded digits; a fifth tests.
pub(crate) fn digits(channels: usize, seed: u64) -> Result<ImageSets<Samples>> {
    let sample = |(values, label): (Vec<f32>, usize)| {
        (Sample { shape: [channels, 32, 32], values: values.repeat(channels) }, label)
    };
    let samples = leanburn_datasets::digit_images().into_iter().map(sample).collect();
    ImageSets::held_out("digits, each pixel four by four", samples, 360, seed)
}

/// A checkpoint's state dict, without wrappers.
pub(crate) fn open(path: &Path) -> Result<Checkpoint> {
    Ok(Checkpoint::open(path)?.state_dict())
}

fn pipeline<A: Clone, D>(
    options: &Options,
    architecture: &A,
    data: ImageSets<D>,
    folder: &RunFolder,
) -> Result<Pipeline<A, D>> {
    let recipe = |training: &Retraining| {
        Recipe::new(training.epochs, training.rates.clone())
            .with_batch_size(options.batch_size)
            .with_weight_decay(options.weight_decay)
    };
    let name = options.network.to_possible_value().expect("networks have names").get_name().to_owned();
    let first = options.retraining.first().ok_or_else(|| Error::Setting {
        field: "retraining".to_owned(),
        expected: "at least one".to_owned(),
        found: "none".to_owned(),
    })?;
    Ok(Pipeline {
        name,
        architecture: architecture.clone(),
        data,
        ratios: options.ratios()?,
        base: recipe(&options.base),
        retraining: recipe(first).with_optimizer(match options.optimizer {
            OptimizerKind::Sgd => Optimizer::Sgd,
            OptimizerKind::Adam => Optimizer::Adam,
        }),
        jsv_images: options.jsv_images,
        jsv_every: usize::from(options.task == Task::Trainability),
        latency_batch: if options.task == Task::Trainability { 0 } else { options.latency_batch },
        dashboard: options.dashboard,
        checkpoints: options.resume.then(|| folder.file("checkpoints")),
    })
}

fn method(options: &Options, kind: MethodKind, seed: u64) -> Result<Method> {
    const RATE: f64 = 1e-3;
    let selection = || Selection::new().with_at_most(Some(0.995));
    let activation =
        if options.network == Network::Mlp7Linear { Activation::Linear } else { Activation::Relu };
    let filters = |selection| Pruner::Filters(selection);
    let greg = |config: GregConfig| {
        let config = config
            .with_granularity(options.granularity)
            .with_update_every(options.update_every)
            .with_stabilise(options.stabilise);
        Pruner::Greg { config, selection: selection(), rate: RATE }
    };
    let pruner = match kind {
        MethodKind::L1 | MethodKind::L1OrthP | MethodKind::L1Absorb => filters(selection()),
        MethodKind::Random => filters(selection().with_pick(Pick::Random { seed })),
        MethodKind::Max => filters(selection().with_pick(Pick::Max)),
        MethodKind::Taylor => filters(selection().with_criterion(Criterion::Taylor)),
        MethodKind::Global => filters(selection().with_scope(Scope::Global)),
        MethodKind::Greg1 => greg(GregConfig::one()),
        MethodKind::Greg2 => greg(GregConfig::two()),
        MethodKind::Tpp => {
            // Without batch norm there is nothing behind the filters to be penalised.
            let norms = options.network.is_for_colours();
            let config = TppConfig::new()
                .with_granularity(options.granularity)
                .with_update_every(options.update_every)
                .with_stabilise(options.stabilise)
                .with_norm_penalty(norms);
            Pruner::Tpp { config, selection: selection(), rate: RATE }
        }
        MethodKind::Inherited => {
            let path = options.removed.as_ref().ok_or_else(|| Error::Setting {
                field: "removed".to_owned(),
                expected: "the file of the filters to inherit".to_owned(),
                found: "none".to_owned(),
            })?;
            Pruner::Inherited(report::read_json(path)?)
        }
        MethodKind::Magnitude => Pruner::Weights(WeightSelection::default()),
        MethodKind::TwoOfFour => {
            Pruner::Blocks { removed: 2, block: 4, skip: vec![options.network.classifier().to_owned()] }
        }
        MethodKind::ScratchSparse => Pruner::SparseScratch(WeightSelection::default(), ScratchEpochs::Base),
        MethodKind::Scratch => Pruner::Scratch(ScratchEpochs::Base),
        MethodKind::ScratchE => Pruner::Scratch(ScratchEpochs::Equal),
        MethodKind::ScratchB => Pruner::Scratch(ScratchEpochs::Budget),
    };
    let name = kind.to_possible_value().expect("methods have names").get_name().to_owned();
    let mut method = Method::new(&name, pruner).with_rounds(options.rounds);
    let is_scratch = matches!(method.pruner, Pruner::Scratch(_) | Pruner::SparseScratch(..));
    method.rewind = options.rewind.filter(|_| !is_scratch);
    method.absorb = (kind == MethodKind::L1Absorb).then_some(activation);
    if kind == MethodKind::L1OrthP {
        method.reinit = Method::orth_p(activation).reinit;
    }
    Ok(method)
}

/// A base model: the checkpoint's, or one that is trained.
fn base<A, D>(
    options: &Options,
    pipeline: &Pipeline<A, D>,
    checkpoint: Option<&Checkpoint>,
    seed: u64,
    device: &DispatchDevice,
) -> Result<Base>
where
    A: Prunable<Network<Dispatch>: AutodiffModule<Dispatch, InnerModule = A::Network<Dispatch>>> + 'static,
    D: Dataset<Item = (Sample, usize)>,
{
    let base = if let Some(checkpoint) = checkpoint {
        let network = pipeline.architecture.load::<Dispatch>(checkpoint, device)?;
        let state = State::of::<A, Dispatch>(&pipeline.architecture, &network)?;
        pipeline.loaded_base::<Dispatch>(state, TrainingRecord::default(), device)?
    } else {
        let (bar, epochs) = (Bar::new(&format!("base model, seed {seed}")), pipeline.base.epochs);
        let rewinds: Vec<usize> = options.rewind.into_iter().collect();
        let show = move |epoch, accuracy| bar.accuracy(epoch, epochs, accuracy);
        pipeline.train_base::<Dispatch>(seed, &rewinds, device, show)?
    };
    println!("base model, seed {seed}: {:.2} %", base.record.accuracy.unwrap_or(f64::NAN));
    Ok(base)
}

/// Does what is asked.
pub(crate) fn run<A, D>(
    options: &Options,
    architecture: A,
    data: ImageSets<D>,
    checkpoint: Option<&Checkpoint>,
    folder: &RunFolder,
) -> Result<()>
where
    A: Prunable<Network<Dispatch>: AutodiffModule<Dispatch, InnerModule = A::Network<Dispatch>>> + 'static,
    D: Dataset<Item = (Sample, usize)>,
{
    let device = options.common.device()?;
    let mut pipeline = pipeline(options, &architecture, data, folder)?;
    pipeline.check()?;
    // What is missing is said before anything is trained.
    options.method.iter().try_for_each(|kind| method(options, *kind, 0).map(drop))?;
    if options.task == Task::Trainability {
        return trainability(options, &mut pipeline, checkpoint, folder, &device);
    }
    let mut records: Vec<Record> = Vec::new();
    for seed in (options.common.seed..).take(options.seeds as usize) {
        let base = base(options, &pipeline, checkpoint, seed, &device)?;
        for retraining in &options.retraining {
            pipeline.retraining = retraining.of(&pipeline.retraining);
            for &kind in &options.method {
                // Scratch training of the base recipe has no retraining, and need not be repeated for each.
                let mut method = method(options, kind, seed)?;
                let repeats = !matches!(
                    method.pruner,
                    Pruner::Scratch(ScratchEpochs::Base) | Pruner::SparseScratch(_, ScratchEpochs::Base)
                );
                if !repeats && records.iter().any(|r| r.name == method.name && r.seed == Some(seed)) {
                    continue;
                }
                if options.task != Task::CrossValidate && options.retraining.len() > 1 && repeats {
                    method.name = format!("{}, {retraining}", method.name);
                }
                let saved = folder.file(&file_name(&method.name, seed));
                if options.task == Task::Prune && options.resume && saved.join("record.json").is_file() {
                    records.extend(Record::open(saved.join("record.json"))?);
                    continue;
                }
                let outcome = one(&pipeline, &base, &method, seed, &device)?;
                if options.task == Task::Prune {
                    save(&pipeline, &outcome, &saved, &device)?;
                }
                records.push(outcome.record);
            }
        }
    }
    folder.write_json("records.json", &records)?;
    if options.task == Task::CrossValidate {
        let found = CrossValidation::new(&records)?;
        print!("{}", found.text());
        return folder.write_json("cross_validation.json", &found);
    }
    folder.write_plot("accuracy.svg", &curves(&records))?;
    report(&Table::new(&records, &options.setup()?, options.reference.as_deref())?, folder)
}

fn one<A, D>(
    pipeline: &Pipeline<A, D>,
    base: &Base,
    method: &Method,
    seed: u64,
    device: &DispatchDevice,
) -> Result<Outcome<A>>
where
    A: Prunable<Network<Dispatch>: AutodiffModule<Dispatch, InnerModule = A::Network<Dispatch>>> + 'static,
    D: Dataset<Item = (Sample, usize)>,
{
    let (bar, epochs) = (Bar::new(&format!("{}, seed {seed}", method.name)), pipeline.retraining.epochs);
    let show = move |epoch, accuracy| bar.accuracy(epoch, epochs, accuracy);
    let outcome = pipeline.run::<Dispatch>(base, method, seed, device, show)?;
    let accuracy = &outcome.record.accuracy;
    let shown = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2} %"));
    println!(
        "{}, seed {seed}: {} after pruning, {} in the end",
        method.name,
        shown(accuracy.after_pruning),
        shown(accuracy.last)
    );
    Ok(outcome)
}

/// The folder of a run: signs that some systems do not take are left out.
fn file_name(method: &str, seed: u64) -> String {
    let name = method.replace(", ", "-").replace(['@', ':', ','], "-");
    format!("{name}-{seed}")
}

fn save<A, D>(
    pipeline: &Pipeline<A, D>,
    outcome: &Outcome<A>,
    folder: &Path,
    device: &DispatchDevice,
) -> Result<()>
where
    A: Prunable + 'static,
    D: Dataset<Item = (Sample, usize)>,
{
    let [_, height, width] = pipeline.data.shape()?;
    let dense = pipeline.architecture.graph([height, width])?;
    let layers = accounting::by_layer(&dense, &outcome.config.graph([height, width])?)?;
    print!("{}", accounting::text(&layers));
    outcome.save::<Dispatch>(folder, device)?;
    report::write_csv(folder.join("layers.csv"), &layers)?;
    let statistics = analysis::by_layer(&outcome.config.graph([height, width])?, &outcome.state, None)?;
    report::write_csv(folder.join("statistics.csv"), &statistics)
}

/// Accuracies by epoch, of the first seed.
fn curves(records: &[Record]) -> Plot {
    let first = records.first().and_then(|record| record.seed);
    let mut plot = Plot::new("accuracy", "epoch of retraining", "%");
    for record in records.iter().filter(|record| record.seed == first) {
        let points = record.accuracy.by_epoch.iter().enumerate();
        plot =
            plot.with(&record.name, Style::Line, points.map(|(epoch, value)| (epoch as f64 + 1.0, *value)));
    }
    plot
}

/// Prints a table and writes it in all forms.
pub(crate) fn report(table: &Table, folder: &RunFolder) -> Result<()> {
    print!("{}", table.text());
    report::write_new(&folder.file("table.md"), |path| {
        std::fs::write(path, table.markdown()).map_err(Error::io(path))
    })?;
    folder.write_csv("table.csv", table.lines())?;
    folder.write_json("table.json", table)
}

/// A point of the plot of singular values.
#[derive(Serialize)]
struct Point {
    method: &'static str,
    ratio: f64,
    mean_jsv: f64,
    accuracy_after_pruning: f64,
}

fn trainability<A, D>(
    options: &Options,
    pipeline: &mut Pipeline<A, D>,
    checkpoint: Option<&Checkpoint>,
    folder: &RunFolder,
    device: &DispatchDevice,
) -> Result<()>
where
    A: Prunable<Network<Dispatch>: AutodiffModule<Dispatch, InnerModule = A::Network<Dispatch>>> + 'static,
    D: Dataset<Item = (Sample, usize)>,
{
    let seed = options.common.seed;
    let base = base(options, pipeline, checkpoint, seed, device)?;
    let mut points: Vec<Point> = Vec::new();
    println!("{:<8} {:<10} {:>10} {:>12}", "ratio", "method", "mean JSV", "accuracy");
    for ratio in [0.0, 0.1, 0.3, 0.5, 0.7, 0.9] {
        pipeline.ratios = options.network.ratios(ratio);
        for (name, kind) in [("L1", MethodKind::L1), ("L1 + OrthP", MethodKind::L1OrthP)] {
            let pruned =
                pipeline.prune_only::<Dispatch>(&base, &method(options, kind, seed)?, seed, device)?;
            let mean_jsv = pruned.record.mean_jsv[1].unwrap_or(f64::NAN);
            let accuracy = pruned.record.accuracy.after_pruning.unwrap_or(f64::NAN);
            println!("{ratio:<8} {name:<10} {mean_jsv:>10.4} {accuracy:>10.2} %");
            points.push(Point { method: name, ratio, mean_jsv, accuracy_after_pruning: accuracy });
        }
    }
    folder.write_csv("mean_jsv.csv", &points)?;
    let mut plot = Plot::new("mean singular value right after pruning", "ratio", "log10");
    for name in ["L1", "L1 + OrthP"] {
        let of_method = points.iter().filter(|point| point.method == name && point.mean_jsv > 0.0);
        plot = plot.with(name, Style::Line, of_method.map(|point| (point.ratio, point.mean_jsv.log10())));
    }
    folder.write_plot("mean_jsv.svg", &plot)?;

    pipeline.ratios = options.ratios()?;
    let mut plot = Plot::new("mean singular value over the retraining", "epoch", "");
    let mut records = Vec::new();
    for retraining in &options.retraining {
        pipeline.retraining = retraining.of(&pipeline.retraining);
        for &kind in &options.method {
            let mut method = method(options, kind, seed)?;
            method.name = format!("{}, {retraining}", method.name);
            let record = one(pipeline, &base, &method, seed, device)?.record;
            let curve = record.mean_jsv_by_epoch.iter().map(|(epoch, value)| (*epoch as f64, *value));
            plot = plot.with(&method.name, Style::Line, curve);
            records.push(record);
        }
    }
    folder.write_json("records.json", &records)?;
    folder.write_plot("accuracy.svg", &curves(&records))?;
    folder.write_plot("mean_jsv_by_epoch.svg", &plot)
}
