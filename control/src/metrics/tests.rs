//! Holds the list, its document, the dashboard and Prometheus' conventions together; what health promises.

use std::collections::BTreeSet;

use super::*;
use crate::api::example;
use crate::api::status::ErrorStatus;
use crate::engine::pilot::OverlayMode;

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

/// A daemon whose one overlay was asked into `asked` and is in `mode`.
fn status(asked: Mode, mode: Mode) -> Status {
    let mut status = example::status(0);
    status.modes.overlays = vec![OverlayMode {
        vni: 42,
        port: 4789,
        asked,
        mode,
        asked_engine: crate::config::Engine::Auto,
        engine: crate::engine::Kind::Userspace,
        why: None,
    }];
    status
}

#[test]
fn health_is_what_was_asked_for_by_name() {
    for (asked, mode) in [
        (Mode::Kernel, Mode::Kernel),
        (Mode::Auto, Mode::Kernel),
        (Mode::Auto, Mode::Xdp),
        (Mode::Xdp, Mode::Xdp),
    ] {
        assert_eq!(health(&status(asked, mode)), Ok(()), "{asked:?} {mode:?}");
    }
    let mut missing = status(Mode::Xdp, Mode::Kernel);
    assert_eq!(health(&missing), Err("overlay 42 is not in xdp mode: it is starting".to_owned()));
    missing.modes.trouble = Some("no device eth0".to_owned());
    assert_eq!(health(&missing), Err("overlay 42 is not in xdp mode: no device eth0".to_owned()));
}

#[test]
fn an_overlay_that_cannot_be_put_right_is_no_health_and_the_latest_error_says_why() {
    let mut failing = status(Mode::Auto, Mode::Kernel);
    failing.reconcile.failures = 1;
    failing.errors = vec![ErrorStatus { message: "br0 is no bridge".to_owned(), count: 3, age_s: 0 }];
    let told = health(&failing).expect_err("failing");
    assert!(told.ends_with("br0 is no bridge"), "{told}");
}

#[tokio::test]
async fn a_main_loop_that_does_not_answer_is_no_health() {
    let (calls, _nobody_answers) = mpsc::channel(1);
    let endpoint = Endpoint::new(([127, 0, 0, 1], 0).into(), calls);
    let told = endpoint.latest().await.expect_err("no answer");
    assert_eq!(told, "the main loop has not answered for 3s");
}
