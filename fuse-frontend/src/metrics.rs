//! `lanefs mount --metrics`: the figures of a mount for Prometheus, as OpenMetrics text.
//!
//! Every metric is a line of [`table`], which says what it is called and where it comes from: a
//! place in the report that `lanefs status --json` prints. So the two cannot disagree, and
//! there is one list for users (`docs/metrics.md`, which a test compares with a scrape).

use std::sync::Weak;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use serde_json::Value;

use self::table::{From, Kind, METRICS, Metric};
use crate::control::Status;

pub mod server;
pub mod table;

/// The metrics of a mount, as text. `None` when the mount is ending.
#[must_use]
pub fn exposition(status: &Weak<Status>) -> Option<String> {
    let status = status.upgrade()?;
    let report = serde_json::to_value(status.report()).expect("a report is plain data");
    drop(status);
    let mount_point = report["mount_point"].as_str().unwrap_or("?").to_owned();
    let labels = [("mount_point".into(), mount_point.into())];
    let mut registry = Registry::with_labels(labels.into_iter());
    registry.register_collector(Box::new(Figures(report)));
    let mut text = String::new();
    text::encode(&mut text, &registry).ok()?;
    Some(text)
}

/// A report that is about to be shown.
#[derive(Debug)]
struct Figures(Value);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        METRICS.iter().try_for_each(|metric| self.encode_metric(metric, &mut encoder))
    }
}

impl Figures {
    fn encode_metric(
        &self,
        metric: &Metric,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let values = self.values(metric);
        if values.is_empty() {
            // A mount without a log has no figures of one.
            return Ok(());
        }
        let (name, kind) = match metric.kind {
            // The format adds it to each sample.
            Kind::Counter => (metric.name.trim_end_matches("_total"), MetricType::Counter),
            Kind::Gauge => (metric.name, MetricType::Gauge),
        };
        // It ends the help with a full stop.
        let help = metric.help.trim_end_matches('.');
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for (label, value) in values {
            let labels: Vec<_> = metric.label.zip(label).into_iter().collect();
            let mut sample = family.encode_family(&labels)?;
            match metric.kind {
                Kind::Counter => {
                    let none = None::<&prometheus_client::metrics::exemplar::Exemplar<Labels, f64>>;
                    // Counts are whole; JSON has them as such.
                    sample.encode_counter(&(value as u64), none)?;
                }
                Kind::Gauge => sample.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    /// The samples of a metric: the value of its label, and the figure.
    fn values(&self, metric: &Metric) -> Vec<(Option<String>, f64)> {
        let number = |at: &str| self.0.pointer(at).and_then(as_number);
        let alone = |value: Option<f64>| value.map(|value| (None, value)).into_iter().collect();
        match metric.from {
            From::Place(at, scale) => alone(number(at).map(|value| value * scale)),
            From::Is(at, text) => {
                alone(self.0.pointer(at).map(|value| f64::from(u8::from(value == text))))
            }
            From::Text(at) => {
                let text = self.0.pointer(at).and_then(Value::as_str);
                text.map(|text| (Some(text.to_owned()), 1.0)).into_iter().collect()
            }
            From::Each(at) => {
                let entries = self.0.pointer(at).and_then(Value::as_object).into_iter().flatten();
                let sample = |(name, value): (&String, &Value)| {
                    Some((Some(name.clone()), as_number(value)?))
                };
                entries.filter_map(sample).collect()
            }
            From::Places(places, scale) => {
                let sample = |(label, at): &(&str, &str)| {
                    Some((Some((*label).to_owned()), number(at)? * scale))
                };
                places.iter().filter_map(sample).collect()
            }
        }
    }
}

type Labels = Vec<(&'static str, String)>;

fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
        value => value.as_f64(),
    }
}
