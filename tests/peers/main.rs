//! leanburn beside its PyTorch peers: the same work on the same cores, in turns in one run.
//!
//! `cargo run --release -p leanburn-tests --features peers --bin peers -- METHOD --python PYTHON`, where METHOD is `sla2p`, `lgi`, `vision`,
//! `video` or `language`,
//! PYTHON has torch, scipy, scikit-learn and safetensors (for `vision` and `video` torchvision, for `vision` torch-pruning, for `language`
//! transformers),
//! and `LEANBURN_DATA` names the folder of data sets. `-- sla2p-large` and `-- lgi-large` measure time and memory at sizes
//! that the peers cannot run, and `-- video-parts` the temporal shift and the loader alone.

mod language;
mod lgi;
mod sla2p;
mod video;
mod vision;

use std::{path::Path, process::Command, time::Instant};

use leanburn::prelude::*;
use mimalloc::MiMalloc;
use serde::{Serialize, de::DeserializeOwned};

/// As the examples have it: see `docs/devices.md`.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["sla2p-ours", file] => print(&sla2p::ours(Path::new(file))?),
        ["sla2p-large"] => sla2p::large()?,
        ["sla2p"] => sla2p::pair("python3")?,
        ["sla2p", "--python", python] => sla2p::pair(python)?,
        ["language-ours", mode] => print(&language::ours(mode)?),
        ["language"] => language::pair("python3")?,
        ["language", "--python", python] => language::pair(python)?,
        ["lgi-ours", mode, file] => print(&lgi::ours(mode, Path::new(file))?),
        ["lgi-large"] => lgi::large()?,
        ["lgi"] => lgi::pair("python3")?,
        ["lgi", "--python", python] => lgi::pair(python)?,
        ["vision-ours", mode] => print(&vision::ours(mode)?),
        ["vision"] => vision::pair("python3")?,
        ["vision", "--python", python] => vision::pair(python)?,
        ["video-ours", mode] => print(&video::ours(mode)?),
        ["video-parts"] => video::parts()?,
        ["video"] => video::pair("python3")?,
        ["video", "--python", python] => video::pair(python)?,
        _ => {
            eprintln!(
                "usage: peers sla2p | lgi | vision | video | language [--python PYTHON], or peers sla2p-large | lgi-large"
            );
            std::process::exit(2);
        }
    }
    Ok(())
}

fn print(measured: &impl Serialize) {
    println!("{}", serde_json::to_string(measured).expect("numbers are JSON"));
}

/// The process's largest resident memory so far, where Linux tells it; NaN elsewhere.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok())
        .map_or(f64::NAN, |kilobytes| kilobytes / 1024.0)
}

/// The path of a peer's program.
fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name).to_string_lossy().into_owned()
}

/// The path of this program.
fn own() -> Result<String> {
    Ok(std::env::current_exe().map_err(Error::io("this program"))?.to_string_lossy().into_owned())
}

/// Runs programs in turns, each three times, and gives what each of them printed.
fn in_turns<T: DeserializeOwned>(commands: &[&[&str]]) -> Result<Vec<Vec<T>>> {
    const TURNS: usize = 3;
    let mut measured: Vec<Vec<T>> = commands.iter().map(|_| Vec::new()).collect();
    for _ in 0..TURNS {
        for (runs, command) in measured.iter_mut().zip(commands) {
            runs.push(run(command)?);
        }
    }
    Ok(measured)
}

/// What a job's programs printed: this one's in the first mode, as `METHOD-ours`, the peer's in the second, and in the third
/// if there is one.
fn beside<T: DeserializeOwned>(
    method: &str,
    python: &str,
    job: &str,
    [mode, first, second]: [&str; 3],
) -> Result<Vec<(String, Vec<T>)>> {
    let (script, own) = (script(&format!("{method}.py")), own()?);
    let ours = format!("{method}-ours");
    let mut titles = vec![format!("{job}: leanburn, {mode}")];
    let mut commands = vec![vec![own.as_str(), &ours, mode]];
    for mode in [first, second].into_iter().filter(|mode| !mode.is_empty()) {
        titles.push(format!("{job}: peer, {mode}"));
        commands.push(vec![python, &script, mode]);
    }
    let commands: Vec<&[&str]> = commands.iter().map(Vec::as_slice).collect();
    Ok(titles.into_iter().zip(in_turns(&commands)?).collect())
}

/// The median seconds of seven runs, after two others.
fn timed(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    const RUNS: usize = 7;
    run()?;
    run()?;
    let times = (0..RUNS).map(|_| {
        let start = Instant::now();
        run()?;
        Ok(start.elapsed().as_secs_f64())
    });
    Ok(median(times.collect::<Result<Vec<_>>>()?.into_iter()))
}

/// The middle one of an odd number of values.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn run<T: DeserializeOwned>(command: &[&str]) -> Result<T> {
    let output = Command::new(command[0]).args(&command[1..]).output().map_err(Error::io(command[0]))?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).map_err(|_| {
        Error::format(command[0], "output", "one line of JSON", String::from_utf8_lossy(&output.stderr))
    })
}
