use std::sync::Arc;

use burn::{
    backend::Autodiff,
    module::AutodiffModule,
    tensor::{TensorData, Tolerance},
};
use burn_flex::Flex;
use leanburn_core::{
    checkpoint,
    train::{EpochReport, Hook, TrainingConfig},
};

use super::*;
use crate::{
    llama::{Llama, LlamaConfig},
    lora::LoraConfig,
    mft::{MaskHook, MaskStart, MaskedLlama, ScoreInitial, Subnet},
};

type B = Autodiff<Flex>;

fn base() -> Llama<B> {
    let config = LlamaConfig::new(32, 16, 24, 3, 4)
        .with_num_key_value_heads(Some(2))
        .with_initializer_range(0.3)
        .with_tie_word_embeddings(true);
    config.init(&mut Generator::new(1), &Default::default()).unwrap()
}

fn masked() -> MaskedLlama<B> {
    let subnet = Subnet::new([1, 2]);
    MaskedLlama::new(base(), subnet, ScoreInitial::Normal(0.02), &mut Generator::new(2)).unwrap()
}

fn texts() -> Vec<Encoded> {
    let mut generator = Generator::new(7);
    (0..12)
        .map(|text| {
            let tokens: Vec<u32> = (0..3 + text % 5).map(|_| generator.below(32) as u32).collect();
            let learned = (0..tokens.len()).map(|place| place != 1).collect();
            Encoded { tokens, learned }
        })
        .collect()
}

fn batch() -> TokenBatch<B> {
    let texts = texts();
    let rows: Vec<Vec<&Encoded>> = texts.chunks(2).map(|row| row.iter().collect()).collect();
    TokenBatch { noise: 5, ..TokenBatch::packed(&rows, 0, &Default::default()).unwrap() }
}

/// Checks that gradients by layers are those of the whole.
fn check_checkpointing<N: Trainable<B>>(network: &N)
where
    N::InnerModule: CausalLm<Flex> + ModuleDisplay,
{
    for reduction in [Reduction::Mean, Reduction::Sum] {
        let whole = FineTuning::<B, N>::new(network.clone(), reduction);
        let (loss, expected) = whole.gradients(&batch());
        let (found_loss, found) = whole.clone().with_checkpointing().gradients(&batch());
        let difference = (loss - found_loss).abs().into_scalar();
        assert!(difference < 1e-5);
        assert_eq!(found.len(), expected.len());
        for (path, id) in leanburn_core::train::parameter_paths::<B, N>(network) {
            let get = |gradients: &GradientsParams| -> Option<TensorData> {
                let matrix = gradients.get::<Flex, 2>(id).map(Tensor::into_data);
                matrix.or_else(|| gradients.get::<Flex, 1>(id).map(Tensor::into_data))
            };
            let Some(expected) = get(&expected) else { continue };
            let found = get(&found).unwrap_or_else(|| panic!("{path}"));
            found.assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(1e-3, 1e-5));
        }
    }
}

#[test]
fn gradients_by_layers_are_those_of_the_whole() {
    check_checkpointing(&masked());
    check_checkpointing(&LoraConfig::new().with_rank(3).init(base(), &mut Generator::new(3)).unwrap());
    check_checkpointing(&base());
    let biased = LlamaConfig::new(32, 16, 24, 2, 4)
        .with_initializer_range(0.3)
        .with_attention_bias(true)
        .with_mlp_bias(true);
    let biased: Llama<B> = biased.init(&mut Generator::new(1), &Default::default()).unwrap();
    check_checkpointing(&biased);
    let masked =
        MaskedLlama::new(biased, Subnet::new([0]), ScoreInitial::Normal(0.02), &mut Generator::new(2));
    check_checkpointing(&masked.unwrap());
}

#[test]
fn what_is_merged_learns_whole() {
    let adapters = LoraConfig::new().init(base(), &mut Generator::new(3)).unwrap();
    for merged in [masked().merged(), adapters.merged()] {
        let parameters = leanburn_core::train::parameter_paths::<B, _>(&merged);
        let (_, gradients) = FineTuning::new(merged, Reduction::Mean).gradients(&batch());
        assert_eq!(gradients.len(), parameters.len());
    }
}

#[test]
fn enlarged_tables_learn() {
    let larger = base().resized(40, &mut Generator::new(1)).unwrap();
    let table = larger.model.embed_tokens.weight.id;
    let (_, gradients) = FineTuning::new(larger, Reduction::Mean).gradients(&batch());
    assert_eq!(gradients.get::<Flex, 2>(table).unwrap().dims(), [40, 16]);
}

#[test]
fn reports_of_masks_are_kept_over_an_interruption() {
    let network = masked();
    let schedule = recipe().schedule(12).unwrap();
    let start = MaskStart::new(&network, schedule.clone());
    let mut hook = MaskHook::new(start.clone(), |_| {});
    let report = EpochReport { epoch: 1, steps: 2, measured: vec![] };
    let model = FineTuning::new(network, Reduction::Mean);
    hook.epoch_ended(&report, &model).unwrap();
    let found = hook.reports().all()[0];
    assert_eq!((found.steps, found.flip_rate), (2, 0.0));
    assert!((found.kept_ratio - 0.9).abs() < 0.01);
    let mobility = (schedule.rate(0) + schedule.rate(1)) / 0.02;
    assert!((found.mobility / mobility - 1.0).abs() < 0.05, "{} and {mobility}", found.mobility);
    let mut again = MaskHook::new(start, |_| {});
    let state = Hook::<B, FineTuning<B, MaskedLlama<B>>>::state(&hook);
    Hook::<B, FineTuning<B, MaskedLlama<B>>>::restore(&mut again, state).unwrap();
    assert_eq!(again.reports().all(), [found]);
}

