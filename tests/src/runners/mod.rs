//! One runner a kind, grouped by method.

mod ffn;
mod lgi;
mod mft;
mod pruning;
mod sla2p;
mod video_sampling;
mod video_transforms;

use leanburn::{
    core::{Error, Result},
    prelude::DispatchDevice,
};

use crate::{case::Case, comparison::Outputs};

/// Computes a case on a device.
type Runner = fn(&Case, &DispatchDevice) -> Result<Outputs>;

/// Every kind's runner.
const RUNNERS: [(&str, Runner); 49] = [
    ("cost_accounting", pruning::cost_accounting),
    ("fcn_eval", sla2p::fcn_eval),
    ("fcn_train", sla2p::fcn_train),
    ("ffn_blocks", ffn::blocks),
    ("ffn_evaluate", ffn::evaluate),
    ("ffn_imagenet_import", ffn::imagenet_import),
    ("ffn_loss", ffn::loss),
    ("ffn_slowfast", ffn::slowfast),
    ("ffn_tea_blocks", ffn::tea_blocks),
    ("ffn_tsm_eval", ffn::tsm),
    ("ffn_tsm_train", ffn::tsm_train),
    ("ffn_uniformer", ffn::uniformer),
    ("filter_pruning", pruning::filter_pruning),
    ("filter_scores", pruning::filter_scores),
    ("gcn_train", lgi::gcn_train),
    ("generation", mft::generation),
    ("goad", sla2p::goad),
    ("greg_run", pruning::greg_run),
    ("grcn_loss", lgi::grcn_loss),
    ("idgl_epoch", lgi::idgl_epoch),
    ("image_preprocess", sla2p::image_preprocess),
    ("isometry_reinit", pruning::isometry_reinit),
    ("jsv_modes", pruning::jsv_modes),
    ("knn_graph", lgi::knn_graph),
    ("llama_forward", mft::llama_forward),
    ("lof_pca", sla2p::lof_pca),
    ("lora", mft::lora),
    ("mask_algorithms", mft::mask_algorithms),
    ("metrics", sla2p::metrics),
    ("mft_step", mft::mft_step),
    ("orth_losses", pruning::orth_losses),
    ("orthp_reinit", pruning::orthp_reinit),
    ("planetoid_gcn", lgi::planetoid_gcn),
    ("pruning_jsv", pruning::pruning_jsv),
    ("pruning_schedules", pruning::pruning_schedules),
    ("resnet_features", sla2p::resnet_features),
    ("restore_graph", lgi::restore_graph),
    ("scores", sla2p::scores),
    ("sgd_training", pruning::sgd_training),
    ("slaps_loss", lgi::slaps_loss),
    ("slaps_mask", lgi::slaps_mask),
    ("starved_nodes", lgi::starved_nodes),
    ("temporal_shift", ffn::shift),
    ("tpp_run", pruning::tpp_run),
    ("tsm_eval", ffn::tsm),
    ("unstructured_pruning", pruning::unstructured_pruning),
    ("video_sampling", video_sampling::video_sampling),
    ("video_schedules", ffn::schedules),
    ("video_transforms", video_transforms::video_transforms),
];

/// Computes `case` by the runner of its kind.
///
/// # Errors
///
/// When the kind has no runner, or the runner fails.
pub fn run(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    let kind = case.kind();
    let runner = RUNNERS.iter().find(|(name, _)| *name == kind);
    let (_, runner) = runner.ok_or_else(|| {
        let kinds: Vec<&str> = RUNNERS.iter().map(|(name, _)| *name).collect();
        Error::data(
            "manifest, kind",
            format!("one of {}", kinds.join(", ")),
            format!("`{kind}`, which has no runner"),
        )
    })?;
    runner(case, device)
}
