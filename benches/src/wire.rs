//! The plain wire: what generator and sink can do with nothing in between.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::generator::Pace;
use crate::rig::{Rig, Traffic, Trial};
use crate::subject::{Kind, Subject};

/// A generator that reaches less than this multiple of a path's rate is what limits it.
const BOTTLENECK: f64 = 1.1;

/// A veth pair between two containers, and what was measured on it.
#[derive(Debug)]
pub struct Wire {
    subject: Subject,
    trial: Duration,
    rates: BTreeMap<Traffic, f64>,
}

impl Wire {
    /// Builds it, to be measured in trials of this length.
    pub fn build(trial: Duration) -> Result<Self> {
        let subject = Kind::None.build("", 1).context("while building the calibration's wire")?;
        Ok(Self { subject, trial, rates: BTreeMap::new() })
    }

    /// What the generator can do into the sink, frames per second.
    pub fn calibration(&mut self, traffic: Traffic) -> Result<f64> {
        if let Some(rate) = self.rates.get(&traffic) {
            return Ok(*rate);
        }
        let rate = self.trial(traffic, Pace::Flat, self.trial)?.received_rate();
        self.rates.insert(traffic, rate);
        Ok(rate)
    }

    /// Every calibration so far.
    pub fn calibrations(&self) -> &BTreeMap<Traffic, f64> {
        &self.rates
    }

    /// A trial of generator and sink.
    pub fn trial(&self, traffic: Traffic, pace: Pace, duration: Duration) -> Result<Trial> {
        Rig::open(&self.subject, traffic)?.trial(pace, duration)
    }

    /// What has to be said about a figure of `rate` frames per second, if the generator is what limits it.
    pub fn bottleneck(&mut self, traffic: Traffic, rate: f64) -> Result<Option<String>> {
        let generator = self.calibration(traffic)?;
        Ok((rate * BOTTLENECK > generator).then(|| "the generator was the bottleneck".to_owned()))
    }
}
