//! A device by name, with an error where Burn would panic.
//!
//! | name | is |
//! |---|---|
//! | `auto` | the first that is there: `cuda`, `rocm`, `metal`, `vulkan` or `wgpu` with a real GPU, then `cpu` |
//! | `cpu` | `flex` where it is built in, else `cubecl-cpu` |
//! | `flex` | Burn's Flex backend, on this machine's processor |
//! | `cubecl-cpu` | Burn's compiling CPU backend |
//! | `cuda`, `cuda:1`, `rocm`, `rocm:1` | a GPU by its number, from 0 |
//! | `wgpu`, `vulkan`, `metal` | the best adapter of that interface |
//! | `wgpu:discrete:0`, `wgpu:integrated:0`, `wgpu:virtual:0`, `wgpu:cpu` | one adapter; likewise for the other two |
//!
//! Each backend is a feature of the same name (`cpu` for `cubecl-cpu`); none is on by default. The runtimes' own crates
//! are re-exported under the features `wgpu` and `cuda`, in the versions that run here: a program that draws with wgpu
//! already opens its own device through `burn_wgpu` and gives that to the pipeline.

#[cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu", feature = "cpu"))]
use burn::tensor::DeviceType;
use burn::tensor::{Device, Tensor};
#[cfg(feature = "cuda")]
pub use burn_cuda;
#[cfg(feature = "wgpu")]
pub use burn_wgpu;

use crate::{Error, Result};

/// The names that [`device`] knows, without the adapters and numbers that may follow.
const NAMES: &str =
    "auto, cpu, flex, cubecl-cpu, cuda[:N], rocm[:N], wgpu, vulkan, metal[:KIND[:N]]";

/// The device called `name`; the module says which names there are.
///
/// A GPU is asked for a small sum before it is returned, so that a driver that is installed and does not work is
/// found here. (If the backend panics over it, that is caught; the panic's own message still goes to standard error.)
///
/// ```
/// # use unclip_core::device::device;
/// let error = device("abacus").unwrap_err();
/// assert!(error.to_string().starts_with("device `abacus`: unknown"));
/// ```
///
/// # Errors
///
/// [`Error::Device`] when the name is unknown, its backend is not built in, there is no such device on this machine, or
/// it does not answer.
pub fn device(name: &str) -> Result<Device> {
    let (backend, rest) = match name.split_once(':') {
        Some((backend, rest)) => (backend, Some(rest)),
        None => (name, None),
    };
    match backend {
        "auto" => whole(name, rest).and_then(|()| auto(name)),
        "cpu" => whole(name, rest).and_then(|()| flex(name).or_else(|_| cubecl_cpu(name))),
        "flex" => whole(name, rest).and_then(|()| flex(name)),
        "cubecl-cpu" => whole(name, rest).and_then(|()| cubecl_cpu(name)),
        "cuda" => cuda(name, rest),
        "rocm" => rocm(name, rest),
        "wgpu" => wgpu(name, rest),
        "vulkan" => vulkan(name, rest),
        "metal" => metal(name, rest),
        _ => Err(error(name, format!("unknown; known are {NAMES}"))),
    }
}

/// Asks the C library to keep memory that is freed for what is allocated next, and says whether it will: on Linux with
/// glibc, in a build that computes on the processor.
///
/// For the first line of a program's `main`: training allocates the same tensors step after step, and a program that gives
/// large ones back each time spends up to a fifth of its time on pages. For training and small models, which then also
/// compute [among their workers](among_workers): a large model's peak of memory grows by a third. See
/// `unclip_kernels::memory`.
pub fn keep_freed_memory() -> bool {
    #[cfg(feature = "flex")]
    return unclip_kernels::memory::keep_freed();
    #[cfg(not(feature = "flex"))]
    false
}

/// The names of the devices that this build finds on this machine, the best first. None is opened.
pub fn available() -> Vec<String> {
    let mut names = Vec::new();
    #[cfg(feature = "cuda")]
    names.extend(numbered("cuda", DeviceType::Cuda));
    #[cfg(feature = "rocm")]
    names.extend(numbered("rocm", DeviceType::Rocm));
    #[cfg(feature = "metal")]
    names.extend(adapters("metal", DeviceType::Metal, Device::metal));
    #[cfg(feature = "vulkan")]
    names.extend(adapters("vulkan", DeviceType::Vulkan, Device::vulkan));
    #[cfg(feature = "wgpu")]
    names.extend(adapters("wgpu", DeviceType::Wgpu, Device::wgpu));
    if cfg!(any(feature = "flex", test)) {
        names.push("flex".to_owned());
    }
    if cfg!(feature = "cpu") {
        names.push("cubecl-cpu".to_owned());
    }
    names
}

