//! Intel AMX: eight tile registers of 16 rows × 64 bytes, and an instruction that multiplies two of them.
//!
//! [`permission`] asks the system for the state they live in.

mod permission;

pub(crate) use permission::available;
