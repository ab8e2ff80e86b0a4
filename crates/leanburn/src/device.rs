//! Devices by name, for programs that pick one at run time through [`Dispatch`].

#[cfg(feature = "cuda")]
use burn::tensor::backend::Device;
use burn::{Dispatch, DispatchDevice, tensor::backend::Backend};
use leanburn_core::{Error, Result};

/// A device that this build can use and this machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Available {
    /// The name that [`parse`] takes.
    pub name: String,
    /// What it is.
    pub description: String,
}

/// The kinds of device, each named as the feature that enables it.
const KINDS: [&str; 7] = ["flex", "ndarray", "cuda", "wgpu", "vulkan", "metal", "webgpu"];

/// The device called `flex`, `ndarray`, `cuda[:n]`, `wgpu[:n]`, `vulkan[:n]`, `metal[:n]` or `webgpu[:n]`.
///
/// The number counts the adapters as [`available`] lists them; without it, the system's best is taken. `wgpu` is
/// whichever flavour of WGPU the build has.
///
/// # Errors
///
/// When the name is none of these, when the build lacks the feature, or when the machine has no such device.
pub fn parse(name: &str) -> Result<DispatchDevice> {
    let error = |reason: String| Error::Device { name: name.to_owned(), reason };
    let (kind, number) = match name.split_once(':') {
        None => (name, None),
        Some((kind, number)) => {
            let number = number.parse().map_err(|_| error(format!("expected a number after `{kind}:`")))?;
            (kind, Some(number))
        }
    };
    let device = match kind {
        "flex" | "ndarray" => {
            if number.is_some() {
                return Err(error(format!("there is one `{kind}` device; leave out the number")));
            }
            cpu(kind).map(Ok)
        }
        "cuda" => cuda(number),
        "wgpu" | "vulkan" | "metal" | "webgpu" => wgpu_device(kind, number),
        _ => {
            let names = KINDS.join(", ");
            return Err(error(format!("expected one of {names}, with `:n` for the n-th GPU")));
        }
    };
    let device = device
        .ok_or_else(|| error(format!("this build has no `{kind}`; enable leanburn's feature `{kind}`")))?
        .map_err(error)?;
    let backend = Dispatch::name(&device);
    if backend.contains("fusion<") {
        log::warn!("{backend}: Burn 0.21's fusion can fail in training; disable its feature `fusion`");
    }
    Ok(device)
}

/// The device with gradients recorded, as training needs it.
pub fn autodiff(device: DispatchDevice) -> DispatchDevice {
    DispatchDevice::autodiff(device)
}

/// The devices that this build can use and this machine has.
pub fn available() -> Vec<Available> {
    let mut devices = Vec::new();
    for (kind, description) in [("flex", "CPU"), ("ndarray", "CPU, on the ndarray crate")] {
        if cpu(kind).is_some() {
            devices.push(Available { name: kind.to_owned(), description: description.to_owned() });
        }
    }
    for n in 0..cuda_count() {
        devices.push(Available { name: format!("cuda:{n}"), description: "NVIDIA GPU".to_owned() });
    }
    devices.extend(wgpu_available());
    devices
}

/// A device, the reason why this machine has it not, or nothing where this build has not its feature.
type Found = Option<std::result::Result<DispatchDevice, String>>;

fn cpu(kind: &str) -> Option<DispatchDevice> {
    match kind {
        #[cfg(feature = "flex")]
        "flex" => Some(DispatchDevice::Flex(burn_flex::FlexDevice)),
        #[cfg(feature = "ndarray")]
        "ndarray" => Some(DispatchDevice::NdArray(burn_ndarray::NdArrayDevice::default())),
        _ => None,
    }
}

#[cfg(feature = "cuda")]
fn cuda(number: Option<usize>) -> Found {
    let count = cuda_count();
    let index = number.unwrap_or(0);
    if index >= count {
        return Some(Err(format!("this machine has {count} CUDA devices that the driver lists")));
    }
    Some(Ok(DispatchDevice::Cuda(burn_cuda::CudaDevice::new(index))))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_number: Option<usize>) -> Found {
    None
}

#[cfg(feature = "cuda")]
fn cuda_count() -> usize {
    let kind = DispatchDevice::Cuda(burn_cuda::CudaDevice::new(0)).to_id().type_id;
    // Without the driver's library, the binding panics rather than fails.
    std::panic::catch_unwind(|| Dispatch::device_count(kind)).unwrap_or(0)
}

