//! The regime of a figure: how its subject works. What a figure is worth depends on it.

use anyhow::Result;
use serde_json::Value;
use vxdp_lab::Place;

use crate::subject::Kind;

/// Names and values, in the order in which they are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Regime(Vec<(String, String)>);

impl Regime {
    /// With one more.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.0.push((key.to_owned(), value.into()));
    }

    /// What `vxdp status --json` says of the engine of a fast mode.
    pub fn set_engine(&mut self, kind: Kind, status: &Value) {
        let engine = &status["modes"]["engine"];
        let device = &engine["devices"][0];
        self.set("hook", device["regime"].as_str().unwrap_or("none"));
        // The in-kernel engine has neither sockets nor workers.
        if kind == Kind::Xdp {
            self.set("af_xdp", if device["zero_copy"] == true { "zero-copy" } else { "copy" });
            self.set("workers", engine["workers"].to_string());
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        self.0.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", ")
    }
}

/// Those features of a container's device on which TCP depends, as far as they are on.
pub fn offloads(container: &Place, device: &str) -> Result<String> {
    let text = container.exec(["ethtool", "-k", device])?;
    let on = |feature: &str| text.lines().any(|line| line.starts_with(&format!("{feature}: on")));
    let features = [
        ("tx-checksumming", "tx"),
        ("tcp-segmentation-offload", "tso"),
        ("generic-segmentation-offload", "gso"),
        ("generic-receive-offload", "gro"),
    ];
    let on = features.into_iter().filter(|(feature, _)| on(feature)).map(|(_, short)| short);
    let on = on.collect::<Vec<_>>();
    Ok(if on.is_empty() { "none".to_owned() } else { on.join(" ") })
}
