//! The published protocol of SLA2P on Arrhythmia, Thyroid and the synthetic angular set: the official order-dependent
//! perturbation, the same on shuffled rows, the clean per-sample one, SLA and the baselines, side by side.
//!
//! `LEANBURN_DATA` (or `--data`) names the folder that holds `anomaly/arrhythmia.mat` and `anomaly/thyroid.mat`; see
//! the catalogue of `leanburn-datasets` for where they come from.

use std::{ops::Range, path::PathBuf, time::Instant};

use clap::{Parser, ValueEnum};
use leanburn::{
    anomaly::{
        baselines::{
            Baseline, DistanceToMean, GoadConfig, IsolationForestConfig, LofConfig, MAX_SVM_ROWS,
            OneClassSvmConfig, PcaConfig,
        },
        sla2p::{Progress, ScoreKind, Step},
    },
    core::{metrics::mean_std, random::Generator, report::RunFolder},
    prelude::*,
};
use leanburn_examples::{Bar, Common, options};
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
    Kddcup99,
    /// The embedded digits: zeros are normal, one other digit for every ten of them.
    Digits,
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
    let options: Options = options();
    let device = options.common.device()?;
    let (table, config) = match options.set {
        Set::Arrhythmia => {
            (Table::open(options.data.join("anomaly/arrhythmia.mat"), None)?, Sla2pConfig::arrhythmia())
        }
        Set::Thyroid => {
            (Table::open(options.data.join("anomaly/thyroid.mat"), None)?, Sla2pConfig::thyroid())
        }
        Set::Kddcup99 => (leanburn_datasets::kddcup99(&options.data)?, Sla2pConfig::kddcup99()),
        Set::Digits => {
            let table = leanburn_datasets::contaminated_set(&leanburn_datasets::digits(), 0, 0.1, 0)?;
            (table, Sla2pConfig::new().with_projections(64).with_width(64).with_epsilon(10.0))
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
    let mut results = Results::default();
    let seeds = options.common.seed..options.common.seed + options.seeds;
    for seed in seeds.clone() {
        sla2p(&config.clone().with_seed(seed), &table, &device, &mut results)?;
    }
    baselines(&options, seeds, &table, &device, &mut results)?;

    let rows = results.rows();
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

/// SLA2P with every step on one trained network, and SLA with its own.
fn sla2p(config: &Sla2pConfig, table: &Table, device: &DispatchDevice, results: &mut Results) -> Result<()> {
    let labels = labels(table);
    let mut normals_first: Vec<usize> = (0..table.rows()).collect();
    normals_first.sort_by_key(|&row| labels[row]);
    let shuffled = Generator::new(config.seed).permutation(table.rows());

    let bar = Bar::new(&format!("seed {}", config.seed));
    let show = |progress: Progress| bar.show(progress);
    let start = Instant::now();
    let detector = config.fit_with::<Dispatch>(table, device, show)?;
    let fitted = start.elapsed().as_secs_f64();
    let (steps, accuracy) = (detector.report().steps, detector.report().accuracy);

    let mut score = |method: &str, detector: &Sla2p<Dispatch>, table: &Table, fitted: f64| -> Result<()> {
        let start = Instant::now();
        let scores = detector.score_with(table, show)?;
        results.add(method, &scores, table, fitted + start.elapsed().as_secs_f64())
    };
    score("SLA2P per sample", &detector, table, fitted)?;
    let official = detector.with_step(Step::OfficialBatchMean, config.epsilon)?;
    let sorted = table.select_rows(&normals_first);
    score("SLA2P official step, normal rows first", &official, &sorted, fitted)?;
    score("SLA2P official step, shuffled rows", &official, &table.select_rows(&shuffled), fitted)?;
    let clean = official.with_step(Step::None, config.epsilon)?;
    score("no perturbation, same network", &clean, table, fitted)?;
    let clean = clean.with_score(ScoreKind::PseudoLabel);
    score("no perturbation, pseudo-label score", &clean, table, fitted)?;

    let start = Instant::now();
    let sla = config.clone().sla().fit_with::<Dispatch>(table, device, show)?;
    score("SLA, threshold 0.8", &sla, table, start.elapsed().as_secs_f64())?;
    drop(bar);
    eprintln!("seed {}: {steps} steps to {accuracy:.3}; SLA {}", config.seed, sla.report().steps);
    Ok(())
}

fn baselines(
    options: &Options,
    seeds: Range<u64>,
    table: &Table,
    device: &DispatchDevice,
    results: &mut Results,
) -> Result<()> {
    let unit = PreprocessingConfig::new().fit(table).table(table)?;
    let rows = if options.raw_baselines { table } else { &unit };
    let components = if table.columns() > 10 { 10 } else { 3 };
    let mut add = |method: &str, fit: &dyn Fn() -> Result<Scores>| -> Result<()> {
        let start = Instant::now();
        let scores = fit()?;
        results.add(method, &scores, table, start.elapsed().as_secs_f64())
    };
    for seed in seeds.clone() {
        add("isolation forest", &|| IsolationForestConfig::default().fit(rows, seed)?.score(rows))?;
    }
    if rows.rows() <= MAX_SVM_ROWS {
        add("LOF, 20 neighbours", &|| LofConfig::default().fit(rows)?.score(rows))?;
        add("one-class SVM, nu 0.5", &|| OneClassSvmConfig::default().fit(rows)?.score(rows))?;
    } else {
        eprintln!("LOF and one-class SVM are left out: their time grows with the square of the rows");
    }
    add("PCA residual", &|| PcaConfig { components }.fit(rows)?.score(rows))?;
    add("distance to the mean", &|| DistanceToMean::fit(rows)?.score(rows))?;
    let goad = match options.set {
        Set::Kddcup99 => GoadConfig::kddcup99(),
        _ => GoadConfig::arrhythmia(),
    };
    for seed in seeds {
        // It standardises by itself.
        add("GOAD, fitted on all rows", &|| {
            goad.clone().with_seed(seed).fit::<Dispatch>(table, device)?.score(table)
        })?;
    }
    Ok(())
}

fn labels(table: &Table) -> &[i64] {
    table.labels().expect("the sets of this protocol are labelled")
}

/// The evaluations of each method and the seconds of all of them, in the order in which methods first came.
#[derive(Default)]
struct Results(Vec<(String, Vec<Evaluation>, f64)>);

impl Results {
    fn add(&mut self, method: &str, scores: &Scores, table: &Table, seconds: f64) -> Result<()> {
        let evaluation = scores.evaluate(labels(table))?;
        match self.0.iter_mut().find(|(name, ..)| name == method) {
            Some((_, evaluations, total)) => {
                evaluations.push(evaluation);
                *total += seconds;
            }
            None => self.0.push((method.to_owned(), vec![evaluation], seconds)),
        }
        Ok(())
    }

    fn rows(self) -> Vec<Row> {
        self.0.into_iter().map(|(method, evaluations, seconds)| row(method, &evaluations, seconds)).collect()
    }
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
