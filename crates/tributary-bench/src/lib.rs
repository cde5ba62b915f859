//! The benchmark: generates data from a seed and sends a random mix of requests to a server by
//! HTTP. It checks answers during the run, and reports latencies and throughput.
//!
//! The crate `tributary-cli` has its command line.

pub mod ceiling;
mod check;
mod client;
pub mod demo;
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
mod tokens;
mod words;
mod worker;
mod world;

pub use self::client::get;
pub use self::drive::{LoadPlan, drive};
pub use self::engine::{EnginePlan, engine};
pub use self::mix::Mix;
pub use self::plot::plot;
pub use self::ratio::ratio;
pub use self::tokens::UserTokens;
pub use self::world::{World, WorldSize};
