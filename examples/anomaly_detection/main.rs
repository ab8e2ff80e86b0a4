//! Scores the rows of your own table for anomalies. Labels, when there are some, are used to evaluate alone.

use std::{path::PathBuf, time::Instant};

use clap::{Parser, ValueEnum};
use leanburn::{
    anomaly::{
        baselines::{
            Baseline, DistanceToMean, GoadConfig, IsolationForestConfig, LofConfig, OneClassSvmConfig,
            PcaConfig,
        },
        sla2p::StopReason,
    },
    core::report::{Plot, RunFolder, Style},
    prelude::*,
};
use leanburn_examples::{Bar, Common, options};
use serde::Serialize;

/// Scores a table for anomalies.
#[derive(Parser, Serialize)]
struct Options {
    /// The table: CSV, TSV, two-dimensional .npy, or .mat with the matrix `X`.
    #[arg(long)]
    data: PathBuf,
    /// The column (in a .mat file the variable) that is 1 for anomalies and 0 otherwise.
    #[arg(long)]
    label_column: Option<String>,
    /// The detector.
    #[arg(long, value_enum, default_value = "sla2p")]
    method: Method,
    /// Share of the rows to flag.
    #[arg(long, default_value_t = 0.05)]
    contamination: f64,
    /// Number of projections of SLA2P and SLA.
    #[arg(long, default_value_t = 256)]
    projections: usize,
    /// Width of a projected row of SLA2P and SLA.
    #[arg(long, default_value_t = 128)]
    width: usize,
    /// Size of SLA2P's perturbation; from 10 to 10000 in the published settings.
    #[arg(long, default_value_t = 100.0)]
    epsilon: f64,
    /// Running accuracy at which training stops; 0.6 for SLA2P and 0.8 for SLA when absent.
    #[arg(long)]
    accuracy_threshold: Option<f64>,
    /// Standardise the columns first.
    #[arg(long)]
    standardise: bool,
    /// Append a constant column, which keeps the rows' lengths.
    #[arg(long)]
    bias_column: bool,
    /// Number of components of PCA.
    #[arg(long, default_value_t = 3)]
    components: usize,
    /// Where to write the scores; a numbered folder under `runs` when absent.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Where to save the fitted detector, of SLA2P and SLA.
    #[arg(long)]
    save: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Method {
    Sla2p,
    Sla,
    IsolationForest,
    Lof,
    OneClassSvm,
    Pca,
    DistanceToMean,
    Goad,
}

/// A line of `scores.csv`.
#[derive(Serialize)]
struct Line {
    row: usize,
    anomaly_score: f64,
    rank: usize,
    flagged: bool,
    label: Option<i64>,
}

/// What `report.json` holds.
#[derive(Serialize)]
struct Report {
    rows: usize,
    columns: usize,
    seconds: f64,
    threshold: f64,
    evaluation: Option<Evaluation>,
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
    let table = Table::open(&options.data, options.label_column.as_deref())?;
    println!("{} rows of {} columns", table.rows(), table.columns());

    let start = Instant::now();
    let scores = score(options, &table, &device)?;
    let seconds = start.elapsed().as_secs_f64();

    let threshold = scores.threshold(options.contamination)?;
    let flagged = scores.predict(options.contamination)?;
    let evaluation = table.labels().map(|labels| scores.evaluate(labels)).transpose()?;
    let ranked = scores.rank();
    println!("most anomalous rows, counted from 0: {:?}", &ranked[..ranked.len().min(10)]);
    println!("{} rows flagged in {seconds:.2} s", flagged.iter().filter(|&&flag| flag).count());
    if let Some(e) = &evaluation {
        println!("AUROC {:.3}, AUPR of the anomalies {:.3}, F1 {:.3}", e.auroc, e.aupr_out, e.f1);
    }

