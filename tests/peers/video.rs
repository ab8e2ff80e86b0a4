//! TSM: inference, training steps, the temporal shift alone, and the loader.

use std::{path::Path, sync::Arc};

use leanburn::{
    burn::{
        module::AutodiffModule,
        optim::{GradientsParams, Optimizer},
        tensor::{Int, Tensor},
    },
    core::{
        loss::cross_entropy,
        random::Generator,
        train::{Batches, Dataset},
    },
    prelude::*,
    video::{
        Branches, ClipClassifier, VideoArchitecture,
        ffn::Alignment,
        lists::Entry,
        resnet::{FrameResNetConfig, Pass},
        temporal_shift,
        train::{Clips, clip_loader, tsn_groups},
        transform::ClipPreprocessing,
        videos::{Template, VideoSource, Videos},
    },
};
use leanburn_tests::device;
use serde::{Deserialize, Serialize};

use crate::{beside, median, timed};

/// What every program prints.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    seconds: f64,
}

/// Videos of a batch.
const BATCH: usize = 4;
/// Height and width.
const SIDE: usize = 112;

/// The frame counts of a mode.
fn counts(mode: &str) -> &'static [usize] {
    if mode == "ffn" { &[4, 8, 16] } else { &[8] }
}

pub(crate) fn ours(mode: &str) -> Result<Measured> {
    let plain = device()?;
    let mut generator = Generator::new(1);
    let device = leanburn::device::autodiff(plain.clone());
    let counts = counts(mode);
    let branches = if counts.len() > 1 { Branches::ffn(counts) } else { Branches::single(counts[0]) };
    let config = FrameResNetConfig::tsm(18, 174, branches)?;
    let mut network = config.init::<Dispatch>(&mut generator, &device)?;
    let clips: Vec<Tensor<Dispatch, 5>> =
        counts.iter().map(|&frames| generator.normal([BATCH, frames, 3, SIDE, SIDE], &device)).collect();
    if matches!(mode, "infer" | "fused") {
        let network = network.valid();
        let network = if mode == "fused" { network.fuse() } else { network };
        let clips = clips[0].clone().inner();
        let seconds = timed(|| {
            network.forward(clips.clone()).into_data();
            Ok(())
        })?;
        return Ok(Measured { seconds });
    }
    let labels: Tensor<Dispatch, 1, Int> = Tensor::from_data([0, 1, 2, 3], &device);
    let mut groups = tsn_groups::<Dispatch, _>(0.9, 5e-4, true, false);
    let alignment = Alignment::new();
    let seconds = timed(|| {
        let forward = |clips: &Tensor<Dispatch, 5>| network.forward_train(clips.clone(), &mut generator);
        let logits: Vec<_> = clips.iter().map(forward).collect();
        let loss = alignment.terms(&logits, |logits| cross_entropy(logits, labels.clone())).total();
        let gradients = GradientsParams::from_grads(loss.backward(), &network);
        network = groups.step(0.01, network.clone(), gradients);
        Ok(())
    })?;
    Ok(Measured { seconds })
}

/// Runs all in turns, and prints medians and ratios.
pub(crate) fn pair(python: &str) -> Result<()> {
    println!("{:<44} {:>9} {:>8}", "TSM-ResNet-18, 4 videos of 112x112", "ms", "ratio");
    for (job, modes) in [
        ("8 frames, inference", ["fused", "infer", "fused"]),
        ("8 frames, training step", ["step", "step", ""]),
        ("4, 8 and 16 frames, FFN's step", ["ffn", "ffn", ""]),
    ] {
        let programs: Vec<(String, Vec<Measured>)> = beside("video", python, job, modes)?;
        let milliseconds = |runs: &[Measured]| 1e3 * median(runs.iter().map(|run| run.seconds));
        let reference = milliseconds(&programs[0].1);
        for (title, runs) in &programs {
            let milliseconds = milliseconds(runs);
            println!("{title:<44} {milliseconds:>9.1} {:>8.2}", milliseconds / reference);
        }
    }
    parts()
}

