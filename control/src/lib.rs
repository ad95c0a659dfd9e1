//! Configuration, kernel overlay over rtnetlink, daemon, API: everything around the dataplane that may wait.
#![forbid(unsafe_code)]

pub mod api;
pub mod capability;
pub mod capture;
mod causes;
pub mod cli;
pub mod commands;
pub mod config;
pub mod container;
pub mod daemon;
pub mod doctor;
pub mod engine;
mod genl;
pub mod kernel;
pub mod metrics;
pub mod mirror;
pub mod misses;
pub mod model;
pub mod netns;
pub mod offload;
pub mod preflight;
pub mod reach;
mod room;
pub mod segment;
pub mod watch;
pub mod xdp;
