//! Learning methods that get more out of less, on the [Burn](https://burn.dev) framework.
//!
//! leanburn implements published methods completely, each faithful to its paper, on CUDA, on Vulkan, Metal and WebGPU
//! through WGPU, and on the CPU, with the weights and data that you already have.
//!
//! | feature | field | methods |
//! |---|---|---|
//! | `anomaly` | [`anomaly`] | [SLA2P](anomaly::sla2p), its variant SLA, and [baselines](anomaly::baselines) |
//! | `graph` | [`graph`] | [LGI-LS](graph::lgi), and SLAPS, GRCN and IDGL as [learners](graph::learners) of graphs |
//! | `language` | [`language`] | [MFT](language::mft), and LLaMA, [LoRA](language::lora) and generation |
//! | `pruning` | [`pruning`] | filters and weights selected, masked and really removed |
//! | `video` | [`video`] | [FFN](video::ffn), and TSN, TSM, TEA, SlowFast and UniFormer |
//! | `vision` | [`vision`] | the image networks that are pruned |
//!
//! Backends are features too: `flex` (CPU, the default), `ndarray` (CPU), `cuda`, and at most one of `wgpu`, `vulkan`,
//! `metal` and `webgpu`. All models are generic over Burn's `Backend`; [`device`] picks one at run time.
//!
#![cfg_attr(all(feature = "anomaly", feature = "flex"), doc = "```")]
#![cfg_attr(not(all(feature = "anomaly", feature = "flex")), doc = "```ignore")]
//! use leanburn::prelude::*;
//!
//! fn main() -> Result<()> {
//!     let device = leanburn::device::autodiff(leanburn::device::parse("flex")?);
//!     let table = leanburn_datasets::angular(7); // or `Table::open("table.csv", None)?`
//!     let config = Sla2pConfig::new().with_projections(16).with_width(16).with_epsilon(10.0);
//!     let detector = config.fit::<Dispatch>(&table, &device)?;
//!     let scores = detector.score(&table)?;
//!     println!("most anomalous first: {:?}", scores.rank());
//!     Ok(())
//! }
//! ```

#[cfg(any(
    all(feature = "vulkan", feature = "metal"),
    all(feature = "vulkan", feature = "webgpu"),
    all(feature = "metal", feature = "webgpu"),
))]
compile_error!(
    "enable one of leanburn's features `vulkan`, `metal` and `webgpu`: Burn has one WGPU flavour a build"
);

pub mod device;

pub use burn;
#[cfg(feature = "anomaly")]
pub use leanburn_anomaly as anomaly;
pub use leanburn_core as core;
#[cfg(feature = "graph")]
pub use leanburn_graph as graph;
#[cfg(feature = "language")]
pub use leanburn_language as language;
#[cfg(feature = "pruning")]
pub use leanburn_pruning as pruning;
#[cfg(feature = "video")]
pub use leanburn_video as video;
#[cfg(feature = "vision")]
pub use leanburn_vision as vision;

/// What most programs use.
pub mod prelude {
    #[cfg(feature = "anomaly")]
    pub use crate::anomaly::{
        Evaluation, Scores,
        preprocessing::PreprocessingConfig,
        sla2p::{Sla2p, Sla2pConfig},
    };
    pub use crate::core::{Error, Result, table::Table};
    #[cfg(feature = "graph")]
    pub use crate::graph::{
        Features, Graph, NodeSet, Split,
        knn::KnnConfig,
        learners::GraphModel,
        lgi::{Experiment, Lgi, LgiConfig, RestorationConfig},
    };
    pub use burn::{Dispatch, DispatchDevice};
}
