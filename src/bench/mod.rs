//! The benchmark: generates data from a seed and sends a random mix of requests to a server by
//! HTTP. It checks answers during the run, and reports latencies and throughput.
//!
//! `commands/bench.rs` defines its commands.

pub(crate) mod ceiling;
mod check;
mod client;
mod drive;
mod engine;
mod freshness;
mod known;
mod mix;
mod page;
mod plot;
mod probe;
mod process;
mod ratio;
mod record;
mod report;
mod schedule;
mod words;
mod worker;
mod world;

pub(crate) use self::drive::{LoadPlan, drive};
pub(crate) use self::engine::{EnginePlan, engine};
pub(crate) use self::mix::Mix;
pub(crate) use self::plot::plot;
pub(crate) use self::ratio::ratio;
pub(crate) use self::world::{World, WorldSize};
