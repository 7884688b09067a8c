//! Memory for results, and what the allocator does with it when it is given back.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{aligned::huge_pages, element::Element, parallel::for_each_chunk};

/// Whether [`keep_freed`] was asked for, and answered.
static KEPT: AtomicBool = AtomicBool::new(false);

/// `len` zeros.
///
/// New memory comes zeroed from the system, page by page as it is first written to; large pages are asked for. What was
/// [kept](keep_freed) has to be cleared, which takes a twentieth of a training step on one thread; so all threads do it.
pub fn zeros<T: Element>(len: usize) -> Vec<T> {
    /// What a thread clears at once, and what is left to one.
    const BYTES: usize = 1 << 18;
    if !is_kept() || len.saturating_mul(size_of::<T>()) < 2 * BYTES {
        let values = bytemuck::zeroed_vec(len);
        huge_pages(&values);
        return values;
    }
    let mut values = Vec::with_capacity(len);
    let room = &mut values.spare_capacity_mut()[..len];
    for_each_chunk(room, BYTES / size_of::<T>(), |_, room| {
        room.fill(std::mem::MaybeUninit::new(T::default()));
    });
    // SAFETY: the vector has room for `len` values, and each was just written.
    unsafe { values.set_len(len) };
    values
}

/// Asks the C library to keep memory that is freed for what is allocated next, and says whether it will.
///
/// By default glibc hands blocks of some megabytes back to the system at once, and gets them anew, page by page and zeroed,
/// for the next tensor of the same size. Training allocates the same tensors step after step, so that a program spends up
/// to a fifth of its time on that; results outside of a graph lie in [rooms](crate::room) whatever is said here. What the process
/// has held at its peak it then holds to its end: good for training and for small models, while Karlo with all of its stages in
/// memory took 9.4 GiB in place of 7.1 before there were rooms.
///
/// It concerns the whole process and belongs at the start of a program's `main`; a library leaves it alone. Elsewhere than
/// on Linux with glibc it does nothing, as it does for a program with an allocator of its own.
pub fn keep_freed() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// What the heap grows by at least, so that it seldom has to.
        const GROWTH: libc::c_int = 64 << 20;
        let settings = [
            // One heap for all threads: with a heap for each, what one has freed is of no use to the others.
            (libc::M_ARENA_MAX, 1),
            (libc::M_MMAP_MAX, 0),
            (libc::M_TRIM_THRESHOLD, libc::c_int::MAX),
            (libc::M_TOP_PAD, GROWTH),
        ];
        // SAFETY: `mallopt` takes two numbers, touches no memory of ours, and locks the allocator while it changes it.
        let kept =
            settings.iter().all(|&(setting, value)| unsafe { libc::mallopt(setting, value) } == 1);
        KEPT.store(kept, Ordering::Relaxed);
        kept
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

/// Whether memory is [kept](keep_freed), in one heap whatever thread it was allocated on.
pub fn is_kept() -> bool {
    KEPT.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_kept_where_the_library_can() {
        let kept = keep_freed();
        assert_eq!((kept, is_kept()), (cfg!(all(target_os = "linux", target_env = "gnu")), kept));
        // What was given back is cleared.
        for len in [0, 1, 100, (1 << 20) + 3] {
            for _ in 0..2 {
                let mut values = zeros::<f32>(len);
                assert!(values.len() == len && values.iter().all(|&value| value == 0.0), "{len}");
                values.fill(1.0);
            }
        }
        // Whatever was said, large blocks are still to be had, zeroed.
        for _ in 0..3 {
            assert!(vec![0u8; 100 << 20].iter().step_by(4096).all(|&byte| byte == 0));
        }
    }
}
