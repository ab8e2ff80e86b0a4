//! Video networks and video data for [leanburn](https://docs.rs/leanburn).
//!
//! | module | what it holds |
//! |---|---|
//! | [`videos`], [`lists`] | videos as folders of frames, with the official list files, and what makes such lists |
//! | [`sampling`] | which frames make a clip |
//! | [`Modality`], [`transform`] | colours, optical flow or differences, and what is done to the frames of a clip, together |
//! | [`resnet`] | residual networks on frames: TSN, TSM and TEA |
//! | [`slowfast`], [`uniformer`] | SlowFast and UniFormer |
//! | [`ClipClassifier`], [`VideoArchitecture`] | what they and their configurations have in common |
//! | [`evaluate`] | accuracy at several frame counts, with one or several clips a video |
//! | [`schedule`] | learning rates by epoch |
#![cfg_attr(feature = "train", doc = "| [`train`], [`mixing`] | their training |")]
//! | [`ffn`] | FFN: one network for any number of frames |
//!
//! Networks take clips `[batch, frames, channels, height, width]` of any number of frames. Within them videos are frames
//! one behind the other, `[batch * frames, channels, height, width]`.

mod accounting;
mod branches;
pub mod evaluate;
pub mod ffn;
pub mod lists;
#[cfg(feature = "train")]
pub mod mixing;
mod modality;
mod model;
pub mod resnet;
pub mod sampling;
pub mod schedule;
mod shift;
pub mod slowfast;
pub mod tea;
#[cfg(feature = "train")]
pub mod train;
pub mod transform;
pub mod tsm;
pub mod uniformer;
pub mod videos;
mod volume;

pub use branches::{Alter, Alteration, AlterationInitial, Altered, BatchNorms, Branches, LayerNorms};
pub use modality::Modality;
pub use model::{ClipClassifier, Imported, VideoArchitecture};
pub use shift::{temporal_max_pool, temporal_shift};
pub use volume::{Conv3d, Conv3dConfig};

#[cfg(test)]
mod tests {
    use burn::{
        backend::Autodiff,
        module::AutodiffModule,
        tensor::{Tensor, TensorData, Tolerance},
    };
    use burn_flex::Flex;
    use leanburn_core::{checkpoint::Checkpoint, random::Generator};

    use super::*;
    use crate::{resnet::FrameResNetConfig, slowfast::SlowFastConfig, uniformer::UniFormerConfig};

    type Training = Autodiff<Flex>;

    fn clips<B: burn::tensor::backend::Backend>(frames: usize, seed: u64) -> Tensor<B, 5> {
        Generator::new(seed).normal([2, frames, 3, 32, 32], &Default::default())
    }

    fn tsm(branches: Branches) -> FrameResNetConfig {
        FrameResNetConfig::tsm(18, 5, branches).unwrap().with_width(8)
    }

    fn tea(branches: Branches) -> FrameResNetConfig {
        // Parts of six channels, so that motion excitation has one.
        FrameResNetConfig { blocks: vec![1, 1, 2], ..FrameResNetConfig::tea(5, branches).with_width(16) }
    }

    fn slowfast(branches: Branches) -> SlowFastConfig {
        SlowFastConfig::new(5, branches).with_width(16).with_blocks(vec![1, 1, 1, 1])
    }

    fn uniformer(branches: Branches) -> UniFormerConfig {
        UniFormerConfig::new(5, branches)
            .with_embed_dims([8, 8, 16, 16])
            .with_depths([1, 1, 2, 1])
            .with_head_dim(8)
    }

    /// Counts that each architecture can have.
    fn ffn(alteration_kernel: usize) -> Branches {
        let alteration = Alteration { kernel: alteration_kernel, ..Default::default() };
        Branches { alteration: Some(alteration), ..Branches::ffn(&[4, 8]) }
    }

    fn close(found: Tensor<Flex, 2>, expected: Tensor<Flex, 2>) {
        // New classifiers give small logits.
        let largest = expected.clone().abs().max().into_scalar();
        let tolerance = Tolerance::rel_abs(1e-3, 1e-3 * largest);
        found.into_data().assert_approx_eq::<f32>(&expected.into_data(), tolerance);
    }

