//! Carries out what the model decided, one job at a time: the only one who writes to the kernel.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use vxdp_dataplane::wire::MacAddr;

use super::desired::{self, Found};
use super::places::Worked;
use super::rows;
use super::watches::Watches;
use crate::causes::chain;
use crate::config::{Config, Overlay};
use crate::engine::pilot::Pilot;
use crate::kernel::desired::Row;
use crate::kernel::{Kernel, Note};
use crate::misses::Answer;
use crate::model::{Client, Event, Noticed, Outcome, SeenRow};
use crate::netns::Netns;
use crate::segment::Segment;

/// Something to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Make the kernel as it should be.
    Reconcile(Arc<Config>, Vec<(Segment, Vec<Row>)>),
    /// Answer misses.
    Install(Segment, Vec<Answer>),
    /// Add rows for a client.
    Write(Client, Segment, Vec<Row>),
    /// Remove rows for a client.
    Remove(Client, Segment, Vec<Row>),
    /// Remove what the kernel learned about a MAC for a client.
    Forget(Client, Segment, MacAddr),
    /// Read rows for a client, of these MACs or of all.
    Show(Client, Vec<Segment>, Vec<MacAddr>),
}

/// Who carries it out.
pub(crate) struct Worker {
    kernel: Kernel,
    host: Netns,
    config: Arc<Config>,
    watches: Watches,
    pilot: Arc<Pilot>,
    worked: watch::Sender<Worked>,
    events: mpsc::Sender<Event>,
}

impl Worker {
    /// Works in `host`; what happens is reported to `events`.
    pub(crate) fn new(
        kernel: Kernel,
        pilot: Arc<Pilot>,
        host: Netns,
        config: Arc<Config>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let watches = Watches::new(events.clone());
        let (worked, _) = watch::channel((Arc::clone(&config), Default::default()));
        Self { kernel, host, config, watches, pilot, worked, events }
    }

    /// Where the namespaces of the latest reconciliation can be read.
    pub(crate) fn worked(&self) -> watch::Receiver<Worked> {
        self.worked.subscribe()
    }

    /// Works until there will be no more jobs, then gives the kernel back.
    pub(crate) async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) -> Kernel {
        while let Some(job) = jobs.recv().await {
            let event = self.carry_out(job).await;
            if self.events.send(event).await.is_err() {
                break;
            }
        }
        self.kernel
    }

    async fn carry_out(&mut self, job: Job) -> Event {
        match job {
            Job::Reconcile(config, rows) => {
                self.config = config;
                Event::Reconciled(self.reconcile(&rows).await)
            }
            Job::Install(segment, answers) => {
                let rows: Vec<Row> = answers.iter().flat_map(Answer::rows).collect();
                let error = self.install(segment, &rows).await.err();
                Event::Installed { segment, answers, error }
            }
            Job::Write(client, segment, rows) => Event::Written(client, self.install(segment, &rows).await),
            Job::Remove(client, segment, rows) => Event::Written(client, self.remove(segment, &rows).await),
            Job::Forget(client, segment, mac) => Event::Written(client, self.forget(segment, mac).await),
            Job::Show(client, segments, macs) => Event::Shown(client, self.show(&segments, &macs).await),
        }
    }

    /// One pass over everything.
    pub(crate) async fn reconcile(&mut self, rows: &[(Segment, Vec<Row>)]) -> Outcome {
        let config = Arc::clone(&self.config);
        self.watches.let_go(&config).await;
        self.pilot.make_way().await;
        let found = match desired::find(&self.host, &config, rows).await {
            Ok(found) => found,
            Err(error) => return Outcome { error: Some(error.to_string()), ..Outcome::default() },
        };
        let Found { desired, away, warnings, mut places } = found;
        let mut outcome = Outcome {
            underlay_mtu: Some(desired.underlay.mtu),
            away: away.into_iter().map(|(port, error)| (port, error.to_string())).collect(),
            warnings: warnings.iter().map(ToString::to_string).collect(),
            ..Outcome::default()
        };
        match self.kernel.reconcile(&desired).await {
            Ok(report) => {
                outcome.done = report.steps.iter().map(ToString::to_string).collect();
                outcome.warnings.extend(report.notes.iter().map(Note::to_string));
            }
            Err(error) => outcome.error = Some(chain(&error)),
        }
        // It keeps the containers' namespaces alive, and with them their veths.
        drop(desired);
        if outcome.error.is_none() {
            match self.watches.follow(&self.host, &config) {
                // What happened before we listened was heard by nobody.
                Ok(true) => self.look_again(),
                Ok(false) => {}
                Err(error) => outcome.error = Some(format!("cannot listen to the kernel: {error}")),
            }
        }
        if outcome.error.is_none() {
            self.pilot.built(&config).await;
        }
        places.note_overlays(&config);
        self.worked.send_replace((config, places));
        outcome
    }

    fn look_again(&self) {
        // With a full queue there is something else to look at anyway, and the audit follows in any case.
        let _ = self.events.try_send(Event::Noticed(Noticed { links: true, ..Noticed::default() }));
    }

    fn overlay(&self, segment: Segment) -> Result<Overlay, String> {
        let found = self.config.overlays.iter().find(|overlay| Segment::of(overlay) == segment);
        found.cloned().ok_or_else(|| format!("{segment} is not configured any more"))
    }

    async fn install(&mut self, segment: Segment, rows: &[Row]) -> Result<(), String> {
        let overlay = self.overlay(segment)?;
        self.kernel.install(&overlay, rows).await.map(drop).map_err(|error| chain(&error))
    }

    async fn remove(&mut self, segment: Segment, rows: &[Row]) -> Result<(), String> {
        let overlay = self.overlay(segment)?;
        self.kernel.remove_rows(&overlay, rows).await.map(drop).map_err(|error| chain(&error))
    }

    async fn forget(&mut self, segment: Segment, mac: MacAddr) -> Result<(), String> {
        let learned = rows::learned(&self.overlay(segment)?, mac).await?;
        self.remove(segment, &learned).await
    }

    async fn show(&mut self, segments: &[Segment], macs: &[MacAddr]) -> Result<Vec<SeenRow>, String> {
        let macs: Vec<_> = macs.iter().map(ToString::to_string).collect();
        let wanted =
            |(row, _): &SeenRow| macs.is_empty() || row.mac.as_ref().is_some_and(|mac| macs.contains(mac));
        let overlays: Vec<_> =
            segments.iter().map(|segment| self.overlay(*segment)).collect::<Result<_, _>>()?;
        let mut seen = rows::read(&overlays).await.map_err(|error| error.to_string())?;
        seen.retain(wanted);
        Ok(seen)
    }
}
