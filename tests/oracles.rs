//! Runs every oracle: `cargo test --release -p leanburn-tests --test oracles -- --nocapture`.
//!
//! `LEANBURN_ORACLES` names another folder of cases, each at `METHOD/CASE.json`; `LEANBURN_DEVICE` the device.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use leanburn::core::{Error, Result, report::entries};
use leanburn_tests::{
    case::Case,
    comparison::{self, Deviation},
    data, device, device_name, path_from_env, runners,
};
use libtest_mimic::{Arguments, Failed, Trial};

/// By what tolerances are multiplied on devices that reorder sums as they like.
const GPU_SLACK: f64 = 10.0;

fn main() -> Result<()> {
    let mut arguments = Arguments::from_args();
    // With a single thread a case's line would follow its trial's name on the same line; `check` takes turns instead.
    arguments.test_threads = Some(2);
    let folder = path_from_env("LEANBURN_ORACLES")
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("oracles"));
    let trials = cases(&folder)?.into_iter().map(|(name, path)| {
        let printed = name.clone();
        Trial::test(name, move || check(&printed, &path))
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    // Once more without what the cases printed in between.
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    lines.sort();
    println!("device {}", device_name());
    for line in lines {
        println!("{line}");
    }
    conclusion.exit()
}

/// The line of every case that ran.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Every `METHOD/CASE` of a folder with the path of its manifest, sorted.
fn cases(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut cases = Vec::new();
    for method in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        for path in entries(&method)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "json"))
        {
            let name = path.strip_prefix(folder).expect("it lies in the folder").with_extension("");
            // The same name on every system.
            let parts: Vec<_> = name.iter().map(|part| part.to_string_lossy()).collect();
            cases.push((parts.join("/"), path));
        }
    }
    if cases.is_empty() {
        return Err(Error::format(folder, "folder", "cases as METHOD/CASE.json", "none"));
    }
    Ok(cases)
}

fn check(name: &str, path: &Path) -> std::result::Result<(), Failed> {
    // The backends use all cores for one case.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let slack = if matches!(device_name().as_str(), "flex" | "ndarray") { 1.0 } else { GPU_SLACK };
    // A runner's panic fails its case alone, and in the same words.
    let compared = std::panic::catch_unwind(|| {
        let case = Case::open(path)?;
        if case.dataset().is_some_and(|dataset| data(dataset).is_none()) {
            return Ok(None);
        }
        let outputs = runners::run(&case, &device()?)?;
        comparison::compare(&case, &outputs, slack).map(Some)
    });
    let line = match compared {
        Ok(Ok(None)) => format!("oracle {name} skipped: set LEANBURN_DATA to a folder with its data set"),
        Ok(Ok(Some(compared))) => {
            let failed: Vec<_> = compared.iter().filter(|tensor| tensor.deviation > 1.0).collect();
            // In the order in which a network computes them: the first says where to look.
            for Deviation { deviation, tensor } in &failed {
                println!("    {tensor} {deviation:.2}");
            }
            let worst = compared.iter().max_by(|a, b| a.deviation.total_cmp(&b.deviation));
            let Deviation { deviation, tensor } = worst.expect("a case expects at least one tensor");
            if failed.is_empty() {
                format!("oracle {name} ok worst={deviation:.2}")
            } else {
                format!("oracle {name} FAIL worst={deviation:.2} at {tensor}")
            }
        }
        Ok(Err(error)) => format!("oracle {name} FAIL worst=inf at {error}"),
        Err(_) => format!("oracle {name} FAIL worst=inf at a panic, see above"),
    };
    println!("{line}");
    let failed = line.contains(" FAIL ");
    LINES.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
    if failed { Err(line.into()) } else { Ok(()) }
}
