use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module, ModuleMapper, Param},
    tensor::{DType, Tensor, TensorData, backend::Backend},
};
use burn_flex::Flex;
use leanburn_core::{
    checkpoint::{self, Checkpoint},
    random::Generator,
};

use super::*;
use crate::{
    CausalLm, Encoded, TokenBatch, Trainable,
    folder::{self, ModelFolder, WriteOptions},
    llama::{Llama, LlamaConfig, Matrix, Place, Sequences},
    loss,
};

type Training = Autodiff<Flex>;

fn base<B: Backend>() -> Llama<B> {
    let config =
        LlamaConfig::new(32, 16, 24, 4, 4).with_num_key_value_heads(Some(2)).with_initializer_range(0.3);
    config.init(&mut Generator::new(1), &Default::default()).unwrap()
}

fn masked<B: Backend>(subnet: Subnet) -> MaskedLlama<B> {
    MaskedLlama::new(base(), subnet, ScoreInitial::Normal(0.02), &mut Generator::new(2)).unwrap()
}

fn logits(model: &impl CausalLm<Flex>) -> TensorData {
    let tokens = Tensor::from_data([[3, 1, 4, 1, 5]], &Default::default());
    model.forward(tokens, &Sequences::whole(1, 5)).into_data()
}

#[test]
fn with_all_kept_it_is_the_base_to_the_last_bit() {
    let subnet = Subnet::new([1, 2]).with_keep(1.0);
    assert_eq!(logits(&masked(subnet)), logits(&base::<Flex>()));
}

#[test]
fn merged_and_applied_masks_give_what_the_masked_network_gives() {
    let masked = masked::<Flex>(Subnet::new([1, 2]));
    let expected = logits(&masked);
    assert_ne!(expected, logits(&base::<Flex>()));
    assert_eq!(logits(&masked.merged()), expected);
    let masks = masked.masks();
    assert_eq!(logits(&masks.apply(&base()).unwrap()), expected);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("masks.safetensors");
    masks.save(&path).unwrap();
    assert_eq!(Masks::open(&path).unwrap(), masks);
    // Several tasks' masks over one network, one after the other.
    let shared = base::<Flex>();
    let other = Masks::smallest_weights(&shared, &Subnet::new([0])).unwrap();
    assert_ne!(logits(&other.apply(&shared).unwrap()), expected);
    assert_eq!(logits(&masks.apply(&shared).unwrap()), expected);
}

#[test]
fn masks_of_the_published_form_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("masks.safetensors");
    let name = "model.layers.1.mlp.up_proj".to_owned();
    checkpoint::save_tensors([(name.clone(), TensorData::from([[1.0_f32, 0.0], [1.0, 1.0]]))], &path)
        .unwrap();
    let masks = Masks::open(&path).unwrap();
    let place = Place { layer: 1, matrix: Matrix::Up };
    assert_eq!(masks.get(place).unwrap(), &Mask::new([2, 2], |entry| entry != 1));
    assert!(masks.apply(&base::<Flex>()).unwrap_err().to_string().contains("up_proj"));
    let path = folder.path().join("others.safetensors");
    checkpoint::save_tensors([(name, TensorData::from([[0.5_f32]]))], &path).unwrap();
    assert!(Masks::open(&path).unwrap_err().to_string().contains("zeros and ones"));
}

#[test]
fn baselines_keep_their_shares() {
    let network = base::<Flex>();
    let subnet = Subnet::new([1, 3]).with_keep(0.8).with_mode(SubnetMode::Attention);
    let random = Masks::random(&network, &subnet, 42).unwrap();
    assert_eq!(random.iter().count(), 8);
    assert!((random.kept_ratio() - 0.8).abs() < 0.05);
    let smallest = Masks::smallest_weights(&network, &subnet).unwrap();
    assert!((smallest.kept_ratio() - 0.8).abs() < 0.01);
    assert!((random.flip_rate(&smallest) - 0.32).abs() < 0.05);
    let global = Subnet { kind: MaskKind::Global { threshold_attention: 0.0, threshold_mlp: 0.0 }, ..subnet };
    assert!(Masks::random(&network, &global, 42).unwrap_err().to_string().contains("subnet_type"));
}

