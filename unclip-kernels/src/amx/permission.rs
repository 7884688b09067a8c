//! Whether this process may use AMX tiles.

use std::arch::x86_64::{__cpuid, __cpuid_count};

/// Whether the processor has AMX tiles with bf16 products, and the system grants them to this process.
///
/// Tile data is 8 KiB of state that Linux saves for a thread only after the process asked (`arch_prctl(2)`,
/// `ARCH_REQ_XCOMP_PERM`); without the grant the first tile load ends the process. A grant holds for all threads.
pub(crate) fn available() -> bool {
    processor_has_tiles() && system_grants_tiles()
}

fn processor_has_tiles() -> bool {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    let features = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).edx } else { 0 };
    features & (AMX_BF16 | AMX_TILE) == AMX_BF16 | AMX_TILE
}

#[cfg(target_os = "linux")]
fn system_grants_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: `arch_prctl` with this code takes the number of a state component and touches no memory of ours.
    // A kernel that does not know the code answers with an error, which means no.
    let answer =
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) };
    answer == 0
}

/// Other systems hand out tile state in ways that this crate does not know.
#[cfg(not(target_os = "linux"))]
fn system_grants_tiles() -> bool {
    false
}