/// The temporal shift, and the loader.
pub(crate) fn parts() -> Result<()> {
    shift()?;
    loader()
}

/// The first block of each stage, and the shift of its input alone.
fn shift() -> Result<()> {
    let device = device()?;
    let mut generator = Generator::new(1);
    let config = FrameResNetConfig::tsm(18, 174, Branches::single(8))?;
    let network = config.init::<Dispatch>(&mut generator, &device)?.fuse();
    println!("{:<28} {:>9} {:>9} {:>8}", "block, 4 videos of 8 frames", "block ms", "shift ms", "share");
    for (stage, (channels, side)) in [(64, 28), (64, 28), (128, 14), (256, 7)].into_iter().enumerate() {
        let x: Tensor<Dispatch, 4> = generator.normal([BATCH * 8, channels, side, side], &device);
        let block = &network.stages[stage][0];
        let whole = timed(|| {
            block.forward(x.clone(), Pass { branch: 0, segments: 8 }).into_data();
            Ok(())
        })?;
        let alone = timed(|| {
            temporal_shift(x.clone(), 8, channels / 8).into_data();
            Ok(())
        })?;
        let name = format!("layer{}.0", stage + 1);
        println!("{name:<28} {:>9.2} {:>9.2} {:>7.1}%", 1e3 * whole, 1e3 * alone, 100.0 * alone / whole);
    }
    Ok(())
}

/// Frames a second of the loader, and of decoding alone on all cores, from JPEG files of 170x128.
fn loader() -> Result<()> {
    const VIDEOS: usize = 64;
    const FRAMES: usize = 24;
    let folder = tempfile::tempdir().map_err(Error::io("temporary folder"))?;
    let template = Template::new("image_{:05d}.jpg")?;
    let entries = (0..VIDEOS).map(|video| {
        let path = video.to_string();
        write(&folder.path().join(&path), &template, video, FRAMES)?;
        Ok(Entry { path, frames: FRAMES, label: 0 })
    });
    let entries = entries.collect::<Result<Vec<Entry>>>()?;
    let videos = Arc::new(Videos::new(folder.path(), entries, template, vec!["one".to_owned()])?);

    let device = device()?;
    let clips = Arc::new(Clips::train(videos.clone(), &[8], ClipPreprocessing::tsn_train(SIDE))?);
    let loader = clip_loader::<Dispatch, _>(clips.clone(), 8, None, &device)?;
    let in_all = timed(|| {
        for batch in loader.epoch(0, 0) {
            batch?;
        }
        Ok(())
    })?;
    // The same frames, decoded and dropped, by as many threads.
    let decoded = timed(|| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers)
                .map(|worker| {
                    let videos = &videos;
                    scope.spawn(move || {
                        for video in (worker..VIDEOS).step_by(workers) {
                            videos.read(video, &[1, 4, 7, 10, 13, 16, 19, 22])?;
                        }
                        Ok::<(), Error>(())
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("decoding does not panic"))
        })
    })?;
    let frames = (8 * clips.len()) as f64;
    println!(
        "loader, JPEG of 170x128 to clips of 112x112: {:.0} frames/s; decoding alone: {:.0}",
        frames / in_all,
        frames / decoded
    );
    Ok(())
}

/// Frames of noise on a slope, so that they compress about as pictures do.
fn write(folder: &Path, template: &Template, video: usize, frames: usize) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let (height, width) = (128, 170);
    let mut generator = Generator::new(video as u64);
    for frame in 1..=frames {
        let noise = generator.normals(height * width * 3);
        let pixel = |(place, noise): (usize, &f32)| {
            let (y, x) = (place / 3 / width, place / 3 % width);
            (60.0 + 0.5 * y as f32 + 0.4 * x as f32 + 4.0 * noise) as u8
        };
        let values: Vec<u8> = noise.iter().enumerate().map(pixel).collect();
        let file = folder.join(template.file(frame));
        image::save_buffer(&file, &values, width as u32, height as u32, image::ColorType::Rgb8)
            .map_err(|error| Error::format(&file, "file", "one that can be written", error))?;
    }
    Ok(())
}
