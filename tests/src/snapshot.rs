//! What somebody configured on a host, for comparing before with after.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::host::Host;
use crate::place::Place;

impl Host {
    /// Links, addresses and permanent rows of the host and of all its namespaces, in lines.
    ///
    /// What the kernel makes by itself and at its own pace is left out: learned rows, link-local addresses,
    /// operational states.
    pub fn snapshot(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let names = self.netns_names()?;
        describe(self.place(), &mut lines)?;
        for name in names {
            lines.push(format!("namespace {name}"));
            describe(&self.netns(&name), &mut lines)?;
        }
        Ok(lines)
    }
}

fn describe(place: &Place, lines: &mut Vec<String>) -> Result<()> {
    let mut found = Vec::new();
    for link in rows(place, &["ip", "-json", "address"])? {
        found.push(fields(&link, "link", &["ifindex", "ifname", "address", "mtu", "master"]));
        for address in link["addr_info"].as_array().into_iter().flatten() {
            if address["scope"] != "link" {
                let name = link["ifname"].as_str().unwrap_or_default();
                found.push(fields(address, &format!("address {name}"), &["local", "prefixlen"]));
            }
        }
    }
    for row in rows(place, &["bridge", "-json", "fdb"])? {
        if row["state"] == "permanent" || row["state"] == "static" {
            found.push(fields(&row, "fdb", &["ifname", "mac", "dst", "vni", "port", "master", "state"]));
        }
    }
    for row in rows(place, &["ip", "-json", "neighbour", "show", "nud", "permanent"])? {
        found.push(fields(&row, "neighbour", &["dev", "dst", "lladdr"]));
    }
    found.sort();
    lines.extend(found.into_iter().map(|line| format!("{}: {line}", place.label())));
    Ok(())
}

fn rows(place: &Place, words: &[&str]) -> Result<Vec<Value>> {
    let Value::Array(rows) = place.json(words)? else {
        return Err(anyhow::anyhow!("not a list")).with_context(|| words.join(" "));
    };
    Ok(rows)
}

fn fields(row: &Value, what: &str, names: &[&str]) -> String {
    let shown = names.iter().filter(|name| !row[**name].is_null());
    shown.fold(what.to_owned(), |line, name| format!("{line} {name} {}", row[*name]))
}
