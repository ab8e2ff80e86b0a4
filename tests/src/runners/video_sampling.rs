//! Frame sampling. The kind is described in `oracles/ffn/README.md`.

use std::collections::BTreeMap;

use leanburn::{
    burn::tensor::TensorData,
    core::{Error, Result},
    prelude::DispatchDevice,
    video::sampling::{DENSE_WINDOW, Sampling},
};
use serde::Deserialize;

use crate::{case::Case, comparison::Outputs};

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "T")]
    segments: Vec<usize>,
    triples: Vec<[usize; 3]>,
    new_lengths: Vec<usize>,
    num_frames: BTreeMap<usize, Vec<usize>>,
    dense_window: usize,
    dense_new_length: usize,
    dense_test_clips: usize,
    slowfast_frames: [usize; 3],
    slowfast_new_length: usize,
    slowfast_views: Vec<usize>,
    slowfast_train_order: Vec<String>,
}

impl Config {
    /// The frame counts of the videos that are sampled for a `new_length`.
    fn videos(&self, new_length: usize) -> Result<&[usize]> {
        let videos = self.num_frames.get(&new_length).map(Vec::as_slice);
        videos.ok_or_else(|| Error::data("num_frames", format!("those for new_length {new_length}"), "none"))
    }
}

/// One row for each video, for which the stream of draws begins anew.
fn table(
    videos: &[usize],
    stream: &[f32],
    row: impl Fn(usize, &mut dyn FnMut(usize) -> usize) -> Vec<usize>,
) -> TensorData {
    let rows = videos.iter().map(|&frames| {
        let mut units = stream.iter().cycle();
        let mut draw =
            |bound: usize| units.next().map_or(0, |&unit| (f64::from(unit) * bound as f64) as usize);
        row(frames, &mut draw)
    });
    let values: Vec<i64> = rows.flatten().map(|frame| frame as i64).collect();
    let columns = values.len() / videos.len().max(1);
    TensorData::new(values, [videos.len(), columns])
}

pub(super) fn video_sampling(case: &Case, _device: &DispatchDevice) -> Result<Outputs> {
    let config: Config = case.config()?;
    if config.dense_window != DENSE_WINDOW {
        return Err(Error::setting("dense_window", DENSE_WINDOW, config.dense_window));
    }
    let stream: Vec<f32> = case.input("u")?.iter::<f32>().collect();
    let mut outputs = Outputs::default();
    let rule = Sampling::Segments;
    for &length in &config.new_lengths {
        let videos = config.videos(length)?;
        for &segments in &config.segments {
            let name = |rule: &str| format!("{rule}.T{segments}.L{length}");
            let train = table(videos, &stream, |frames, draw| rule.train(frames, segments, length, draw));
            outputs.data(name("train"), train);
            let validation =
                table(videos, &stream, |frames, draw| rule.validation(frames, segments, length, draw));
            outputs.data(name("val"), validation);
            let test = |rule: Sampling| {
                table(videos, &stream, |frames, _| rule.test(frames, segments, length, 1).concat())
            };
            outputs.data(name("test"), test(rule));
            outputs.data(name("twice"), test(Sampling::Twice));
        }
        for counts in &config.triples {
            let [high, middle, low] = *counts;
            let ascending = [low, middle, high];
            let sequences = table(videos, &stream, |frames, draw| {
                let order = rule.draw_order(ascending.len()).into_iter().map(|place| ascending[place]);
                order.flat_map(|count| rule.train(frames, count, length, draw)).collect()
            });
            outputs.data(format!("multi.{high}_{middle}_{low}.L{length}"), sequences);
        }
    }
    dense(&config, &stream, &mut outputs)?;
    intervals(&config, &stream, &mut outputs)?;
    Ok(outputs)
}

fn dense(config: &Config, stream: &[f32], outputs: &mut Outputs) -> Result<()> {
    let length = config.dense_new_length;
    let videos = config.videos(length)?;
    for &segments in &config.segments {
        let rule = Sampling::Dense;
        let train = table(videos, stream, |frames, draw| rule.train(frames, segments, length, draw));
        outputs.data(format!("dense_train.T{segments}"), train);
        let clips = config.dense_test_clips;
        let test = table(videos, stream, |frames, _| rule.test(frames, segments, length, clips).concat());
        outputs.data(format!("dense_test.T{segments}"), test);
    }
    Ok(())
}

fn intervals(config: &Config, stream: &[f32], outputs: &mut Outputs) -> Result<()> {
    let rule = Sampling::Intervals;
    let length = config.slowfast_new_length;
    let videos = config.videos(length)?;
    let [high, middle, low] = config.slowfast_frames;
    let ascending = [("L", low), ("M", middle), ("H", high)];
    let order: Vec<(&str, usize)> =
        rule.draw_order(ascending.len()).into_iter().map(|place| ascending[place]).collect();
    if !order.iter().map(|(label, _)| *label).eq(config.slowfast_train_order.iter().map(String::as_str)) {
        let found = format!("{:?}", config.slowfast_train_order);
        return Err(Error::setting("slowfast_train_order", format!("{order:?}"), found));
    }
    let sequences = table(videos, stream, |frames, draw| {
        order.iter().flat_map(|&(_, count)| rule.train(frames, count, length, draw)).collect()
    });
    outputs.data("slowfast.train", sequences);
    for segments in config.slowfast_frames {
        for &views in &config.slowfast_views {
            for view in 0..views {
                let test = table(videos, stream, |frames, _| {
                    rule.test(frames, segments, length, views).swap_remove(view)
                });
                outputs.data(format!("slowfast.test.T{segments}.views{views}.v{view}"), test);
            }
        }
    }
    Ok(())
}
