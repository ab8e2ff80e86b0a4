//! What the examples share: the options `--device` and `--seed`, folders of runs that go on, Ctrl-C, a progress bar, a task
//! for small language models, and the allocator.

mod affine;

pub use affine::AffineTask;

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use clap::{Args, Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use leanburn::{
    anomaly::sla2p::Progress,
    burn::{tensor::DType, train::Interrupter},
    core::{
        Error, Result,
        report::{self, RunFolder},
    },
    device,
    graph::History,
    prelude::DispatchDevice,
    video::videos::MemoryVideos,
    vision::image::Image,
};
use leanburn_datasets::MovingDigits;
use mimalloc::MiMalloc;
use serde::Serialize;
use serde_json::Value;

/// Burn's CPU backends take memory for every result. The C library's allocator gives large pieces back to the system at
/// once and has them cleared again, which costs more than some computations: see `docs/devices.md`.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Options of every example that computes.
#[derive(Debug, Clone, Args, Serialize)]
pub struct Common {
    /// Where to compute: flex, ndarray, or a GPU as cuda, wgpu or vulkan, with `:n` for the n-th; `list` prints what
    /// there is.
    #[arg(long, default_value = "flex")]
    pub device: String,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl Common {
    /// The device, with gradients recorded.
    ///
    /// # Errors
    ///
    /// When the build or the machine has no such device.
    pub fn device(&self) -> Result<DispatchDevice> {
        Ok(device::autodiff(device::parse(&self.device)?))
    }
}

/// The type of a network's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// float32
    F32,
    /// bfloat16
    Bf16,
    /// float16
    F16,
}

impl From<Precision> for DType {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::BF16,
            Precision::F16 => Self::F16,
        }
    }
}

/// The program's options. `--device list` is answered here, whatever other options there are. Warnings of the library are
/// shown from here on.
pub fn options<T: Parser>() -> T {
    let shown = env_logger::Env::default().default_filter_or("off,leanburn=warn");
    env_logger::Builder::from_env(shown).format_target(false).format_timestamp(None).init();
    let arguments: Vec<String> = std::env::args().collect();
    let listed = arguments.windows(2).any(|pair| pair == ["--device", "list"]);
    if listed || arguments.iter().any(|argument| argument == "--device=list") {
        for device in device::available() {
            println!("{:<10} {}", device.name, device.description);
        }
        std::process::exit(0);
    }
    T::parse()
}

/// The folder of a run: a new one, or the one that was begun, if the run goes on.
///
/// - settings: what `config.json` has of a run
///
/// # Errors
///
/// When a new run's folder is not empty, or the run was begun with other settings.
pub fn run_folder(path: &Path, resume: bool, settings: &impl Serialize) -> Result<RunFolder> {
    if !(resume && path.join("config.json").exists()) {
        let folder = RunFolder::create(path)?;
        folder.write_json("config.json", settings)?;
        return Ok(folder);
    }
    let folder = RunFolder::open(path)?;
    let file = folder.file("config.json");
    let before: Value = report::read_json(&file)?;
    let now = serde_json::to_value(settings).expect("settings are JSON");
    check_same(&file, "settings", &before, &now)?;
    Ok(folder)
}

/// Writes a file or a folder of a run that a run which goes on may have written before.
///
/// # Errors
///
/// That of `write`, which gets the name.
pub fn write_once(folder: &RunFolder, name: &str, write: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    if folder.file(name).exists() { Ok(()) } else { write(name) }
}

fn check_same(file: &Path, name: &str, before: &Value, now: &Value) -> Result<()> {
    if let Value::Object(parts) = now {
        return parts.iter().try_for_each(|(name, now)| check_same(file, name, &before[name], now));
    }
    if before == now {
        return Ok(());
    }
    let expected = format!("{before}, with which the run began, as --resume goes on with it");
    Err(Error::format(file, name, expected, now))
}

/// Lets Ctrl-C end a training after the step under way, with a checkpoint; a second Ctrl-C ends the program at once.
///
/// - training: the handle of the training that runs now
pub fn end_on_interrupt(training: Interrupter) {
    static RUNNING: Mutex<Option<Interrupter>> = Mutex::new(None);
    let running = || RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let handler = move || match running().take() {
        Some(training) => {
            eprintln!("ends after this step; Ctrl-C again to end at once");
            training.stop(Some("Ctrl-C"));
        }
        None => std::process::exit(130),
    };
    *running() = Some(training);
    // It is there already from the training before.
    let _ = ctrlc::set_handler(handler);
}

/// Moving digits as a source of videos, all of them in memory.
///
/// # Errors
///
/// When a setting is out of its range.
pub fn moving_digits(digits: &MovingDigits) -> Result<MemoryVideos> {
    digits.check()?;
    let size = [digits.size(); 2];
    let videos = (0..digits.len()).map(|video| {
        let frames = (0..digits.frames()).map(|frame| Image::new(size, 3, digits.frame(video, frame)));
        Ok((frames.collect::<Result<Vec<_>>>()?, digits.label(video)))
    });
    MemoryVideos::new(videos.collect::<Result<Vec<_>>>()?, digits.classes())
}

/// A bar that follows training and scoring.
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar under the name of the job.
    pub fn new(name: &str) -> Self {
        let style = ProgressStyle::with_template("{prefix:24} {bar:32} {msg}")
            .expect("the template is valid")
            .progress_chars("=> ");
        let bar = ProgressBar::no_length().with_style(style);
        bar.set_prefix(name.to_owned());
        Self(bar)
    }

    /// Shows the epoch of a model of nodes, counted from 1.
    pub fn epoch(&self, epoch: usize, epochs: usize, history: &History) {
        self.0.set_length(epochs as u64);
        self.0.set_position(epoch as u64);
        let loss = history.losses.last().copied().unwrap_or(f32::NAN);
        let accuracy =
            history.validation.last().map_or(String::new(), |v| format!(", validation {:.1} %", 100.0 * v));
        self.0.set_message(format!("epoch {epoch}, loss {loss:.3}{accuracy}"));
    }

    /// Shows the epoch of a classifier, counted from 1, and its test accuracy in percent.
    pub fn accuracy(&self, epoch: usize, epochs: usize, accuracy: f64) {
        self.0.set_length(epochs as u64);
        self.0.set_position(epoch as u64);
        self.0.set_message(format!("epoch {epoch}, accuracy {accuracy:.2} %"));
    }

    /// Shows how many steps are done.
    pub fn steps(&self, done: usize, steps: usize) {
        self.0.set_length(steps as u64);
        self.0.set_position(done as u64);
        self.0.set_message(format!("step {done} of {steps}"));
    }

    /// Prints a line above the bar.
    pub fn print(&self, line: &str) {
        self.0.suspend(|| println!("{line}"));
    }

    /// Shows where the detector is.
    pub fn show(&self, progress: Progress) {
        match progress {
            Progress::Training { step, accuracy } => {
                self.0.set_message(format!("step {step}, accuracy {:.1} %", 100.0 * accuracy));
            }
            Progress::Scoring { done, total } => {
                self.0.set_length(total as u64);
                self.0.set_position(done as u64);
                self.0.set_message(format!("projection {done} of {total}"));
            }
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