/// Trains for two epochs; gives the parameters.
fn train<N>(network: N, weighting: Weighting, folder: Option<&std::path::Path>, recipe: &Recipe) -> N
where
    N: Trainable<B>,
    N::InnerModule: CausalLm<Flex> + ModuleDisplay,
{
    let device = Default::default();
    let rows = || Rows::of_texts(texts());
    let loader =
        token_loader::<B>(rows(), recipe.batch_size, 0, weighting, &device).unwrap().shuffled(recipe.seed);
    let valid = token_loader::<Flex>(rows(), 4, 0, Weighting::Tokens, &device).unwrap();
    let config = TrainingConfig::new(recipe.epochs)
        .with_accumulation(recipe.accumulation)
        .with_clip_norm(recipe.clip_norm)
        .with_save_every(Some(1))
        .with_keep(100);
    let schedule = recipe.schedule(12).unwrap();
    let training = Training::new(config, adamw(recipe.weight_decay), schedule).unwrap();
    let model = FineTuning::new(network, Reduction::Mean);
    let trained = with_loss_metric(training)
        .resumed()
        .run(folder, model, &device, Arc::new(loader), Arc::new(valid))
        .unwrap();
    trained.model.network
}

fn recipe() -> Recipe {
    Recipe::new().with_batch_size(2).with_accumulation(3).with_learning_rate(1e-2)
}

#[test]
fn masks_learn_and_frozen_weights_stay_to_the_last_bit() {
    let before = masked();
    let frozen = checkpoint::tensors(&before.llama().valid(), str::to_owned).unwrap();
    let trained = train(before.clone(), Weighting::Tokens, None, &recipe());
    assert_eq!(checkpoint::tensors(&trained.llama().valid(), str::to_owned).unwrap(), frozen);
    assert!(trained.masks().flip_rate(&before.masks()) > 0.0);
    let loss = |network: &MaskedLlama<B>| {
        let texts = texts();
        let batch = TokenBatch::<Flex>::padded(&texts, 0, &Default::default()).unwrap();
        crate::loss(&network.valid(), &batch).into_scalar()
    };
    assert!(loss(&trained) < loss(&before));
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let whole = train(masked(), Weighting::Tokens, Some(folder.path()), &recipe());
    let scores = |network: &MaskedLlama<B>| {
        network.scores.iter().map(|scores| scores.val().into_data()).collect::<Vec<_>>()
    };
    // The run as it stood after a step in the first epoch.
    let root = folder.path().join("checkpoints");
    let mut saved = leanburn_core::report::entries(&root).unwrap();
    saved.sort();
    for later in &saved[1..] {
        if later.is_dir() {
            std::fs::remove_dir_all(later).unwrap();
        } else {
            std::fs::remove_file(later).unwrap();
        }
    }
    let resumed = train(masked(), Weighting::Tokens, Some(folder.path()), &recipe());
    assert_eq!(scores(&resumed), scores(&whole));
}

#[test]
fn token_weighted_batches_make_the_step_of_one_large_batch() {
    let large = recipe().with_batch_size(12).with_accumulation(1).with_epochs(1).with_warmup_ratio(0.0);
    let small = large.clone().with_batch_size(2).with_accumulation(6);
    let parameters = |network: &Llama<B>| checkpoint::tensors(&network.valid(), str::to_owned).unwrap();
    let expected = parameters(&train(base(), Weighting::Tokens, None, &large));
    let by_tokens = parameters(&train(base(), Weighting::Tokens, None, &small));
    let by_batches = parameters(&train(base(), Weighting::Batches, None, &small));
    let difference = |found: &[(String, TensorData)]| {
        let pairs = found.iter().zip(&expected);
        let each =
            pairs.flat_map(|((_, a), (_, b))| a.iter::<f32>().zip(b.iter::<f32>()).collect::<Vec<_>>());
        each.map(|(a, b)| f64::from((a - b).abs())).sum::<f64>()
    };
    assert!(difference(&by_tokens) < 0.2 * difference(&by_batches));
}

#[test]
fn schedules_are_the_published_ones() {
    let recipe = Recipe::published();
    for (rows, steps) in [(60_000, 938), (30_000, 470), (56_000, 876)] {
        assert_eq!(recipe.steps(rows), steps);
        let schedule = recipe.schedule(rows).unwrap();
        assert_eq!(schedule.rate(0), 0.0);
        assert!(schedule.rate(steps - 1) < 2e-8);
    }
    assert!(Recipe::new().with_warmup_ratio(1.0).schedule(10).unwrap_err().to_string().contains("warmup"));
    assert!(Recipe::new().with_devices(0).schedule(10).unwrap_err().to_string().contains("devices"));
}
