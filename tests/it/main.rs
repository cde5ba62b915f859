//! All integration tests, in one binary: real databases, real HTTP, real processes.
//!
//! `./dev test` finds or installs the databases and says where they are in the environment.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod adopted;
mod check;
mod commands;
mod conformance;
mod congress;
mod faults;
mod http;
mod missing;
mod outages;
mod packaging;
mod rows;
mod servers;
mod support;
mod tidy;
