//! GCN on a graph of nearest neighbours: Cora, Citeseer, and a set of the size of ogbn-arxiv.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use leanburn::{core::random::Generator, prelude::*};
use leanburn_tests::{device, path_from_env};
use serde::{Deserialize, Serialize};

use crate::{in_turns, median, own, peak_mb, script};

/// What every program prints.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// An epoch, or the graph.
    seconds: f64,
    best_test: f64,
    peak_mb: f64,
    epochs: usize,
}

/// Epochs that are measured, after ten others.
const EPOCHS: usize = 100;

/// Makes the graph, or trains on it.
pub(crate) fn ours(mode: &str, file: &Path) -> Result<Measured> {
    let set = NodeSet::open_safetensors(file)?;
    let device = device()?;
    let start = Instant::now();
    let graph = KnnConfig::new().graph::<Dispatch>(&set.features, &device)?;
    let mut seconds = start.elapsed().as_secs_f64();
    let (mut best_test, mut epochs) = (0.0, 0);
    if mode == "train" {
        let config = LgiConfig::new().with_epochs(EPOCHS + 10);
        let mut start = Instant::now();
        let training = leanburn::device::autodiff(device);
        let model = config.fit_graph::<Dispatch>(&set, &graph, &training, |epoch, _| {
            if epoch == 10 {
                start = Instant::now();
            }
        })?;
        epochs = EPOCHS;
        seconds = start.elapsed().as_secs_f64() / epochs as f64;
        best_test = model.history().accuracy().map_or(0.0, |accuracy| accuracy.best_test);
    }
    Ok(Measured { seconds, best_test, peak_mb: peak_mb(), epochs })
}

/// Runs all in turns, and prints medians and ratios.
pub(crate) fn pair(python: &str) -> Result<()> {
    let data = path_from_env("LEANBURN_DATA").unwrap_or_else(|| PathBuf::from("data"));
    let (script, own) = (script("lgi.py"), own()?);
    println!("{:<36} {:>9} {:>8} {:>10} {:>9}", "", "ms", "ratio", "best test", "peak MB");
    for name in ["cora", "citeseer"] {
        let file = data.join(format!("planetoid/{name}.safetensors")).to_string_lossy().into_owned();
        let epochs = EPOCHS.to_string();
        let peer = |mode| vec![python, &script, mode, &file, "--epochs", &epochs];
        let groups = [
            vec![
                ("epoch, leanburn", vec![own.as_str(), "lgi-ours", "train", &file]),
                ("epoch, PyTorch, sparse", peer("sparse")),
                ("epoch, PyTorch, dense", peer("dense")),
            ],
            vec![
                ("graph, leanburn", vec![own.as_str(), "lgi-ours", "knn", &file]),
                ("graph, scikit-learn", peer("knn")),
            ],
        ];
        for programs in &groups {
            let commands: Vec<&[&str]> = programs.iter().map(|(_, command)| &command[..]).collect();
            let measured: Vec<Vec<Measured>> = in_turns(&commands)?;
            let milliseconds = |runs: &[Measured]| 1e3 * median(runs.iter().map(|run| run.seconds));
            let reference = milliseconds(&measured[0]);
            for ((program, _), runs) in programs.iter().zip(&measured) {
                let milliseconds = milliseconds(runs);
                let peak = runs.iter().map(|run| run.peak_mb).fold(0.0, f64::max);
                let (ratio, best) = (milliseconds / reference, 100.0 * runs[0].best_test);
                let title = format!("{name}: {program}");
                println!("{title:<36} {milliseconds:>9.2} {ratio:>8.2} {best:>10.1} {peak:>9.0}");
            }
        }
    }
    Ok(())
}

/// A set of the size of ogbn-arxiv, 169,343 nodes of 128 features: the graph of 15 neighbours and 20 epochs at a width of
/// 256.
pub(crate) fn large() -> Result<()> {
    const NODES: usize = 169_343;
    const FEATURES: usize = 128;
    const CLASSES: usize = 40;
    let mut generator = Generator::new(0);
    let centres = generator.normals(CLASSES * FEATURES);
    let labels: Vec<i64> = (0..NODES).map(|_| generator.below(CLASSES) as i64).collect();
    let mut values = generator.normals(NODES * FEATURES);
    for (row, &label) in values.chunks_mut(FEATURES).zip(&labels) {
        let centre = &centres[label as usize * FEATURES..][..FEATURES];
        row.iter_mut().zip(centre).for_each(|(value, centre)| *value += 0.3 * centre);
    }
    let split = Split::random(&labels, 2270, 29_799, 0)?;
    println!(
        "{} labelled, {} validation, {} test nodes",
        split.train.len(),
        split.validation.len(),
        split.test.len()
    );
    let set = NodeSet::with_split(Features::new(values, FEATURES)?, labels, split)?;
    println!("features: peak {:.0} MB", peak_mb());
    let device = device()?;
    let start = Instant::now();
    let graph = KnnConfig::new().graph::<Dispatch>(&set.features, &device)?;
    println!("graph: {:.1} s, peak {:.0} MB", start.elapsed().as_secs_f64(), peak_mb());
    let config = LgiConfig::new().with_epochs(20).with_hidden(256);
    let start = Instant::now();
    let training = leanburn::device::autodiff(device);
    let model = config.fit_graph::<Dispatch>(&set, &graph, &training, |_, _| ())?;
    let seconds = start.elapsed().as_secs_f64();
    let accuracy = 100.0 * model.history().accuracy().map_or(0.0, |accuracy| accuracy.selected);
    println!("20 epochs: {seconds:.1} s, peak {:.0} MB, test accuracy {accuracy:.1} %", peak_mb());
    Ok(())
}
