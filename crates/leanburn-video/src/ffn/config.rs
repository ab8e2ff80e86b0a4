use leanburn_core::architecture::Cost;
use serde::{Deserialize, Serialize};

use crate::{
    model::VideoArchitecture,
    schedule::{EpochDecay, EpochSchedule, WarmUp},
};

/// How the published networks were trained: table 4 of the supplement and the released commands. The parameter groups are
/// those of `tsn_groups`, `slowfast_groups` and `uniformer_groups`; all recipes have a `Alignment` of weight 1 and start
/// from the weights that are named here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The frame counts.
    pub counts: Vec<usize>,
    /// The learning rate, and the epochs.
    pub schedule: EpochSchedule,
    /// Videos of a batch, on all devices together.
    pub batch_size: usize,
    /// Decay of the weights.
    pub weight_decay: f64,
    /// Momentum of stochastic gradient descent; `None` for `AdamW`.
    pub momentum: Option<f64>,
    /// The probability of dropout.
    pub dropout: f64,
    /// The largest norm of all gradients, where there is one.
    pub clip_norm: Option<f64>,
    /// How many draws of a video a batch has.
    pub copies: usize,
    /// Whether batches are mixed, by mixup and CutMix.
    pub mixed: bool,
    /// From which weights training starts.
    pub start: String,
}

impl Recipe {
    /// TSM on Something-Something: from `ImageNet`'s weights.
    pub fn tsm_something() -> Self {
        Self {
            counts: vec![4, 8, 16],
            schedule: EpochSchedule::steps(0.01, 50, &[20, 40]),
            batch_size: 32,
            weight_decay: 5e-4,
            momentum: Some(0.9),
            dropout: 0.5,
            clip_norm: None,
            copies: 1,
            mixed: false,
            start: "ImageNet".to_owned(),
        }
    }

    /// TSM on Kinetics-400: from `ImageNet`'s weights.
    pub fn tsm_kinetics() -> Self {
        Self { weight_decay: 1e-4, ..Self::tsm_something() }
    }

    /// TEA on Something-Something: from Res2Net's `ImageNet` weights.
    pub fn tea() -> Self {
        let schedule = EpochSchedule::steps(0.02, 50, &[30, 40, 45]);
        Self { schedule, start: "ImageNet, Res2Net-50 26w x 4s".to_owned(), ..Self::tsm_something() }
    }

    /// SlowFast on Something-Something: from Kinetics-400's weights.
    pub fn slowfast() -> Self {
        let schedule = EpochSchedule {
            base: 0.03,
            epochs: 22,
            decay: EpochDecay::Steps(vec![(14.0, 0.1), (18.0, 0.01)]),
            warmup: Some(WarmUp { epochs: 0.19, start: 1e-4 }),
            every_step: true,
        };
        Self {
            counts: vec![16, 32, 64],
            schedule,
            batch_size: 16,
            weight_decay: 1e-6,
            start: "Kinetics-400, SLOWFAST_8x8_R50".to_owned(),
            ..Self::tsm_something()
        }
    }

    /// UniFormer-S on Something-Something: from Kinetics-600's weights.
    pub fn uniformer() -> Self {
        let schedule = EpochSchedule {
            base: 2e-4,
            epochs: 60,
            decay: EpochDecay::Cosine { end: 1e-6 },
            warmup: Some(WarmUp { epochs: 5.0, start: 1e-6 }),
            every_step: true,
        };
        Self {
            schedule,
            weight_decay: 0.05,
            momentum: None,
            dropout: 0.0,
            clip_norm: Some(20.0),
            copies: 2,
            mixed: true,
            start: "Kinetics-600, UniFormer-S 16x4".to_owned(),
            ..Self::tsm_something()
        }
    }
}

/// What a clip of a number of frames costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Frames.
    pub frames: usize,
    /// The frame count of the branch that serves them.
    pub branch: usize,
    /// Its cost.
    pub cost: Cost,
}

/// The most frames whose multiply-accumulate operations stay within a budget, with the branch that serves them; `None`
/// when one frame is too much.
///
/// - size: height and width of frames
/// - available: how many frames there are
pub fn within_budget(
    architecture: &impl VideoArchitecture,
    macs: usize,
    size: [usize; 2],
    available: usize,
) -> Option<Choice> {
    let choice = |frames: usize| {
        let branches = architecture.branches();
        let branch = branches.counts[branches.nearest(frames)];
        Choice { frames, branch, cost: architecture.cost(frames, size) }
    };
    (1..=available).rev().map(choice).find(|choice| choice.cost.macs <= macs)
}
