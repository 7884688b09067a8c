//! Which instructions this processor has, and which of them are used.
//!
//! A [`Path`] is a witness: it can only be had for instructions that the processor has and that the system lets this
//! process use. Every kernel takes one, and that is the whole argument why its instructions may be executed.

use std::{env, fmt, sync::OnceLock};

/// The environment variable that [`Path::chosen`] reads.
pub const PATH_VARIABLE: &str = "UNCLIP_KERNELS";

/// A family of instructions that this process may use.
///
/// Paths are ordered, slowest first.
///
/// ```
/// use unclip_kernels::cpu::Path;
///
/// let path = Path::best();
/// assert!(Path::available().any(|available| available == path));
/// assert_eq!(Path::named("portable").map(Path::name), Ok("portable"));
/// assert!(Path::named("abacus").is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Isa);

/// Which instructions a [`Path`] stands for, slowest first.
///
/// Each implies those in front of it, except that `Portable` means what the compiler makes of plain Rust (NEON on
/// 64-bit ARM, SSE2 on x86-64).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Isa {
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with dot products of bf16 pairs.
    Avx512Bf16,
    /// AVX-512 with bf16, and AMX tiles with bf16 products.
    Amx,
}

/// A path was named that does not exist or that this machine cannot run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a path of this machine, expected one of {expected}")]
pub struct UnavailablePath {
    /// The name given.
    pub found: String,
    /// The names that would do, fastest first.
    pub expected: String,
}

impl Path {
    /// Every path this process may use, slowest first; never empty.
    pub fn available() -> impl Iterator<Item = Self> {
        let best = Self::best().0;
        [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16, Isa::Amx]
            .into_iter()
            .filter(move |isa| *isa <= best)
            .map(Self)
    }

    /// The fastest path. Detection runs once, and on Linux asks the kernel for the right to use AMX tiles.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        Self(*BEST.get_or_init(detect))
    }

    /// The path called `amx`, `avx512bf16`, `avx512`, `avx2` or `portable`.
    ///
    /// # Errors
    ///
    /// [`UnavailablePath`] for any other name, and for a path that this machine cannot run.
    pub fn named(name: &str) -> Result<Self, UnavailablePath> {
        Self::available().find(|path| path.name() == name).ok_or_else(|| {
            let mut names: Vec<_> = Self::available().map(Self::name).collect();
            names.reverse();
            UnavailablePath { found: name.to_owned(), expected: names.join(", ") }
        })
    }

    /// The path that the variable `UNCLIP_KERNELS` names, or the fastest where it is unset or empty.
    ///
    /// # Errors
    ///
    /// [`UnavailablePath`] when the variable names none of this machine's.
    pub fn from_environment() -> Result<Self, UnavailablePath> {
        match env::var(PATH_VARIABLE) {
            Ok(name) if !name.is_empty() => Self::named(&name),
            Ok(_) | Err(env::VarError::NotPresent) => Ok(Self::best()),
            Err(env::VarError::NotUnicode(name)) => Self::named(&name.to_string_lossy()),
        }
    }

    /// [`from_environment`](Self::from_environment), read once a process, and the fastest path where that fails.
    pub fn chosen() -> Self {
        static CHOSEN: OnceLock<Path> = OnceLock::new();
        *CHOSEN.get_or_init(|| Self::from_environment().unwrap_or_else(|_| Self::best()))
    }

    /// The name that [`named`](Self::named) takes.
    pub fn name(self) -> &'static str {
        match self.0 {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
        }
    }

    /// Whether the processor multiplies bf16 itself, so that 16-bit weights also make products faster.
    pub fn multiplies_bf16(self) -> bool {
        self.0 >= Isa::Avx512Bf16
    }

    pub(crate) fn isa(self) -> Isa {
        self.0
    }

    /// Runs `work` compiled for this path's vectors.
    ///
    /// What is inlined into `work` (mark it `#[inline(always)]`) may be vectorised with the path's instructions; what
    /// is called out of line is not.
    #[inline(always)]
    pub fn vectorize<T>(self, work: impl FnOnce() -> T) -> T {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma")]
            fn avx2<T>(work: impl FnOnce() -> T) -> T {
                work()
            }
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512<T>(work: impl FnOnce() -> T) -> T {
                work()
            }
            match self.0 {
                Isa::Portable => work(),
                // SAFETY: a path above `Portable` exists only where `detect` found AVX2 and FMA.
                Isa::Avx2 => unsafe { avx2(work) },
                // SAFETY: a path from `Avx512` on exists only where `detect` found these AVX-512 subsets.
                Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => unsafe { avx512(work) },
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        work()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    Isa::Portable
}

/// The fastest family that the processor has and the system has switched on.
#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
        return Isa::Portable;
    }
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    if !avx512 {
        return Isa::Avx2;
    }
    if !is_x86_feature_detected!("avx512bf16") {
        return Isa::Avx512;
    }
    if crate::amx::available() { Isa::Amx } else { Isa::Avx512Bf16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_path_is_found_by_its_name() {
        for path in Path::available() {
            assert_eq!(Path::named(path.name()), Ok(path));
        }
    }

    #[test]
    fn the_fastest_path_is_the_last_one_available() {
        assert_eq!(Path::available().last(), Some(Path::best()));
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_names_that_would_do() {
        let error = Path::named("abacus").expect_err("no such path");
        assert_eq!(error.found, "abacus");
        assert!(error.expected.ends_with("portable"), "{error}");
    }

    #[test]
    fn vectorized_work_returns_its_result() {
        for path in Path::available() {
            assert_eq!(path.vectorize(|| [1.0f32; 64].iter().sum::<f32>()), 64.0, "{path}");
        }
    }
}
