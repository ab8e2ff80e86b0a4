//! How long a network really takes: multiply-accumulate operations overstate what pruning gains.

use std::time::Instant;

use burn::tensor::{Tensor, backend::Backend};
use leanburn_core::{Error, Result, metrics::percentile};
use leanburn_vision::Classifier;
use serde::{Deserialize, Serialize};

/// The time of forward passes, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Images of a batch.
    pub batch: usize,
    /// Passes that were timed.
    pub runs: usize,
    /// Half of them took at most as long.
    pub median: f64,
    /// A quarter of them did.
    pub lower_quartile: f64,
    /// Three quarters of them did.
    pub upper_quartile: f64,
    /// Cores of the machine.
    pub cores: usize,
}

impl Latency {
    /// Times the fused network on random images: `warm_up` passes first, then `runs` passes, each until its logits are on
    /// the host.
    ///
    /// - shape: `[batch, channels, height, width]`
    ///
    /// # Errors
    ///
    /// When there is no pass to time, or logits cannot be read.
    pub fn measure<B: Backend, N: Classifier<B>>(
        network: &N,
        shape: [usize; 4],
        [warm_up, runs]: [usize; 2],
        device: &B::Device,
    ) -> Result<Self> {
        let mut latencies = Self::measure_all::<B, N>(&[network], shape, [warm_up, runs], device)?;
        Ok(latencies.remove(0))
    }

    /// Times several networks in turn, pass by pass, so that what else the machine does falls on all of them.
    ///
    /// # Errors
    ///
    /// As [`measure`](Self::measure).
    pub fn measure_all<B: Backend, N: Classifier<B>>(
        networks: &[&N],
        shape: [usize; 4],
        [warm_up, runs]: [usize; 2],
        device: &B::Device,
    ) -> Result<Vec<Self>> {
        if runs == 0 || shape.contains(&0) {
            let expected = "at least one run of one image";
            return Err(Error::setting("runs, shape", expected, format!("{runs}, {shape:?}")));
        }
        let images = leanburn_core::random::Generator::new(0).normal::<B, 4>(shape, device);
        let fused: Vec<N> = networks.iter().map(|&network| network.clone().fuse()).collect();
        let mut times = vec![Vec::with_capacity(runs); fused.len()];
        for run in 0..warm_up + runs {
            for (network, times) in fused.iter().zip(&mut times) {
                let milliseconds = pass::<B, N>(network, images.clone())?;
                if run >= warm_up {
                    times.push(milliseconds);
                }
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let of = |times: Vec<f64>| {
            let [lower_quartile, median, upper_quartile] =
                [25.0, 50.0, 75.0].map(|percent| percentile(&times, percent).unwrap_or(f64::NAN));
            Self { batch: shape[0], runs, median, lower_quartile, upper_quartile, cores }
        };
        Ok(times.into_iter().map(of).collect())
    }
}

/// One pass, in milliseconds.
fn pass<B: Backend, N: Classifier<B>>(network: &N, images: Tensor<B, 4>) -> Result<f64> {
    let start = Instant::now();
    let logits = network.forward(images).try_into_data();
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    logits.map_err(|error| Error::data("logits", "values on the host", format!("{error:?}")))?;
    Ok(milliseconds)
}
