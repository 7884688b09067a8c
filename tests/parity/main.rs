//! Replays every recorded set of the reference, stage by stage and as whole runs.
//!
//! The sets lie under `tests/fixtures` (`make_fixtures.py` there says how they are made) and in the folder that
//! `UNCLIP_FIXTURES` names: a new set is a folder and no code. `UNCLIP_TEST_SET` names the one that is replayed, where it
//! is set. `UNCLIP_TEST_DEVICE` names the device, whose feature has to be on; other devices than the default have bounds
//! ten times wider. Each test prints a table of the largest absolute error beside the error floor of the reference's own
//! 32-bit run.

mod common;
mod decoder;
mod image_encoder;
mod image_processor;
mod interop;
mod noise;
mod precision;
mod prior;
mod replay;
mod report;
mod resize;
mod runs;
mod scheduler;
mod seeds;
mod super_res;
mod text_encoder;
mod text_proj;
mod tokenizer;
