//! The device that the tests run on.

use burn::tensor::Device;

/// Names the device for the tests; each backend needs its feature on this crate.
const VARIABLE: &str = "UNCLIP_TEST_DEVICE";

/// The device named by `UNCLIP_TEST_DEVICE` (`flex`, the default, `wgpu`, `vulkan`, `cuda`, ..).
///
/// # Panics
///
/// When the name is unknown or its feature is off: a test must not silently run elsewhere.
pub fn device() -> Device {
    let name = std::env::var(VARIABLE).unwrap_or_else(|_| "flex".to_owned());
    match name.as_str() {
        "flex" => Device::flex(),
        #[cfg(feature = "wgpu")]
        "wgpu" => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "vulkan")]
        "vulkan" => Device::vulkan(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        "cuda" => Device::cuda(0),
        other => panic!("{VARIABLE}={other} is unknown or not built in"),
    }
}

/// Whether the tests run on flex, whose bounds are the strict ones.
pub fn is_default_device() -> bool {
    std::env::var(VARIABLE).map_or(true, |name| name == "flex")
}
