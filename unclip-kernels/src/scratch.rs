//! Buffers that a thread keeps from one task to the next.

use std::cell::RefCell;

use half::bf16;

use crate::{
    aligned::Aligned,
    gemm::{CTile, Compute},
};

/// What one task needs besides its operands; each thread has one and lends it to task after task.
#[derive(Debug)]
pub(crate) struct Scratch<S> {
    /// The staged input of a tile.
    pub(crate) staged: Aligned<S>,
    /// A second staged operand, where a task has two.
    pub(crate) gradient: Aligned<S>,
    /// Staged values on their way to their final order.
    pub(crate) rows: Aligned<S>,
    /// Sums on their way to the output.
    pub(crate) sums: Vec<CTile>,
    /// What all tasks of an operation read, while the thread that began it waits for them.
    pub(crate) shared: Aligned<S>,
}

impl<S: Compute> Scratch<S> {
    const fn new() -> Self {
        Self {
            staged: Aligned::new(),
            gradient: Aligned::new(),
            rows: Aligned::new(),
            sums: Vec::new(),
            shared: Aligned::new(),
        }
    }
}

/// A type for which every thread has its [`Scratch`].
pub(crate) trait Scratched: Sized {
    /// Lends this thread's scratch to `work`, which must not ask for it again.
    fn with_scratch<T>(work: impl FnOnce(&mut Scratch<Self>) -> T) -> T;
}

macro_rules! scratched {
    ($element:ty, $name:ident) => {
        thread_local! {
            static $name: RefCell<Scratch<$element>> = const { RefCell::new(Scratch::new()) };
        }

        impl Scratched for $element {
            fn with_scratch<T>(work: impl FnOnce(&mut Scratch<Self>) -> T) -> T {
                $name.with_borrow_mut(work)
            }
        }
    };
}

scratched!(f32, F32);
scratched!(bf16, BF16);

/// `count` tiles of sums, zero or left from earlier.
pub(crate) fn tiles(values: &mut Vec<CTile>, count: usize) -> &mut [CTile] {
    if values.len() < count {
        values.resize(count, CTile::ZERO);
    }
    &mut values[..count]
}
