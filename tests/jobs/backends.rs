//! The CPU backends agree on a whole fit and its scores.

use leanburn::prelude::*;

#[cfg(all(feature = "flex", feature = "ndarray"))]
#[test]
fn flex_and_ndarray_agree() {
    let table = leanburn_datasets::angular(7);
    let config = Sla2pConfig::new().with_projections(8).with_width(8).with_epsilon(10.0).with_max_steps(20);
    let scores = ["flex", "ndarray"].map(|name| {
        let device = leanburn::device::autodiff(leanburn::device::parse(name).unwrap());
        config.fit::<Dispatch>(&table, &device).unwrap().score(&table).unwrap()
    });
    for (flex, ndarray) in scores[0].normality().iter().zip(scores[1].normality()) {
        assert!((flex - ndarray).abs() < 1e-4, "{flex} and {ndarray}");
    }
}

#[cfg(feature = "flex")]
#[test]
fn bad_names_of_devices_are_explained() {
    let error = leanburn::device::parse("tpu").unwrap_err().to_string();
    assert!(error.contains("tpu") && error.contains("vulkan"), "{error}");
}
