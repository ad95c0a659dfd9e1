//! A status as Prometheus text.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::list::{Form, METRICS, Metric, Values};
use crate::api::status::Status;

/// The two forms that Prometheus reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0, which Prometheus asks for.
    OpenMetrics,
    /// The older text format, which everything reads.
    Classic,
}

impl Format {
    /// The form that the `Accept` header of a request asks for.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Classic }
    }

    /// The `Content-Type` of an answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

#[derive(Debug)]
struct Figures(Status);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        METRICS.iter().try_for_each(|metric| write(&mut encoder, metric, &self.0))
    }
}

fn write(encoder: &mut DescriptorEncoder<'_>, metric: &Metric, status: &Status) -> std::fmt::Result {
    let mut values = Values::default();
    (metric.read)(status, &mut values);
    if values.0.is_empty() {
        return Ok(());
    }
    // The encoder puts the suffix of a counter behind the name itself.
    let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
    let form = match metric.form {
        Form::Counter => MetricType::Counter,
        Form::Gauge => MetricType::Gauge,
    };
    let mut family = encoder.encode_descriptor(name, metric.meaning, None, form)?;
    for (labels, value) in values.0 {
        let labels: Vec<(&str, String)> = metric.labels.iter().copied().zip(labels).collect();
        let mut sample = family.encode_family(&labels)?;
        match metric.form {
            Form::Counter => sample.encode_counter::<NoLabelSet, u64, u64>(&value, None)?,
            Form::Gauge => sample.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))?,
        }
    }
    Ok(())
}

/// Everything that `status` says in figures.
pub fn render(status: Status, format: Format) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures(status)));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = text::encode(&mut text, &registry);
    match format {
        Format::OpenMetrics => text,
        Format::Classic => classic(&text),
    }
}

/// OpenMetrics names a counter's family without `_total`, the older format with it.
fn classic(text: &str) -> String {
    let counter = |line: &str| {
        let name = line.strip_prefix("# TYPE ")?.strip_suffix(" counter")?;
        Some(format!("# TYPE {name}_total counter\n"))
    };
    let mut out = String::with_capacity(text.len());
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
            continue;
        }
        if line.starts_with("# TYPE ") {
            let typed = counter(line);
            let suffix = if typed.is_some() { "_total" } else { "" };
            if let Some((name, words)) = help.take() {
                out.push_str(&format!("# HELP {name}{suffix} {words}\n"));
            }
            out.push_str(&typed.unwrap_or_else(|| format!("{line}\n")));
        } else if line != "# EOF" {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}
