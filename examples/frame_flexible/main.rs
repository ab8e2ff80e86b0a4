//! Trains one video network for several frame counts (FFN), and what it is compared with, and evaluates them at any frame
//! counts: a table, weights, each branch as an ordinary network, and a plot of accuracy against operations.

mod options;

use std::sync::Arc;

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
        slowfast::SlowFastConfig,
        train::{slowfast_groups, tsn_groups, uniformer_groups},
        transform::{ClipPreprocessing, Crop},
        uniformer::UniFormerConfig,
        videos::{VideoSource, Videos},
    },
};
use leanburn_datasets::{Hue, MovingDigits};
use leanburn_examples::{Bar, moving_digits, run_folder, write_once};
use options::{Data, Network, Options};
use serde::Serialize;

/// What `config.json` has: the options, and what came of them.
#[derive(Serialize)]
struct Written<'a> {
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
    if let Err(error) = run(&leanburn_examples::options::<Options>()) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run(options: &Options) -> Result<()> {
    // Before a folder is made for nothing.
    options.check()?;
    let written = Written { options, recipe: options.recipe() };
    let folder = if let Some(path) = &options.output {
        run_folder(path, options.resume, &written)?
    } else {
        let folder = RunFolder::create_numbered("runs", "frame-flexible")?;
        folder.write_json("config.json", &written)?;
        folder
    };
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
        let valid = digits(options.videos / 2, seed + 1, 1200..1797)?;
        on_videos(options, Arc::new(train), Arc::new(valid), &folder)?;
    } else {
        let (layout, root) = (options.layout()?, options.root()?);
        let open = |train| -> Result<Videos> {
            let videos = layout.open(root, train)?;
            if options.lenient {
                return Ok(videos.lenient());
            }
            videos.check_frames()?;
            Ok(videos)
        };
        let (train, valid) = (Arc::new(open(true)?), Arc::new(open(false)?));
        on_videos(options, train.clone(), valid.clone(), &folder)?;
        if options.lenient {
            println!("{} frames were replaced", train.replaced() + valid.replaced());
        }
    }
    println!("written: {}", folder.path().display());
    Ok(())
}

fn on_videos<S: VideoSource>(
    options: &Options,
    train: Arc<S>,
    valid: Arc<S>,
    folder: &RunFolder,
) -> Result<()> {
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
    let decay = recipe.weight_decay;
    let sgd = tsn_groups(0.9, decay, !options.fine_tune, false);
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
        partial_norms: options.partial_norms,
    };
    let frames = if options.frames.is_empty() { &counts } else { &options.frames };
    let [_, preprocessing] = &experiment.preprocessing;
    let evaluation = |preprocessing: &ClipPreprocessing| {
        EvaluationConfig::new(frames.clone(), preprocessing.clone())
            .with_sampling(experiment.sampling)
            .with_batch_size(batch_size)
    };
    let evaluations: Vec<EvaluationConfig> = if options.crops == 1 {
        vec![evaluation(preprocessing)]
    } else {
        (0..3).map(|view| evaluation(&options.view(view))).collect()
    };
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
            let history = format!("{file}-history.json");
            write_once(folder, &history, |name| folder.write_json(name, &outcome.history.measured()))?;
            tell("initial values were kept of", &outcome.kept);
            tell("the network has no use for", &outcome.unused);
            println!("{name}: {:.0} frames a second were read in training", outcome.frames_per_second);
            save(&outcome.architecture, &outcome.network, folder, &file)?;
            (outcome.architecture, outcome.network)
        };
        let plain = leanburn::device::parse(&options.common.device)?;
        let all = scored(&network.valid(), valid.as_ref(), &evaluations, &plain)?;
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
    write_once(folder, "results.csv", |name| folder.write_csv(name, &rows))?;
    write_once(folder, "accuracy.svg", |name| folder.write_plot(name, &plot(&rows)))
}

/// The scores at each frame count, those of several evaluations averaged.
fn scored<N: ClipClassifier<Dispatch>>(
    network: &N,
    videos: &impl VideoSource,
    evaluations: &[EvaluationConfig],
    device: &DispatchDevice,
) -> Result<Vec<Scores>> {
    let views = evaluations.iter().map(|evaluation| evaluate(network, videos, evaluation, device));
    let mut views: Vec<Vec<Scores>> = views.collect::<Result<_>>()?;
    if views.len() == 1 {
        return Ok(views.remove(0));
    }
    let places = 0..views[0].len();
    let members = |place: usize| views.iter().map(|view| view[place].clone()).collect::<Vec<_>>();
    places.map(|place| Scores::ensemble(&members(place))).collect()
}

/// Tells names, the first of them.
fn tell(what: &str, names: &[String]) {
    const TOLD: usize = 5;
    if !names.is_empty() {
        let more = if names.len() > TOLD { ", ..." } else { "" };
        let first = names[..names.len().min(TOLD)].join(", ");
        println!("{what} {} parameters: {first}{more}", names.len());
    }
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
    let write = |file: &str, architecture: &A, network: &A::Network<Dispatch>| {
        write_once(folder, &format!("{file}.json"), |name| folder.write_json(name, architecture))?;
        write_once(folder, &format!("{file}.safetensors"), |name| {
            VideoArchitecture::save(architecture, network, folder.file(name))
        })
    };
    write(file, architecture, network)?;
    let counts = &architecture.branches().counts;
    if counts.len() == 1 {
        return Ok(());
    }
    for &count in counts {
        let branch = architecture.branch(count);
        write(&format!("{file}-{count}"), &branch, &network.clone().into_branch(count))?;
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
