//! Intel AMX: eight tile registers of 16 rows × 64 bytes, and an instruction that multiplies two of them.
//!
//! The intrinsics are not stable, so the few instructions needed are inline assembly: [`tile`] loads the tile
//! configuration, [`permission`] asks the system for the state they live in.

mod permission;
mod tile;

pub(crate) use permission::available;
pub(crate) use tile::Tiles;