    let folder = match &options.output {
        Some(path) => RunFolder::create(path)?,
        None => RunFolder::create_numbered("runs", "anomaly_detection")?,
    };
    folder.write_json("config.json", options)?;
    folder.write_csv("scores.csv", lines(&table, &scores, &ranked, &flagged))?;
    folder.write_plot("scores.svg", &plot(&scores, &ranked, &flagged, threshold))?;
    let report = Report { rows: table.rows(), columns: table.columns(), seconds, threshold, evaluation };
    folder.write_json("report.json", &report)?;
    println!("written: {}", folder.path().display());
    Ok(())
}

fn score(options: &Options, table: &Table, device: &DispatchDevice) -> Result<Scores> {
    let seed = options.common.seed;
    if options.save.is_some() && !matches!(options.method, Method::Sla2p | Method::Sla) {
        return Err(Error::Setting {
            field: "save".to_owned(),
            expected: "the method sla2p or sla, whose detectors can be saved".to_owned(),
            found: "another method".to_owned(),
        });
    }
    let preprocessing = PreprocessingConfig::new()
        .with_standardise(options.standardise)
        .with_bias_column(options.bias_column);
    match options.method {
        Method::Sla2p | Method::Sla => {
            let mut config = Sla2pConfig::new()
                .with_projections(options.projections)
                .with_width(options.width)
                .with_epsilon(options.epsilon)
                .with_preprocessing(preprocessing)
                .with_seed(seed);
            if options.method == Method::Sla {
                config = config.sla();
            }
            config.accuracy_threshold = options.accuracy_threshold.unwrap_or(config.accuracy_threshold);
            let bar = Bar::new("SLA2P");
            let detector = config.fit_with::<Dispatch>(table, device, |progress| bar.show(progress))?;
            let scores = detector.score_with(table, |progress| bar.show(progress))?;
            drop(bar);
            let report = detector.report();
            println!("{} training steps, running accuracy {:.3}", report.steps, report.accuracy);
            if report.stop != StopReason::ThresholdReached {
                println!("the accuracy threshold of {} was not reached", config.accuracy_threshold);
            }
            if let Some(path) = &options.save {
                detector.save(path)?;
                println!("saved: {}", path.display());
            }
            Ok(scores)
        }
        // GOAD standardises by itself.
        Method::Goad => GoadConfig::arrhythmia().with_seed(seed).fit::<Dispatch>(table, device)?.score(table),
        _ => {
            let table = &preprocessing.with_unit_rows(false).fit(table).table(table)?;
            match options.method {
                Method::IsolationForest => IsolationForestConfig::default().fit(table, seed)?.score(table),
                Method::Lof => LofConfig::default().fit(table)?.score(table),
                Method::OneClassSvm => OneClassSvmConfig::default().fit(table)?.score(table),
                Method::Pca => PcaConfig { components: options.components }.fit(table)?.score(table),
                _ => DistanceToMean::fit(table)?.score(table),
            }
        }
    }
}

fn lines(table: &Table, scores: &Scores, ranked: &[usize], flagged: &[bool]) -> Vec<Line> {
    let mut places = vec![0; ranked.len()];
    for (place, &row) in ranked.iter().enumerate() {
        places[row] = place + 1;
    }
    let anomaly = scores.anomaly();
    (0..table.rows())
        .map(|row| Line {
            row,
            anomaly_score: anomaly[row],
            rank: places[row],
            flagged: flagged[row],
            label: table.labels().map(|labels| labels[row]),
        })
        .collect()
}

fn plot(scores: &Scores, ranked: &[usize], flagged: &[bool], threshold: f64) -> Plot {
    let anomaly = scores.anomaly();
    let of = |wanted: bool| {
        let points = ranked.iter().rev().enumerate().filter(move |&(_, &row)| flagged[row] == wanted);
        points.map(|(place, &row)| (place as f64, anomaly[row])).collect::<Vec<_>>()
    };
    let last = ranked.len().saturating_sub(1) as f64;
    Plot::new("anomaly scores", "rows, by score", "anomaly score")
        .with("not flagged", Style::Points, of(false))
        .with("flagged", Style::Points, of(true))
        .with("threshold", Style::Line, [(0.0, threshold), (last, threshold)])
}
