//! A session: subjects standing side by side, measured in turns (A B A B), and what is known of them so far.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cpu;
use crate::figure::{Figure, Sample, median};
use crate::generator::{self, Pace};
use crate::measure::{Case, Measurement};
use crate::report::progress::Progress;
use crate::rig::{Rig, Traffic, Trial};
use crate::search::{Outcome, Search};
use crate::subject::{Kind, Subject};

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
    /// The plain wire, for calibration.
    wire: Subject,
    dataplane: String,
    calibrations: BTreeMap<Traffic, f64>,
    no_drop: BTreeMap<(&'static str, Traffic), Vec<f64>>,
}

/// A generator that reaches less than this multiple of a path's rate is what limits it.
const BOTTLENECK: f64 = 1.1;

impl Session {
    /// Builds every subject; `dataplane` are more lines for the `[dataplane]` section of modes of vxdp.
    pub fn build(kinds: &[Kind], dataplane: &str, settings: Settings) -> Result<Self> {
        let mut subjects = Vec::new();
        for kind in kinds {
            let built = kind.build(dataplane, 1);
            subjects.push(built.with_context(|| format!("while building `{}`", kind.as_str()))?);
        }
        let wire = Kind::None.build("", 1).context("while building the calibration's wire")?;
        let dataplane = dataplane.to_owned();
        Ok(Self {
            settings,
            subjects,
            wire,
            dataplane,
            calibrations: BTreeMap::new(),
            no_drop: BTreeMap::new(),
        })
    }

    /// Runs `measurement`: every case, every subject in turn, as often as the settings say.
    pub fn run(&mut self, measurement: Measurement, progress: &mut Progress) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        let cases = measurement.cases(&self.settings);
        for _ in 0..self.settings.rounds {
            for case in &cases {
                for index in 0..self.subjects.len() {
                    let name = self.subjects[index].kind.as_str();
                    if vxdp_lab::interrupted() {
                        bail!("interrupted");
                    }
                    if !Measurement::applies(case, self.subjects[index].kind) {
                        progress.leave_out();
                        continue;
                    }
                    progress.begin(measurement, name, case);
                    let samples = self.measure(measurement, index, case).with_context(|| {
                        format!("{} of {name}, {}", measurement.as_str(), case.conditions().line())
                    })?;
                    progress.end(&samples);
                    collect(&mut figures, measurement, &self.subjects[index], case, samples);
                }
            }
        }
        Ok(figures)
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

    /// What the generator can do into the sink with nothing in between, frames per second.
    pub fn calibration(&mut self, traffic: Traffic) -> Result<f64> {
        if let Some(rate) = self.calibrations.get(&traffic) {
            return Ok(*rate);
        }
        self.pause()?;
        let mut rig = Rig::open(&self.wire, traffic)?;
        let rate = rig.trial(Pace::Flat, self.settings.trial)?.received_rate();
        self.calibrations.insert(traffic, rate);
        Ok(rate)
    }

    /// More lines for `[dataplane]`, as in every configuration.
    pub fn dataplane(&self) -> &str {
        &self.dataplane
    }

    /// Every calibration so far.
    pub fn calibrations(&self) -> &BTreeMap<Traffic, f64> {
        &self.calibrations
    }

    /// A trial of generator and sink with nothing in between.
    pub fn calibrated_trial(&self, traffic: Traffic, pace: Pace, duration: Duration) -> Result<Trial> {
        self.pause()?;
        Rig::open(&self.wire, traffic)?.trial(pace, duration)
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
        self.no_drop.entry((self.subjects[index].kind.as_str(), traffic)).or_default().push(rate);
        Ok((rate, overload))
    }

    /// The no-drop rate of a subject: the median of what is known, or else searched now.
    pub fn no_drop_rate(&mut self, index: usize, traffic: Traffic) -> Result<f64> {
        let key = (self.subjects[index].kind.as_str(), traffic);
        if !self.no_drop.contains_key(&key) {
            self.search(index, traffic)?;
        }
        Ok(median(&self.no_drop[&key]))
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
        let generator = self.calibration(traffic)?;
        Ok((rate * BOTTLENECK > generator).then(|| "the generator was the bottleneck".to_owned()))
    }
}

/// Puts samples with their repetitions.
fn collect(
    figures: &mut Vec<Figure>,
    measurement: Measurement,
    subject: &Subject,
    case: &Case,
    samples: Vec<Sample>,
) {
    for sample in samples {
        let new = Figure {
            measurement: measurement.as_str().to_owned(),
            metric: sample.metric.to_owned(),
            subject: subject.kind.as_str().to_owned(),
            regime: subject.regime.line(),
            conditions: case.conditions(),
            unit: sample.unit,
            samples: Vec::new(),
            notes: Vec::new(),
            context: sample.context,
        };
        let same = |figure: &Figure| figure.subject == new.subject && figure.compares_with(&new);
        let index = figures.iter().position(same).unwrap_or_else(|| {
            figures.push(new);
            figures.len() - 1
        });
        let figure = &mut figures[index];
        figure.samples.push(sample.value);
        if let Some(note) = sample.note.filter(|note| !figure.notes.contains(note)) {
            figure.notes.push(note);
        }
    }
}
