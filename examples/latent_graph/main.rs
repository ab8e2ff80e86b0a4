//! Classifies nodes when only features and a few labels are given: makes a graph, restores connections to labelled nodes,
//! trains several times, and tells accuracies by three protocols. Other models, searches and ablations are options.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use clap::{Parser, ValueEnum};
use leanburn::{
    core::{
        metrics::mean_std,
        report::{Plot, RunFolder, Style},
        table::npy,
    },
    graph::{
        History, UNKNOWN,
        knn::Metric,
        learners::{
            grcn::GrcnConfig,
            idgl::IdglConfig,
            slaps::{DenoisingLoss, GeneratorKind, SlapsConfig},
        },
        lgi::{Block, Grid, Restored, Rows, Source, Starvation, Strength, Trials, Weight},
        ogb, planetoid,
    },
    prelude::*,
};
use leanburn_examples::{Bar, Common, options};
use serde::Serialize;

/// Classifies nodes without a graph.
#[derive(Parser, Serialize)]
struct Options {
    /// The nodes.
    #[arg(long, value_enum, default_value = "digits")]
    data: Data,
    /// The folder of a published set: `ind.NAME.*` of Planetoid, or `raw` and `split` of ogbn-arxiv; or its portable
    /// .safetensors file.
    #[arg(long)]
    root: Option<PathBuf>,
    /// Your own nodes: .csv, .npy, .mat or .safetensors, with `--data own`.
    #[arg(long)]
    features: Option<PathBuf>,
    /// Their classes, one a line, -1 where unknown: .csv or .npy of one column.
    #[arg(long)]
    labels: Option<PathBuf>,
    /// Labelled nodes of each class, of embedded and own sets and of `--split half-train`; 0 takes all known classes of
    /// your own set, and holds out none.
    #[arg(long, default_value_t = 10)]
    per_class: usize,
    /// Which of a published set's labels are used.
    #[arg(long, value_enum, default_value = "published")]
    split: SplitKind,
    /// The model.
    #[arg(long, value_enum, default_value = "knn")]
    model: Model,
    /// Which nodes get connections to labelled ones; `unlabelled` when absent, and `none` for the models `given`, `mlp` and
    /// `gcn-and-knn`.
    #[arg(long, value_enum)]
    restore: Option<Restore>,
    /// How strongly, relative to a node's other connections.
    #[arg(long, default_value_t = 0.25)]
    rho: f64,
    /// How strongly, in the paper's units, which depend on the features' scale; in place of `--rho`.
    #[arg(long, conflicts_with = "rho")]
    alpha: Option<f64>,
    /// What a restored connection weighs; models that learn their graph take their own similarities.
    #[arg(long, value_enum, default_value = "cosine")]
    weight: WeightKind,
    /// To how many labelled nodes each is tied, at most all of them.
    #[arg(long, default_value_t = 30)]
    tau: usize,
    /// Neighbours of a node; each model's own number when absent.
    #[arg(long)]
    k: Option<usize>,
    /// What is near.
    #[arg(long, value_enum, default_value = "cosine")]
    metric: MetricKind,
    /// Layers of the network, of the model `knn`.
    #[arg(long, default_value_t = 2)]
    layers: usize,
    /// Passes over all nodes; each model's own number when absent, and 200 for `knn`.
    #[arg(long)]
    epochs: Option<usize>,
    /// How often to train, with seeds that follow each other.
    #[arg(long, default_value_t = 3)]
    trials: usize,
    /// What to do.
    #[arg(long, value_enum, default_value = "train")]
    task: Task,
    /// Where to write results; a numbered folder under `runs` when absent.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Where to save the graph and the networks of the first trial.
    #[arg(long)]
    save: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Data {
    /// 1797 handwritten digits, in the program.
    Digits,
    /// 178 wines, in the program.
    Wine,
    /// 569 findings, in the program.
    BreastCancer,
    Cora,
    Citeseer,
    Pubmed,
    OgbnArxiv,
    /// `--features` and `--labels`.
    Own,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum SplitKind {
    Published,
    /// The first labelled nodes of each class, as many as `--per-class` says.
    HalfTrain,
    /// Half of the validation nodes are labelled too.
    HalfValidationAsTrain,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Model {
    /// GCN on nearest neighbours.
    Knn,
    /// GCN on the graph that came with the nodes.
    Given,
    /// No graph.
    Mlp,
    /// GCN trained together with a weight for every pair of nodes.
    GcnAndKnn,
    SlapsFp,
    SlapsMlp,
    SlapsMlpD,
    Grcn,
    Idgl,
    IdglAnchors,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Restore {
    None,
    /// The variant `U`.
    Unlabelled,
    /// The variant `R`.
    All,
    /// The variant `U` as the paper writes it.
    Starved,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum WeightKind {
    Cosine,
    InnerProduct,
    One,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum MetricKind {
    Cosine,
    Euclidean,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Task {
    /// Trains, tells accuracies, and writes probabilities of all nodes.
    Train,
    /// Selects k, tau and the strength by validation.
    Search,
    /// Changes one setting at a time, of the model `knn`.
    Ablation,
    /// Counts starved nodes, of graphs before and after restoration.
    Starvation,
}

/// A line of `results.csv`: accuracies in percent.
#[derive(Serialize)]
struct Line {
    setting: String,
    validation: f64,
    selected: f64,
    selected_std: f64,
    best_test: f64,
    best_test_std: f64,
    last: f64,
    last_std: f64,
    seconds: f64,
}

fn main() {
    // The message alone: users of a program need not see the type of its error.
    if let Err(error) = run(&options::<Options>()) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run(options: &Options) -> Result<()> {
    let device = options.common.device()?;
    let set = node_set(options)?;
    let Split { train, validation, test } = &set.split;
    println!(
        "{} nodes, {} features, {} classes; {} labelled, {} validation, {} test nodes",
        set.nodes(),
        set.features.columns(),
        set.classes,
        train.len(),
        validation.len(),
        test.len()
    );
    if let Some(path) = &options.save
        && path.exists()
    {
        return Err(Error::Exists { path: path.clone() });
    }
    let folder = match &options.output {
        Some(path) => RunFolder::create(path)?,
        None => RunFolder::create_numbered("runs", "latent_graph")?,
    };
    folder.write_json("config.json", options)?;
    let lines = match options.task {
        Task::Train => train_model(options, &set, &device, &folder)?,
        Task::Search => search(options, &set, &device)?,
        Task::Ablation => ablation(options, &set, &device)?,
        Task::Starvation => {
            starvation(options, &set, &device, &folder)?;
            vec![]
        }
    };
    if !lines.is_empty() {
        folder.write_csv("results.csv", &lines)?;
    }
    println!("written: {}", folder.path().display());
    Ok(())
}

fn node_set(options: &Options) -> Result<NodeSet> {
    let root = || {
        options.root.clone().ok_or_else(|| Error::Setting {
            field: "root".to_owned(),
            expected: "the folder of the published set".to_owned(),
            found: "none".to_owned(),
        })
    };
    let published = |name: &str| -> Result<NodeSet> {
        let root = root()?;
        let is_portable = root.extension().is_some_and(|extension| extension == "safetensors");
        let mut set =
            if is_portable { NodeSet::open_safetensors(root)? } else { planetoid::open(root, name)? };
        set.split = match options.split {
            SplitKind::Published => set.split,
            SplitKind::HalfTrain => set.split.first_of_each_class(&set.labels, options.per_class)?,
            SplitKind::HalfValidationAsTrain => set.split.half_validation_as_train(),
        };
        Ok(set)
    };
    // Half of the nodes that are not labelled, and not more than 500, select.
    let split = |features: Features, labels: Vec<i64>| -> Result<NodeSet> {
        if options.per_class == 0 {
            return NodeSet::new(features, labels);
        }
        let known = labels.iter().filter(|&&label| label != UNKNOWN).count();
        let classes = labels.iter().max().map_or(0, |&label| label + 1).clamp(0, known as i64) as usize;
        let validation = (known.saturating_sub(options.per_class * classes) / 2).min(500);
        let split = Split::random(&labels, options.per_class, validation, options.common.seed)?;
        NodeSet::with_split(features, labels, split)
    };
    let embedded = |table: &Table, standardise: bool| {
        let features = Features::from_table(table)?;
        let features = if standardise { features.standardised() } else { features };
        split(features, table.labels().expect("embedded tables are labelled").to_vec())
    };
    match options.data {
        Data::Digits => embedded(&leanburn_datasets::digits(), false),
        Data::Wine => embedded(&leanburn_datasets::wine(), true),
        Data::BreastCancer => embedded(&leanburn_datasets::breast_cancer(), true),
        Data::Cora => published("cora"),
        Data::Citeseer => published("citeseer"),
        Data::Pubmed => published("pubmed"),
        Data::OgbnArxiv => ogb::open(root()?, "time"),
        Data::Own => {
            let missing = |field: &str| Error::Setting {
                field: field.to_owned(),
                expected: "a file, with `--data own`".to_owned(),
                found: "none".to_owned(),
            };
            let features = Features::open(options.features.as_ref().ok_or_else(|| missing("features"))?)?;
            let labels = options.labels.as_ref().ok_or_else(|| missing("labels"))?;
            split(features, read_labels(labels)?)
        }
    }
}

/// Whole numbers, one a node: a column of a table, or a list in an .npy file.
fn read_labels(path: &Path) -> Result<Vec<i64>> {
    let values: Vec<f64> = if path.extension().is_some_and(|extension| extension == "npy") {
        npy::read(path)?.iter::<f64>().collect()
    } else {
        Table::open(path, None)?.values().to_vec()
    };
    match values.iter().position(|value| value.fract() != 0.0) {
        Some(node) => {
            let location = format!("{}, label of node {node}", path.display());
            Err(Error::Data {
                location,
                expected: "a whole number".to_owned(),
                found: values[node].to_string(),
            })
        }
        None => Ok(values.into_iter().map(|value| value as i64).collect()),
    }
}

fn restoration(options: &Options, set: &NodeSet) -> Option<RestorationConfig> {
    let is_plain = matches!(options.model, Model::Given | Model::Mlp | Model::GcnAndKnn);
    let rows = match options.restore.unwrap_or(if is_plain { Restore::None } else { Restore::Unlabelled }) {
        Restore::None => return None,
        Restore::Unlabelled => Rows::Unlabelled,
        Restore::All => Rows::All,
        Restore::Starved => Rows::Starved,
    };
    let weight = match options.weight {
        WeightKind::Cosine => Weight::Cosine,
        WeightKind::InnerProduct => Weight::InnerProduct,
        WeightKind::One => Weight::One,
    };
    let strength = options.alpha.map_or(Strength::Rho(options.rho), Strength::Alpha);
    let tau = options.tau.min(set.split.train.len());
    Some(RestorationConfig::new().with_rows(rows).with_tau(tau).with_weight(weight).with_strength(strength))
}

fn knn(options: &Options) -> KnnConfig {
    let metric = match options.metric {
        MetricKind::Cosine => Metric::Cosine,
        MetricKind::Euclidean => Metric::Euclidean,
    };
    KnnConfig::new().with_k(options.k.unwrap_or(15)).with_metric(metric)
}

fn lgi(options: &Options, set: &NodeSet) -> LgiConfig {
    let source = match options.model {
        Model::Given => Source::Given,
        Model::Mlp => Source::None,
        _ => Source::Knn,
    };
    LgiConfig::new()
        .with_source(source)
        .with_knn(knn(options))
        .with_restoration(restoration(options, set))
        .with_layers(options.layers)
        .with_epochs(options.epochs.unwrap_or(200))
        .with_seed(options.common.seed)
}

fn slaps(options: &Options, set: &NodeSet) -> SlapsConfig {
    let generator = match options.model {
        Model::SlapsFp => GeneratorKind::FullParam,
        Model::SlapsMlpD => GeneratorKind::MlpDiag,
        _ => GeneratorKind::Mlp,
    };
    let more = options.split == SplitKind::HalfValidationAsTrain;
    let mut config = match options.data {
        _ if options.model == Model::GcnAndKnn => SlapsConfig::gcn_and_knn(),
        Data::Citeseer if more && generator == GeneratorKind::Mlp => SlapsConfig::citeseer370(),
        Data::Citeseer => SlapsConfig::citeseer(generator),
        Data::Pubmed => SlapsConfig::pubmed(generator),
        Data::OgbnArxiv if generator == GeneratorKind::Mlp => SlapsConfig::ogbn_arxiv(),
        _ => SlapsConfig::cora(generator),
    };
    if !set.features.is_binary() && options.data != Data::Pubmed {
        config.loss = DenoisingLoss::MeanSquared;
    }
    config.k = options.k.unwrap_or(config.k);
    config.epochs = options.epochs.unwrap_or(config.epochs);
    config.with_restoration(restoration(options, set)).with_seed(options.common.seed)
}

fn grcn(options: &Options, set: &NodeSet) -> GrcnConfig {
    let mut config = match options.data {
        Data::Citeseer => GrcnConfig::citeseer(),
        Data::Pubmed => GrcnConfig::pubmed(),
        _ => GrcnConfig::cora(),
    };
    config.k = config.k.min(set.nodes() / 10).max(1);
    config.sparse |= set.nodes() > 20_000;
    config.epochs = options.epochs.unwrap_or(config.epochs);
    config.with_knn(knn(options)).with_restoration(restoration(options, set)).with_seed(options.common.seed)
}

fn idgl(options: &Options, set: &NodeSet) -> IdglConfig {
    let mut config = match options.data {
        Data::Citeseer => IdglConfig::citeseer(),
        Data::Pubmed => IdglConfig::pubmed(),
        _ => IdglConfig::cora(),
    };
    if options.model == Model::IdglAnchors {
        config.anchors = Some(config.anchors.unwrap_or(300).min(set.nodes()));
    }
    config.k = options.k.unwrap_or(config.k);
    config.epochs = options.epochs.unwrap_or(config.epochs);
    config.with_restoration(restoration(options, set)).with_seed(options.common.seed)
}

/// Trains one trial, and gives its history and the probabilities of all nodes.
fn trial(
    options: &Options,
    set: &NodeSet,
    seed: u64,
    device: &DispatchDevice,
) -> Result<(History, Vec<Vec<f32>>)> {
    let (bar, saved) = (Bar::new(&format!("seed {seed}")), saved(options, seed));
    match options.model {
        Model::Knn | Model::Given | Model::Mlp => {
            let config = lgi(options, set).with_seed(seed);
            let epochs = config.epochs;
            let model = config
                .fit_with::<Dispatch>(set, device, |epoch, history| bar.epoch(epoch, epochs, history))?;
            if let Some(path) = saved {
                model.save(path)?;
            }
            Ok((model.history().clone(), model.probabilities(&set.features)?))
        }
        Model::GcnAndKnn | Model::SlapsFp | Model::SlapsMlp | Model::SlapsMlpD => {
            let config = slaps(options, set).with_seed(seed);
            let epochs = config.epochs;
            learned(&config, set, saved, device, |epoch, history| bar.epoch(epoch, epochs, history))
        }
        Model::Grcn => {
            let config = grcn(options, set).with_seed(seed);
            let epochs = config.epochs;
            learned(&config, set, saved, device, |epoch, history| bar.epoch(epoch, epochs, history))
        }
        Model::Idgl | Model::IdglAnchors => {
            let config = idgl(options, set).with_seed(seed);
            let epochs = config.epochs;
            learned(&config, set, saved, device, |epoch, history| bar.epoch(epoch, epochs, history))
        }
    }
}

/// Trains a model that learns its graph.
fn learned<M: GraphModel>(
    config: &M,
    set: &NodeSet,
    saved: Option<&Path>,
    device: &DispatchDevice,
    progress: impl FnMut(usize, &History),
) -> Result<(History, Vec<Vec<f32>>)> {
    let model = config.fit_with::<Dispatch>(set, device, progress)?;
    if let Some(path) = saved {
        model.save(path)?;
    }
    Ok((model.history().clone(), model.probabilities(&set.features)?))
}

/// Where the model of a seed is saved: the first trial's alone.
fn saved(options: &Options, seed: u64) -> Option<&Path> {
    options.save.as_deref().filter(|_| seed == options.common.seed)
}

fn train_model(
    options: &Options,
    set: &NodeSet,
    device: &DispatchDevice,
    folder: &RunFolder,
) -> Result<Vec<Line>> {
    if options.trials == 0 {
        return Err(Error::Setting {
            field: "trials".to_owned(),
            expected: "at least 1".to_owned(),
            found: "0".to_owned(),
        });
    }
    if matches!(options.model, Model::Knn | Model::Given | Model::Mlp) {
        let Restored { rho, alpha, .. } = lgi(options, set).restored::<Dispatch>(set, device)?;
        println!("restored connections: alpha {alpha:.4}, rho {rho:.3}");
    }
    let start = Instant::now();
    let mut histories = Vec::new();
    for number in 0..options.trials as u64 {
        let (history, probabilities) = trial(options, set, options.common.seed + number, device)?;
        if number == 0 {
            write_predictions(folder, &probabilities)?;
        }
        histories.push(history);
    }
    let seconds = start.elapsed().as_secs_f64() / options.trials as f64;
    folder.write_json("history.json", &histories)?;
    folder.write_plot("history.svg", &curves(&histories[0]))?;
    header();
    let name = options.model.to_possible_value().expect("models have names").get_name().to_owned();
    Ok(vec![line(name, &Trials::new(&histories), seconds)])
}

fn write_predictions(folder: &RunFolder, probabilities: &[Vec<f32>]) -> Result<()> {
    /// A line of `predictions.csv`.
    #[derive(Serialize)]
    struct Prediction {
        node: usize,
        class: usize,
        probability: f32,
    }
    let lines = probabilities.iter().enumerate().map(|(node, row)| {
        let class = (0..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best });
        Prediction { node, class, probability: row[class] }
    });
    folder.write_csv("predictions.csv", lines)
}

fn curves(history: &History) -> Plot {
    let points = |values: &[f64]| -> Vec<(f64, f64)> {
        values.iter().enumerate().map(|(epoch, &value)| (epoch as f64 + 1.0, 100.0 * value)).collect()
    };
    let mut plot = Plot::new("accuracy", "epoch", "%").with("labelled", Style::Line, points(&history.train));
    for (name, values) in [("validation", &history.validation), ("test", &history.test)] {
        if !values.is_empty() {
            plot = plot.with(name, Style::Line, points(values));
        }
    }
    plot
}

fn header() {
    println!("accuracy in percent, mean +- deviation over trials; the first is selected by validation");
    println!(
        "{:<34} {:>10} {:>15} {:>15} {:>15} {:>8}",
        "", "validation", "selected", "best test", "last", "s"
    );
}

fn line(setting: String, trials: &Trials, seconds: f64) -> Line {
    let percent = |(mean, std): (f64, f64)| (100.0 * mean, 100.0 * std);
    let validation = 100.0 * mean_std(&trials.validation).0;
    let (selected, selected_std) = percent(trials.of(|accuracy| accuracy.selected));
    let (best_test, best_test_std) = percent(trials.of(|accuracy| accuracy.best_test));
    let (last, last_std) = percent(trials.of(|accuracy| accuracy.last));
    let shown = if validation.is_nan() { "-".to_owned() } else { format!("{validation:.2}") };
    let of_test = |mean: f64, std: f64| {
        if mean.is_nan() { "-".to_owned() } else { format!("{mean:.2} +- {std:>4.2}") }
    };
    println!(
        "{setting:<34} {shown:>10} {:>15} {:>15} {:>15} {seconds:>8.2}",
        of_test(selected, selected_std),
        of_test(best_test, best_test_std),
        of_test(last, last_std),
    );
    Line { setting, validation, selected, selected_std, best_test, best_test_std, last, last_std, seconds }
}

fn search(options: &Options, set: &NodeSet, device: &DispatchDevice) -> Result<Vec<Line>> {
    match options.model {
        Model::Knn | Model::Given | Model::Mlp => searched(&lgi(options, set), options, set, device),
        Model::GcnAndKnn | Model::SlapsFp | Model::SlapsMlp | Model::SlapsMlpD => {
            searched(&slaps(options, set), options, set, device)
        }
        Model::Grcn => searched(&grcn(options, set), options, set, device),
        Model::Idgl | Model::IdglAnchors => searched(&idgl(options, set), options, set, device),
    }
}

fn searched<E: Experiment>(
    config: &E,
    options: &Options,
    set: &NodeSet,
    device: &DispatchDevice,
) -> Result<Vec<Line>> {
    let labelled = set.split.train.len();
    let k = *config.clone().varied().k;
    let grid = Grid {
        k: [k * 2 / 3, k, k * 4 / 3].into_iter().filter(|k| (2..set.nodes()).contains(k)).collect(),
        tau: [5, 10, 30].into_iter().filter(|&tau| tau <= labelled).collect(),
        strength: match options.alpha {
            Some(_) => [0.01, 0.1, 1.0, 10.0, 100.0].map(Strength::Alpha).to_vec(),
            None => [0.05, 0.25, 1.0, 2.0].map(Strength::Rho).to_vec(),
        },
    };
    header();
    let mut start = Instant::now();
    let mut lines = Vec::new();
    let found = grid.search::<Dispatch, E>(config, set, options.trials, device, |point| {
        let tau = point.tau.map_or(String::new(), |tau| format!(", tau {tau}"));
        let strength = match point.strength {
            Some(Strength::Alpha(alpha)) => format!(", alpha {alpha}"),
            Some(Strength::Rho(rho)) => format!(", rho {rho}"),
            None => String::new(),
        };
        let seconds = start.elapsed().as_secs_f64() / options.trials as f64;
        lines.push(line(format!("k {}{tau}{strength}", point.k), &point.trials, seconds));
        start = Instant::now();
    })?;
    let (_, best) = &found[0];
    println!("best by validation: k {}, tau {:?}, {:?}", best.k, best.tau, best.strength);
    Ok(lines)
}

fn ablation(options: &Options, set: &NodeSet, device: &DispatchDevice) -> Result<Vec<Line>> {
    let base = lgi(options, set);
    let changed = |change: &dyn Fn(&mut RestorationConfig)| {
        let mut config = base.clone();
        if let Some(restoration) = &mut config.restoration {
            change(restoration);
        }
        config
    };
    let mut settings = vec![
        ("as given".to_owned(), base.clone()),
        ("nothing restored".to_owned(), base.clone().plain()),
        ("no graph".to_owned(), base.clone().plain().with_source(Source::None)),
        ("symmetrised neighbours".to_owned(), base.clone().with_source(Source::SymmetrisedKnn)),
        ("Euclidean neighbours".to_owned(), {
            let knn = base.knn.clone().with_metric(Metric::Euclidean);
            base.clone().with_knn(knn)
        }),
        (
            "normalised by row".to_owned(),
            base.clone().with_normalization(leanburn::graph::Normalization::Row),
        ),
    ];
    if set.graph.is_some() {
        settings.push(("the given graph".to_owned(), base.clone().plain().with_source(Source::Given)));
    }
    for k in [5, 10, 20, 30].into_iter().filter(|&k| k < set.nodes()) {
        let knn = base.knn.clone().with_k(k);
        settings.push((format!("{k} neighbours"), base.clone().with_knn(knn)));
    }
    for layers in [3, 4] {
        settings.push((format!("{layers} layers"), base.clone().with_layers(layers)));
    }
    if base.restoration.is_some() {
        for (name, rows) in [("R", Rows::All), ("U", Rows::Unlabelled), ("U, starved rows", Rows::Starved)] {
            settings.push((format!("restored: {name}"), changed(&|r| r.rows = rows)));
        }
        for (name, weight) in
            [("cosine", Weight::Cosine), ("inner product", Weight::InnerProduct), ("one", Weight::One)]
        {
            settings.push((format!("weight: {name}"), changed(&|r| r.weight = weight)));
        }
        for tau in [1, 5, 10].into_iter().filter(|&tau| tau <= set.split.train.len()) {
            settings.push((format!("tau {tau}"), changed(&|r| r.tau = tau)));
        }
        for rho in [0.05, 0.25, 1.0, 2.0, 4.0] {
            settings.push((format!("rho {rho}"), changed(&|r| r.strength = Strength::Rho(rho))));
        }
        for hops in [2, 3] {
            let change = |r: &mut RestorationConfig| (r.rows, r.hops) = (Rows::Starved, hops);
            settings.push((format!("restored: starved for {hops} hops"), changed(&change)));
        }
        if set.nodes() <= 5000 {
            settings.push(("C U R in place of U".to_owned(), changed(&|r| r.block = Block::Cur)));
        }
    }
    let count = |class| set.split.train.iter().filter(|&&node| set.labels[node] == class).count();
    let most = (0..set.classes as i64).map(count).max().unwrap_or(0);
    let fewer = [1, 2, 5, 10].into_iter().filter(|&count| count < most).map(|count| {
        let split = set.split.first_of_each_class(&set.labels, count)?;
        Ok((format!("labels: {count} of each class"), split))
    });
    let mut splits = fewer.collect::<Result<Vec<_>>>()?;
    if set.split.validation.len() > 1 {
        let name = "labels: half of validation too".to_owned();
        splits.push((name, set.split.half_validation_as_train()));
    }
    let as_given = settings.into_iter().map(|(name, config)| (name, config, set.split.clone()));
    let of_splits = splits.into_iter().map(|(name, split)| {
        let mut config = base.clone();
        if let Some(restoration) = &mut config.restoration {
            restoration.tau = restoration.tau.min(split.train.len());
        }
        (name, config, split)
    });
    header();
    let mut lines = Vec::new();
    for (name, config, split) in as_given.chain(of_splits) {
        let set = NodeSet { split, ..set.clone() };
        let start = Instant::now();
        let trials = config.trials::<Dispatch>(&set, options.trials, device, |_, _, _| ())?;
        lines.push(line(name, &trials, start.elapsed().as_secs_f64() / options.trials as f64));
    }
    Ok(lines)
}

fn starvation(options: &Options, set: &NodeSet, device: &DispatchDevice, folder: &RunFolder) -> Result<()> {
    const HOPS: usize = 4;
    /// A line of `starvation.csv`.
    #[derive(Serialize)]
    struct Count {
        graph: String,
        hops: usize,
        starved: usize,
    }
    let labelled: Vec<bool> = {
        let mut labelled = vec![false; set.nodes()];
        set.split.train.iter().for_each(|&node| labelled[node] = true);
        labelled
    };
    let config = lgi(options, set);
    let neighbours = config.base_graph::<Dispatch>(set, device)?;
    let restored = config.restored::<Dispatch>(set, device)?.graph;
    let mut graphs = vec![
        ("neighbours".to_owned(), Starvation::new(&neighbours, &labelled, HOPS)),
        ("restored".to_owned(), Starvation::new(&restored, &labelled, HOPS)),
    ];
    if let Some(given) = &set.graph {
        let looped = given.with_self_loops();
        graphs.push(("given".to_owned(), Starvation::new(&looped, &labelled, HOPS)));
        // Its cost grows with the nodes within four hops, which are nearly all.
        if set.nodes() <= 30_000 {
            let official = Starvation::official_rule(&looped, &labelled, HOPS);
            graphs.push(("given, official rule".to_owned(), official));
        }
    }
    println!("starved nodes of {} without a label", set.nodes() - set.split.train.len());
    println!("{:<24} {:>8} {:>8} {:>8} {:>8}", "graph", "1 hop", "2 hops", "3 hops", "4 hops");
    let mut plot = Plot::new("starved nodes", "hops", "nodes");
    let mut lines = Vec::new();
    for (graph, starvation) in graphs {
        let counts = starvation.counts();
        println!("{graph:<24} {:>8} {:>8} {:>8} {:>8}", counts[0], counts[1], counts[2], counts[3]);
        let points = counts.iter().enumerate().map(|(hop, &count)| (hop as f64 + 1.0, count as f64));
        plot = plot.with(&graph, Style::Line, points);
        let of_graph = counts.iter().enumerate();
        lines.extend(of_graph.map(|(hop, &starved)| Count { graph: graph.clone(), hops: hop + 1, starved }));
    }
    folder.write_csv("starvation.csv", lines)?;
    folder.write_plot("starvation.svg", &plot)
}