/// Does `work` where `device` computes, and returns what comes of it: for a processor on one of rayon's threads, among
/// which its operations are divided, if freed memory is [kept](keep_freed_memory); otherwise right here.
///
/// What Burn or a user divides among those threads, and begins outside of them, is handed over to them while the caller sleeps;
/// the operations of the kernels begin wherever they are called. Keeping memory puts it into one heap: glibc has by default one
/// for each thread, where what one frees is of no use to the others, and a training step took three quarters more memory. A
/// pass through a network and a step of a trainer need no asking; this is for what is put together of tensors elsewhere.
///
/// `work` must not wait for other threads that do the same: they would wait for its own.
pub fn among_workers<R: Send>(device: &Device, work: impl FnOnce() -> R + Send) -> R {
    #[cfg(any(feature = "flex", test))]
    if unclip_kernels::memory::is_kept() && is_flex(device) {
        return rayon::scope(|_| work());
    }
    let _ = device;
    work()
}

/// Gives the system back what tensors on a processor have left for those after them: at the end of a stage, whose sizes the
/// next one seldom has. It is a gibibyte at most.
pub fn release_unused_memory() {
    #[cfg(any(feature = "flex", test))]
    unclip_kernels::room::release();
}

#[cfg(any(feature = "flex", test))]
fn is_flex(device: &Device) -> bool {
    device.clone().inner() == Device::flex()
}

/// Whether `device` is a processor that multiplies 16-bit floating-point numbers (`bf16`) itself, so that computing in
/// them is several times as fast.
pub fn multiplies_bf16(device: &Device) -> bool {
    #[cfg(any(feature = "flex", test))]
    if is_flex(device) {
        return unclip_kernels::cpu::Path::chosen().multiplies_bf16();
    }
    let _ = device;
    false
}

fn error(name: &str, reason: impl Into<String>) -> Error {
    Error::Device { name: name.to_owned(), reason: reason.into() }
}

/// Demands that nothing follows the backend's name.
fn whole(name: &str, rest: Option<&str>) -> Result<()> {
    match rest {
        None => Ok(()),
        Some(rest) => Err(error(name, format!("nothing may follow here, and `{rest}` does"))),
    }
}

/// The error for a backend that another build could have.
#[cfg_attr(
    all(feature = "metal", feature = "vulkan", feature = "cuda", feature = "rocm"),
    expect(dead_code, reason = "everything is built in")
)]
fn missing(name: &str, feature: &str) -> Error {
    let there = match available() {
        names if names.is_empty() => "no device at all".to_owned(),
        names => names.join(", "),
    };
    error(name, format!("not built in (the feature `{feature}` is off); there is {there}"))
}

fn auto(name: &str) -> Result<Device> {
    // A software rasteriser is an adapter too, but slower than the processor itself.
    let real =
        |name: &String| !name.ends_with(":cpu") && !matches!(name.as_str(), "wgpu" | "vulkan");
    let mut failures = Vec::new();
    for found in available().iter().filter(|name| real(name)) {
        match device(found) {
            Ok(device) => {
                tracing::debug!(device = found, "chosen");
                return Ok(device);
            }
            Err(failure) => failures.push(failure.to_string()),
        }
    }
    if failures.is_empty() {
        failures.push("no backend is built in: switch on a feature such as `flex`".to_owned());
    }
    Err(error(name, failures.join("; ")))
}

#[cfg(any(feature = "flex", test))]
fn flex(name: &str) -> Result<Device> {
    // The kernels themselves take the best path when the variable names none.
    unclip_kernels::cpu::Path::from_environment().map_err(|unknown| {
        error(name, format!("the variable {}: {unknown}", unclip_kernels::cpu::PATH_VARIABLE))
    })?;
    Ok(Device::flex())
}

#[cfg(not(any(feature = "flex", test)))]
fn flex(name: &str) -> Result<Device> {
    Err(missing(name, "flex"))
}

#[cfg(feature = "cpu")]
fn cubecl_cpu(name: &str) -> Result<Device> {
    let found = Device::enumerate(DeviceType::Cpu).into_vec();
    let device = found.into_iter().next().ok_or_else(|| error(name, "it is not there"))?;
    answering(name, device)
}

#[cfg(not(feature = "cpu"))]
fn cubecl_cpu(name: &str) -> Result<Device> {
    Err(missing(name, "cpu"))
}

