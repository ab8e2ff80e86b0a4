//! A network pruned from end to end.

use leanburn::{
    burn::tensor::Tensor,
    core::{checkpoint::Checkpoint, random::Generator, report},
    prelude::*,
    pruning::{Ratios, Selection, State, surgery},
    vision::{Architecture, Classifier, resnet::ResNetConfig},
};

#[test]
fn a_resnet_56_is_pruned_saved_found_again_and_fused() {
    let device = leanburn::device::parse("flex").unwrap();
    let config = ResNetConfig::cifar(56, 10, false).unwrap();
    let network = config.init::<Dispatch>(&mut Generator::new(1), &device).unwrap();

    let graph = config.graph([32, 32]).unwrap();
    let state = State::of::<_, Dispatch>(&config, &network).unwrap();
    let ratios = Ratios::patterns([("layer*.conv1", 0.5)]);
    let kept = Selection::new().select(&graph, &state, None, &ratios).unwrap();
    let (smaller, network) = surgery::remove::<_, Dispatch>(&config, &network, &kept, [32, 32]).unwrap();
    let (before, after) = (graph.cost(), smaller.graph([32, 32]).unwrap().cost());
    assert_eq!((before.macs, after.macs, after.params), (125_485_696, 62_964_352, 425_018));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("smaller.safetensors");
    smaller.save(&network, &path).unwrap();
    report::write_json(folder.path().join("config.json"), &smaller).unwrap();
    let found = ResNetConfig::infer(&Checkpoint::open(&path).unwrap()).unwrap();
    let told: ResNetConfig = report::read_json(folder.path().join("config.json")).unwrap();
    assert_eq!(format!("{found:?}"), format!("{told:?}"));
    let loaded = found.load::<Dispatch>(&Checkpoint::open(&path).unwrap(), &device).unwrap();
    let images: Tensor<Dispatch, 4> = Generator::new(2).normal([2, 3, 32, 32], &device);
    let output = network.forward(images.clone()).into_data();
    assert_eq!(loaded.forward(images.clone()).into_data(), output);
    for (fused, plain) in loaded.fuse().forward(images).into_data().iter::<f32>().zip(output.iter::<f32>()) {
        assert!((fused - plain).abs() < 1e-3 * plain.abs().max(1.0), "{fused} and {plain}");
    }
}
