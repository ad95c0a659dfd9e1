//! Holds the list, its document, the dashboard and Prometheus' conventions together.

use std::collections::BTreeSet;

use super::{Form, METRICS};

const DOCUMENT: &str = include_str!("../../../docs/counters.md");
const DASHBOARD: &str = include_str!("../../../packaging/grafana-dashboard.json");

#[test]
fn the_document_lists_every_metric_in_order_and_no_other() {
    let section =
        DOCUMENT.split("\n## ").find(|section| section.starts_with("Metrics\n")).expect("a section");
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<_> = METRICS
        .iter()
        .map(|metric| {
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            format!("| `{}` | {} | {} |", metric.name, labels.join(" "), metric.meaning)
        })
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn a_counter_ends_in_total_and_nothing_else_does() {
    for metric in METRICS {
        assert_eq!(metric.name.ends_with("_total"), metric.form == Form::Counter, "{}", metric.name);
    }
}

#[test]
fn no_two_metrics_have_one_name() {
    assert_eq!(METRICS.iter().map(|metric| metric.name).collect::<BTreeSet<_>>().len(), METRICS.len());
}

/// Every query of the dashboard.
fn queries(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    serde_json::Value::String(text) if name == "expr" || name == "query" => {
                        found.push(text.clone());
                    }
                    value => queries(value, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| queries(value, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_asks_for_nothing_that_does_not_exist() {
    let dashboard = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut found = Vec::new();
    queries(&dashboard, &mut found);
    let words: BTreeSet<&str> = found
        .iter()
        .flat_map(|query| query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .filter(|word| word.starts_with("vxdp_"))
        .collect();
    assert!(words.len() >= 10, "{words:?}");
    for word in words {
        assert!(METRICS.iter().any(|metric| metric.name == word), "there is no {word}");
    }
}