#[cfg(feature = "cuda")]
fn cuda(name: &str, rest: Option<&str>) -> Result<Device> {
    by_number(name, rest, DeviceType::Cuda)
}

#[cfg(not(feature = "cuda"))]
fn cuda(name: &str, _rest: Option<&str>) -> Result<Device> {
    Err(missing(name, "cuda"))
}

#[cfg(feature = "rocm")]
fn rocm(name: &str, rest: Option<&str>) -> Result<Device> {
    by_number(name, rest, DeviceType::Rocm)
}

#[cfg(not(feature = "rocm"))]
fn rocm(name: &str, _rest: Option<&str>) -> Result<Device> {
    Err(missing(name, "rocm"))
}

#[cfg(feature = "wgpu")]
fn wgpu(name: &str, rest: Option<&str>) -> Result<Device> {
    by_adapter(name, rest, DeviceType::Wgpu, Device::wgpu)
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(name: &str, _rest: Option<&str>) -> Result<Device> {
    Err(missing(name, "wgpu"))
}

#[cfg(feature = "vulkan")]
fn vulkan(name: &str, rest: Option<&str>) -> Result<Device> {
    by_adapter(name, rest, DeviceType::Vulkan, Device::vulkan)
}

#[cfg(not(feature = "vulkan"))]
fn vulkan(name: &str, _rest: Option<&str>) -> Result<Device> {
    Err(missing(name, "vulkan"))
}

#[cfg(feature = "metal")]
fn metal(name: &str, rest: Option<&str>) -> Result<Device> {
    by_adapter(name, rest, DeviceType::Metal, Device::metal)
}

#[cfg(not(feature = "metal"))]
fn metal(name: &str, _rest: Option<&str>) -> Result<Device> {
    Err(missing(name, "metal"))
}

#[cfg(any(feature = "cuda", feature = "rocm"))]
fn numbered(backend: &str, devices: DeviceType) -> impl Iterator<Item = String> {
    (0..Device::enumerate(devices).len()).map(move |number| format!("{backend}:{number}"))
}

#[cfg(any(feature = "cuda", feature = "rocm"))]
fn by_number(name: &str, rest: Option<&str>, devices: DeviceType) -> Result<Device> {
    let number: usize = match rest.map(str::parse) {
        None => 0,
        Some(Ok(number)) => number,
        Some(Err(_)) => return Err(error(name, "expected a number after the colon")),
    };
    let mut found = Device::enumerate(devices).into_vec();
    if number >= found.len() {
        let reason = match found.len() {
            0 => "no such GPU, or no driver for it, on this machine".to_owned(),
            count => format!("this machine has {count}, numbered from 0"),
        };
        return Err(error(name, reason));
    }
    answering(name, found.swap_remove(number))
}

/// More adapters of one kind than any machine has.
#[cfg(feature = "wgpu")]
const MAX_ADAPTERS: usize = 16;

#[cfg(feature = "wgpu")]
use burn::tensor::DeviceKind;

/// The adapters that can be named, best kind first; then the interface itself, if it has any.
#[cfg(feature = "wgpu")]
fn adapters(backend: &str, devices: DeviceType, make: fn(DeviceKind) -> Device) -> Vec<String> {
    let found = Device::enumerate(devices);
    let kinds: [(&str, fn(usize) -> DeviceKind); 3] = [
        ("discrete", DeviceKind::DiscreteGpu),
        ("integrated", DeviceKind::IntegratedGpu),
        ("virtual", DeviceKind::VirtualGpu),
    ];
    let mut names = Vec::new();
    for (kind, adapter) in kinds {
        let numbers = (0..MAX_ADAPTERS).filter(|&number| found.contains(&make(adapter(number))));
        names.extend(numbers.map(|number| format!("{backend}:{kind}:{number}")));
    }
    if found.contains(&make(DeviceKind::Cpu)) {
        names.push(format!("{backend}:cpu"));
    }
    if !found.is_empty() {
        names.push(backend.to_owned());
    }
    names
}

#[cfg(feature = "wgpu")]
fn by_adapter(
    name: &str,
    rest: Option<&str>,
    devices: DeviceType,
    make: fn(DeviceKind) -> Device,
) -> Result<Device> {
    let malformed =
        || error(name, "expected discrete, integrated or virtual with a number, or cpu");
    let kind = match rest {
        None => DeviceKind::DefaultDevice,
        Some("cpu") => DeviceKind::Cpu,
        Some(rest) => {
            let (kind, number) = rest.split_once(':').unwrap_or((rest, "0"));
            let number = number.parse().map_err(|_| malformed())?;
            match kind {
                "discrete" => DeviceKind::DiscreteGpu(number),
                "integrated" => DeviceKind::IntegratedGpu(number),
                "virtual" => DeviceKind::VirtualGpu(number),
                _ => return Err(malformed()),
            }
        }
    };
    let found = Device::enumerate(devices);
    let is_default = kind == DeviceKind::DefaultDevice;
    let device = make(kind);
    if found.is_empty() {
        return Err(error(name, "this machine has no adapter for it, or no driver"));
    }
    if !is_default && !found.contains(&device) {
        let there = available().join(", ");
        return Err(error(name, format!("there is no such adapter; there is {there}")));
    }
    answering(name, device)
}

/// The device, once it has added one and one.
///
/// Opening a device is where drivers fail, and where the backends panic; a thread of its own bounds that panic.
#[cfg_attr(
    not(any(feature = "cuda", feature = "rocm", feature = "wgpu", feature = "cpu", test)),
    expect(dead_code, reason = "the processor needs no asking")
)]
fn answering(name: &str, device: Device) -> Result<Device> {
    let probe = device.clone();
    let sum = std::thread::Builder::new().name("device-probe".to_owned()).spawn(move || {
        let one = Tensor::<1>::ones([2], &probe);
        (one.clone() + one).try_into_vec_as::<f32>().map_err(|e| e.to_string())
    });
    let sum = sum.map_err(|e| error(name, format!("no thread to ask it from: {e}")))?;
    match sum.join() {
        Ok(Ok(sum)) if sum == [2.0, 2.0] => Ok(device),
        Ok(Ok(sum)) => Err(error(name, format!("it takes one and one for {sum:?}"))),
        Ok(Err(reason)) => Err(error(name, format!("it does not answer: {reason}"))),
        Err(panic) => {
            let reason = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("its backend gave up without a reason");
            Err(error(name, format!("it cannot be opened: {reason}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str) -> String {
        device(name).expect_err("the name is refused").to_string()
    }

    #[test]
    fn the_processor_is_always_there() {
        for name in ["flex", "cpu"] {
            assert_eq!(device(name).expect("is there"), Device::flex(), "{name}");
        }
        device("auto").expect("at least the processor");
        assert!(available().contains(&"flex".to_owned()), "{:?}", available());
    }

    #[test]
    fn every_listed_device_opens() {
        for name in available() {
            device(&name).unwrap_or_else(|error| panic!("{error}"));
        }
    }

    #[test]
    fn unknown_and_malformed_names_are_refused_with_the_known_ones() {
        for name in ["", ":", "gpu", "CUDA", "cuda 0", "auto2"] {
            assert!(refused(name).contains("unknown; known are auto, cpu"), "{name}");
        }
        for name in ["flex:0", "cpu:x", "auto:", "cubecl-cpu:1"] {
            assert!(refused(name).contains("nothing may follow"), "{name}");
        }
    }

    #[test]
    fn a_backend_that_is_not_built_in_names_its_feature() {
        for (name, feature, built_in) in [
            ("cuda:3", "cuda", cfg!(feature = "cuda")),
            ("rocm", "rocm", cfg!(feature = "rocm")),
            ("wgpu:discrete:0", "wgpu", cfg!(feature = "wgpu")),
            ("vulkan", "vulkan", cfg!(feature = "vulkan")),
            ("metal", "metal", cfg!(feature = "metal")),
            ("cubecl-cpu", "cpu", cfg!(feature = "cpu")),
        ] {
            if !built_in {
                let text = refused(name);
                assert!(text.contains(&format!("the feature `{feature}` is off")), "{text}");
                assert!(text.contains("there is flex"), "{text}");
            }
        }
    }

    #[cfg(feature = "wgpu")]
    #[test]
    fn an_adapter_that_is_not_there_is_an_error() {
        for name in ["wgpu:discrete:15", "wgpu:virtual:999999"] {
            assert!(
                refused(name).contains("no such adapter") || refused(name).contains("no adapter")
            );
        }
        for name in ["wgpu:0", "wgpu:discrete:x", "wgpu:cpu:0", "wgpu:"] {
            assert!(refused(name).contains("expected discrete"), "{name}");
        }
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn a_number_beyond_the_last_gpu_is_an_error() {
        assert!(refused("cuda:9999").contains("this machine"), "another reason");
        assert!(refused("cuda:x").contains("expected a number"), "another reason");
    }

    #[test]
    fn a_working_device_answers() {
        assert_eq!(answering("flex", Device::flex()).expect("answers"), Device::flex());
    }
}
