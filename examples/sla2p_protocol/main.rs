//! The published protocol of SLA2P on Arrhythmia, Thyroid and the synthetic angular set: the official order-dependent
//! perturbation, the same on shuffled rows, the clean per-sample one, SLA and the baselines, side by side.
//!
//! `LEANBURN_DATA` (or `--data`) names the folder that holds `anomaly/arrhythmia.mat` and `anomaly/thyroid.mat`; see
//! the catalogue of `leanburn-datasets` for where they come from.

use std::{path::PathBuf, time::Instant};

use clap::{Parser, ValueEnum};
use leanburn::{
    anomaly::{
        baselines::{
            Baseline, DistanceToMean, GoadConfig, IsolationForestConfig, LofConfig, OneClassSvmConfig,
            PcaConfig,
        },
        sla2p::{Progress, ScoreKind, Step},
    },
    core::{metrics::mean_std, random::Generator, report::RunFolder},
    prelude::*,
};
use leanburn_examples::{Bar, Common};
use serde::Serialize;

/// Reproduces the measured results of SLA2P.
#[derive(Parser)]
struct Options {
    /// The data set.
    #[arg(value_enum)]
    set: Set,
    /// The folder of data sets.
    #[arg(long, env = "LEANBURN_DATA", default_value = "data")]
    data: PathBuf,
    /// Number of seeds.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Number of projections K; the set's published number when absent.
    #[arg(long)]
    projections: Option<usize>,
    /// Width D of a projected row; the set's published width when absent.
    #[arg(long)]
    width: Option<usize>,
    /// Rows as they come, instead of those of unit length, for the baselines.
    #[arg(long)]
    raw_baselines: bool,
    /// Where to write `results.csv`; a numbered folder under `runs` when absent.
    #[arg(long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, ValueEnum)]
enum Set {
    Arrhythmia,
    Thyroid,
    Angular,
}

/// A method's results over the seeds, in percent.
#[derive(Serialize)]
struct Row {
    method: String,
    auroc: f64,
    auroc_std: f64,
    aupr_out: f64,
    aupr_out_std: f64,
    aupr_in: f64,
    f1: f64,
    seconds: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let device = options.common.device()?;
    let (table, config) = match options.set {
        Set::Arrhythmia => {
            (Table::open(options.data.join("anomaly/arrhythmia.mat"), None)?, Sla2pConfig::arrhythmia())
        }
        Set::Thyroid => {
            (Table::open(options.data.join("anomaly/thyroid.mat"), None)?, Sla2pConfig::thyroid())
        }
        Set::Angular => (
            leanburn_datasets::angular(7),
            Sla2pConfig::new().with_projections(32).with_width(32).with_epsilon(10.0),
        ),
    };
    let config = config
        .clone()
        .with_projections(options.projections.unwrap_or(config.projections))
        .with_width(options.width.unwrap_or(config.width));
    let labels = labels(&table);
    let sorted = normals_first(&labels);
    let mut results: Vec<(String, Vec<Evaluation>, f64)> = Vec::new();
    let mut add = |method: &str, evaluation: Evaluation, seconds: f64| match results
        .iter_mut()
        .find(|(name, ..)| name == method)
    {
        Some((_, evaluations, total)) => {
            evaluations.push(evaluation);
            *total += seconds;
        }
        None => results.push((method.to_owned(), vec![evaluation], seconds)),
    };