#[test]
fn a_published_checkpoint_with_scores_is_read_and_not_taken_for_a_plain_one() {
    let masked = masked::<Flex>(Subnet::new([1, 2]));
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("published");
    folder::write(masked.llama(), &path, None, WriteOptions::default()).unwrap();
    let mut json = ModelFolder::open(&path).unwrap().json().clone();
    json.extend(masked.subnet().to_json());
    std::fs::write(path.join("config.json"), serde_json::to_string(&json).unwrap()).unwrap();
    let tensors = checkpoint::tensors(masked.llama(), str::to_owned).unwrap();
    let scores = checkpoint::tensors(&masked, |path| masked.published_name(path)).unwrap();
    std::fs::remove_file(path.join("model.safetensors")).unwrap();
    checkpoint::save_tensors(tensors.into_iter().chain(scores), path.join("model.safetensors")).unwrap();
    let opened = ModelFolder::open(&path).unwrap();
    let loaded = MaskedLlama::<Flex>::load(&opened, DType::F32, &Default::default()).unwrap();
    assert_eq!(logits(&loaded), logits(&masked));
    // What is written of it is an ordinary model, with the masks in its weights.
    let merged = root.path().join("merged");
    folder::write(&loaded.merged(), &merged, Some(&opened), WriteOptions::default()).unwrap();
    let plain = ModelFolder::open(&merged).unwrap();
    assert_eq!(Subnet::from_json(plain.json(), &merged).unwrap(), None);
    assert!(!plain.json().contains_key("masked_layers"));
    assert_eq!(logits(&plain.load::<Flex>(DType::F32, &Default::default()).unwrap()), logits(&masked));
    let error = opened.load::<Flex>(DType::F32, &Default::default()).unwrap_err();
    assert!(error.to_string().contains(".scores"), "{error}");
}

#[cfg(feature = "pytorch")]
#[test]
fn masks_of_a_published_checkpoint_are_those_of_its_scores() {
    use std::collections::BTreeMap;

    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/masked");
    let folder = ModelFolder::open(&path).unwrap();
    assert_eq!(folder.dtype().unwrap(), DType::BF16);
    let network = MaskedLlama::<Flex>::load(&folder, DType::BF16, &Default::default()).unwrap();
    assert_eq!(network.scores[0].val().dtype(), DType::F32);
    let expected: BTreeMap<String, Vec<usize>> =
        leanburn_core::report::read_json(path.join("zeros.json")).unwrap();
    let masks = network.masks();
    assert_eq!(masks.iter().count(), expected.len());
    for (place, mask) in masks.iter() {
        let removed: Vec<usize> = (0..mask.entries()).filter(|entry| !mask.keeps(*entry)).collect();
        assert_eq!(removed, expected[&place.path()], "{}", place.path());
        // The weights that stay are as they were.
        let values = |weight: Tensor<Flex, 2>| weight.into_data().convert::<f32>().to_vec::<f32>().unwrap();
        let before = values(network.llama().projection(place).weight.val());
        let after = values(network.merged().projection(place).weight.val());
        for (entry, (before, after)) in before.into_iter().zip(after).enumerate() {
            assert_eq!(after, if mask.keeps(entry) { before } else { 0.0 });
        }
    }
}

#[test]
fn scores_are_drawn_as_asked_for() {
    let of = |initial| {
        let network =
            LlamaConfig::new(32, 64, 96, 1, 4).init::<Flex>(&mut Generator::new(1), &Default::default());
        MaskedLlama::new(network.unwrap(), Subnet::new([0]), initial, &mut Generator::new(2))
    };
    let kaiming = of(ScoreInitial::Kaiming).unwrap();
    for (place, scores) in kaiming.places().iter().zip(&kaiming.scores) {
        let bound = 1.0 / (if place.matrix == Matrix::Down { 96.0_f32 } else { 64.0 }).sqrt();
        let largest = scores.val().abs().max().into_scalar();
        assert!(largest <= bound && largest > 0.95 * bound);
    }
    let normal = of(ScoreInitial::Normal(0.02)).unwrap();
    let deviation = normal.scores[0].val().square().mean().sqrt().into_scalar();
    assert!((deviation / 0.02 - 1.0).abs() < 0.05);
    for deviation in [0.0, f64::NAN] {
        assert!(of(ScoreInitial::Normal(deviation)).unwrap_err().to_string().contains("deviation"));
    }
}

