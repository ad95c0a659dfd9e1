//! Configuration, kernel overlay over rtnetlink, daemon, API: everything around the dataplane that may wait.
#![forbid(unsafe_code)]

pub mod config;
pub mod container;
pub mod kernel;
pub mod mirror;
pub mod netns;
pub mod watch;
