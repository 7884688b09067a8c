//! Memory that becomes a tensor where it is.

#[cfg(any(feature = "flex", test))]
use burn::tensor::AllocationProperty;
use burn::tensor::{Bytes, Element};
use bytemuck::Pod;

/// Values that become a tensor without a copy.
pub(crate) trait IntoBytes {
    type Value: Element;

    fn into_bytes(self) -> Bytes;
}

impl<E: Element> IntoBytes for Vec<E> {
    type Value = E;

    fn into_bytes(self) -> Bytes {
        Bytes::from_elems(self)
    }
}

#[cfg(any(feature = "flex", test))]
impl<E: Element + Pod> IntoBytes for Room<E> {
    type Value = E;

    fn into_bytes(self) -> Bytes {
        Bytes::from_shared(bytes::Bytes::from_owner(self), AllocationProperty::Other)
    }
}

/// Where values are read to that become a tensor of any backend: where there are kernels, memory of theirs, which the packed
/// weights can take over.
#[cfg(any(feature = "flex", test))]
pub(crate) use unclip_kernels::room::Room;

#[cfg(not(any(feature = "flex", test)))]
pub(crate) type Room<E> = Vec<E>;

/// Room for `len` values, or none where memory does not suffice. What is in it is not defined, but for being values.
#[cfg(any(feature = "flex", test))]
pub(crate) fn room<E: Pod>(len: usize) -> Option<Room<E>> {
    Room::try_new(len)
}

/// As with kernels.
#[cfg(not(any(feature = "flex", test)))]
pub(crate) fn room<E: Pod>(len: usize) -> Option<Room<E>> {
    bytemuck::allocation::try_zeroed_vec(len).ok()
}
