//! The configuration of the tile registers.

use std::{arch::asm, fmt, marker::PhantomData};

use crate::cpu::{Isa, Path};

/// Proof that this thread's eight tile registers are configured as 16 rows × 64 bytes, for as long as it lives.
///
/// Dropping it gives the registers back, so that a thread that does other work carries no tile state across context
/// switches. It is bound to its thread, as the registers are.
pub(crate) struct Tiles {
    thread_bound: PhantomData<*const ()>,
}

/// The memory operand of `ldtilecfg`, palette 1.
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

/// Eight full tiles; the second half of both lists belongs to registers that palette 1 does not have.
static FULL_TILES: TileConfig = TileConfig {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_per_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Tiles {
    /// Configures this thread's tiles, where `path` has any.
    pub(crate) fn configure(path: Path) -> Option<Self> {
        if path.isa() != Isa::Amx {
            return None;
        }
        // SAFETY: a path with `Isa::Amx` exists only where the processor has AMX and the system granted tile data.
        // `FULL_TILES` is 64 bytes that describe a valid palette 1. No compiler-generated code uses tile registers.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const FULL_TILES, options(nostack, readonly, preserves_flags));
        }
        Some(Self { thread_bound: PhantomData })
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the value exists, so AMX may be used; nobody holds tiles of this thread any more.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

impl fmt::Debug for Tiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tiles(8 × 16 rows × 64 bytes)")
    }
}
