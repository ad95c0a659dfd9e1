//! A session: subjects standing side by side, measured in turns (A B A B), and what is known of them so far.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cpu;
use crate::figure::{Figure, Sample, median};
use crate::generator::{self, Pace};
use crate::measure::{Case, Measurement};
use crate::report::progress::Progress;
use crate::rig::{Rig, Traffic, Trial};
use crate::search::{Outcome, Search};
use crate::subject::{Kind, Subject};
use crate::turns::{self, Named};
use crate::wire::Wire;

/// How thoroughly to measure.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How frames are made: `throughput` tries each, the others take the first that will do.
    pub generators: Vec<generator::Kind>,
    /// Inner frame lengths in bytes.
    pub frames: Vec<usize>,
    /// Numbers of flows.
    pub flows: Vec<u32>,
    /// Numbers of rows that `scale` tries.
    pub rows: Vec<u32>,
    /// Numbers of overlays that `scale` tries.
    pub vnis: Vec<u32>,
    /// Repetitions of everything.
    pub rounds: u32,
    /// Length of one trial.
    pub trial: Duration,
    /// How no-drop rates are searched.
    pub search: Search,
}

impl Settings {
    /// Searches the no-drop rate between the ends of `rig`; with it the trial that overloaded the path.
    pub fn search_with(&self, rig: &mut Rig) -> Result<(f64, Trial)> {
        let overload = rig.trial(Pace::Flat, self.trial)?;
        // Under the fullest load a path can be slowed down without a loss: nothing to search then.
        if overload.loss() <= self.search.tolerance {
            return Ok((overload.received_rate(), overload));
        }
        let rate = self.search.run(overload.sent_rate(), |rate| {
            let trial = rig.trial(Pace::Rate(rate), self.trial)?;
            Ok(Outcome { sent_rate: trial.sent_rate(), loss: trial.loss() })
        })?;
        Ok((rate, overload))
    }
}

/// The subjects, and what is known of them.
pub struct Session {
    /// How thoroughly to measure.
    pub settings: Settings,
    /// What is measured.
    pub subjects: Vec<Subject>,
    wire: Wire,
    dataplane: String,
    no_drop: NoDropRates,
}

/// What is known of the subjects' no-drop rates.
#[derive(Debug, Clone, Default)]
pub struct NoDropRates(BTreeMap<(&'static str, Traffic), Vec<f64>>);

impl NoDropRates {
    /// One was found.
    pub fn note(&mut self, kind: Kind, traffic: Traffic, rate: f64) {
        self.0.entry((kind.as_str(), traffic)).or_default().push(rate);
    }

    /// The median of those found.
    pub fn median(&self, kind: Kind, traffic: Traffic) -> Option<f64> {
        self.0.get(&(kind.as_str(), traffic)).map(|rates| median(rates))
    }
}

impl Session {
    /// Builds every subject; `dataplane` are more lines for the `[dataplane]` section of modes of vxdp.
    pub fn build(kinds: &[Kind], dataplane: &str, settings: Settings) -> Result<Self> {
        let mut subjects = Vec::new();
        for kind in kinds {
            let built = kind.build(dataplane, 1);
            subjects.push(built.with_context(|| format!("while building `{}`", kind.as_str()))?);
        }
        let (wire, dataplane) = (Wire::build(settings.trial)?, dataplane.to_owned());
        Ok(Self { settings, subjects, wire, dataplane, no_drop: NoDropRates::default() })
    }

    /// Runs `measurement` in turns.
    pub fn run(&mut self, measurement: Measurement, progress: &mut Progress) -> Result<Vec<Figure>> {
        let named = |subject: &Subject| Named { kind: subject.kind, regime: subject.regime.line() };
        let (settings, subjects) =
            (self.settings.clone(), self.subjects.iter().map(named).collect::<Vec<_>>());
        turns::run(measurement, &settings, &subjects, progress, |index, case| {
            self.measure(measurement, index, case)
        })
    }

    /// Measures one case, and looks whether the frames took the path that is meant to be measured.
    fn measure(&mut self, measurement: Measurement, index: usize, case: &Case) -> Result<Vec<Sample>> {
        self.wake(index)?;
        let before = self.subjects[index].carried()?;
        let mut samples = measurement.run(self, index, case)?;
        // What fails over is meant to take the other path.
        if let (Some(before), false) = (before, matches!(case, Case::Event(_))) {
            let stray = self.subjects[index].stray(&before)?;
            for sample in samples.iter_mut().filter(|_| stray.is_some()) {
                sample.note = sample.note.take().or_else(|| stray.clone());
            }
        }
        self.pause()?;
        Ok(samples)
    }

    /// More lines for `[dataplane]`, as in every configuration.
    pub fn dataplane(&self) -> &str {
        &self.dataplane
    }

    /// Every calibration so far.
    pub fn calibrations(&self) -> &BTreeMap<Traffic, f64> {
        self.wire.calibrations()
    }

    /// A trial of generator and sink with nothing in between.
    pub fn calibrated_trial(&self, traffic: Traffic, pace: Pace, duration: Duration) -> Result<Trial> {
        self.pause()?;
        self.wire.trial(traffic, pace, duration)
    }

    /// Lets no subject take processor time while it carries nothing.
    fn pause(&self) -> Result<()> {
        self.subjects.iter().try_for_each(Subject::pause)
    }

    /// Processors that are busy while nothing is measured.
    pub fn strange_work(&self) -> Result<f64> {
        const LOOK: Duration = Duration::from_millis(200);
        self.pause()?;
        let moment = cpu::Moment::now()?;
        std::thread::sleep(LOOK);
        Ok(moment.busy()?.as_secs_f64() / LOOK.as_secs_f64())
    }

    /// Lets subject number `index` carry, and no other; its tables know both containers then.
    pub fn wake(&self, index: usize) -> Result<()> {
        self.pause()?;
        self.subjects[index].resume()?;
        self.subjects[index].warm_up()
    }

    /// A rig on subject number `index`, whose tables know both containers.
    pub fn rig(&self, index: usize, traffic: Traffic) -> Result<Rig> {
        self.wake(index)?;
        Rig::open(&self.subjects[index], traffic)
    }

    /// Searches the no-drop rate of a subject and remembers it; with it the trial that overloaded the path.
    pub fn search(&mut self, index: usize, traffic: Traffic) -> Result<(f64, Trial)> {
        let mut rig = self.rig(index, traffic)?;
        let (rate, overload) = self.settings.search_with(&mut rig)?;
        self.no_drop.note(self.subjects[index].kind, traffic, rate);
        Ok((rate, overload))
    }

    /// The no-drop rate of a subject: the median of what is known, or else searched now.
    pub fn no_drop_rate(&mut self, index: usize, traffic: Traffic) -> Result<f64> {
        match self.no_drop.median(self.subjects[index].kind, traffic) {
            Some(rate) => Ok(rate),
            None => Ok(self.search(index, traffic)?.0),
        }
    }

    /// The lowest no-drop rate of all subjects.
    pub fn lowest_no_drop_rate(&mut self, traffic: Traffic) -> Result<f64> {
        let mut lowest = f64::INFINITY;
        for index in 0..self.subjects.len() {
            lowest = lowest.min(self.no_drop_rate(index, traffic)?);
        }
        Ok(lowest)
    }

    /// What has to be said about a figure of `rate` frames per second, if the generator is what limits it.
    pub fn bottleneck(&mut self, traffic: Traffic, rate: f64) -> Result<Option<String>> {
        self.pause()?;
        self.wire.bottleneck(traffic, rate)
    }
}
