//! All integration tests, in one binary: real databases, real HTTP, real processes.
//!
//! `./dev test` finds or installs the database servers and passes their paths in the environment.

#![expect(clippy::unwrap_used, reason = "an unexpected error fails the test")]

mod access;
mod admin;
mod adopted;
mod adopted_writes;
mod backup;
mod bench;
mod browser;
mod budget;
mod caching;
mod check;
mod clients;
mod coherence;
mod cold;
mod commands;
mod conformance;
mod congress;
mod definitions;
mod described;
mod doubts;
mod erasure;
mod examples;
mod explain;
mod export;
mod faults;
mod feed;
mod fills;
mod flight;
mod future;
mod fuzz;
mod graph;
mod http;
mod http_writes;
mod import;
mod layers;
mod limits;
mod live;
mod memory;
mod metrics;
mod migrate;
mod missing;
mod news;
mod outages;
mod overload;
mod packaging;
mod pages;
mod posts;
mod prose;
mod proxies;
mod references;
mod releases;
mod reload;
mod rows;
mod servers;
mod settings;
mod streams;
mod supply;
mod support;
mod tasks;
mod tidy;
mod tls;
mod visible;
mod writes;
