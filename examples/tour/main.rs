//! One row for every method of leanburn, on data that is part of the program: a first look at what it does and a check
//! that it works on this machine. Writes `report.json`, `results.csv` and plots.

use std::{path::PathBuf, sync::Arc, time::Instant};

use clap::Parser;
use leanburn::{
    anomaly::baselines::{Baseline, IsolationForestConfig},
    burn::module::AutodiffModule,
    core::{
        random::Generator,
        report::{Plot, RunFolder, Style},
        train::{EpochReport, TrainingConfig},
    },
    graph::lgi::{Rows, Strength},
    language::{
        llama::{Llama, LlamaConfig},
        mft::{MaskedLlama, ScoreInitial, Subnet},
    },
    prelude::*,
    pruning::{
        Ratios,
        pipeline::{ImageSets, Method, Pipeline, Recipe},
        reinit::Activation,
    },
    video::{
        Branches, VideoArchitecture,
        evaluate::{EvaluationConfig, evaluate},
        ffn::{self, Alignment, Experiment},
        resnet::FrameResNetConfig,
        sampling::Sampling,
        schedule::EpochSchedule,
        train::tsn_groups,
        transform::{ClipPreprocessing, Crop},
        videos::VideoSource,
    },
    vision::{sequential::SequentialConfig, transform::Sample},
};
use leanburn_datasets::MovingDigits;
use leanburn_examples::{AffineTask, Bar, Common, moving_digits, options};
use serde::Serialize;

/// Runs every method once on embedded data.
#[derive(Parser)]
struct Options {
    /// Where to write the report; a numbered folder under `runs` when absent.
    #[arg(long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// A row of the tour's table.
#[derive(Serialize)]
struct Row {
    method: &'static str,
    data: &'static str,
    metric: &'static str,
    value: f64,
    seconds: f64,
}

/// What `report.json` holds.
#[derive(Serialize)]
struct Report {
    device: String,
    seed: u64,
    seconds: f64,
    rows: Vec<Row>,
}

fn main() -> Result<()> {
    let options: Options = options();
    let device = options.common.device()?;
    let folder = match &options.output {
        Some(path) => RunFolder::create(path)?,
        None => RunFolder::create_numbered("runs", "tour")?,
    };
    folder.write_json("config.json", &options.common)?;
    println!("{:<18} {:<28} {:<10} {:>8} {:>9}", "method", "data", "metric", "value", "time");
    let start = Instant::now();
    let mut rows = anomaly_detection(&options.common, &device, &folder)?;
    rows.extend(latent_graph(&options.common, &device, &folder)?);
    rows.extend(pruning(&options.common, &device, &folder)?);
    rows.extend(frame_flexible(&options.common, &device, &folder)?);
    rows.extend(mask_fine_tuning(&options.common, &device, &folder)?);
    let seconds = start.elapsed().as_secs_f64();
    folder.write_csv("results.csv", &rows)?;
    let report = Report { device: options.common.device, seed: options.common.seed, seconds, rows };
    folder.write_json("report.json", &report)?;
    println!("{seconds:.1} s in all; written: {}", folder.path().display());
    Ok(())
}

/// SLA2P, SLA and isolation forest, each without labels, on a real table and on the synthetic angular set.
fn anomaly_detection(common: &Common, device: &DispatchDevice, folder: &RunFolder) -> Result<Vec<Row>> {
    // Malignant findings among benign ones, one in ten.
    let cancer = leanburn_datasets::anomaly_set(&leanburn_datasets::breast_cancer(), 0, 39)?;
    let angular = leanburn_datasets::angular(7);
    let config =
        Sla2pConfig::new().with_projections(64).with_width(64).with_epsilon(10.0).with_seed(common.seed);
    let standardised = config
        .clone()
        .with_preprocessing(PreprocessingConfig::new().with_standardise(true).with_bias_column(true));
    let mut rows = Vec::new();
    for (data, file, table, config) in [
        ("breast cancer, 39 of 396 bad", "breast-cancer", &cancer, &standardised),
        ("angular, 40 of 440 bad", "angular", &angular, &config),
    ] {
        let labels = table.labels().expect("both tables are labelled");
        let mut add = |method: &'static str, scores: &Scores, start: Instant| -> Result<()> {
            let value = scores.evaluate(labels)?.auroc;
            rows.push(Row { method, data, metric: "AUROC", value, seconds: start.elapsed().as_secs_f64() });
            let row = &rows[rows.len() - 1];
            println!("{:<18} {data:<28} {:<10} {value:>8.3} {:>7.2} s", row.method, row.metric, row.seconds);
            Ok(())
        };

        let start = Instant::now();
        let scores = {
            let bar = Bar::new("SLA2P");
            let detector = config.fit_with::<Dispatch>(table, device, |progress| bar.show(progress))?;
            detector.score_with(table, |progress| bar.show(progress))?
        };
        add("SLA2P", &scores, start)?;
        folder.write_plot(&format!("sla2p-{file}.svg"), &plot(data, &scores, labels))?;

        let start = Instant::now();
        let sla = {
            let bar = Bar::new("SLA");
            let detector =
                config.clone().sla().fit_with::<Dispatch>(table, device, |progress| bar.show(progress))?;
            detector.score_with(table, |progress| bar.show(progress))?
        };
        add("SLA", &sla, start)?;

        let start = Instant::now();
        let forest = IsolationForestConfig::default().fit(table, common.seed)?.score(table)?;
        add("isolation forest", &forest, start)?;
    }
    Ok(rows)
}

