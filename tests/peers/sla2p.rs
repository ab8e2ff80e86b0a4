//! SLA2P on Arrhythmia, and on large tables.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use leanburn::prelude::*;
use leanburn_tests::{device, path_from_env};
use serde::{Deserialize, Serialize};

use crate::{in_turns, median, own, peak_mb, script};

/// What every program prints.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    seconds: f64,
    auroc: f64,
    peak_mb: f64,
    steps: usize,
}

/// Fits and scores Arrhythmia in its published setting, with the clean perturbation.
pub(crate) fn ours(file: &Path) -> Result<Measured> {
    let table = Table::open(file, None)?;
    let device = leanburn::device::autodiff(device()?);
    let start = Instant::now();
    let detector = Sla2pConfig::arrhythmia().fit::<Dispatch>(&table, &device)?;
    let scores = detector.score(&table)?;
    let seconds = start.elapsed().as_secs_f64();
    let labels = table.labels().expect("the file has labels");
    Ok(Measured {
        seconds,
        auroc: scores.evaluate(labels)?.auroc,
        peak_mb: peak_mb(),
        steps: detector.report().steps,
    })
}

/// Scores tables of up to 500,000 rows of 120 columns, K = D = 32, and prints time and memory, less the table's own.
pub(crate) fn large() -> Result<()> {
    const COLUMNS: usize = 120;
    let device = leanburn::device::autodiff(device()?);
    let config = Sla2pConfig::new().with_projections(32).with_width(32);
    println!("{:>8} {:>8} {:>10} {:>20}", "rows", "s", "rows / s", "peak - table, MB");
    for rows in [125_000, 250_000, 500_000] {
        let values = leanburn_datasets::recipe::real("large", rows * COLUMNS, -1.0, 1.0, 0);
        let table = Table::new(values.into_iter().map(f64::from).collect(), COLUMNS)?;
        let detector = config.clone().with_max_steps(20).fit::<Dispatch>(&table, &device)?;
        let start = Instant::now();
        detector.score(&table)?;
        let seconds = start.elapsed().as_secs_f64();
        // While the table was made, its values lay there once more in f32, which counts into the peak.
        let own = (rows * COLUMNS * 12) as f64 / f64::from(1 << 20);
        let rate = rows as f64 / seconds;
        println!("{rows:>8} {seconds:>8.1} {rate:>10.0} {:>20.0}", peak_mb() - own);
    }
    Ok(())
}

/// Runs all three in turns and prints medians and ratios.
pub(crate) fn pair(python: &str) -> Result<()> {
    let data = path_from_env("LEANBURN_DATA").unwrap_or_else(|| PathBuf::from("data"));
    let file = data.join("anomaly/arrhythmia.mat").to_string_lossy().into_owned();
    let (script, own) = (script("sla2p.py"), own()?);
    let programs: [(&str, Vec<&str>); 3] = [
        ("leanburn", vec![&own, "sla2p-ours", &file]),
        ("PyTorch, float32, well batched", vec![python, &script, "batched", &file]),
        ("PyTorch, official formulation", vec![python, &script, "official", &file]),
    ];
    let measured: Vec<Vec<Measured>> = in_turns(&programs.each_ref().map(|(_, command)| &command[..]))?;
    let seconds = |runs: &[Measured]| median(runs.iter().map(|run| run.seconds));
    let reference = seconds(&measured[0]);
    println!("{:<32} {:>8} {:>8} {:>8} {:>9}", "Arrhythmia, K = D = 256", "s", "ratio", "AUROC", "peak MB");
    for ((name, _), runs) in programs.iter().zip(&measured) {
        let seconds = seconds(runs);
        let peak = runs.iter().map(|run| run.peak_mb).fold(0.0, f64::max);
        let ratio = seconds / reference;
        println!("{name:<32} {seconds:>8.2} {ratio:>8.2} {:>8.2} {peak:>9.0}", 100.0 * runs[0].auroc);
    }
    Ok(())
}
