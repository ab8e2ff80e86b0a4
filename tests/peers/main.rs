//! leanburn beside its PyTorch peers: the same work on the same cores, in turns in one run.
//!
//! `cargo run --release -p leanburn-tests --bin peers -- sla2p --python PYTHON`, where PYTHON has torch, scipy and
//! scikit-learn, and `LEANBURN_DATA` names the folder with `anomaly/arrhythmia.mat`. `-- sla2p-large` measures time and
//! memory of scoring tables of up to 500,000 rows, without a peer.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use leanburn::prelude::*;
use leanburn_tests::{device, path_from_env};
use serde::{Deserialize, Serialize};

/// What every program prints.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    seconds: f64,
    auroc: f64,
    peak_mb: f64,
    steps: usize,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["sla2p-ours", file] => {
            let line = serde_json::to_string(&ours(Path::new(file))?).expect("numbers are JSON");
            println!("{line}");
            Ok(())
        }
        ["sla2p-large"] => large(),
        ["sla2p"] => pair("python3"),
        ["sla2p", "--python", python] => pair(python),
        _ => {
            eprintln!("usage: peers sla2p [--python PYTHON] | peers sla2p-large");
            std::process::exit(2);
        }
    }
}

/// Fits and scores Arrhythmia in its published setting, with the clean perturbation.
fn ours(file: &Path) -> Result<Measured> {
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
fn large() -> Result<()> {
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

/// The process's largest resident memory so far, where Linux tells it; NaN elsewhere.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok())
        .map_or(f64::NAN, |kilobytes| kilobytes / 1024.0)
}

/// Runs all three in turns and prints medians and ratios.
fn pair(python: &str) -> Result<()> {
    const TURNS: usize = 3;
    let data = path_from_env("LEANBURN_DATA").unwrap_or_else(|| PathBuf::from("data"));
    let file = data.join("anomaly/arrhythmia.mat").to_string_lossy().into_owned();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/sla2p.py").to_string_lossy().into_owned();
    let own = std::env::current_exe().map_err(Error::io("this program"))?.to_string_lossy().into_owned();
    let programs: [(&str, Vec<&str>); 3] = [
        ("leanburn", vec![&own, "sla2p-ours", &file]),
        ("PyTorch, float32, well batched", vec![python, &script, "batched", &file]),
        ("PyTorch, official formulation", vec![python, &script, "official", &file]),
    ];
    let mut measured: Vec<Vec<Measured>> = programs.iter().map(|_| Vec::new()).collect();
    for _ in 0..TURNS {
        for (runs, (_, command)) in measured.iter_mut().zip(&programs) {
            runs.push(run(command)?);
        }
    }
    let median = |runs: &[Measured]| {
        let mut seconds: Vec<f64> = runs.iter().map(|run| run.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        seconds[TURNS / 2]
    };
    let reference = median(&measured[0]);
    println!("{:<32} {:>8} {:>8} {:>8} {:>9}", "Arrhythmia, K = D = 256", "s", "ratio", "AUROC", "peak MB");
    for ((name, _), runs) in programs.iter().zip(&measured) {
        let seconds = median(runs);
        let peak = runs.iter().map(|run| run.peak_mb).fold(0.0, f64::max);
        let ratio = seconds / reference;
        println!("{name:<32} {seconds:>8.2} {ratio:>8.2} {:>8.2} {peak:>9.0}", 100.0 * runs[0].auroc);
    }
    Ok(())
}

fn run(command: &[&str]) -> Result<Measured> {
    let output = Command::new(command[0]).args(&command[1..]).output().map_err(Error::io(command[0]))?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).map_err(|_| {
        Error::format(command[0], "output", "one line of JSON", String::from_utf8_lossy(&output.stderr))
    })
}