/// LGI-LS on the digits with two labels of each class: nearest neighbours alone, and with restored connections. Accuracies
/// are those of the test nodes at the epoch that the validation nodes select, over three splits.
fn latent_graph(common: &Common, device: &DispatchDevice, folder: &RunFolder) -> Result<Vec<Row>> {
    const EPOCHS: usize = 100;
    let table = leanburn_datasets::digits();
    let labels = table.labels().expect("the digits are labelled").to_vec();
    let features = Features::from_table(&table)?;
    let restoration = RestorationConfig::new().with_tau(5).with_strength(Strength::Rho(0.1));
    let plain = LgiConfig::new().with_epochs(EPOCHS);
    let mut rows = Vec::new();
    let mut plot = Plot::new("digits, 20 labels", "epoch", "test accuracy, %");
    for (method, config) in [
        ("GCN on neighbours", plain.clone()),
        ("LGI-LS, U", plain.clone().with_restoration(Some(restoration.clone()))),
        ("LGI-LS, R", plain.with_restoration(Some(restoration.with_rows(Rows::All)))),
    ] {
        let start = Instant::now();
        let mut value = 0.0;
        for seed in common.seed..common.seed + 3 {
            let split = Split::random(&labels, 2, 300, seed)?;
            let set = NodeSet::with_split(features.clone(), labels.clone(), split)?;
            let bar = Bar::new(method);
            let config = config.clone().with_seed(seed);
            let model = config
                .fit_with::<Dispatch>(&set, device, |epoch, history| bar.epoch(epoch, EPOCHS, history))?;
            value += model.history().accuracy().map_or(0.0, |accuracy| accuracy.selected) / 3.0;
            if seed == common.seed {
                let points = model.history().test.iter().enumerate();
                let points = points.map(|(epoch, accuracy)| (epoch as f64 + 1.0, 100.0 * accuracy));
                plot = plot.with(method, Style::Line, points);
            }
        }
        let (data, metric) = ("digits, 20 labels of 1797", "accuracy");
        let seconds = start.elapsed().as_secs_f64();
        println!("{method:<18} {data:<28} {metric:<10} {value:>8.3} {seconds:>7.2} s");
        rows.push(Row { method, data, metric, value, seconds });
    }
    folder.write_plot("lgi-digits.svg", &plot)?;
    Ok(rows)
}

