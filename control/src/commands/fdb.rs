//! `vxdp fdb`: shows, adds and deletes rows through the daemon.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::api::status::{Fdb, Origin, RowStatus, Table as Rows};
use crate::api::{Request, Station, client};
use crate::cli::{FdbArgs, FdbCommand};

use super::table::{Table, ago};

/// Shows or changes rows.
///
/// # Errors
/// When no daemon answers, or it refuses.
pub fn fdb(args: &FdbArgs) -> anyhow::Result<()> {
    match &args.command {
        FdbCommand::Show { vni, mac, daemon, output } => {
            let request = Request::FdbShow { vni: vni.map(|vni| vni.get()), macs: mac.clone() };
            let fdb: Fdb = client::ask(&daemon.socket()?, &request)?;
            print(&if output.json { serde_json::to_string_pretty(&fdb)? } else { screen(&fdb) })
        }
        FdbCommand::Add { mac, segment, vtep, address, daemon, output } => {
            let (vni, port) = (segment.vni.get(), segment.port);
            let station = Station { vni, port, mac: *mac, vtep: *vtep, addresses: address.clone() };
            let done = json!({ "added": station });
            change(&daemon.socket()?, &Request::FdbAdd(station), output.json, &done)
        }
        FdbCommand::Del { mac, segment, daemon, output } => {
            let (vni, port) = (segment.vni.get(), segment.port);
            let done = json!({ "deleted": { "vni": vni, "mac": mac.to_string() } });
            change(&daemon.socket()?, &Request::FdbDel { vni, port, mac: *mac }, output.json, &done)
        }
    }
}

fn change(socket: &Path, request: &Request, json: bool, done: &Value) -> anyhow::Result<()> {
    let _: Value = client::ask(socket, request)?;
    if json { print(&serde_json::to_string_pretty(done)?) } else { Ok(()) }
}

fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        // `| head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn screen(fdb: &Fdb) -> String {
    let mut table = Table::new(["VNI", "TABLE", "MAC", "WHERE", "STATE", "USED", "ORIGIN"]);
    for row in &fdb.rows {
        table.row([
            row.vni.to_string(),
            table_word(row.table).to_owned(),
            row.mac.clone().unwrap_or_default(),
            place(row),
            row.state.clone(),
            row.used_s.map(ago).unwrap_or_default(),
            origin_word(row.origin).to_owned(),
        ]);
    }
    let mut text = table.to_string();
    if fdb.more > 0 {
        text.push_str(&format!("\n… and {} more; name those you mean with --mac", fdb.more));
    }
    text
}

fn place(row: &RowStatus) -> String {
    match (row.address, row.vtep, &row.device) {
        (Some(address), ..) => address.to_string(),
        (None, Some(vtep), _) => vtep.to_string(),
        (None, None, Some(device)) => device.clone(),
        (None, None, None) => String::new(),
    }
}

fn table_word(table: Rows) -> &'static str {
    match table {
        Rows::Vxlan => "vxlan",
        Rows::Bridge => "bridge",
        Rows::Neighbour => "neigh",
    }
}

fn origin_word(origin: Origin) -> &'static str {
    match origin {
        Origin::Static => "static",
        Origin::OnMiss => "on-miss",
        Origin::Added => "added",
        Origin::Learned => "learned",
        Origin::Kernel => "kernel",
        Origin::Foreign => "foreign",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_screen_has_80_columns() {
        let row = RowStatus {
            vni: 16_777_215,
            udp_port: 4789,
            table: Rows::Bridge,
            mac: Some("02:42:0a:00:00:03".into()),
            address: None,
            vtep: Some([192, 168, 110, 222].into()),
            device: Some("vxlan1".into()),
            state: "permanent".into(),
            origin: Origin::OnMiss,
            used_s: Some(3599),
            updated_s: None,
        };
        let text = screen(&Fdb { rows: vec![row], more: 7 });
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        for word in ["192.168.110.222", "on-miss", "59m59s", "7 more"] {
            assert!(text.contains(word), "{word}\n{text}");
        }
    }
}
