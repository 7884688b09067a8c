//! What the processor can do at most: products on registers alone.

use std::{arch::asm, time::Instant};

use unclip_kernels::{Format, cpu::Path};

/// GFLOP/s of one thread in `format`, where this bench knows how to reach it: with AMX tiles in bf16, with AVX-512 in
/// f32, with AVX2 in either, where bf16 is widened. On a shared machine it changes from second to second, so it is taken next to each measurement.
pub(crate) fn peak(path: Path, format: Format) -> Option<f64> {
    let tiles = Path::named("amx").is_ok_and(|amx| path >= amx);
    let wide = Path::named("avx512").is_ok_and(|avx512| path >= avx512);
    let narrow = !wide && Path::named("avx2").is_ok_and(|avx2| path >= avx2);
    (0..20)
        .filter_map(|_| match format {
            Format::Bf16 if tiles => Some(rate(4 * 16 * 16 * 32 * 2, tile_products)),
            Format::F32 if wide => Some(rate(12 * 16 * 2, wide_products)),
            _ if narrow => Some(rate(12 * 8 * 2, narrow_products)),
            _ => None,
        })
        .reduce(f64::max)
}

/// GFLOP/s of `work`, which repeats `flop` operations.
fn rate(flop: u32, work: fn(u32)) -> f64 {
    const REPEATS: u32 = 20_000;
    let start = Instant::now();
    work(REPEATS);
    f64::from(flop) * f64::from(REPEATS) / start.elapsed().as_secs_f64() * 1e-9
}

#[cfg(target_arch = "x86_64")]
fn tile_products(repeats: u32) {
    #[repr(align(64))]
    struct Config([u8; 64]);
    // The clock is higher while all operands are zero, which no network's are: 0x3f33 is 0.7 in bf16.
    let operand = [0x3f33_u16; 512];
    let mut config = Config([0; 64]);
    config.0[0] = 1;
    for tile in 0..8 {
        config.0[16 + 2 * tile] = 64;
        config.0[48 + tile] = 16;
    }
    // SAFETY: only called where the `amx` path is available, so tiles may be used; memory is only read, at `config` and
    // 16 rows of 64 bytes at `operand`.
    unsafe {
        asm!(
            "ldtilecfg [{config}]",
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "tileloadd tmm4, [{operand} + {row}]", "tileloadd tmm5, [{operand} + {row}]",
            "tileloadd tmm6, [{operand} + {row}]", "tileloadd tmm7, [{operand} + {row}]",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {repeats:e}",
            "jnz 2b",
            "tilerelease",
            config = in(reg) &raw const config,
            operand = in(reg) operand.as_ptr(),
            row = in(reg) 64_usize,
            repeats = inout(reg) repeats => _,
            options(nostack, readonly),
        );
    }
}

#[cfg(target_arch = "x86_64")]
fn wide_products(repeats: u32) {
    // SAFETY: only called where the `avx512` path is available; touches registers alone, all of them declared.
    unsafe {
        asm!(
            "2:",
            "vfmadd231ps zmm0, zmm12, zmm13", "vfmadd231ps zmm1, zmm12, zmm13",
            "vfmadd231ps zmm2, zmm12, zmm13", "vfmadd231ps zmm3, zmm12, zmm13",
            "vfmadd231ps zmm4, zmm12, zmm13", "vfmadd231ps zmm5, zmm12, zmm13",
            "vfmadd231ps zmm6, zmm12, zmm13", "vfmadd231ps zmm7, zmm12, zmm13",
            "vfmadd231ps zmm8, zmm12, zmm13", "vfmadd231ps zmm9, zmm12, zmm13",
            "vfmadd231ps zmm10, zmm12, zmm13", "vfmadd231ps zmm11, zmm12, zmm13",
            "dec {repeats:e}",
            "jnz 2b",
            repeats = inout(reg) repeats => _,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
            out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
            options(nostack, nomem),
        );
    }
}

#[cfg(target_arch = "x86_64")]
fn narrow_products(repeats: u32) {
    // SAFETY: only called where the `avx2` path is available; touches registers alone, all of them declared.
    unsafe {
        asm!(
            "2:",
            "vfmadd231ps ymm0, ymm12, ymm13", "vfmadd231ps ymm1, ymm12, ymm13",
            "vfmadd231ps ymm2, ymm12, ymm13", "vfmadd231ps ymm3, ymm12, ymm13",
            "vfmadd231ps ymm4, ymm12, ymm13", "vfmadd231ps ymm5, ymm12, ymm13",
            "vfmadd231ps ymm6, ymm12, ymm13", "vfmadd231ps ymm7, ymm12, ymm13",
            "vfmadd231ps ymm8, ymm12, ymm13", "vfmadd231ps ymm9, ymm12, ymm13",
            "vfmadd231ps ymm10, ymm12, ymm13", "vfmadd231ps ymm11, ymm12, ymm13",
            "dec {repeats:e}",
            "jnz 2b",
            repeats = inout(reg) repeats => _,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
            out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
            options(nostack, nomem),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn tile_products(_: u32) {}

#[cfg(not(target_arch = "x86_64"))]
fn wide_products(_: u32) {}

#[cfg(not(target_arch = "x86_64"))]
fn narrow_products(_: u32) {}