    for seed in options.common.seed..options.common.seed + options.seeds {
        let config = config.clone().with_seed(seed);
        let bar = Bar::new(&format!("seed {seed}"));
        let show = |progress: Progress| bar.show(progress);
        let start = Instant::now();
        let mut detector = config.fit_with::<Dispatch>(&table, &device, show)?;
        let fitted = start.elapsed().as_secs_f64();
        let steps = detector.report().steps;

        let mut scored = |name: &str, detector: &Sla2p<Dispatch>, order: Option<&[usize]>| -> Result<()> {
            let start = Instant::now();
            let (scores, labels) = match order {
                None => (detector.score_with(&table, show)?, labels.clone()),
                Some(order) => (
                    detector.score_with(&table.select_rows(order), show)?,
                    order.iter().map(|&row| labels[row]).collect(),
                ),
            };
            add(name, scores.evaluate(&labels)?, fitted + start.elapsed().as_secs_f64());
            Ok(())
        };
        scored("SLA2P per sample", &detector, None)?;
        detector = detector.with_step(Step::OfficialBatchMean, config.epsilon);
        scored("SLA2P official step, normal rows first", &detector, Some(&sorted))?;
        let shuffled = Generator::new(seed).permutation(table.rows());
        scored("SLA2P official step, shuffled rows", &detector, Some(&shuffled))?;
        detector = detector.with_step(Step::None, config.epsilon);
        scored("no perturbation, same network", &detector, None)?;
        detector = detector.with_score(ScoreKind::PseudoLabel);
        scored("no perturbation, pseudo-label score", &detector, None)?;

        let start = Instant::now();
        let sla = config.sla().fit_with::<Dispatch>(&table, &device, show)?;
        let scores = sla.score_with(&table, show)?;
        add("SLA, threshold 0.8", scores.evaluate(&labels)?, start.elapsed().as_secs_f64());
        bar.show(Progress::Training { step: steps, accuracy: detector.report().accuracy });
        eprintln!(
            "seed {seed}: {steps} steps to {:.3}, SLA {}",
            detector.report().accuracy,
            sla.report().steps
        );
    }

    let unit = PreprocessingConfig::new().fit(&table).table(&table)?;
    let rows = if options.raw_baselines { &table } else { &unit };
    let components = if table.columns() > 10 { 10 } else { 3 };
    let mut baseline = |name: &str, fit: &dyn Fn() -> Result<Scores>| -> Result<()> {
        let start = Instant::now();
        let scores = fit()?;
        add(name, scores.evaluate(&labels)?, start.elapsed().as_secs_f64());
        Ok(())
    };
    for seed in options.common.seed..options.common.seed + options.seeds {
        baseline("isolation forest", &|| IsolationForestConfig::default().fit(rows, seed)?.score(rows))?;
    }
    baseline("LOF, 20 neighbours", &|| LofConfig::default().fit(rows)?.score(rows))?;
    baseline("one-class SVM, nu 0.5", &|| OneClassSvmConfig::default().fit(rows)?.score(rows))?;
    baseline("PCA residual", &|| PcaConfig { components }.fit(rows)?.score(rows))?;
    baseline("distance to the mean", &|| DistanceToMean::fit(rows)?.score(rows))?;
    for seed in options.common.seed..options.common.seed + options.seeds {
        baseline("GOAD, fitted on all rows", &|| {
            GoadConfig::arrhythmia().with_seed(seed).fit::<Dispatch>(&table, &device)?.score(&table)
        })?;
    }

    let rows: Vec<Row> = results.into_iter().map(|(method, e, seconds)| row(method, &e, seconds)).collect();
    println!("{:<40} {:>14} {:>14} {:>8} {:>7} {:>8}", "method", "AUROC", "AUPR-out", "AUPR-in", "F1", "s");
    for row in &rows {
        println!(
            "{:<40} {:>6.2} +- {:>4.2} {:>6.2} +- {:>4.2} {:>8.2} {:>7.2} {:>8.2}",
            row.method,
            row.auroc,
            row.auroc_std,
            row.aupr_out,
            row.aupr_out_std,
            row.aupr_in,
            row.f1,
            row.seconds
        );
    }
    let folder = match options.output {
        Some(path) => RunFolder::create(path)?,
        None => RunFolder::create_numbered("runs", "sla2p_protocol")?,
    };
    folder.write_json("config.json", &config)?;
    folder.write_csv("results.csv", &rows)?;
    println!("written: {}", folder.path().display());
    Ok(())
}

fn labels(table: &Table) -> Vec<i64> {
    table.labels().expect("the sets of this protocol are labelled").to_vec()
}

/// The rows with label 0, then those with label 1: the order of the published code.
fn normals_first(labels: &[i64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by_key(|&row| labels[row]);
    order
}

fn row(method: String, evaluations: &[Evaluation], seconds: f64) -> Row {
    let percent = |value: fn(&Evaluation) -> f64| {
        mean_std(&evaluations.iter().map(|e| 100.0 * value(e)).collect::<Vec<_>>())
    };
    let (auroc, auroc_std) = percent(|e| e.auroc);
    let (aupr_out, aupr_out_std) = percent(|e| e.aupr_out);
    Row {
        method,
        auroc,
        auroc_std,
        aupr_out,
        aupr_out_std,
        aupr_in: percent(|e| e.aupr_in).0,
        f1: percent(|e| e.f1).0,
        seconds: seconds / evaluations.len() as f64,
    }
}
