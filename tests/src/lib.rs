//! The harness of leanburn's oracles: what a reference implementation computed, computed again and compared.
//!
//! A case is a manifest and the tensors that the reference gave, see `oracles/README.md`. Its `kind` selects a
//! [runner](runners), which computes tensors by name; every expected one is compared.

pub mod case;
pub mod comparison;
mod gradients;
mod precision;
pub mod runners;

use leanburn::{core::Result, prelude::DispatchDevice};

/// The device that `LEANBURN_DEVICE` names, `flex` when it is not set.
///
/// # Errors
///
/// When the build or the machine has no such device.
pub fn device() -> Result<DispatchDevice> {
    leanburn::device::parse(&device_name())
}

/// The name of that device.
pub fn device_name() -> String {
    std::env::var("LEANBURN_DEVICE").unwrap_or_else(|_| "flex".to_owned())
}

/// A file below the folder `LEANBURN_DATA`, if it is there.
pub fn data(file: &str) -> Option<std::path::PathBuf> {
    path_from_env("LEANBURN_DATA").map(|folder| folder.join(file)).filter(|path| path.exists())
}

/// A path from the environment; relative ones count from the workspace, since tests run in their package's folder.
pub fn path_from_env(variable: &str) -> Option<std::path::PathBuf> {
    let workspace = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in it");
    std::env::var_os(variable).filter(|path| !path.is_empty()).map(|path| workspace.join(path))
}
