//! `vxdp mode`: changes what carries known unicast, while traffic flows.

use std::io::{self, Write as _};

use crate::api::{Request, client};
use crate::cli::ModeArgs;
use crate::config::Mode;
use crate::engine::pilot::ModeReport;

/// Asks the daemon to change the mode, and shows what came of it.
///
/// # Errors
/// When no daemon answers, or xdp mode cannot be had; then nothing has changed.
pub fn mode(args: &ModeArgs) -> anyhow::Result<()> {
    let request = Request::Mode { vni: args.vni.map(|vni| vni.get()), mode: args.mode, engine: args.engine };
    let report: ModeReport = client::ask(&args.daemon.socket()?, &request)?;
    let mut text = if args.output.json { serde_json::to_string_pretty(&report)? } else { lines(&report) };
    text.push('\n');
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn lines(report: &ModeReport) -> String {
    let line = |overlay: &crate::engine::pilot::OverlayMode| {
        let by = match (overlay.mode, &overlay.why) {
            (Mode::Xdp, Some(why)) => format!(" ({} engine, because {why})", overlay.engine.as_str()),
            (Mode::Xdp, None) => format!(" ({} engine)", overlay.engine.as_str()),
            _ => String::new(),
        };
        format!("overlay {} on port {}: {}{by}", overlay.vni, overlay.port, overlay.mode)
    };
    let mut lines: Vec<String> = report.overlays.iter().map(line).collect();
    lines.extend(report.trouble.as_ref().map(|trouble| format!("no xdp mode: {trouble}")));
    lines.join("\n")
}