#[test]
fn scores_are_written_and_read() {
    let masked = masked::<Flex>(Subnet::new([1, 2]));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scores.safetensors");
    masked.save_scores(&path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.names().next(), Some("model.layers.1.mlp.down_proj.scores"));
    let read = MaskedLlama::from_scores(base(), masked.subnet().clone(), &checkpoint).unwrap();
    assert_eq!(logits(&read), logits(&masked));
    assert_eq!(MaskedLlama::<Flex>::subnet_of(&checkpoint).unwrap().as_ref(), Some(masked.subnet()));
    let error = MaskedLlama::<Flex>::from_scores(base(), Subnet::new([1, 3]), &checkpoint).unwrap_err();
    assert!(error.to_string().contains("model.layers.3"), "{error}");
}

#[test]
fn gradients_go_straight_through_and_reach_removed_entries() {
    let device = Default::default();
    let masked = masked::<Training>(Subnet::new([2]).with_mode(SubnetMode::Mlp));
    let texts = [Encoded::whole(vec![3, 1, 4, 1, 5])];
    let batch = TokenBatch::<Training>::padded(&texts, 0, &device).unwrap();
    let mut gradients = loss(&masked, &batch).backward();
    let gradients = masked.gradients(&mut gradients);
    assert_eq!(gradients.len(), 3);
    // A removed entry's gradient is that of the weight which it would add.
    let scores = masked.scores[0].clone();
    let found = gradients.get::<Flex, 2>(scores.id).unwrap();
    let mask = masked.masks().get(masked.places()[0]).unwrap().clone();
    let removed = (0..mask.entries()).find(|entry| !mask.keeps(*entry)).unwrap();
    let (row, column) = (removed / mask.shape()[1], removed % mask.shape()[1]);
    let place = masked.places()[0];
    let weight = masked.llama().projection(place).weight.val().inner();
    let at = |x: Tensor<Flex, 2>| x.slice([row..row + 1, column..column + 1]).into_scalar();
    let perturbed = |amount: f32| {
        let merged = masked.valid().merged();
        let matrix = merged.projection(place).weight.val();
        let changed = Tensor::full([1, 1], amount, &device);
        let matrix = matrix.slice_assign([row..row + 1, column..column + 1], changed);
        let batch = TokenBatch::<Flex>::padded(&texts, 0, &device).unwrap();
        loss(&merged.with_weight(place, matrix), &batch).into_scalar()
    };
    let step = 1e-2;
    let slope = (perturbed(step) - perturbed(-step)) / (2.0 * step);
    let expected = slope * at(weight) * at(scores.val().inner()).signum();
    assert!(expected.abs() > 1e-4, "{expected}");
    assert!((at(found) - expected).abs() < 0.05 * expected.abs(), "{expected}");
}

/// Turns the rows of all parameters round.
struct Reversed;

impl<B: Backend> ModuleMapper<B> for Reversed {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        param.map(|tensor| tensor.flip([0]))
    }
}

#[test]
fn masks_are_computed_anew_when_scores_change() {
    let network = masked::<Flex>(Subnet::new([1, 2]));
    let before = logits(&network);
    let reversed = network.clone().map(&mut Reversed);
    assert_ne!(logits(&reversed), before);
    assert_eq!(logits(&reversed), logits(&reversed.merged()));
    assert_eq!(logits(&network), before);
    assert_eq!(logits(&network.load_record(reversed.clone().into_record())), logits(&reversed));
}

#[test]
fn the_loss_around_a_solution_is_seen() {
    let network = base::<Flex>();
    let masked = masked::<Flex>(Subnet::new([1, 2])).merged();
    let texts = [Encoded::whole(vec![3, 1, 4, 1, 5])];
    let batch = TokenBatch::<Flex>::padded(&texts, 0, &Default::default()).unwrap();
    let of = |network: &Llama<Flex>| Ok(f64::from(loss(network, &batch).into_scalar()));
    let towards = Direction::between(&network, &masked).unwrap();
    let random = Direction::random(&network, &mut Generator::new(3));
    let surface = loss_surface(&network, [&towards, &random], [&[0.0, 1.0], &[0.0, 0.5]], of).unwrap();
    let expected = [of(&network).unwrap(), of(&masked).unwrap()];
    for (row, expected) in surface.iter().zip(expected) {
        assert!((row[0] - expected).abs() < 1e-4);
        assert!((row[1] - expected).abs() > 1e-3);
    }
    let config = LlamaConfig::new(32, 16, 24, 1, 4);
    let other = config.init::<Flex>(&mut Generator::new(1), &Default::default()).unwrap();
    assert!(Direction::between(&network, &other).is_err());
}