/// A LeNet-5 on the digits, and what is left of it without four in five filters of each layer: right after pruning, after
/// some training, and the same with the isometry of its weights recovered first.
fn pruning(common: &Common, device: &DispatchDevice, folder: &RunFolder) -> Result<Vec<Row>> {
    const DATA: &str = "digits, LeNet-5, 1/14 MACs";
    let sample = |(values, label)| (Sample { shape: [1, 32, 32], values }, label);
    let samples = leanburn_datasets::digit_images().into_iter().map(sample).collect();
    let recipe = |epochs, rates: &str| -> Result<Recipe> {
        Ok(Recipe::new(epochs, rates.parse()?).with_batch_size(64).with_weight_decay(1e-4))
    };
    let pipeline = Pipeline {
        name: "LeNet-5".to_owned(),
        architecture: SequentialConfig::lenet5(1, 10),
        data: ImageSets::held_out("digits", samples, 360, common.seed)?,
        ratios: Ratios::Uniform(0.8),
        base: recipe(8, "0:0.01,6:0.001")?,
        retraining: recipe(8, "0:0.01,6:0.001")?,
        jsv_images: 0,
        jsv_every: 0,
        latency_batch: 0,
        dashboard: false,
        checkpoints: None,
    };
    let mut rows = Vec::new();
    let mut add = |method, data, percent: Option<f64>, start: Instant| {
        let (metric, value) = ("accuracy", percent.map_or(f64::NAN, |percent| percent / 100.0));
        let seconds = start.elapsed().as_secs_f64();
        println!("{method:<18} {data:<28} {metric:<10} {value:>8.3} {seconds:>7.2} s");
        rows.push(Row { method, data, metric, value, seconds });
    };
    let start = Instant::now();
    let bar = Bar::new("dense");
    let base = pipeline.train_base::<Dispatch>(common.seed, &[], device, move |epoch, accuracy| {
        bar.accuracy(epoch, 8, accuracy);
    })?;
    add("dense", "digits, LeNet-5", base.record.accuracy, start);
    let mut plot = Plot::new("digits, LeNet-5 of 1/14 MACs", "epoch of retraining", "test accuracy, %");
    for (name, method) in [("L1", Method::l1()), ("L1 + OrthP", Method::orth_p(Activation::Relu))] {
        let start = Instant::now();
        let bar = Bar::new(name);
        let show = move |epoch, accuracy| bar.accuracy(epoch, 8, accuracy);
        let record = pipeline.run::<Dispatch>(&base, &method, common.seed, device, show)?.record;
        if name == "L1" {
            add("L1, not retrained", DATA, record.accuracy.after_pruning, start);
        }
        add(if name == "L1" { "L1, retrained" } else { "L1 + OrthP" }, DATA, record.accuracy.last, start);
        let points = record.accuracy.by_epoch.iter().enumerate();
        plot = plot.with(name, Style::Line, points.map(|(epoch, value)| (epoch as f64 + 1.0, *value)));
    }
    folder.write_plot("pruning-digits.svg", &plot)?;
    Ok(rows)
}

/// A narrow TSM-ResNet on moving digits, trained at eight frames alone and as a frame flexible network, and evaluated at
/// fewer frames as well.
fn frame_flexible(common: &Common, device: &DispatchDevice, folder: &RunFolder) -> Result<Vec<Row>> {
    const EPOCHS: usize = 6;
    let counts = [2, 8];
    let videos = |count, seed, digits| {
        moving_digits(&MovingDigits::new(count, seed).with_directions(4).with_digits(digits)).map(Arc::new)
    };
    let seed = 2 * common.seed;
    let (train, valid) = (videos(160, seed, 0..1200)?, videos(160, seed + 1, 1200..1797)?);
    let classes = train.classes().len();
    let crop = Crop::Center { scale: 32, side: 32 };
    let whole_frames = ClipPreprocessing { crop, ..ClipPreprocessing::tsn_valid(32) };
    let network = FrameResNetConfig::tsm(18, classes, Branches::single(8))?;
    let experiment = Experiment {
        architecture: FrameResNetConfig { blocks: vec![1, 1], ..network.with_width(24).with_dropout(0.2) },
        counts: counts.to_vec(),
        train,
        valid: valid.clone(),
        sampling: Sampling::Segments,
        preprocessing: [whole_frames.clone(), whole_frames.clone()],
        schedule: EpochSchedule { every_step: true, ..EpochSchedule::cosine(0.02, EPOCHS) },
        batch_size: 8,
        copies: 1,
        alignment: Alignment::new(),
        mixing: None,
        training: TrainingConfig::new(EPOCHS),
        seed: common.seed,
        start: None,
        partial_norms: false,
    };
    let evaluation = EvaluationConfig::new(counts.to_vec(), whole_frames);
    let mut rows = Vec::new();
    let mut plot = Plot::new("moving digits, narrow TSM", "GMACs of a clip", "accuracy, %");
    for (method, trained) in
        [("TSM of 8 frames", ffn::Method::Single(8)), ("FFN", ffn::Method::Ffn(Branches::ffn(&counts)))]
    {
        let start = Instant::now();
        let bar = Bar::new(method);
        let show = move |report: &EpochReport| {
            let mut valid = report.measured.iter().filter(|measured| measured.split == "valid");
            let found = valid.find(|measured| measured.metric == "Accuracy at 8 frames");
            let value = found.map_or(f64::NAN, |measured| measured.value);
            bar.accuracy(report.epoch, EPOCHS, value);
        };
        let sgd = tsn_groups(0.9, 5e-4, true, false);
        let outcome = experiment.run::<Dispatch, _>(&trained, sgd, None, device, |_| {}, show)?;
        let plain = leanburn::device::parse(&common.device)?;
        let all = evaluate::<Dispatch, _>(&outcome.network.valid(), valid.as_ref(), &evaluation, &plain)?;
        let seconds = start.elapsed().as_secs_f64();
        let mut points = Vec::new();
        for (scores, data) in all.iter().zip(["moving digits, 2 frames", "moving digits, 8 frames"]) {
            let (metric, value) = ("accuracy", scores.accuracy(1)? / 100.0);
            println!("{method:<18} {data:<28} {metric:<10} {value:>8.3} {seconds:>7.2} s");
            rows.push(Row { method, data, metric, value, seconds });
            let macs = outcome.architecture.cost(scores.frames, [32; 2]).macs as f64;
            points.push((macs / 1e9, 100.0 * value));
        }
        plot = plot.with(method, Style::Line, points);
    }
    folder.write_plot("ffn-digits.svg", &plot)?;
    Ok(rows)
}

