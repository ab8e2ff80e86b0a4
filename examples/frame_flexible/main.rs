//! Trains one video network for several frame counts (FFN), and what it is compared with, and evaluates them at any frame
//! counts: a table, weights, each branch as an ordinary network, and a plot of accuracy against operations.

use std::{path::PathBuf, sync::Arc};

use clap::{Parser, ValueEnum};
use leanburn::{
    burn::{module::AutodiffModule, optim::SimpleOptimizer},
    core::{
        checkpoint::Checkpoint,
        report::{Plot, RunFolder, Style},
        train::{ParameterGroups, TrainingConfig},
    },
    prelude::*,
    video::{
        Branches, ClipClassifier, VideoArchitecture,
        evaluate::{EvaluationConfig, Scores, evaluate},
        ffn::{Alignment, Experiment, FrameFlexible, Method, Recipe},
        mixing::Mixing,
        resnet::{FrameResNetConfig, Shift},
        sampling::Sampling,
        schedule::EpochSchedule,
        slowfast::SlowFastConfig,
        train::{slowfast_groups, tsn_groups, uniformer_groups},
        transform::{ClipPreprocessing, Crop, Flip, mirrored},
        uniformer::UniFormerConfig,
        videos::{Layout, Published, VideoSource},
    },
};
use leanburn_datasets::{Hue, MovingDigits};
use leanburn_examples::{Bar, Common, moving_digits, options};
use serde::Serialize;

