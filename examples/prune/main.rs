//! Prunes image networks, and compares how: trains or loads a base model, prunes it by one method or by several, trains it
//! again, and writes smaller checkpoints, a table of the comparison with what is not fair about it, and plots.

mod jobs;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use jobs::Retraining;
use leanburn::{
    core::{
        report::{self, RunFolder},
        train::Dataset,
    },
    prelude::*,
    pruning::{
        Ratios,
        comparison::{Level, Record, Setup, Table, Total, published},
        pipeline::ImageSets,
    },
    vision::{
        data::Images,
        resnet::ResNetConfig,
        sequential::SequentialConfig,
        train::Preprocessed,
        transform::{Preprocessing, Sample},
    },
};
use leanburn_examples::{Common, options};
use serde::Serialize;

/// Prunes image networks, and compares how.
#[derive(Parser, Serialize)]
struct Options {
    /// What to do.
    #[arg(value_enum, default_value = "prune")]
    task: Task,
    /// The images.
    #[arg(long, value_enum, default_value = "digits")]
    data: Data,
    /// The folder of a published data set, or of your own: `train` and `test` (or `val`) with a folder for each class.
    #[arg(long)]
    root: Option<PathBuf>,
    /// The network.
    #[arg(long, value_enum, default_value = "lenet5")]
    network: Network,
    /// Weights of the base model, a PyTorch or safetensors file; trained when absent.
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// The part of filters, or weights, that goes of each layer that is pruned.
    #[arg(long, default_value_t = 0.5)]
    ratio: f64,
    /// Ratios in its place: `conv1=0.5,layer*.conv1=0.7`, of several that match the last counts; or `[0-3:0.5]` by number.
    #[arg(long)]
    ratios: Option<String>,
    /// Methods, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "l1")]
    method: Vec<MethodKind>,
    /// In how many rounds of pruning and retraining.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// After pruning, weights go back to what they were after as many epochs of the base model's training.
    #[arg(long)]
    rewind: Option<usize>,
    /// How base models are trained: `EPOCHS@SCHEDULE`, with a schedule as `0:0.01,30:0.001` or `cosine:0.01:0.0001`.
    #[arg(long, default_value = "60@0:0.01,30:0.001,45:0.0001")]
    base: Retraining,
    /// How pruned networks are trained again, likewise; several times, to compare them.
    #[arg(long, default_value = "30@0:0.01,15:0.001,23:0.0001")]
    retraining: Vec<Retraining>,
    /// Of GReg and TPP: what the penalty grows by at each update.
    #[arg(long, default_value_t = 1e-4)]
    granularity: f64,
    /// Of GReg and TPP: steps from update to update.
    #[arg(long, default_value_t = 10)]
    update_every: usize,
    /// Of GReg and TPP: steps for which the full penalty stays.
    #[arg(long, default_value_t = 10_000)]
    stabilise: usize,
    /// Images of a batch.
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// The weight decay.
    #[arg(long, default_value_t = 1e-4)]
    weight_decay: f32,
    /// What retraining moves the weights by.
    #[arg(long, value_enum, default_value = "sgd")]
    optimizer: OptimizerKind,
    /// Of the method `inherited`: the `removed.json` that pruning another network has left.
    #[arg(long)]
    removed: Option<PathBuf>,
    /// How often to run each method, with base models of seeds that follow each other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// What is declared equal: S1, S2, S3.1, S3.2, S4.1 or S4.2.
    #[arg(long, default_value = "S3.2")]
    level: String,
    /// And in all: `epochs` (SX-A) or `computation` (SX-B).
    #[arg(long, value_enum)]
    total: Option<TotalKind>,
    /// The method that the others are compared with.
    #[arg(long)]
    reference: Option<String>,
    /// Files of records, of the task `audit`; published ones when absent.
    #[arg(long)]
    records: Vec<PathBuf>,
    /// Of how many test images singular values are measured; of none with 0.
    #[arg(long, default_value_t = 120)]
    jsv_images: usize,
    /// For which batch the time is measured; not at all with 0.
    #[arg(long, default_value_t = 16)]
    latency_batch: usize,
    /// Whether burn-train's dashboard is shown, in a terminal.
    #[arg(long)]
    dashboard: bool,
    /// Whether trainings keep checkpoints in the output folder, from which they go on when they were interrupted.
    #[arg(long)]
    resume: bool,
    /// Where to write; a numbered folder under `runs` when absent.
    #[arg(long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Task {
    /// Prunes, trains again, and writes smaller checkpoints.
    Prune,
    /// The same by several methods, for a table.
    Compare,
    /// Each method under each retraining: which of them wins under all.
    CrossValidate,
    /// Singular values after L1 pruning at ratios from 0 to 0.9, with and without OrthP, and over the retraining.
    Trainability,
    /// Compares records of runs, or of papers, without running anything.
    Audit,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Data {
    /// 1797 handwritten digits, in the program.
    Digits,
    Mnist,
    FashionMnist,
    Cifar10,
    Cifar100,
    /// Images in folders.
    Folder,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Network {
    /// Seven linear layers with `ReLU` between.
    Mlp7,
    /// Seven linear layers without anything between.
    Mlp7Linear,
    Lenet5,
    #[value(name = "resnet20")]
    Resnet20,
    #[value(name = "resnet56")]
    Resnet56,
    #[value(name = "vgg19")]
    Vgg19,
    #[value(name = "resnet18")]
    Resnet18,
    #[value(name = "resnet34")]
    Resnet34,
    #[value(name = "resnet50")]
    Resnet50,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum MethodKind {
    /// Filters of the smallest weights.
    L1,
    /// L1, then the weights' orthogonal factors.
    L1OrthP,
    /// L1, where what reads a filter takes over the constant that it leaves.
    L1Absorb,
    Random,
    /// Filters of the largest weights.
    Max,
    /// Filters whose products of weights and gradients are smallest.
    Taylor,
    /// Filters of all layers ranked together.
    Global,
    Greg1,
    Greg2,
    Tpp,
    /// The filters that another network has lost.
    Inherited,
    /// Single weights.
    Magnitude,
    /// Two of each four weights.
    TwoOfFour,
    /// Large from the start, under the mask of `magnitude`.
    ScratchSparse,
    /// Small from the start, trained as base models are.
    Scratch,
    /// The same for the epochs of the whole pipeline.
    ScratchE,
    /// The same for the computation of the whole pipeline.
    ScratchB,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum OptimizerKind {
    Sgd,
    Adam,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum TotalKind {
    Epochs,
    Computation,
}

fn main() {
    // The message alone: users of a program need not see the type of its error.
    if let Err(error) = run(&options::<Options>()) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run(options: &Options) -> Result<()> {
    let folder = match &options.output {
        Some(path) if options.resume && path.exists() => RunFolder::open(path)?,
        Some(path) => RunFolder::create(path)?,
        None => RunFolder::create_numbered("runs", "prune")?,
    };
    if !folder.file("config.json").exists() {
        folder.write_json("config.json", options)?;
    }
    options.setup()?;
    if options.task == Task::Audit {
        audit(options, &folder)?;
    } else if options.data == Data::Digits {
        let channels = if options.network.is_for_colours() { 3 } else { 1 };
        on_images(options, jobs::digits(channels, options.common.seed)?, 10, &folder)?;
    } else {
        let (train, test, classes) = options.published()?;
        let is_plain = matches!(options.data, Data::Mnist | Data::FashionMnist);
        let name = options.data.to_possible_value().expect("data sets have names");
        let augmentation = if is_plain { "none" } else { "crop, flip" };
        let data = ImageSets::new(name.get_name(), "published", augmentation, train, test)?;
        on_images(options, data, classes, &folder)?;
    }
    println!("written: {}", folder.path().display());
    Ok(())
}

impl Network {
    fn is_for_colours(self) -> bool {
        !matches!(self, Self::Mlp7 | Self::Mlp7Linear | Self::Lenet5)
    }

    /// The name of the last layer.
    fn classifier(self) -> &'static str {
        match self {
            Self::Mlp7 | Self::Mlp7Linear => "net.12",
            Self::Lenet5 => "fc2",
            Self::Resnet20 | Self::Resnet56 => "linear",
            Self::Vgg19 => "classifier",
            Self::Resnet18 | Self::Resnet34 | Self::Resnet50 => "fc",
        }
    }

    /// The layers that are pruned in the papers.
    fn ratios(self, ratio: f64) -> Ratios {
        match self {
            Self::Mlp7 | Self::Mlp7Linear | Self::Lenet5 => Ratios::Uniform(ratio),
            Self::Resnet20 | Self::Resnet56 | Self::Resnet18 | Self::Resnet34 => {
                Ratios::patterns([("layer*.conv1", ratio)])
            }
            Self::Vgg19 => Ratios::patterns([("features.*", ratio), ("features.0", 0.0)]),
            Self::Resnet50 => Ratios::patterns([("layer*.conv[12]", ratio)]),
        }
    }
}

impl Options {
    fn ratios(&self) -> Result<Ratios> {
        match &self.ratios {
            Some(text) => text.parse(),
            None => Ok(self.network.ratios(self.ratio)),
        }
    }

    fn setup(&self) -> Result<Setup> {
        let level: Level = serde_json::from_value(self.level.clone().into()).map_err(|_| Error::Setting {
            field: "level".to_owned(),
            expected: "S1, S2, S3.1, S3.2, S4.1 or S4.2".to_owned(),
            found: self.level.clone(),
        })?;
        let total = self.total.map(|total| match total {
            TotalKind::Epochs => Total::Epochs,
            TotalKind::Computation => Total::Computation,
        });
        let by_sparsity = [MethodKind::Magnitude, MethodKind::TwoOfFour, MethodKind::ScratchSparse]
            .iter()
            .any(|kind| self.method.contains(kind));
        Ok(Setup { level, total, by_sparsity })
    }

    /// Training images, test images, and the number of classes.
    fn published(&self) -> Result<(Preprocessed, Preprocessed, usize)> {
        let root = self.root.as_deref().ok_or_else(|| Error::Setting {
            field: "root".to_owned(),
            expected: "the folder of the data set".to_owned(),
            found: "none".to_owned(),
        })?;
        let images = |train: bool| -> Result<Images> {
            match self.data {
                Data::Mnist | Data::FashionMnist => Images::idx(root, train),
                Data::Cifar10 => Images::cifar10(root, train),
                Data::Cifar100 => Images::cifar100(root, train),
                _ if train => Images::folder(root.join("train")),
                _ => Images::folder(
                    ["test", "val"]
                        .map(|part| root.join(part))
                        .into_iter()
                        .find(|part| part.is_dir())
                        .unwrap_or_else(|| root.join("test")),
                ),
            }
        };
        let [for_train, for_test] = match self.data {
            Data::Mnist | Data::FashionMnist => [Preprocessing::mnist(), Preprocessing::mnist()],
            Data::Cifar10 => [Preprocessing::cifar10_train(), Preprocessing::cifar10()],
            Data::Cifar100 => [Preprocessing::cifar100_train(), Preprocessing::cifar100()],
            _ => [Preprocessing::imagenet_train(), Preprocessing::imagenet()],
        };
        let (train, test) = (images(true)?, images(false)?);
        let classes = train.classes().len();
        Ok((Preprocessed::new(train.into(), for_train)?, Preprocessed::new(test.into(), for_test)?, classes))
    }
}

/// Picks the network's configuration; a checkpoint's widths are its own, so that pruned networks can be pruned again.
fn on_images<D: Dataset<Item = (Sample, usize)>>(
    options: &Options,
    data: ImageSets<D>,
    classes: usize,
    folder: &RunFolder,
) -> Result<()> {
    let checkpoint = options.checkpoint.as_deref().map(jobs::open).transpose()?;
    let sequential = |config: SequentialConfig| match &checkpoint {
        Some(checkpoint) => config.with_widths_of(checkpoint),
        None => Ok(config),
    };
    // What the shapes do not tell, the configuration beside a file of this program does.
    let beside = options.checkpoint.as_ref().map(|path| path.with_file_name("config.json"));
    let beside = beside.filter(|path| path.is_file());
    let resnet = |config: ResNetConfig| match (&checkpoint, &beside) {
        (Some(_), Some(path)) => report::read_json(path),
        (Some(checkpoint), None) => ResNetConfig::infer(checkpoint),
        (None, _) => Ok(config),
    };
    let checkpoint = checkpoint.as_ref();
    match options.network {
        Network::Mlp7 => {
            jobs::run(options, sequential(SequentialConfig::mlp7(classes, true))?, data, checkpoint, folder)
        }
        Network::Mlp7Linear => {
            jobs::run(options, sequential(SequentialConfig::mlp7(classes, false))?, data, checkpoint, folder)
        }
        Network::Lenet5 => {
            jobs::run(options, sequential(SequentialConfig::lenet5(1, classes))?, data, checkpoint, folder)
        }
        Network::Vgg19 => {
            jobs::run(options, sequential(SequentialConfig::vgg(19, classes)?)?, data, checkpoint, folder)
        }
        Network::Resnet20 => {
            jobs::run(options, resnet(ResNetConfig::cifar(20, classes, false)?)?, data, checkpoint, folder)
        }
        Network::Resnet56 => {
            jobs::run(options, resnet(ResNetConfig::cifar(56, classes, false)?)?, data, checkpoint, folder)
        }
        Network::Resnet18 => {
            jobs::run(options, resnet(ResNetConfig::imagenet(18, classes)?)?, data, checkpoint, folder)
        }
        Network::Resnet34 => {
            jobs::run(options, resnet(ResNetConfig::imagenet(34, classes)?)?, data, checkpoint, folder)
        }
        Network::Resnet50 => {
            jobs::run(options, resnet(ResNetConfig::imagenet(50, classes)?)?, data, checkpoint, folder)
        }
    }
}

fn audit(options: &Options, folder: &RunFolder) -> Result<()> {
    let mut records = Vec::new();
    for path in &options.records {
        records.extend(Record::open(path)?);
    }
    let mut reference = options.reference.as_deref();
    if options.records.is_empty() {
        records = published::retraining_details();
        reference = reference.or(Some("L1, retrained well"));
    }
    jobs::report(&Table::new(&records, &options.setup()?, reference)?, folder)
}