    /// A trained network of several branches, its branches alone, fused, saved and loaded, all give the same.
    fn check<A: VideoArchitecture>(config: &A)
    where
        A::Network<Training>: AutodiffModule<Training, InnerModule = A::Network<Flex>>,
    {
        let device = Default::default();
        let network = config.init::<Training>(&mut Generator::new(1), &device).unwrap();
        // The running statistics of the branches move apart.
        for (frames, seed) in [(4, 2), (8, 3)] {
            for _ in 0..3 {
                network.forward(clips(frames, seed));
            }
        }
        let network = network.valid();
        let folder = tempfile::tempdir().unwrap();
        for frames in [4, 8, 12] {
            let expected = network.forward(clips(frames, 4));
            let alone = network.clone().into_branch(frames);
            close(alone.forward(clips(frames, 4)), expected.clone());
            close(alone.clone().fuse().forward(clips(frames, 4)), expected.clone());
            let path = folder.path().join(format!("{frames}.safetensors"));
            let branch = config.branch(frames);
            branch.save(&alone, &path).unwrap();
            let checkpoint = Checkpoint::open(&path).unwrap();
            let loaded = VideoArchitecture::load::<Flex>(&branch, &checkpoint, &device).unwrap();
            close(loaded.forward(clips(frames, 4)), expected.clone());
            if frames == 4 {
                // Another branch has other norms.
                let other = network.clone().into_branch(8).forward(clips(frames, 4));
                let largest = expected.clone().abs().max().into_scalar();
                assert!((other - expected).abs().max().into_scalar() > 0.01 * largest);
                let error = VideoArchitecture::load::<Flex>(config, &checkpoint, &device).unwrap_err();
                assert!(error.to_string().contains("_4"), "{error}");
            }
        }
        let path = folder.path().join("all.safetensors");
        config.save(&network, &path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let loaded = VideoArchitecture::load::<Flex>(config, &checkpoint, &device).unwrap();
        close(loaded.forward(clips(8, 4)), network.forward(clips(8, 4)));
    }

    /// An ordinary network's weights, imported into several branches, give the same in each of them.
    fn check_import<A: VideoArchitecture>(plain: &A, config: &A) {
        let device = Default::default();
        let network = plain.init::<Flex>(&mut Generator::new(1), &device).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plain.safetensors");
        plain.save(&network, &path).unwrap();
        let import = |config: &A| {
            let checkpoint = Checkpoint::open(&path).unwrap();
            config.import::<Flex>(checkpoint, &mut Generator::new(2), &device).unwrap()
        };
        let imported = import(config);
        assert!(imported.kept.iter().all(|name| name.contains("adaconv")), "{:?}", imported.kept);
        assert!(imported.unused.is_empty(), "{:?}", imported.unused);
        let expected = network.forward(clips(4, 4));
        for count in [4, 8] {
            let found = imported.network.clone().into_branch(count).forward(clips(4, 4));
            // Alterations are small at first.
            let difference = (found - expected.clone()).abs().max().into_scalar();
            assert!(difference < 0.02 * expected.clone().abs().max().into_scalar(), "{difference}");
        }
        let ordinary = import(plain);
        let found = ordinary.network.forward(clips(8, 4));
        close(found, network.forward(clips(8, 4)));
    }

    #[test]
    fn tsm_has_branches() {
        check(&tsm(ffn(1)));
        check(&tsm(ffn(3)));
        check(&FrameResNetConfig { dropout: 0.0, ..tsm(ffn(1)) });
        check_import(&tsm(Branches::single(4)), &tsm(ffn(1)));
    }

    #[test]
    fn tea_has_branches() {
        check(&tea(ffn(1)));
        check(&tea(Branches { alteration: None, ..ffn(1) }));
        check_import(&tea(Branches::single(4)), &tea(ffn(1)));
    }

    #[test]
    fn slowfast_has_branches() {
        check(&slowfast(ffn(1)));
        check(&slowfast(ffn(3)));
        check_import(&slowfast(Branches::single(4)), &slowfast(ffn(1)));
    }

    #[test]
    fn uniformer_has_branches() {
        check(&uniformer(ffn(1)));
        check(&uniformer(ffn(3)));
        check_import(&uniformer(Branches::single(4)), &uniformer(ffn(1)));
    }

    #[test]
    fn costs_are_the_published_ones() {
        let cost = |depth: usize, classes: usize, branches: Branches| {
            FrameResNetConfig::tsm(depth, classes, branches).unwrap().cost(1, [224, 224])
        };
        let millions = |macs: usize| (macs as f64 / 1e6).round();
        for (depth, macs) in [(18, 1814.0), (50, 4087.0), (101, 7799.0)] {
            assert!((millions(cost(depth, 1000, Branches::single(1)).macs) - macs).abs() <= 3.0, "{depth}");
        }
        let counts = [4, 8, 16];
        assert_eq!(cost(50, 1000, Branches::single(8)).params_all, 25_557_032);
        assert_eq!(cost(50, 174, Branches::single(8)).params_all, 23_864_558);
        assert_eq!(cost(50, 1000, Branches::ffn(&counts)).params_all, 25_702_632);
        assert_eq!(cost(50, 174, Branches::ffn(&counts)).params_all, 24_010_158);
        let extra = cost(50, 174, Branches::ffn(&counts)).macs - cost(50, 174, Branches::single(8)).macs;
        assert!((extra as f64 / 1e6 - 5.6).abs() < 0.1, "{extra}");
        // UniFormer-S at 4, 8 and 16 frames, about 8, 17.5 and 42; SlowFast at 16, 32 and 64, about 25, 50 and 101.
        for (frames, expected) in [(4, 8.0), (8, 17.5), (16, 42.0)] {
            let found =
                UniFormerConfig::new(174, Branches::single(16)).cost(frames, [224, 224]).macs as f64 / 1e9;
            assert!((found - expected).abs() < 0.06 * expected, "{frames}: {found}");
        }
        for (frames, expected) in [(16, 25.0), (32, 50.0), (64, 101.0)] {
            let found =
                SlowFastConfig::new(174, Branches::single(64)).cost(frames, [224, 224]).macs as f64 / 1e9;
            assert!((found - expected).abs() < 0.1 * expected, "{frames}: {found}");
        }
    }

    /// All parameters are those that the accounting counts.
    fn check_cost<A: VideoArchitecture>(config: &A) {
        let network = config.init::<Flex>(&mut Generator::new(1), &Default::default()).unwrap();
        let all = leanburn_core::checkpoint::tensors(&network, |path| config.published_name(path)).unwrap();
        let learned = all.iter().filter(|(name, _)| !name.contains("running_"));
        let count: usize = learned.map(|(_, data)| data.num_elements()).sum();
        assert_eq!(config.cost(8, [32, 32]).params_all, count);
    }

    #[test]
    fn parameters_are_counted() {
        for branches in [Branches::single(8), ffn(1), ffn(3), Branches { private_norms: false, ..ffn(1) }] {
            check_cost(&tsm(branches.clone()));
            check_cost(&tea(branches.clone()));
            check_cost(&slowfast(branches.clone()));
            check_cost(&uniformer(branches));
        }
    }

    #[test]
    fn a_branch_learns_alone() {
        let config = tsm(Branches::ffn(&[2, 4]));
        let network = config.init::<Training>(&mut Generator::new(1), &Default::default()).unwrap();
        let gradients = network.forward(clips(2, 2)).sum().backward();
        let norms = network.bn1.as_ref().unwrap();
        assert!(norms.branches[0].gamma.grad(&gradients).is_some());
        assert!(norms.branches[1].gamma.grad(&gradients).is_none());
    }

    #[test]
    fn videos_stay_apart_but_with_the_published_shift() {
        let device = Default::default();
        for (shift, apart) in [(resnet::Shift::Own, true), (resnet::Shift::High, false)] {
            let config = tsm(Branches::ffn(&[2, 4])).with_shift(shift);
            let network = config.init::<Training>(&mut Generator::new(1), &device).unwrap();
            // Norms by running statistics, so that only the shift can mix videos.
            let network = network.with_frozen_norms(true);
            let order = Tensor::from_ints([1, 0], &device);
            let turned = network.forward(clips::<Training>(2, 3).select(0, order));
            let back = turned.inner().flip([0]);
            let expected = network.forward(clips(2, 3)).inner();
            let difference = (back - expected).abs().max().into_scalar();
            assert_eq!(difference < 1e-5, apart, "{difference}");
        }
    }

    /// A network takes clips of any number of frames, and what they cost is known.
    fn check_any_count<A: VideoArchitecture>(config: &A) {
        let network = config.init::<Flex>(&mut Generator::new(1), &Default::default()).unwrap();
        for frames in 1..=9 {
            assert_eq!(network.forward(clips(frames, 2)).dims(), [2, 5], "{frames}");
            assert!(config.cost(frames, [32, 32]).macs > 0);
        }
    }

    #[test]
    fn any_number_of_frames_is_served() {
        check_any_count(&tsm(ffn(1)));
        check_any_count(&tea(ffn(1)));
        check_any_count(&slowfast(ffn(1)));
        check_any_count(&uniformer(ffn(1)));
    }

    #[test]
    fn other_frame_counts_are_told_from_the_files_own() {
        let device = Default::default();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("three.safetensors");
        let config = tsm(Branches::ffn(&[2, 4, 8]));
        config.save(&config.init::<Flex>(&mut Generator::new(1), &device).unwrap(), &path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert!(VideoArchitecture::load::<Flex>(&config, &checkpoint, &device).is_ok());
        let other = tsm(Branches::ffn(&[4, 8, 16]));
        let error = VideoArchitecture::load::<Flex>(&other, &checkpoint, &device).unwrap_err().to_string();
        assert!(error.contains("[4, 8, 16]") && error.contains("[2, 4, 8]"), "{error}");
        // Networks of the same branches start from them whole.
        let imported = config.import::<Flex>(checkpoint.clone(), &mut Generator::new(2), &device).unwrap();
        assert!(imported.kept.is_empty() && imported.unused.is_empty());
        let expected = VideoArchitecture::load::<Flex>(&config, &checkpoint, &device).unwrap();
        close(imported.network.forward(clips(2, 4)), expected.forward(clips(2, 4)));
    }

    #[test]
    fn the_original_names_of_a_shift_are_known() {
        let device = Default::default();
        let config = tsm(Branches::single(4));
        let network = config.init::<Flex>(&mut Generator::new(1), &device).unwrap();
        let tensors =
            leanburn_core::checkpoint::tensors(&network, |path| config.published_name(path)).unwrap();
        let tensors =
            tensors.into_iter().map(|(name, data)| (name.replace(".conv1.w", ".conv1.net.w"), data));
        let checkpoint = Checkpoint::from_tensors("tsm.pth", tensors.collect::<Vec<_>>());
        let loaded = VideoArchitecture::load::<Flex>(&config, &checkpoint, &device).unwrap();
        close(loaded.forward(clips(4, 2)), network.forward(clips(4, 2)));
    }

    #[test]
    fn an_image_networks_weights_are_slowfasts_slow_pathway() {
        let device = Default::default();
        let config = slowfast(Branches::single(8));
        let network = config.init::<Flex>(&mut Generator::new(1), &device).unwrap();
        let tensors =
            leanburn_core::checkpoint::tensors(&network, |path| config.published_name(path)).unwrap();
        // The slow pathway as ResNet names it, with kernels of images, without what comes over from the fast one.
        let names = [(".branch2.a_bn", ".bn1"), (".branch2.b_bn", ".bn2"), (".branch2.c_bn", ".bn3")];
        let names = names.into_iter().chain([(".branch2.a.", ".conv1."), (".branch2.b.", ".conv2.")]);
        let names = names.chain([(".branch2.c.", ".conv3."), (".branch1_bn", ".downsample.1")]);
        let names: Vec<_> = names.chain([(".branch1.", ".downsample.0.")]).collect();
        let image = tensors.into_iter().filter(|(name, _)| name.contains("pathway0")).map(|(name, data)| {
            let mut name =
                name.replace("s1.pathway0_stem.bn", "bn1").replace("s1.pathway0_stem.conv", "conv1");
            for stage in 2..6 {
                name = name.replace(&format!("s{stage}.pathway0_res"), &format!("layer{}.", stage - 1));
            }
            for (from, to) in &names {
                name = name.replace(from, to);
            }
            let data = match data.shape[..] {
                [output, input, _, height, width] => {
                    // Of the first convolutions of stages a part comes from the fast pathway.
                    let input = if name.contains(".0.conv1") || name.contains("downsample") {
                        input * 4 / 5
                    } else {
                        input
                    };
                    let count = output * input * height * width;
                    TensorData::new(vec![0.5_f32; count], [output, input, height, width])
                }
                _ => data,
            };
            (name, data)
        });
        let checkpoint = Checkpoint::from_tensors("resnet50.pth", image.collect::<Vec<_>>());
        let imported = config.import::<Flex>(checkpoint, &mut Generator::new(2), &device).unwrap();
        let expected = ["pathway1", "_fuse", "head."];
        assert!(imported.kept.iter().all(|name| expected.iter().any(|part| name.contains(part))));
        assert!(imported.unused.is_empty(), "{:?}", imported.unused);
        let a = &imported.network.stages[3].pathways[0][0].branch2.a.weight.val();
        let [_, input, time, ..] = a.dims();
        assert_eq!(time, 3);
        let spread = a.clone().narrow(1, 0, input * 4 / 5).sum_dim(2);
        assert!((spread - 0.5).abs().max().into_scalar() < 1e-6);
        assert!(a.clone().narrow(1, input * 4 / 5, 1).abs().max().into_scalar() < 0.5);
    }

    #[test]
    fn first_layers_for_other_channels_get_the_mean_over_colours() {
        let device = Default::default();
        let colours = tsm(Branches::single(4));
        let network = colours.init::<Flex>(&mut Generator::new(1), &device).unwrap();
        let tensors =
            leanburn_core::checkpoint::tensors(&network, |path| colours.published_name(path)).unwrap();
        let flow = tsm(ffn(1)).with_in_channels(Modality::Flow { length: 5 }.channels());
        let checkpoint = Checkpoint::from_tensors("rgb.pth", tensors);
        let imported = flow.import::<Flex>(checkpoint, &mut Generator::new(2), &device).unwrap();
        let found = imported.network.conv1.weight.val();
        let expected = network.conv1.weight.val().mean_dim(1).expand(found.dims());
        let tolerance = Tolerance::rel_abs(1e-5, 1e-6);
        found.into_data().assert_approx_eq::<f32>(&expected.into_data(), tolerance);
    }

    #[test]
    fn the_slow_pathway_sees_what_its_setting_says() {
        let config = slowfast(Branches::ffn(&[4, 8, 16]));
        let device = Default::default();
        let network = |frames| {
            let config = config.clone().with_slow_frames(frames);
            config.init::<Training>(&mut Generator::new(1), &device).unwrap()
        };
        let concatenated = network(slowfast::SlowFrames::Concatenated);
        // Of 16, 4 and 8 frames laid end to end: 0, 4, 9, 13; 18; 22, 27.
        for (frames, seen) in [(16, vec![0, 4, 9, 13]), (4, vec![2]), (8, vec![2, 7])] {
            assert_eq!(concatenated.slow_index(frames, true), seen);
        }
        assert_eq!(concatenated.slow_index(16, false), [0, 5, 10, 15]);
        // In training alone do the stems differ.
        let slow = |network: &slowfast::SlowFast<Training>| network.forward_stems(clips(16, 3)).slow.inner();
        let per_clip = network(slowfast::SlowFrames::PerClip);
        let difference = |a: Tensor<Flex, 4>, b: Tensor<Flex, 4>| (a - b).abs().max().into_scalar();
        assert!(difference(slow(&concatenated), slow(&per_clip)) > 1e-3);
        let valid = |frames| network(frames).valid().forward_stems(clips(16, 3)).slow;
        let (one, other) = (valid(slowfast::SlowFrames::Concatenated), valid(slowfast::SlowFrames::PerClip));
        assert_eq!(difference(one, other), 0.0);
    }

    #[test]
    fn pooled_frames_are_half_as_many() {
        let device = Default::default();
        let config = FrameResNetConfig::tsn(18, 5, Branches::single(8)).unwrap().with_width(8);
        let init = |config: &FrameResNetConfig| config.init::<Flex>(&mut Generator::new(1), &device).unwrap();
        let pooled = config.clone().with_temporal_pool(true);
        let (whole, half) = (init(&config), init(&pooled));
        // The largest of equal frames is what they are.
        let still = clips::<Flex>(1, 2).repeat_dim(1, 8);
        close(half.forward(still.clone()), whole.forward(still));
        let moving = clips::<Flex>(7, 2);
        assert_eq!(half.forward_features(moving.clone()).1, 4);
        let difference = half.forward(moving.clone()) - whole.forward(moving);
        assert!(difference.abs().max().into_scalar() > 1e-5);
        assert!(pooled.cost(8, [32, 32]).macs < config.cost(8, [32, 32]).macs);
    }

    #[test]
    fn the_published_shift_takes_whole_clips_alone() {
        let config = tsm(Branches::ffn(&[2, 8])).with_shift(resnet::Shift::High);
        assert!(config.check_batch(4).is_ok());
        assert!(config.check_batch(3).unwrap_err().to_string().contains("batch_size"));
        assert!(tsm(Branches::ffn(&[2, 8])).check_batch(3).is_ok());
    }

    #[test]
    fn the_batch_does_not_matter_in_evaluation() {
        let device = Default::default();
        let network = uniformer(ffn(1)).init::<Flex>(&mut Generator::new(1), &device).unwrap();
        let both = network.forward(clips(4, 3));
        let one = network.forward(clips(4, 3).narrow(0, 1, 1));
        close(both.narrow(0, 1, 1), one);
    }

    #[test]
    fn paths_are_dropped_in_training_alone() {
        let device = Default::default();
        let network =
            uniformer(ffn(1)).with_drop_path(0.9).init::<Flex>(&mut Generator::new(1), &device).unwrap();
        let whole = network.forward(clips(4, 3));
        let with = |seed| network.forward_train(clips(4, 3), &mut Generator::new(seed));
        assert!((with(1) - whole.clone()).abs().max().into_scalar() > 1e-4);
        close(with(1), with(1));
        let kept =
            uniformer(ffn(1)).with_drop_path(0.0).init::<Flex>(&mut Generator::new(1), &device).unwrap();
        close(kept.forward_train(clips(4, 3), &mut Generator::new(1)), whole);
    }

    #[test]
    fn image_weights_become_video_weights() {
        let device = Default::default();
        let config = uniformer(Branches::single(4));
        let network = config.init::<Flex>(&mut Generator::new(1), &device).unwrap();
        let tensors =
            leanburn_core::checkpoint::tensors(&network, |path| config.published_name(path)).unwrap();
        // Kernels without time, as an image network has them, under a wrapper and with another head.
        let tensors = tensors.into_iter().map(|(name, data)| {
            let data = match data.shape[..] {
                [output, input, _, height, width] => {
                    let count = output * input * height * width;
                    TensorData::new(vec![0.5_f32; count], [output, input, height, width])
                }
                _ if name == "head.weight" => TensorData::new(vec![0.5_f32; 48], [3, 16]),
                _ => data,
            };
            (format!("model.{name}"), data)
        });
        let tensors: Vec<_> = tensors.collect();
        let checkpoint = Checkpoint::from_tensors("image.pth", tensors);
        let imported = config.import::<Flex>(checkpoint, &mut Generator::new(2), &device).unwrap();
        assert_eq!(imported.kept, ["head.weight"]);
        let proj = imported.network.stages[0].patch_embed.proj.weight.val();
        assert!((proj.sum_dim(2) - 0.5).abs().max().into_scalar() < 1e-6);
    }

    #[test]
    fn settings_are_checked() {
        let device = Default::default();
        let mut generator = Generator::new(1);
        let error = |result: leanburn_core::Result<()>| result.unwrap_err().to_string();
        let mut of =
            |config: FrameResNetConfig| error(config.init::<Flex>(&mut generator, &device).map(drop));
        assert!(of(tsm(Branches::single(0))).contains("branches.counts"));
        assert!(of(tsm(ffn(1)).with_fold_div(1)).contains("fold_div"));
        assert!(of(tsm(ffn(1)).with_dropout(1.0)).contains("dropout"));
        assert!(of(tea(ffn(1)).with_width(8)).contains("width"));
        assert!(error(FrameResNetConfig::tsm(19, 5, ffn(1)).map(drop)).contains("depth"));
        let slow = slowfast(Branches::ffn(&[4, 6])).init::<Flex>(&mut generator, &device).map(drop);
        assert!(error(slow).contains("alpha"));
        let heads = uniformer(ffn(1)).with_head_dim(7).init::<Flex>(&mut generator, &device).map(drop);
        assert!(error(heads).contains("head_dim"));
    }
}