/// Trains one video network for several frame counts, and evaluates it at any.
#[derive(Parser, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the command line's switches")]
struct Options {
    /// The videos.
    #[arg(long, value_enum, default_value = "moving-digits")]
    data: Data,
    /// The folder of a published data set, laid out as its code expects.
    #[arg(long)]
    root: Option<PathBuf>,
    /// Another layout of it: a JSON file with `frames`, `train_list`, `valid_list`, `classes` and `template`.
    #[arg(long)]
    layout: Option<PathBuf>,
    /// The network.
    #[arg(long, value_enum, default_value = "tsm18")]
    network: Network,
    /// Channels of the stem, where it is not the published number; for moving digits 24.
    #[arg(long)]
    width: Option<usize>,
    /// The number of blocks of each stage, of a residual network that is not the published one; for moving digits 1,1.
    #[arg(long, value_delimiter = ',')]
    blocks: Vec<usize>,
    /// What is trained, separated by commas: `ffn`, `distillation`, `norms`, `sharing`, `mixed`, `proportional`, or a
    /// frame count for a network of that count alone. Several counts are put together as an ensemble as well.
    #[arg(long, value_delimiter = ',', default_value = "ffn")]
    method: Vec<String>,
    /// The frame counts that FFN is trained for, ascending.
    #[arg(long, value_delimiter = ',', default_value = "4,8,16")]
    counts: Vec<usize>,
    /// The frame counts of the evaluation; those of the training when absent.
    #[arg(long, value_delimiter = ',')]
    frames: Vec<usize>,
    /// Trains as published for the network (on Kinetics-400, TSM as published for it): frame counts, epochs, learning
    /// rate, batch, decay, dropout, clipping, mixing and flips are the recipe's, whatever the options say.
    #[arg(long)]
    published: bool,
    /// Weights to start from, a PyTorch or safetensors file: of an image network, or of a plain video network.
    #[arg(long)]
    start: Option<PathBuf>,
    /// Weights of the trained network, of leanburn or as published with FFN: nothing is trained.
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// Epochs.
    #[arg(long, default_value_t = 8)]
    epochs: usize,
    /// The learning rate.
    #[arg(long, default_value_t = 0.02)]
    learning_rate: f64,
    /// Epochs from which the rate is a tenth of what it was; half a cosine when there is none.
    #[arg(long, value_delimiter = ',')]
    milestones: Vec<usize>,
    /// The weight decay.
    #[arg(long, default_value_t = 5e-4)]
    weight_decay: f64,
    /// The probability of dropout.
    #[arg(long, default_value_t = 0.5)]
    dropout: f64,
    /// The largest norm of all gradients.
    #[arg(long)]
    clip_norm: Option<f64>,
    /// Videos of a batch.
    #[arg(long, default_value_t = 8)]
    batch_size: usize,
    /// How many batches make a step.
    #[arg(long, default_value_t = 1)]
    accumulation: usize,
    /// Height and width of the clips; 224 of files, and the frames as they are of moving digits.
    #[arg(long, default_value_t = 224)]
    side: usize,
    /// Whether clips are flipped with their labels, where a class has a mirror image.
    #[arg(long)]
    flip: bool,
    /// Of moving digits: how many videos are trained with; half as many others are evaluated.
    #[arg(long, default_value_t = 480)]
    videos: usize,
    /// Of moving digits: the number of directions.
    #[arg(long, default_value_t = 8)]
    directions: usize,
    /// Of moving digits: factors of the way; each direction with each of them is a class.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    speeds: Vec<f64>,
    /// Whether the temporal shift mixes videos in training, as the published one does.
    #[arg(long)]
    published_shift: bool,
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
enum Data {
    /// Handwritten digits that move, generated: the class is the direction.
    MovingDigits,
    #[value(name = "something-v1")]
    SomethingV1,
    #[value(name = "something-v2")]
    SomethingV2,
    Jester,
    Kinetics400,
    MiniKinetics,
    /// HMDB51, split 1.
    Hmdb51,
    /// UCF101, split 1.
    Ucf101,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Network {
    #[value(name = "tsm18")]
    Tsm18,
    #[value(name = "tsm50")]
    Tsm50,
    #[value(name = "tsm101")]
    Tsm101,
    /// Without a shift.
    #[value(name = "tsn18")]
    Tsn18,
    #[value(name = "tsn50")]
    Tsn50,
    Tea,
    #[value(name = "slowfast")]
    SlowFast,
    #[value(name = "uniformer")]
    UniFormer,
}

/// What `config.json` has: the options, and what came of them.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    options: &'a Options,
    recipe: Recipe,
}

/// A row of the results.
#[derive(Serialize)]
struct Row {
    method: String,
    frames: usize,
    /// The frame count of the branch that served them.
    branch: usize,
    top1: f64,
    top5: f64,
    loss: f64,
    /// Multiply-accumulate operations of a clip, in units of 1e9.
    gmacs: f64,
    parameters: usize,
    milliseconds: f64,
}

fn main() {
    // The message alone: users of a program need not see the type of its error.
    if let Err(error) = run(&options::<Options>()) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run(options: &Options) -> Result<()> {
    // Before a folder is made for nothing.
    options.methods()?;
    let folder = match &options.output {
        Some(path) if options.resume && path.exists() => RunFolder::open(path)?,
        Some(path) => RunFolder::create(path)?,
        None => RunFolder::create_numbered("runs", "frame-flexible")?,
    };
    if !folder.file("config.json").exists() {
        folder.write_json("config.json", &Written { options, recipe: options.recipe() })?;
    }
    if options.data == Data::MovingDigits {
        let digits = |videos, seed, rows| {
            moving_digits(
                &MovingDigits::new(videos, seed)
                    .with_directions(options.directions)
                    .with_speeds(&options.speeds)
                    .with_digits(rows)
                    .with_hue(Hue::Random),
            )
        };
        let seed = 2 * options.common.seed;
        let train = digits(options.videos, seed, 0..1200)?;
        on_videos(options, train, digits(options.videos / 2, seed + 1, 1200..1797)?, &folder)?;
    } else {
        let layout = options.layout()?;
        let root =
            options.root.as_deref().ok_or_else(|| setting("root", "the folder of the data set", "none"))?;
        on_videos(options, layout.open(root, true)?, layout.open(root, false)?, &folder)?;
    }
    println!("written: {}", folder.path().display());
    Ok(())
}

fn setting(field: &str, expected: &str, found: &str) -> Error {
    Error::Setting { field: field.to_owned(), expected: expected.to_owned(), found: found.to_owned() }
}

impl Options {
    /// How the network is trained.
    fn recipe(&self) -> Recipe {
        if self.published {
            return match self.network {
                Network::SlowFast => Recipe::slowfast(),
                Network::UniFormer => Recipe::uniformer(),
                Network::Tea => Recipe::tea(),
                _ if self.data == Data::Kinetics400 => Recipe::tsm_kinetics(),
                _ => Recipe::tsm_something(),
            };
        }
        let schedule = match self.milestones.as_slice() {
            // A cosine by epoch would leave much at the start of few epochs.
            [] => {
                EpochSchedule { every_step: true, ..EpochSchedule::cosine(self.learning_rate, self.epochs) }
            }
            milestones => EpochSchedule::steps(self.learning_rate, self.epochs, milestones),
        };
        Recipe {
            counts: self.counts.clone(),
            schedule,
            batch_size: self.batch_size,
            weight_decay: self.weight_decay,
            dropout: self.dropout,
            clip_norm: self.clip_norm,
            ..Recipe::tsm_something()
        }
    }

    fn methods(&self) -> Result<Vec<Method>> {
        let counts = self.recipe().counts;
        let method = |name: &String| match name.as_str() {
            "ffn" => Ok(Method::Ffn(Branches::ffn(&counts))),
            "distillation" => Ok(Method::Distillation),
            "norms" => Ok(Method::SpecialisedNorms),
            "sharing" => Ok(Method::Sharing),
            "mixed" => Ok(Method::Mixed),
            "proportional" => Ok(Method::Proportional),
            count => count.parse().map(Method::Single).map_err(|_| {
                let expected = "ffn, distillation, norms, sharing, mixed, proportional or a frame count";
                setting("method", expected, count)
            }),
        };
        self.method.iter().map(method).collect()
    }

    fn layout(&self) -> Result<Layout> {
        if let Some(path) = &self.layout {
            return leanburn::core::report::read_json(path);
        }
        let published = match self.data {
            Data::SomethingV1 => Published::SomethingV1,
            Data::SomethingV2 => Published::SomethingV2,
            Data::Jester => Published::Jester,
            Data::Kinetics400 => Published::Kinetics400,
            Data::MiniKinetics => Published::MiniKinetics,
            Data::Hmdb51 => Published::Hmdb51 { split: 1 },
            Data::Ucf101 => Published::Ucf101,
            Data::MovingDigits => return Err(setting("data", "one in files", "moving-digits")),
        };
        Ok(published.layout())
    }

    /// Whether clips are flipped. Published networks were, where a class does not tell left from right.
    fn flips(&self) -> bool {
        let actions =
            matches!(self.data, Data::Kinetics400 | Data::MiniKinetics | Data::Hmdb51 | Data::Ucf101);
        if self.published { actions } else { self.flip }
    }

    /// What is done to the frames of training and of validation.
    fn preprocessing(&self, classes: &[String]) -> [ClipPreprocessing; 2] {
        let flip = match (self.flips(), mirrored(classes)) {
            (false, _) => Flip::None,
            (true, pairs) if pairs.is_empty() => Flip::Random,
            (true, pairs) => Flip::LabelAware { pairs },
        };
        if self.data == Data::MovingDigits {
            // The frames as they are: a part of one would not show where the digit is.
            let crop = Crop::Center { scale: 32, side: 32 };
            let whole = ClipPreprocessing { crop, ..ClipPreprocessing::tsn_valid(32) };
            return [whole.clone().with_flip(flip), whole];
        }
        match self.network {
            Network::SlowFast => {
                [ClipPreprocessing::slowfast_train().with_flip(flip), ClipPreprocessing::slowfast_test(1)]
            }
            Network::UniFormer => {
                [ClipPreprocessing::uniformer_train().with_flip(flip), ClipPreprocessing::uniformer_test(1)]
            }
            _ => [
                ClipPreprocessing::tsn_train(self.side).with_flip(flip),
                ClipPreprocessing::tsn_valid(self.side),
            ],
        }
    }

    fn sampling(&self) -> Sampling {
        match self.network {
            Network::SlowFast | Network::UniFormer => Sampling::Intervals,
            _ => Sampling::Segments,
        }
    }
}

fn on_videos<S: VideoSource>(options: &Options, train: S, valid: S, folder: &RunFolder) -> Result<()> {
    let classes = train.classes().len();
    let branches = Branches::single(1);
    let recipe = options.recipe();
    let shaped = |mut config: FrameResNetConfig| {
        if options.data == Data::MovingDigits {
            (config.width, config.blocks) = (24, vec![1, 1]);
        }
        config.width = options.width.unwrap_or(config.width);
        if !options.blocks.is_empty() {
            config.blocks.clone_from(&options.blocks);
        }
        config.with_dropout(recipe.dropout)
    };
    let resnet = |depth: usize, shift: Shift| -> Result<FrameResNetConfig> {
        let shift = if shift == Shift::Own && options.published_shift { Shift::High } else { shift };
        let config = FrameResNetConfig::tsm(depth, classes, branches.clone())?.with_shift(shift);
        Ok(shaped(config))
    };
    let (train, valid) = (Arc::new(train), Arc::new(valid));
    let decay = recipe.weight_decay;
    let sgd = tsn_groups(0.9, decay, true, false);
    match options.network {
        Network::Tsm18 => with(options, resnet(18, Shift::Own)?, &sgd, train, valid, folder),
        Network::Tsm50 => with(options, resnet(50, Shift::Own)?, &sgd, train, valid, folder),
        Network::Tsm101 => with(options, resnet(101, Shift::Own)?, &sgd, train, valid, folder),
        Network::Tsn18 => with(options, resnet(18, Shift::None)?, &sgd, train, valid, folder),
        Network::Tsn50 => with(options, resnet(50, Shift::None)?, &sgd, train, valid, folder),
        Network::Tea => {
            with(options, shaped(FrameResNetConfig::tea(classes, branches)), &sgd, train, valid, folder)
        }
        Network::SlowFast => {
            let mut config = SlowFastConfig::new(classes, branches).with_dropout(recipe.dropout);
            config.width = options.width.unwrap_or(config.width);
            with(options, config, &slowfast_groups(0.9, decay), train, valid, folder)
        }
        Network::UniFormer => with(
            options,
            UniFormerConfig::new(classes, branches),
            &uniformer_groups(decay),
            train,
            valid,
            folder,
        ),
    }
}

fn with<A: VideoArchitecture, S: VideoSource, O: SimpleOptimizer<Dispatch> + 'static>(
    options: &Options,
    architecture: A,
    optimizer: &ParameterGroups<O, FrameFlexible<Dispatch, A::Network<Dispatch>>, Dispatch>,
    train: Arc<S>,
    valid: Arc<S>,
    folder: &RunFolder,
) -> Result<()>
where
    A::Network<Dispatch>: AutodiffModule<Dispatch, InnerModule = A::Network<Dispatch>>,
{
    let device = options.common.device()?;
    let preprocessing = options.preprocessing(train.classes());
    let Recipe { counts, schedule, batch_size, clip_norm, copies, mixed, .. } = options.recipe();
    let epochs = schedule.epochs;
    let classes = train.classes().len();
    let experiment = Experiment {
        architecture,
        counts: counts.clone(),
        train,
        valid: valid.clone(),
        sampling: options.sampling(),
        preprocessing,
        schedule,
        batch_size,
        copies,
        alignment: Alignment::new(),
        mixing: mixed.then(|| Mixing::new(classes)),
        training: TrainingConfig::new(epochs)
            .with_accumulation(options.accumulation)
            .with_clip_norm(clip_norm)
            .with_dashboard(options.dashboard),
        seed: options.common.seed,
        start: options.start.clone(),
    };
    let frames = if options.frames.is_empty() { &counts } else { &options.frames };
    let [_, preprocessing] = &experiment.preprocessing;
    let evaluation = EvaluationConfig::new(frames.clone(), preprocessing.clone())
        .with_sampling(experiment.sampling)
        .with_batch_size(batch_size);
    let size = [evaluation_side(preprocessing); 2];
    println!("{:<16} {:>6} {:>8} {:>8} {:>9} {:>8}", "method", "frames", "top-1 %", "top-5 %", "GMACs", "ms");
    let mut rows: Vec<Row> = Vec::new();
    let mut singles: Vec<Vec<Scores>> = Vec::new();
    for (name, method) in options.method.iter().zip(options.methods()?) {
        let name = if matches!(method, Method::Single(_)) { format!("{name} frames") } else { name.clone() };
        let file = name.replace(' ', "-");
        let (architecture, network) = if let Some(path) = &options.checkpoint {
            let branches = Method::branches(&method, &counts);
            let architecture = experiment.architecture.clone().with_branches(branches);
            let checkpoint = Checkpoint::open(path)?;
            let network = VideoArchitecture::load::<Dispatch>(&architecture, &checkpoint, &device)?;
            (architecture, network)
        } else {
            let bar = Bar::new(&name);
            let shown = *counts.last().unwrap_or(&0);
            let show = move |report: &leanburn::core::train::EpochReport| {
                let wanted = format!("Accuracy at {shown} frames");
                let valid = || report.measured.iter().filter(|m| m.split == "valid");
                let value =
                    valid().find(|m| m.metric == wanted).or_else(|| valid().find(|m| m.metric != "Loss"));
                bar.accuracy(report.epoch, epochs, value.map_or(f64::NAN, |measured| measured.value));
            };
            let checkpoints = folder.file(&file);
            let checkpoints = options.resume.then_some(checkpoints.as_path());
            let outcome = experiment.run::<Dispatch, _>(
                &method,
                optimizer.clone(),
                checkpoints,
                &device,
                |_| {},
                show,
            )?;
            folder.write_json(&format!("{file}-history.json"), &outcome.history.measured())?;
            println!("{name}: {:.0} frames a second were read in training", outcome.frames_per_second);
            save(&outcome.architecture, &outcome.network, folder, &file)?;
            (outcome.architecture, outcome.network)
        };
        let plain = leanburn::device::parse(&options.common.device)?;
        let all = evaluate::<Dispatch, _>(&network.valid(), valid.as_ref(), &evaluation, &plain)?;
        for scores in &all {
            add(&mut rows, row(&name, &architecture, scores, size)?);
        }
        if matches!(method, Method::Single(_)) {
            singles.push(all);
        }
    }
    if singles.len() > 1 {
        for place in 0..frames.len() {
            let members: Vec<Scores> = singles.iter().map(|scores| scores[place].clone()).collect();
            let scores = Scores::ensemble(&members)?;
            let mut row = row("ensemble", &experiment.architecture, &scores, size)?;
            row.gmacs *= members.len() as f64;
            row.parameters *= members.len();
            add(&mut rows, row);
        }
    }
    folder.write_csv("results.csv", &rows)?;
    folder.write_plot("accuracy.svg", &plot(&rows))
}

/// Height and width of the clips that are evaluated.
fn evaluation_side(preprocessing: &ClipPreprocessing) -> usize {
    match &preprocessing.crop {
        Crop::Center { side, .. } | Crop::ShortSide { side, .. } => *side,
        _ => 224,
    }
}

/// Writes a network's weights, and those of each of its branches as an ordinary network.
fn save<A: VideoArchitecture>(
    architecture: &A,
    network: &A::Network<Dispatch>,
    folder: &RunFolder,
    file: &str,
) -> Result<()> {
    folder.write_json(&format!("{file}.json"), architecture)?;
    VideoArchitecture::save(architecture, network, folder.file(&format!("{file}.safetensors")))?;
    let counts = &architecture.branches().counts;
    if counts.len() == 1 {
        return Ok(());
    }
    for &count in counts {
        let branch = architecture.branch(count);
        folder.write_json(&format!("{file}-{count}.json"), &branch)?;
        let network = network.clone().into_branch(count);
        VideoArchitecture::save(&branch, &network, folder.file(&format!("{file}-{count}.safetensors")))?;
    }
    Ok(())
}

fn row(name: &str, architecture: &impl VideoArchitecture, scores: &Scores, size: [usize; 2]) -> Result<Row> {
    let branches = architecture.branches();
    let cost = architecture.cost(scores.frames, size);
    Ok(Row {
        method: name.to_owned(),
        frames: scores.frames,
        branch: branches.counts[branches.nearest(scores.frames)],
        top1: scores.accuracy(1)?,
        top5: scores.accuracy(5)?,
        loss: scores.loss(),
        gmacs: cost.macs as f64 / 1e9,
        parameters: cost.params_all,
        milliseconds: 1e3 * scores.seconds,
    })
}

fn add(rows: &mut Vec<Row>, row: Row) {
    println!(
        "{:<16} {:>6} {:>8.2} {:>8.2} {:>9.3} {:>8.1}",
        row.method, row.frames, row.top1, row.top5, row.gmacs, row.milliseconds
    );
    rows.push(row);
}

/// Accuracy against operations, a curve for each method.
fn plot(rows: &[Row]) -> Plot {
    let mut methods: Vec<&str> = Vec::new();
    for row in rows {
        if !methods.contains(&row.method.as_str()) {
            methods.push(&row.method);
        }
    }
    let empty = Plot::new("accuracy at each frame count", "GMACs of a clip", "top-1 accuracy, %");
    methods.into_iter().fold(empty, |plot, method| {
        let mut points: Vec<(f64, f64)> =
            rows.iter().filter(|row| row.method == method).map(|row| (row.gmacs, row.top1)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        plot.with(method, Style::Line, points)
    })
}
