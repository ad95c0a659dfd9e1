//! What a reader needs for understanding why a test failed in a lab.

use std::fmt::Write;
use std::time::Duration;

use crate::host::Host;
use crate::place::Place;

/// Links with counters, addresses, neighbours, forwarding tables and protocol counters, in this order.
const LOOKS: [&[&str]; 6] = [
    &["ip", "-details", "-statistics", "link"],
    &["ip", "-brief", "address"],
    &["ip", "neighbour"],
    &["bridge", "-statistics", "fdb"],
    &["ip", "route"],
    &["nstat", "--noupdate", "--ignore"],
];

/// The state of `host`, of each of its namespaces, and the end of its daemon's log.
pub(crate) fn of_host(host: &Host) -> String {
    let mut text = format!("\n======== {} ========\n", host.name());
    look(&mut text, host.place());
    for name in host.netns_names().unwrap_or_default() {
        look(&mut text, &host.netns(&name));
    }
    if let Ok(log) = std::fs::read_to_string(host.daemon_log()) {
        let _ = writeln!(text, "---- log of vxdp on {} ----\n{log}", host.name());
    }
    text
}

fn look(text: &mut String, place: &Place) {
    for words in LOOKS {
        let _ = writeln!(text, "---- {}: {} ----", place.label(), words.join(" "));
        // A report is for reading: where a look fails, its error is what there is to read.
        match place.run(words, Duration::from_secs(5)) {
            Ok(outcome) => text.extend([outcome.stdout, outcome.stderr]),
            Err(error) => {
                let _ = writeln!(text, "{error:#}");
            }
        }
    }
}