#[cfg(not(feature = "cuda"))]
fn cuda_count() -> usize {
    0
}

#[cfg(feature = "wgpu")]
mod adapters {
    use super::{Available, DispatchDevice, Found};
    use burn_wgpu::{
        WgpuDevice,
        graphics::{self, GraphicsApi},
    };

    /// The flavour of this build, under its name.
    #[cfg(feature = "vulkan")]
    const FLAVOUR: &str = "vulkan";
    #[cfg(feature = "metal")]
    const FLAVOUR: &str = "metal";
    #[cfg(not(any(feature = "vulkan", feature = "metal")))]
    const FLAVOUR: &str = "webgpu";

    #[cfg(feature = "vulkan")]
    type Api = graphics::Vulkan;
    #[cfg(feature = "metal")]
    type Api = graphics::Metal;
    #[cfg(not(any(feature = "vulkan", feature = "metal")))]
    type Api = graphics::AutoGraphicsApi;

    fn dispatch(device: WgpuDevice) -> DispatchDevice {
        #[cfg(feature = "vulkan")]
        return DispatchDevice::Vulkan(device);
        #[cfg(feature = "metal")]
        return DispatchDevice::Metal(device);
        #[cfg(not(any(feature = "vulkan", feature = "metal")))]
        DispatchDevice::Wgpu(device)
    }

    /// The machine's adapters: Burn's device and the adapter's own name.
    fn list() -> Vec<(WgpuDevice, String)> {
        let backends = Api::backend().into();
        let descriptor =
            wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() };
        let adapters = pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(backends));
        // Burn counts adapters within their type.
        let mut counts = [0; 3];
        let mut next = |kind: usize| {
            counts[kind] += 1;
            counts[kind] - 1
        };
        adapters
            .iter()
            .map(|adapter| {
                let info = adapter.get_info();
                let device = match info.device_type {
                    wgpu::DeviceType::DiscreteGpu => WgpuDevice::DiscreteGpu(next(0)),
                    wgpu::DeviceType::IntegratedGpu => WgpuDevice::IntegratedGpu(next(1)),
                    wgpu::DeviceType::VirtualGpu => WgpuDevice::VirtualGpu(next(2)),
                    wgpu::DeviceType::Cpu => WgpuDevice::Cpu,
                    wgpu::DeviceType::Other => WgpuDevice::DefaultDevice,
                };
                (device, format!("{} ({:?}, {:?})", info.name, info.device_type, info.backend))
            })
            .collect()
    }

    pub(super) fn wgpu_device(kind: &str, number: Option<usize>) -> Found {
        if kind != FLAVOUR && kind != "wgpu" {
            return None;
        }
        let mut adapters = list();
        let index = number.unwrap_or(0);
        if index >= adapters.len() {
            return Some(Err(format!("this machine has {} adapters for {FLAVOUR}", adapters.len())));
        }
        Some(Ok(dispatch(match number {
            Some(index) => adapters.swap_remove(index).0,
            None => WgpuDevice::DefaultDevice,
        })))
    }

    pub(super) fn wgpu_available() -> Vec<Available> {
        list()
            .into_iter()
            .enumerate()
            .map(|(n, (_, description))| Available { name: format!("{FLAVOUR}:{n}"), description })
            .collect()
    }
}

#[cfg(feature = "wgpu")]
use adapters::{wgpu_available, wgpu_device};

#[cfg(not(feature = "wgpu"))]
fn wgpu_device(_kind: &str, _number: Option<usize>) -> Found {
    None
}

#[cfg(not(feature = "wgpu"))]
fn wgpu_available() -> Vec<Available> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(feature = "flex")]
    fn names_are_parsed() {
        assert!(matches!(parse("flex").unwrap(), DispatchDevice::Flex(_)));
        assert!(available().iter().any(|device| device.name == "flex"));
    }

    #[test]
    fn errors_say_what_to_do() {
        let message = |name: &str| parse(name).unwrap_err().to_string();
        assert!(message("gpu").contains("flex, ndarray, cuda"), "{}", message("gpu"));
        assert!(message("cuda:x").contains("a number"));
        assert!(message("flex:1").contains("leave out the number"));
        #[cfg(not(feature = "cuda"))]
        assert!(message("cuda").contains("feature `cuda`"));
        assert!(message("metal:999").contains("metal"));
    }
}