/// A small LLaMA that is tuned in full on a task with noise until it gets no better, and then by masks, beside a random mask.
fn mask_fine_tuning(common: &Common, device: &DispatchDevice, folder: &RunFolder) -> Result<Vec<Row>> {
    const DATA: &str = "affine tokens, 10 % wrong";
    let mut generator = Generator::new(common.seed);
    let config = LlamaConfig::new(512, 64, 172, 4, 8).with_initializer_range(0.1);
    let task = AffineTask::new(device.clone());
    let mut rows = Vec::new();
    let mut add = |method: &'static str, losses: [f64; 2], start: Instant| {
        let (metric, value, seconds) = ("loss", losses[1], start.elapsed().as_secs_f64());
        println!("{method:<18} {DATA:<28} {metric:<10} {value:>8.3} {seconds:>7.2} s");
        rows.push(Row { method, data: DATA, metric, value, seconds });
    };
    let start = Instant::now();
    let mut best: Option<(f64, Llama<Dispatch>)> = None;
    let mut curve = Vec::new();
    task.train(
        config.init::<Dispatch>(&mut generator, device)?,
        200,
        |_| 1e-3,
        |step, network| {
            if step.is_multiple_of(20) {
                let [_, loss] = task.losses(network)?;
                curve.push((step as f64, loss));
                if best.as_ref().is_none_or(|(before, _)| loss < *before) {
                    best = Some((loss, network.clone()));
                }
            }
            Ok(())
        },
    )?;
    let (_, tuned) = best.expect("it was evaluated");
    add("fine-tuned in full", task.losses(&tuned)?, start);
    let start = Instant::now();
    let masked = MaskedLlama::new(tuned, Subnet::new([2, 3]), ScoreInitial::Normal(0.02), &mut generator)?;
    add("a random mask", task.losses(&masked)?, start);
    let mut masks = Vec::new();
    let falling = |step: usize| 1e-3 * (1.0 - step as f64 / 100.0);
    let masked = task.train(masked, 100, falling, |step, network| {
        if step.is_multiple_of(20) {
            masks.push((step as f64, task.losses(network)?[1]));
        }
        Ok(())
    })?;
    add("MFT", task.losses(&masked)?, start);
    let plot = Plot::new(DATA, "steps", "held-out loss").with("in full", Style::Line, curve).with(
        "masks, from its best point",
        Style::Line,
        masks,
    );
    folder.write_plot("mft-affine.svg", &plot)?;
    Ok(rows)
}

/// The rows' scores, from the most normal to the most anomalous.
fn plot(data: &str, scores: &Scores, labels: &[i64]) -> Plot {
    let ranked: Vec<(f64, f64, i64)> = scores
        .rank()
        .into_iter()
        .rev()
        .enumerate()
        .map(|(place, row)| (place as f64, -scores.normality()[row], labels[row]))
        .collect();
    let of = |label: i64| {
        ranked.iter().filter(move |point| point.2 == label).map(|&(place, score, _)| (place, score))
    };
    Plot::new(format!("SLA2P: {data}"), "rows, by score", "anomaly score")
        .with("normal", Style::Points, of(0))
        .with("anomalous", Style::Points, of(1))
}
